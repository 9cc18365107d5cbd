//! A change on the file's text: what may be changed, and how it is written. Decides, and reads nothing.

use std::path::Path;

use crate::config::edit::{self, EditError, NewDeployment, NewVersion};
use crate::config::{Config, Version, Worker, moment};
use crate::control::release::choose::{self, DEPLOYABLE, deployable, listed};
use crate::control::release::refusal::{Kind, Refusal};
use crate::control::release::{Change, Draft, Request, Upload};
use crate::control::reload::Loaded;
use crate::diag::{Severity, quoted};
use crate::model::deployment::Deployment;
use crate::model::name::{Tag, VersionId};
use crate::model::share::Share;
use crate::plan::{Plan, arrange};
use crate::store::file::MAX_LENGTH;
use crate::store::journal::{Entry, History};

/// The longest message, in bytes, as with Cloudflare.
const LONGEST_MESSAGE: usize = 1000;
/// From so many versions on, a deployment is warned of.
const MANY: usize = 3;

/// What is new about a change whatever it changes.
#[derive(Debug)]
pub(super) struct Stamp {
    /// The time: RFC 3339, in UTC.
    pub(super) now: String,
    /// An id that no version has.
    pub(super) version: String,
    /// An id that no deployment has.
    pub(super) deployment: String,
}

/// A split that is to be deployed.
type Split = Vec<(VersionId, Share)>;

/// The change as it would be written, checked as the file is checked.
pub(super) fn draft(
    file: &Path,
    loaded: &Loaded,
    journal: &History,
    request: &Request,
    stamp: &Stamp,
) -> Result<Draft, Refusal> {
    let worker = choose::worker(&loaded.config, Some(request.worker.as_str()))?;
    let written = &worker.policy.deployment;
    let before = request.live.clone().unwrap_or_else(|| written.clone());
    check_base(request, &before, written)?;
    let drafting = Drafting { worker, active: &before, request, stamp };
    let Parts { version, split } = drafting.parts(journal)?;
    let mut text = loaded.report.source.clone();
    if let Some(version) = &version {
        text = edit::add_version(&text, &request.worker, version).map_err(|error| cannot_edit(&error))?;
    }
    let deployment =
        split.map(|(split, message)| drafting.deployment(&split, message.as_ref())).transpose()?;
    if let Some(deployment) = &deployment {
        text =
            edit::set_deployment(&text, &request.worker, deployment).map_err(|error| cannot_edit(&error))?;
    }
    let config = checked(file, &text)?;
    let after = &choose::worker(&config, Some(request.worker.as_str()))?.policy.deployment;
    let plan = deployment.is_some().then(|| Plan::between(&before, after));
    let mut warnings: Vec<_> = deployment.iter().filter_map(many).collect();
    if deployment.is_some() && !is_same(&before, written) {
        warnings.push(format!(
            "the file had another deployment than the one that serves, {}, and it was not taken over yet: it is replaced",
            before.id
        ));
    }
    Ok(Draft { before, version, deployment, plan, text, config, warnings })
}

/// Whether the change is made upon what it was decided upon.
fn check_base(request: &Request, before: &Deployment, written: &Deployment) -> Result<(), Refusal> {
    let help = "somebody deployed meanwhile: look at what is active now, and decide again";
    if let Some(base) = request.base.as_ref().filter(|base| **base != before.id) {
        let title = format!("deployment {} is active, and not {}", before.id, quoted(base));
        return Err(Refusal::new(Kind::DeploymentChanged, title).with_help(help));
    }
    if request.seen.as_ref().is_some_and(|seen| !is_same(seen, written)) {
        let title = "the deployment in the file is another one than it was";
        return Err(Refusal::new(Kind::DeploymentChanged, title).with_help(help));
    }
    Ok(())
}

/// Whether two deployments are one: a hand edit may keep the id and change the rest.
fn is_same(one: &Deployment, other: &Deployment) -> bool {
    one.id == other.id && one.versions == other.versions && one.ring == other.ring
}

/// What the new text says, which has to be as good as any file.
fn checked(file: &Path, text: &str) -> Result<Config, Refusal> {
    if text.len() as u64 > MAX_LENGTH {
        let title =
            format!("the file would be longer than {} MiB, which is the most that is read", MAX_LENGTH >> 20);
        return Err(
            Refusal::new(Kind::BadFile, title).with_help("remove versions that nobody needs any more")
        );
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let parsed = crate::config::parse(&crate::store::file::name(file), text, folder);
    parsed.map(|(config, _)| config).map_err(|report| {
        let first = report.diagnostics.iter().find(|one| one.severity == Severity::Error);
        let title = first.map_or_else(
            || report.summary(),
            |one| match one.label.as_str() {
                "" => one.title.clone(),
                label => format!("{}: {label}", one.title),
            },
        );
        Refusal::new(Kind::BadVersion, title).with_report(report)
    })
}

fn cannot_edit(error: &EditError) -> Refusal {
    Refusal::new(Kind::BadFile, error.to_string()).with_help("change it by hand, then `gradual reload`")
}

fn many(deployment: &NewDeployment) -> Option<String> {
    let count = deployment.versions.len();
    (count >= MANY).then(|| {
        format!("{count} versions share this deployment: Cloudflare allows two, and of more it is harder to say which one is at fault")
    })
}

/// What a request brings: a version, a split with its message, or both.
struct Parts {
    version: Option<NewVersion>,
    split: Option<(Split, Option<String>)>,
}

impl Parts {
    fn split(split: Split, message: Option<String>) -> Self {
        Self { version: None, split: Some((split, message)) }
    }
}

/// A request on its worker.
struct Drafting<'a> {
    /// As the file has it.
    worker: &'a Worker,
    /// What serves.
    active: &'a Deployment,
    request: &'a Request,
    stamp: &'a Stamp,
}

impl Drafting<'_> {
    /// What the request brings.
    fn parts(&self, journal: &History) -> Result<Parts, Refusal> {
        let whole = |id: VersionId| vec![(id, Share::WHOLE)];
        Ok(match &self.request.change {
            Change::Upload(upload) => Parts { version: Some(self.version(upload)?), split: None },
            Change::Split { versions, message } => {
                self.check_split(versions)?;
                Parts::split(versions.clone(), message.clone())
            }
            Change::Promote { version, message } => {
                let version = self.known(version)?;
                self.check_migration(version, true)?;
                Parts::split(whole(version.metadata.id.clone()), message.clone())
            }
            Change::Ship { upload, message } => {
                let version = self.version(upload)?;
                let split = whole(version.id.clone());
                Parts { version: Some(version), ..Parts::split(split, message.clone()) }
            }
            Change::RollBack { version, message } => {
                let version = match version {
                    Some(version) => self.known(version)?,
                    None => self.previous(journal)?,
                };
                self.check_migration(version, false)?;
                let message = message.clone().unwrap_or_else(|| "Rollback".to_owned());
                Parts::split(whole(version.metadata.id.clone()), Some(message))
            }
        })
    }

    fn version(&self, upload: &Upload) -> Result<NewVersion, Refusal> {
        if upload.upstreams.is_empty() {
            let help = "say where it runs, as in `--upstream http://127.0.0.1:3001`";
            return Err(
                Refusal::new(Kind::BadVersion, "a version needs at least one upstream").with_help(help)
            );
        }
        let named = |what: &str, text: &Option<String>| {
            let tag = text.as_deref().map(Tag::new).transpose();
            tag.map_err(|error| {
                let title = format!("{} is no {what}: {error}", quoted(text.as_deref().unwrap_or_default()));
                Refusal::new(Kind::BadVersion, title).with_help("use 1 to 100 printable ASCII characters")
            })
        };
        let migration = named("migration", &upload.migration)?;
        let id = VersionId::new(&self.stamp.version);
        Ok(NewVersion {
            id: id.map_err(|error| Refusal::new(Kind::BadVersion, error.to_string()))?,
            tag: named("tag", &upload.tag)?,
            message: message(upload.message.as_ref())?,
            created_on: self.stamp.now.clone(),
            migration: migration.or_else(|| self.migration().cloned()),
            upstreams: upload.upstreams.clone(),
        })
    }

    fn deployment(
        &self,
        split: &[(VersionId, Share)],
        why: Option<&String>,
    ) -> Result<NewDeployment, Refusal> {
        let layout =
            arrange(self.active, split).map_err(|error| Refusal::new(Kind::BadTotal, error.to_string()))?;
        Ok(NewDeployment {
            id: self.stamp.deployment.clone(),
            created_on: self.stamp.now.clone(),
            author: self.request.who.author.clone(),
            source: Some(self.request.who.source.to_owned()),
            message: message(why)?,
            versions: layout.versions,
            ring: layout.ring,
        })
    }

    /// The migration of the active deployment.
    fn migration(&self) -> Option<&Tag> {
        self.deployed().find_map(|version| version.metadata.migration.as_ref())
    }

    fn deployed(&self) -> impl Iterator<Item = &Version> {
        let ids = self.active.versions.iter();
        ids.filter_map(|id| self.worker.versions.iter().find(|version| version.metadata.id == *id))
    }

    /// A version that may be deployed: one of the last that were uploaded, or of those that are.
    fn known(&self, id: &VersionId) -> Result<&Version, Refusal> {
        let version = self.worker.versions.iter().find(|version| version.metadata.id == *id);
        let Some(version) = version else {
            // Whoever has got this far names whole ids; what is said of others says more than that this is none.
            return Err(choose::version(self.worker, id.as_str()).err().unwrap_or_else(|| self.unknown(id)));
        };
        let deployed = self.active.versions.contains(id);
        if !deployed && deployable(self.worker).iter().all(|one| one.metadata.id != *id) {
            let title = format!(
                "version {id} cannot be deployed any more: only the last {DEPLOYABLE} uploaded versions can"
            );
            return Err(
                Refusal::new(Kind::NotDeployable, title).with_help("upload it anew, with the same upstreams")
            );
        }
        Ok(version)
    }

    fn unknown(&self, id: &VersionId) -> Refusal {
        let title = format!("worker {} has no version {}", self.worker.policy.name, quoted(id.as_str()));
        Refusal::new(Kind::UnknownVersion, title).with_help("the whole id is needed here")
    }

    fn check_split(&self, split: &[(VersionId, Share)]) -> Result<(), Refusal> {
        for (at, (id, _)) in split.iter().enumerate() {
            if split.iter().take(at).any(|(one, _)| one == id) {
                let title = format!("version {id} is listed twice");
                return Err(Refusal::new(Kind::RepeatedVersion, title).with_help("add the percentages up"));
            }
        }
        let versions = split.iter().map(|(id, _)| self.known(id)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = versions.first() else {
            return Err(Refusal::new(Kind::BadTotal, "a deployment needs at least one version"));
        };
        if let Some(other) = versions.iter().find(|one| one.metadata.migration != first.metadata.migration) {
            let title = format!(
                "{} and {} need different migrations ({} and {}), and cannot share a deployment",
                first.metadata.id,
                other.metadata.id,
                migration(first),
                migration(other)
            );
            let help = "what reads and writes the same data has to agree on their form: deploy one of them at 100 % \
                        with `gradual deploy`";
            return Err(Refusal::new(Kind::MigrationMixed, title).with_help(help));
        }
        self.check_migration(first, false)
    }

    /// Whether a version's migration is the present one, or may come: a newer one, by `gradual deploy`.
    fn check_migration(&self, version: &Version, may_come: bool) -> Result<(), Refusal> {
        if version.metadata.migration.as_ref() == self.migration() {
            return Ok(());
        }
        if self.is_older(version.metadata.migration.as_ref(), self.migration()) {
            return Err(self.migration_back(version));
        }
        if may_come {
            return Ok(());
        }
        let title = format!(
            "version {} brings a new migration ({} instead of {}), which takes over at 100 % only",
            version.metadata.id,
            migration(version),
            self.present()
        );
        let help = format!("run the migration, then `gradual deploy {}`", version.metadata.id);
        Err(Refusal::new(Kind::MigrationNeedsDeploy, title).with_help(help))
    }

    /// Whether a migration came before another: by when the first version of each was made, else by where it is in the file.
    fn is_older(&self, one: Option<&Tag>, other: Option<&Tag>) -> bool {
        let of = |migration: Option<&Tag>| {
            let versions = self.worker.versions.iter().enumerate();
            let versions =
                versions.filter(move |(_, version)| version.metadata.migration.as_ref() == migration);
            let places = versions.clone().map(|(place, _)| place).min();
            let made = |version: &Version| moment(version.metadata.created_on.as_deref()?);
            let made: Option<Vec<_>> = versions.map(|(_, version)| made(version)).collect();
            (made.and_then(|made| made.into_iter().min()), places)
        };
        match (of(one), of(other)) {
            ((Some(one), _), (Some(other), _)) => one < other,
            ((_, one), (_, other)) => one < other,
        }
    }

    fn migration_back(&self, version: &Version) -> Refusal {
        let id = &version.metadata.id;
        let title = format!(
            "version {id} cannot serve any more: it needs the migration {}, and the data have {}",
            migration(version),
            self.present()
        );
        let help = "the data are not what that version knows: upload its code anew as a version for the present \
                    migration, and deploy that";
        Refusal::new(Kind::MigrationBack, title).with_help(help)
    }

    fn present(&self) -> String {
        self.migration().map_or("none".to_owned(), |tag| quoted(tag.as_str()))
    }

    /// The version that had everything in the newest earlier deployment, unless it has everything now.
    fn previous(&self, journal: &History) -> Result<&Version, Refusal> {
        let active = self.active;
        let name = self.worker.policy.name.as_str();
        let earlier =
            journal.entries.iter().rev().filter(|entry| entry.worker == name && entry.id != active.id);
        let stable = earlier.filter_map(whole);
        let now = match &*active.versions {
            [only] => Some(only.as_str()),
            _ => None,
        };
        let Some(id) = stable.into_iter().find(|id| Some(*id) != now) else {
            let title = format!("no earlier deployment of worker {name} gave another version everything");
            let ids = deployable(self.worker).iter().rev().map(|version| version.metadata.id.as_str());
            let help = format!("name the version to go back to, newest first: {}", listed(ids));
            return Err(Refusal::new(Kind::NoPreviousDeployment, title).with_help(help));
        };
        self.worker.versions.iter().find(|version| version.metadata.id.as_str() == id).ok_or_else(|| {
            let title = format!("version {} served before, and is not in the file any more", quoted(id));
            Refusal::new(Kind::UnknownVersion, title).with_help("name another version, or add this one again")
        })
    }
}

/// The version that a deployment gave everything.
fn whole(entry: &Entry) -> Option<&str> {
    let version = entry.versions.iter().find(|version| version.percentage == Share::WHOLE)?;
    Some(&version.version_id)
}

fn migration(version: &Version) -> String {
    version.metadata.migration.as_ref().map_or("none".to_owned(), |tag| quoted(tag.as_str()))
}

/// A message that is short enough; an empty one is none.
fn message(text: Option<&String>) -> Result<Option<String>, Refusal> {
    match text.map(String::as_str) {
        None | Some("") => Ok(None),
        Some(text) if text.len() > LONGEST_MESSAGE => {
            let title =
                format!("the message is {} bytes long; at most {LONGEST_MESSAGE} are kept", text.len());
            Err(Refusal::new(Kind::BadMessage, title).with_help("make it shorter"))
        }
        Some(text) => Ok(Some(text.to_owned())),
    }
}
