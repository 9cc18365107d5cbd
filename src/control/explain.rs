//! Where a request would go and why, from a configuration alone: for `gradual explain` and the admin address.

mod request;
mod steps;
mod target;

use std::collections::BTreeMap;

use http::HeaderName;
use serde::Serialize;
use utoipa::ToSchema;

pub use self::request::{Mistake, Request};
pub(crate) use self::request::{Sender, field, method};
pub(crate) use self::steps::readable;
use self::target::Target;
use crate::config::{Config, Worker};
use crate::model::decision::{Policy, Reason};
use crate::model::name::VersionId;
use crate::model::overrides::Override;
use crate::model::ring::Arc;
use crate::model::route::Router;
use crate::model::secret::Secret;
use crate::model::share::Position;
use crate::rules::{Outcome, Rule};

/// A request to explain.
#[derive(Clone, Debug)]
pub struct Question {
    /// The worker's name; it then needs no route.
    pub worker: Option<String>,
    /// The request. Its URL may be absent where the worker is known without.
    pub request: Request,
}

/// Where a request goes, and why; borrows from the configuration and the question.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// The worker's settings, its deployment included.
    pub policy: &'a Policy,
    /// The version; `None` where a draw decides, or a key that the proxy makes.
    pub version: Option<&'a VersionId>,
    /// The version's tag.
    pub tag: Option<&'a str>,
    /// Why it goes there.
    pub reason: Reason,
    /// The key that counts, present also where an override decides; `None` also where the proxy makes one.
    pub key: Option<Vec<u8>>,
    /// Where the key comes from; `None` where there is none.
    pub key_from: Option<KeyFrom<'a>>,
    /// Whether a key was sent that does not count, because this sender may not send one.
    pub key_denied: bool,
    /// The name of the worker's affinity cookie.
    pub cookie: Option<&'a str>,
    /// The name of the object that the request is for.
    pub object: Option<Vec<u8>>,
    /// Where the object's name, else the key, falls on the ring; `None` where neither decides, or it is not known.
    pub position: Option<Position>,
    /// What the overrides field says for the worker.
    pub overridden: Override,
    /// Whether this sender may send overrides; where it may and one is denied, it did not show the secret.
    pub overrides_allowed: bool,
    /// What each of the worker's rules does to the request as it came, in order.
    pub rules: Vec<RuleRun<'a>>,
}

/// Where a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFrom<'a> {
    /// The key header that the client sends.
    Client,
    /// A rule, by its place from 0, sets the key header.
    Rule(usize),
    /// The affinity cookie of this name.
    Cookie(&'a str),
    /// The proxy makes one, and gives it to the client as the cookie of this name.
    Made(&'a str),
}

/// What a rule does to a request.
#[derive(Clone, Debug)]
pub struct RuleRun<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// Whether the request matches.
    pub matched: bool,
    /// What becomes of headers, where it does.
    pub edits: Vec<(HeaderName, Outcome)>,
}

/// Where a request would go, and why: exactly as the proxy decides it. What depends on the time or on random numbers is what
/// a request would meet that came now.
///
/// # Errors
/// The URL cannot be read, no worker has a route for it, none is given where several workers could be meant, or the secret
/// that an override must show cannot be read.
pub fn explain<'a>(config: &'a Config, question: &Question) -> Result<Answer<'a>, Mistake> {
    let request = &question.request;
    let target = request.target()?;
    let worker = worker(config, question, &target)?;
    steps::answer(worker, request, &target, &Sender::of(config, request))
}

/// What overrides for the worker must show, read only where there are any.
fn secret(worker: &Worker, needed: bool) -> Result<Option<Secret>, Mistake> {
    let file = worker.overrides_secret_file.as_ref().filter(|_| needed);
    let read = file.map(|file| crate::proxy::secret::read(file, "secret"));
    read.transpose().map_err(|error| Mistake(error.title))
}

fn tag<'a>(worker: &'a Worker, id: &VersionId) -> Option<&'a str> {
    let version = worker.versions.iter().find(|version| version.metadata.id == *id)?;
    version.metadata.tag.as_ref().map(|tag| tag.as_str())
}

/// The worker that is named, else that of the URL's route, else the only one.
fn worker<'a>(config: &'a Config, question: &Question, target: &Target<'_>) -> Result<&'a Worker, Mistake> {
    let workers = &config.workers;
    if let Some(name) = &question.worker {
        return workers
            .iter()
            .find(|worker| worker.policy.name.as_str() == name)
            .ok_or_else(|| Mistake(format!("there is no worker {name:?}; there is {}", names(workers))));
    }
    if question.request.url.is_none() {
        return match &workers[..] {
            [worker] => Ok(worker),
            _ => Err(Mistake(format!("give a URL, or one of the workers with --worker: {}", names(workers)))),
        };
    }
    route(workers, question.request.authority(target), target.path)
}

fn route<'a>(workers: &'a [Worker], authority: &str, path: &str) -> Result<&'a Worker, Mistake> {
    let patterns = workers.iter().enumerate();
    let router = Router::new(
        patterns.flat_map(|(at, worker)| worker.routes.iter().map(move |route| (route.clone(), at))),
    );
    match router.route(authority, path) {
        Ok(Some(at)) => workers.get(at).ok_or_else(|| Mistake("the route names no worker".into())),
        Ok(None) => Err(Mistake(format!(
            "no worker has a route for {authority}{path}: the proxy answers 404; there is {}",
            names(workers)
        ))),
        Err(_) => Err(Mistake(format!(
            "{path} has dot segments, and routes of this host name paths: the proxy answers 400"
        ))),
    }
}

fn names(workers: &[Worker]) -> String {
    let names: Vec<_> = workers.iter().map(|worker| worker.policy.name.as_str()).collect();
    names.join(", ")
}

/// What became of an override, in the words of the access log.
fn override_word(overridden: Override) -> Option<&'static str> {
    match overridden {
        Override::Absent => None,
        Override::Version(_) => Some("applied"),
        Override::Ignored(problem) => Some(problem.as_str()),
    }
}

impl Answer<'_> {
    /// The answer for machines, as [`Explained`] has it.
    pub fn to_json(&self) -> serde_json::Value {
        // What holds texts and numbers alone can always be written.
        serde_json::to_value(self.explained()).unwrap_or_default()
    }

    /// The answer for machines.
    pub fn explained(&self) -> Explained {
        let arc = |arc: &Arc| {
            let id = self.policy.deployment.version(arc.member).map(ToString::to_string);
            OwnedArc { version_id: id.unwrap_or_default(), from: arc.from, to: arc.to }
        };
        Explained {
            worker: self.policy.name.to_string(),
            version_id: self.version.map(ToString::to_string),
            reason: self.reason.as_str(),
            key: self.key_text(),
            position: self.position.map(Position::index),
            overridden: override_word(self.overridden),
            rules: self.rules.iter().map(ExplainedRule::from).collect(),
            ring: self.policy.deployment.ring.arcs().iter().map(arc).collect(),
        }
    }

    /// What the position is made of.
    fn key_text(&self) -> Option<String> {
        self.object.as_deref().or(self.key.as_deref()).map(|key| readable(key).into_owned())
    }
}

/// Where a request goes, and why, for machines. `version_id` and `position` are null where a draw decides, `position` also
/// where an override does; both, and `key`, are null beside the reason `key` where the proxy makes the key. What is not UTF-8
/// is U+FFFD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Explained {
    /// The worker.
    pub worker: String,
    /// The version; null where a draw decides, or a key that the proxy makes.
    pub version_id: Option<String>,
    /// Why it goes there: `object`, `override`, `asset`, `key` or `random`.
    pub reason: &'static str,
    /// What the position is made of: the key, for an object its name.
    pub key: Option<String>,
    /// Where the key falls on the ring, 0 to 99,999.
    pub position: Option<u32>,
    /// What became of the override: `applied`, or why it does not count; null where there is none.
    #[serde(rename = "override")]
    pub overridden: Option<&'static str>,
    /// What each rule does, in the order of the file.
    pub rules: Vec<ExplainedRule>,
    /// Who owns which positions.
    pub ring: Vec<OwnedArc>,
}

/// What a rule does to the request as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ExplainedRule {
    /// Whether the request matches.
    pub matched: bool,
    /// The headers that it changes by their names in lower case, with the new value, or null where the header is removed.
    pub set: BTreeMap<String, Option<String>>,
}

/// A part of the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OwnedArc {
    /// Whose it is.
    pub version_id: String,
    /// The first position.
    pub from: u32,
    /// The position behind the last.
    pub to: u32,
}

impl From<&RuleRun<'_>> for ExplainedRule {
    fn from(run: &RuleRun<'_>) -> Self {
        let edit = |(name, outcome): &(HeaderName, Outcome)| {
            let value = match outcome {
                Outcome::Set(value) => Some(readable(value.as_bytes()).into_owned()),
                Outcome::Remove | Outcome::Dropped => None,
            };
            (name.to_string(), value)
        };
        Self { matched: run.matched, set: run.edits.iter().map(edit).collect() }
    }
}
