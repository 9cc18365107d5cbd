//! Whatever lines a request's head has: nothing panics, what is refused is refused for a client's mistake, and what goes
//! on has nothing of this hop, nothing that only the proxy may say, and everything else as it was.

use gradual::proxy::fuzzing::{prepare_request, prepare_response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};

/// The input is a request line (method, target, and the version's last digits) and header lines.
pub fn run(input: &[u8]) {
    let Some(parts) = parse(input) else { return };
    for trusted in [false, true] {
        request(&parts, trusted);
    }
    let mut response = parts.headers.clone();
    if prepare_response(&mut response) {
        no_hop_by_hop(&response);
        kept(&parts.headers, &response);
        assert!(!response.contains_key("gradual-version") && !response.contains_key("gradual-error"));
    }
}

fn parse(input: &[u8]) -> Option<Parts> {
    let mut lines = input.split(|&byte| byte == b'\n');
    let mut words = lines.next()?.split(|&byte| byte == b' ');
    let request = Request::builder().method(words.next()?).uri(words.next()?);
    let mut parts = request.body(()).ok()?.into_parts().0;
    parts.version = match words.next() {
        Some(b"1.0") => Version::HTTP_10,
        Some(b"2") => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    for line in lines {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            parts.headers.append(name, value);
        }
    }
    Some(parts)
}

fn request(original: &Parts, trusted: bool) {
    let mut parts = original.clone();
    let address = HeaderValue::from_static("192.0.2.7");
    let host = match prepare_request(&mut parts, trusted, Some(&address)) {
        Ok(host) => host,
        Err((status, reason)) => {
            assert!(matches!(status, 400 | 508), "{status} {reason}");
            return;
        }
    };
    if let Some(host) = &host {
        assert!(
            !host.is_empty() && !host.as_bytes().iter().any(|byte| b"/@, ?#\\".contains(byte)),
            "{host:?}"
        );
    }
    assert!(host.is_some() || original.version == Version::HTTP_10);
    let (before, after) = (&original.headers, &parts.headers);
    no_hop_by_hop(after);
    kept(before, after);
    assert!(!after.keys().any(|name| name.as_str().starts_with("gradual-")));
    for name in
        ["cloudflare-workers-version-key", "cloudflare-workers-version-overrides", "host", "authorization"]
    {
        same(before, after, name);
    }
    assert!(after.get_all("cookie").iter().count() <= 1);
    assert_eq!(after.get_all("via").iter().count(), before.get_all("via").iter().count() + 1);
    assert!(after.contains_key("x-forwarded-proto") && !after.contains_key("http2-settings"));
    forwarded(before, after, trusted, &address);
}

fn forwarded(before: &HeaderMap, after: &HeaderMap, trusted: bool, address: &HeaderValue) {
    let chain: Vec<_> = after.get_all("x-forwarded-for").iter().collect();
    assert_eq!(chain.len(), 1);
    assert!(chain[0].as_bytes().ends_with(address.as_bytes()));
    if trusted {
        let said: Vec<_> = before.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes).collect();
        assert!(chain[0].as_bytes().starts_with(&said.join(&b", "[..])));
        same(before, after, "forwarded");
    } else {
        assert_eq!(chain[0], address);
        assert_eq!(after["x-forwarded-proto"], "http");
        let claims = |name: &HeaderName| {
            let name = name.as_str();
            let ours = matches!(name, "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host");
            name == "forwarded" || name == "x-real-ip" || (name.starts_with("x-forwarded-") && !ours)
        };
        assert!(!after.keys().any(claims), "{after:?}");
    }
}

fn no_hop_by_hop(headers: &HeaderMap) {
    for name in ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"] {
        assert!(!headers.contains_key(name), "{name}");
    }
}

/// Lines of custom names go on unless `Connection` nominates them, and then they do not.
fn kept(before: &HeaderMap, after: &HeaderMap) {
    let nominated: Vec<Vec<u8>> = before
        .get_all("connection")
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(|token| token.trim_ascii().to_ascii_lowercase())
        .collect();
    for name in before.keys().map(HeaderName::as_str) {
        if !name.starts_with("x-") || name.starts_with("x-forwarded-") || name == "x-real-ip" {
            continue;
        }
        match nominated.iter().any(|token| token == name.as_bytes()) {
            true => assert!(!after.contains_key(name), "{name}"),
            false => same(before, after, name),
        }
    }
}

fn same(before: &HeaderMap, after: &HeaderMap, name: &str) {
    assert!(before.get_all(name).iter().eq(after.get_all(name).iter()), "{name}: {before:?} {after:?}");
}
