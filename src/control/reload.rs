//! Reloads: one inbox, one consumer, so that they never overlap.
//!
//! A reload reads the file, prepares everything that can fail, and only then commits. A bad file changes nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::{AccessTarget, Config, Endpoint, Spanned, Upstream};
use crate::control::admin::Admin;
use crate::control::changes;
use crate::control::inbox;
use crate::control::recorder::Recorder;
use crate::control::status::{Served, Status};
use crate::control::threads;
use crate::control::upgrade::objects::Elder;
use crate::diag::{Diagnostic, Report};
use crate::export::access::AccessLog;
use crate::metrics::Registry;
use crate::proxy::{Prepared, Shards};

/// How many reloads may be asked for and not begun. More askers wait; a mere notice needs no place of its own then, as
/// those that wait in line will read what it is about.
const QUEUE: usize = 64;
/// How long the file may take to be read.
const READING: Duration = Duration::from_secs(10);

/// A reload that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The number of the generation that now serves on every shard.
    pub generation: u64,
    /// What the file's author should know; no errors.
    pub warnings: Report,
}

/// What came of a reload: on failure every mistake, and nothing has changed.
pub type Outcome = Result<Reloaded, Report>;

/// Where reloads are asked for: the file is read after the call.
pub type Inbox = inbox::Inbox<Outcome>;

/// The consumer's end of the inbox.
pub(crate) type Requests = inbox::Requests<Outcome>;

/// Requests that one reload answers: all of them were made before it reads.
#[derive(Debug)]
pub(crate) struct Batch {
    why: &'static str,
    replies: Vec<oneshot::Sender<Outcome>>,
}

/// An inbox and the end that its consumer reads.
pub(crate) fn inbox() -> (Inbox, Requests) {
    inbox::inbox(QUEUE)
}

impl Requests {
    /// Waits for a request, and takes all that are waiting with it. Safe to cancel. `None`: no inbox is left.
    pub(crate) async fn next_batch(&mut self) -> Option<Batch> {
        let first = self.next().await?;
        let mut batch = Batch { why: first.why, replies: first.reply.into_iter().collect() };
        while let Some(request) = self.waiting() {
            batch.replies.extend(request.reply);
        }
        Some(batch)
    }
}

/// The running process's changeable parts, and the only code that changes them.
#[derive(Debug)]
pub(crate) struct Reloader {
    /// What readers see.
    pub(crate) status: Arc<Status>,
    /// Where deployments are noted.
    pub(crate) recorder: Recorder,
    /// Where reloads are counted.
    pub(crate) registry: Arc<Registry>,
    /// Where requests are logged.
    pub(crate) log: AccessLog,
    /// The data plane.
    pub(crate) shards: Shards,
    /// The admin address.
    pub(crate) admin: Admin,
    /// The process before, as long as it may have objects of which this one has to know.
    pub(crate) elder: Elder,
    /// What serves; before the first generation, settings without workers and listeners.
    pub(crate) config: Arc<Config>,
}

/// A file's meaning, and its text for reports that come up later.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What it says.
    pub(crate) config: Config,
    /// The text, and warnings.
    pub(crate) report: Report,
}

impl Loaded {
    /// Reads and parses a file; `read` is told its text, taken or refused. Reports call the file `name`; the path is
    /// absolute, so that what is relative to it means the same in every generation.
    ///
    /// # Errors
    /// Every mistake in the file, or why it cannot be read.
    pub(crate) fn read(name: &str, path: &Path, read: impl FnOnce(&str)) -> Result<Self, Report> {
        let source = crate::store::file::read(path)?;
        read(&source);
        let folder = path.parent().unwrap_or(Path::new(""));
        let (config, report) = crate::config::parse(name, &source, folder)?;
        Ok(Self { config, report })
    }
}

impl Reloader {
    /// Reloads once and answers everybody who asked.
    pub(crate) async fn answer(&mut self, batch: Batch) {
        let outcome = self.reload(batch.why).await;
        for reply in batch.replies {
            // An asker that went away needs no answer.
            let _ = reply.send(outcome.clone());
        }
    }

    /// Takes what was handed over for this process's own, if the process before has left it.
    pub(crate) fn settle(&mut self, has_left: bool, objects: Option<tokio::net::UnixStream>) {
        self.elder.follow(objects, self.shards.arrivals());
        if has_left {
            self.shards.own_files();
            self.admin.own_file();
        } else {
            tracing::warn!(
                "the process before gave this upgrade up, or ended: the files of its sockets are left to it"
            );
        }
    }

    async fn reload(&mut self, why: &str) -> Outcome {
        let status = Arc::clone(&self.status);
        let outcome = match loaded(&status).await {
            Ok(loaded) => self.take(loaded, why).await,
            Err(report) => Err(report),
        };
        self.recorder.noted().await;
        self.registry.reloaded(outcome.is_ok());
        match &outcome {
            Ok(reloaded) => status.reloaded(reloaded.warnings.clone()),
            Err(report) => self.refuse(report, why),
        }
        outcome
    }

    fn refuse(&self, report: &Report, why: &str) {
        let generation = self.status.generation();
        let text = report.render(false);
        tracing::error!(
            "reload refused ({why}), generation {generation} goes on: {}\n{text}",
            report.summary()
        );
        self.status.reloaded(report.clone());
        // A rotation of the log asks for the same reload: it must not fail because of the file.
        if let Err(error) = self.log.reopen(&self.config.log.access.value) {
            tracing::error!("the access log cannot be reopened, and goes on where it was: {error}");
        }
    }

    /// Makes a loaded file the next generation: everything that can fail comes first and changes nothing.
    ///
    /// # Errors
    /// Every mistake that shows only when addresses are bound and files are opened.
    pub(crate) async fn take(&mut self, loaded: Loaded, why: &str) -> Outcome {
        let Loaded { config, report } = loaded;
        let access = &config.log.access;
        let prepared =
            (self.shards.prepare(&config).await, self.admin.prepare(&config.admin), check_log(access));
        let (shards, admin) = match prepared {
            (Ok(shards), Ok(admin), None) => (shards, admin),
            (shards, admin, log) => {
                let errors = [shards.err(), admin.err(), log.map(|log| vec![log])];
                let errors = errors.into_iter().flatten().flatten();
                return Err(report.with(errors.map(|error| self.own_up(error, &config))));
            }
        };
        if let Err(error) = self.log.reopen(&access.value) {
            return Err(report.with([no_log(access, &error)]));
        }
        let report = report.with(without_address(&config, &shards));
        let generation = self.status.generation() + 1;
        if let Err(error) = self.elder.claim(shards.claims(), &self.shards.arrivals()).await {
            return Err(Report::without_source(report.file, error.to_string(), Some(error.help())));
        }
        self.shards.commit(shards).await;
        self.admin.commit(admin);
        self.serve(generation, config);
        self.say(generation, why, &report);
        self.recorder.note(&self.config, generation);
        Ok(Reloaded { generation, warnings: report })
    }

    /// An error about an address that cannot be had, with what to do where this process itself has it: what it gives
    /// up, it gives up only once everything new is bound.
    fn own_up(&self, error: Diagnostic, config: &Config) -> Diagnostic {
        let listeners = config.listeners.iter().map(|listener| &listener.address);
        let wanted = listeners.chain([&config.admin.address]).find(|one| one.span == error.span);
        let mut held = self.shards.addresses().into_iter().chain(self.admin.address());
        match wanted.and_then(|wanted| held.find(|held| held.overlaps(&wanted.value))) {
            Some(held) => error.help(format!(
                "this proxy itself listens at {held} until the reload is done: reload first with another address in \
                 this place, and then with this one; or restart"
            )),
            None => error,
        }
    }

    fn serve(&mut self, generation: u64, config: Config) {
        let before = std::mem::replace(&mut self.config, Arc::new(config));
        let listeners = self.shards.addresses();
        for line in changes::lines(&before, &self.config) {
            tracing::info!("generation {generation}: {line}");
        }
        for warning in changes::warnings(&before, &self.config) {
            tracing::warn!("generation {generation}: {warning}");
        }
        for (wanted, bound) in self.config.listeners.iter().zip(&listeners) {
            if wanted.address.value != *bound {
                tracing::info!("generation {generation}: listener {} is at {bound}", wanted.address.value);
            }
        }
        let (threads, wanted) = (self.status.threads(), threads(&self.config).get());
        if threads != wanted {
            tracing::warn!("threads: {wanted} instead of {threads} need a restart; {threads} go on");
        }
        self.status.serves(Served {
            generation,
            config: Arc::clone(&self.config),
            listeners,
            admin: self.admin.address(),
        });
    }

    fn say(&self, generation: u64, why: &str, report: &Report) {
        tracing::info!("generation {generation} serves ({why})");
        if !report.diagnostics.is_empty() {
            tracing::warn!("{}\n{}", report.summary(), report.render(false));
        }
    }
}

/// Reads the file of a running process. A disk that hangs, or a pipe that nobody writes, holds up nothing else.
async fn loaded(status: &Arc<Status>) -> Result<Loaded, Report> {
    let own = Arc::clone(status);
    let read = move || Loaded::read(own.name(), own.file(), |source| own.read(source));
    let read = tokio::time::timeout(READING, tokio::task::spawn_blocking(read)).await;
    let why = match read {
        Ok(Ok(loaded)) => return loaded,
        Ok(Err(error)) => format!("the file was not read: {error}"),
        Err(_) => format!("the file cannot be read within {READING:?}"),
    };
    let help = "is it a pipe that nobody writes, or on a disk that hangs?";
    Err(Report::without_source(status.name(), why, Some(help.to_owned())))
}

/// What is wrong with where the access log is to go, found out without making a file; `None`: nothing is.
pub(crate) fn check_log(access: &Spanned<AccessTarget>) -> Option<Diagnostic> {
    AccessLog::check(&access.value).err().map(|error| no_log(access, &error))
}

fn no_log(access: &Spanned<AccessTarget>, error: &io::Error) -> Diagnostic {
    let target = match &access.value {
        AccessTarget::File(path) => format!("the access log {}", path.display()),
        AccessTarget::Stdout | AccessTarget::Off => "the access log".to_owned(),
    };
    let title = format!("{target} cannot be opened: {error}");
    let problem = Diagnostic::error(title, access.span.clone()).label("this path");
    match error.kind() {
        io::ErrorKind::NotFound => problem.help("its folder must exist"),
        io::ErrorKind::IsADirectory => problem.help("name a file in this folder"),
        _ => problem,
    }
}

/// A warning for each name to which no request can go at the moment, where it is first said.
fn without_address(config: &Config, prepared: &Prepared) -> Vec<Diagnostic> {
    let versions = config.workers.iter().flat_map(|worker| &worker.versions);
    let upstreams: Vec<_> = versions.flat_map(|version| &version.upstreams).collect();
    let warning = |name: &String| {
        let is_named =
            |upstream: &Upstream| matches!(&upstream.endpoint, Endpoint::Name { host, .. } if host == name);
        let first = upstreams.iter().find(|upstream| is_named(&upstream.value))?;
        let title = format!("`{name}` has no address: the name cannot be resolved, or not in time");
        let warning = Diagnostic::warning(title, first.span.clone()).label("no request can go there yet");
        Some(warning.help("check the name; it is looked up again every few seconds"))
    };
    prepared.unresolved().iter().filter_map(warning).collect()
}

/// A report of one error that has no place in the file.
pub(crate) fn failure(file: &str, title: String) -> Report {
    Report::without_source(file, title, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_that_wait_together_are_answered_by_one_reload() {
        let (inbox, mut requests) = inbox();
        inbox.notify("first");
        let answer = Reloaded { generation: 2, warnings: Report::default() };
        let consumer = async {
            let batch = requests.next_batch().await.unwrap();
            assert_eq!((batch.why, batch.replies.len()), ("first", 2));
            for reply in batch.replies {
                reply.send(Ok(answer.clone())).unwrap();
            }
        };
        let (one, two, ()) = tokio::join!(inbox.ask("second"), inbox.ask("third"), consumer);
        assert_eq!((one, two), (Some(Ok(answer.clone())), Some(Ok(answer.clone()))));
    }
}
