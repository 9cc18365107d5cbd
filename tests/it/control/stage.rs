//! A small language for these tests: a proxy in this process or beside it, its file, and plain HTTP to it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gradual::config::Address;
use gradual::control::reload::Outcome;
use gradual::control::{Ended, Handle, Options, run};
use gradual::diag::Report;
use serde_json::Value;
use tempfile::TempDir;

/// Far longer than anything here takes: only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A good file with an `[admin]` table and v1's percentage; nobody serves its upstreams.
pub(crate) fn file(admin: &str, v1: u32) -> String {
    worker(admin, v1, "http://127.0.0.1:9")
}

/// The same, with both versions at `upstream`.
pub(crate) fn worker(admin: &str, v1: u32, upstream: &str) -> String {
    let v2 = 100 - v1;
    format!(
        r#"
[[listener]]
address = "unix:front.sock"

[admin]
{admin}

[[worker]]
name = "shop"

[[worker.version]]
id = "db7cd8d3-4425-4fe7-8c81-01bf963b6067"
tag = "v1"
upstreams = ["{upstream}"]

[[worker.version]]
id = "dc8dcd28-271b-4367-9840-6c244f84cb40"
upstreams = ["{upstream}"]

[worker.deployment]
versions = [
  {{ version_id = "db7cd8d3-4425-4fe7-8c81-01bf963b6067", percentage = {v1} }},
  {{ version_id = "dc8dcd28-271b-4367-9840-6c244f84cb40", percentage = {v2} }},
]
"#
    )
}

/// The usual `[admin]`: any free port.
pub(crate) const ANY_PORT: &str = r#"address = "127.0.0.1:0""#;

/// A proxy in this process, on a thread of its own.
pub(crate) struct Stage {
    pub(crate) folder: TempDir,
    pub(crate) handle: Handle,
    thread: Option<JoinHandle<Result<Ended, Report>>>,
}

impl Stage {
    /// A proxy with a file of this text.
    pub(crate) fn new(text: &str) -> Self {
        Self::start(text, false, |_| {})
    }

    /// A proxy; `furnish` fills its folder after the file is written.
    pub(crate) fn start(text: &str, watch: bool, furnish: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("gradual.toml"), text).unwrap();
        furnish(folder.path());
        let options = Options { file: folder.path().join("gradual.toml"), watch };
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(options, move |handle| sender.send(handle).unwrap()))
        });
        let Ok(handle) = receiver.recv() else {
            panic!("no start: {:?}", thread.join().unwrap());
        };
        Self { folder, handle, thread: Some(thread) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("gradual.toml")
    }

    pub(crate) fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    pub(crate) fn reload(&self) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.handle.reload()).unwrap()
    }

    /// Sends a request to the admin address.
    pub(crate) fn ask(&self, request: &str) -> Answer {
        exchange(&self.handle.admin().unwrap(), request)
    }

    pub(crate) fn status(&self) -> Value {
        self.ask("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n").json()
    }

    /// Ends the proxy in order, once. Its folder stays.
    pub(crate) fn end(&mut self) -> Ended {
        self.handle.stop();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a request, given without its final empty line, and reads until the server closes.
pub(crate) fn exchange(address: &Address, request: &str) -> Answer {
    let (head, body) = request.split_once("\r\n\r\n").unwrap_or((request.trim_end(), ""));
    let text = format!("{head}\r\nConnection: close\r\n\r\n{body}");
    let bytes = match address {
        Address::Tcp(address) => send(TcpStream::connect(address).unwrap(), &text),
        Address::Unix(path) => send(UnixStream::connect(path).unwrap(), &text),
    };
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn send(mut stream: impl Read + Write, text: &str) -> Vec<u8> {
    stream.write_all(text.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Waits until it holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
