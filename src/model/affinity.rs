//! The affinity cookie: where a request without a key has one, who can receive one, and on which answers it may stand.

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::head::{Lines, cookies, trim_ows};

/// The most bytes of a value that counts.
const MOST: usize = 128;

/// Whether a value of the affinity cookie counts as a key, whoever chose it: 1 to 128 cookie-octets (RFC 6265
/// section 4.1.1).
pub fn is_valid(value: &[u8]) -> bool {
    let octet = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e);
    (1..=MOST).contains(&value.len()) && value.iter().all(octet)
}

/// The first valid value of a cookie: a browser sends the one of the longest path first, and one that is not valid must
/// not hide the one that is. Borrows from the lines.
pub fn find<'a, L: Lines + ?Sized>(lines: &'a L, name: &str) -> Option<&'a [u8]> {
    let mut found = None;
    lines.each(&mut |line, value| {
        if line == "cookie" && found.is_none() {
            found = cookies(value).find(|(of, value)| *of == name.as_bytes() && is_valid(value));
        }
    });
    found.map(|(_, value)| value)
}

/// A `Cookie` line without one cookie, however often it is in it. `None` where it is not in it; empty where nothing else is.
pub fn without(line: &[u8], name: &str) -> Option<Vec<u8>> {
    let parts = || line.split(|&byte| byte == b';').map(trim_ows);
    let is_it = |part: &&[u8]| cookies(part).any(|(of, _)| of == name.as_bytes());
    if !parts().any(|part| is_it(&part)) {
        return None;
    }
    let others: Vec<&[u8]> = parts().filter(|part| !is_it(part) && !part.is_empty()).collect();
    Some(others.join(&b"; "[..]))
}

/// How many cookies of a name a request has.
pub fn count<L: Lines + ?Sized>(lines: &L, name: &str) -> usize {
    let mut count = 0;
    lines.each(&mut |line, value| {
        if line == "cookie" {
            count += cookies(value).filter(|(of, _)| *of == name.as_bytes()).count();
        }
    });
    count
}

/// Whether a request can receive the cookie: it asks for a document (Fetch Metadata's `Sec-Fetch-Dest: document`, or a GET
/// that accepts `text/html`), so that a person will come back with it.
pub fn can_receive<L: Lines + ?Sized>(method: &str, lines: &L) -> bool {
    let mut asks = false;
    lines.each(&mut |line, value| match line {
        "sec-fetch-dest" => asks |= trim_ows(value) == b"document",
        "accept" => asks |= method == Method::GET.as_str() && accepts_html(value),
        _ => {}
    });
    asks
}

/// Whether `text/html` is in an `Accept` line, with a weight above 0 (RFC 9110 section 12.5.1).
fn accepts_html(accept: &[u8]) -> bool {
    let mut accepts = false;
    elements(accept, |range| {
        let mut parts = range.split(|&byte| byte == b';').map(trim_ows);
        let is_html = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(b"text/html"));
        accepts |= is_html && !parts.any(is_zero_weight);
    });
    accepts
}

fn is_zero_weight(parameter: &[u8]) -> bool {
    let [b'q' | b'Q', b'=', weight @ ..] = parameter else { return false };
    !weight.is_empty() && weight.iter().all(|byte| matches!(byte, b'0' | b'.'))
}

/// Whether the cookie may be set on an answer: it is no error, its upstream sets no cookie of that name, and no shared cache
/// may give it to others.
pub fn may_set(status: StatusCode, headers: &HeaderMap, name: &str) -> bool {
    let theirs = headers.get_all(header::SET_COOKIE).iter();
    let same = |cookie: &http::HeaderValue| {
        cookie.as_bytes().split(|&byte| byte == b'=').next().map(trim_ows) == Some(name.as_bytes())
    };
    (200..400).contains(&status.as_u16()) && !theirs.into_iter().any(same) && !is_public(headers)
}

/// Visits the elements of a list (RFC 9110 section 5.6.1): a comma in a quoted string, where `\` quotes what follows it
/// (section 5.6.4), does not end one. Returns false, without the last one, where a quoted string has no end.
fn elements<'a>(list: &'a [u8], mut visit: impl FnMut(&'a [u8])) -> bool {
    let (mut begin, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                visit(list.get(begin..at).unwrap_or_default());
                begin = at + 1;
            }
            _ => {}
        }
    }
    if !quoted {
        visit(list.get(begin..).unwrap_or_default());
    }
    !quoted
}

/// What `Cache-Control` says to shared caches.
#[derive(Debug, Default)]
struct Caching {
    public: bool,
    /// Of all of the answer, and not only of some fields (RFC 9111 section 5.2.2.7).
    private: bool,
    no_store: bool,
    /// `max-age` above 0.
    fresh: bool,
    /// A quoted string has no end: what else is said in it depends on who reads it.
    torn: bool,
}

impl Caching {
    fn of(headers: &HeaderMap, name: &str) -> Self {
        let mut caching = Self::default();
        for line in headers.get_all(name) {
            let whole = elements(line.as_bytes(), |directive| caching.add(trim_ows(directive)));
            caching.torn |= !whole;
        }
        caching
    }

    fn add(&mut self, directive: &[u8]) {
        let mut parts = directive.splitn(2, |&byte| byte == b'=');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        self.public |= is("public") || is("s-maxage");
        self.private |= is("private") && value.is_none();
        self.no_store |= is("no-store");
        let age = |age: &[u8]| age.iter().any(|byte| matches!(byte, b'1'..=b'9'));
        self.fresh |= is("max-age") && value.is_some_and(age);
    }

    fn is_public(&self) -> bool {
        self.torn || (!self.no_store && (self.public || (self.fresh && !self.private)))
    }
}

/// Whether shared caches may keep an answer: `public`, `s-maxage`, or a positive `max-age` without `private`; also where
/// that is said to them alone, or cannot be told.
fn is_public(headers: &HeaderMap) -> bool {
    let names = headers.keys().map(HeaderName::as_str);
    names
        .filter(|name| *name == "cache-control" || is_targeted(name))
        .any(|name| Caching::of(headers, name).is_public())
}

/// Whether a field, in lower case, says to some shared caches what they may keep: those of RFC 9213, whose names end alike,
/// and the one before it.
pub fn is_targeted(name: &str) -> bool {
    name.ends_with("cdn-cache-control") || name == "surrogate-control"
}

/// Whether an answer says itself that it is for one client only.
pub fn is_private(headers: &HeaderMap) -> bool {
    let caching = Caching::of(headers, "cache-control");
    !caching.torn && (caching.private || caching.no_store)
}

/// Whether caches are told that an answer depends on the cookies of its request.
pub fn varies_by_cookie(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::VARY).into_iter();
    fields.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).any(|field| {
        let field = trim_ows(field);
        field == b"*" || field.eq_ignore_ascii_case(b"cookie")
    })
}

/// Whether browsers take a cookie of this name only with `Secure`, and so over https alone: its name begins, in any case, with
/// a prefix that says so (RFC 6265bis section 4.1.3; `__Http-` is of its successor).
pub fn wants_https(name: &str) -> bool {
    const PREFIXES: [&str; 3] = ["__Secure-", "__Host-", "__Http-"];
    let begins =
        |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    PREFIXES.iter().any(begins)
}

/// Whether a client keeps a cookie of this name that an answer gives it. One that does not would draw with every page.
pub fn is_kept(name: &str, https: bool) -> bool {
    https || !wants_https(name)
}

/// Whether a name is one by which applications know who is logged in: such a cookie is theirs alone.
pub fn looks_like_a_session(name: &str) -> bool {
    const WORDS: [&str; 5] = ["sess", "auth", "token", "jwt", "login"];
    const NAMES: [&str; 3] = ["sid", "connect.sid", "_sid"];
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word)) || NAMES.contains(&name.as_str())
}
