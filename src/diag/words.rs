//! Words of messages: names that were probably meant, and texts in quotes.

/// A text within a message: in backquotes, shortened where it is long.
pub fn quoted(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

/// The name that was probably meant, if any is near enough.
pub fn nearest<'n>(found: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // Longer texts are no slips of the pen, and comparing takes the product of the lengths.
    const LONGEST: usize = 100;
    const MOST_NAMES: usize = 1000;
    if found.len() > LONGEST {
        return None;
    }
    let lower = found.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&lower, &name.to_lowercase());
    let near =
        names.take(MOST_NAMES).map(|name| (distance(name), name)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, name)| *distance <= 1 + name.chars().count().min(found.len()) / 4)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_another_word_is_not() {
        let names = ["percentage", "version_id", "id"];
        for (found, near) in [("percentge", "percentage"), ("versionid", "version_id"), ("ID", "id")] {
            assert_eq!(nearest(found, names.into_iter()), Some(near), "{found}");
        }
        for found in ["weight", "", "cookie"] {
            assert_eq!(nearest(found, names.into_iter()), None, "{found}");
        }
    }

    #[test]
    fn long_texts_are_shortened_in_messages() {
        assert_eq!(quoted("a"), "`a`");
        assert_eq!(quoted(&"é".repeat(100)).chars().count(), 83);
    }
}
