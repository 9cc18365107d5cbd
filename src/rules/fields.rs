//! The fields of the language: their names, types and values.

use bumpalo::collections::Vec as BumpVec;

use super::context::Context;
use super::request::{args, cookies, extension, languages};
use super::types::{Type, Value};

/// A field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Cookie,
    Host,
    /// A header of one value: its lines joined.
    Header(&'static str),
    FullUri,
    Method,
    Version,
    Uri,
    Path,
    Extension,
    Query,
    Map(MapField),
    /// The names of a map's entries, in the order of the request.
    Names(MapField),
    /// Their values, in the same order.
    Values(MapField),
    Truncated,
    Languages,
    Seconds,
    Milliseconds,
    Client,
    Https,
    Seed,
    Ray,
}

/// A map of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MapField {
    Headers,
    Cookies,
    Args,
}

/// Every field by its name.
pub(super) const FIELDS: [(&str, Field); 27] = [
    ("http.cookie", Field::Cookie),
    ("http.host", Field::Host),
    ("http.referer", Field::Header("referer")),
    ("http.user_agent", Field::Header("user-agent")),
    ("http.x_forwarded_for", Field::Header("x-forwarded-for")),
    ("http.request.accepted_languages", Field::Languages),
    ("http.request.cookies", Field::Map(MapField::Cookies)),
    ("http.request.full_uri", Field::FullUri),
    ("http.request.headers", Field::Map(MapField::Headers)),
    ("http.request.headers.names", Field::Names(MapField::Headers)),
    ("http.request.headers.truncated", Field::Truncated),
    ("http.request.headers.values", Field::Values(MapField::Headers)),
    ("http.request.method", Field::Method),
    ("http.request.timestamp.msec", Field::Milliseconds),
    ("http.request.timestamp.sec", Field::Seconds),
    ("http.request.uri", Field::Uri),
    ("http.request.uri.args", Field::Map(MapField::Args)),
    ("http.request.uri.args.names", Field::Names(MapField::Args)),
    ("http.request.uri.args.values", Field::Values(MapField::Args)),
    ("http.request.uri.path", Field::Path),
    ("http.request.uri.path.extension", Field::Extension),
    ("http.request.uri.query", Field::Query),
    ("http.request.version", Field::Version),
    ("cf.random_seed", Field::Seed),
    ("cf.ray_id", Field::Ray),
    ("ip.src", Field::Client),
    ("ssl", Field::Https),
];

/// What begins the names of those fields that Cloudflare has twice: as they came, and as earlier rules changed them. Here
/// both are as they came.
const RAW: &str = "raw.";

/// A field by its name.
pub(super) fn field(name: &str) -> Option<Field> {
    let plain = match name.strip_prefix(RAW) {
        Some(plain) if has_raw(plain) => plain,
        Some(_) => return None,
        None => name,
    };
    FIELDS.iter().find(|(found, _)| *found == plain).map(|(_, field)| *field)
}

/// Whether a field of this name exists with `raw.` before it, too.
fn has_raw(name: &str) -> bool {
    name == "http.request.full_uri"
        || name.starts_with("http.request.uri")
        || name.starts_with("http.request.headers")
}

/// Every name of a field.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().map(|(name, _)| *name)
}

impl Field {
    pub(super) fn ty(self) -> Type {
        match self {
            Self::Map(_) => Type::MAP,
            Self::Names(_) | Self::Values(_) | Self::Languages => Type::STRINGS,
            Self::Seconds | Self::Milliseconds => Type::INTEGER,
            Self::Truncated | Self::Https => Type::BOOLEAN,
            Self::Client => Type::IP,
            Self::Seed => Type::BYTES,
            _ => Type::STRING,
        }
    }

    /// The value of a request.
    pub(super) fn value<'s>(self, context: &Context<'s>) -> Value<'s> {
        let facts = context.facts;
        match self {
            Self::Https => Value::Bool(facts.https),
            // A request of more lines than the proxy takes is refused before any rule sees it.
            Self::Truncated => Value::Bool(false),
            Self::Seconds => Value::Int(i64::try_from(facts.time.as_secs()).unwrap_or(i64::MAX)),
            Self::Milliseconds => Value::Int(facts.time.subsec_millis().into()),
            Self::Client => facts.client.map_or(Value::Missing, Value::Ip),
            Self::Map(map) => map.value(context),
            Self::Names(map) => map.entries(context, |name, _| Value::Bytes(name)),
            Self::Values(map) => map.entries(context, |_, value| Value::Bytes(value)),
            Self::Languages => languages(context).unwrap_or(Value::Missing),
            _ => self.text(context).map_or(Value::Missing, Value::Bytes),
        }
    }

    /// The value of a field that is a String or Bytes; it may be empty. `None` where it would be too much work.
    fn text<'s>(self, context: &Context<'s>) -> Option<&'s [u8]> {
        let facts = context.facts;
        Some(match self {
            Self::Cookie => return joined(context, b"; ", |visit| facts.lines.each_crumb(visit)),
            Self::Host => facts.authority.as_bytes(),
            Self::Header(name) => {
                return joined(context, b", ", |visit| facts.lines.each_of(name, visit));
            }
            Self::FullUri => return full_uri(context),
            Self::Method => facts.method.as_bytes(),
            Self::Version => version(facts.version),
            Self::Uri => return uri(context),
            Self::Path => facts.path.as_bytes(),
            Self::Extension => return extension(context),
            Self::Query => facts.query.unwrap_or_default().as_bytes(),
            Self::Seed => {
                let [first, second] = facts.seed;
                let bits = u128::from(first) << 64 | u128::from(second);
                context.bump.alloc_slice_copy(&bits.to_be_bytes())
            }
            Self::Ray => bumpalo::format!(in context.bump, "{:016x}", facts.ray).into_bump_str().as_bytes(),
            _ => b"",
        })
    }
}

/// Some lines, joined; empty where there is none. One line alone is borrowed.
fn joined<'s>(
    context: &Context<'s>,
    separator: &[u8],
    each: impl FnOnce(&mut dyn FnMut(&'s [u8])),
) -> Option<&'s [u8]> {
    let mut first: Option<&'s [u8]> = None;
    let mut several: Option<BumpVec<'s, u8>> = None;
    let mut within = true;
    each(&mut |value| match (first, &mut several) {
        (None, _) => first = Some(value),
        (Some(before), several) => {
            let begun = if several.is_some() { 0 } else { before.len() };
            within &= context.may_write(begun + separator.len() + value.len());
            if within {
                let all = several.get_or_insert_with(|| {
                    let mut all =
                        BumpVec::with_capacity_in(begun + separator.len() + value.len(), context.bump);
                    all.extend_from_slice_copy(before);
                    all
                });
                all.extend_from_slice_copy(separator);
                all.extend_from_slice_copy(value);
            }
        }
    });
    within.then(|| several.map_or_else(|| first.unwrap_or_default(), |all| all.into_bump_slice()))
}

fn version(version: http::Version) -> &'static [u8] {
    match version {
        http::Version::HTTP_09 => b"HTTP/0.9",
        http::Version::HTTP_10 => b"HTTP/1.0",
        http::Version::HTTP_2 => b"HTTP/2",
        http::Version::HTTP_3 => b"HTTP/3",
        _ => b"HTTP/1.1",
    }
}

/// The target's path and query. The path alone is borrowed.
fn uri<'s>(context: &Context<'s>) -> Option<&'s [u8]> {
    let facts = context.facts;
    match facts.query {
        None => Some(facts.path.as_bytes()),
        Some(query) => context.concat(&[facts.path.as_bytes(), b"?", query.as_bytes()]),
    }
}

/// RFC 9110 section 7.1: the target `*` has no path.
fn full_uri<'s>(context: &Context<'s>) -> Option<&'s [u8]> {
    let facts = context.facts;
    let scheme: &[u8] = if facts.https { b"https://" } else { b"http://" };
    let path = if facts.path == "*" { "" } else { facts.path };
    let (mark, query): (&[u8], _) = facts.query.map_or((b"", ""), |query| (b"?", query));
    context.concat(&[scheme, facts.authority.as_bytes(), path.as_bytes(), mark, query.as_bytes()])
}

impl MapField {
    /// Calls `visit` with each entry's name and value, in the order of the request. The names of cookies are not decoded.
    pub(super) fn each<'s>(self, context: &Context<'s>, visit: &mut dyn FnMut(&'s [u8], &'s [u8])) {
        match self {
            Self::Headers => context.facts.lines.each(&mut |name, value| visit(name.as_bytes(), value)),
            Self::Cookies => {
                context.facts.lines.each_crumb(&mut |line| {
                    cookies(line).for_each(|(name, value)| visit(name, value));
                });
            }
            Self::Args => args(context.facts.query).for_each(|(name, value)| visit(name, value)),
        }
    }

    /// Calls `visit` with the value of each entry of a name, in the order of the request.
    fn each_of<'s>(self, context: &Context<'s>, key: &[u8], visit: &mut dyn FnMut(&'s [u8])) {
        match (self, std::str::from_utf8(key)) {
            (Self::Headers, Ok(name)) => context.facts.lines.each_of(name, visit),
            _ => self.each(context, &mut |name, value| {
                if self.is_named(name, key) {
                    visit(value);
                }
            }),
        }
    }

    /// Whether a name of the request is a key's.
    fn is_named(self, name: &[u8], key: &[u8]) -> bool {
        match self {
            Self::Cookies if name.contains(&b'%') => super::url::decodes_to(name, key),
            _ => name == key,
        }
    }

    /// One value of a key, or all of them.
    pub(super) fn lookup<'s>(self, context: &Context<'s>, key: &[u8], at: Option<usize>) -> Value<'s> {
        let Some(at) = at else {
            let (mut values, mut within) = (context.values(), true);
            self.each_of(context, key, &mut |value| {
                within = within && context.push(&mut values, Value::Bytes(value));
            });
            return if within && !values.is_empty() { context.array(values) } else { Value::Missing };
        };
        let (mut found, mut passed) = (Value::Missing, 0);
        self.each_of(context, key, &mut |value| {
            if passed == at {
                found = Value::Bytes(value);
            }
            passed += 1;
        });
        found
    }

    /// An array of something of each entry.
    fn entries<'s>(self, context: &Context<'s>, of: impl Fn(&'s [u8], &'s [u8]) -> Value<'s>) -> Value<'s> {
        let (mut values, mut within) = (context.values(), true);
        self.each(context, &mut |name, value| {
            within = within && context.push(&mut values, of(name, value));
        });
        if within { context.array(values) } else { Value::Missing }
    }

    /// The whole map: the entries of one name merged, names in the order of their bytes.
    fn value<'s>(self, context: &Context<'s>) -> Value<'s> {
        self.merged(context).map_or(Value::Missing, Value::Map)
    }

    /// As [`value`](Self::value); `None` where that would be too much work.
    fn merged<'s>(self, context: &Context<'s>) -> Option<&'s [(&'s [u8], Value<'s>)]> {
        let (mut entries, mut within) = (BumpVec::new_in(context.bump), true);
        self.each(context, &mut |name, value| {
            if !within {
                return;
            }
            let decodes = self == Self::Cookies;
            let name = if decodes { super::url::decoded_name(context, name) } else { Some(name) };
            let entry = name.map(|name| (name, entries.len(), value));
            within = entry.is_some_and(|entry| context.push(&mut entries, entry));
        });
        if !within {
            return None;
        }
        // With the number the order is total, so that a sort without memory of its own keeps that of the request.
        entries.sort_unstable_by_key(|&(name, number, _)| (name, number));
        let mut map = BumpVec::new_in(context.bump);
        for same in entries.chunk_by(|one, next| one.0 == next.0) {
            let Some(&(name, ..)) = same.first() else { continue };
            let mut values = context.list(same.len())?;
            values.extend(same.iter().map(|&(_, _, value)| Value::Bytes(value)));
            if !context.push(&mut map, (name, context.array(values))) {
                return None;
            }
        }
        Some(map.into_bump_slice())
    }
}
