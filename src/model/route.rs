//! Routes: which worker a request is for, by Cloudflare's route patterns.
//!
//! An exact host beats the longest `*.` suffix, which beats any host; then the longest path wins. The port is ignored.
//! Paths match byte for byte on the raw path, so where a route names a path, dot segments are refused: a backend that
//! resolves them would serve another route's path.

use std::collections::HashMap;
use std::fmt;

use super::percent;

/// A route pattern such as `example.com/*` or `*.example.com/shop/*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    host: Host,
    path: Path,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    Exact(Box<str>),
    /// Without the `*`: `.example.com`.
    Suffix(Box<str>),
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Path {
    text: Box<str>,
    /// Whether more may follow.
    prefix: bool,
}

impl Pattern {
    /// The pattern that matches every request.
    pub fn everything() -> Self {
        Self { host: Host::Any, path: Path { text: "/".into(), prefix: true } }
    }

    /// A pattern from its text. Hosts are compared without case.
    ///
    /// # Errors
    /// [`PatternError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.contains("://") {
            return Err(PatternError::Scheme);
        }
        let (host, path) = text.split_at(text.find('/').ok_or(PatternError::NoPath)?);
        Ok(Self { host: parse_host(host)?, path: parse_path(path)? })
    }
}

fn parse_host(text: &str) -> Result<Host, PatternError> {
    let text = text.to_ascii_lowercase();
    if text == "*" {
        return Ok(Host::Any);
    }
    let name = text.strip_prefix("*.").unwrap_or(&text);
    if name.contains('*') {
        return Err(PatternError::HostStar);
    }
    let address = name.starts_with('[') && name.ends_with(']');
    let characters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.contains(':') && !address {
        return Err(PatternError::Port);
    }
    if name.is_empty() || !(address || name.chars().all(characters)) || name.starts_with('.') {
        return Err(PatternError::Host);
    }
    let name = name.trim_end_matches('.');
    Ok(if text.starts_with("*.") {
        Host::Suffix(format!(".{name}").into())
    } else {
        Host::Exact(name.into())
    })
}

fn parse_path(text: &str) -> Result<Path, PatternError> {
    let (text, prefix) = text.strip_suffix('*').map_or((text, false), |text| (text, true));
    if text.contains('*') {
        return Err(PatternError::PathStar);
    }
    if text.contains(['?', '#']) {
        return Err(PatternError::Query);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(PatternError::PathCharacter);
    }
    if has_dot_segment(text) {
        return Err(PatternError::DotSegment);
    }
    Ok(Path { text: text.into(), prefix })
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Exact(name) => f.write_str(name)?,
            Host::Suffix(name) => write!(f, "*{name}")?,
            Host::Any => f.write_str("*")?,
        }
        write!(f, "{}{}", self.path.text, if self.path.prefix { "*" } else { "" })
    }
}

/// Why a text is not a route pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// It names a scheme.
    Scheme,
    /// There is no `/` after the host.
    NoPath,
    /// The host is empty or has a character that no host name has.
    Host,
    /// The host has a port.
    Port,
    /// A `*` stands in the host elsewhere than alone or before the first dot.
    HostStar,
    /// A `*` stands in the path elsewhere than at its end.
    PathStar,
    /// The path has a query or a fragment.
    Query,
    /// The path has a character that must be percent-encoded.
    PathCharacter,
    /// The path has a `.` or `..` segment.
    DotSegment,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "a route has no scheme: it matches http and https alike",
            Self::NoPath => "a route needs a path: end it with `/*` for every path",
            Self::Host => "the host is not a host name, `*.` and a host name, or `*`",
            Self::Port => "a route has no port: the port is ignored",
            Self::HostStar => "`*` may stand for the whole host or, as `*.`, before a host name",
            Self::PathStar => "`*` may stand only at the end of the path",
            Self::Query => "a route has no query and no fragment",
            Self::PathCharacter => "the path has a character that must be percent-encoded",
            Self::DotSegment => "the path has a `.` or `..` segment, which no request can match",
        })
    }
}

impl std::error::Error for PatternError {}

/// A request whose path has dot segments although routes name paths; the answer is 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DotSegments;

/// All routes, ready to be asked. Targets are indexes of the caller's choosing.
#[derive(Clone, Debug, Default)]
pub struct Router {
    exact: HashMap<Box<str>, Paths>,
    suffix: HashMap<Box<str>, Paths>,
    any: Paths,
}

/// The paths of one host, the longest first; of equals the exact one first.
#[derive(Clone, Debug, Default)]
struct Paths {
    targets: Vec<(Path, usize)>,
    /// Whether any is not `/*`.
    named: bool,
}

impl Router {
    /// A router of patterns and their targets. Of identical patterns the first counts; the caller refuses them.
    pub fn new(routes: impl IntoIterator<Item = (Pattern, usize)>) -> Self {
        let mut router = Self::default();
        for (pattern, target) in routes {
            let paths = match pattern.host {
                Host::Exact(name) => router.exact.entry(name).or_default(),
                Host::Suffix(name) => router.suffix.entry(name).or_default(),
                Host::Any => &mut router.any,
            };
            paths.named |= &*pattern.path.text != "/" || !pattern.path.prefix;
            paths.targets.push((pattern.path, target));
        }
        let all = router.exact.values_mut().chain(router.suffix.values_mut()).chain([&mut router.any]);
        for paths in all {
            paths.targets.sort_by_key(|(path, _)| (std::cmp::Reverse(path.text.len()), path.prefix));
        }
        router
    }

    /// The target of a request for an authority (with or without port) and a raw path.
    ///
    /// # Errors
    /// [`DotSegments`] where a route of this host names a path and the request's path has dot segments.
    pub fn route(&self, authority: &str, path: &str) -> Result<Option<usize>, DotSegments> {
        if self.exact.is_empty() && self.suffix.is_empty() {
            return find(std::iter::once(&self.any), path);
        }
        let mut buffer = [0; MAX_HOST];
        // A name that is too long to exist can only be matched by `*`.
        let host = lower(host_of(authority), &mut buffer).unwrap_or("");
        let suffixes = host.match_indices('.').filter_map(|(at, _)| self.suffix.get(&host[at..]));
        find(self.exact.get(host).into_iter().chain(suffixes).chain([&self.any]), path)
    }
}

/// The first target, of candidates in the order of their rank.
fn find<'a>(
    candidates: impl Iterator<Item = &'a Paths> + Clone,
    path: &str,
) -> Result<Option<usize>, DotSegments> {
    if candidates.clone().any(|paths| paths.named) && has_dot_segment(path) {
        return Err(DotSegments);
    }
    Ok(candidates.into_iter().find_map(|paths| paths.target(path)))
}

/// The longest host name (RFC 1035).
const MAX_HOST: usize = 255;

impl Paths {
    fn target(&self, path: &str) -> Option<usize> {
        let matches = |pattern: &Path| {
            if pattern.prefix { path.starts_with(&*pattern.text) } else { path == &*pattern.text }
        };
        // `OPTIONS *` has no path: it matches where every path does.
        let whole = |pattern: &Path| path == "*" && pattern.prefix && &*pattern.text == "/";
        self.targets.iter().find(|(pattern, _)| matches(pattern) || whole(pattern)).map(|(_, target)| *target)
    }
}

/// The host of an authority: without port, brackets kept, and without a final dot.
pub fn host_of(authority: &str) -> &str {
    let host = match authority.rfind(']') {
        Some(end) => &authority[..=end],
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// The text in lower case: itself where it is already; `None` where it does not fit the buffer.
fn lower<'a>(text: &'a str, buffer: &'a mut [u8; MAX_HOST]) -> Option<&'a str> {
    if text.len() > MAX_HOST {
        return None;
    }
    if !text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(text);
    }
    let copy = &mut buffer[..text.len()];
    copy.copy_from_slice(text.as_bytes());
    copy.make_ascii_lowercase();
    std::str::from_utf8(copy).ok()
}

/// Whether some backend could see a `.` or `..` segment in a raw path: encoded dots, encoded slashes and backslashes
/// are taken for what they stand for.
pub fn has_dot_segment(path: &str) -> bool {
    let bytes = path.as_bytes();
    if !bytes.iter().any(|&byte| byte == b'.' || byte == b'%') {
        return false;
    }
    let (mut dots, mut other, mut at) = (0, false, 0);
    while at <= bytes.len() {
        let decoded = percent::first(bytes.get(at..).unwrap_or_default());
        match decoded {
            Some((b'.', _)) => dots += 1,
            None | Some((b'/' | b'\\', _)) => {
                if !other && (dots == 1 || dots == 2) {
                    return true;
                }
                (dots, other) = (0, false);
            }
            Some(_) => other = true,
        }
        at += decoded.map_or(1, |(_, width)| width);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(patterns: &[&str]) -> Router {
        Router::new(patterns.iter().enumerate().map(|(i, text)| (Pattern::parse(text).unwrap(), i)))
    }

    #[test]
    fn an_exact_host_beats_the_longest_suffix_which_beats_any_host() {
        let router = router(&["*/*", "*.example.com/*", "*.shop.example.com/*", "a.shop.example.com/*"]);
        for (host, target) in [
            ("a.shop.example.com", 3),
            ("A.Shop.Example.COM:8080", 3),
            ("a.shop.example.com.", 3),
            ("b.shop.example.com", 2),
            ("shop.example.com", 1),
            ("example.com", 0),
            ("[::1]:80", 0),
            ("", 0),
        ] {
            assert_eq!(router.route(host, "/x"), Ok(Some(target)), "{host}");
        }
    }

    #[test]
    fn the_longest_path_wins_within_a_host_and_another_host_may_still_answer() {
        let router = router(&["a/shop/*", "a/shop/cart", "a/shop/cart*", "*/*"]);
        for (path, target) in [("/shop/x", 0), ("/shop/cart", 1), ("/shop/carts", 2), ("/shop", 3), ("/", 3)]
        {
            assert_eq!(router.route("a", path), Ok(Some(target)), "{path}");
        }
    }

    #[test]
    fn no_route_is_no_target() {
        assert_eq!(router(&["a/*"]).route("b", "/"), Ok(None));
    }

    #[test]
    fn dot_segments_are_refused_only_where_routes_name_paths() {
        let named = router(&["a/shop/*", "b/*"]);
        for path in ["/shop/../x", "/./", "/x/..", "/%2e%2E/x", "/shop/..%2fx", "/shop/.%2E\\x"] {
            assert_eq!(named.route("a", path), Err(DotSegments), "{path}");
            assert_eq!(named.route("b", path), Ok(Some(1)), "{path}");
        }
        for path in ["/shop/...", "/shop/a..b", "/shop/.well-known", "/shop/%2", "/shop/a.js"] {
            assert_eq!(named.route("a", path), Ok(Some(0)), "{path}");
        }
    }

    #[test]
    fn mistakes_in_patterns_are_told_apart() {
        for (text, error) in [
            ("https://a/*", PatternError::Scheme),
            ("a", PatternError::NoPath),
            ("/x", PatternError::Host),
            ("a b/*", PatternError::Host),
            ("a:80/*", PatternError::Port),
            ("*a/*", PatternError::HostStar),
            ("a/*/b", PatternError::PathStar),
            ("a/b?c", PatternError::Query),
            ("a/ü", PatternError::PathCharacter),
            ("a/../b", PatternError::DotSegment),
        ] {
            assert_eq!(Pattern::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn patterns_are_identical_whatever_the_case_of_their_host() {
        assert_eq!(Pattern::parse("A.b/*"), Pattern::parse("a.B/*"));
        assert_eq!(Pattern::parse("A.b/*").unwrap().to_string(), "a.b/*");
    }
}
