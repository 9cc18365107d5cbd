//! What the two processes of an upgrade say to each other, with a test in the place of one of them.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use serde_json::{Value, json};

use super::{Program, ask_tcp};

/// The old process's end, and what makes a program the new one.
fn letter(content: &Value) -> (UnixStream, impl FnOnce(&mut Command) + use<>) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let content = content.to_string();
    ours.write_all(&u32::try_from(content.len()).unwrap().to_be_bytes()).unwrap();
    ours.write_all(content.as_bytes()).unwrap();
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
    let (_stream, become_new) = letter(&nothing(names));
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
