//! Versions and deployments: the one path on which commands, the admin API and Cloudflare's API change the file.
//!
//! A change is drafted from the file as it is: checked, laid out so that no more keys move than must, and parsed again. Then
//! it replaces the file under a lock, the running proxy takes it over, and what the proxy refuses is taken back.

mod choose;
mod draft;
mod history;
mod refusal;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

pub use choose::{DEPLOYABLE, deployable, spread, tagged, version, worker};
pub use history::history;
pub use refusal::{Kind, Refusal};

use crate::config::Config;
use crate::config::edit::{NewDeployment, NewVersion};
use crate::control::clock::rfc3339;
use crate::control::reload::{self, Inbox, Loaded};
use crate::model::deployment::Deployment;
use crate::model::name::{VersionId, WorkerName};
use crate::model::share::Share;
use crate::plan::Plan;
use crate::store;
use crate::store::journal::Journal;
use crate::store::write::Lock;

/// How long a writer waits for another one: longer than a reload takes.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Makes a change: writes the file and tells the running proxy. If that refuses, the file is restored, unless somebody else
/// has changed it meanwhile. Not to be cancelled before it has returned: the proxy would not be told.
///
/// # Errors
/// Why it was not made.
pub async fn perform(
    file: &Path,
    request: &Request,
    tell: impl AsyncFnOnce() -> Told,
) -> Result<Done, Refusal> {
    let (file, request) = (file.to_owned(), request.clone());
    let written = blocking(move || Written::new(&file, &request)).await?;
    match tell().await {
        Told::Refused { report } => {
            Err(blocking(move || Err(written.take_back(&report))).await.unwrap_or_else(|refusal| refusal))
        }
        told => Ok(Done { draft: written.draft, told }),
    }
}

/// As [`perform`], in the process that runs the file. It goes on where nobody waits for it any more.
///
/// # Errors
/// Why it was not made.
#[allow(dead_code, reason = "the admin address will use it")]
pub(crate) async fn perform_here(file: PathBuf, inbox: Inbox, request: Request) -> Result<Done, Refusal> {
    let whole = tokio::spawn(async move {
        let tell = async || match inbox.ask("a deployment was written").await {
            Some(Ok(reload::Reloaded { generation, .. })) => Told::Serves { generation },
            Some(Err(report)) => Told::Refused { report: report.render(false) },
            None => Told::Unknown { why: "the process is about to end".to_owned() },
        };
        perform(&file, &request, tell).await
    });
    whole.await.unwrap_or_else(|error| Err(Refusal::broken(&error)))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Refusal::broken(&error)))
}

fn read(file: &Path) -> Result<Loaded, Refusal> {
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
    fn new(file: &Path, request: &Request) -> Result<Self, Refusal> {
        let real = store::write::resolve(file).unwrap_or_else(|_| file.to_owned());
        // Where the lock lies is said by the file itself, which is read again once nobody else writes it.
        let config = read(file)?.config;
        let folder = store::state_folder(&config, file);
        let lock = store::write::lock(&folder, &store::stem(file), PATIENCE)?;
        let loaded = read(file)?;
        let draft = drafted(file, &loaded, request)?;
        store::write::replace(&real, &draft.text)?;
        Ok(Self { real, before: loaded.report.source, draft, _lock: lock })
    }

    /// Puts the file back as it was, unless it is not what was written any more.
    fn take_back(&self, report: &str) -> Refusal {
        let now = store::file::read(&self.real).ok();
        let restored = match now {
            Some(text) if text == self.draft.text => {
                store::write::replace(&self.real, &self.before).map_err(|error| error.to_string())
            }
            _ => Err("somebody else has changed it meanwhile".to_owned()),
        };
        Refusal::by_proxy(report, &restored)
    }
}
