//! Parts of a request that its head does not have as such: cookies, arguments, languages, the extension of a path.

use bumpalo::collections::Vec as BumpVec;
use memchr::memchr;

use super::context::Context;
use super::types::Value;
use crate::model::head::{self, parts, trim_ows};

/// The cookies of a `Cookie` line that have a name.
pub(super) fn cookies(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head::cookies(line).filter(|(name, _)| !name.is_empty())
}

/// The arguments of a query: names and values as sent. One without `=` has an empty value.
pub(super) fn args(query: Option<&str>) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = parts(query.unwrap_or_default().as_bytes(), b'&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| match memchr(b'=', pair) {
        Some(equals) => (pair.get(..equals).unwrap_or_default(), pair.get(equals + 1..).unwrap_or_default()),
        None => (pair, &b""[..]),
    })
}

/// What follows the last dot of the path's last segment, in lower case; empty where that dot begins the segment.
pub(super) fn extension<'s>(context: &Context<'s>) -> Option<&'s [u8]> {
    let path = context.facts.path;
    let segment = path.rsplit('/').next().unwrap_or_default();
    match segment.rsplit_once('.') {
        Some((before, extension)) if !before.is_empty() => context.lower_case(extension.as_bytes()),
        _ => Some(b""),
    }
}

/// The language tags of `Accept-Language`, those of most weight first. Neither `*` nor a tag of weight 0 is among them.
/// `None` where that would be too much work.
pub(super) fn languages<'s>(context: &Context<'s>) -> Option<Value<'s>> {
    let (mut tags, mut within) = (BumpVec::new_in(context.bump), true);
    context.facts.lines.each_of("accept-language", &mut |line| {
        for item in parts(line, b',') {
            let mut parameters = parts(item, b';');
            let tag = trim_ows(parameters.next().unwrap_or_default());
            let weight = parameters.find_map(weight).unwrap_or(1000);
            if !tag.is_empty() && tag != b"*" && weight > 0 {
                let tag = (u16::MAX - weight, tags.len(), tag);
                within = within && context.push(&mut tags, tag);
            }
        }
    });
    if !within {
        return None;
    }
    // With the number the order is total, so that a sort without memory of its own keeps that of the request.
    tags.sort_unstable();
    let mut values = context.list(tags.len())?;
    values.extend(tags.iter().map(|&(_, _, tag)| Value::Bytes(tag)));
    Some(context.array(values))
}

/// The weight that a parameter says, in thousandths; `None` for other parameters. One that is no weight (RFC 9110 section
/// 12.4.2) counts as 0.
fn weight(parameter: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', number @ ..] = trim_ows(parameter) else { return None };
    let weight = match number {
        [b'1'] | [b'1', b'.'] => Some(1000),
        [b'1', b'.', zeros @ ..] => {
            (zeros.len() <= 3 && zeros.iter().all(|&digit| digit == b'0')).then_some(1000)
        }
        [b'0'] => Some(0),
        [b'0', b'.', digits @ ..] => thousandths(digits),
        _ => None,
    };
    Some(weight.unwrap_or(0))
}

fn thousandths(digits: &[u8]) -> Option<u16> {
    if digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| digits.get(at).map_or(0, |digit| u16::from(digit - b'0'));
    Some(digit(0) * 100 + digit(1) * 10 + digit(2))
}
