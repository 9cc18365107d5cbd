//! Which headers a rule may change, and to what.

use http::{HeaderName, HeaderValue};

use super::mistake::Mistake;
use crate::diag::quoted;
use crate::model::head::trim_ows;

/// The most bytes of a header's value, as with Cloudflare.
pub const MOST_VALUE: usize = 4096;
/// The most bytes of a header's name.
const MOST_NAME: usize = 256;

/// A header's name, for a rule that sets or (`removes`) removes it.
///
/// # Errors
/// It is no name, or one that no rule may change so.
pub fn name(text: &str, removes: bool) -> Result<HeaderName, Mistake> {
    let all = 0..text.len();
    if text.is_empty() {
        return Err(Mistake::new("the name of a header is empty", all));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if let Some((at, c)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
        let mistake =
            Mistake::new(format!("{} is not the name of a header", quoted(text)), at..at + c.len_utf8());
        return Err(mistake
            .label(format!("{c:?} is not allowed here"))
            .expected("letters, digits, `-` and `_`"));
    }
    if text.len() > MOST_NAME {
        return Err(Mistake::new("the name of the header is too long", all)
            .expected(format!("at most {MOST_NAME} characters")));
    }
    let lower = text.to_ascii_lowercase();
    if let Some(why) = forbidden(&lower, removes) {
        let verb = if removes { "remove" } else { "set" };
        return Err(Mistake::new(format!("a rule may not {verb} {}", quoted(text)), all).label(why));
    }
    HeaderName::from_bytes(lower.as_bytes())
        .map_err(|_| Mistake::new(format!("{} is not the name of a header", quoted(text)), all))
}

/// Why no rule may change a header so; `None` where one may.
fn forbidden(name: &str, removes: bool) -> Option<&'static str> {
    match name {
        "cf-connecting-ip" if removes => None,
        _ if name.starts_with("cf-") || name.starts_with("x-cf-") => {
            Some("Cloudflare keeps this name for itself")
        }
        _ if name.starts_with("gradual-") => Some("gradual sets this header itself"),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding"
        | "upgrade" | "http2-settings" => Some("it belongs to the connection, not to the request"),
        "content-length" | "expect" => Some("it says how the body is sent"),
        "via" => Some("gradual needs it to notice loops"),
        "host" => Some("it says where the request goes; see `upstream_host`"),
        _ if name.starts_with("sec-websocket-") => Some("it belongs to the WebSocket's handshake"),
        _ if removes => None,
        "cookie" => Some("a request's cookies are its client's"),
        "true-client-ip" => Some("applications trust it to say where a request comes from"),
        "forwarded" | "x-real-ip" => Some("gradual says itself where a request comes from"),
        _ if name.starts_with("x-forwarded-") => Some("gradual says itself where a request comes from"),
        _ if of_browsers(name) => Some("only the client can know it"),
        _ => None,
    }
}

/// The request headers that the Fetch standard forbids scripts to set, apart from those above.
fn of_browsers(name: &str) -> bool {
    matches!(
        name,
        "accept-charset"
            | "accept-encoding"
            | "access-control-request-headers"
            | "access-control-request-method"
            | "cookie2"
            | "date"
            | "dnt"
            | "origin"
            | "referer"
            | "set-cookie"
    ) || name.starts_with("proxy-")
        || name.starts_with("sec-")
}

/// A value that the file says.
///
/// # Errors
/// It can stand in no header, or is empty.
pub fn value(text: &str) -> Result<HeaderValue, Mistake> {
    let all = 0..text.len();
    if text.is_empty() {
        let mistake = Mistake::new("the value is empty", all);
        return Err(mistake.help("`operation = \"remove\"` removes the header"));
    }
    let allowed = |c: char| matches!(c, ' '..='~' | '\t');
    if let Some((at, c)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
        let mistake = Mistake::new("the value can stand in no header", at..at + c.len_utf8());
        return Err(mistake
            .label(format!("{c:?} is not allowed"))
            .expected("visible ASCII, spaces and tabs"));
    }
    if text.len() > MOST_VALUE {
        let label = format!("it has {} bytes", text.len());
        let mistake = Mistake::new("the value is too long", all).label(label);
        return Err(mistake.expected(format!("at most {MOST_VALUE} bytes")));
    }
    if trim_ows(text.as_bytes()).len() != text.len() {
        let mistake = Mistake::new("the value begins or ends with a space", all);
        return Err(mistake.label("such spaces are no part of a header's value").help("leave them out"));
    }
    HeaderValue::from_str(text).map_err(|_| Mistake::new("the value can stand in no header", all))
}

/// A value of a request's own, without white space at its ends; `None` where it can stand in no header.
pub(super) fn computed(value: &[u8]) -> Option<HeaderValue> {
    let short = value.len() <= MOST_VALUE;
    if short { HeaderValue::from_bytes(value).ok() } else { None }
}
