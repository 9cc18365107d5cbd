//! What a decision costs: `cargo bench --bench decide`.
//!
//! The bars: a keyed decision under 60 ns, one with an overrides header under 250 ns.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use gradual::model::decision::{Policy, Senders, Sent};
use gradual::model::deployment::Deployment;
use gradual::model::name::{VersionId, WorkerName};
use gradual::model::ring::Ring;
use gradual::model::route::{Pattern, Router};
use gradual::model::share::Share;

const V1: &str = "db7cd8d3-4425-4fe7-8c81-01bf963b6067";
const V2: &str = "dc8dcd28-271b-4367-9840-6c244f84cb40";
const KEY: &[u8] = b"6ba7b810-9dad-11d1-80b4-00c04fd430c8";

/// Two versions, 10 % and 90 %.
fn policy() -> Policy {
    let valid = "the benchmark's own values are valid";
    let shares = [10_000, 90_000].map(|share| Share::from_thousandths(share).expect(valid));
    let deployment = Deployment {
        id: "d1".into(),
        created_on: None,
        author: None,
        source: None,
        message: None,
        versions: [V2, V1].map(|id| VersionId::new(id).expect(valid)).into(),
        ring: Ring::cumulative(b"my-worker", &shares).expect(valid),
    };
    let name = WorkerName::new("my-worker").expect(valid);
    Policy { name, keys: Senders::Anyone, overrides: Senders::Anyone, deployment }
}

fn router(count: usize) -> Router {
    let patterns = (0..count).map(|at| format!("host{at}.example.com/shop/*"));
    let patterns = patterns.chain(["*.example.com/*".to_owned(), "*/*".to_owned()]);
    Router::new(patterns.filter_map(|text| Pattern::parse(&text).ok()).enumerate().map(|(at, p)| (p, at)))
}

fn decide(c: &mut Criterion) {
    let policy = policy();
    let field = format!("my-worker=\"{V2}\"");
    let others = format!("api=\"{V1}\", blog=\"{V1}\", my-worker=\"{V2}\"");
    for (name, key, overrides) in [
        ("draw", None, None),
        ("key", Some(KEY), None),
        ("override", Some(KEY), Some(field.as_bytes())),
        ("override among three", Some(KEY), Some(others.as_bytes())),
    ] {
        let sent = Sent { key, overrides, draw: 1 << 63, ..Sent::default() };
        c.bench_function(&format!("decide/{name}"), |b| {
            b.iter(|| black_box(&policy).select(black_box(&sent)).decision);
        });
    }
}

fn route(c: &mut Criterion) {
    let (one, hundred) = (Router::new([(Pattern::everything(), 0)]), router(100));
    for (name, router, authority) in [
        ("everything", &one, "example.com:8080"),
        ("exact host of 100", &hundred, "host50.example.com:8080"),
        ("suffix among 100", &hundred, "a.b.example.com:8080"),
    ] {
        let path = black_box("/shop/cart/app.js");
        c.bench_function(&format!("route/{name}"), |b| b.iter(|| router.route(black_box(authority), path)));
    }
}

criterion_group!(benches, decide, route);
criterion_main!(benches);
