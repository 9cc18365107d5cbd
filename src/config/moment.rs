//! Date-times as moments, so that they can be compared whatever their offsets.

use std::str::FromStr;

use toml::value::{Datetime, Offset};

/// The moment of an RFC 3339 date-time, in nanoseconds since 1970; `None` where the text is none. A leap second is the one after.
pub fn moment(text: &str) -> Option<i128> {
    let Datetime { date: Some(date), time: Some(time), offset: Some(offset) } =
        Datetime::from_str(text).ok()?
    else {
        return None;
    };
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    // Days of the civil calendar: years begin in March, so that leap days are last.
    let (month, year) = (i64::from(date.month), i64::from(date.year) - i64::from(date.month <= 2));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(date.day) - 1;
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = 365 * year + leaps + of_year - 719_468;
    let clock = (i64::from(time.hour) * 60 + i64::from(time.minute) - minutes) * 60;
    let seconds = days * 86_400 + clock + i64::from(time.second.unwrap_or(0));
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(time.nanosecond.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i128 {
        moment(text).unwrap()
    }

    #[test]
    fn times_are_compared_as_moments_and_not_as_texts() {
        let ordered = [
            "2023-12-31T23:59:59Z",
            "2024-01-01T01:00:00+01:00",
            "2024-01-01T00:00:00.5Z",
            "2024-02-28T23:59:59Z",
            "2024-02-29T12:00:00Z",
            "2024-02-29T23:30:00-01:00",
            "2024-03-01T01:00:00Z",
            "2024-12-31T23:59:59Z",
            "2025-01-01T00:00:00Z",
        ];
        assert!(ordered.windows(2).all(|pair| at(pair[0]) < at(pair[1])));
        assert_eq!(at("2024-01-01T01:00:00+01:00"), at("2024-01-01T00:00:00Z"));
        assert_eq!(at("2024-03-01T00:00:00Z") - at("2024-02-29T00:00:00Z"), 86_400_000_000_000);
        assert_eq!(at("2023-03-01T00:00:00Z") - at("2023-02-28T00:00:00Z"), 86_400_000_000_000);
    }
}
