//! `gradual deploy` and `gradual rollback`: one version takes everything.

use crate::cli::change::{At, How, Job, Question};
use crate::cli::deployments::history;
use crate::cli::failure::{Failure, Said, warn};
use crate::cli::prompts::Person;
use crate::cli::versions::{New, any};
use crate::cli::{complain, show};
use crate::config::Worker;
use crate::control::release::{self, Change};

/// The longest message of a rollback, in characters, as wrangler says.
const LONGEST: usize = 120;

/// The arguments of `gradual deploy`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["version", "version_tag", "upstream"]))]
pub(crate) struct DeployArgs {
    /// The uploaded version that takes everything: its id, or the beginning of it
    #[arg(value_name = "VERSION-ID")]
    version: Option<String>,
    /// The tag of the uploaded version that takes everything
    #[arg(long, value_name = "TAG")]
    version_tag: Option<String>,
    #[command(flatten)]
    new: New,
    /// What the version is about, and why it is deployed
    #[arg(long, short)]
    message: Option<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    at: At,
}

/// The arguments of `gradual rollback`.
#[derive(Debug, clap::Args)]
pub(crate) struct RollbackArgs {
    /// The version to go back to: its id, or the beginning of it; else that of the newest earlier deployment of one version
    #[arg(value_name = "VERSION-ID")]
    version: Option<String>,
    /// Why; `Rollback` where nothing is said
    #[arg(long, short)]
    message: Option<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    at: At,
}

impl DeployArgs {
    /// Whether the result is wanted as JSON.
    pub(crate) fn json(&self) -> bool {
        self.at.json
    }

    /// Uploads a version, if one is described, and gives it all traffic; or gives it to one that was uploaded.
    pub(crate) fn run(&self) -> Result<Said, Failure> {
        let Self { version, version_tag, new, message, how, at } = self;
        let config = at.config()?;
        let worker = at.worker(&config)?;
        let known = match (version, version_tag) {
            (Some(id), _) => Some(release::version(worker, id)?),
            (None, Some(tag)) => Some(release::tagged(worker, tag)?),
            (None, None) => None,
        };
        if known.is_some() && (new.tag.is_some() || new.migration.is_some()) {
            return Err(Failure::usage(
                "bad-arguments",
                "--tag and --migration are for a version that is uploaded",
            )
            .help("leave them out, or describe a new version with `--upstream`"));
        }
        let message = message.clone();
        let change = match known {
            Some(version) => Change::Promote { version: version.metadata.id.clone(), message },
            None => Change::Ship { upload: new.upload(message.as_ref()), message },
        };
        let person = how.person();
        let question = split_question(worker);
        let made = Job { at, how, config: &config, worker, change }.run(person.as_ref(), question)?;
        made.said(made.uploaded() + &made.deployed())
    }
}

/// What is asked where traffic is split now: somebody may be in the middle of a gradual deployment.
fn split_question(worker: &Worker) -> Option<Question> {
    let deployment = &worker.policy.deployment;
    if deployment.versions.len() < 2 {
        return None;
    }
    let shares = deployment.versions.iter().zip(deployment.ring.shares());
    let each: Vec<_> = shares.map(|(id, share)| format!("  {share}% {id}")).collect();
    warn(&format!(
        "the active deployment has {} versions, all of which give way to one:\n{}",
        each.len(),
        each.join("\n")
    ));
    Some(("Deploy one version to all traffic?".to_owned(), false))
}

impl RollbackArgs {
    /// Whether the result is wanted as JSON.
    pub(crate) fn json(&self) -> bool {
        self.at.json
    }

    /// Gives all traffic to a version that had it before.
    pub(crate) fn run(&self) -> Result<Said, Failure> {
        let Self { version, how, at, .. } = self;
        let config = at.config()?;
        let worker = at.worker(&config)?;
        let version = version.as_deref().map(|id| release::version(worker, id)).transpose()?;
        let person = how.person();
        if let (Some(person), Some(active)) = (&person, history(at, &config, worker).first()) {
            person.tell(&format!("The active deployment:\n\n{}", show::deployment_text(worker, active)));
        }
        let version = version.map(|version| version.metadata.id.clone());
        let message = self.message(person.as_ref())?;
        let change = Change::RollBack { version, message };
        let question = person.is_some().then(|| {
            complain("It takes effect at once, on all requests. What versions share, such as data, is not rolled back.\n");
            ("Roll back to this version for 100% of traffic?".to_owned(), true)
        });
        let made = Job { at, how, config: &config, worker, change }.run(person.as_ref(), question)?;
        made.said(made.deployed())
    }

    fn message(&self, person: Option<&Person>) -> Result<Option<String>, Failure> {
        match (&self.message, person) {
            (Some(message), _) => Ok(Some(message.clone())),
            (None, None) => Ok(None),
            (None, Some(person)) => {
                let question = format!("Why is this rolled back? ({LONGEST} characters at most)");
                person.line(&question, "Rollback", short).map(Some)
            }
        }
    }
}

fn short(text: &str) -> Result<String, Failure> {
    match text.chars().count() {
        0..=LONGEST => any(text),
        count => {
            Err(Failure::new("bad-message", format!("that is {count} characters; {LONGEST} are the most")))
        }
    }
}
