//! The gate: who may send keys and overrides.

use gradual::model::decision::{Policy, Reason, Selection, Senders, Sent};
use gradual::model::overrides::{Override, OverrideProblem};

use crate::fixture;

const KEY: &[u8] = b"user-123";

fn policy(keys: Senders, overrides: Senders) -> Policy {
    Policy { keys, overrides, ..fixture::policy("my-worker", &[("v1", 90_000), ("v2", 10_000)]) }
}

fn select<'a>(policy: &Policy, field: &'a [u8], trusted: bool) -> Selection<'a> {
    policy.select(&Sent { key: Some(KEY), overrides: Some(field), trusted, ..Sent::default() })
}

#[test]
fn anyone_means_every_client_trusted_means_trusted_proxies_never_means_none() {
    for (senders, untrusted, trusted) in
        [(Senders::Anyone, true, true), (Senders::Trusted, false, true), (Senders::Never, false, false)]
    {
        assert_eq!((senders.allow(false), senders.allow(true)), (untrusted, trusted), "{senders:?}");
    }
}

#[test]
fn a_key_from_a_sender_who_may_not_send_one_does_not_count() {
    for senders in [Senders::Anyone, Senders::Trusted, Senders::Never] {
        for trusted in [false, true] {
            let selection = select(&policy(senders, Senders::Anyone), b"", trusted);
            let allowed = senders.allow(trusted);
            assert_eq!(selection.key, allowed.then_some(KEY));
            let reason = if allowed { Reason::Key } else { Reason::Random };
            assert_eq!(selection.decision.reason, reason);
        }
    }
}

#[test]
fn an_override_from_a_sender_who_may_not_send_one_is_denied_and_the_key_decides() {
    for senders in [Senders::Anyone, Senders::Trusted, Senders::Never] {
        for trusted in [false, true] {
            let policy = policy(Senders::Anyone, senders);
            let selection = select(&policy, b"my-worker=\"v2\"", trusted);
            if senders.allow(trusted) {
                let member = policy.deployment.member("v2").unwrap();
                assert_eq!(selection.overridden, Override::Version(member));
                assert_eq!(selection.decision.reason, Reason::Override);
            } else {
                assert_eq!(selection.overridden, Override::Ignored(OverrideProblem::Denied));
                assert_eq!(selection.decision, select(&policy, b"", trusted).decision);
            }
        }
    }
}

#[test]
fn an_override_that_names_another_worker_is_not_reported_as_denied() {
    let policy = policy(Senders::Anyone, Senders::Never);
    assert_eq!(select(&policy, b"other=\"v2\"", false).overridden, Override::Absent);
}

#[test]
fn the_key_and_the_override_are_gated_apart() {
    let policy = policy(Senders::Never, Senders::Anyone);
    let selection = select(&policy, b"my-worker=\"v2\"", false);
    assert_eq!((selection.decision.reason, selection.key), (Reason::Override, None));
}

#[test]
fn the_key_is_known_also_where_an_override_decides() {
    let policy = policy(Senders::Anyone, Senders::Anyone);
    let selection = select(&policy, b"my-worker=\"v2\"", false);
    assert_eq!((selection.decision.reason, selection.key), (Reason::Override, Some(KEY)));
}
