//! What the two processes of an upgrade say to each other, with a test in the place of one of them.

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread::JoinHandle;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use super::super::control::stage::eventually;
use super::objects::configuration;
use super::{Program, ask_tcp, ask_unix, backend, signal};

/// The old process's end, and what makes a program the new one.
fn letter(content: &Value, sockets: &[BorrowedFd<'_>]) -> (UnixStream, impl FnOnce(&mut Command) + use<>) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let content = content.to_string();
    ours.write_all(&u32::try_from(content.len()).unwrap().to_be_bytes()).unwrap();
    ours.write_all(content.as_bytes()).unwrap();
    if !sockets.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(sockets)));
        sendmsg(&ours, &[IoSlice::new(b"+")], &mut control, SendFlags::empty()).unwrap();
    }
    (ours, |command: &mut Command| {
        command.env("GRADUAL_HANDOVER", "1").stdin(OwnedFd::from(theirs));
    })
}

/// A letter without sockets.
fn nothing(names: &Value) -> Value {
    json!({ "format": 1, "from": 1, "upgrades": [0, 0, 0], "admin": null, "listeners": [], "names": names })
}

/// A new process whose upstream is a name that nobody can resolve.
fn start_with_a_name(names: &Value) -> Program {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gradual.toml");
    let (_stream, become_new) = letter(&nothing(names), &[]);
    Program::start_with(folder, "127.0.0.1:0", |command| {
        let file = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, file.replace("http://127.0.0.1", "http://shop.invalid")).unwrap();
        become_new(command);
    })
}

#[test]
fn the_addresses_of_names_that_the_old_process_knew_go_on_while_dns_is_down() {
    let mut program = start_with_a_name(&json!({ "shop.invalid": ["127.0.0.1"], "other.invalid": [] }));
    assert_eq!(ask_tcp(&program.front()), Ok(()));
    program.upgraded();
    assert_eq!(ask_tcp(&program.front()), Ok(()), "it hands them on");
    program.end();
}

#[test]
fn names_that_are_nonsense_are_ignored_with_a_line_in_the_log() {
    let mut program = start_with_a_name(&json!({ "shop.invalid": ["here"] }));
    assert!(ask_tcp(&program.front()).unwrap_err().contains(" 503 "));
    assert!(program.said().contains("names that were handed over are ignored"), "{}", program.said());
    program.end();
}

/// A new process that was handed both Unix sockets, when it has said that it serves; with the old process's end.
fn start_with_sockets(acknowledges: &Value) -> (Program, BufReader<UnixStream>, [UnixListener; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let bound = [path("admin.sock"), path("front.sock")].map(|path| UnixListener::bind(path).unwrap());
    let item = |name: &str| {
        let bytes = path(name).into_os_string().into_encoded_bytes();
        json!({ "named": { "Unix": { "Unix": bytes } }, "sockets": 1, "removes_file": true })
    };
    let mut content = nothing(&Value::Null);
    content["admin"] = item("admin.sock");
    content["listeners"] = json!([item("front.sock")]);
    if acknowledges.is_boolean() {
        content["acknowledges"] = acknowledges.clone();
    }
    let (stream, become_new) = letter(&content, &bound.each_ref().map(AsFd::as_fd));
    let program = Program::start_with(folder, "127.0.0.1:0", become_new);
    let mut stream = BufReader::new(stream);
    let mut word = String::new();
    stream.read_line(&mut word).unwrap();
    assert_eq!(word, "\"Serving\"\n");
    (program, stream, bound)
}

/// Ends the new process; whether the files of the sockets are there.
fn files_after_the_end(mut program: Program) -> [bool; 2] {
    signal("TERM", program.child.id());
    assert_eq!(program.child.wait().unwrap().code(), Some(0), "{}", program.said());
    ["admin.sock", "front.sock"].map(|name| program.path(name).exists())
}

#[test]
fn an_upgrade_that_the_old_process_gives_up_leaves_it_the_files_of_its_sockets() {
    let (program, stream, _bound) = start_with_sockets(&json!(true));
    assert_eq!(files_after_the_end(program), [true, true], "while it is not decided");
    drop(stream);
    let (program, stream, _bound) = start_with_sockets(&json!(true));
    drop(stream);
    eventually("it notices", || program.said().contains("gave this upgrade up"));
    // A reload without the listener leaves its file, too.
    let file = std::fs::read_to_string(program.path("gradual.toml")).unwrap();
    let less = file.replace("[[listener]]\naddress = \"unix:front.sock\"\n", "");
    std::fs::write(program.path("gradual.toml"), less).unwrap();
    signal("HUP", program.child.id());
    eventually("it reloads", || program.status()["generation"] == 2);
    assert_eq!(files_after_the_end(program), [true, true]);
}

#[test]
fn the_files_of_sockets_are_the_new_processs_when_the_old_one_has_acknowledged_it() {
    let (program, mut stream, bound) = start_with_sockets(&json!(true));
    stream.get_mut().write_all(b"+").unwrap();
    drop(bound);
    assert_eq!(ask_unix(&program.path("front.sock")), Ok(()));
    assert_eq!(files_after_the_end(program), [false, false]);
    // A process of an earlier release says nothing more.
    let (program, _stream, _bound) = start_with_sockets(&Value::Null);
    assert_eq!(files_after_the_end(program), [false, false]);
}

/// Ends with the words that were said, and the stream.
type Answering = JoinHandle<(Vec<String>, UnixStream)>;

/// The letter of a process that understands claims, which then answers each word so.
fn answering(answers: &'static [&'static str]) -> (Answering, impl FnOnce(&mut Command) + use<>) {
    let mut content = nothing(&Value::Null);
    content["acknowledges"] = json!(true);
    content["objects"] = json!(true);
    let (stream, become_new) = letter(&content, &[]);
    let answering = std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let word = |answer: &&str| {
            let mut word = String::new();
            stream.read_line(&mut word).unwrap();
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            word
        };
        let words = answers.iter().map(word).collect();
        (words, stream.into_inner())
    });
    (answering, become_new)
}

const REFUSED: &str = "{\"Refused\":\"it is tired\"}\n";

#[test]
fn a_process_of_which_the_old_one_does_not_say_what_is_live_there_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let text = configuration(0, &backend()).replace("token_file = \"token\"\n", "");
    std::fs::write(folder.path().join("gradual.toml"), text).unwrap();
    let (answering, become_new) = answering(&[REFUSED, ""]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gradual"));
    command.args(["run", "gradual.toml"]).current_dir(folder.path()).env_remove("NOTIFY_SOCKET");
    become_new(&mut command);
    let output = command.output().unwrap();
    let (words, _) = answering.join().unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(words[0].starts_with("{\"Objects\":["), "{words:?}");
    assert!(words[1].starts_with("{\"Failed\":") && words[1].contains("it is tired"), "{words:?}");
}

#[test]
fn a_reload_of_which_the_old_process_does_not_say_what_is_live_there_is_refused() {
    let (answering, become_new) = answering(&["\"Done\"\n", "+", REFUSED, "\"Done\"\n"]);
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::start_with(folder, "127.0.0.1:0", |command| {
        let path = command.get_current_dir().unwrap().join("gradual.toml");
        std::fs::write(path, configuration(0, &backend())).unwrap();
        become_new(command);
    });
    let refused = program.reload();
    assert!(refused.status == 422 && refused.body.contains("it is tired"), "{}", refused.body);
    assert_eq!(program.status()["generation"], 1);
    assert_eq!(program.reload().status, 200);
    assert_eq!(program.status()["generation"], 2);
    let (words, _) = answering.join().unwrap();
    // At the start and at each reload.
    for claim in [0, 2, 3] {
        assert!(words[claim].starts_with("{\"Objects\":["), "{words:?}");
    }
    program.end();
}
