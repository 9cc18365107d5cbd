//! Text that only those know who may do something: the admin token, and what overrides may have to show.

use std::fmt;

use http::HeaderValue;
use subtle::ConstantTimeEq;

/// The shortest secret, in bytes: a shorter one could be guessed.
pub const SHORTEST: usize = 16;
/// The longest secret, in bytes.
pub const LONGEST: usize = 4096;

/// 16 to 4096 visible ASCII characters. Never printed.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// A secret from a file's text; white space around it does not count. `None` where it is no secret.
    pub fn new(text: &[u8]) -> Option<Self> {
        let secret = text.trim_ascii();
        let good = (SHORTEST..=LONGEST).contains(&secret.len()) && secret.iter().all(u8::is_ascii_graphic);
        good.then(|| Self(secret.into()))
    }

    /// As a client shows it: the value of an `Authorization` field (RFC 6750). Never printed either.
    pub fn bearer(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_bytes(&[b"Bearer ", &*self.0].concat()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Whether somebody showed it. The time this takes says nothing about where the two differ.
    pub fn is(&self, shown: &[u8]) -> bool {
        self.0.ct_eq(shown).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_16_to_4096_visible_ascii_characters_after_trimming() {
        for good in ["0123456789abcdef", " 0123456789abcdef\r\n", &"~".repeat(4096)] {
            assert!(Secret::new(good.as_bytes()).is_some(), "{good}");
        }
        for bad in ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdéf", &"x".repeat(4097)] {
            assert!(Secret::new(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn only_the_very_secret_is_the_secret() {
        let secret = Secret::new(b"0123456789abcdef").unwrap();
        assert!(secret.is(b"0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
            assert!(!secret.is(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new(b"0123456789abcdef").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
