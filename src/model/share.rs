//! Shares of traffic and positions on the ring: exact integers, no float after parsing.

use std::fmt;

/// Positions on a ring, and thousandths of a per cent in a whole.
pub const POSITIONS: u32 = 100_000;

/// A share of traffic in thousandths of a per cent: 0 to 100,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// No traffic by key or draw.
    pub const ZERO: Self = Self(0);
    /// All traffic.
    pub const WHOLE: Self = Self(POSITIONS);

    /// A share of so many thousandths of a per cent; `None` above 100 %.
    pub fn from_thousandths(thousandths: u32) -> Option<Self> {
        (thousandths <= POSITIONS).then_some(Self(thousandths))
    }

    /// A share from a decimal percentage such as `12.5`: digits, and at most three after a point.
    ///
    /// # Errors
    /// [`ShareError`] says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if text.starts_with('-') && text.len() > 1 {
            return Err(ShareError::OutOfRange);
        }
        if !digits(whole) || !digits(fraction) {
            return Err(ShareError::NotDecimal);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 3 {
            return Err(ShareError::TooPrecise);
        }
        let whole: u32 = whole.parse().map_err(|_| ShareError::OutOfRange)?;
        let fraction: u32 = format!("{fraction:0<3}").parse().map_err(|_| ShareError::NotDecimal)?;
        let thousandths = whole.checked_mul(1000).and_then(|whole| whole.checked_add(fraction));
        thousandths.and_then(Self::from_thousandths).ok_or(ShareError::OutOfRange)
    }

    /// Thousandths of a per cent.
    pub fn thousandths(self) -> u32 {
        self.0
    }

    /// Whether no key and no draw reaches a version of this share.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// Writes the percentage with as few decimals as are exact: `12.5`.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 1000, self.0 % 1000);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{fraction:03}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// Why a text is not a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareError {
    /// Not digits with at most one decimal point.
    NotDecimal,
    /// More than three digits after the point are not zero.
    TooPrecise,
    /// Below 0 or above 100.
    OutOfRange,
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDecimal => "not a decimal number",
            Self::TooPrecise => "more than three digits after the decimal point",
            Self::OutOfRange => "not between 0 and 100",
        })
    }
}

impl std::error::Error for ShareError {}

/// A place on the ring: 0 to 99,999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(u32);

impl Position {
    /// The position of a 64-bit hash or draw: `(hash × 100,000) >> 64`, which keeps equal parts equal to within one
    /// hash value in 2⁶⁴ / 100,000.
    pub fn of(hash: u64) -> Self {
        let scaled = (u128::from(hash) * u128::from(POSITIONS)) >> 64;
        Self(u32::try_from(scaled).unwrap_or(POSITIONS - 1))
    }

    /// The position as a number below 100,000.
    pub fn index(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_exact_decimals_with_at_most_three_digits() {
        for (text, thousandths) in [
            ("0", 0),
            ("100", 100_000),
            ("12.5", 12_500),
            ("0.001", 1),
            ("33.333", 33_333),
            ("10.0000", 10_000),
        ] {
            assert_eq!(Share::parse(text).map(Share::thousandths), Ok(thousandths), "{text}");
        }
        for (text, error) in [
            ("", ShareError::NotDecimal),
            ("1e1", ShareError::NotDecimal),
            ("nan", ShareError::NotDecimal),
            ("5.", ShareError::NotDecimal),
            ("0.0001", ShareError::TooPrecise),
            ("100.001", ShareError::OutOfRange),
            ("-1", ShareError::OutOfRange),
            ("99999999999", ShareError::OutOfRange),
        ] {
            assert_eq!(Share::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_share_is_written_with_as_few_decimals_as_are_exact() {
        for text in ["0", "100", "12.5", "0.001", "33.333"] {
            assert_eq!(Share::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn positions_cover_the_ring_and_nothing_else() {
        assert_eq!(Position::of(0).index(), 0);
        assert_eq!(Position::of(u64::MAX).index(), POSITIONS - 1);
        assert_eq!(Position::of(1 << 63).index(), POSITIONS / 2);
    }
}
