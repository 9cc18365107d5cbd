//! Percent-encoding.

use memchr::memchr2;

use super::context::Context;
use crate::model::percent;

/// How `url_decode` decodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Decoding {
    /// Until nothing is left to decode, or [`MOST_ROUNDS`] are done.
    pub(super) recursive: bool,
    /// `%uXXXX`, too.
    pub(super) unicode: bool,
}

/// How often a recursive decoding decodes: each round reads all of the text, in the same memory.
const MOST_ROUNDS: usize = 16;

/// Whether a text is a key once its percent-encodings are decoded. What is no encoding stands for itself.
pub(super) fn decodes_to(mut text: &[u8], key: &[u8]) -> bool {
    for &expected in key {
        let Some((_, length)) = percent::first(text).filter(|(found, _)| *found == expected) else {
            return false;
        };
        text = text.get(length..).unwrap_or_default();
    }
    text.is_empty()
}

/// The name of a cookie, decoded. `None` where that would be too much work.
pub(super) fn decoded_name<'s>(context: &Context<'s>, name: &'s [u8]) -> Option<&'s [u8]> {
    if !name.contains(&b'%') {
        return Some(name);
    }
    let mut decoded = context.buffer(name.len())?;
    let mut rest = name;
    while let Some((byte, length)) = percent::first(rest) {
        decoded.push(byte);
        rest = rest.get(length..).unwrap_or_default();
    }
    Some(decoded.into_bump_slice())
}

/// A text decoded as forms are: `+` is a space, too. What is no encoding stands for itself. `None` where that would be too
/// much work.
pub(super) fn decode<'s>(context: &Context<'s>, text: &'s [u8], decoding: Decoding) -> Option<&'s [u8]> {
    if memchr2(b'%', b'+', text).is_none() {
        return Some(text);
    }
    let mut decoded = context.buffer(text.len())?;
    decoded.extend_from_slice_copy(text);
    for _ in 0..if decoding.recursive { MOST_ROUNDS } else { 1 } {
        let Some(length) = decode_once(&mut decoded, decoding.unicode) else { break };
        decoded.truncate(length);
    }
    Some(decoded.into_bump_slice())
}

/// Decodes a text where it stands: what an encoding stands for is never longer than the encoding. Gives the new length;
/// `None` where nothing is encoded, and nothing has changed.
fn decode_once(text: &mut [u8], unicode: bool) -> Option<usize> {
    // How far it has been read, and written.
    let (mut from, mut to, mut any) = (0, 0, false);
    while from < text.len() {
        let rest = text.get(from..)?;
        let run = memchr2(b'%', b'+', rest).unwrap_or(rest.len());
        let code = rest.get(run..)?;
        let mut buffer = [0; 4];
        let (plain, length) = match code.first() {
            None => (&b""[..], 0),
            Some(b'+') => (&b" "[..], 1),
            Some(_) => match (percent::encoded(code), unicode.then(|| character(code)).flatten()) {
                (Some(byte), _) => {
                    buffer = [byte, 0, 0, 0];
                    (&buffer[..1], 3)
                }
                (None, Some((c, length))) => (c.encode_utf8(&mut buffer).as_bytes(), length),
                (None, None) => (&b"%"[..], 1),
            },
        };
        any |= length > 1 || plain == b" ";
        text.copy_within(from..from + run, to);
        text.get_mut(to + run..to + run + plain.len())?.copy_from_slice(plain);
        (from, to) = (from + run + length, to + run + plain.len());
    }
    any.then_some(to)
}

/// The character that `%uXXXX` stands for at the beginning of a text, of two such where they are surrogates; and how long
/// they are.
fn character(text: &[u8]) -> Option<(char, usize)> {
    let unit = |text: &[u8]| -> Option<u16> {
        let [b'%', b'u' | b'U', digits @ ..] = text else { return None };
        let digits = digits.get(..4)?;
        digits.iter().try_fold(0, |value: u16, digit| {
            Some(value << 4 | u16::try_from(char::from(*digit).to_digit(16)?).ok()?)
        })
    };
    let first = unit(text)?;
    if let Some(c) = char::from_u32(first.into()) {
        return Some((c, 6));
    }
    let second = unit(text.get(6..)?)?;
    let c = char::decode_utf16([first, second]).next()?.ok()?;
    Some((c, 12))
}
