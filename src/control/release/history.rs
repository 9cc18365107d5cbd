//! The deployments of a worker, as far as they are known.

use crate::config::Config;
use crate::model::name::WorkerName;
use crate::store::journal::{Entry, History};

/// Every deployment of a worker that the journal knows, newest first. The active one comes first, even where the journal
/// has not got it: then its generation is 0, and its time is when it was made, or empty.
pub fn history(config: &Config, worker: &WorkerName, journal: &History) -> Vec<Entry> {
    let name = worker.as_str();
    let mut entries: Vec<_> =
        journal.entries.iter().rev().filter(|one| one.worker == name).cloned().collect();
    if let Some(active) = config.workers.iter().find(|one| one.policy.name == *worker) {
        let time = active.policy.deployment.created_on.clone().unwrap_or_default();
        let active = Entry::of(active, &time, 0);
        if entries.first().is_none_or(|newest| !newest.says_the_same(&active)) {
            entries.insert(0, active);
        }
    }
    entries
}
