//! What a reload changes, in lines for the log.

use crate::config::{Config, Listener, Version, Worker};
use crate::control::status::shares;
use crate::model::deployment::Deployment;
use crate::model::name::VersionId;
use crate::model::ring::percentage;
use crate::model::share::Share;
use crate::plan::{Plan, arrange};

/// What the step from one configuration to the next changes: one line per worker, listener and section; empty where
/// nothing that serves has changed.
pub(crate) fn lines(old: &Config, new: &Config) -> Vec<String> {
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
    lines
}

/// What a hand edit may not have meant: workers whose deployment moves more keys than its shares need, with the plan.
pub(crate) fn warnings(old: &Config, new: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for after in &new.workers {
        let name = &after.policy.name;
        let Some(before) = old.workers.iter().find(|worker| worker.policy.name == *name) else { continue };
        let (old, new) = (&before.policy.deployment, &after.policy.deployment);
        let plan = Plan::between(old, new);
        if plan.is_least() {
            continue;
        }
        let moves = plan.moves.iter().map(|one| format!("{} -> {} {}%", one.from, one.to, one.share));
        let moves = moves.collect::<Vec<_>>().join(", ");
        let (moved, least) = (percentage(plan.moved.into()), percentage(plan.least.into()));
        let says = format!("worker {name}: {moved}% of keys move, where {least}% would do: {moves}");
        warnings.push(match gentler(old, new) {
            Some(ring) if !plan.rehashed => format!("{says}; with this they would not: {ring}"),
            _ => format!("{says}; another salt draws every key anew"),
        });
    }
    warnings
}

/// Versions and arcs with the shares of a deployment that move the least, as the file says them.
fn gentler(old: &Deployment, new: &Deployment) -> Option<String> {
    let wanted: Vec<_> = new.versions.iter().cloned().zip(new.ring.shares().iter().copied()).collect();
    let layout = arrange(old, &wanted).ok()?;
    let list = |entries: &[(VersionId, Share)]| {
        let entry =
            |(id, share): &(VersionId, Share)| format!("{{ version_id = \"{id}\", percentage = {share} }}");
        format!("[{}]", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
    };
    let ring = layout.ring.map_or(String::new(), |ring| format!(" ring = {}", list(&ring)));
    Some(format!("versions = {}{ring}", list(&layout.versions)))
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
    let (old, new) = (&before.policy.deployment, &after.policy.deployment);
    if old.versions != new.versions || old.ring != new.ring {
        return Some(format!("worker {name}: same shares, other order on the ring"));
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
    // Several may have one address, where the system chooses the port: each goes on as the next one of that address.
    let mut left: Vec<_> = old.iter().collect();
    for after in new {
        let before = left.iter().position(|one| one.address == after.address).map(|at| left.remove(at));
        match before {
            None => lines.push(format!("listener {} opens", after.address.value)),
            Some(before) if before != after => {
                lines.push(format!("listener {}: other settings", after.address.value));
            }
            Some(_) => {}
        }
    }
    lines.extend(left.into_iter().map(|one| format!("listener {} closes", one.address.value)));
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(listener: &str, worker: &str, shares: &[(&str, u32)]) -> Config {
        let versions = shares.iter().map(|(id, _)| {
            format!("[[worker.version]]\nid = \"{id}\"\nupstreams = [\"http://127.0.0.1:9\"]\n")
        });
        let deployed =
            shares.iter().map(|(id, share)| format!("{{ version_id = \"{id}\", percentage = {share} }}, "));
        let text = format!(
            "[[listener]]\naddress = \"{listener}\"\n[[worker]]\nname = \"{worker}\"\n{}\
             [worker.deployment]\nversions = [{}]\n",
            versions.collect::<String>(),
            deployed.collect::<String>(),
        );
        crate::config::parse("gradual.toml", &text, Path::new("/")).unwrap().0
    }

    #[test]
    fn each_worker_and_listener_that_changed_has_one_line() {
        let old = config("127.0.0.1:1", "a", &[("v1", 90), ("v2", 10), ("v3", 0)]);
        let new = config("127.0.0.1:1", "a", &[("v1", 50), ("v3", 0), ("v4", 50)]);
        let lines = lines(&old, &new);
        assert_eq!(lines, ["worker a: v1 90% -> 50%, v4 absent -> 50%, v2 10% -> absent"]);
    }

    #[test]
    fn other_order_with_the_same_shares_is_said() {
        let old = config("127.0.0.1:1", "a", &[("v1", 50), ("v2", 50)]);
        let new = config("127.0.0.1:1", "a", &[("v2", 50), ("v1", 50)]);
        assert_eq!(lines(&old, &new), ["worker a: same shares, other order on the ring"]);
    }

    #[test]
    fn a_hand_edit_that_moves_more_keys_than_it_must_is_warned_of_with_what_would_not() {
        let old = config("127.0.0.1:1", "a", &[("v1", 10), ("v2", 10), ("v3", 80)]);
        let new = config("127.0.0.1:1", "a", &[("v1", 20), ("v2", 10), ("v3", 70)]);
        let expected = "worker a: 20% of keys move, where 10% would do: v2 -> v1 10%, v3 -> v2 10%; with this they would \
                        not: versions = [{ version_id = \"v1\", percentage = 20 }, { version_id = \"v2\", percentage = 10 }, \
                        { version_id = \"v3\", percentage = 70 }] ring = [{ version_id = \"v1\", percentage = 10 }, \
                        { version_id = \"v2\", percentage = 10 }, { version_id = \"v3\", percentage = 70 }, \
                        { version_id = \"v1\", percentage = 10 }]";
        assert_eq!(warnings(&old, &new), [expected]);
        let new = config("127.0.0.1:1", "a", &[("v1", 10), ("v2", 20), ("v3", 70)]);
        assert_eq!(warnings(&old, &new), [""; 0]);
    }

    #[test]
    fn new_and_gone_workers_and_listeners_are_said_and_no_change_is_silent() {
        let old = config("127.0.0.1:1", "a", &[("v1", 100)]);
        let new = config("127.0.0.1:2", "b", &[("v1", 100)]);
        let expected = [
            "worker b is new: v1 100%",
            "worker a is gone",
            "listener 127.0.0.1:2 opens",
            "listener 127.0.0.1:1 closes",
        ];
        assert_eq!(lines(&old, &new), expected);
        assert_eq!(lines(&old, &old), [""; 0]);
    }
    #[test]
    fn listeners_of_one_address_whose_port_the_system_chooses_are_told_apart_by_their_order() {
        let one = config("127.0.0.1:0", "a", &[("v1", 100)]);
        let redirecting = Listener { redirect_https: true, ..one.listeners[0].clone() };
        let two = Config { listeners: vec![one.listeners[0].clone(), redirecting], ..one.clone() };
        assert_eq!(lines(&two, &two), [""; 0]);
        assert_eq!(lines(&one, &two), ["listener 127.0.0.1:0 opens"]);
        assert_eq!(lines(&two, &one), ["listener 127.0.0.1:0 closes"]);
        let mut other = two.clone();
        other.listeners[1].health_path = Some("/up".to_owned());
        assert_eq!(lines(&two, &other), ["listener 127.0.0.1:0: other settings"]);
    }
}
