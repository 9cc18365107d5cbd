//! What may be a credential, by its name.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

/// What stands in a value's place; Cloudflare's word.
pub(super) const REDACTED: &str = "REDACTED";

/// A field of this name may hold a credential where the name has one of these in it. Cloudflare hides cookies, and names
/// with `auth`, `key`, `secret` and `token`; the others are the names of the same things elsewhere.
const WORDS: [&str; 10] =
    ["cookie", "auth", "key", "secret", "token", "session", "passw", "credential", "jwt", "signature"];

/// Chooses a worker's version by request; a member's parameter may be the secret that this asks for.
const OVERRIDES: &str = "cloudflare-workers-version-overrides";

/// All lines of a field, joined as RFC 9110 section 5.2 has it, or the word in their place.
pub(super) fn field<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Cow<'a, str> {
    // Names of fields are lower-case here.
    if WORDS.iter().any(|word| name.as_str().contains(word)) {
        return Cow::Borrowed(REDACTED);
    }
    let mut lines = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = lines.next().unwrap_or_default();
    let joined = lines.fold(first, |mut joined, line| {
        joined.to_mut().push_str(", ");
        joined.to_mut().push_str(&line);
        joined
    });
    if name.as_str() == OVERRIDES && joined.contains(';') { Cow::Borrowed(REDACTED) } else { joined }
}

/// A target without the values of those parameters of its query whose name ends like that of a credential.
pub(super) fn target(target: &str) -> Cow<'_, str> {
    let Some((path, query)) = target.split_once('?') else { return Cow::Borrowed(target) };
    if !query.split('&').any(is_credential) {
        return Cow::Borrowed(target);
    }
    let mut shown = format!("{path}?");
    for (at, parameter) in query.split('&').enumerate() {
        if at > 0 {
            shown.push('&');
        }
        match parameter.split_once('=') {
            Some((name, _)) if is_credential(parameter) => {
                shown.push_str(name);
                shown.push('=');
                shown.push_str(REDACTED);
            }
            _ => shown.push_str(parameter),
        }
    }
    Cow::Owned(shown)
}

/// Whether a parameter of a query has a value that may be a credential.
fn is_credential(parameter: &str) -> bool {
    let Some((name, _)) = parameter.split_once('=') else { return false };
    let ends = |word: &&str| {
        let name = name.as_bytes();
        name.len()
            .checked_sub(word.len())
            .and_then(|from| name.get(from..))
            .is_some_and(|end| end.eq_ignore_ascii_case(word.as_bytes()))
    };
    WORDS.iter().any(ends) || ends(&"password")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn fields_that_may_hold_credentials_are_not_shown() {
        let mut headers = HeaderMap::new();
        for name in [
            "cookie",
            "set-cookie",
            "authorization",
            "proxy-authorization",
            "x-api-key",
            "x-csrf-token",
            "my-secret-thing",
            "cloudflare-workers-version-key",
            "x-session-id",
        ] {
            let name = HeaderName::from_static(name);
            headers.insert(name.clone(), HeaderValue::from_static("opensesame"));
            assert_eq!(field(&headers, &name), REDACTED, "{name}");
        }
    }

    #[test]
    fn other_fields_are_shown_with_their_lines_joined() {
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static("accept");
        headers.append(name.clone(), HeaderValue::from_static("a"));
        headers.append(name.clone(), HeaderValue::from_bytes(b"b\xff").unwrap());
        assert_eq!(field(&headers, &name), "a, b\u{fffd}");
    }

    #[test]
    fn an_override_is_shown_where_it_shows_no_secret() {
        let name = HeaderName::from_static(OVERRIDES);
        let mut headers = HeaderMap::new();
        headers.insert(name.clone(), HeaderValue::from_static(r#"shop="v1""#));
        assert_eq!(field(&headers, &name), r#"shop="v1""#);
        headers.append(name.clone(), HeaderValue::from_static(r#"shop="v1";token="s""#));
        assert_eq!(field(&headers, &name), REDACTED);
    }

    #[test]
    fn parameters_of_a_query_that_may_be_credentials_lose_their_values_and_nothing_else_changes() {
        for (sent, shown) in [
            ("/a", "/a"),
            ("/a?", "/a?"),
            ("/a?keyword=x&tokens", "/a?keyword=x&tokens"),
            ("/a?b=1&access_token=s3&c", "/a?b=1&access_token=REDACTED&c"),
            ("/a?API_KEY=s=3&key=", "/a?API_KEY=REDACTED&key=REDACTED"),
            ("/?password=x&&a=?", "/?password=REDACTED&&a=?"),
        ] {
            assert_eq!(target(sent), shown);
        }
    }
}
