//! The URL of a question.

use super::request::Mistake;

/// The parts of a URL, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// Whether the scheme is https; without one it is http.
    pub(crate) https: bool,
    /// The host, and the port if there is one; `None` where only a path was given.
    pub(crate) authority: Option<&'a str>,
    /// The raw path, without query.
    pub(crate) path: &'a str,
    /// What follows `?`.
    pub(crate) query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads `http://host/path?query`, `host/path` or `/path`. A fragment is never sent.
    ///
    /// # Errors
    /// Another scheme, no host, a user name, or a character that no request target can carry.
    pub(crate) fn parse(url: &'a str) -> Result<Self, Mistake> {
        if let Some(bad) = url.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(Mistake(format!("the URL {url:?} has {bad:?}, which must be percent-encoded")));
        }
        let sent = url.split_once('#').map_or(url, |(sent, _)| sent);
        let (rest, query) = match sent.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (sent, None),
        };
        let (https, rest) = match rest.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, _)) if !scheme.contains('/') => {
                return Err(Mistake(format!("the URL {url:?} has the scheme {scheme:?}, not http or https")));
            }
            _ if rest.starts_with('/') => {
                return Ok(Self { https: false, authority: None, path: rest, query });
            }
            _ => (false, rest),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || authority.starts_with(':') {
            return Err(Mistake(format!("the URL {url:?} has no host")));
        }
        if authority.contains('@') {
            return Err(Mistake(format!("the URL {url:?} has a user name, which no request carries")));
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { https, authority: Some(authority), path, query })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_needs_neither_scheme_nor_host_nor_path() {
        for (url, https, authority, path, query) in [
            ("https://example.com/a?b=c#d", true, Some("example.com"), "/a", Some("b=c")),
            ("HTTP://example.com:80", false, Some("example.com:80"), "/", None),
            ("example.com?x", false, Some("example.com"), "/", Some("x")),
            ("example.com/r?u=http://x/?y", false, Some("example.com"), "/r", Some("u=http://x/?y")),
            ("/a/http://x", false, None, "/a/http://x", None),
            ("/a#b?c", false, None, "/a", None),
            ("/a?", false, None, "/a", Some("")),
            ("//a", false, None, "//a", None),
            ("[::1]:80/%2e", false, Some("[::1]:80"), "/%2e", None),
        ] {
            let expected = Target { https, authority, path, query };
            assert_eq!(Target::parse(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_no_request_can_carry_is_refused() {
        for url in ["ftp://a/", "http:///x", "http://u@a/", "a b/", "a/ü", "", "?x", "://x", ":80/"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
