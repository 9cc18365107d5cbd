//! What becomes live is noted in the journal, in order, by a thread of its own: a disk that hangs holds up nothing.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use crate::config::Config;
use crate::control::clock::rfc3339;
use crate::control::status::Status;
use crate::store::journal::{Entry, Journal};

/// How many notes may wait for the disk; more are lost, which is said.
const QUEUE: usize = 64;

/// How long a reload waits for its note, so that whoever asked for it finds the deployment in the journal.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who notes deployments.
#[derive(Debug)]
pub(crate) struct Recorder {
    status: Arc<Status>,
    /// `None`: the thread could not be started.
    notes: Option<SyncSender<Note>>,
    /// Is told when the last note is written.
    last: Option<oneshot::Receiver<()>>,
}

/// The deployments of a generation.
#[derive(Debug)]
struct Note {
    journal: Journal,
    entries: Vec<Entry>,
    done: oneshot::Sender<()>,
}

impl Recorder {
    /// One whose thread ends with it, when everything is noted.
    pub(crate) fn new(status: Arc<Status>) -> Self {
        let (notes, waiting) = sync_channel(QUEUE);
        let own = Arc::clone(&status);
        let thread = std::thread::Builder::new().name("journal".to_owned());
        let notes = match thread.spawn(move || keep(&own, &waiting)) {
            Ok(_) => Some(notes),
            Err(_) => None,
        };
        Self { status, notes, last: None }
    }

    /// Has every worker's deployment noted that is not the one noted last, as live from now on.
    pub(crate) fn note(&mut self, config: &Config, generation: u64) {
        let is_pipe = std::fs::metadata(self.status.file()).is_ok_and(|data| !data.is_file());
        if is_pipe && config.server.state.is_none() {
            return off(&self.status, "a file that is a pipe has no folder for the journal of deployments");
        }
        let time = rfc3339(SystemTime::now());
        let journal = Journal::of(config, self.status.file());
        let entries = config.workers.iter().map(|worker| Entry::of(worker, &time, generation)).collect();
        let (done, noted) = oneshot::channel();
        let sent = match &self.notes {
            None => Err("there is no thread for it"),
            Some(notes) => match notes.try_send(Note { journal, entries, done }) {
                Ok(()) => Ok(()),
                Err(TrySendError::Full(_)) => Err("the disk does not keep up"),
                Err(TrySendError::Disconnected(_)) => Err("its thread has ended"),
            },
        };
        match sent {
            Ok(()) => self.last = Some(noted),
            Err(why) => off(&self.status, &format!("the journal of deployments cannot be kept: {why}")),
        }
    }

    /// Waits until everything is noted, or that takes too long: then it is done all the same. A start does not wait: it is
    /// ready to be ended in order before.
    pub(crate) async fn noted(&mut self) {
        if let Some(last) = self.last.take() {
            // Whether in time or not, and well or not: the thread says what there is to say.
            drop(tokio::time::timeout(PATIENCE, last).await);
        }
    }
}

/// Notes one after the other until nobody is left to note anything.
fn keep(status: &Status, notes: &Receiver<Note>) {
    for Note { journal, entries, done } in notes {
        match journal.append(&entries) {
            Ok(_) => on(status, &journal),
            Err(error) => off(status, &error.to_string()),
        }
        // A reload that had no time to wait needs no answer.
        let _ = done.send(());
    }
}

fn on(status: &Status, journal: &Journal) {
    if !status.journal(true) {
        tracing::info!("the journal of deployments {} is kept again", journal.path().display());
    }
}

/// Says it once, until it has worked again.
fn off(status: &Status, why: &str) {
    if status.journal(false) {
        tracing::warn!(
            "{why}; everything else goes on, but what is deployed is not noted, so that `gradual deployments list` lacks it; \
             `[server] state` names a folder for it"
        );
    }
}
