//! The program as a process of its own, and what the kernel says about it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gradual::config::Address;
use rustix::process::Pid;
use tempfile::TempDir;

use crate::control::stage::{Answer, exchange};
use crate::support::{Backend, File, eventually, file};

/// The program with its listener and its admin address on Unix sockets of its folder.
pub(super) struct Program {
    folder: TempDir,
    child: Child,
}

impl Program {
    /// Starts it with so many file descriptors.
    pub(super) async fn start(descriptors: u32, v1: &Backend) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "", descriptors, v1).await
    }

    /// The same, with these lines of its listener, in a folder that has what they name.
    pub(super) async fn start_in(folder: TempDir, listener: &str, descriptors: u32, v1: &Backend) -> Self {
        Self::start_with(folder, &file().listener(listener).version("v1", v1, 100), descriptors).await
    }

    /// The same, of a file of one's own.
    pub(super) async fn start_with(folder: TempDir, file: &File, descriptors: u32) -> Self {
        let file = file.clone().top("[server]\nthreads = 2\n[admin]\naddress = \"unix:admin.sock\"");
        let text = file.address("unix:client.sock").text();
        std::fs::write(folder.path().join("gradual.toml"), text).unwrap();
        let run = format!("ulimit -n {descriptors} && exec \"$0\" run gradual.toml 2>log");
        let mut command = Command::new("sh");
        command.arg("-c").arg(run).arg(env!("CARGO_BIN_EXE_gradual")).current_dir(folder.path());
        command.env_remove("GRADUAL_LOG").env_remove("RUST_LOG").stdout(Stdio::null());
        let program = Self { child: command.spawn().unwrap(), folder };
        eventually("it is ready", || program.admin("/readyz").is_some_and(|answer| answer.status == 200))
            .await;
        program
    }

    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// An answer of the admin address; `None` while nobody listens there.
    pub(super) fn admin(&self, path: &str) -> Option<Answer> {
        let socket = self.path("admin.sock");
        UnixStream::connect(&socket).ok()?;
        Some(exchange(&Address::Unix(socket), &format!("GET {path} HTTP/1.1\r\nHost: localhost")))
    }

    pub(super) fn client(&self) -> UnixStream {
        UnixStream::connect(self.path("client.sock")).unwrap()
    }

    /// The status of a request on a connection of its own; `None` where there is no answer.
    pub(super) fn status(&self) -> Option<String> {
        let mut client = self.client();
        client.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        // A reset behind the answer is an end, too.
        let _ = client.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        text.split(' ').nth(1).map(str::to_owned)
    }

    /// Kibibytes of memory that are its own.
    pub(super) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(self.process("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Processor time that it took so far.
    pub(super) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(self.process("stat")).unwrap();
        let numbers: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = [11, 12].map(|at: usize| numbers[at].parse::<u64>().unwrap()).iter().sum();
        Duration::from_millis(ticks * 10)
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn process(&self, name: &str) -> std::path::PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(name)
    }

    /// Waits until its memory does not grow any more.
    pub(super) async fn settled(&self) -> u64 {
        let (mut before, mut since) = (self.memory(), Instant::now());
        while since.elapsed() < Duration::from_millis(500) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.memory();
            if now > before + 64 {
                (before, since) = (now, Instant::now());
            }
        }
        self.memory()
    }
}

/// A failed test leaves no process behind.
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait().map(drop));
    }
}
