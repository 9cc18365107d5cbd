//! `gradual versions`: what was uploaded, and how traffic is split between it.

use crate::cli::change::{At, How, Job};
use crate::cli::failure::{Failure, Said};
use crate::cli::prompts::Person;
use crate::cli::show;
use crate::cli::specs::{self, Named, Spec};
use crate::config::{Version, Worker};
use crate::control::release::{self, Change, Upload};
use crate::model::name::VersionId;
use crate::model::ring::{Ring, RingError};
use crate::model::share::Share;

/// The commands about versions.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Versions {
    /// Add a version to the file: no request reaches it before it is deployed
    Upload(UploadArgs),
    /// Show the newest versions, the newest last
    List(ListArgs),
    /// Show a version
    View(ViewArgs),
    /// Split traffic between versions; without any it asks which, at a terminal
    Deploy(DeployArgs),
}

/// What a new version is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct New {
    /// Where the version runs, such as http://127.0.0.1:3001; several share its traffic
    #[arg(long, value_name = "URL", num_args = 1..)]
    pub(crate) upstream: Vec<String>,
    /// A short name for people, such as a release number
    #[arg(long, requires = "upstream")]
    pub(crate) tag: Option<String>,
    /// The state of the data that the version needs; without it, that of the active deployment
    #[arg(long, requires = "upstream", value_name = "NAME")]
    pub(crate) migration: Option<String>,
}

impl New {
    /// The version that is to be uploaded, with what it is about.
    pub(crate) fn upload(&self, message: Option<&String>) -> Upload {
        Upload {
            upstreams: self.upstream.clone(),
            tag: self.tag.clone(),
            message: message.cloned(),
            migration: self.migration.clone(),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct UploadArgs {
    #[command(flatten)]
    new: New,
    /// What the version is about
    #[arg(long, short)]
    message: Option<String>,
    /// Say whether it could be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
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
    /// The version's id, or the beginning of it
    #[arg(value_name = "VERSION-ID")]
    id: String,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeployArgs {
    /// Versions and their percentages: <id>@<percentage>%, or <id> alone for an equal part of what the others leave
    #[arg(value_name = "SPEC")]
    specs: Vec<String>,
    /// A version's id, or the beginning of it; several may follow
    #[arg(long, value_name = "ID", num_args = 1..)]
    version_id: Vec<String>,
    /// The percentage of the --version-id at the same place; several may follow
    #[arg(long, value_name = "PERCENTAGE", num_args = 1.., allow_negative_numbers = true)]
    percentage: Vec<String>,
    /// A version's tag, which may be followed by @<percentage>%; may be given several times
    #[arg(long, value_name = "TAG")]
    version_tag: Vec<String>,
    /// Why it is deployed
    #[arg(long, short)]
    message: Option<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    at: At,
}

impl Versions {
    /// Whether the result is wanted as JSON.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Upload(UploadArgs { at, .. })
            | Self::List(ListArgs { at, .. })
            | Self::View(ViewArgs { at, .. })
            | Self::Deploy(DeployArgs { at, .. }) => at.json,
        }
    }

    /// Does it.
    pub(crate) fn run(&self) -> Result<Said, Failure> {
        match self {
            Self::Upload(args) => upload(args),
            Self::List(args) => list(args),
            Self::View(args) => view(args),
            Self::Deploy(args) => deploy(args),
        }
    }
}

fn upload(args: &UploadArgs) -> Result<Said, Failure> {
    let UploadArgs { new, message, dry_run, at } = args;
    if new.upstream.is_empty() {
        return Err(Failure::usage("no-upstream", "a version needs at least one upstream")
            .help("say where it runs, as in `--upstream http://127.0.0.1:3001`"));
    }
    let config = at.config()?;
    let worker = at.worker(&config)?;
    let change = Change::Upload(new.upload(message.as_ref()));
    let how = How { author: None, yes: true, dry_run: *dry_run };
    let made = Job { at, how: &how, config: &config, worker, change }.run(None, None)?;
    let mut text = made.uploaded();
    if let Some(id) = made.version().filter(|_| !how.dry_run) {
        let next = match &new.migration {
            Some(_) => format!("gradual deploy {id}, once its migration is done"),
            None => example(worker, id),
        };
        text.push_str(&format!("No request reaches it yet. Next: {next}\n"));
    }
    made.said(text)
}

/// The command that gives a new version a tenth of what the first one has.
fn example(worker: &Worker, id: &VersionId) -> String {
    match &*worker.policy.deployment.versions {
        [only] => format!("gradual versions deploy {id}@10% {only}@90%"),
        _ => "gradual versions deploy, which asks how to split traffic".to_owned(),
    }
}

fn list(args: &ListArgs) -> Result<Said, Failure> {
    let config = args.at.config()?;
    let worker = args.at.worker(&config)?;
    let newest = newest(&worker.versions, args.limit);
    let text: String = newest.iter().map(|version| show::version_text(worker, version) + "\n").collect();
    Ok(Said::new(text, newest.iter().map(|version| show::version_json(worker, version)).collect()))
}

/// The last ones of a list.
pub(crate) fn newest<T>(all: &[T], count: usize) -> &[T] {
    all.get(all.len().saturating_sub(count)..).unwrap_or(all)
}

fn view(args: &ViewArgs) -> Result<Said, Failure> {
    let config = args.at.config()?;
    let worker = args.at.worker(&config)?;
    let version = release::version(worker, &args.id)?;
    Ok(Said::new(show::version_text(worker, version), show::version_json(worker, version)))
}

fn deploy(args: &DeployArgs) -> Result<Said, Failure> {
    let DeployArgs { how, at, .. } = args;
    let specs = args.specs()?;
    let config = at.config()?;
    let worker = at.worker(&config)?;
    // Whoever names versions is not asked, as with wrangler.
    let person = how.person();
    let (versions, message, question) = match &person {
        Some(person) if specs.is_empty() => {
            let versions = ask_for_split(person, worker)?;
            let message = match &args.message {
                Some(message) => Some(message.clone()),
                None => Some(person.line("Add a deployment message (optional)", "", any)?),
            };
            (versions, message, Some((format!("Deploy this to {}?", worker.policy.name), true)))
        }
        _ => (release::spread(&resolved(worker, &specs)?)?, args.message.clone(), None),
    };
    let change = Change::Split { versions, message };
    let made = Job { at, how, config: &config, worker, change }.run(person.as_ref(), question)?;
    made.said(made.deployed())
}

/// Takes every line of text.
pub(crate) fn any(text: &str) -> Result<String, Failure> {
    Ok(text.to_owned())
}

impl DeployArgs {
    fn specs(&self) -> Result<Vec<Spec>, Failure> {
        let mut specs = Vec::new();
        for text in &self.specs {
            specs.push(specs::positional(text)?);
        }
        specs.extend(specs::paired(&self.version_id, &self.percentage)?);
        for text in &self.version_tag {
            specs.push(specs::tagged(text)?);
        }
        Ok(specs)
    }
}

fn resolved(worker: &Worker, specs: &[Spec]) -> Result<Vec<(VersionId, Option<Share>)>, Failure> {
    if specs.is_empty() {
        return Err(Failure::usage("no-version", "no version is named: at least 1 has to be deployed").help(
            "name versions as in `gradual versions deploy <id>@10% <id>@90%`; at a terminal, without `--yes`, it asks",
        ));
    }
    let mut versions = Vec::with_capacity(specs.len());
    for spec in specs {
        let version = match &spec.named {
            Named::Id(id) => release::version(worker, id)?,
            Named::Tag(tag) => release::tagged(worker, tag)?,
        };
        versions.push((version.metadata.id.clone(), spec.share));
    }
    Ok(versions)
}

/// Asks which versions, and how much of the traffic each; again, until the percentages total 100.
fn ask_for_split(person: &Person, worker: &Worker) -> Result<Vec<(VersionId, Share)>, Failure> {
    let versions: Vec<_> = release::deployable(worker).iter().rev().collect();
    let items: Vec<_> = versions.iter().map(|version| item(worker, version)).collect();
    let question = "Which version(s) do you want to deploy? (SPACE selects, ENTER goes on)";
    let chosen = person.some_of(question, &items)?;
    let chosen: Vec<_> = chosen.into_iter().filter_map(|at| versions.get(at).copied()).collect();
    if let [only] = &*chosen {
        return Ok(vec![(only.metadata.id.clone(), Share::WHOLE)]);
    }
    loop {
        let split = ask_for_shares(person, &chosen)?;
        let shares: Vec<_> = split.iter().map(|(_, share)| *share).collect();
        match Ring::cumulative(&[], &shares) {
            Err(error @ RingError::Total { .. }) => person.tell(&format!("{error}; once more")),
            _ => return Ok(split),
        }
    }
}

/// A version in the list that is selected from; those that are deployed are selected to begin with.
fn item(worker: &Worker, version: &Version) -> (String, bool) {
    let metadata = &version.metadata;
    let share = show::share(worker, &metadata.id);
    let mut text = metadata.id.to_string();
    let parts = [
        share.map(|share| format!("{share}% now")),
        metadata.tag.as_ref().map(|tag| format!("tag {tag}")),
        metadata.created_on.as_ref().map(|time| format!("created {time}")),
        metadata.message.clone(),
    ];
    for part in parts.into_iter().flatten() {
        text.push_str("  ");
        text.push_str(&crate::diag::visible(&part));
    }
    (text, share.is_some())
}

/// Asks for a percentage of each; what Enter gives is an equal part of what is left.
fn ask_for_shares(person: &Person, versions: &[&Version]) -> Result<Vec<(VersionId, Share)>, Failure> {
    let mut specs: Vec<_> = versions.iter().map(|version| (version.metadata.id.clone(), None)).collect();
    for at in 0..specs.len() {
        let default =
            release::spread(&specs)?.get(at).map(|(_, share)| share.to_string()).unwrap_or_default();
        let Some((id, share)) = specs.get_mut(at) else { break };
        let question = format!("What percentage of traffic should version {id} receive? (0-100)");
        *share = Some(person.line(&question, &default, specs::share)?);
    }
    Ok(release::spread(&specs)?)
}
