//! Whatever is written as a pattern and whatever is asked: nothing panics, and what a router says agrees with itself.
#![no_main]

use gradual::model::route::{DotSegments, Pattern, Router, has_dot_segment};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str, &str)| {
    let (patterns, authority, path) = input;
    let parsed: Vec<_> = patterns.split('\n').filter_map(|text| Pattern::parse(text).ok()).collect();
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
});
