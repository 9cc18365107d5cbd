//! What `versions deploy` is told: which versions, and how much of the traffic each.

use crate::cli::failure::Failure;
use crate::diag::quoted;
use crate::model::share::{Share, ShareError};

/// A version and its share, as the command line has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    /// The version.
    pub(crate) named: Named,
    /// Its share; `None` takes a part of what others leave.
    pub(crate) share: Option<Share>,
}

/// How a version is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// By its id, or the beginning of it.
    Id(String),
    /// By its tag.
    Tag(String),
}

/// `<id>`, `<id>@<percentage>` or `<id>@<percentage>%`.
pub(crate) fn positional(text: &str) -> Result<Spec, Failure> {
    let (id, percentage) = text.split_once('@').unwrap_or((text, ""));
    if id.is_empty() || percentage.contains('@') {
        let title = format!("{} is no specification of a version", quoted(text));
        return Err(Failure::usage("bad-spec", title).help(SPEC));
    }
    let share = if percentage.is_empty() { None } else { Some(share(percentage)?) };
    Ok(Spec { named: Named::Id(id.to_owned()), share })
}

/// `<tag>`, `<tag>@<percentage>` or `<tag>@<percentage>%`. A tag may have `@` in it: only what looks like a number behind the
/// last one is a percentage.
pub(crate) fn tagged(text: &str) -> Result<Spec, Failure> {
    let (tag, share) = match text.rsplit_once('@') {
        Some((tag, number)) if looks_numeric(number) => (tag, Some(share(number)?)),
        _ => (text, None),
    };
    if tag.is_empty() {
        return Err(Failure::usage("bad-spec", format!("{} names no tag", quoted(text))).help(SPEC));
    }
    Ok(Spec { named: Named::Tag(tag.to_owned()), share })
}

/// What the options `--version-id` and `--percentage` say together: the first percentage is for the first id, and so on.
pub(crate) fn paired(ids: &[String], percentages: &[String]) -> Result<Vec<Spec>, Failure> {
    let shares = percentages.iter().map(|text| share(text).map(Some)).collect::<Result<Vec<_>, _>>()?;
    if shares.len() > ids.len() {
        let title = format!(
            "--percentage is given {} and --version-id {}: each percentage is for the id at the same place",
            times(percentages.len()),
            times(ids.len())
        );
        return Err(Failure::usage("bad-spec", title).help(SPEC));
    }
    let shares = shares.into_iter().chain(std::iter::repeat(None));
    ids.iter().zip(shares).map(|(id, share)| by_id(id, share)).collect()
}

fn by_id(id: &str, share: Option<Share>) -> Result<Spec, Failure> {
    if id.is_empty() || id.contains('@') {
        let title = format!("{} is no id of a version", quoted(id));
        return Err(Failure::usage("bad-spec", title).help(SPEC));
    }
    Ok(Spec { named: Named::Id(id.to_owned()), share })
}

/// A percentage as people type it: `10`, `12.5`, `.5`, `10%`, `10 %`.
pub(crate) fn share(text: &str) -> Result<Share, Failure> {
    let number = text.trim();
    let number = number.strip_suffix('%').unwrap_or(number).trim_end();
    let whole = if number.starts_with('.') { format!("0{number}") } else { number.to_owned() };
    Share::parse(whole.strip_suffix('.').unwrap_or(&whole)).map_err(|error| {
        let what = quoted(text);
        let title = match error {
            ShareError::NotDecimal => format!("could not parse percentage value {what}"),
            ShareError::OutOfRange => format!("percentage {what} is out of range"),
            ShareError::TooPrecise => format!("percentage {what} has more than three decimal places"),
        };
        Failure::usage("bad-percentage", title).help("a percentage is a number from 0 to 100, such as 12.5")
    })
}

/// Whether what stands behind a tag's last `@` is meant as a percentage, be it a good one or not.
fn looks_numeric(text: &str) -> bool {
    let number = text.strip_suffix('%').unwrap_or(text);
    let digits = number.strip_prefix(['-', '+']).unwrap_or(number);
    digits.bytes().any(|byte| byte.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn times(count: usize) -> String {
    match count {
        0 => "not at all".to_owned(),
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}

const SPEC: &str = "a version is named as `<id>@<percentage>%` or as `--version-tag <tag>@<percentage>%`; without a \
                    percentage it gets an equal part of what the others leave";

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str, thousandths: Option<u32>) -> Spec {
        let share = thousandths.and_then(Share::from_thousandths);
        Spec { named: Named::Id(id.to_owned()), share }
    }

    fn tag(tag: &str, thousandths: Option<u32>) -> Spec {
        Spec { named: Named::Tag(tag.to_owned()), ..id("", thousandths) }
    }

    #[test]
    fn a_version_is_named_by_its_id_with_or_without_a_percentage() {
        for (text, spec) in [
            ("a", id("a", None)),
            ("a@", id("a", None)),
            ("a@10", id("a", Some(10_000))),
            ("a@12.5%", id("a", Some(12_500))),
            ("a@.5%", id("a", Some(500))),
            ("a@5.", id("a", Some(5_000))),
            ("a@0", id("a", Some(0))),
            ("a@ 10 % ", id("a", Some(10_000))),
        ] {
            assert_eq!(positional(text).unwrap(), spec, "{text}");
        }
    }

    #[test]
    fn what_is_no_version_or_no_percentage_is_a_mistake_of_the_command_line() {
        for (text, kind) in [
            ("", "bad-spec"),
            ("@10", "bad-spec"),
            ("a@10@20", "bad-spec"),
            ("a@x", "bad-percentage"),
            ("a@NaN", "bad-percentage"),
            ("a@-1", "bad-percentage"),
            ("a@101", "bad-percentage"),
            ("a@1e1", "bad-percentage"),
            ("a@10abc", "bad-percentage"),
            ("a@0.0001", "bad-percentage"),
            ("a@%", "bad-percentage"),
            ("a@99999999999999999999", "bad-percentage"),
        ] {
            let failure = format!("{:?}", positional(text).unwrap_err());
            assert!(failure.contains(kind) && failure.contains("code: 2"), "{text}: {failure}");
        }
    }

    #[test]
    fn a_tag_may_have_an_at_sign_and_only_a_number_behind_the_last_one_is_a_percentage() {
        for (text, spec) in [
            ("v2", tag("v2", None)),
            ("v2@10%", tag("v2", Some(10_000))),
            ("team@shop", tag("team@shop", None)),
            ("team@shop@25", tag("team@shop", Some(25_000))),
            ("v2@1.2.x", tag("v2@1.2.x", None)),
        ] {
            assert_eq!(tagged(text).unwrap(), spec, "{text}");
        }
        for text in ["v2@-1", "v2@101%", "@10", "v2@1.2.3"] {
            assert!(tagged(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_are_for_the_ids_at_the_same_place() {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let specs = paired(&texts(&["a", "b"]), &texts(&["10"])).unwrap();
        assert_eq!(specs, [id("a", Some(10_000)), id("b", None)]);
        assert!(paired(&texts(&["a"]), &texts(&["10", "90"])).is_err());
        assert!(paired(&[], &texts(&["50"])).is_err());
        assert!(paired(&texts(&["a@10"]), &[]).is_err());
    }
}
