//! A request's head as routing, decision and rules see it: borrowed text, whatever codec read it.

mod uniform;

use std::borrow::Cow;
use std::net::IpAddr;

use memchr::memchr;

pub use uniform::Uniform;

/// The request header whose value places a request on the ring.
pub const KEY_HEADER: &str = "cloudflare-workers-version-key";

/// The header lines of a request. Implemented by whatever a codec keeps them in.
pub trait Lines {
    /// Calls `visit` with each line's name, in lower case, and value, in order within a name.
    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a str, &'a [u8]));

    /// Calls `visit` with the value of each line of a name given in lower case, in order.
    fn each_of<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        self.each(&mut |line, value| {
            if line == name {
                visit(value);
            }
        });
    }

    /// Calls `visit` with each part of the cookies as it was sent, in order: a `Cookie` line, or a crumb of one. No cookie
    /// is in two of them.
    fn each_crumb<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8])) {
        self.each_of("cookie", visit);
    }

    /// The values of a name given in lower case, in order, joined with `, ` as RFC 9110 section 5.3 has it; `None`
    /// where there is no such line. Borrows unless there are several.
    fn joined<'a>(&'a self, name: &str) -> Option<Cow<'a, [u8]>> {
        let mut joined: Option<Cow<'a, [u8]>> = None;
        self.each_of(name, &mut |value| {
            joined = Some(match joined.take() {
                None => Cow::Borrowed(value),
                Some(before) => Cow::Owned([&before, &b", "[..], value].concat()),
            });
        });
        joined
    }
}

/// A request's head. All text is as received.
#[derive(Clone, Copy)]
pub struct Head<'a, L: ?Sized> {
    /// The method, such as `GET`.
    pub method: &'a str,
    /// The host that the request is for: of the absolute-form target or `:authority`, else of `Host`. Empty if none.
    pub authority: &'a str,
    /// The path as received, not decoded. `*` for `OPTIONS *`.
    pub path: &'a str,
    /// What follows `?` in the target.
    pub query: Option<&'a str>,
    /// The header lines.
    pub lines: &'a L,
    /// The client's address; `None` on a Unix socket.
    pub peer: Option<IpAddr>,
}

/// Trims optional white space (RFC 9110 section 5.6.3: spaces and tabs) from both ends.
pub fn trim_ows(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// What stands between separators.
pub fn parts(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (part, after) = match memchr(separator, text) {
            Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
            None => (text, None),
        };
        rest = after;
        Some(part)
    })
}

/// The cookies of a `Cookie` line: names and values as sent, without white space around them. What has no `=` is the value of
/// a cookie without name, as browsers have it.
pub fn cookies(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    parts(line, b';').map(|pair| match memchr(b'=', pair) {
        Some(at) => {
            (trim_ows(pair.get(..at).unwrap_or_default()), trim_ows(pair.get(at + 1..).unwrap_or_default()))
        }
        None => (&b""[..], trim_ows(pair)),
    })
}

/// Lines in a list: for tools, and for tests of what a rule or a decision sees.
impl Lines for [(String, Vec<u8>)] {
    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a str, &'a [u8])) {
        for (name, value) in self {
            visit(name, value);
        }
    }
}

/// As [`Lines`] is used through a trait object, which only a sized type becomes.
impl Lines for Vec<(String, Vec<u8>)> {
    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a str, &'a [u8])) {
        self[..].each(visit);
    }
}

impl Lines for http::HeaderMap {
    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a str, &'a [u8])) {
        for (name, value) in self {
            visit(name.as_str(), value.as_bytes());
        }
    }

    fn each_of<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for value in self.get_all(name) {
            visit(value.as_bytes());
        }
    }

    fn joined<'a>(&'a self, name: &str) -> Option<Cow<'a, [u8]>> {
        let mut values = self.get_all(name).into_iter();
        let first = values.next()?.as_bytes();
        let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
        let mut joined = [first, b", ", second.as_bytes()].concat();
        for value in values {
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value.as_bytes());
        }
        Some(Cow::Owned(joined))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_name_are_joined_in_order() {
        let lines = [("a", "1"), ("b", "2"), ("a", "3")].map(|(n, v)| (n.to_owned(), v.as_bytes().to_vec()));
        assert_eq!(lines[..].joined("a").as_deref(), Some(&b"1, 3"[..]));
        assert_eq!(lines[..].joined("b").as_deref(), Some(&b"2"[..]));
        assert_eq!(lines[..].joined("c"), None);
    }

    #[test]
    fn white_space_is_trimmed_from_both_ends_only() {
        assert_eq!(trim_ows(b" \t a b\t "), b"a b");
        assert_eq!(trim_ows(b" \t"), b"");
    }
}
