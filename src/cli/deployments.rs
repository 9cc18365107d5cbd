//! `gradual deployments`: what was live, and what is.

use crate::cli::change::At;
use crate::cli::failure::{Failure, Said, warn};
use crate::cli::show;
use crate::cli::versions::newest;
use crate::config::{Config, Worker};
use crate::control::release;
use crate::diag::quoted;
use crate::store::journal::{Entry, Journal};

/// The fewest characters that may stand for an id that begins with them.
const SHORTEST: usize = 4;

/// The commands about deployments.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Deployments {
    /// Show the newest deployments, the active one last
    List(ListArgs),
    /// Show the active deployment
    Status(At),
    /// Show a deployment; without an id, the active one
    View(ViewArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// How many
    #[arg(long, default_value_t = 10, value_name = "NUMBER")]
    limit: usize,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ViewArgs {
    /// The deployment's id, or the beginning of it
    #[arg(value_name = "DEPLOYMENT-ID")]
    id: Option<String>,
    #[command(flatten)]
    at: At,
}

impl Deployments {
    /// Whether the result is wanted as JSON.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::List(ListArgs { at, .. }) | Self::Status(at) | Self::View(ViewArgs { at, .. }) => at.json,
        }
    }

    /// Does it.
    pub(crate) fn run(&self) -> Result<Said, Failure> {
        match self {
            Self::List(args) => list(args),
            Self::Status(at) => view(at, None),
            Self::View(args) => view(&args.at, args.id.as_deref()),
        }
    }
}

/// Every deployment of a worker that is known, the active one first.
pub(crate) fn history(at: &At, config: &Config, worker: &Worker) -> Vec<Entry> {
    let journal = Journal::of(config, &at.file).read().unwrap_or_else(|error| {
        warn(&format!("only the active deployment is known: {error}"));
        Default::default()
    });
    if journal.unreadable > 0 {
        warn(&format!("{} of the journal cannot be read, and are left out", lines(journal.unreadable)));
    }
    release::history(config, &worker.policy.name, &journal)
}

fn lines(count: usize) -> String {
    crate::diag::counted(count, "line")
}

fn list(args: &ListArgs) -> Result<Said, Failure> {
    let config = args.at.config()?;
    let worker = args.at.worker(&config)?;
    let mut entries = history(&args.at, &config, worker);
    entries.reverse();
    let newest = newest(&entries, args.limit);
    let text: String = newest.iter().map(|entry| show::deployment_text(worker, entry) + "\n").collect();
    Ok(Said::new(text, newest.iter().map(show::deployment_json).collect()))
}

fn view(at: &At, id: Option<&str>) -> Result<Said, Failure> {
    let config = at.config()?;
    let worker = at.worker(&config)?;
    let entries = history(at, &config, worker);
    let entry = match id {
        Some(id) => find(worker, &entries, id)?,
        None => entries.first().ok_or_else(|| unknown(worker, "active"))?,
    };
    Ok(Said::new(show::deployment_text(worker, entry), show::deployment_json(entry)))
}

/// The deployment with an id; else the one whose id begins so. One that was live several times is meant as it was last.
fn find<'e>(worker: &Worker, entries: &'e [Entry], id: &str) -> Result<&'e Entry, Failure> {
    if let Some(entry) = entries.iter().find(|entry| entry.id == id) {
        return Ok(entry);
    }
    let mut found: Vec<&Entry> = Vec::new();
    for entry in entries.iter().filter(|entry| id.len() >= SHORTEST && entry.id.starts_with(id)) {
        if found.iter().all(|one| one.id != entry.id) {
            found.push(entry);
        }
    }
    match &*found {
        [entry] => Ok(entry),
        [] => Err(unknown(worker, id)),
        several => {
            let ids: Vec<_> = several.iter().take(8).map(|entry| quoted(&entry.id)).collect();
            let title = format!("{} deployments have ids that begin with {}", several.len(), quoted(id));
            Err(Failure::new("ambiguous-deployment", title)
                .help(format!("more of the id is needed: {}", ids.join(", "))))
        }
    }
}

fn unknown(worker: &Worker, id: &str) -> Failure {
    let title = format!("worker {} has no deployment {}", worker.policy.name, quoted(id));
    Failure::new("unknown-deployment", title).help("`gradual deployments list` shows the newest ones")
}
