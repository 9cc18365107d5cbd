//! The URL of a question.

use super::Mistake;

/// The parts of a URL that routing needs, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// The host, and the port if there is one; `None` where only a path was given.
    pub(super) authority: Option<&'a str>,
    /// The raw path, without query.
    pub(super) path: &'a str,
    /// What follows `?`, without fragment.
    pub(super) query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads `http://host/path`, `host/path` or `/path`; the query plays no part in routing, and the fragment in nothing.
    ///
    /// # Errors
    /// Another scheme, no host, a user name, or a character that no request target can carry.
    pub(super) fn parse(url: &'a str) -> Result<Self, Mistake> {
        if let Some(bad) = url.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(Mistake(format!("the URL {url:?} has {bad:?}, which must be percent-encoded")));
        }
        let whole = url.split('#').next().unwrap_or_default();
        let (rest, query) = whole.split_once('?').map_or((whole, None), |(rest, query)| (rest, Some(query)));
        let rest = match rest.split_once("://") {
            Some((scheme, rest)) if matches!(&*scheme.to_ascii_lowercase(), "http" | "https") => rest,
            Some((scheme, _)) if !scheme.contains('/') => {
                return Err(Mistake(format!("the URL {url:?} has the scheme {scheme:?}, not http or https")));
            }
            _ if rest.starts_with('/') => return Ok(Self { authority: None, path: rest, query }),
            _ => rest,
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || authority.starts_with(':') {
            return Err(Mistake(format!("the URL {url:?} has no host")));
        }
        if authority.contains('@') {
            return Err(Mistake(format!("the URL {url:?} has a user name, which no request carries")));
        }
        Ok(Self { authority: Some(authority), path: if path.is_empty() { "/" } else { path }, query })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_needs_neither_scheme_nor_host_nor_path() {
        for (url, authority, path, query) in [
            ("https://example.com/a?b=c#d", Some("example.com"), "/a", Some("b=c")),
            ("HTTP://example.com:80", Some("example.com:80"), "/", None),
            ("example.com?x", Some("example.com"), "/", Some("x")),
            ("example.com/r?u=http://x/", Some("example.com"), "/r", Some("u=http://x/")),
            ("/a/http://x", None, "/a/http://x", None),
            ("/a#b?c", None, "/a", None),
            ("//a?b?c", None, "//a", Some("b?c")),
            ("[::1]:80/%2e", Some("[::1]:80"), "/%2e", None),
        ] {
            assert_eq!(Target::parse(url), Ok(Target { authority, path, query }), "{url}");
        }
    }

    #[test]
    fn what_no_request_can_carry_is_refused() {
        for url in ["ftp://a/", "http:///x", "http://u@a/", "a b/", "a/ü", "", "?x", "://x", ":80/"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
