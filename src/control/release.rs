//! Versions and deployments: the one path on which commands, the admin API and Cloudflare's API change the file.
//!
//! A change is drafted from the file as it is: checked, laid out so that no more keys move than must, and parsed again. Then
//! it replaces the file under a lock, the running proxy takes it over, and what the proxy refuses is taken back.

mod choose;
mod draft;
mod history;
mod refusal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

pub use choose::{DEPLOYABLE, deployable, spread, tagged, version, worker};
pub use history::history;
pub use refusal::{Kind, Refusal};

use crate::config::Config;
use crate::config::edit::{NewDeployment, NewVersion};
use crate::control::clock::rfc3339;
use crate::control::reload::{self, Inbox, Loaded};
use crate::control::status::Status;
use crate::model::deployment::Deployment;
use crate::model::name::{VersionId, WorkerName};
use crate::model::share::Share;
use crate::plan::Plan;
use crate::store;
use crate::store::journal::Journal;
use crate::store::write::Lock;

/// How long a writer waits for another one: longer than a reload takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a change is drafted anew because somebody else wrote meanwhile.
const ATTEMPTS: usize = 5;

/// Who makes a change, for the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// A person or a machine, as it calls itself.
    pub author: Option<String>,
    /// By which way: `cli`, `api`, `wrangler`.
    pub source: &'static str,
}

/// A version that is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upload {
    /// Where it runs, as in the file; at least one.
    pub upstreams: Vec<String>,
    /// A short name for people.
    pub tag: Option<String>,
    /// What it is about.
    pub message: Option<String>,
    /// The state of the data that it needs; `None`: that of the active deployment.
    pub migration: Option<String>,
}

/// What is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A version more, which no request reaches yet.
    Upload(Upload),
    /// Another split between uploaded versions of the present migration.
    Split {
        /// Versions and shares, which total 100 % (± 0.001).
        versions: Vec<(VersionId, Share)>,
        /// Why.
        message: Option<String>,
    },
    /// An uploaded version takes everything, and may bring a new migration.
    Promote {
        /// The version.
        version: VersionId,
        /// Why.
        message: Option<String>,
    },
    /// A new version takes everything, and may bring a new migration.
    Ship {
        /// The version.
        upload: Upload,
        /// Why it is deployed.
        message: Option<String>,
    },
    /// A version that served before takes everything again.
    RollBack {
        /// The version; `None`: that of the newest deployment before, other than the present one, which gave one version everything.
        version: Option<VersionId>,
        /// Why; `None`: `Rollback`.
        message: Option<String>,
    },
}

/// A change of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whose versions.
    pub worker: WorkerName,
    /// What.
    pub change: Change,
    /// By whom.
    pub who: Who,
    /// The id of the deployment that the change was decided upon: if another one is active, nothing is changed.
    pub base: Option<String>,
    /// That deployment whole, where it was seen: a hand edit may keep the id and change the rest.
    pub seen: Option<Deployment>,
    /// The deployment that serves, where that is known: a hand edit may not have been taken over yet. `None`: the file's.
    pub live: Option<Deployment>,
}

/// A change as it would be written.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The active deployment.
    pub before: Deployment,
    /// The version that comes with the change.
    pub version: Option<NewVersion>,
    /// The deployment that comes with the change.
    pub deployment: Option<NewDeployment>,
    /// Which keys the deployment moves.
    pub plan: Option<Plan>,
    /// The file's new text.
    pub text: String,
    /// What that text says.
    pub config: Config,
    /// What the author of the change should know.
    pub warnings: Vec<String>,
}

/// What the running proxy said to the new file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Every shard serves it.
    Serves {
        /// The generation that does.
        generation: u64,
    },
    /// No proxy runs this file.
    NoProxy {
        /// How that was found out.
        why: String,
    },
    /// It goes on as it was.
    Refused {
        /// Every mistake.
        report: String,
    },
    /// It was asked, and gave no answer.
    Unknown {
        /// What happened.
        why: String,
    },
}

/// A change that was made.
#[derive(Clone, Debug)]
pub struct Done {
    /// What was written.
    pub draft: Draft,
    /// Who serves it.
    pub told: Told,
}

/// What a change would be, without making it. Blocks; reads the file and the journal.
///
/// # Errors
/// Why it cannot be made.
pub fn draft(file: &Path, request: &Request) -> Result<Draft, Refusal> {
    read(file).and_then(|loaded| drafted(file, &loaded, request))
}

/// Makes a change: writes the file and tells the running proxy. If that refuses, or is about to end, the file is restored,
/// unless somebody else has changed it meanwhile. Not to be cancelled before it has returned: the proxy would not be told.
///
/// # Errors
/// Why it was not made.
pub async fn perform(
    file: &Path,
    request: &Request,
    tell: impl AsyncFnOnce() -> Told,
) -> Result<Done, Refusal> {
    perform_as(|_| true, file, request, async || Some(tell().await)).await
}

/// As [`perform`]. `renew` brings a request up to date once nobody else writes, and says whether to go on; `tell` is `None` where
/// the process that runs the file takes nothing over any more.
async fn perform_as(
    renew: impl Fn(&mut Request) -> bool + Send + 'static,
    file: &Path,
    request: &Request,
    tell: impl AsyncFnOnce() -> Option<Told>,
) -> Result<Done, Refusal> {
    let (file, request) = (file.to_owned(), request.clone());
    let written = blocking(move || Written::new(&file, request, &renew)).await?;
    let told = tell().await;
    blocking(move || match told {
        Some(Told::Refused { report }) => Err(Refusal::by_proxy(&report, &written.take_back())),
        Some(told) => Ok(Done { draft: written.draft, told }),
        None => Err(Refusal::stopping(&written.take_back())),
    })
    .await
}

/// As [`perform`], in the process that runs the file, upon what serves. It goes on where nobody waits for it any more, and does
/// not begin where the process is about to end.
///
/// # Errors
/// Why it was not made.
pub(crate) async fn perform_here(
    status: Arc<Status>,
    inbox: Inbox,
    request: Request,
) -> Result<Done, Refusal> {
    let whole = tokio::spawn(async move {
        let tell = async || match inbox.ask("a deployment was written").await? {
            Ok(reload::Reloaded { generation, .. }) => Some(Told::Serves { generation }),
            Err(report) => Some(Told::Refused { report: report.render(false) }),
        };
        let file = status.file().to_owned();
        let renew = move |request: &mut Request| {
            request.live = live(&status, &request.worker);
            status.is_ready()
        };
        perform_as(renew, &file, &request, tell).await
    });
    whole.await.unwrap_or_else(|error| Err(Refusal::broken(&error)))
}

/// As [`draft`], in the process that runs the file, upon what serves.
///
/// # Errors
/// Why it cannot be made.
pub(crate) async fn draft_here(status: Arc<Status>, mut request: Request) -> Result<Draft, Refusal> {
    blocking(move || {
        request.live = live(&status, &request.worker);
        draft(status.file(), &request)
    })
    .await
}

/// A worker's deployment that serves.
fn live(status: &Status, worker: &WorkerName) -> Option<Deployment> {
    let config = status.config()?;
    let worker = config.workers.iter().find(|one| one.policy.name == *worker)?;
    Some(worker.policy.deployment.clone())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Refusal::broken(&error)))
}

fn read(file: &Path) -> Result<Loaded, Refusal> {
    // Whoever opens a pipe may wait for ever.
    if std::fs::metadata(file).is_ok_and(|data| !data.is_file() && !data.is_dir()) {
        let title = format!("{} is not a regular file", file.display());
        return Err(Refusal::new(Kind::ManagedElsewhere, title).with_help("change it where it comes from"));
    }
    Loaded::read(&store::file::name(file), file, |_| ()).map_err(Refusal::bad_file)
}

fn drafted(file: &Path, loaded: &Loaded, request: &Request) -> Result<Draft, Refusal> {
    let journal = Journal::of(&loaded.config, file);
    let stamp = draft::Stamp {
        now: rfc3339(SystemTime::now()),
        version: Uuid::new_v4().to_string(),
        deployment: Uuid::new_v4().to_string(),
    };
    // Without a journal only a rollback that names no version is at a loss, and says so.
    let journal = journal.read().unwrap_or_default();
    draft::draft(file, loaded, &journal, request, &stamp)
}

/// A file that has been written and may have to be taken back.
struct Written {
    real: PathBuf,
    before: String,
    draft: Draft,
    /// Nobody else writes as long as it is here.
    _lock: Lock,
}

impl Written {
    /// Writes a change into the file.
    fn new(
        file: &Path,
        mut request: Request,
        renew: &impl Fn(&mut Request) -> bool,
    ) -> Result<Self, Refusal> {
        let (real, lock) = locked(file)?;
        for _ in 0..ATTEMPTS {
            if !renew(&mut request) {
                return Err(Refusal::stopping(&Ok(())));
            }
            let loaded = read(file)?;
            let draft = drafted(file, &loaded, &request)?;
            let before = loaded.report.source;
            // Editors take no lock.
            if leads_to(file, &real) && store::file::read(&real).is_ok_and(|text| text == before) {
                store::write::replace(&real, &draft.text)?;
                return Ok(Self { real, before, draft, _lock: lock });
            }
        }
        Err(restless(file))
    }

    /// Puts the file back as it was, unless it is not what was written any more; says why not.
    fn take_back(&self) -> Result<(), String> {
        match store::file::read(&self.real) {
            Ok(text) if text == self.draft.text => {
                store::write::replace(&self.real, &self.before).map_err(|error| error.to_string())
            }
            _ => Err("somebody else has changed it meanwhile".to_owned()),
        }
    }
}

/// The file itself, and the right to write it. A link on the way to it may be switched while that is waited for.
fn locked(file: &Path) -> Result<(PathBuf, Lock), Refusal> {
    for _ in 0..ATTEMPTS {
        let real = store::write::resolve(file).unwrap_or_else(|_| file.to_owned());
        // Where the lock lies is said by the file, which is read again once nobody else writes it.
        let config = read(file)?.config;
        store::write::check(&real)?;
        let folder = store::state_folder(&config, &real);
        let lock = store::write::lock(&folder, &store::stem(&real), PATIENCE)?;
        if leads_to(file, &real) {
            return Ok((real, lock));
        }
    }
    Err(restless(file))
}

fn leads_to(file: &Path, real: &Path) -> bool {
    store::write::resolve(file).is_ok_and(|now| now == real)
}

fn restless(file: &Path) -> Refusal {
    let title = format!("{} changes all the time", file.display());
    Refusal::new(Kind::Busy, title).with_help("wait until whoever writes it is done, and try again")
}
