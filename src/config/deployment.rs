//! `[worker.deployment]`: which versions, how much of the traffic each, and where on the ring.

use std::collections::{HashMap, HashSet};

use toml::de::DeValue;

use super::Version;
use super::fields::{Fields, Text, Walk};
use super::texts::Problem;
use super::worker::{date_time, version_id};
use crate::diag::{Diagnostic, Span, nearest, quoted};
use crate::model::deployment::Deployment;
use crate::model::name::{Tag, VersionId};
use crate::model::ring::{Ring, RingError};
use crate::model::share::Share;

/// The ids of a worker's versions as the file lists them, good or not.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// In the order of the file.
    ids: Vec<&'a str>,
    set: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    /// The ids of some versions.
    pub(super) fn new(versions: &[Fields<'a>]) -> Self {
        versions.iter().filter_map(|fields| fields.text("id")).map(|text| text.value).collect()
    }

    /// Whether this is one of them.
    pub(super) fn contains(&self, id: &str) -> bool {
        self.set.contains(id)
    }

    /// Whether there are none: then that is the mistake.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// A diagnostic that an id is not one of these.
    pub(super) fn unknown(&self, text: &Text<'_>, whose: &str) -> Diagnostic {
        const MOST: usize = 8;
        let mut list: Vec<_> = self.ids.iter().take(MOST).map(|id| quoted(id)).collect();
        if self.ids.len() > MOST {
            list.push(format!("{} more", self.ids.len() - MOST));
        }
        let title = format!("there is no version {}", quoted(text.value));
        let diagnostic = Diagnostic::error(title, text.span.clone()).label(format!("not an id of {whose}"));
        let near = nearest(text.value, self.ids.iter().copied());
        Diagnostic {
            expected: (!list.is_empty()).then(|| list.join(", ")),
            help: near.map(|near| format!("did you mean `{near}`?")),
            ..diagnostic
        }
    }
}

impl<'a> FromIterator<&'a str> for Known<'a> {
    fn from_iter<I: IntoIterator<Item = &'a str>>(ids: I) -> Self {
        let mut set = HashSet::new();
        Self { ids: ids.into_iter().filter(|id| set.insert(*id)).collect(), set }
    }
}

/// An entry of `versions` or `ring`.
struct Entry<'a> {
    text: Text<'a>,
    id: VersionId,
    share: Share,
}

/// `[worker.deployment]`, if it is whole; its id is empty where the file gives none.
pub(super) fn deployment(
    walk: &mut Walk<'_>,
    fields: &Fields<'_>,
    known: &Known<'_>,
    salt: &str,
) -> Option<Deployment> {
    let id = fields.has("id").then(|| version_id(walk, fields, "id"));
    let created_on = date_time(walk, fields, "created_on");
    let versions = versions(walk, fields, known);
    let ring = versions.as_ref().and_then(|versions| ring(walk, fields, versions, salt));
    if versions.is_none() && fields.has("ring") {
        // What the arcs must be in keeping with is not known, but their own form can be checked.
        entries(walk, fields, "ring");
    }
    let text = |name| fields.text(name).map(|text| text.value.to_owned());
    Some(Deployment {
        id: id.map_or(Some(String::new()), |id| Some(id?.to_string()))?,
        created_on,
        author: text("author"),
        source: text("source"),
        message: text("message"),
        versions: versions?.into_iter().map(|entry| entry.id).collect(),
        ring: ring?,
    })
}

/// The entries of a list of shares; `None` unless all are good.
fn entries<'a>(walk: &mut Walk<'_>, fields: &Fields<'a>, name: &str) -> Option<Vec<Entry<'a>>> {
    let tables = fields.tables(name);
    let entries: Vec<_> = tables.iter().map(|table| entry(walk, table)).collect();
    entries.into_iter().collect::<Option<Vec<_>>>().filter(|entries| !entries.is_empty())
}

fn entry<'a>(walk: &mut Walk<'_>, fields: &Fields<'a>) -> Option<Entry<'a>> {
    let id = version_id(walk, fields, "version_id");
    let share = share(walk, fields);
    Some(Entry { text: fields.text("version_id")?, id: id?, share: share? })
}

/// A percentage, taken from the digits as they are written: no float is ever made of them.
fn share(walk: &mut Walk<'_>, fields: &Fields<'_>) -> Option<Share> {
    let (value, span) = fields.any("percentage")?;
    let text = match value {
        DeValue::String(_) => fields.text("percentage")?,
        _ => Text { value: walk.written(&span), span },
    };
    let parse = |text: &str| Share::parse(text).map_err(|error| Problem::new(error.to_string()));
    walk.parsed(&text, "a percentage", fields.kind("percentage"), parse)
}

/// The entries of `versions`, each of a known version, none twice.
fn versions<'a>(walk: &mut Walk<'_>, fields: &Fields<'a>, known: &Known<'_>) -> Option<Vec<Entry<'a>>> {
    let mut whole = true;
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for text in fields.tables("versions").iter().filter_map(|entry| entry.text("version_id")) {
        if !known.contains(text.value) {
            whole = false;
            // Without any version, that is the mistake.
            if !known.ids.is_empty() {
                walk.conclude(known.unknown(&text, "a version of this worker"));
            }
        } else if let Some(first) = seen.get(text.value) {
            whole = false;
            let label = format!("listed already on line {}", walk.line(first));
            let title = format!("version {} is listed twice", quoted(text.value));
            walk.conclude(Diagnostic::error(title, text.span).label(label).help("add the percentages up"));
        } else {
            seen.insert(text.value, text.span);
        }
    }
    let entries = entries(walk, fields, "versions")?;
    check_total(walk, fields, &entries);
    Some(entries).filter(|_| whole)
}

fn check_total(walk: &mut Walk<'_>, fields: &Fields<'_>, entries: &[Entry<'_>]) {
    let shares: Vec<_> = entries.iter().map(|entry| entry.share).collect();
    if let (Err(error @ RingError::Total { total }), Some(span)) =
        (Ring::cumulative(&[], &shares), fields.span_of("versions"))
    {
        let whole = u64::from(Share::WHOLE.thousandths());
        let by = percentage(total.abs_diff(whole));
        let label = if total < whole { format!("{by} too little") } else { format!("{by} too much") };
        walk.conclude(Diagnostic::error(error.to_string(), span).label(label));
    }
}

/// The ring, explicit or in the order of the versions.
fn ring(walk: &mut Walk<'_>, fields: &Fields<'_>, versions: &[Entry<'_>], salt: &str) -> Option<Ring> {
    let shares: Vec<_> = versions.iter().map(|entry| entry.share).collect();
    if !fields.has("ring") {
        return Ring::cumulative(salt.as_bytes(), &shares).ok();
    }
    let members: HashMap<_, _> =
        versions.iter().enumerate().map(|(at, entry)| (entry.text.value, at)).collect();
    let deployed: Known<'_> = versions.iter().map(|entry| entry.text.value).collect();
    let texts: Vec<_> = fields.tables("ring").iter().filter_map(|entry| entry.text("version_id")).collect();
    let unknown = texts.iter().filter(|text| !members.contains_key(text.value));
    for text in unknown.clone() {
        walk.conclude(deployed.unknown(text, "a version in `versions`"));
    }
    let entries = entries(walk, fields, "ring");
    if unknown.count() > 0 {
        return None;
    }
    let arcs: Vec<_> =
        entries?.iter().filter_map(|entry| Some((*members.get(entry.text.value)?, entry.share))).collect();
    check_arcs(walk, fields, versions, &arcs);
    Ring::with_arcs(salt.as_bytes(), &shares, &arcs).ok()
}

fn check_arcs(walk: &mut Walk<'_>, fields: &Fields<'_>, versions: &[Entry<'_>], arcs: &[(usize, Share)]) {
    let mut totals = vec![0; versions.len()];
    for (member, share) in arcs {
        if let Some(total) = totals.get_mut(*member) {
            *total += u64::from(share.thousandths());
        }
    }
    let Some(span) = fields.span_of("ring") else {
        return;
    };
    for (entry, total) in versions.iter().zip(totals) {
        if total != u64::from(entry.share.thousandths()) {
            let (id, total) = (quoted(entry.text.value), percentage(total));
            let title = format!("the arcs of {id} add up to {total}, but its percentage is {}", entry.share);
            walk.conclude(Diagnostic::error(title, span.clone()));
        }
    }
}

/// Versions whose data are not in the same state cannot serve side by side, not even where one is reached by overrides only.
pub(super) fn check_migrations(
    walk: &mut Walk<'_>,
    fields: &Fields<'_>,
    deployment: &Deployment,
    versions: &[Version],
) {
    let migration = |id: &str| {
        let version = versions.iter().find(|version| version.metadata.id.as_str() == id)?;
        Some(version.metadata.migration.as_ref())
    };
    let name = |migration: Option<&Tag>| migration.map_or("none".to_owned(), |tag| quoted(tag.as_str()));
    let Some((first, needed)) =
        deployment.versions.first().and_then(|id| Some((id, migration(id.as_str())?)))
    else {
        return;
    };
    for entry in fields.tables("versions") {
        let Some(text) = entry.text("version_id") else { continue };
        match migration(text.value) {
            Some(other) if other != needed => {
                let title = "versions of different migrations cannot share a deployment";
                let label = format!("migration {}, but {first} has {}", name(other), name(needed));
                let help = "a version with a new migration takes over at 100 %: `gradual deploy`";
                walk.conclude(Diagnostic::error(title, text.span).label(label).help(help));
                return;
            }
            _ => {}
        }
    }
}

/// Thousandths of a per cent as a percentage, with as few decimals as are exact; beyond 100, too.
fn percentage(thousandths: u64) -> String {
    let (whole, fraction) = (thousandths / 1000, thousandths % 1000);
    let text = format!("{whole}.{fraction:03}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
