//! Shares as JSON numbers of per cent: exact, as they are written in the file.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::control::status::page::percentage;
use crate::model::share::{Share, ShareError};

/// Per cent, 0 to 100, with at most three decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percentage(pub(super) Share);

impl Percentage {
    /// Thousandths of a per cent of all keys.
    pub(super) fn of(thousandths: u32) -> Self {
        Self(Share::from_thousandths(thousandths).unwrap_or(Share::WHOLE))
    }
}

impl Serialize for Percentage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        percentage(self.0).serialize(serializer)
    }
}

/// The share that a number of per cent is, exactly.
///
/// # Errors
/// It is out of range, or has more than three decimals.
pub(super) fn share(number: f64) -> Result<Share, ShareError> {
    // `Display` writes no exponent; -0 is 0.
    let text = if number == 0.0 { "0".to_owned() } else { number.to_string() };
    Share::parse(&text)
}

impl PartialSchema for Percentage {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0)).maximum(Some(100));
        number.description(Some("Per cent, with at most three decimals.")).into()
    }
}

impl ToSchema for Percentage {
    fn name() -> Cow<'static, str> {
        "Percentage".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_written_as_it_is_in_the_file_and_read_back() {
        let read = |text: &str| share(serde_json::from_str(text).unwrap()).map(Percentage);
        for text in ["0", "100", "12.5", "0.001", "33.333", "99.999", "1.1"] {
            assert_eq!(serde_json::to_string(&read(text).unwrap()).unwrap(), text);
        }
        for (text, same) in [("-0.0", "0"), ("1e1", "10"), ("10.000", "10"), ("5e-1", "0.5")] {
            assert_eq!(serde_json::to_string(&read(text).unwrap()).unwrap(), same);
        }
        for bad in ["100.001", "0.0001", "-1", "1e300", "5e-324"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
