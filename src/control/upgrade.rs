//! Binary upgrades: the next process is started, handed every listening socket, and accepts; only then does this one stop.
//!
//! Both accept for a while from the very same sockets, and whatever waits in their queues waits for either: no connection
//! is refused or lost, as none of the sockets is ever closed by both. If the new process does not become ready, this one
//! has never stopped.

pub(crate) mod handover;
pub(crate) mod objects;
mod program;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use self::handover::{Inheritance, VARIABLE, Word};
use self::objects::Departure;
pub(crate) use self::program::Program;
use crate::control::admin::Leaving;
use crate::control::inbox;
use crate::control::reload::Reloader;
use crate::control::status::LastUpgrade;
use crate::metrics::UpgradeResult;

/// How long a new process may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process that is to end may take, before it is asked and after.
const GRACE: Duration = Duration::from_secs(5);
/// How many upgrades may be asked for and not begun; more askers wait.
const QUEUE: usize = 16;

/// A new process serves in this one's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// The process that finishes what is in flight.
    pub from: u32,
    /// The process that serves.
    pub to: u32,
}

/// Why no new process serves. The running one goes on.
#[derive(Debug)]
pub enum UpgradeError {
    /// No process was started.
    Refused(Refusal),
    /// The new process did not become ready.
    Failed(Failure),
}

/// Why no process is started.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This is process 1.
    FirstProcess,
    /// The proxy runs within another program.
    Embedded,
    /// Another upgrade is under way; the new process's id.
    UnderWay(u32),
    /// The process that this one replaced goes on, and may have objects of which a third would not know; its id.
    Draining(u32),
}

/// Why a new process did not become ready.
#[derive(Debug)]
pub enum Failure {
    /// The sockets cannot be handed over.
    Sockets(io::Error),
    /// The program cannot be started.
    Program(PathBuf, io::Error),
    /// It said why it could not start.
    Said(String),
    /// It ended without a word, or did not end when it should; with how.
    Ended(Option<ExitStatus>),
    /// It did not become ready in time, and was ended.
    Silent(Duration),
    /// This process was asked to stop meanwhile; the new one was ended.
    Stopping,
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl std::error::Error for UpgradeError {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstProcess => f.write_str(
                "this is process 1 of its container, and the container would end with it: replace the container instead",
            ),
            Self::Embedded => f.write_str(
                "this proxy runs within another program: only what `gradual run` started can be upgraded",
            ),
            Self::UnderWay(pid) => write!(f, "an upgrade is under way already: process {pid} is starting"),
            Self::Draining(pid) => write!(
                f,
                "process {pid}, which this one replaced, has not ended yet, and may still have live objects: upgrade again when it has ended, or end it now by sending it SIGTERM twice"
            ),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sockets(error) => write!(f, "the listening sockets cannot be handed over: {error}"),
            Self::Program(path, error) => write!(f, "{} cannot be started: {error}", path.display()),
            Self::Said(reason) => write!(f, "the new process could not start: {reason}"),
            Self::Ended(Some(status)) => {
                write!(
                    f,
                    "the new process ended before it was ready ({status}); its standard error may say why"
                )
            }
            Self::Ended(None) => f.write_str("the new process broke off before it was ready"),
            Self::Silent(patience) => {
                write!(f, "the new process was not ready within {patience:?}, and was ended")
            }
            Self::Stopping => f.write_str("this process was asked to stop; the new one was ended"),
        }
    }
}

/// The process that serves in this one's place.
#[derive(Debug)]
pub(crate) struct Heir {
    pub(crate) pid: u32,
    /// Those who wait for this process's last answers on the admin address.
    pub(crate) admin: Option<Leaving>,
}

/// What came of an upgrade.
pub type Outcome = Result<Upgraded, UpgradeError>;

/// Where upgrades are asked for.
pub type Inbox = inbox::Inbox<Outcome>;

/// The consumer's end of the inbox.
pub(crate) type Requests = inbox::Requests<Outcome>;

/// Somebody wants an upgrade.
pub(crate) type Request = inbox::Request<Outcome>;

/// An inbox and the end that its consumer reads.
pub(crate) fn inbox() -> (Inbox, Requests) {
    inbox::inbox(QUEUE)
}

impl Requests {
    /// Upgrades, and answers whoever asked; whoever asks meanwhile is refused. If the new process serves, it is the only
    /// one that accepts on the admin address before anybody is told.
    pub(crate) async fn answer(
        &mut self,
        request: Request,
        program: Option<&Program>,
        reloader: &mut Reloader,
    ) -> Option<Heir> {
        let refusal =
            refusal(std::process::id()).or_else(|| reloader.elder.lives_on().map(Refusal::Draining));
        let outcome = match (program, refusal) {
            (_, Some(refusal)) => Err(UpgradeError::Refused(refusal)),
            (None, None) => Err(UpgradeError::Refused(Refusal::Embedded)),
            (Some(program), None) => self.upgrade(request.why, program, reloader).await,
        };
        let heir = match &outcome {
            Ok(upgraded) => Some(Heir { pid: upgraded.to, admin: reloader.admin.leave().await }),
            Err(_) => None,
        };
        request.answer(outcome, reloader);
        heir
    }

    async fn upgrade(&mut self, why: &str, program: &Program, reloader: &Reloader) -> Outcome {
        let mut starting = begin(program, reloader).map_err(UpgradeError::Failed)?;
        let pid = starting.pid;
        tracing::info!("upgrade ({why}): {} starts as process {pid}", program.path.display());
        reloader.status.upgrading(Some(pid));
        let outcome = {
            let mut ready = pin!(starting.ready(PATIENCE));
            loop {
                tokio::select! {
                    biased;
                    () = reloader.status.drained() => break Err(Failure::Stopping),
                    outcome = &mut ready => break outcome,
                    Some(request) = self.next() => {
                        request.answer(Err(UpgradeError::Refused(Refusal::UnderWay(pid))), reloader);
                    }
                }
            }
        };
        reloader.status.upgrading(None);
        match outcome {
            Ok(()) => {
                starting.release();
                Ok(Upgraded { from: std::process::id(), to: pid })
            }
            Err(failure) => Err(UpgradeError::Failed(starting.give_up(failure).await)),
        }
    }
}

impl Request {
    /// Tells whoever asked, the log, the metrics and the status.
    fn answer(self, outcome: Outcome, reloader: &Reloader) {
        let why = self.why;
        let (result, reason) = match &outcome {
            Ok(upgraded) => {
                tracing::info!("upgraded ({why}): process {} serves", upgraded.to);
                (UpgradeResult::Success, None)
            }
            Err(error @ UpgradeError::Refused(_)) => {
                tracing::warn!("upgrade refused ({why}): {error}");
                (UpgradeResult::Refused, Some(error.to_string()))
            }
            Err(error @ UpgradeError::Failed(_)) => {
                tracing::error!("upgrade failed ({why}), this process goes on: {error}");
                (UpgradeResult::Failure, Some(error.to_string()))
            }
        };
        reloader.registry.upgraded(result);
        reloader.status.upgraded(LastUpgrade::now(result, reason));
        if let Some(reply) = self.reply {
            // An asker that went away needs no answer.
            let _ = reply.send(outcome);
        }
    }
}

/// Why a process with this id starts no other in its place.
fn refusal(pid: u32) -> Option<Refusal> {
    (pid == 1).then_some(Refusal::FirstProcess)
}

/// Starts the new process, with everything that it needs waiting for it.
fn begin(program: &Program, reloader: &Reloader) -> Result<Starting, Failure> {
    let fence = reloader.shards.fence();
    let inheritance = || {
        Ok(Inheritance {
            from: std::process::id(),
            upgrades: reloader.registry.upgrades(),
            admin: reloader.admin.hand_over()?,
            listeners: reloader.shards.hand_over()?,
            names: reloader.shards.known_names(),
            has_objects: fence.has_objects(),
        })
    };
    let mut starting = Starting::new(program, &inheritance().map_err(Failure::Sockets)?)?;
    starting.departure = Some(Departure::new(fence));
    Ok(starting)
}

/// A new process that is not ready yet. Dropping it kills it.
#[derive(Debug)]
struct Starting {
    pid: u32,
    child: Option<Child>,
    /// To the new process, until it is released or given up.
    stream: Option<tokio::net::UnixStream>,
    /// What it has claimed of this process's objects.
    departure: Option<Departure>,
}

impl Starting {
    fn new(program: &Program, inheritance: &Inheritance) -> Result<Self, Failure> {
        let (stream, theirs) = UnixStream::pair().map_err(Failure::Sockets)?;
        handover::send(&stream, inheritance).map_err(Failure::Sockets)?;
        let mut command = Command::new(&program.path);
        command.args(&program.arguments).env(VARIABLE, "1");
        // Those of a service manager were for this process.
        command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID").env_remove("LISTEN_FDNAMES");
        let spawned = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn();
        // With the command goes this process's copy of the new one's end: else its closing would go unnoticed.
        drop(command);
        let child = spawned.map_err(|error| Failure::Program(program.path.clone(), error))?;
        let pid = child.id().unwrap_or_default();
        let mut starting = Self { pid, child: Some(child), stream: None, departure: None };
        starting.stream = Some(tokio::net::UnixStream::from_std(stream).map_err(Failure::Sockets)?);
        Ok(starting)
    }

    /// Waits until it serves.
    async fn ready(&mut self, patience: Duration) -> Result<(), Failure> {
        let Some(stream) = &mut self.stream else { return Err(Failure::Ended(None)) };
        let departure = &mut self.departure;
        let said = async {
            loop {
                match (handover::word(stream).await?, &mut *departure) {
                    (Word::Objects(claims), Some(departure)) => {
                        stream.write_all(&departure.claimed(&claims)?).await?;
                    }
                    (Word::Objects(_), None) => {}
                    (word, _) => return Ok::<_, io::Error>(word),
                }
            }
        };
        match tokio::time::timeout(patience, said).await {
            Ok(Ok(Word::Serving | Word::Objects(_))) => Ok(()),
            Ok(Ok(Word::Failed(reason))) => Err(Failure::Said(reason)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the new process broke off");
                Err(Failure::Ended(None))
            }
            Err(_) => Err(Failure::Silent(patience)),
        }
    }

    /// It serves: it lives on whatever becomes of this process, and what it was handed is its own.
    fn release(mut self) {
        if let Some(stream) = self.stream.take() {
            handover::acknowledge(&stream);
            if let Some(departure) = self.departure.take() {
                tokio::spawn(departure.go_on(stream));
            }
        }
        drop(self.child.take());
    }

    /// Ends it. A process that broke off is expected to end by itself first, so that its own exit status is seen; one
    /// that serves all the same answers what it has accepted. Unacknowledged, it leaves the files of sockets where they
    /// are.
    async fn give_up(mut self, failure: Failure) -> Failure {
        let departure = self.departure.take();
        let failure = self.end(failure).await;
        // Whatever it may have served, it serves no more.
        if let Some(mut departure) = departure {
            departure.lift();
        }
        failure
    }

    async fn end(mut self, failure: Failure) -> Failure {
        drop(self.stream.take());
        if matches!(failure, Failure::Said(_) | Failure::Ended(_))
            && let Some(status) = self.ended().await
        {
            return if matches!(failure, Failure::Said(_)) { failure } else { Failure::Ended(Some(status)) };
        }
        self.ask_to_end();
        if self.ended().await.is_none()
            && let Some(child) = &mut self.child
        {
            let _ = child.kill().await;
        }
        failure
    }

    /// How it ended, if it does so soon.
    async fn ended(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        tokio::time::timeout(GRACE, child.wait()).await.ok()?.ok()
    }

    fn ask_to_end(&self) {
        // Until it has been waited for, its id belongs to no other process.
        let alive = self.child.as_ref().and_then(Child::id);
        signal(alive, rustix::process::Signal::TERM);
    }
}

/// Sends a signal to a process, where there is one.
pub(crate) fn signal(pid: Option<u32>, signal: rustix::process::Signal) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.start_kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in the new process's place.
    async fn starting(script: &str, patience: Duration) -> Result<(), Failure> {
        let program =
            Program { path: PathBuf::from("/bin/sh"), arguments: ["-c", script].map(Into::into).into() };
        let mut starting = Starting::new(&program, &Inheritance::default()).unwrap();
        match starting.ready(patience).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(starting.give_up(failure).await),
        }
    }

    #[test]
    fn process_1_starts_no_other_in_its_place() {
        assert_eq!(refusal(1), Some(Refusal::FirstProcess));
        assert_eq!(refusal(2), None);
    }

    #[tokio::test]
    async fn a_process_that_says_that_it_serves_is_ready() {
        assert!(starting("echo '\"Serving\"' >&0", PATIENCE).await.is_ok());
    }

    #[tokio::test]
    async fn only_a_process_that_is_released_is_acknowledged() {
        for released in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("rest");
            // Nothing but the letter comes before it.
            let script =
                format!("echo '\"Serving\"' >&0; tail -c 1 >{0}.new; mv {0}.new {0}", path.display());
            let program =
                Program { path: PathBuf::from("/bin/sh"), arguments: ["-c", &script].map(Into::into).into() };
            let mut starting = Starting::new(&program, &Inheritance::default()).unwrap();
            starting.ready(PATIENCE).await.unwrap();
            if released {
                starting.release();
            } else {
                let _ = starting.stream.take();
                starting.ended().await.unwrap();
            }
            let read = async {
                while !path.exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                std::fs::read_to_string(&path).unwrap()
            };
            let last = tokio::time::timeout(PATIENCE, read).await.unwrap();
            assert_eq!(last == "+", released, "{last:?}");
        }
    }

    #[tokio::test]
    async fn a_process_that_ends_or_breaks_off_or_says_why_not_is_not_ready() {
        for (script, expected) in [
            ("exit 3", "exit status: 3"),
            ("exec 0</dev/null; exit 4", "exit status: 4"),
            ("echo nonsense >&0; exit 5", "exit status: 5"),
            (r#"echo '{"Failed":"a bad file"}' >&0; exit 1"#, "could not start: a bad file"),
        ] {
            let failure = starting(script, PATIENCE).await.unwrap_err().to_string();
            assert!(failure.contains(expected), "{script}: {failure}");
        }
    }

    #[tokio::test]
    async fn a_silent_process_is_ended() {
        let failure = starting("exec sleep 1000", Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(failure, Failure::Silent(_)), "{failure}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_cannot_be_started() {
        let program = Program { path: PathBuf::from("/nowhere/gradual"), arguments: Vec::new() };
        let failure = Starting::new(&program, &Inheritance::default()).unwrap_err();
        assert!(failure.to_string().starts_with("/nowhere/gradual cannot be started"), "{failure}");
    }
}
