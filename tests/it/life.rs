//! The program as a process: exit codes, messages and signals.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::Duration;

use gradual::config::Address;
use tempfile::TempDir;

use super::control::stage::{Answer, eventually, exchange, worker};

fn gradual(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gradual")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The program with both addresses on Unix sockets of its folder, so that it needs no port.
struct Program {
    folder: TempDir,
    child: Child,
    deadline: Option<Sender<()>>,
}

/// Far longer than any of them lives here: only one that hangs is killed, so that its test fails instead of hanging, too.
const LIFE: Duration = Duration::from_secs(120);

/// Kills a process at the end of its life's time, unless what is returned is dropped before.
fn deadline(process: u32) -> Sender<()> {
    let (alive, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        if ended.recv_timeout(LIFE) == Err(RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-KILL", &process.to_string()]).status();
        }
    });
    alive
}

impl Program {
    fn start(upstream: &str) -> Self {
        Self::start_saying(upstream, Stdio::piped())
    }

    fn start_saying(upstream: &str, stderr: Stdio) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Self::spawn(folder.path(), upstream, stderr);
        let program = Self { deadline: Some(deadline(child.id())), child, folder };
        eventually("it is ready", || program.admin("GET /readyz").is_some_and(|answer| answer.status == 200));
        program
    }

    fn spawn(folder: &Path, upstream: &str, stderr: Stdio) -> Child {
        std::fs::write(folder.join("gradual.toml"), file(90, upstream)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gradual"));
        command.arg("run").arg(folder.join("gradual.toml")).stderr(stderr);
        command.env_remove("GRADUAL_LOG").env_remove("RUST_LOG").spawn().unwrap()
    }

    /// A request to the admin address; `None` while nobody listens there.
    fn admin(&self, request: &str) -> Option<Answer> {
        let path = self.folder.path().join("admin.sock");
        UnixStream::connect(&path).ok()?;
        let request = format!("{request} HTTP/1.1\r\nHost: localhost");
        Some(exchange(&Address::Unix(path), &request))
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").arg("-c").arg(command).status().unwrap().success());
    }

    /// Waits for the end: the exit status, and what was said on standard error. The folder stays.
    fn end(&mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut said).unwrap();
        }
        let status = self.child.wait().unwrap();
        self.deadline = None;
        (status, said)
    }
}

/// A failed test leaves no process behind.
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait().map(drop));
    }
}

fn file(v1: u32, upstream: &str) -> String {
    worker(r#"address = "unix:admin.sock""#, v1, upstream)
}

/// Streams that take nothing: a pipe whose reader is gone, and a full device.
fn deaf() -> [Stdio; 2] {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    [writer.into(), full.into()]
}

#[test]
fn it_serves_on_where_nobody_takes_its_standard_error() {
    for stderr in deaf() {
        let mut program = Program::start_saying("http://127.0.0.1:9", stderr);
        std::fs::write(program.folder.path().join("gradual.toml"), "nonsense").unwrap();
        program.signal("HUP");
        let status = || program.admin("GET /api/v1/status").unwrap().json();
        eventually("the file is refused", || status()["last_reload"]["result"] == "failure");
        program.signal("TERM");
        assert_eq!(program.end().0.code(), Some(0));
    }
}

#[test]
fn it_serves_on_where_the_reader_of_its_standard_error_stalls() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut program = Program::start_saying("http://127.0.0.1:9", writer.into());
    // Each line is a mistake that is reported: far more than a pipe holds.
    let mistakes: String = (0..5000).map(|at| format!("[unknown-{at}]\n")).collect();
    std::fs::write(program.folder.path().join("gradual.toml"), mistakes).unwrap();
    let last = || program.admin("GET /api/v1/status").unwrap().json()["last_reload"].clone();
    program.signal("HUP");
    eventually("the file is refused", || last()["result"] == "failure");
    std::fs::write(program.folder.path().join("gradual.toml"), file(90, "http://127.0.0.1:9")).unwrap();
    program.signal("HUP");
    eventually("a good file is taken", || last()["result"] == "success");
    program.signal("TERM");
    assert_eq!(program.end().0.code(), Some(0));
    drop(reader);
}

#[test]
fn commands_end_in_order_where_nobody_takes_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.toml");
    std::fs::write(&good, file(90, "http://127.0.0.1:9")).unwrap();
    let good = good.to_str().unwrap();
    for arguments in [
        &["check", good][..],
        &["check", good, "--json"],
        &["check", "missing.toml"],
        &["explain", "/", "--file", good],
        &["explain", "/", "--file", "missing.toml"],
        &["rules", "test", "true"],
        &["rules", "test", "--json", "http.cooky"],
        &["run", "missing.toml"],
        &["upgrade", good],
        &["versions", "list", "--file", good],
        &["versions", "deploy", "dc8d@10", "db7c", "--file", good, "--dry-run"],
        &["versions", "view", "none", "--file", good, "--json"],
        &["deployments", "status", "--file", good],
        &["rollback", "--file", good],
        &["plan", good, good],
        &["status", "--file", good],
        &["reload", "--file", good],
        &["completions", "bash"],
        &["man"],
        &["schema"],
        &["--help"],
        &["walk"],
    ] {
        for (out, err) in deaf().into_iter().zip(deaf()) {
            let mut command = Command::new(env!("CARGO_BIN_EXE_gradual"));
            let status = command.args(arguments).stdout(out).stderr(err).status().unwrap();
            assert!(matches!(status.code(), Some(0..=2)), "{arguments:?}: {status:?}");
        }
    }
}

#[test]
fn an_expression_is_tested_with_exit_code_0_and_a_mistake_in_it_is_shown_with_1() {
    let arguments = ["rules", "test", "http.request.cookies[\"a\"][0]", "--header", "Cookie: a=1"];
    let good = gradual(&arguments);
    assert_eq!(
        (good.status.code(), text(&good.stdout).as_ref()),
        (Some(0), "type    String\nresult  \"1\"\n")
    );
    let bad = gradual(&["rules", "test", "http.cooky"]);
    assert_eq!((bad.status.code(), text(&bad.stdout).as_ref()), (Some(1), ""));
    assert!(text(&bad.stderr).contains("--> expression:1:1"), "{}", text(&bad.stderr));
    let machine = gradual(&["rules", "test", "--json", "http.cooky"]);
    let report: serde_json::Value = serde_json::from_slice(&machine.stdout).unwrap();
    assert_eq!((machine.status.code(), &report["errors"]), (Some(1), &serde_json::json!(1)));
    let control = gradual(&["rules", "test", "--json", "url_decode(http.request.uri.query)", "/?%c2%9b"]);
    assert!(text(&control.stdout).contains("\\u009b"), "{}", text(&control.stdout));
}

#[test]
fn a_missing_file_is_a_message_how_to_make_one_and_exit_code_1() {
    let output = gradual(&["run", "there-is-no-such-file.toml"]);
    assert_eq!(output.status.code(), Some(1));
    for words in ["there-is-no-such-file.toml", "config/minimal.toml", "gradual demo"] {
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
}

#[test]
fn an_access_log_in_a_missing_folder_is_an_error_at_its_place_for_check_and_run_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gradual.toml");
    let file = format!("[log]\naccess = \"missing/a.log\"\n{}", file(90, "http://127.0.0.1:9"));
    std::fs::write(&path, file).unwrap();
    for command in ["check", "run"] {
        let output = gradual(&[command, path.to_str().unwrap()]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        assert!(said.contains("gradual.toml:2:10") && said.contains("missing/a.log"), "{command}: {said}");
    }
}

#[test]
fn a_bad_file_is_a_report_and_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    std::fs::write(&path, "[[worker]\n").unwrap();
    let output = gradual(&["run", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("error"), "{}", text(&output.stderr));
}

#[test]
fn arguments_that_name_no_command_are_exit_code_2() {
    for arguments in [&["walk"][..], &["run", "--fast"], &[]] {
        assert_eq!(gradual(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn the_version_and_the_help_go_to_standard_output() {
    let version = gradual(&["--version"]);
    assert_eq!(text(&version.stdout), format!("gradual {}\n", env!("CARGO_PKG_VERSION")));
    let help = gradual(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("Examples:"));
}

#[test]
fn sigterm_and_sigint_end_in_order_with_exit_code_0() {
    for signal in ["TERM", "INT"] {
        let mut program = Program::start("http://127.0.0.1:9");
        program.signal(signal);
        let (status, said) = program.end();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(said.contains("every request was finished"), "{said}");
        assert!(program.folder.path().exists() && !program.folder.path().join("admin.sock").exists());
    }
}

#[test]
fn a_journal_that_cannot_be_kept_is_one_warning_until_it_has_been_kept_again() {
    let mut program = Program::start("http://127.0.0.1:9");
    let status = || program.admin("GET /api/v1/status").unwrap().json();
    let journal = program.folder.path().join("gradual.deployments.jsonl");
    // What is counted is over, the note included.
    let reload = |count: u64, state: &str| {
        program.signal("HUP");
        let line = format!("gradual_reloads_total{{result=\"success\"}} {count}\n");
        eventually("it is reloaded", || program.admin("GET /metrics").unwrap().body.contains(&line));
        assert_eq!(status()["journal"], state);
    };
    eventually("the first deployment is noted", || journal.exists());
    for round in 0..2 {
        std::fs::remove_file(&journal).unwrap();
        std::fs::create_dir(&journal).unwrap();
        reload(round * 3 + 1, "off");
        reload(round * 3 + 2, "off");
        std::fs::remove_dir(&journal).unwrap();
        reload(round * 3 + 3, "on");
    }
    program.signal("TERM");
    let said = program.end().1;
    for words in ["is not a regular file; everything else goes on", "is kept again"] {
        assert_eq!(said.matches(words).count(), 2, "{words}: {said}");
    }
}

#[test]
fn sighup_reloads_and_a_bad_file_is_loud() {
    let mut program = Program::start("http://127.0.0.1:9");
    let status = || program.admin("GET /api/v1/status").unwrap().json();
    std::fs::write(program.folder.path().join("gradual.toml"), file(40, "http://127.0.0.1:9")).unwrap();
    program.signal("HUP");
    eventually("the next generation serves", || status()["generation"] == 2);
    std::fs::write(program.folder.path().join("gradual.toml"), "nonsense").unwrap();
    program.signal("HUP");
    eventually("the file is refused", || status()["last_reload"]["result"] == "failure");
    assert_eq!(status()["workers"][0]["deployment"]["versions"][0]["percentage"], 40);
    program.signal("TERM");
    let (_, said) = program.end();
    assert!(said.contains("worker shop: db7cd8d3-4425-4fe7-8c81-01bf963b6067 (v1) 90% -> 40%"), "{said}");
    assert!(said.contains("ERROR reload refused (SIGHUP), generation 2 goes on"), "{said}");
}

#[test]
fn a_second_process_at_the_same_addresses_is_refused_and_the_first_goes_on() {
    let mut first = Program::start("http://127.0.0.1:9");
    let path = first.folder.path().join("gradual.toml");
    let second = gradual(&["run", path.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("error"), "{}", text(&second.stderr));
    assert_eq!(first.admin("GET /readyz").unwrap().status, 200);
    first.signal("TERM");
    assert_eq!(first.end().0.code(), Some(0));
}

#[test]
fn while_a_request_is_in_flight_a_stop_drains_and_a_second_one_ends_at_once() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let upstreams = tempfile::tempdir().unwrap();
        let upstream = UnixListener::bind(upstreams.path().join("up.sock")).unwrap();
        let mut program = Program::start(&format!("unix:{}", upstreams.path().join("up.sock").display()));
        let mut client = UnixStream::connect(program.folder.path().join("front.sock")).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").unwrap();
        let in_flight = upstream.accept().unwrap();
        program.signal(signal);
        eventually("it drains", || program.admin("GET /readyz").unwrap().status == 503);
        let status = program.admin("GET /api/v1/status").unwrap().json();
        assert_eq!((&status["draining"], &status["load"]["requests"]), (&true.into(), &1.into()));
        program.signal(signal);
        let (status, said) = program.end();
        assert_eq!(status.code(), Some(code), "{said}");
        drop(in_flight);
    }
}
