//! Header lines that say the same whatever version of HTTP brought them.

use std::cell::OnceCell;
use std::fmt::{self, Debug, Formatter};

use http::header::{COOKIE, HOST};
use http::{HeaderMap, Version};

use super::Lines;

/// The header lines of a request, in which the version of HTTP makes no difference. The host that the request is for is its one
/// `Host` line, also where a target or `:authority` names it (RFC 9112 section 3.2.2, RFC 9113 section 8.3.1), and the crumbs of
/// a cookie are one line (RFC 9113 section 8.2.3). Everything is borrowed but several crumbs, which are joined when they are
/// first asked for as a line.
pub struct Uniform<'m> {
    headers: &'m HeaderMap,
    host: &'m str,
    in_crumbs: bool,
    cookie: OnceCell<Vec<u8>>,
}

impl<'m> Uniform<'m> {
    /// The lines of `headers`, brought by a version of HTTP; `host` is the one that the request is for, empty if none.
    pub fn new(headers: &'m HeaderMap, version: Version, host: &'m str) -> Self {
        let in_crumbs = version >= Version::HTTP_2 && headers.get_all(COOKIE).iter().nth(1).is_some();
        Self { headers, host, in_crumbs, cookie: OnceCell::new() }
    }

    /// The lines as they were sent.
    pub fn headers(&self) -> &'m HeaderMap {
        self.headers
    }

    /// The host that the request is for; empty if none.
    pub fn host(&self) -> &'m str {
        self.host
    }

    fn host_line(&self) -> Option<&'m [u8]> {
        Some(self.host.as_bytes()).filter(|host| !host.is_empty())
    }

    fn cookie_line(&self) -> &[u8] {
        self.cookie.get_or_init(|| {
            let crumbs: Vec<&[u8]> = self.headers.get_all(COOKIE).iter().map(AsRef::as_ref).collect();
            crumbs.join(&b"; "[..])
        })
    }
}

impl Lines for Uniform<'_> {
    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a str, &'a [u8])) {
        let mut host = self.host_line();
        if !self.headers.contains_key(HOST) {
            host.take().into_iter().for_each(|host| visit(HOST.as_str(), host));
        }
        let mut cookie = self.in_crumbs.then(|| self.cookie_line());
        for (name, value) in self.headers {
            match name.as_str() {
                "host" => host.take().into_iter().for_each(|host| visit("host", host)),
                "cookie" if self.in_crumbs => {
                    cookie.take().into_iter().for_each(|cookie| visit("cookie", cookie));
                }
                name => visit(name, value.as_bytes()),
            }
        }
    }

    fn each_of<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        match name {
            "host" => self.host_line().into_iter().for_each(visit),
            "cookie" if self.in_crumbs => visit(self.cookie_line()),
            _ => self.headers.each_of(name, visit),
        }
    }

    fn each_crumb<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8])) {
        self.headers.each_crumb(visit);
    }
}

impl Debug for Uniform<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // Header lines may hold secrets.
        f.debug_struct("Uniform").field("host", &self.host).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    /// All lines of a view.
    fn all(headers: &HeaderMap, version: Version, host: &str) -> Vec<String> {
        let (view, mut all) = (Uniform::new(headers, version, host), Vec::new());
        view.each(&mut |name, value| all.push(format!("{name}: {}", String::from_utf8_lossy(value))));
        for name in ["host", "cookie", "x-a"] {
            let mut of = Vec::new();
            view.each_of(name, &mut |value| of.push(format!("{name}: {}", String::from_utf8_lossy(value))));
            let same: Vec<_> = all.iter().filter(|line| line.starts_with(&format!("{name}: "))).collect();
            assert_eq!(of.iter().collect::<Vec<_>>(), same);
        }
        all
    }

    #[test]
    fn the_host_is_one_line_where_a_host_line_stood_or_else_the_first() {
        let without = map(&[("x-a", "1"), ("x-a", "2")]);
        assert_eq!(all(&without, Version::HTTP_2, "a.example"), ["host: a.example", "x-a: 1", "x-a: 2"]);
        assert_eq!(all(&without, Version::HTTP_10, ""), ["x-a: 1", "x-a: 2"]);
        let with = map(&[("x-a", "1"), ("host", "b"), ("host", "c"), ("cookie", "d=e")]);
        assert_eq!(all(&with, Version::HTTP_11, "a.example"), ["x-a: 1", "host: a.example", "cookie: d=e"]);
    }

    #[test]
    fn crumbs_are_one_line_and_lines_of_http_1_are_not_joined() {
        let headers = map(&[("cookie", "a=b"), ("x-a", "1"), ("cookie", "c=d"), ("cookie", "e")]);
        assert_eq!(all(&headers, Version::HTTP_2, ""), ["cookie: a=b; c=d; e", "x-a: 1"]);
        assert_eq!(all(&headers, Version::HTTP_11, "").len(), 4);
        let view = Uniform::new(&headers, Version::HTTP_2, "");
        let mut crumbs = 0;
        view.each_crumb(&mut |_| crumbs += 1);
        assert_eq!((crumbs, view.cookie.get()), (3, None), "who asks for cookies needs no line");
        assert_eq!(view.joined("cookie").as_deref(), Some(&b"a=b; c=d; e"[..]));
        assert_eq!(view.joined("host"), None);
    }
}
