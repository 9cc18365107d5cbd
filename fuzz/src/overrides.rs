//! Whatever a client sends as overrides: nothing panics, what is found is what the field says, and of a secret nothing is
//! left in what goes on.

use gradual::model::overrides::{Override, OverrideProblem, tokens};
use gradual::model::ring::{Member, Ring};
use gradual::model::secret::Secret;
use gradual::model::share::Share;

/// What tokens must be for an override to count.
const SECRET: &str = "0123456789abcdef";

/// The input is a field's value.
pub fn run(field: &[u8]) {
    let Ok(ring) = Ring::cumulative(b"a", &[Share::WHOLE]) else { return };
    let find = |id: &str| ring.member(id.len());
    let said = Override::parse(field, "a", find);
    let elsewhere = Override::parse(field, "b", |_| None);
    let invalid = Override::Ignored(OverrideProblem::Invalid);
    // A syntax error is one for every worker.
    assert_eq!(said == invalid, elsewhere == invalid);
    assert!(!matches!(elsewhere, Override::Version(_)));
    guarded(field, said, find);
    cut(field, said, find);
}

/// With a secret a field says the same as without, or is denied.
fn guarded(field: &[u8], said: Override, find: impl Fn(&str) -> Option<Member>) {
    let Some(secret) = Secret::new(SECRET.as_bytes()) else { return };
    let guarded = Override::guarded(field, "a", Some(&secret), find);
    let denied = Override::Ignored(OverrideProblem::Denied);
    assert!(guarded == said || (guarded == denied && said != Override::Absent), "{said:?} {guarded:?}");
    // No part of the secret is guessed. An escape would hide it from this look.
    let shown = field.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()) || field.contains(&b'\\');
    assert!(shown || !matches!(guarded, Override::Version(_)));
}

/// What is left without tokens says the same, has no token, and is the field with some parts taken out.
fn cut(field: &[u8], said: Override, find: impl Fn(&str) -> Option<Member>) {
    let invalid = Override::Ignored(OverrideProblem::Invalid);
    let Some(ranges) = tokens(field, "a") else { return assert_eq!(said, invalid) };
    assert_ne!(said, invalid);
    let (mut left, mut at) = (Vec::new(), 0);
    for range in ranges {
        assert!(at <= range.start && field[range.clone()].starts_with(b";"));
        let name = field[range.start + 1..].trim_ascii_start();
        assert!(name.starts_with(b"token"));
        left.extend_from_slice(&field[at..range.start]);
        at = range.end;
    }
    left.extend_from_slice(&field[at..]);
    assert_eq!(tokens(&left, "a"), Some(Vec::new()));
    assert_eq!(Override::parse(&left, "a", find), said);
}
