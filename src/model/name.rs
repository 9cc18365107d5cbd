//! Names that other people's scripts, headers and metrics carry: each is valid by construction.

use std::fmt;

/// The name of an application behind the proxy: a structured-field key, at most 63 bytes.
///
/// RFC 8941 section 3.1.2 keys are `[a-z*][a-z0-9_.*-]*`; a worker of any other name could never be named in
/// `Cloudflare-Workers-Version-Overrides`, and such a name would invalidate the whole field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerName(Box<str>);

impl WorkerName {
    /// The longest name, in bytes.
    pub const MAX_LENGTH: usize = 63;

    /// A worker's name from its text.
    ///
    /// # Errors
    /// [`NameError`] says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_length(text, Self::MAX_LENGTH)?;
        for (at, c) in text.char_indices() {
            let good = match c {
                'a'..='z' | '*' => true,
                '0'..='9' | '_' | '.' | '-' => at > 0,
                _ => false,
            };
            if !good {
                return Err(NameError::Character { at, found: c });
            }
        }
        Ok(Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The identity of a version: 1 to 64 visible ASCII characters without `"`, `\`, `,` and `@`.
///
/// Safe as it stands in a header value, a metric label, a TOML string and a `<id>@<percentage>` specification.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionId(Box<str>);

impl VersionId {
    /// The longest id, in bytes.
    pub const MAX_LENGTH: usize = 64;

    /// A version's id from its text.
    ///
    /// # Errors
    /// [`NameError`] says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_length(text, Self::MAX_LENGTH)?;
        let bad = |c: &char| !c.is_ascii_graphic() || matches!(c, '"' | '\\' | ',' | '@');
        match text.char_indices().find(|(_, c)| bad(c)) {
            Some((at, found)) => Err(NameError::Character { at, found }),
            None => Ok(Self(text.into())),
        }
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the id has the form of a UUID, which nobody outside guesses.
    pub fn is_uuid(&self) -> bool {
        self.0.len() == 36
            && self.0.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
    }
}

/// A version's tag: 1 to 100 printable ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(Box<str>);

impl Tag {
    /// The longest tag, in bytes.
    pub const MAX_LENGTH: usize = 100;

    /// A tag from its text.
    ///
    /// # Errors
    /// [`NameError`] says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_length(text, Self::MAX_LENGTH)?;
        match text.char_indices().find(|(_, c)| !matches!(c, ' '..='~')) {
            Some((at, found)) => Err(NameError::Character { at, found }),
            None => Ok(Self(text.into())),
        }
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// There is no text.
    Empty,
    /// The text has more bytes than `most`.
    TooLong {
        /// The longest that is allowed, in bytes.
        most: usize,
    },
    /// A character is not allowed where it stands.
    Character {
        /// The byte at which it stands.
        at: usize,
        /// The character.
        found: char,
    },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong { most } => write!(f, "it is longer than {most} bytes"),
            Self::Character { at, found } => write!(f, "{found:?} is not allowed at byte {at}"),
        }
    }
}

impl std::error::Error for NameError {}

fn check_length(text: &str, most: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        length if length > most => Err(NameError::TooLong { most }),
        _ => Ok(()),
    }
}

macro_rules! display_as_str {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
display_as_str!(WorkerName, VersionId, Tag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_name_is_a_structured_field_key() {
        for good in ["a", "*", "my-worker", "a.b_c*1", &"x".repeat(63)] {
            assert!(WorkerName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "A", "my worker", "é", &"x".repeat(64)] {
            assert!(WorkerName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_version_id_is_safe_in_headers_labels_and_specs() {
        for good in ["v1", "db7cd8d3-4425-4fe7-8c81-01bf963b6067", "~!#$%&'()*+-./:;<=>?[]^_`{|}"] {
            assert!(VersionId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a,b", "a@b", "a\"", "a\\", "é", "a\n", &"x".repeat(65)] {
            assert!(VersionId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_form_of_a_uuid_is_a_uuid() {
        assert!(VersionId::new("db7cd8d3-4425-4fe7-8c81-01bf963b6067").unwrap().is_uuid());
        assert!(!VersionId::new("v1").unwrap().is_uuid());
    }
}
