//! Routing against the rule as the specification words it.

use gradual::model::route::{DotSegments, Pattern, Router, has_dot_segment};
use proptest::prelude::*;

const HOSTS: [&str; 6] = ["*", "a.com", "b.a.com", "*.a.com", "*.b.a.com", "*.com"];
const PATHS: [&str; 6] = ["/*", "/", "/x*", "/x", "/x/*", "/x/y"];

/// How well a pattern fits: exact host, longest suffix, any host; then the longest path, exact before open.
fn fit(host: &str, path: &str, asked: (&str, &str)) -> Option<(usize, usize, bool)> {
    let host = match host.strip_prefix('*') {
        Some("") => 0,
        Some(suffix) => asked.0.ends_with(suffix).then_some(suffix.len())?,
        None => (asked.0 == host).then_some(usize::MAX)?,
    };
    match path.strip_suffix('*') {
        Some(prefix) => asked.1.starts_with(prefix).then_some((host, prefix.len(), false)),
        None => (asked.1 == path).then_some((host, path.len(), true)),
    }
}

proptest! {
    #[test]
    fn the_best_host_and_then_the_longest_path_wins(
        all in Just((0..36).collect::<Vec<usize>>()).prop_shuffle(), count in 0..36_usize,
        host in prop::sample::select(&["a.com", "b.a.com", "c.b.a.com", "com", "xa.com", "c.com", ""][..]),
        path in prop::sample::select(&["/", "/x", "/xy", "/x/", "/x/y", "/x/y/z", "/y"][..]),
        port in prop::sample::select(&["", ":80", ":"][..]), upper: bool,
    ) {
        let patterns: Vec<_> = all[..count].iter().map(|at| (HOSTS[at % 6], PATHS[at / 6])).collect();
        let parsed = patterns.iter().map(|(host, path)| Pattern::parse(&format!("{host}{path}")).unwrap());
        let router = Router::new(parsed.enumerate().map(|(at, pattern)| (pattern, at)));
        let fits = patterns.iter().enumerate().filter_map(|(at, p)| Some((fit(p.0, p.1, (host, path))?, at)));
        let best = fits.max().map(|(_, at)| at);
        let asked = if upper { host.to_uppercase() } else { host.to_owned() };
        prop_assert_eq!(router.route(&format!("{asked}{port}"), path), Ok(best));
    }

    #[test]
    fn a_pattern_is_read_back_as_it_is_written(text in "(\\*\\.?|)[a-zA-Z0-9._:\\[\\]-]{0,9}/[!-~]{0,9}\\*?") {
        if let Ok(pattern) = Pattern::parse(&text) {
            prop_assert_eq!(Pattern::parse(&pattern.to_string()), Ok(pattern));
        }
    }

    #[test]
    fn no_authority_and_no_path_makes_routing_panic(authority: String, path: String) {
        let router = Router::new([(Pattern::parse("*.a.com/x").unwrap(), 0), (Pattern::everything(), 1)]);
        match router.route(&authority, &path) {
            Ok(target) => prop_assert!(target.is_none_or(|target| target < 2)),
            Err(DotSegments) => prop_assert!(has_dot_segment(&path)),
        }
    }
}
