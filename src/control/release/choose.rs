//! Which worker and which versions are meant.

use crate::config::{Config, Version, Worker};
use crate::control::release::refusal::{Kind, Refusal};
use crate::diag::{nearest, quoted};
use crate::model::name::VersionId;
use crate::model::share::{POSITIONS, Share};

/// How many versions can be deployed: those that were uploaded last.
pub const DEPLOYABLE: usize = 100;
/// The fewest characters that may stand for an id that begins with them.
const SHORTEST: usize = 4;

/// A worker by its name; `None`: the only one.
///
/// # Errors
/// There is none of that name, or several and none was named.
pub fn worker<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a Worker, Refusal> {
    let names = || config.workers.iter().map(|worker| worker.policy.name.as_str());
    let Some(name) = name else {
        return match &*config.workers {
            [worker] => Ok(worker),
            workers => {
                let title = format!("the file has {} workers, and none was named", workers.len());
                Err(Refusal::new(Kind::UnknownWorker, title)
                    .with_help(format!("name one of {}", listed(names()))))
            }
        };
    };
    config.workers.iter().find(|worker| worker.policy.name.as_str() == name).ok_or_else(|| {
        let title = format!("there is no worker {}", quoted(name));
        let help = match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the file has {}", listed(names())),
        };
        Refusal::new(Kind::UnknownWorker, title).with_help(help)
    })
}

/// A version by its id, else by the beginning of exactly one id.
///
/// # Errors
/// No id begins so, or several do.
pub fn version<'a>(worker: &'a Worker, text: &str) -> Result<&'a Version, Refusal> {
    let id = |version: &&Version| version.metadata.id.as_str() == text;
    if let Some(version) = worker.versions.iter().find(id) {
        return Ok(version);
    }
    let begins = |version: &&Version| version.metadata.id.as_str().starts_with(text);
    let found: Vec<_> = worker.versions.iter().filter(begins).collect();
    match &*found {
        [version] if text.len() >= SHORTEST => Ok(version),
        [_, _, ..] if text.len() >= SHORTEST => {
            let ids = found.iter().rev().map(|version| version.metadata.id.as_str());
            let title = format!("{} ids begin with {}", found.len(), quoted(text));
            Err(Refusal::new(Kind::AmbiguousVersion, title)
                .with_help(format!("more of the id is needed: {}", listed(ids))))
        }
        _ => Err(unknown_version(worker, text)),
    }
}

fn unknown_version(worker: &Worker, text: &str) -> Refusal {
    let ids = || worker.versions.iter().map(|version| version.metadata.id.as_str());
    let title = format!("worker {} has no version {}", worker.policy.name, quoted(text));
    let tagged = worker
        .versions
        .iter()
        .rev()
        .find(|version| version.metadata.tag.as_ref().is_some_and(|tag| tag.as_str() == text));
    let help = match (tagged, nearest(text, ids())) {
        (Some(version), _) => {
            format!("that is the tag of {}: use the id, or `--version-tag`", version.metadata.id)
        }
        (None, Some(near)) => format!("did you mean `{near}`?"),
        (None, None) => "`gradual versions list` shows the newest versions".to_owned(),
    };
    Refusal::new(Kind::UnknownVersion, title).with_help(help)
}

/// The deployable version that has a tag.
///
/// # Errors
/// None or several have it.
pub fn tagged<'a>(worker: &'a Worker, tag: &str) -> Result<&'a Version, Refusal> {
    let has_it = |version: &&Version| version.metadata.tag.as_ref().is_some_and(|one| one.as_str() == tag);
    let found: Vec<_> = deployable(worker).iter().rev().filter(has_it).collect();
    match &*found {
        [version] => Ok(version),
        [] => {
            let tags = deployable(worker).iter().filter_map(|version| version.metadata.tag.as_ref());
            let title =
                format!("no deployable version of worker {} has the tag {}", worker.policy.name, quoted(tag));
            let help = match nearest(tag, tags.map(|tag| tag.as_str())) {
                Some(near) => format!("did you mean {}?", quoted(near)),
                None => "`gradual versions list` shows the newest versions and their tags".to_owned(),
            };
            Err(Refusal::new(Kind::UnknownVersion, title).with_help(help))
        }
        several => {
            let ids = several.iter().map(|version| version.metadata.id.as_str());
            let title = format!("{} versions have the tag {}", several.len(), quoted(tag));
            Err(Refusal::new(Kind::AmbiguousVersion, title)
                .with_help(format!("use one of the ids, newest first: {}", listed(ids))))
        }
    }
}

/// The versions that can be deployed: the last 100 of the file, oldest first.
pub fn deployable(worker: &Worker) -> &[Version] {
    let versions = &worker.versions;
    versions.get(versions.len().saturating_sub(DEPLOYABLE)..).unwrap_or(versions)
}

/// Shares for all versions: those without one divide what the others leave equally among themselves, as wrangler does, to
/// the thousandth of a per cent. Of a version that is named twice the last word counts.
///
/// # Errors
/// There is no version.
pub fn spread(specs: &[(VersionId, Option<Share>)]) -> Result<Vec<(VersionId, Share)>, Refusal> {
    let mut named: Vec<(VersionId, Option<Share>)> = Vec::with_capacity(specs.len());
    for (id, share) in specs {
        match named.iter_mut().find(|(one, _)| one == id) {
            Some(one) => one.1 = *share,
            None => named.push((id.clone(), *share)),
        }
    }
    if named.is_empty() {
        let help = "name versions, as in `gradual versions deploy <id>@10% <id>@90%`";
        return Err(Refusal::new(Kind::BadTotal, "a deployment needs at least one version").with_help(help));
    }
    let mut open =
        u64::try_from(named.iter().filter(|(_, share)| share.is_none()).count()).unwrap_or(u64::MAX);
    let taken: u64 =
        named.iter().filter_map(|(_, share)| *share).map(|share| u64::from(share.thousandths())).sum();
    let mut left = u64::from(POSITIONS).saturating_sub(taken);
    let mut shares = Vec::with_capacity(named.len());
    for (id, share) in named {
        let share = share.unwrap_or_else(|| {
            // Half a thousandth is rounded up, as JavaScript's `toFixed(3)` does with these.
            let part = (left + open / 2) / open.max(1);
            left -= part.min(left);
            open -= 1;
            u32::try_from(part).ok().and_then(Share::from_thousandths).unwrap_or(Share::ZERO)
        });
        shares.push((id, share));
    }
    Ok(shares)
}

/// A list for people, not longer than they read.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 8;
    let names: Vec<_> = names.collect();
    let mut text: Vec<_> = names.iter().take(MOST).map(|name| quoted(name)).collect();
    if names.len() > MOST {
        text.push(format!("{} more", names.len() - MOST));
    }
    text.join(", ")
}
