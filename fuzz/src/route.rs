//! Whatever is written as a pattern and whatever is asked: nothing panics, and what a router says agrees with itself.

use gradual::model::route::{DotSegments, Pattern, Router, has_dot_segment};

/// The input's first line is an authority, the second a path, and each other one a pattern.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.split('\n');
    let (Some(authority), Some(path)) = (lines.next(), lines.next()) else { return };
    let parsed: Vec<_> = lines.filter_map(|text| Pattern::parse(text).ok()).collect();
    for pattern in &parsed {
        // What is written out is read back as the same pattern.
        assert_eq!(Pattern::parse(&pattern.to_string()).as_ref(), Ok(pattern));
    }
    let count = parsed.len();
    let routed =
        Router::new(parsed.into_iter().enumerate().map(|(at, pattern)| (pattern, at))).route(authority, path);
    match routed {
        Ok(target) => assert!(target.is_none_or(|at| at < count)),
        Err(DotSegments) => assert!(has_dot_segment(path)),
    }
}
