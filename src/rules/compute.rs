//! What the functions compute. A missing first argument gives a missing result, but for `concat`.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bumpalo::collections::Vec as BumpVec;
use memchr::memmem::Finder;

use super::context::{Context, MOST_BYTES};
use super::functions::Function;
use super::json;
use super::patterns::{Pattern, Template};
use super::types::Value;
use super::url;
use crate::model::head::parts;

/// The result of a function for its first argument, and those of the others that are no part of it.
pub(super) fn apply<'s>(
    context: &Context<'s>,
    function: &'s Function,
    first: Value<'s>,
    rest: &'s [Value<'s>],
) -> Value<'s> {
    match (function, first) {
        (Function::Concat, _) => concat(context, first, rest).map_or(Value::Missing, Value::Bytes),
        (Function::ConcatArrays, _) => concat_arrays(context, first, rest),
        (Function::ToString, _) => text(context, first).map_or(Value::Missing, Value::Bytes),
        (Function::Length, Value::Array(elements)) => count(elements.len()),
        (Function::Join, Value::Array(elements)) => {
            join(context, elements, rest).map_or(Value::Missing, Value::Bytes)
        }
        (Function::Cidr { v4, v6 }, Value::Ip(ip)) => Value::Ip(network(ip, *v4, *v6)),
        (_, Value::Bytes(bytes)) => of_text(context, function, bytes, rest).unwrap_or(Value::Missing),
        _ => Value::Missing,
    }
}

fn count(number: usize) -> Value<'static> {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

/// The result of a function whose first argument is text. `None`: it is missing.
fn of_text<'s>(
    context: &Context<'s>,
    function: &'s Function,
    text: &'s [u8],
    rest: &'s [Value<'s>],
) -> Option<Value<'s>> {
    let bytes = match function {
        Function::StartsWith => return Some(Value::Bool(text.starts_with(bytes(rest.first()?)?))),
        Function::EndsWith => return Some(Value::Bool(text.ends_with(bytes(rest.first()?)?))),
        Function::Length => return Some(count(text.len())),
        Function::LookupJsonInteger(keys) => return json::integer(text, keys).map(Value::Int),
        Function::Split { separator, limit } => return split(context, text, separator, *limit),
        Function::Lower => context.lower_case(text)?,
        Function::Upper => context.upper_case(text)?,
        Function::Substring => substring(text, rest)?,
        Function::Replace { pattern, with } => replace(context, text, pattern, with)?,
        Function::UrlDecode(decoding) => url::decode(context, text, *decoding)?,
        Function::RemoveQueryArgs(names) => without_args(context, text, names)?,
        Function::LookupJsonString(keys) => json::string(context, text, keys)?,
        Function::DecodeBase64 => decoded_base64(context, text)?,
        Function::EncodeBase64 { url, padding } => encoded_base64(context, text, *url, *padding)?,
        Function::Sha256 => {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text);
            context.concat(&[digest.as_ref()])?
        }
        Function::UuidV4 => uuid(context, text)?,
        Function::RemoveBytes(unwanted) => without_bytes(context, text, unwanted)?,
        _ => return None,
    };
    Some(Value::Bytes(bytes))
}

fn bytes<'s>(value: &Value<'s>) -> Option<&'s [u8]> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

fn integer(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

/// A scalar as text; `None` where it is missing.
pub(super) fn text<'s>(context: &Context<'s>, value: Value<'s>) -> Option<&'s [u8]> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        Value::Bool(true) => Some(b"true"),
        Value::Bool(false) => Some(b"false"),
        Value::Int(number) => printed(context, format_args!("{number}")),
        Value::Ip(ip) => printed(context, format_args!("{ip}")),
        Value::Missing | Value::Array(_) | Value::Map(_) => None,
    }
}

/// A short text; `None` where that would be too much work.
fn printed<'s>(context: &Context<'s>, text: std::fmt::Arguments<'_>) -> Option<&'s [u8]> {
    // The longest is an IPv6 address of 39 bytes.
    const MOST: usize = 40;
    if !context.may_write(MOST) {
        return None;
    }
    let mut printed = bumpalo::collections::String::with_capacity_in(MOST, context.bump);
    // Writing to memory cannot fail.
    let _ = printed.write_fmt(text);
    Some(printed.into_bump_str().as_bytes())
}

/// The arguments one after the other, a missing one as if it were empty; missing if all are.
fn concat<'s>(context: &Context<'s>, first: Value<'s>, rest: &'s [Value<'s>]) -> Option<&'s [u8]> {
    let all = || std::iter::once(first).chain(rest.iter().copied());
    if all().all(|value| value == Value::Missing) {
        return None;
    }
    let mut joined = BumpVec::new_in(context.bump);
    for value in all() {
        let part = text(context, value).unwrap_or_default();
        append(context, &mut joined, part)?;
    }
    Some(joined.into_bump_slice())
}

/// Appends to a result within its bounds.
fn append(context: &Context<'_>, result: &mut BumpVec<'_, u8>, part: &[u8]) -> Option<()> {
    if result.len() + part.len() > MOST_BYTES || !context.may_write(part.len()) {
        return None;
    }
    result.extend_from_slice_copy(part);
    Some(())
}

/// The elements of all arguments; missing if all are.
fn concat_arrays<'s>(context: &Context<'s>, first: Value<'s>, rest: &'s [Value<'s>]) -> Value<'s> {
    let all = || std::iter::once(first).chain(rest.iter().copied());
    if all().all(|value| value == Value::Missing) {
        return Value::Missing;
    }
    let arrays = || all().filter_map(|value| value.elements());
    let (count, longest) =
        arrays().fold((0, 0), |(count, longest), array| (count + array.len(), longest.max(array.len())));
    // An array that is as long as what it was made of may be of any length.
    if count > longest && count * size_of::<Value<'_>>() > MOST_BYTES {
        return Value::Missing;
    }
    let Some(mut joined) = context.list(count) else { return Value::Missing };
    arrays().for_each(|array| joined.extend_from_slice(array));
    context.array(joined)
}

fn join<'s>(context: &Context<'s>, elements: &[Value<'s>], rest: &'s [Value<'s>]) -> Option<&'s [u8]> {
    let separator = bytes(rest.first()?)?;
    if let [Value::Bytes(only)] = elements {
        return Some(only);
    }
    let mut joined = BumpVec::new_in(context.bump);
    for (at, element) in elements.iter().enumerate() {
        if at > 0 {
            append(context, &mut joined, separator)?;
        }
        append(context, &mut joined, bytes(element).unwrap_or_default())?;
    }
    Some(joined.into_bump_slice())
}

/// Bytes from one position up to another; negative ones count from the end, and those beyond it mean the end.
fn substring<'s>(text: &'s [u8], rest: &[Value<'_>]) -> Option<&'s [u8]> {
    let position = |number: i64| {
        let distance = usize::try_from(number.unsigned_abs()).unwrap_or(usize::MAX);
        if number < 0 { text.len().saturating_sub(distance) } else { distance.min(text.len()) }
    };
    let start = position(integer(rest.first()?)?);
    let end = match rest.get(1) {
        Some(end) => position(integer(end)?),
        None => text.len(),
    };
    Some(text.get(start..end).unwrap_or_default())
}

/// The text with the first match replaced; the same text where there is none.
fn replace<'s>(
    context: &Context<'s>,
    text: &'s [u8],
    pattern: &Pattern,
    with: &Template,
) -> Option<&'s [u8]> {
    let Some(captures) = pattern.captures(context, text)? else { return Some(text) };
    let found = captures.span(0)?;
    let (before, after) = (text.get(..found.start)?, text.get(found.end..)?);
    let length = before.len() + with.length(&captures) + after.len();
    if length > MOST_BYTES.max(text.len()) {
        return None;
    }
    let mut replaced = context.buffer(length)?;
    replaced.extend_from_slice_copy(before);
    with.write(&captures, &mut replaced);
    replaced.extend_from_slice_copy(after);
    Some(replaced.into_bump_slice())
}

fn without_args<'s>(context: &Context<'s>, query: &'s [u8], names: &[Box<[u8]>]) -> Option<&'s [u8]> {
    let mut left = context.buffer(query.len())?;
    let mut any = false;
    for pair in parts(query, b'&') {
        let name = parts(pair, b'=').next().unwrap_or_default();
        if !names.iter().any(|unwanted| unwanted[..] == *name) {
            if any {
                left.push(b'&');
            }
            any = true;
            left.extend_from_slice_copy(pair);
        }
    }
    Some(left.into_bump_slice())
}

fn split<'s>(
    context: &Context<'s>,
    text: &'s [u8],
    separator: &Finder<'_>,
    limit: usize,
) -> Option<Value<'s>> {
    let mut values = context.values();
    let mut rest = text;
    while values.len() + 1 < limit {
        let Some(at) = separator.find(rest) else { break };
        if !context.push(&mut values, Value::Bytes(rest.get(..at)?)) {
            return None;
        }
        rest = rest.get(at + separator.needle().len()..)?;
    }
    context.push(&mut values, Value::Bytes(rest)).then(|| context.array(values))
}

/// Of either alphabet, with or without padding; missing where it is neither.
fn decoded_base64<'s>(context: &Context<'s>, text: &'s [u8]) -> Option<&'s [u8]> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    const URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    let length = base64::decoded_len_estimate(text.len());
    let mut decoded = context.buffer(length)?;
    decoded.resize(length, 0);
    let of_urls = text.iter().any(|byte| matches!(byte, b'-' | b'_'));
    let engine = if of_urls { &URL } else { &STANDARD };
    let written = engine.decode_slice(text, &mut decoded).ok()?;
    decoded.truncate(written);
    Some(decoded.into_bump_slice())
}

fn encoded_base64<'s>(context: &Context<'s>, text: &[u8], url: bool, padding: bool) -> Option<&'s [u8]> {
    let alphabet = if url { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    let engine = GeneralPurpose::new(alphabet, GeneralPurposeConfig::new().with_encode_padding(padding));
    let length = base64::encoded_len(text.len(), padding).filter(|length| *length <= MOST_BYTES)?;
    let mut encoded = context.buffer(length)?;
    encoded.resize(length, 0);
    let written = engine.encode_slice(text, &mut encoded).ok()?;
    encoded.truncate(written);
    Some(encoded.into_bump_slice())
}

/// RFC 9562 section 5.4, of the first 16 bytes.
fn uuid<'s>(context: &Context<'s>, seed: &[u8]) -> Option<&'s [u8]> {
    let seed: [u8; 16] = seed.get(..16)?.try_into().ok()?;
    let uuid = uuid::Builder::from_random_bytes(seed).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    context.concat(&[uuid.hyphenated().encode_lower(&mut text).as_bytes()])
}

fn network(ip: IpAddr, v4: u8, v6: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(u32::from(32 - v4)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(u32::from(128 - v6)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

fn without_bytes<'s>(context: &Context<'s>, text: &'s [u8], unwanted: &[u8]) -> Option<&'s [u8]> {
    if !text.iter().any(|byte| unwanted.contains(byte)) {
        return Some(text);
    }
    let mut left = context.buffer(text.len())?;
    left.extend(text.iter().filter(|byte| !unwanted.contains(byte)));
    Some(left.into_bump_slice())
}
