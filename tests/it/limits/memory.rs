//! What clients that do not read cost: told from outside of the process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gradual::config::Address;
use http::{Request, Response};
use hyper::body::Incoming;
use rustix::process::Pid;
use tempfile::TempDir;

use super::long;
use super::wire::{SETTINGS, frame, get};
use crate::control::stage::{Answer, exchange};
use crate::support::{Authority, Backend, File, backend, body, eventually, file, tls_client};
use tokio::io::AsyncWriteExt;

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
    fn memory(&self) -> u64 {
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
    async fn settled(&self) -> u64 {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_nothing_cost_a_quarter_of_a_mebibyte_each() {
    let v1 = long(20 << 20).await;
    let program = Program::start(4096, &v1).await;
    assert_eq!(program.status().as_deref(), Some("200"));
    let before = program.settled().await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = program.client();
        client.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").unwrap();
        clients.push(client);
    }
    let each = program.settled().await.saturating_sub(before) / 100;
    assert!(each <= 256, "{each} KiB");
}

/// Kibibytes that each of some clients takes that ask for a hundred streams of this window and read nothing.
async fn unread_streams(program: &Program, window: u32) -> u64 {
    let before = program.settled().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = program.client();
        let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
        let asked: Vec<_> = (0..100).flat_map(|at| get(at * 2 + 1)).collect();
        let all =
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &setting)[..], &asked].concat();
        client.write_all(&all).unwrap();
        clients.push(client);
    }
    program.settled().await.saturating_sub(before) / 8
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_that_are_not_read_cost_what_their_connection_may_hold() {
    let v1 = long(20 << 20).await;
    for window in [0_u32, 65_535, 1 << 30] {
        // Memory that a program had before would be used again, and so not be seen.
        let program = Program::start(4096, &v1).await;
        assert_eq!(program.status().as_deref(), Some("200"));
        let each = unread_streams(&program, window).await;
        // What the codec needs for each connection to the upstream comes on top of what is held for the client.
        assert!(each <= 256 + 100 * 40, "{window}: {each} KiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_upstream_of_http_2_each_takes_what_its_stream_may_be_sent_ahead_besides() {
    let all = Bytes::from(vec![b'x'; 1 << 20]);
    let answer = move |_: Request<Incoming>| {
        let all = all.clone();
        async { Response::new(body(all)) }
    };
    let v1 = backend("v1").h2c().answering(answer).start().await;
    let program = Program::start(4096, &v1).await;
    assert_eq!(program.status().as_deref(), Some("200"));
    let each = unread_streams(&program, 0).await;
    // Of the 64 KiB that the upstream sends ahead, each frame's 16 take a block of 20.
    assert!(each <= 256 + 100 * (80 + 30), "{each} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_it_is_no_more() {
    let v1 = long(20 << 20).await;
    let authority = Authority::new();
    let tls = "tls = [{ certificate = \"a.pem\", key = \"a.key\" }]";
    for protocol in ["http/1.1", "h2"] {
        let folder = tempfile::tempdir().unwrap();
        authority.write(folder.path(), "a", &["shop.example"]);
        let program = Program::start_in(folder, tls, 4096, &v1).await;
        let config = authority.client(&[protocol]);
        let mut clients = Vec::new();
        let mut before = 0;
        for number in 0..110 {
            if number == 10 {
                before = program.settled().await;
            }
            let pipe = tokio::net::UnixStream::connect(program.path("client.sock")).await.unwrap();
            let mut client = tls_client(Box::new(pipe), config.clone(), "shop.example").await.unwrap();
            let request = match protocol {
                "h2" => [
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                    &frame(SETTINGS, 0, 0, &[0, 4, 64, 0, 0, 0])[..],
                    &frame(8, 0, 0, &[64, 0, 0, 0]),
                    &get(1),
                ]
                .concat(),
                _ => b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n".to_vec(),
            };
            client.write_all(&request).await.unwrap();
            client.flush().await.unwrap();
            clients.push(client);
        }
        let each = program.settled().await.saturating_sub(before) / 100;
        // An idle connection of HTTP/2 over TLS has 33 KiB to begin with.
        assert!(each <= 256 + 40, "{protocol}: {each} KiB");
    }
}
