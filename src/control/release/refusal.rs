//! Why a change is not made.

use std::error::Error;
use std::fmt;

use http::StatusCode;

use crate::diag::Report;
use crate::store::write::WriteError;

/// What is in the way. The words are part of the public interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such worker, or several and none was named.
    UnknownWorker,
    /// There is no such version.
    UnknownVersion,
    /// Several versions could be meant.
    AmbiguousVersion,
    /// A version is listed twice.
    RepeatedVersion,
    /// Not a percentage.
    BadPercentage,
    /// The percentages do not total 100.
    BadTotal,
    /// The new version would not be a good one.
    BadVersion,
    /// A message is too long.
    BadMessage,
    /// The version is not among those that were uploaded last.
    NotDeployable,
    /// The versions need different migrations.
    MigrationMixed,
    /// A new migration, which takes over at 100 % only.
    MigrationNeedsDeploy,
    /// An older migration.
    MigrationBack,
    /// No earlier deployment gave another version everything.
    NoPreviousDeployment,
    /// Another deployment is active than the one that the change was decided upon.
    DeploymentChanged,
    /// The file is not to be written here.
    ManagedElsewhere,
    /// Somebody else is writing.
    Busy,
    /// The file cannot be read or has mistakes.
    BadFile,
    /// The file could not be written.
    WriteFailed,
    /// The running proxy did not take the new file.
    RefusedByProxy,
    /// The process that runs the file is about to end.
    Stopping,
}

impl Kind {
    /// The word for machines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownWorker => "unknown-worker",
            Self::UnknownVersion => "unknown-version",
            Self::AmbiguousVersion => "ambiguous-version",
            Self::RepeatedVersion => "repeated-version",
            Self::BadPercentage => "bad-percentage",
            Self::BadTotal => "bad-total",
            Self::BadVersion => "bad-version",
            Self::BadMessage => "bad-message",
            Self::NotDeployable => "not-deployable",
            Self::MigrationMixed => "migration-mixed",
            Self::MigrationNeedsDeploy => "migration-needs-deploy",
            Self::MigrationBack => "migration-back",
            Self::NoPreviousDeployment => "no-previous-deployment",
            Self::DeploymentChanged => "deployment-changed",
            Self::ManagedElsewhere => "file-is-managed-elsewhere",
            Self::Busy => "busy",
            Self::BadFile => "bad-file",
            Self::WriteFailed => "write-failed",
            Self::RefusedByProxy => "refused-by-proxy",
            Self::Stopping => "stopping",
        }
    }

    /// The status that says so over HTTP: 404 and 422 are the asker's fault, 409 the state's, 5xx this side's.
    pub fn status(self) -> StatusCode {
        match self {
            Self::UnknownWorker => StatusCode::NOT_FOUND,
            Self::UnknownVersion
            | Self::AmbiguousVersion
            | Self::RepeatedVersion
            | Self::BadPercentage
            | Self::BadTotal
            | Self::BadVersion
            | Self::BadMessage => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotDeployable
            | Self::MigrationMixed
            | Self::MigrationNeedsDeploy
            | Self::MigrationBack
            | Self::NoPreviousDeployment
            | Self::DeploymentChanged
            | Self::ManagedElsewhere
            | Self::BadFile
            | Self::RefusedByProxy => StatusCode::CONFLICT,
            Self::Busy | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::WriteFailed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A change that is not made, and why. Displayed as one sentence, without what to do.
#[derive(Debug)]
pub struct Refusal {
    kind: Kind,
    title: String,
    help: Option<String>,
    report: Option<Box<Report>>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Refusal {
    /// A refusal of a kind, with its sentence.
    pub fn new(kind: Kind, title: impl Into<String>) -> Self {
        Self { kind, title: title.into(), help: None, report: None, source: None }
    }

    /// The same, with what to do.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The same, with the mistakes of a file.
    #[must_use]
    pub(super) fn with_report(self, report: Report) -> Self {
        Self { report: Some(Box::new(report)), ..self }
    }

    /// What is in the way.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The status that says so over HTTP.
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// What to do about it.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The mistakes in the file, where it is about them.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_deref()
    }

    /// The file has mistakes or cannot be read.
    pub(super) fn bad_file(report: Report) -> Self {
        let title = format!("the file cannot be changed as it is: {}", report.summary());
        Self::new(Kind::BadFile, title)
            .with_help("mend it first; `gradual check` shows every mistake")
            .with_report(report)
    }

    /// The running proxy goes on as it was.
    pub(super) fn by_proxy(report: &str, restored: &Result<(), String>) -> Self {
        let report = report.trim_end();
        let (file, help) = match restored {
            Ok(()) => (
                "the file is as it was before".to_owned(),
                "nothing has changed; mend what it says and try again",
            ),
            Err(why) => (
                format!("the file is not as it was before: {why}"),
                "look at the file, then `gradual reload`",
            ),
        };
        let title = format!("the running proxy refused the change, and {file}\n{report}");
        Self::new(Kind::RefusedByProxy, title).with_help(help)
    }

    /// The process ends before it could serve the change.
    pub(super) fn stopping(restored: &Result<(), String>) -> Self {
        let (title, help) = match restored {
            Ok(()) => {
                ("the process is about to end; nothing was changed".to_owned(), "ask whoever comes after it")
            }
            Err(why) => (
                format!("the process is about to end, and the file is not as it was before: {why}"),
                "look at the file; it serves from the next start",
            ),
        };
        Self::new(Kind::Stopping, title).with_help(help)
    }

    /// Work of this process broke off.
    pub(super) fn broken(error: &tokio::task::JoinError) -> Self {
        Self::new(Kind::WriteFailed, format!("the change broke off: {error}"))
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        let kind = match &error {
            WriteError::ManagedElsewhere { .. } => Kind::ManagedElsewhere,
            WriteError::Busy { .. } => Kind::Busy,
            WriteError::Io { .. } => Kind::WriteFailed,
        };
        let refusal = Self::new(kind, error.title()).with_help(error.help());
        Self { source: Some(Box::new(error)), ..refusal }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)
    }
}

impl Error for Refusal {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
