//! `gradual plan`: who moves when one file takes another's place, from the two files alone.

use std::io;
use std::path::PathBuf;

use clap::ValueHint;
use serde_json::{Value, json};

use crate::cli::change::read;
use crate::cli::color;
use crate::cli::failure::{Failure, Said};
use crate::cli::show::Change;
use crate::config::{Config, Worker};
use crate::control::release;
use crate::plan::Plan;

/// The arguments of `gradual plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// The file as it is
    #[arg(value_hint = ValueHint::FilePath)]
    old: PathBuf,
    /// The file as it is to be
    #[arg(value_hint = ValueHint::FilePath)]
    new: PathBuf,
    /// Only this worker
    #[arg(long, visible_alias = "name", value_name = "WORKER")]
    worker: Option<String>,
    /// Print a JSON list with an object for each worker
    #[arg(long)]
    json: bool,
}

impl PlanArgs {
    /// Whether the result is wanted as JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Compares the two files.
    pub(crate) fn run(&self) -> Result<Said, Failure> {
        let (old, new) = (read(&self.old)?, read(&self.new)?);
        if let Some(name) = &self.worker {
            release::worker(&new, Some(name))?;
        }
        let is_meant =
            |worker: &&Worker| self.worker.as_ref().is_none_or(|name| *name == worker.policy.name.as_str());
        let mut texts = Vec::new();
        let mut list = Vec::new();
        for worker in new.workers.iter().filter(is_meant) {
            let (text, json) = compared(&old, worker);
            texts.push(text);
            list.push(json);
        }
        for worker in old.workers.iter().filter(is_meant).filter(|worker| of(&new, worker).is_none()) {
            let name = worker.policy.name.as_str();
            texts.push(format!("worker {name} is not there any more.\n"));
            list.push(json!({ "worker": name, "removed": true }));
        }
        Ok(Said::new(texts.join("\n"), Value::Array(list)))
    }
}

/// The worker of the same name.
fn of<'c>(config: &'c Config, worker: &Worker) -> Option<&'c Worker> {
    config.workers.iter().find(|one| one.policy.name == worker.policy.name)
}

/// Who moves of a worker's keys, for people and for machines.
fn compared(old: &Config, worker: &Worker) -> (String, Value) {
    let name = worker.policy.name.as_str();
    let Some(before) = of(old, worker) else {
        return (format!("worker {name} is new.\n"), json!({ "worker": name, "added": true }));
    };
    let before = &before.policy.deployment;
    let plan = Plan::between(before, &worker.policy.deployment);
    let change = Change::new(before, worker, &plan);
    (format!("worker {name}\n\n{}", change.to_text(color(&io::stdout()))), change.to_json())
}
