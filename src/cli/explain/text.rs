//! The answer for people.

use std::fmt::Write;

use crate::diag::visible;
use crate::model::affinity::wants_https;
use crate::model::decision::{Reason, Senders};
use crate::model::name::VersionId;
use crate::model::overrides::{Override, OverrideProblem};
use crate::model::ring::percentage;
use crate::rules::{Operation, Outcome};

use super::{Answer, KeyFrom, RuleRun};
use crate::control::explain::readable;

impl Answer<'_> {
    /// The answer for people: what decides and why, the ring, and what it takes to recompute the position.
    pub fn to_text(&self) -> String {
        let rows = [
            ("worker", self.policy.name.to_string()),
            ("version", self.version_text()),
            ("reason", self.reason_text().to_owned()),
        ];
        let later =
            [("key", self.key_row()), ("position", self.position_text()), ("override", self.override_text())];
        let mut text = String::new();
        let object = self.object.as_deref().map(|name| ("object", format!("{:?}", readable(name))));
        for (name, value) in rows.into_iter().chain(object).chain(later) {
            let _ = writeln!(text, "{name:<9} {value}");
        }
        self.rules_text(&mut text);
        let _ = writeln!(text, "\nring of deployment {}:", self.policy.deployment.id);
        self.ring_text(&mut text);
        let salt = String::from_utf8_lossy(self.policy.deployment.ring.salt());
        let hashed = if self.reason == Reason::Object { "object" } else { "key" };
        let _ = writeln!(text, "\nposition = (XXH3-64({hashed}, seed) * 100000) >> 64");
        let _ = write!(text, "seed     = XXH3-64({salt:?}), which is the salt");
        text
    }

    fn version_text(&self) -> String {
        match (self.version, self.tag) {
            (Some(id), Some(tag)) => format!("{id} ({tag})"),
            (Some(id), None) => id.to_string(),
            (None, _) if self.is_made() => {
                "that of the id which the proxy makes: another one for each client, by the percentages below"
                    .to_owned()
            }
            (None, _) => "drawn anew for each request, by the percentages below".to_owned(),
        }
    }

    fn reason_text(&self) -> &'static str {
        match self.reason {
            Reason::Object => "object: the position of the object's name on the ring decides",
            Reason::Override => "override: the request names the version",
            Reason::Asset => "asset: the request names the version that its page came from",
            Reason::Key if self.is_made() => {
                "key: the proxy makes an id, and its position on the ring decides"
            }
            Reason::Key => "key: the version key's position on the ring decides",
            Reason::Random => "random: no override applies and there is no key",
            // Never said here: what is down is known to a running proxy alone.
            Reason::Failover => "failover: the version that was chosen is down",
        }
    }

    fn key_row(&self) -> String {
        let key = self.key.as_deref().map(readable).unwrap_or_default();
        match self.key_from {
            Some(KeyFrom::Client) => format!("{key:?}"),
            Some(KeyFrom::Rule(place)) => format!("{key:?}, which rule {} sets", place + 1),
            Some(KeyFrom::Cookie(name)) => format!("{key:?}, from the cookie {name}"),
            Some(KeyFrom::Made(name)) => {
                format!("made by the proxy, which gives it to the client as the cookie {name}")
            }
            None if self.key_denied => format!("ignored: {}", denied("keys", self.policy.keys)),
            None => match self.cookie {
                Some(name) if self.reason == Reason::Random => {
                    let https = if wants_https(name) { " over https, as the name demands" } else { "" };
                    format!("none, and no valid cookie {name}; the request asks for no page{https}")
                }
                Some(name) => format!("none, and no valid cookie {name}"),
                None => "none".to_owned(),
            },
        }
    }

    /// Whether the proxy makes the key.
    fn is_made(&self) -> bool {
        matches!(self.key_from, Some(KeyFrom::Made(_)))
    }

    fn position_text(&self) -> String {
        match self.position {
            Some(position) => format!("{} of 100000", position.index()),
            None if self.is_made() => "that of the id".to_owned(),
            None => "none: no key decides".to_owned(),
        }
    }

    fn override_text(&self) -> String {
        let problem = match self.overridden {
            Override::Absent => return "none for this worker".to_owned(),
            Override::Version(_) => return "applied".to_owned(),
            Override::Ignored(problem) => problem,
        };
        let why = match problem {
            OverrideProblem::Invalid => {
                "the header is not a Dictionary of RFC 8941: all of it counts for nothing"
            }
            OverrideProblem::NotAString => {
                "this worker's member is not a String: put the id in double quotes"
            }
            OverrideProblem::NotInDeployment => "the active deployment has no version of that id",
            OverrideProblem::Denied if self.overrides_allowed => {
                "its parameter `token` does not show this worker's secret"
            }
            OverrideProblem::Denied => &denied("overrides", self.policy.overrides),
            OverrideProblem::Object => "the request is for an object, which has one version",
        };
        format!("ignored ({}): {why}", problem.as_str())
    }

    fn rules_text(&self, text: &mut String) {
        if self.rules.is_empty() {
            return;
        }
        let _ = writeln!(text, "\nrules, on the request as it came:");
        for (place, run) in self.rules.iter().enumerate() {
            let matched = match (run.rule.enabled, run.matched) {
                (false, _) => "disabled",
                (true, true) => "matched",
                (true, false) => "no match",
            };
            // A filter may be written over several lines.
            let filter = run.rule.filter.source().split('\n').map(str::trim);
            let filter = filter.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
            let _ = writeln!(text, "  {:>3}  {matched:<8}  {}", place + 1, visible(&filter));
            run.edits_text(text);
        }
    }

    fn ring_text(&self, text: &mut String) {
        let deployment = &self.policy.deployment;
        for arc in deployment.ring.arcs() {
            let id = deployment.version(arc.member).map_or("", VersionId::as_str);
            let share = percentage(u64::from(arc.to - arc.from));
            let _ = writeln!(text, "  {:>6} to {:>5}  {share:>6} %  {id}", arc.from, arc.to - 1);
        }
        for (id, share) in deployment.versions.iter().zip(deployment.ring.shares()) {
            if share.is_zero() {
                let _ = writeln!(text, "  {:>15}  {:>6} %  {id}", "by override", 0);
            }
        }
    }
}

impl RuleRun<'_> {
    fn edits_text(&self, text: &mut String) {
        for (name, outcome) in &self.edits {
            let operation = self.rule.edits.iter().find(|edit| edit.name == *name);
            let computed = operation.is_some_and(|edit| matches!(edit.operation, Operation::Compute(_)));
            let done = match outcome {
                Outcome::Set(value) => format!("set to {:?}", readable(value.as_bytes())),
                Outcome::Remove if computed => "removed: its value is missing or empty".to_owned(),
                Outcome::Remove => "removed".to_owned(),
                Outcome::Dropped => "removed: its value can stand in no header".to_owned(),
            };
            let _ = writeln!(text, "{:17}{name} {done}", "");
        }
    }
}

/// Why a sender may not send something.
fn denied(setting: &str, senders: Senders) -> String {
    match senders {
        Senders::Never => format!("with {setting} = \"never\" no client may send it"),
        Senders::Trusted | Senders::Anyone => {
            format!("with {setting} = \"trusted\" only trusted proxies may send it; --ip says who sends")
        }
    }
}
