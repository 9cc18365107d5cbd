//! A folder with a file, the program in it, and what it says.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gradual::config::{Config, parse};
use gradual::store::journal::{Entry, Journal};
use serde_json::Value;
use tempfile::TempDir;

use crate::control::stage::file;

/// Rewrites the expected texts instead of comparing with them.
const UPDATE: &str = "UPDATE_GOLDEN";

pub(crate) const V1: &str = "db7cd8d3-4425-4fe7-8c81-01bf963b6067";
pub(crate) const V2: &str = "dc8dcd28-271b-4367-9840-6c244f84cb40";

/// An admin address that needs no port.
pub(crate) const ADMIN: &str = r#"address = "unix:admin.sock""#;

/// A folder with a file of two versions, the first at 90 %.
pub(crate) struct Place {
    /// Removed with the place.
    _folder: Option<TempDir>,
    path: PathBuf,
}

/// What the program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The kind of the error, in a result for machines.
    pub(crate) fn kind(&self) -> String {
        self.json()["error"]["kind"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(&file(ADMIN, 90))
    }

    /// A folder with a file of this text.
    pub(crate) fn with(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Self { path: folder.path().to_owned(), _folder: Some(folder) };
        place.write(text);
        place
    }

    /// The folder of somebody else.
    pub(crate) fn at(path: &Path) -> Self {
        Self { _folder: None, path: path.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write(&self, text: &str) {
        std::fs::write(self.path.join("gradual.toml"), text).unwrap();
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(self.path.join("gradual.toml")).unwrap()
    }

    pub(crate) fn config(&self) -> Config {
        parse("gradual.toml", &self.text(), &self.path)
            .unwrap_or_else(|report| panic!("{}", report.render(false)))
            .0
    }

    /// The active deployment: each version's id and its percentage.
    pub(crate) fn split(&self) -> Vec<(String, String)> {
        let config = self.config();
        let deployment = &config.workers[0].policy.deployment;
        let shares = deployment.versions.iter().zip(deployment.ring.shares());
        shares.map(|(id, share)| (id.to_string(), share.to_string())).collect()
    }

    /// The program in this folder, with nothing of the environment that it heeds.
    pub(crate) fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gradual"));
        for name in ["NO_COLOR", "CI", "GRADUAL_LOG", "RUST_LOG", "LOGNAME", "USER"] {
            command.env_remove(name);
        }
        command.args(arguments).current_dir(&self.path).env("GRADUAL_AUTHOR", "alex");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        let output = self.program(arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs what must succeed.
    pub(crate) fn good(&self, arguments: &[&str]) -> Said {
        let said = self.run(arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
        said
    }

    /// Uploads a version and returns its id.
    pub(crate) fn upload(&self, more: &[&str]) -> String {
        let arguments = ["versions", "upload", "--upstream", "http://127.0.0.1:9", "--json"];
        let said = self.good(&[&arguments, more].concat());
        said.json()["version"]["id"].as_str().unwrap().to_owned()
    }

    /// Writes the active deployment into the journal, as a running proxy does. Once more does no harm.
    pub(crate) fn lived(&self) {
        let config = self.config();
        let entry = Entry::of(&config.workers[0], "2026-11-20T12:00:00Z", 1);
        Journal::of(&config, &self.path.join("gradual.toml")).append(&[entry]).unwrap();
    }

    /// Runs commands, one line each, and compares all that is said with a golden file. `$1`, `$2`… are the ids that were
    /// made on the way.
    pub(crate) fn transcript(&self, name: &str, lines: &[&str]) {
        self.transcript_with(name, lines, |_| {});
    }

    /// The same, with something done between commands.
    pub(crate) fn transcript_with(&self, name: &str, lines: &[&str], between: impl Fn(&Self)) {
        let mut normal = Normal::new(&self.path);
        let mut text = String::new();
        for line in lines {
            let filled = normal.filled(line);
            let words: Vec<_> = filled.split(' ').collect();
            let said = self.run(&words);
            text.push_str(&format!("$ gradual {line}\n{}", normal.text(&said.out)));
            for line in normal.text(&said.err).lines() {
                text.push_str(&format!("2> {line}\n"));
            }
            if said.code != 0 {
                text.push_str(&format!("exit code {}\n", said.code));
            }
            text.push('\n');
            between(self);
        }
        golden(name, &text);
    }
}

/// Compares a text with a golden file.
pub(crate) fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/cli").join(name);
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, found).unwrap();
    } else if std::fs::read_to_string(&path).ok().as_deref() != Some(found) {
        panic!("{} should be:\n{found}\nSet {UPDATE}=1 to accept.", path.display());
    }
}

/// Replaces what differs from run to run.
struct Normal {
    folder: String,
    /// The ids that the program made, by their number.
    made: HashMap<String, usize>,
}

impl Normal {
    fn new(folder: &Path) -> Self {
        let folder = folder.canonicalize().unwrap().display().to_string();
        Self { folder, made: HashMap::new() }
    }

    fn filled(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (id, number) in &self.made {
            line = line.replace(&format!("${number}"), id);
        }
        line
    }

    fn text(&mut self, said: &str) -> String {
        let uuid = regex::Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap();
        let said = uuid.replace_all(said, |found: &regex::Captures<'_>| match &found[0] {
            V1 | V2 => found[0].to_owned(),
            other => {
                let next = self.made.len() + 1;
                format!("<id {}>", self.made.entry(other.to_owned()).or_insert(next))
            }
        });
        let time = regex::Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").unwrap();
        let seconds = regex::Regex::new(r"\(\d+\.\d\d sec\)").unwrap();
        let said = time.replace_all(&said, "<time>");
        seconds.replace_all(&said, "(0.01 sec)").replace(&self.folder, "<folder>")
    }
}
