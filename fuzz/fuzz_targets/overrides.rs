//! Whatever a client sends as overrides: nothing panics, and what is found is what the field says.
#![no_main]

use gradual::model::overrides::{Override, OverrideProblem};
use gradual::model::ring::Ring;
use gradual::model::share::Share;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|field: &[u8]| {
    let Ok(ring) = Ring::cumulative(b"a", &[Share::WHOLE]) else { return };
    let said = Override::parse(field, "a", |id| ring.member(id.len()));
    let elsewhere = Override::parse(field, "b", |_| None);
    let invalid = Override::Ignored(OverrideProblem::Invalid);
    // A syntax error is one for every worker.
    assert_eq!(said == invalid, elsewhere == invalid);
    assert!(!matches!(elsewhere, Override::Version(_)));
});
