//! Binary upgrades of the program as a process, its start by a service manager, and what it tells that.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use gradual::config::Address;
use serde_json::Value;
use tempfile::TempDir;

use super::control::stage::{ANY_PORT, Answer, Stage, eventually, exchange, file};

mod letter;
mod objects;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";

/// RFC 6455 section 1.3.
const WEBSOCKET: &[u8] =
    b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A server of `hello`, and of WebSockets that send back what they receive. Its thread ends with the tests.
fn backend() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || converse(&stream.unwrap()));
        }
    });
    url
}

/// The other side may leave at any time.
fn converse(stream: &TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let head = head(&mut reader)?;
        if !head.to_ascii_lowercase().contains("upgrade: websocket") {
            writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").ok()?;
            continue;
        }
        let accept =
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        writer.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{accept}\r\n\r\n").as_bytes()).ok()?;
        return std::io::copy(&mut reader, &mut writer).ok().map(drop);
    }
}

/// A message's head; `None` at the end.
fn head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// A file of three threads, a TCP and a Unix listener; its admin address wants a token.
fn configuration(listener: &str) -> String {
    format!(
        "[server]\nthreads = 3\n[[listener]]\naddress = \"{listener}\"\n[[listener]]\naddress = \"unix:front.sock\"\n\
         [admin]\naddress = \"unix:admin.sock\"\ntoken_file = \"token\"\n[[worker]]\nname = \"shop\"\n\
         [[worker.version]]\nid = \"v1\"\nupstreams = [\"{}\"]\n\
         [worker.deployment]\nversions = [{{ version_id = \"v1\", percentage = 100 }}]\n",
        backend()
    )
}

const TOKEN: &str = "0123456789abcdef";

/// The program, started by a symlink in a folder with its file, and its successors.
struct Program {
    folder: TempDir,
    child: Child,
    /// All process ids there were.
    pids: Vec<u32>,
}

impl Program {
    fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), "127.0.0.1:0", |_| {})
    }

    fn start_with(folder: TempDir, listener: &str, change: impl FnOnce(&mut Command)) -> Self {
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("gradual.toml"), configuration(listener)).unwrap();
        std::fs::write(path("token"), TOKEN).unwrap();
        std::fs::set_permissions(path("token"), PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_gradual"), path("gradual")).unwrap();
        // Listening sockets as descriptors 0 and 1 become 3 and 4 where the variable asks for them.
        let script = r#"if [ -n "$GIVE" ]; then export LISTEN_FDS=2 LISTEN_PID=$$; exec "$0" run gradual.toml 3<&0 4>&1 0</dev/null 1>&2; fi; exec "$0" run gradual.toml"#;
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(path("gradual")).current_dir(folder.path());
        command.env_remove("GRADUAL_LOG").env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        command.stderr(File::create(path("stderr")).unwrap());
        change(&mut command);
        let child = command.spawn().unwrap();
        let mut program = Self { folder, pids: vec![child.id()], child };
        eventually("it is ready", || program.pid().is_some());
        program.note();
        program
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn admin(&self, request: &str) -> Option<Answer> {
        self.admin_with(request, "Host: localhost")
    }

    fn admin_with(&self, request: &str, lines: &str) -> Option<Answer> {
        UnixStream::connect(self.path("admin.sock")).ok()?;
        let request = format!("{request} HTTP/1.1\r\n{lines}\r\nAuthorization: Bearer {TOKEN}");
        Some(exchange(&Address::Unix(self.path("admin.sock")), &request))
    }

    fn reload(&self) -> Answer {
        let lines = "Host: localhost\r\nContent-Type: application/json";
        self.admin_with("POST /api/v1/reload", lines).unwrap()
    }

    fn status(&self) -> Value {
        self.admin("GET /api/v1/status").unwrap().json()
    }

    fn metrics(&self) -> String {
        self.admin("GET /metrics").unwrap().body
    }

    /// The process that answers; `None` while none does.
    fn pid(&self) -> Option<u32> {
        self.admin("GET /api/v1/status")?.json()["pid"].as_u64()?.try_into().ok()
    }

    fn note(&mut self) -> u32 {
        let pid = self.pid().unwrap();
        if !self.pids.contains(&pid) {
            self.pids.push(pid);
        }
        pid
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap()
    }

    fn front(&self) -> String {
        self.status()["listeners"][0].as_str().unwrap().to_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gradual"));
        command.arg("upgrade").arg(self.path("gradual.toml"));
        command
    }

    /// `gradual upgrade` with the program's file.
    fn upgrade(&self) -> Output {
        self.command().output().unwrap()
    }

    fn upgraded(&mut self) -> u32 {
        let output = self.upgrade();
        assert!(output.status.success(), "{output:?}\n{}", self.said());
        self.note()
    }

    /// Puts a script where the program was.
    fn replace(&self, script: &str) {
        std::fs::write(self.path("new"), format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(self.path("new"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(self.path("new"), self.path("gradual")).unwrap();
    }

    /// Ends the process that serves in order.
    fn end(&mut self) {
        signal("TERM", self.note());
        eventually("it ends", || !self.path("admin.sock").exists());
    }
}

/// A failed test leaves no process behind.
impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.said());
            self.pids.iter().for_each(|&pid| {
                kill("KILL", pid);
            });
        }
        let _ = self.child.kill().and_then(|()| self.child.wait().map(drop));
    }
}

fn kill(name: &str, pid: u32) -> bool {
    let mut command = Command::new("sh");
    let command = command.arg("-c").arg(format!("kill -{name} {pid}")).stderr(Stdio::null());
    command.status().unwrap().success()
}

fn signal(name: &str, pid: u32) {
    assert!(kill(name, pid), "no process {pid}");
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// One request on a connection of its own; what went wrong otherwise.
fn ask(connect: impl Fn() -> std::io::Result<Box<dyn ReadWrite>>) -> Result<(), String> {
    let mut stream = connect().map_err(|error| format!("refused: {error}"))?;
    stream.write_all(REQUEST).map_err(|error| format!("not sent: {error}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| format!("{error} after {answer:?}"))?;
    let whole = answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nhello");
    if whole { Ok(()) } else { Err(format!("{answer:?}")) }
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

fn ask_tcp(address: &str) -> Result<(), String> {
    ask(|| Ok(Box::new(TcpStream::connect(address)?)))
}

fn ask_unix(path: &Path) -> Result<(), String> {
    ask(|| Ok(Box::new(UnixStream::connect(path)?)))
}

/// Clients that make a new connection for every request, until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(program: &Program) -> Self {
        let (address, path) = (program.front(), program.path("front.sock"));
        let mut load = Self {
            stop: Arc::default(),
            count: Arc::default(),
            failures: Arc::default(),
            threads: Vec::new(),
        };
        for number in 0..4 {
            let (stop, count) = (Arc::clone(&load.stop), Arc::clone(&load.count));
            let (failures, address, path) = (Arc::clone(&load.failures), address.clone(), path.clone());
            load.threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let asked = if number == 0 { ask_unix(&path) } else { ask_tcp(&address) };
                    failures.lock().unwrap().extend(asked.err());
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        load
    }

    /// Waits until so many more were asked.
    fn goes_on(&self) {
        let before = self.count.load(Ordering::Relaxed);
        eventually("the load goes on", || self.count.load(Ordering::Relaxed) > before + 50);
    }

    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        Arc::try_unwrap(self.failures).unwrap().into_inner().unwrap()
    }
}

#[test]
fn upgrades_by_signal_and_by_command_under_load_refuse_and_fail_no_connection() {
    let mut program = Program::start();
    let (mut pid, address, load) = (program.pid().unwrap(), program.front(), Load::start(&program));
    for number in 0..5 {
        load.goes_on();
        if number % 2 == 0 {
            signal("USR2", pid);
            eventually("it says so", || {
                program.said().matches("upgraded (SIGUSR2)").count() == number / 2 + 1
            });
            assert_ne!(program.note(), pid);
        } else {
            let said = program.upgrade();
            let new = program.note();
            let expected = format!("process {new} serves; process {pid} finishes what is in flight\n");
            assert_eq!(text(&said.stdout), expected, "{said:?}");
        }
        let last = program.status()["upgrade"]["last"].clone();
        assert_eq!((&last["result"], &last["from"]), (&"success".into(), &pid.into()));
        pid = program.note();
        if number == 0 {
            assert_eq!(program.child.wait().unwrap().code(), Some(0), "{}", program.said());
        }
    }
    load.goes_on();
    assert_eq!(load.stop(), Vec::<String>::new(), "{}", program.said());
    assert_eq!(program.front(), address);
    assert!(program.metrics().contains("gradual_upgrades_total{result=\"success\"} 5\n"));
    program.end();
    let said = program.said();
    eventually("all ended in order", || program.said().matches("every request was finished").count() == 6);
    assert!(!program.path("front.sock").exists() && TcpStream::connect(address).is_err(), "{said}");
}

#[test]
fn a_websocket_lives_on_in_the_old_process_which_ends_with_it() {
    let mut program = Program::start();
    let mut socket = TcpStream::connect(program.front()).unwrap();
    socket.write_all(WEBSOCKET).unwrap();
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    assert!(head(&mut reader).unwrap().starts_with("HTTP/1.1 101 "));
    let old = program.pid().unwrap();
    let new = program.upgraded();
    assert_ne!(old, new);
    assert_eq!(ask_tcp(&program.front()), Ok(()));
    let mut echo = [0; 5];
    socket.write_all(b"still").unwrap();
    reader.read_exact(&mut echo).unwrap();
    assert_eq!((&echo, program.child.try_wait().unwrap()), (b"still", None));
    drop((socket, reader));
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
    assert_eq!((program.pid(), ask_unix(&program.path("front.sock"))), (Some(new), Ok(())));
    program.end();
}

#[test]
fn an_upgrade_notes_no_deployment_a_second_time() {
    let mut program = Program::start();
    let journal = program.path("gradual.deployments.jsonl");
    // A reload is answered when everything is noted.
    assert_eq!(program.reload().status, 200);
    let before = std::fs::read_to_string(&journal).unwrap();
    assert_eq!(before.lines().count(), 1, "{before}");
    program.upgraded();
    assert_eq!(program.reload().status, 200);
    assert_eq!(std::fs::read_to_string(&journal).unwrap(), before);
    program.end();
}

#[test]
fn a_program_or_file_that_does_not_start_leaves_the_old_process_serving() {
    let mut program = Program::start();
    let (pid, address) = (program.pid().unwrap(), program.front());
    let good = std::fs::read(program.path("gradual.toml")).unwrap();
    let refused = |expected: &str| {
        let output = program.upgrade();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(expected), "{expected}: {}", text(&output.stderr));
        assert_eq!((program.pid(), ask_tcp(&address)), (Some(pid), Ok(())));
        let last = program.status()["upgrade"]["last"].clone();
        assert!(last["reason"].as_str().unwrap().contains(expected), "{last}");
    };
    let broken = text(&good).replace("unix:front.sock", "unix:/nowhere/front.sock");
    std::fs::write(program.path("gradual.toml"), broken).unwrap();
    refused("/nowhere/front.sock");
    std::fs::write(program.path("gradual.toml"), good).unwrap();
    program.replace("exit 7");
    refused("exit status: 7");
    std::fs::remove_file(program.path("gradual")).unwrap();
    refused("cannot be started");
    assert!(program.metrics().contains("gradual_upgrades_total{result=\"failure\"} 3\n"));
    assert_eq!(ask_unix(&program.path("front.sock")), Ok(()));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_gradual"), program.path("gradual")).unwrap();
    program.upgraded();
    assert!(program.metrics().contains("gradual_upgrades_total{result=\"failure\"} 3\n"));
    program.end();
}

#[test]
fn while_a_new_process_hangs_the_old_one_serves_refuses_a_second_upgrade_and_can_be_stopped() {
    let mut program = Program::start();
    let address = program.front();
    program.replace("exec sleep 1000");
    let first = program.command().stderr(Stdio::piped()).spawn().unwrap();
    let state = || program.status()["upgrade"].clone();
    eventually("the new process starts", || state()["state"] == "starting");
    let hanging: u32 = state()["pid"].as_u64().unwrap().try_into().unwrap();
    assert_eq!(ask_tcp(&address), Ok(()));
    let second = program.upgrade();
    assert_eq!(second.status.code(), Some(1));
    let expected = format!("an upgrade is under way already: process {hanging} is starting");
    assert!(text(&second.stderr).contains(&expected), "{second:?}");
    signal("TERM", program.child.id());
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
    assert!(!kill("0", hanging), "the process that hung goes on");
    let first = first.wait_with_output().unwrap();
    assert!(text(&first.stderr).contains("asked to stop"), "{first:?}");
}

#[test]
fn a_reload_that_is_asked_for_meanwhile_is_done_by_the_new_process() {
    let mut program = Program::start();
    let old = program.pid().unwrap();
    let wait = "while [ ! -e go ]; do sleep 0.01; done";
    program.replace(&format!("{wait}\nexec '{}' \"$@\"", env!("CARGO_BIN_EXE_gradual")));
    let mut upgrade = program.command().stdout(Stdio::null()).spawn().unwrap();
    eventually("the new process starts", || program.status()["upgrade"]["state"] == "starting");
    let mut reload = UnixStream::connect(program.path("admin.sock")).unwrap();
    let post = "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    write!(reload, "{post}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n").unwrap();
    // Whoever is answered after it has come after it.
    for _ in 0..3 {
        assert_eq!(program.pid(), Some(old));
    }
    File::create(program.path("go")).unwrap();
    let mut answer = String::new();
    reload.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("about to end"), "{answer}");
    assert!(upgrade.wait().unwrap().success(), "{}", program.said());
    assert_ne!(program.note(), old);
    eventually("the new process reloads", || program.status()["generation"] == 2);
    program.end();
}

#[test]
fn nothing_is_taken_over_from_what_is_no_predecessor() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gradual"));
    let output = command.arg("run").env("GRADUAL_HANDOVER", "1").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("GRADUAL_HANDOVER is set, but nothing can be taken over"),
        "{output:?}"
    );
}

#[test]
fn it_starts_on_a_service_managers_sockets_and_hands_them_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front.sock");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let unix = UnixListener::bind(&path).unwrap();
    // It waits before there is anybody to answer it.
    let early = std::thread::spawn({
        let address = address.clone();
        move || ask_tcp(&address)
    });
    let mut program = Program::start_with(folder, &address, |command| {
        command.env("GIVE", "1").stdin(OwnedFd::from(tcp)).stdout(OwnedFd::from(unix));
    });
    assert_eq!(early.join().unwrap(), Ok(()));
    for _ in 0..2 {
        assert_eq!((ask_tcp(&address), ask_unix(&path)), (Ok(()), Ok(())));
        program.upgraded();
    }
    assert_eq!((ask_tcp(&address), ask_unix(&path)), (Ok(()), Ok(())));
    program.end();
    assert!(path.exists(), "the socket's file is the service manager's");
}

#[test]
fn a_service_manager_is_told_of_start_reload_upgrade_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    let next = || {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        text(&buffer[..length]).to_owned()
    };
    let mut program = Program::start_with(folder, "127.0.0.1:0", |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    let serves = |message: &str| {
        assert!(message.starts_with("READY=1\nSTATUS=generation "), "{message}");
        message.to_owned()
    };
    assert!(serves(&next()).contains(&program.front()));
    let reload = |program: &Program, pid| {
        signal("HUP", pid);
        assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        eventually("it answers", || program.pid().is_some());
        serves(&next())
    };
    assert!(reload(&program, program.pids[0]).contains("generation 2"));
    let new = program.upgraded();
    assert!(next().starts_with(&format!("MAINPID={new}\nREADY=1\nSTATUS=")));
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
    std::fs::write(program.path("gradual.toml"), "nonsense").unwrap();
    assert!(reload(&program, new).contains("generation 1") && program.said().contains("reload refused"));
    program.end();
    assert!(next().starts_with("STOPPING=1\n"));
}

#[test]
fn the_command_says_where_nobody_answers_or_can_be_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gradual.toml");
    for (admin, expected) in [
        (r#"address = "unix:admin.sock""#, "nobody answers at the admin address unix:"),
        (ANY_PORT, "only the running process knows it"),
        ("address = \"unix:admin.sock\"\ntoken_file = \"missing\"", "the token file"),
    ] {
        std::fs::write(&path, file(admin, 90)).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_gradual")).arg("upgrade").arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}

#[test]
fn what_was_handed_over_under_another_name_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let mapped = format!("[::ffff:127.0.0.1]:{}", address.port());
    std::fs::write(folder.path().join("gradual.toml"), configuration(&mapped)).unwrap();
    std::fs::write(folder.path().join("token"), TOKEN).unwrap();
    let script = r#"export LISTEN_FDS=1 LISTEN_PID=$$; exec "$0" run gradual.toml 3<&0 0</dev/null"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_gradual")]).current_dir(folder.path());
    let output = command.stdin(OwnedFd::from(tcp)).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("the socket that was handed over is at {address}: name it so");
    assert!(text(&output.stderr).contains(&expected), "{}", text(&output.stderr));
}

#[test]
fn a_proxy_within_another_program_refuses_an_upgrade() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let post = "POST /api/v1/upgrade HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    let answer = stage.ask(post);
    assert_eq!((answer.status, &answer.json()["kind"]), (409, &"upgrade-refused".into()));
    let upgrade = stage.status()["upgrade"].clone();
    assert_eq!((&upgrade["state"], &upgrade["last"]["result"]), (&"idle".into(), &"refused".into()));
    let form = stage.ask("POST /api/v1/upgrade HTTP/1.1\r\nHost: localhost");
    assert_eq!(form.status, 415);
}
