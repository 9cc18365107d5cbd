//! Edits of the file: a version more, another deployment, and not a byte of the rest changed.
//!
//! The parser says where things stand, and the text is spliced there. Nothing is written anew from what was parsed, so that
//! comments, order, indentation and line ends stay as their author has them.

mod deployment;
mod lists;
mod place;
mod text;
mod version;

use std::fmt;

use toml_edit::{Document, TomlError};

use crate::model::name::{Tag, VersionId, WorkerName};
use crate::model::share::Share;

/// A version to add to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVersion {
    /// The identity, which no version of the worker has.
    pub id: VersionId,
    /// A short name for people.
    pub tag: Option<Tag>,
    /// What it is about; any text.
    pub message: Option<String>,
    /// When it was made: an RFC 3339 date-time in UTC.
    pub created_on: String,
    /// The state of the data that it needs.
    pub migration: Option<Tag>,
    /// Where it runs, at least one, as the file writes upstreams.
    pub upstreams: Vec<String>,
}

/// A deployment to put in the place of a worker's present one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDeployment {
    /// The identity.
    pub id: String,
    /// When it was made: an RFC 3339 date-time in UTC.
    pub created_on: String,
    /// Who made it; any text.
    pub author: Option<String>,
    /// What made it.
    pub source: Option<String>,
    /// Why it was made; any text.
    pub message: Option<String>,
    /// The versions and their shares, in order.
    pub versions: Vec<(VersionId, Share)>,
    /// Explicit arcs in order; `None`: the order of the versions.
    pub ring: Option<Vec<(VersionId, Share)>>,
}

/// The text with one more version of a worker, behind the worker's last one and what belongs to that.
///
/// # Errors
/// The text is not TOML, or has no such worker, or none of its versions.
pub fn add_version(text: &str, worker: &WorkerName, version: &NewVersion) -> Result<String, EditError> {
    version::add(text, worker, version)
}

/// The text with another deployment of a worker. What the new one says in the same words stays as it is written, keys that
/// it lacks are removed, and no comment is lost: those about entries that are gone stay as lines of their own.
///
/// # Errors
/// The text is not TOML, or has no such worker, or that has no deployment.
pub fn set_deployment(
    text: &str,
    worker: &WorkerName,
    deployment: &NewDeployment,
) -> Result<String, EditError> {
    deployment::set(text, worker, deployment)
}

/// Why a text cannot be edited. A text of which [`super::parse`] makes a configuration can be.
#[derive(Clone, Debug)]
pub enum EditError {
    /// It is not TOML.
    Syntax(TomlError),
    /// There is no such worker in it.
    NoWorker(WorkerName),
    /// The worker has no version yet, so that it is not known how they are written.
    NoVersion(WorkerName),
    /// The worker has no deployment that could be replaced.
    NoDeployment(WorkerName),
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(_) => f.write_str("the file is not TOML"),
            Self::NoWorker(name) => write!(f, "the file has no worker `{name}`"),
            Self::NoVersion(name) => write!(f, "the file has no version of worker `{name}`"),
            Self::NoDeployment(name) => write!(f, "the file has no deployment of worker `{name}`"),
        }
    }
}

impl std::error::Error for EditError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Syntax(error) => Some(error),
            Self::NoWorker(_) | Self::NoVersion(_) | Self::NoDeployment(_) => None,
        }
    }
}

fn parse(text: &str) -> Result<Document<&str>, EditError> {
    Document::parse(text).map_err(EditError::Syntax)
}
