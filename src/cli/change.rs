//! What all commands that change the file have in common: they are drafted, shown, asked about, and done.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueHint;
use serde_json::{Value, json};

use crate::cli::failure::{Failure, Said, clean, warn};
use crate::cli::prompts::{Person, writing};
use crate::cli::show::{self, Change as Shown};
use crate::cli::{color, complain, running, say};
use crate::config::{Config, Worker};
use crate::control::release::{self, Change, Done, Request, Told, Who};
use crate::model::name::{VersionId, WorkerName};
use crate::store::journal::Entry;

/// Which worker of which file.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct At {
    /// The worker; need not be given where the file has only one
    #[arg(long, visible_alias = "name", value_name = "WORKER")]
    pub(crate) worker: Option<String>,
    /// The configuration file
    #[arg(long, default_value = "gradual.toml", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Print one JSON value on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

impl At {
    /// What the file says.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        read(&self.file)
    }

    /// The worker that is meant.
    pub(crate) fn worker<'a>(&self, config: &'a Config) -> Result<&'a Worker, Failure> {
        Ok(release::worker(config, self.worker.as_deref())?)
    }
}

/// What a file says.
pub(crate) fn read(file: &Path) -> Result<Config, Failure> {
    let source = crate::store::file::read(file)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let (config, _) = crate::config::parse(&crate::store::file::name(file), &source, folder)?;
    Ok(config)
}

/// How a change is made.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct How {
    /// Who makes the change, for the journal; else GRADUAL_AUTHOR, else the user's name
    #[arg(long, value_name = "NAME")]
    pub(crate) author: Option<String>,
    /// Ask nothing: the answer is what Enter would give, and yes
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Say what would be done, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl How {
    /// Whoever may be asked.
    pub(crate) fn person(&self) -> Option<Person> {
        if self.yes { None } else { Person::present() }
    }

    fn who(&self) -> Who {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let author = self.author.clone().filter(|author| !author.is_empty());
        let author = author.or_else(|| ["GRADUAL_AUTHOR", "USER", "LOGNAME"].into_iter().find_map(variable));
        Who { author, source: "cli" }
    }
}

/// A change that somebody wants.
pub(crate) struct Job<'a> {
    /// Where.
    pub(crate) at: &'a At,
    /// How.
    pub(crate) how: &'a How,
    /// What the file says now.
    pub(crate) config: &'a Config,
    /// The worker in it.
    pub(crate) worker: &'a Worker,
    /// What is to change.
    pub(crate) change: Change,
}

/// What a person is asked before a change is made, with the answer that Enter gives.
pub(crate) type Question = (String, bool);

impl Job<'_> {
    /// Shows what the change does to keys, asks, and makes it. Where more keys move than must, a person is asked in any case.
    pub(crate) fn run(self, person: Option<&Person>, question: Option<Question>) -> Result<Made, Failure> {
        let mut request = Request {
            worker: self.worker.policy.name.clone(),
            change: self.change,
            who: self.how.who(),
            base: None,
            seen: None,
            live: None,
        };
        let draft = release::draft(&self.at.file, &request)?;
        draft.warnings.iter().for_each(|warning| warn(warning));
        let made = Made {
            name: request.worker.clone(),
            done: Done { draft, told: nobody() },
            dry_run: true,
            seconds: 0.0,
        };
        made.show_plan(self.at.json, person.is_some())?;
        if self.how.dry_run {
            return Ok(made);
        }
        let wasteful = made.done.draft.plan.as_ref().is_some_and(|plan| !plan.is_least());
        let careful = || wasteful.then(|| ("Move more keys than necessary?".to_owned(), false));
        if let (Some(person), Some((text, default))) = (person, question.or_else(careful)) {
            if !person.confirm(&text, default)? {
                return Err(Failure::new("declined", "not done: nothing was changed"));
            }
            // What was agreed to is a step from what was shown.
            request.seen = Some(self.worker.policy.deployment.clone());
        }
        writing();
        let begun = Instant::now();
        let (file, admin) = (&self.at.file, &self.config.admin);
        let runtime = running::runtime()?;
        let tell = async || running::tell(admin, file).await;
        let done = runtime.block_on(release::perform(file, &request, tell))?;
        Ok(Made { name: request.worker, done, dry_run: false, seconds: begun.elapsed().as_secs_f64() })
    }
}

/// What is said where nobody was told.
fn nobody() -> Told {
    Told::NoProxy { why: String::new() }
}

/// A change that was made, or would be.
pub(crate) struct Made {
    /// The worker's name.
    name: WorkerName,
    done: Done,
    dry_run: bool,
    /// How long it took.
    seconds: f64,
}

impl Made {
    /// The worker as it is now.
    fn worker(&self) -> Result<&Worker, Failure> {
        let draft = &self.done.draft;
        Ok(release::worker(&draft.config, Some(self.name.as_str()))?)
    }

    fn plan(&self) -> Result<Option<Shown<'_>>, Failure> {
        let draft = &self.done.draft;
        let worker = self.worker()?;
        Ok(draft
            .plan
            .as_ref()
            .map(|plan| Shown { new: self.version(), ..Shown::new(&draft.before, worker, plan) }))
    }

    /// Who moves: where it is a result, and where somebody is asked.
    fn show_plan(&self, json: bool, asked: bool) -> Result<(), Failure> {
        if let Some(plan) = self.plan()? {
            match json {
                false => {
                    say(&format!("{}\n", plan.to_text(color(&io::stdout()))));
                }
                true if asked => complain(&format!("{}\n", plan.to_text(color(&io::stderr())))),
                true => {}
            }
        }
        Ok(())
    }

    /// The id of the version that came with the change.
    pub(crate) fn version(&self) -> Option<&VersionId> {
        self.done.draft.version.as_ref().map(|version| &version.id)
    }

    /// The result, which begins with these lines.
    pub(crate) fn said(&self, mut text: String) -> Result<Said, Failure> {
        let json = self.to_json()?;
        if self.dry_run {
            text.push_str("Nothing was written: this was a dry run.\n");
            return Ok(Said::new(text, json));
        }
        let mut certain = true;
        match &self.done.told {
            Told::Serves { generation } => {
                text.push_str(&format!("Generation {generation} serves it on every thread.\n"));
            }
            Told::NoProxy { why } => text.push_str(&format!(
                "No proxy runs this file ({}): the change is in the file and serves from the next start.\n",
                clean(why)
            )),
            Told::Refused { report: why } | Told::Unknown { why } => {
                certain = false;
                let what =
                    "the change is in the file, but it is not known whether the running proxy serves it";
                warn(&format!("{what}: {why}; `gradual status` shows what it serves"));
            }
        }
        Ok(Said { text, json, certain, made: true })
    }

    /// The deployment that came with the change, in wrangler's words.
    pub(crate) fn deployed(&self) -> String {
        let Some(deployment) = &self.done.draft.deployment else { return String::new() };
        let name = |id: &VersionId| match self.version() {
            Some(new) if self.dry_run && new == id => "the new version".to_owned(),
            _ => format!("version {id}"),
        };
        let each: Vec<_> =
            deployment.versions.iter().map(|(id, share)| format!("{} at {share}%", name(id))).collect();
        let each = each.join(" and ");
        if self.dry_run {
            return format!("Would deploy {} {each}\n", self.name);
        }
        let text = format!("Deployed {} {each} ({:.2} sec)\n", self.name, self.seconds);
        text + &format!("Deployment ID: {}\n", deployment.id)
    }

    /// The version that came with the change, in wrangler's words.
    pub(crate) fn uploaded(&self) -> String {
        match self.version() {
            Some(_) if self.dry_run => format!("Would upload a version of {}\n", self.name),
            Some(id) => format!("Uploaded {} ({:.2} sec)\nVersion ID: {id}\n", self.name, self.seconds),
            None => String::new(),
        }
    }

    fn to_json(&self) -> Result<Value, Failure> {
        let worker = self.worker()?;
        let draft = &self.done.draft;
        let version = self.version().and_then(|id| worker.versions.iter().find(|one| one.metadata.id == *id));
        let deployment = draft
            .deployment
            .as_ref()
            .map(|deployment| show::deployment_json(&Entry::of(worker, &deployment.created_on, 0)));
        let (serves, generation, why) = match &self.done.told {
            Told::Serves { generation } => (Some(true), Some(*generation), None),
            Told::NoProxy { why } => (Some(false), None, Some(why)),
            Told::Refused { report: why } | Told::Unknown { why } => (None, None, Some(why)),
        };
        let proxy =
            (!self.dry_run).then(|| json!({ "serves": serves, "generation": generation, "why": why }));
        Ok(json!({
            "worker": self.name.as_str(),
            "dry_run": self.dry_run,
            "version": version.map(|version| show::version_json(worker, version)),
            "deployment": deployment,
            "plan": self.plan()?.map(|plan| plan.to_json()),
            "proxy": proxy,
            "warnings": draft.warnings,
        }))
    }
}
