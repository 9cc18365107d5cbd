//! Heads on their way: what is refused, what belongs to one hop, and what the proxy says of itself.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Version};

use super::failure::Kind;
use crate::model::head::KEY_HEADER;
use crate::model::overrides::OVERRIDES_HEADER;

pub(super) const KEY: HeaderName = HeaderName::from_static(KEY_HEADER);
pub(super) const OVERRIDES: HeaderName = HeaderName::from_static(OVERRIDES_HEADER);
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const WORKER: HeaderName = HeaderName::from_static("gradual-worker");
pub(super) const VERSION_ID: HeaderName = HeaderName::from_static("gradual-version-id");
pub(super) const VERSION_TAG: HeaderName = HeaderName::from_static("gradual-version-tag");
pub(super) const VERSION_TIMESTAMP: HeaderName = HeaderName::from_static("gradual-version-timestamp");
pub(super) const GRADUAL_VERSION: HeaderName = HeaderName::from_static("gradual-version");
pub(super) const GRADUAL_ERROR: HeaderName = HeaderName::from_static("gradual-error");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// How this proxy calls itself in `Via`.
const VIA_NAME: &[u8] = b"gradual";
/// A request with more entries of ours goes round in circles.
const MAX_OWN_VIA: usize = 5;

/// What one pass over a request's header lines found, so that nothing is looked up that is not there.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) hosts: usize,
    pub(super) keys: usize,
    pub(super) overrides: usize,
    cookies: usize,
    own_vias: usize,
    transfer_encodings: usize,
    content_lengths: usize,
    /// Whether the length is written in a way that not every parser reads alike.
    odd_length: bool,
    /// `Connection`, or any line that it nominates by custom.
    hop_by_hop: bool,
    connection: bool,
    pub(super) te_trailers: bool,
    pub(super) upgrade: bool,
    /// Lines that only a trusted proxy may send.
    forwarding: bool,
    /// Lines of the name space that only this proxy may use.
    gradual: bool,
}

/// The lines that decide where a request goes: the first of each name.
#[derive(Clone, Copy, Default)]
pub(super) struct Deciding<'a> {
    pub(super) host: Option<&'a HeaderValue>,
    pub(super) key: Option<&'a HeaderValue>,
    pub(super) overrides: Option<&'a HeaderValue>,
}

impl Seen {
    /// Looks at every line once.
    pub(super) fn look(headers: &HeaderMap) -> (Self, Deciding<'_>) {
        let (mut seen, mut deciding) = (Self::default(), Deciding::default());
        for (name, value) in headers {
            seen.line(name, value, &mut deciding);
        }
        (seen, deciding)
    }

    fn line<'a>(&mut self, name: &HeaderName, value: &'a HeaderValue, deciding: &mut Deciding<'a>) {
        // Registered names are numbers, which cost less to tell apart than text.
        match *name {
            header::HOST => {
                self.hosts += 1;
                deciding.host = deciding.host.or(Some(value));
            }
            header::COOKIE => self.cookies += 1,
            header::CONTENT_LENGTH => {
                self.content_lengths += 1;
                self.odd_length |= is_odd(value);
            }
            header::CONNECTION => (self.hop_by_hop, self.connection) = (true, true),
            header::TE => {
                self.hop_by_hop = true;
                self.te_trailers |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
            }
            header::UPGRADE => (self.hop_by_hop, self.upgrade) = (true, true),
            header::TRANSFER_ENCODING => {
                self.hop_by_hop = true;
                self.transfer_encodings +=
                    if value.as_bytes().eq_ignore_ascii_case(b"chunked") { 1 } else { 2 };
            }
            header::VIA => self.own_vias += tokens(value).filter(|entry| is_own_via(entry)).count(),
            header::FORWARDED => self.forwarding = true,
            _ => self.other_line(name.as_str(), value, deciding),
        }
    }

    fn other_line<'a>(&mut self, name: &str, value: &'a HeaderValue, deciding: &mut Deciding<'a>) {
        match name {
            "keep-alive" | "proxy-connection" | "http2-settings" => self.hop_by_hop = true,
            "x-real-ip" => self.forwarding = true,
            KEY_HEADER => {
                self.keys += 1;
                deciding.key = deciding.key.or(Some(value));
            }
            OVERRIDES_HEADER => {
                self.overrides += 1;
                deciding.overrides = deciding.overrides.or(Some(value));
            }
            _ if name.starts_with("x-forwarded-") => self.forwarding = true,
            _ if name.starts_with("gradual-") => self.gradual = true,
            _ => {}
        }
    }

    /// Whether the request says which of its fields are hop-by-hop.
    pub(super) fn is_nominating(&self) -> bool {
        self.connection
    }

    /// Whether there are fields of the name space that only this proxy may use.
    pub(super) fn has_ours(&self) -> bool {
        self.gradual
    }

    /// How many `Cookie` lines there are beside the first. HTTP/2 makes them of one (RFC 9113 section 8.2.3).
    pub(super) fn more_crumbs(&self) -> usize {
        self.cookies.saturating_sub(1)
    }

    /// Whether the body comes in chunks.
    pub(super) fn is_chunked(&self) -> bool {
        self.transfer_encodings > 0
    }

    /// Refuses what is malformed or ambiguous although the codec took it.
    pub(super) fn check(&self, parts: &Parts) -> Result<(), Kind> {
        if self.hosts > 1 {
            return Err(Kind::BadRequest("the request has more than one Host"));
        }
        if self.transfer_encodings > 1 {
            return Err(Kind::BadRequest("the only transfer coding that is understood is chunked, once"));
        }
        if self.transfer_encodings > 0 && (self.content_lengths > 0 || parts.version < Version::HTTP_11) {
            return Err(Kind::BadRequest("the request's length is ambiguous"));
        }
        let path = parts.uri.path();
        if !path.starts_with('/') && (path != "*" || parts.method != Method::OPTIONS) {
            return Err(Kind::BadRequest("the request's target is no path"));
        }
        if self.own_vias > MAX_OWN_VIA { Err(Kind::Loop) } else { Ok(()) }
    }
}

/// The host that a request is for, as upstreams see it: an absolute-form target or `:authority` wins over `Host`
/// (RFC 9112 section 3.2.2, RFC 9113 section 8.3.1). `None` for HTTP/1.0 without `Host`.
pub(super) fn authority(parts: &Parts, host: Option<&HeaderValue>) -> Result<Option<HeaderValue>, Kind> {
    const WRONG: Kind =
        Kind::BadRequest("the request's host is not a host name or address with an optional port");
    if host.is_some_and(|host| !is_authority(host.as_bytes())) {
        return Err(WRONG);
    }
    match (parts.uri.authority(), host) {
        (Some(authority), _) => {
            let web = |scheme: &Scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
            if parts.uri.scheme().is_some_and(|scheme| !web(scheme)) {
                return Err(Kind::BadRequest("the target's scheme is not http or https"));
            }
            if !is_authority(authority.as_str().as_bytes()) {
                return Err(WRONG);
            }
            if let Some(host) = host.filter(|host| host.as_bytes() == authority.as_str().as_bytes()) {
                return Ok(Some(host.clone()));
            }
            HeaderValue::from_str(authority.as_str()).map(Some).map_err(|_| WRONG)
        }
        (None, Some(host)) => Ok(Some(host.clone())),
        (None, None) if parts.version < Version::HTTP_11 => Ok(None),
        (None, None) => Err(Kind::BadRequest("the request has no Host")),
    }
}

/// `host[:port]` without user information: a name of letters, digits, `-`, `.`, `_` and `~`, or an address in brackets.
fn is_authority(text: &[u8]) -> bool {
    if text.first() == Some(&b'[') {
        return is_bracketed(text);
    }
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let end = text.iter().position(|byte| !name(byte)).unwrap_or(text.len());
    end > 0 && is_port(&text[end..])
}

fn is_bracketed(text: &[u8]) -> bool {
    let Some(end) = text.iter().position(|&byte| byte == b']') else { return false };
    let address = std::str::from_utf8(&text[1..end]);
    address.is_ok_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()) && is_port(&text[end + 1..])
}

/// Nothing, or a colon and a port that may be left out (RFC 3986 section 3.2.3).
fn is_port(text: &[u8]) -> bool {
    let [colon, digits @ ..] = text else { return true };
    let add = |port: u32, digit: &u8| match digit {
        b'0'..=b'9' => Some(port * 10 + u32::from(digit - b'0')).filter(|port| *port <= 65_535),
        _ => None,
    };
    *colon == b':' && digits.iter().try_fold(0, add).is_some()
}

/// Removes the lines that belong to one hop (RFC 9110 section 7.6.1): `Connection`, what it nominates, and what is
/// hop-by-hop by custom. `Trailer` stays: without it an HTTP/1.1 codec cannot send the trailers on.
fn remove_hop_by_hop(headers: &mut HeaderMap, nominated: bool) {
    if nominated {
        for name in nominated_by(headers) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in
        [KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS, header::TE, header::TRANSFER_ENCODING, header::UPGRADE]
    {
        headers.remove(name);
    }
}

/// What `Connection` nominates.
fn nominated_by(headers: &HeaderMap) -> Vec<HeaderName> {
    let tokens = headers.get_all(header::CONNECTION).iter().flat_map(tokens);
    let names = tokens.filter_map(|token| HeaderName::from_bytes(token).ok());
    names.filter(may_be_nominated).collect()
}

/// Removes what `Connection` nominates, and leaves of `Connection` what says something of the connection itself.
pub(super) fn remove_nominated(headers: &mut HeaderMap) {
    let names = nominated_by(headers);
    let kept = |name: &HeaderName| matches!(*name, header::UPGRADE | header::TE);
    let (kept, removed): (Vec<_>, Vec<_>) = names.into_iter().partition(kept);
    for name in removed {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
    for name in kept {
        headers.append(header::CONNECTION, HeaderValue::from(name));
    }
}

/// Removes the fields of the name space that only this proxy may use.
pub(super) fn remove_ours(headers: &mut HeaderMap) {
    let ours: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("gradual-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// A sender must not nominate what is for all recipients (RFC 9110 section 7.6.1); obeying would let a client take away
/// what a proxy in front of us, or we, say about it.
fn may_be_nominated(name: &HeaderName) -> bool {
    let name = name.as_str();
    !matches!(
        name,
        "host"
            | "content-length"
            | "content-type"
            | "cache-control"
            | "forwarded"
            | "via"
            | "authorization"
            | "cookie"
    ) && !name.starts_with("x-forwarded-")
        && name != "x-real-ip"
        && !name.starts_with("cloudflare-workers-")
}

/// What is said to an upstream about the client.
pub(super) struct Introduction<'a> {
    pub(super) trusted: bool,
    /// The client's address; `None` on a Unix socket.
    pub(super) address: Option<&'a HeaderValue>,
    pub(super) https: bool,
    /// The host that the client asked for.
    pub(super) host: Option<&'a HeaderValue>,
}

/// Prepares a request's head for the next hop, but for what depends on the protocol spoken there.
pub(super) fn prepare_request(parts: &mut Parts, seen: &Seen, client: &Introduction<'_>) {
    let headers = &mut parts.headers;
    if seen.hop_by_hop {
        remove_hop_by_hop(headers, seen.connection);
    }
    if seen.gradual {
        remove_ours(headers);
    }
    if seen.cookies > 1 {
        join_cookies(headers);
    }
    if seen.odd_length || seen.content_lengths > 1 {
        simplify_length(headers);
    }
    introduce(headers, seen, client);
    let via = match parts.version {
        Version::HTTP_2 => HeaderValue::from_static("2.0 gradual"),
        Version::HTTP_10 => HeaderValue::from_static("1.0 gradual"),
        _ => HeaderValue::from_static("1.1 gradual"),
    };
    headers.append(header::VIA, via);
}

fn introduce(headers: &mut HeaderMap, seen: &Seen, client: &Introduction<'_>) {
    let proto = HeaderValue::from_static(if client.https { "https" } else { "http" });
    if seen.forwarding && client.trusted {
        if let Some(address) = client.address {
            append_to_list(headers, FORWARDED_FOR, address);
        }
        headers.entry(FORWARDED_PROTO).or_insert(proto);
        if let Some(host) = client.host {
            headers.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
        }
        return;
    }
    if seen.forwarding {
        let claims: Vec<_> = headers.keys().filter(|name| is_forwarding(name.as_str())).cloned().collect();
        for name in claims {
            headers.remove(name);
        }
    }
    if let Some(address) = client.address {
        headers.insert(FORWARDED_FOR, address.clone());
    }
    headers.insert(FORWARDED_PROTO, proto);
    if let Some(host) = client.host {
        headers.insert(FORWARDED_HOST, host.clone());
    }
}

fn is_forwarding(name: &str) -> bool {
    name == "forwarded" || name == "x-real-ip" || name.starts_with("x-forwarded-")
}

/// Adds to a list-valued field: one line with all that was there, in order, and the new element.
fn append_to_list(headers: &mut HeaderMap, name: HeaderName, element: &HeaderValue) {
    let mut list: Vec<u8> = Vec::new();
    for line in headers.get_all(&name) {
        list.extend_from_slice(line.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    let value = HeaderValue::from_bytes(&list).unwrap_or_else(|_| element.clone());
    headers.insert(name, value);
}

/// HTTP/2 may split `Cookie` into crumbs; elsewhere they are one line (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // A rule may have removed them all.
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Whether a length is a list, or has leading zeros.
fn is_odd(length: &HeaderValue) -> bool {
    let text = length.as_bytes();
    (text.len() > 1 && text[0] == b'0') || text.contains(&b',')
}

/// Writes the length as one plain number, so that no two hops can read it differently. The codec has seen to it that it
/// is one number, however often it is said.
fn simplify_length(headers: &mut HeaderMap) {
    let first = headers.get(header::CONTENT_LENGTH).and_then(|value| tokens(value).next());
    let length = first.and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

/// Removes from a response what belongs to the upstream's hop, and what only this proxy says. Refuses a transfer coding
/// other than chunked: the codec takes off no other, and without its name the body would be taken for something else.
pub(super) fn prepare_response(headers: &mut HeaderMap) -> Result<(), Kind> {
    let (mut hop_by_hop, mut connection, mut chunked, mut ours) = (false, false, false, false);
    let (mut lengths, mut odd_length) = (0, false);
    for (name, value) in &*headers {
        match *name {
            header::CONTENT_LENGTH => (lengths, odd_length) = (lengths + 1, odd_length || is_odd(value)),
            header::CONNECTION => (hop_by_hop, connection) = (true, true),
            header::TRANSFER_ENCODING if chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") => {
                return Err(Kind::Protocol);
            }
            header::TRANSFER_ENCODING => (hop_by_hop, chunked) = (true, true),
            header::UPGRADE | header::TE => hop_by_hop = true,
            _ => match name.as_str() {
                "keep-alive" | "proxy-connection" => hop_by_hop = true,
                "gradual-version" | "gradual-error" => ours = true,
                _ => {}
            },
        }
    }
    if odd_length || lengths > 1 {
        simplify_length(headers);
    }
    if chunked {
        // RFC 9112 section 6.3: Transfer-Encoding overrides Content-Length; the body is framed anew.
        headers.remove(header::CONTENT_LENGTH);
    }
    if hop_by_hop {
        remove_hop_by_hop(headers, connection);
    }
    if ours {
        headers.remove(GRADUAL_VERSION);
        headers.remove(GRADUAL_ERROR);
    }
    Ok(())
}

/// Whether a trailer section may not have a field: framing, routing, and what decisions were made by already.
pub(super) fn forbidden_in_trailers(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "content-length"
            | "transfer-encoding"
            | "host"
            | "trailer"
            | "te"
            | "connection"
            | "keep-alive"
            | "upgrade"
            | "authorization"
            | "cookie"
            | "set-cookie"
            | "content-type"
            | "content-encoding"
            | "cache-control"
            | "expect"
            | "via"
    ) || is_forwarding(name)
        || name.starts_with("gradual-")
        || name.starts_with("cloudflare-workers-")
}

/// The elements of a comma-separated field, trimmed, without the empty ones.
pub(super) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// `1.1 gradual`, whatever the version.
fn is_own_via(entry: &[u8]) -> bool {
    entry.split(u8::is_ascii_whitespace).filter(|part| !part.is_empty()).nth(1) == Some(VIA_NAME)
}

/// The protocol that a client asks to switch to; `h2c` is not one of them, as HTTP/2 is spoken by prior knowledge only.
pub(super) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let nominated = headers.get_all(header::CONNECTION).iter().flat_map(tokens);
    if !nominated.into_iter().any(|token| token.eq_ignore_ascii_case(b"upgrade")) {
        return None;
    }
    let lines = headers.get_all(header::UPGRADE).iter().flat_map(tokens);
    let wanted: Vec<&[u8]> = lines.filter(|token| is_protocol(token) && !is_h2c(token)).collect();
    if wanted.is_empty() { None } else { HeaderValue::from_bytes(&wanted.join(&b", "[..])).ok() }
}

/// A protocol's name, and perhaps its version behind a slash (RFC 9110 section 7.8): anything else could mean something to
/// an upstream that reads carelessly.
fn is_protocol(token: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(byte);
    token.iter().all(allowed)
}

fn is_h2c(token: &[u8]) -> bool {
    token.split(|&byte| byte == b'/').next().is_some_and(|name| name.eq_ignore_ascii_case(b"h2c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_address_with_an_optional_port() {
        for good in ["a", "a.b-c_d~1:80", "127.0.0.1:8080", "[::1]", "[::1]:80", "a:"] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in
            ["", ":80", "a/b", "u@a", "a b", "a, b", "a:x", "a:99999", "[::1", "::1", "[a]", "é", "a?", "a#"]
        {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn connection_removes_what_it_nominates_but_never_what_is_said_about_the_client() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop, X-Forwarded-For, keep-alive"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("x-forwarded-for", "1.2.3.4"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers, true);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-forwarded-for"]);
    }

    #[test]
    fn h2c_is_no_upgrade() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade, HTTP2-Settings"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("h2c"));
        assert_eq!(upgrade_of(&headers), None);
        headers.insert(header::UPGRADE, HeaderValue::from_static("h2c, websocket"));
        assert_eq!(upgrade_of(&headers).as_ref().map(HeaderValue::as_bytes), Some(&b"websocket"[..]));
        headers.insert(header::UPGRADE, HeaderValue::from_static("H2C/1.0, x h2c, a:h2c, IRC/6.9"));
        assert_eq!(upgrade_of(&headers).as_ref().map(HeaderValue::as_bytes), Some(&b"IRC/6.9"[..]));
    }
}
