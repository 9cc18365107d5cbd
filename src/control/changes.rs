//! What a reload changes, in lines for the log.

use crate::config::{Config, Listener, Version, Worker};
use crate::control::status::shares;
use crate::model::share::Share;

/// What the step from one configuration to the next changes: one line per worker, listener and setting; empty where
/// nothing that serves has changed. `threads` is how many shards run, `wanted` how many the new file asks for.
pub(crate) fn lines(old: &Config, new: &Config, threads: usize, wanted: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for after in &new.workers {
        let before = old.workers.iter().find(|worker| worker.policy.name == after.policy.name);
        lines.extend(worker(before, after));
    }
    let gone = old.workers.iter().filter(|one| new.workers.iter().all(|w| w.policy.name != one.policy.name));
    lines.extend(gone.map(|worker| format!("worker {} is gone", worker.policy.name)));
    lines.extend(listeners(&old.listeners, &new.listeners));
    for (changed, what) in [
        (old.limits != new.limits, "limits"),
        (old.log != new.log, "log"),
        (old.admin != new.admin, "admin settings"),
    ] {
        lines.extend(changed.then(|| format!("{what} changed")));
    }
    if threads != wanted {
        lines.push(format!("threads: {threads} -> {wanted} needs a restart; {threads} go on"));
    }
    lines
}

fn worker(before: Option<&Worker>, after: &Worker) -> Option<String> {
    let name = &after.policy.name;
    let Some(before) = before else {
        let versions = shares(after).map(|(version, share)| format!("{} {share}%", named(version)));
        return Some(format!("worker {name} is new: {}", versions.collect::<Vec<_>>().join(", ")));
    };
    let moved = moved(before, after);
    if !moved.is_empty() {
        return Some(format!("worker {name}: {}", moved.join(", ")));
    }
    if before.policy.deployment.ring != after.policy.deployment.ring {
        return Some(format!("worker {name}: same shares, other ring"));
    }
    (before != after).then(|| format!("worker {name}: same shares, other settings"))
}

/// Each version whose share is not what it was, with both shares.
fn moved(before: &Worker, after: &Worker) -> Vec<String> {
    let share_in = |worker: &Worker, version: &Version| {
        let found = shares(worker).find(|(one, _)| one.metadata.id == version.metadata.id);
        found.map(|(_, share)| share)
    };
    let text = |share: Option<Share>| share.map_or("absent".to_owned(), |share| format!("{share}%"));
    let line = |version: &Version| {
        let (from, to) = (share_in(before, version), share_in(after, version));
        (from != to).then(|| format!("{} {} -> {}", named(version), text(from), text(to)))
    };
    let gone = shares(before).filter(|(version, _)| share_in(after, version).is_none());
    shares(after).chain(gone).filter_map(|(version, _)| line(version)).collect()
}

/// The id, and the tag where there is one.
fn named(version: &Version) -> String {
    match &version.metadata.tag {
        Some(tag) => format!("{} ({tag})", version.metadata.id),
        None => version.metadata.id.to_string(),
    }
}

fn listeners(old: &[Listener], new: &[Listener]) -> Vec<String> {
    let mut lines = Vec::new();
    for after in new {
        match old.iter().find(|one| one.address == after.address) {
            None => lines.push(format!("listener {} opens", after.address.value)),
            Some(before) if before != after => {
                lines.push(format!("listener {}: other settings", after.address.value));
            }
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|one| new.iter().all(|after| after.address != one.address));
    lines.extend(gone.map(|one| format!("listener {} closes", one.address.value)));
    lines
}
