//! The way of a request to its version, step by step as in `proxy::steering`.

use std::borrow::Cow;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::request::{Mistake, Request, Sender};
use super::target::Target;
use super::{Answer, KeyFrom, RuleRun};
use crate::config::{Affinity, Assets, Worker};
use crate::model::affinity;
use crate::model::assets::DEPLOYMENT_HEADER;
use crate::model::decision::{Origin, Reason, Ruled, Selection, Sent};
use crate::model::head::{KEY_HEADER, Lines};
use crate::model::overrides::OVERRIDES_HEADER;
use crate::model::ring::Member;
use crate::proxy::is_asset;
use crate::rules::{Facts, Outcome, Scratch};

/// Where a request to a worker goes: the gate, the rules, then the decision.
pub(super) fn answer<'a>(
    worker: &'a Worker,
    request: &Request,
    target: &Target<'_>,
    sender: &Sender<'_>,
) -> Result<Answer<'a>, Mistake> {
    let policy = &worker.policy;
    let trusted = sender.is_trusted();
    let mut headers = request.headers.clone();
    let refused = headers.joined(OVERRIDES_HEADER);
    let denied = refused.is_some_and(|field| policy.denies(&field, trusted));
    let key_denied = headers.contains_key(KEY_HEADER) && !policy.keys.allow(trusted);
    gate(worker, trusted, &mut headers);
    let lines = request.lines(target, &headers);
    let facts = request.facts(target, &lines, sender);
    let object = object(worker, &facts);
    let rules = run(worker, &facts);
    let cookie = worker.affinity.as_ref();
    let kept = cookie.is_some_and(|cookie| affinity::is_kept(&cookie.cookie, facts.https));
    let value = cookie.and_then(|cookie| affinity::find(&headers, &cookie.cookie)).map(<[u8]>::to_vec);
    let assets = worker.assets.as_ref().filter(|assets| assets.matches(target.path));
    let receives = kept && assets.is_none() && receives(request, target, &headers);
    let mut pin = assets.and_then(|assets| pinned(assets, request, target, &headers));
    let ruled = apply(&rules, &mut headers);
    if edits(&rules, DEPLOYMENT_HEADER) {
        pin = assets.and_then(|assets| pinned(assets, request, target, &headers));
    }
    let overrides = headers.joined(OVERRIDES_HEADER);
    let secret = super::secret(worker, overrides.is_some())?;
    let key = headers.joined(KEY_HEADER);
    let sent = Sent {
        key: key.as_deref(),
        overrides: overrides.as_deref(),
        ruled,
        denied,
        trusted,
        secret: secret.as_ref(),
        object: object.as_deref(),
        pinned: pin,
        cookie: value.as_deref(),
        // Any id: where it falls on the ring is not said.
        made: (value.is_none() && receives).then_some(b"id"),
        ..Sent::default()
    };
    let Selection { decision, overridden, key, origin } = policy.select(&sent);
    let made = origin == Origin::Made;
    let known = decision.reason != Reason::Random && !made;
    let version = worker.in_use().nth(decision.member.index()).filter(|_| known);
    let version = version.map(|(_, version)| &version.metadata.id);
    Ok(Answer {
        policy,
        version,
        tag: version.and_then(|id| super::tag(worker, id)),
        reason: decision.reason,
        key: key.filter(|_| !made).map(<[u8]>::to_vec),
        key_from: key.map(|_| key_from(origin, ruled, &rules, cookie)),
        key_denied,
        object,
        cookie: cookie.map(|cookie| cookie.cookie.as_str()),
        position: decision.position.filter(|_| !made),
        overridden,
        overrides_allowed: policy.overrides.allow(trusted),
        rules,
    })
}

/// What the sender may not send is not seen by rules, nor does it go on.
fn gate(worker: &Worker, trusted: bool, headers: &mut HeaderMap) {
    if !worker.policy.keys.allow(trusted) {
        headers.remove(KEY_HEADER);
    }
    if !worker.policy.overrides.allow(trusted) {
        headers.remove(OVERRIDES_HEADER);
    }
    let ours = headers.keys().filter(|name| name.as_str().starts_with("gradual-"));
    for name in ours.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// The name of the object that the request is for.
fn object(worker: &Worker, facts: &Facts<'_>) -> Option<Vec<u8>> {
    let mut scratch = Scratch::default();
    let name = worker.objects.as_ref()?.key.value(facts, &mut scratch)?;
    (!name.is_empty()).then(|| name.to_vec())
}

/// The version that a request for an asset names.
fn pinned(assets: &Assets, request: &Request, target: &Target<'_>, headers: &HeaderMap) -> Option<Member> {
    let header = headers.get(DEPLOYMENT_HEADER).map(HeaderValue::as_bytes);
    assets.pinned(request.method.as_str(), header, target.query)
}

/// What each rule says of the request as it came.
fn run<'a>(worker: &'a Worker, facts: &Facts<'_>) -> Vec<RuleRun<'a>> {
    let mut scratch = Scratch::default();
    let rules = worker.rules.iter();
    let matches = rules.map(|rule| {
        let matched = rule.enabled && rule.filter.matches(facts, &mut scratch);
        RuleRun { rule, matched, edits: Vec::new() }
    });
    let mut runs: Vec<_> = matches.collect();
    worker.rules.run(facts, &mut scratch, &mut |number, name, outcome| {
        if let Some(run) = runs.get_mut(number) {
            run.edits.push((name.clone(), outcome));
        }
    });
    runs
}

fn apply(rules: &[RuleRun<'_>], headers: &mut HeaderMap) -> Ruled {
    let mut ruled = Ruled::default();
    for (name, outcome) in rules.iter().flat_map(|run| &run.edits) {
        outcome.clone().apply(name.clone(), headers, &mut ruled);
    }
    ruled
}

/// Whether any rule that matches edits a header.
fn edits(rules: &[RuleRun<'_>], name: &str) -> bool {
    rules.iter().flat_map(|run| &run.edits).any(|(edited, _)| edited == name)
}

/// Whether the request's client can receive the affinity cookie.
fn receives(request: &Request, target: &Target<'_>, headers: &HeaderMap) -> bool {
    affinity::can_receive(request.method.as_str(), headers) && !is_asset(target.path)
}

fn key_from<'a>(
    origin: Origin,
    ruled: Ruled,
    rules: &[RuleRun<'_>],
    cookie: Option<&'a Affinity>,
) -> KeyFrom<'a> {
    let name = cookie.map_or("", |cookie| cookie.cookie.as_str());
    match origin {
        Origin::Cookie => KeyFrom::Cookie(name),
        Origin::Made => KeyFrom::Made(name),
        Origin::Header if ruled.key => {
            let sets = |(name, outcome): &(HeaderName, Outcome)| {
                name == KEY_HEADER && matches!(outcome, Outcome::Set(_))
            };
            KeyFrom::Rule(rules.iter().rposition(|run| run.edits.iter().any(sets)).unwrap_or_default())
        }
        Origin::Header => KeyFrom::Client,
    }
}

/// A header's value as text; U+FFFD for what is not UTF-8.
pub(crate) fn readable(value: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(value)
}
