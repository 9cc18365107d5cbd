//! What rules cost: `cargo bench --bench rules`.
//!
//! The bar: the documented cookie rule, filter and value together, under 250 ns on a request with twelve headers.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use gradual::rules::{Expression, Facts, Filter, Scratch};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A request of a browser.
const LINES: [(&str, &str); 12] = [
    ("host", "www.example.com"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    ),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://www.example.com/shop"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "same-origin"),
    ("upgrade-insecure-requests", "1"),
    ("cache-control", "max-age=0"),
    (
        "cookie",
        "theme=dark; session_id=8521F670545D7865F79C3D7BEDC29CCE; user_id=6ba7b810-9dad-11d1-80b4-00c04fd430c8; version-key=abc",
    ),
];

fn lines() -> HeaderMap {
    let lines = LINES.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    lines.into_iter().collect()
}

fn rules(c: &mut Criterion) {
    let lines = lines();
    let facts = Facts {
        method: "GET",
        version: http::Version::HTTP_11,
        https: true,
        authority: "www.example.com",
        path: "/asset/img/logo.png",
        query: Some("section=539061"),
        lines: &lines,
        client: Some([203, 0, 113, 7].into()),
        time: Duration::from_secs(1_795_233_600),
        seed: [1, 2],
        ray: 3,
    };
    let path = (
        "starts_with(http.request.uri.path, \"/asset/\")",
        "regex_replace(http.request.uri.path, \"/asset/(.*)\", \"${1}\")",
    );
    for (name, (filter, value)) in [
        ("user cookie", ("http.cookie contains \"user_id\"", "http.request.cookies[\"user_id\"][0]")),
        (
            "session cookie",
            ("http.cookie contains \"session_id\"", "http.request.cookies[\"session_id\"][0]"),
        ),
        ("client address", ("true", "ip.src")),
        (
            "long-lived cookie",
            ("http.cookie contains \"version-key\"", "http.request.cookies[\"version-key\"][0]"),
        ),
        ("path regex", path),
    ] {
        let valid = "the documented expressions are valid";
        let (filter, value) = (Filter::parse(filter).expect(valid), Expression::parse(value).expect(valid));
        let mut scratch = Scratch::default();
        c.bench_function(&format!("rules/{name}"), |b| {
            b.iter(|| {
                let facts = black_box(&facts);
                filter.matches(facts, &mut scratch)
                    && value.value(facts, &mut scratch).map(black_box).is_some()
            });
        });
    }
}

criterion_group!(benches, rules);
criterion_main!(benches);
