//! A record as one line of JSON, appended to a buffer without allocating anything else.

use std::io::Write;
use std::time::Duration;

use super::{Record, VersionRef};

/// Appends the record's line and its line feed.
pub(super) fn append(line: &mut Vec<u8>, record: &Record<'_>) {
    line.extend_from_slice(b"{\"EventTimestampMs\":");
    number(line, record.timestamp_ms);
    line.extend_from_slice(b",\"EventType\":\"fetch\",\"Outcome\":\"");
    line.extend_from_slice(record.outcome.as_str().as_bytes());
    line.push(b'"');
    text(line, "ScriptName", record.worker);
    version(line, record.version);
    event(line, record);
    wall_time(line, record.wall_time);
    text(line, "Reason", record.reason);
    text(line, "Override", record.overridden);
    text(line, "Upstream", record.upstream);
    text(line, "Error", record.error);
    client(line, record);
    line.extend_from_slice(b",\"RequestBytes\":");
    number(line, record.request_bytes);
    line.extend_from_slice(b",\"ResponseBytes\":");
    number(line, record.response_bytes);
    line.extend_from_slice(b"}\n");
}

fn version(line: &mut Vec<u8>, version: Option<VersionRef<'_>>) {
    line.extend_from_slice(b",\"ScriptVersion\":");
    let Some(version) = version else {
        line.extend_from_slice(b"null");
        return;
    };
    line.extend_from_slice(b"{\"id\":\"");
    escaped(line, version.id);
    line.push(b'"');
    for (name, value) in [("message", version.message), ("tag", version.tag)] {
        if value.is_some() {
            text(line, name, value);
        }
    }
    line.push(b'}');
}

fn event(line: &mut Vec<u8>, record: &Record<'_>) {
    line.extend_from_slice(b",\"Event\":{\"RayID\":\"");
    hexadecimal(line, record.ray);
    line.extend_from_slice(b"\",\"Request\":{\"URL\":\"");
    escaped(line, record.scheme);
    line.extend_from_slice(b"://");
    for chunk in record.authority.utf8_chunks() {
        escaped(line, chunk.valid());
        if !chunk.invalid().is_empty() {
            line.extend_from_slice(b"\\ufffd");
        }
    }
    escaped(line, record.target);
    line.push(b'"');
    text(line, "Method", Some(record.method));
    line.extend_from_slice(b"},\"Response\":{\"Status\":");
    number(line, record.status.into());
    line.extend_from_slice(b"}}");
}

fn wall_time(line: &mut Vec<u8>, time: Duration) {
    line.extend_from_slice(b",\"WallTimeMs\":");
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    number(line, micros / 1000);
    if !micros.is_multiple_of(1000) {
        let digits = [micros / 100 % 10, micros / 10 % 10, micros % 10];
        line.push(b'.');
        for digit in digits {
            number(line, digit);
        }
    }
}

fn client(line: &mut Vec<u8>, record: &Record<'_>) {
    line.extend_from_slice(b",\"ClientIP\":");
    match record.client {
        // Writing to a vector cannot fail, and an address has nothing to escape.
        Some(address) => drop(write!(line, "\"{}\"", address.to_canonical())),
        None => line.extend_from_slice(b"null"),
    }
}

/// A further member of an object: a string, or null.
fn text(line: &mut Vec<u8>, name: &str, value: Option<&str>) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\":");
    let Some(value) = value else {
        line.extend_from_slice(b"null");
        return;
    };
    line.push(b'"');
    escaped(line, value);
    line.push(b'"');
}

/// The inside of a JSON string. RFC 8259 section 7 asks for `"`, `\` and the control characters below U+0020 to be
/// escaped; DEL is escaped as well, for the sake of terminals.
fn escaped(line: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte < b' ' || matches!(byte, b'"' | b'\\' | 0x7f)) {
        let (clean, special) = (&rest[..at], rest[at]);
        line.extend_from_slice(clean);
        match special {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', special]),
            _ => {
                line.extend_from_slice(b"\\u00");
                line.extend_from_slice(&[digit(special >> 4), digit(special & 15)]);
            }
        }
        rest = &rest[at + 1..];
    }
    line.extend_from_slice(rest);
}

/// A hexadecimal digit of a value below 16.
fn digit(value: u8) -> u8 {
    b"0123456789abcdef"[usize::from(value & 15)]
}

fn hexadecimal(line: &mut Vec<u8>, value: u64) {
    for byte in value.to_be_bytes() {
        line.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
}

/// Decimal digits by hand: the formatting machinery takes several times as long, six times a line.
fn number(line: &mut Vec<u8>, mut value: u64) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = digit(u8::try_from(value % 10).unwrap_or(0));
        value /= 10;
        if value == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut line = Vec::new();
        write(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn numbers_are_written_in_full() {
        for value in [0, 9, 10, 12_345, u64::MAX] {
            assert_eq!(written(|line| number(line, value)), value.to_string());
        }
        assert_eq!(written(|line| hexadecimal(line, 0xabc)), "0000000000000abc");
    }

    #[test]
    fn wall_time_has_three_decimals_or_none() {
        for (micros, text) in [(0, "0"), (12_000, "12"), (1_050, "1.050"), (7, "0.007")] {
            let written = written(|line| wall_time(line, Duration::from_micros(micros)));
            assert_eq!(written, format!(",\"WallTimeMs\":{text}"));
        }
    }

    #[test]
    fn control_characters_quotes_and_backslashes_are_escaped() {
        let written = written(|line| escaped(line, "a\"b\\c\n\u{1}\u{7f}é"));
        assert_eq!(written, "a\\\"b\\\\c\\u000a\\u0001\\u007fé");
    }
}
