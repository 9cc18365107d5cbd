//! Versions, deployments and plans as people and as machines read them. The JSON has the names that wrangler's has.

use std::fmt::Write;

use serde_json::{Number, Value, json};

use crate::cli::failure::{RED, paint};
use crate::config::{Version, Worker};
use crate::diag::visible;
use crate::model::deployment::Deployment;
use crate::model::name::VersionId;
use crate::model::share::Share;
use crate::plan::{Layout, Plan};
use crate::store::journal::Entry;

/// A version in lines of a name and a value.
pub(crate) fn version_text(worker: &Worker, version: &Version) -> String {
    let metadata = &version.metadata;
    let upstreams: Vec<_> = version.upstreams.iter().map(|one| one.value.to_string()).collect();
    let share = share(worker, &metadata.id).map(|share| format!("{share}%"));
    let rows = [
        ("Version ID", Some(metadata.id.as_str())),
        ("Created", metadata.created_on.as_deref()),
        ("Tag", metadata.tag.as_ref().map(|tag| tag.as_str())),
        ("Message", metadata.message.as_deref()),
        ("Migration", metadata.migration.as_ref().map(|tag| tag.as_str())),
        ("Upstreams", Some(&*upstreams.join(", "))),
        ("Deployed", Some(share.as_deref().unwrap_or("no"))),
    ];
    rows_text(&rows, "")
}

/// A version as JSON.
pub(crate) fn version_json(worker: &Worker, version: &Version) -> Value {
    let metadata = &version.metadata;
    let place = worker.versions.iter().position(|one| one.metadata.id == metadata.id);
    let mut annotations = json!({});
    if let Some(tag) = &metadata.tag {
        annotations["workers/tag"] = tag.as_str().into();
    }
    if let Some(message) = &metadata.message {
        annotations["workers/message"] = message.as_str().into();
    }
    json!({
        "id": metadata.id.as_str(),
        "number": place.map(|place| place + 1),
        "metadata": { "created_on": metadata.created_on, "modified_on": metadata.created_on, "source": "gradual" },
        "annotations": annotations,
        "migration": metadata.migration.as_ref().map(|tag| tag.as_str()),
        "upstreams": version.upstreams.iter().map(|one| one.value.to_string()).collect::<Vec<_>>(),
        "percentage": share(worker, &metadata.id).map(percentage),
    })
}

/// A deployment in lines of a name and a value, with what is known of its versions.
pub(crate) fn deployment_text(worker: &Worker, entry: &Entry) -> String {
    let mut text = rows_text(
        &[
            ("Deployment", Some(&entry.id)),
            ("Created", created(entry)),
            ("Author", entry.author.as_deref()),
            ("Source", entry.source.as_deref()),
            ("Message", entry.message.as_deref()),
        ],
        "",
    );
    for (at, one) in entry.versions.iter().enumerate() {
        let name = if at == 0 { "Version(s):" } else { "" };
        let _ = writeln!(text, "{name:<13}({}%) {}", one.percentage, visible(&one.version_id));
        let version = worker.versions.iter().find(|version| version.metadata.id.as_str() == one.version_id);
        let metadata = version.map(|version| &version.metadata);
        let tag = metadata.and_then(|metadata| metadata.tag.as_ref()).map(|tag| tag.as_str());
        let rows = [
            ("Created", metadata.and_then(|metadata| metadata.created_on.as_deref())),
            ("Tag", tag),
            ("Message", metadata.and_then(|metadata| metadata.message.as_deref())),
        ];
        text.push_str(&rows_text(&rows, "             "));
    }
    text
}

/// When a deployment was made; else since when it is known.
fn created(entry: &Entry) -> Option<&str> {
    entry.created_on.as_deref().or(Some(&*entry.time)).filter(|time| !time.is_empty())
}

/// A deployment as JSON.
pub(crate) fn deployment_json(entry: &Entry) -> Value {
    let versions = entry
        .versions
        .iter()
        .map(|one| json!({ "version_id": one.version_id, "percentage": percentage(one.percentage) }));
    let annotations = match &entry.message {
        Some(message) => json!({ "workers/message": message }),
        None => json!({}),
    };
    json!({
        "id": entry.id,
        "source": entry.source,
        "strategy": "percentage",
        "author_email": entry.author,
        "annotations": annotations,
        "created_on": created(entry),
        "versions": versions.collect::<Vec<_>>(),
        "generation": Some(entry.generation).filter(|generation| *generation > 0),
    })
}

/// Names and values, a dash for what is not there.
fn rows_text(rows: &[(&str, Option<&str>)], indent: &str) -> String {
    let mut text = String::new();
    for (name, value) in rows {
        let value = value.filter(|value| !value.is_empty()).unwrap_or("-");
        let _ = writeln!(text, "{indent}{:<12} {}", format!("{name}:"), visible(value));
    }
    text
}

/// A version's share of the active deployment; `None` where it is not in it.
pub(crate) fn share(worker: &Worker, id: &VersionId) -> Option<Share> {
    let deployment = &worker.policy.deployment;
    let at = deployment.versions.iter().position(|one| one == id)?;
    deployment.ring.shares().get(at).copied()
}

/// A share as an exact JSON number.
fn percentage(share: Share) -> Value {
    share.to_string().parse::<Number>().map_or(Value::Null, Value::Number)
}

/// A change of a worker's deployment.
pub(crate) struct Change<'a> {
    /// What was, and what is to be.
    pub(crate) deployments: (&'a Deployment, &'a Deployment),
    /// The worker, with every version that it will have.
    pub(crate) worker: &'a Worker,
    /// Which keys move.
    pub(crate) plan: &'a Plan,
    /// The version that comes with the change: its id is made when it is written.
    pub(crate) new: Option<&'a VersionId>,
    /// How the new deployment is written so that no more keys move than must, where it is not.
    pub(crate) better: Option<Layout>,
}

impl<'a> Change<'a> {
    /// A change of a worker to the deployment that it has here.
    pub(crate) fn new(before: &'a Deployment, worker: &'a Worker, plan: &'a Plan) -> Self {
        let after = &worker.policy.deployment;
        let shares = after.versions.iter().cloned().zip(after.ring.shares().iter().copied());
        // With another salt, no layout helps.
        let movable = !plan.is_least() && !plan.rehashed;
        let better =
            if movable { crate::plan::arrange(before, &shares.collect::<Vec<_>>()).ok() } else { None };
        Self { deployments: (before, after), worker, plan, new: None, better }
    }

    /// Who moves, for people.
    pub(crate) fn to_text(&self, color: bool) -> String {
        let mut text = String::new();
        self.moves_text(&mut text, color);
        let _ = writeln!(text, "\nThe ring then, in positions of 100000:");
        let (_, after) = self.deployments;
        for arc in after.ring.arcs() {
            let id = after.version(arc.member).map_or_else(String::new, |id| self.label(id));
            let _ = writeln!(text, "  {:>6} up to {:>6}  {id}", arc.from, arc.to);
        }
        if let Some(better) = &self.better {
            let _ = writeln!(text, "\nWritten like this, it moves no more than necessary:");
            text.push_str(&toml(better));
        }
        text
    }

    fn moves_text(&self, text: &mut String, color: bool) {
        let Plan { moves, moved, least, rehashed } = self.plan;
        if moves.is_empty() {
            let _ = writeln!(text, "No key moves.");
            return;
        }
        let labels: Vec<_> = moves.iter().map(|one| (self.label(&one.from), self.label(&one.to))).collect();
        let width = labels.iter().map(|(from, _)| from.chars().count()).max().unwrap_or(0).max(4);
        let other = labels.iter().map(|(_, to)| to.chars().count()).max().unwrap_or(0).max(2);
        let _ = writeln!(text, "Who moves, of all keys:");
        let _ = writeln!(text, "  {:<width$}  {:<other$}  keys", "from", "to");
        for ((from, to), one) in labels.iter().zip(moves) {
            let _ = writeln!(text, "  {from:<width$}  {to:<other$}  {}%", one.share);
        }
        let (moved, least) = (percent(*moved), percent(*least));
        if self.plan.is_least() {
            let _ = writeln!(text, "{moved}% of all keys move, which is the least possible.");
            return;
        }
        let (red, plain) = paint(color, RED);
        let why = if *rehashed { ": the salt changes, so that every key is drawn anew" } else { "" };
        let _ = writeln!(
            text,
            "{red}{moved}% of all keys move, which is more than necessary{why}. The least possible is {least}%.{plain}"
        );
    }

    /// A version's id, with its tag where it has one.
    fn label(&self, id: &VersionId) -> String {
        let version = self.worker.versions.iter().find(|version| version.metadata.id == *id);
        let name = if self.new == Some(id) { "the new version" } else { id.as_str() };
        match version.and_then(|version| version.metadata.tag.as_ref()) {
            Some(tag) => format!("{name} ({tag})"),
            None => name.to_owned(),
        }
    }

    /// Who moves, for machines.
    pub(crate) fn to_json(&self) -> Value {
        let (_, after) = self.deployments;
        let moves = self.plan.moves.iter().map(|one| {
            json!({ "from": one.from.as_str(), "to": one.to.as_str(), "percentage": percentage(one.share) })
        });
        let ring = after.ring.arcs().iter().filter_map(|arc| {
            let id = after.version(arc.member)?;
            Some(json!({ "version_id": id.as_str(), "from": arc.from, "to": arc.to }))
        });
        json!({
            "worker": self.worker.policy.name.as_str(),
            "moved": number(self.plan.moved),
            "least": number(self.plan.least),
            "moves": moves.collect::<Vec<_>>(),
            "ring": ring.collect::<Vec<_>>(),
            "better": self.better.as_ref().map(|better| {
                json!({ "versions": entries(&better.versions), "ring": better.ring.as_deref().map(entries) })
            }),
        })
    }
}

fn entries(shares: &[(VersionId, Share)]) -> Value {
    let entry = |(id, share): &(VersionId, Share)| json!({ "version_id": id.as_str(), "percentage": percentage(*share) });
    shares.iter().map(entry).collect()
}

/// A layout as it stands in the file.
fn toml(layout: &Layout) -> String {
    let list = |name: &str, shares: &[(VersionId, Share)]| {
        let mut text = format!("  {name} = [\n");
        for (id, share) in shares {
            let _ = writeln!(text, "    {{ version_id = \"{id}\", percentage = {share} }},");
        }
        text + "  ]\n"
    };
    let ring = layout.ring.as_ref().map(|ring| list("ring", ring)).unwrap_or_default();
    list("versions", &layout.versions) + &ring
}

/// Thousandths of a per cent as a percentage.
fn percent(thousandths: u32) -> String {
    crate::model::ring::percentage(u64::from(thousandths))
}

fn number(thousandths: u32) -> Value {
    percent(thousandths).parse::<Number>().map_or(Value::Null, Value::Number)
}
