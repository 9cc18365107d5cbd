//! The journal: every deployment that ever was live, one line of JSON each, appended and never changed.
//!
//! A process may be killed at any byte of a line, and anything may have got into the file: what is no entry is skipped when
//! the journal is read, and a half line is closed before the next one is written.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::write::{self, WriteError};
use crate::config::{Config, Worker};
use crate::model::ring::Ring;
use crate::model::share::Share;

/// A deployment that became live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The deployment's identity.
    pub id: String,
    /// When it became live, as RFC 3339 in UTC.
    pub time: String,
    /// The worker's name.
    pub worker: String,
    /// When it was made, as the file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_on: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What made it; missing where the file does not say, as after an edit by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Why it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The versions in order, together 100 %.
    pub versions: Vec<EntryVersion>,
    /// The arcs in order, where they are not simply the versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<Vec<EntryArc>>,
    /// The number of the generation by which it became live, in the process that wrote the entry.
    pub generation: u64,
}

/// A version of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryVersion {
    /// Its identity.
    pub version_id: String,
    /// Its share, an exact decimal such as `12.5`.
    #[serde(with = "percentage")]
    pub percentage: Share,
    /// The state of the data that it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<String>,
}

/// An arc of the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryArc {
    /// Whose it is.
    pub version_id: String,
    /// Its part of the ring, an exact decimal.
    #[serde(with = "percentage")]
    pub percentage: Share,
}

impl Entry {
    /// The entry of a worker's deployment, live since `time` by a generation.
    pub fn of(worker: &Worker, time: &str, generation: u64) -> Self {
        let deployment = &worker.policy.deployment;
        let ring = &deployment.ring;
        let migration = |id: &str| {
            let version = worker.versions.iter().find(|version| version.metadata.id.as_str() == id)?;
            version.metadata.migration.as_ref().map(ToString::to_string)
        };
        let versions = deployment.versions.iter().zip(ring.shares()).map(|(id, share)| EntryVersion {
            version_id: id.to_string(),
            percentage: *share,
            migration: migration(id.as_str()),
        });
        let arcs = ring.arcs().iter().filter_map(|arc| {
            let version_id = deployment.version(arc.member)?.to_string();
            Some(EntryArc { version_id, percentage: Share::from_thousandths(arc.to.checked_sub(arc.from)?)? })
        });
        let plain = Ring::cumulative(ring.salt(), ring.shares());
        let is_plain = plain.is_ok_and(|plain| plain.arcs() == ring.arcs());
        Self {
            id: deployment.id.clone(),
            time: time.to_owned(),
            worker: worker.policy.name.to_string(),
            created_on: deployment.created_on.clone(),
            author: deployment.author.clone(),
            source: deployment.source.clone(),
            message: deployment.message.clone(),
            versions: versions.collect(),
            ring: (!is_plain).then(|| arcs.collect()),
            generation,
        }
    }
}

impl Entry {
    /// Whether it is about the same deployment as another: an edit by hand may keep the id and change the rest.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let shares = |entry: &Self| -> Vec<_> {
            entry.versions.iter().map(|version| (version.version_id.clone(), version.percentage)).collect()
        };
        self.id == other.id && self.ring == other.ring && shares(self) == shares(other)
    }
}

/// Shares as JSON numbers.
mod percentage {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

    use crate::model::share::Share;

    pub(super) fn serialize<S: Serializer>(share: &Share, serializer: S) -> Result<S::Ok, S::Error> {
        let number = share.to_string().parse::<serde_json::Number>().map_err(ser::Error::custom)?;
        number.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Share, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        Share::parse(&number.to_string()).map_err(de::Error::custom)
    }
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Its entries, oldest first.
    pub entries: Vec<Entry>,
    /// How many lines (or whole files) are no entries.
    pub unreadable: usize,
}

/// The longest that the file becomes, in bytes, before it makes room for a new one.
const MOST: u64 = 1024 * 1024;

/// The most that is read of a file, in bytes, from its end.
const MOST_READ: u64 = 16 * 1024 * 1024;

/// How long to wait for another process that appends.
const PATIENCE: Duration = Duration::from_secs(5);

/// The journal of one configuration file: `<stem>.deployments.jsonl` in the state folder, and, older, `<stem>.deployments.1.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    folder: PathBuf,
    stem: String,
}

impl Journal {
    /// The journal of a state folder and the stem of the file's name. Nothing is opened.
    pub fn new(folder: &Path, stem: &str) -> Self {
        Self { folder: folder.to_owned(), stem: stem.to_owned() }
    }

    /// The journal of a configuration file.
    pub fn of(config: &Config, file: &Path) -> Self {
        // Beside the name, not where links lead: what they lead to may be replaced as a whole, and the journal with it.
        Self::new(&super::state_folder(config, file), &super::stem(file))
    }

    /// The file that is appended to.
    pub fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.deployments.jsonl", self.stem))
    }

    /// The file before that one.
    fn older(&self) -> PathBuf {
        self.folder.join(format!("{}.deployments.1.jsonl", self.stem))
    }

    /// Appends those entries that are about another deployment than their worker's last one, durably, and says how many. Waits for
    /// another process that appends.
    ///
    /// # Errors
    /// Something is in the way. The journal has nothing or only the first of the entries then, and each of them whole.
    pub fn append(&self, entries: &[Entry]) -> Result<usize, JournalError> {
        let path = self.path();
        let failed = |source| JournalError::Io { file: path.clone(), source };
        let _lock = write::lock(&self.folder, &format!("{}.deployments", self.stem), PATIENCE)
            .map_err(JournalError::Lock)?;
        let known = self.read()?;
        let mut last: HashMap<&str, &Entry> =
            known.entries.iter().map(|entry| (entry.worker.as_str(), entry)).collect();
        let mut new = Vec::new();
        for entry in entries {
            if last.get(entry.worker.as_str()).is_none_or(|last| !last.says_the_same(entry)) {
                new.push(entry);
                last.insert(&entry.worker, entry);
            }
        }
        if new.is_empty() {
            return Ok(0);
        }
        let lines = new.iter().map(|entry| line(entry)).collect::<io::Result<Vec<_>>>().map_err(failed)?;
        let mut file =
            open(&path, true).map_err(failed)?.ok_or_else(|| JournalError::NotAFile(path.clone()))?;
        let length = file.metadata().map_err(failed)?.len();
        let added: u64 = lines.iter().map(|line| line.len() as u64).sum();
        if length > 0 && length + added > MOST {
            let mut kept: Vec<_> = last.into_values().collect();
            kept.sort_by(|a, b| (&a.time, &a.worker).cmp(&(&b.time, &b.worker)));
            let kept = kept.into_iter().map(line).collect::<io::Result<Vec<_>>>().map_err(failed)?;
            if length > 2 * kept.iter().map(|line| line.len() as u64).sum::<u64>() {
                return self.rotate(&kept).map(|()| new.len()).map_err(failed);
            }
        }
        append(&mut file, length, &lines).map_err(failed)?;
        if length == 0 {
            write::sync_folder(&self.folder).map_err(failed)?;
        }
        Ok(new.len())
    }

    /// Begins a new file with these lines, in one step for readers.
    fn rotate(&self, lines: &[String]) -> io::Result<()> {
        let new = self.folder.join(format!(".{}.deployments.new", self.stem));
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file =
                options.custom_flags(write::flags(OFlags::NONBLOCK | OFlags::NOFOLLOW)).open(&new)?;
            file.write_all(lines.concat().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(self.path(), self.older())?;
            std::fs::rename(&new, self.path())
        };
        write().inspect_err(|_| drop(std::fs::remove_file(&new)))?;
        write::sync_folder(&self.folder)
    }

    /// Everything that the journal says. A journal that is not there says nothing.
    ///
    /// # Errors
    /// It cannot be read. What is in it and is no entry is no error, but counted.
    pub fn read(&self) -> Result<History, JournalError> {
        let failed = |file: PathBuf| move |source| JournalError::Io { file, source };
        let mut history = History::default();
        // The newer file first: should another process rotate them in between, the same file is found again, and not read twice.
        let newer = Part::open(&self.path()).map_err(failed(self.path()))?;
        let older = Part::open(&self.older()).map_err(failed(self.older()))?;
        let older = older.filter(|older| newer.as_ref().is_none_or(|newer| !newer.is(older)));
        let mut last: HashMap<String, Entry> = HashMap::new();
        for (part, path) in [(older, self.older()), (newer, self.path())] {
            let Some(part) = part else { continue };
            let (entries, unreadable) = part.read().map_err(failed(path))?;
            history.unreadable += unreadable;
            for entry in entries {
                // A new file begins with what the older one ends with.
                if last.get(&entry.worker).is_none_or(|last| !last.says_the_same(&entry)) {
                    last.insert(entry.worker.clone(), entry.clone());
                    history.entries.push(entry);
                }
            }
        }
        Ok(history)
    }
}

/// An entry as a line.
fn line(entry: &Entry) -> io::Result<String> {
    Ok(serde_json::to_string(entry)? + "\n")
}

/// Opens a journal; `None` where something other than a file is in its place, which is not waited for.
fn open(path: &Path, writes: bool) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).append(writes).create(writes).mode(0o600);
    let opened = options.custom_flags(write::flags(OFlags::NONBLOCK)).open(path);
    let is_no_file = |error: &io::Error| matches!(error.kind(), io::ErrorKind::IsADirectory);
    match opened {
        Ok(file) => Ok(file.metadata()?.is_file().then_some(file)),
        Err(error) if is_no_file(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes lines, each in one step, behind whatever the file ends with; or none of the first that fails.
fn append(file: &mut File, length: u64, lines: &[String]) -> io::Result<()> {
    let mut at = length;
    for line in lines {
        let is_torn = at == length && ends_torn(file)?;
        let line = if is_torn { format!("\n{line}") } else { line.clone() };
        if let Err(error) = file.write_all(line.as_bytes()) {
            // A full disk may have taken half of it.
            let _ = file.set_len(at);
            return Err(error);
        }
        at += line.len() as u64;
    }
    file.sync_all()
}

/// Whether the last line has no end.
fn ends_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// A file of the journal, opened to be read.
#[derive(Debug)]
enum Part {
    File(File),
    /// Something else is in its place.
    Other,
}

impl Part {
    /// `None`: there is none.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        match open(path, false) {
            Ok(file) => Ok(Some(file.map_or(Self::Other, Self::File))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether another is the same file.
    fn is(&self, other: &Self) -> bool {
        let identity = |part: &Self| match part {
            Self::File(file) => file.metadata().ok().map(|data| (data.dev(), data.ino())),
            Self::Other => None,
        };
        identity(self).is_some() && identity(self) == identity(other)
    }

    /// The entries, and how many lines are none.
    fn read(self) -> io::Result<(Vec<Entry>, usize)> {
        let Self::File(mut file) = self else { return Ok((Vec::new(), 1)) };
        let length = file.metadata()?.len();
        if length > MOST_READ {
            file.seek(SeekFrom::Start(length - MOST_READ))?;
        }
        let mut bytes = Vec::new();
        file.take(MOST_READ).read_to_end(&mut bytes)?;
        let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let (mut entries, mut unreadable) = (Vec::new(), 0);
        for line in lines {
            match serde_json::from_slice(line) {
                Ok(entry) => entries.push(entry),
                Err(_) => unreadable += 1,
            }
        }
        Ok((entries, unreadable))
    }
}

/// Why the journal cannot be read or appended to.
#[derive(Debug)]
pub enum JournalError {
    /// The right to append cannot be had.
    Lock(WriteError),
    /// Something other than a file is in its place.
    NotAFile(PathBuf),
    /// It went wrong.
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock(error) => write!(f, "the journal of deployments cannot be locked: {}", error.title()),
            Self::NotAFile(path) => {
                write!(
                    f,
                    "the journal of deployments cannot be kept: {} is not a regular file",
                    path.display()
                )
            }
            Self::Io { file, source } => {
                write!(f, "the journal of deployments {} cannot be used: {source}", file.display())
            }
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Lock(error) => Some(error),
            Self::Io { source, .. } => Some(source),
            Self::NotAFile(_) => None,
        }
    }
}
