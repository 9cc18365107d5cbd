//! What may be a credential, by its name.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

/// What stands in a value's place; Cloudflare's word.
pub(super) const REDACTED: &str = "REDACTED";

/// A field of this name may hold a credential where the name has one of these in it. Cloudflare hides cookies, and names
/// with `auth`, `key`, `secret` and `token`; the others are the names of the same things elsewhere.
const WORDS: [&str; 11] =
    ["cookie", "auth", "key", "secret", "token", "session", "passw", "pwd", "credential", "jwt", "signature"];
/// With these, names of parameters end that begin with one of those words.
const ENDS: [&str; 5] = ["password", "passwd", "tokens", "secrets", "credentials"];

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
    if name.as_str() == OVERRIDES && joined.contains(';') {
        return Cow::Borrowed(REDACTED);
    }
    // Some hold the URL of another request, such as the page before.
    match target(&joined) {
        Cow::Owned(shown) => Cow::Owned(shown),
        Cow::Borrowed(_) => joined,
    }
}

/// A target without the values of those parameters of its query whose name ends like that of a credential.
pub(super) fn target(target: &str) -> Cow<'_, str> {
    let Some((path, query)) = target.split_once('?') else { return Cow::Borrowed(target) };
    if !query.split(SEPARATORS).any(is_credential) {
        return Cow::Borrowed(target);
    }
    let mut shown = format!("{path}?");
    for part in query.split_inclusive(SEPARATORS) {
        let (parameter, separator) = part.split_at(part.trim_end_matches(SEPARATORS).len());
        match parameter.split_once('=') {
            Some((name, _)) if is_credential(parameter) => {
                shown.extend([name, "=", REDACTED]);
            }
            _ => shown.push_str(parameter),
        }
        shown.push_str(separator);
    }
    Cow::Owned(shown)
}

/// Between parameters of a query; a second `?` is none, but looks like one to people.
const SEPARATORS: [char; 3] = ['&', ';', '?'];

/// Whether a parameter of a query has a value that may be a credential.
fn is_credential(parameter: &str) -> bool {
    let Some((name, _)) = parameter.split_once('=') else { return false };
    let name = name.to_ascii_lowercase();
    // How some frameworks name the elements of a list.
    let name = name.trim_end_matches("[]").trim_end_matches("%5b%5d");
    WORDS.iter().chain(&ENDS).any(|word| name.ends_with(word))
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
    fn a_url_in_a_field_shows_no_credential() {
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static("referer");
        headers.insert(name.clone(), HeaderValue::from_static("https://h/cb?access_token=s3&a=1"));
        assert_eq!(field(&headers, &name), "https://h/cb?access_token=REDACTED&a=1");
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
            ("/?passwd=x&a=1?token=y;pwd=z", "/?passwd=REDACTED&a=1?token=REDACTED;pwd=REDACTED"),
            (
                "/?token[]=x&Token%5B%5D=y&credentials=z",
                "/?token[]=REDACTED&Token%5B%5D=REDACTED&credentials=REDACTED",
            ),
        ] {
            assert_eq!(target(sent), shown);
        }
    }
}
