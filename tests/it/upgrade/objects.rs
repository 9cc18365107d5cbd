//! Objects over an upgrade: no version serves one in the new process while another has it in the old one.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Output;
use std::thread::JoinHandle;

use super::{Program, backend, eventually, head, text};

/// A file of two versions, of which the second has so much; objects by a header.
pub(super) fn configuration(second: u32, upstream: &str) -> String {
    let first = 100 - second;
    format!(
        "[server]\nthreads = 2\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [admin]\naddress = \"unix:admin.sock\"\ntoken_file = \"token\"\n\
         [[worker]]\nname = \"shop\"\nexpose_version = true\n\
         [worker.objects]\nkey = 'http.request.headers[\"x-room\"][0]'\n\
         [[worker.version]]\nid = \"v1\"\nupstreams = [\"{upstream}\"]\n\
         [[worker.version]]\nid = \"v2\"\nupstreams = [\"{upstream}\"]\n\
         [worker.deployment]\nversions = [{{ version_id = \"v1\", percentage = {first} }}, \
         {{ version_id = \"v2\", percentage = {second} }}]\n"
    )
}

/// A program of which the first version has everything.
fn start(upstream: &str) -> Program {
    let text = configuration(0, upstream);
    Program::start_with(tempfile::tempdir().unwrap(), "127.0.0.1:0", |command| {
        std::fs::write(command.get_current_dir().unwrap().join("gradual.toml"), text).unwrap();
    })
}

fn give(program: &Program, second: u32, upstream: &str) {
    give_with(program, second, upstream, "");
}

/// The same, with more about what becomes of objects.
fn give_with(program: &Program, second: u32, upstream: &str, more: &str) {
    let text = configuration(second, upstream);
    let text = text.replace("[worker.objects]\n", &format!("[worker.objects]\n{more}\n"));
    std::fs::write(program.path("gradual.toml"), text).unwrap();
}

/// A request for an object, under way on a connection of its own.
fn asked(program: &Program, room: &str) -> JoinHandle<String> {
    let mut stream = TcpStream::connect(program.front()).unwrap();
    let request =
        format!("GET / HTTP/1.1\r\nHost: shop.example\r\nX-Room: {room}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    std::thread::spawn(move || {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
}

/// All that comes until its end.
fn rest((_, mut reader): (TcpStream, BufReader<TcpStream>)) -> Vec<u8> {
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    rest
}

/// The version that answered well.
fn version(answer: &str) -> &str {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (_, rest) = answer.split_once("gradual-version: \"").unwrap();
    rest.split('"').next().unwrap()
}

/// A WebSocket for an object, which sends back what it receives.
fn socket(program: &Program, room: &str) -> (TcpStream, BufReader<TcpStream>) {
    let asks = text(super::WEBSOCKET).replace("\r\n\r\n", &format!("\r\nX-Room: {room}\r\n\r\n"));
    let mut stream = TcpStream::connect(program.front()).unwrap();
    stream.write_all(asks.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert!(head(&mut reader).unwrap().starts_with("HTTP/1.1 101 "));
    (stream, reader)
}

fn echoes((stream, reader): &mut (TcpStream, BufReader<TcpStream>)) {
    let mut echo = [0; 5];
    stream.write_all(b"still").unwrap();
    reader.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"still");
}

fn waits(program: &Program, count: usize) {
    let waiting = format!("gradual_objects_waiting{{worker=\"shop\"}} {count}\n");
    eventually("so many wait", || program.metrics().contains(&waiting));
}

#[test]
fn an_object_that_moves_with_an_upgrade_is_answered_when_the_old_process_has_ended_it() {
    let upstream = backend();
    let mut program = start(&upstream);
    assert_eq!(version(&asked(&program, "lobby").join().unwrap()), "v1");
    let mut lobby = socket(&program, "lobby");
    give(&program, 100, &upstream);
    program.upgraded();
    let moved = asked(&program, "lobby");
    waits(&program, 1);
    assert_eq!(version(&asked(&program, "attic").join().unwrap()), "v2");
    echoes(&mut lobby);
    assert!(!moved.is_finished());
    drop(lobby);
    assert_eq!(version(&moved.join().unwrap()), "v2");
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
    program.end();
}

#[test]
fn a_reload_of_the_new_process_knows_what_the_old_one_still_has() {
    let upstream = backend();
    let mut program = start(&upstream);
    let mut lobby = socket(&program, "lobby");
    program.upgraded();
    // It did not move: both may serve it.
    assert_eq!(version(&asked(&program, "lobby").join().unwrap()), "v1");
    give(&program, 100, &upstream);
    assert_eq!(program.reload().status, 200, "{}", program.said());
    let moved = asked(&program, "lobby");
    waits(&program, 1);
    echoes(&mut lobby);
    drop(lobby);
    assert_eq!(version(&moved.join().unwrap()), "v2");
    program.end();
}

/// Frame, length and code of RFC 6455 sections 5.2 and 7.4.1: going away.
const GOES_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

#[test]
fn what_moves_with_an_upgrade_is_cut_in_the_old_process_at_once_where_the_new_file_says_reset() {
    let upstream = backend();
    let mut program = start(&upstream);
    let lobby = socket(&program, "lobby");
    give_with(&program, 100, &upstream, "handover = \"reset\"");
    program.upgraded();
    assert_eq!(version(&asked(&program, "lobby").join().unwrap()), "v2");
    assert_eq!(rest(lobby), GOES_AWAY);
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
    program.end();
}

#[test]
fn what_moves_with_an_upgrade_is_cut_in_the_old_process_when_the_new_files_time_is_up() {
    let upstream = backend();
    let mut program = start(&upstream);
    let attic = socket(&program, "attic");
    give_with(&program, 100, &upstream, "timeout = \"3600s\"");
    program.upgraded();
    let moved = asked(&program, "attic");
    waits(&program, 1);
    // A later file of the new process may say less.
    give_with(&program, 100, &upstream, "timeout = \"200ms\"");
    assert_eq!(program.reload().status, 200, "{}", program.said());
    assert_eq!(version(&moved.join().unwrap()), "v2");
    assert_eq!(rest(attic), GOES_AWAY);
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
    program.end();
}

#[test]
fn while_a_process_drains_that_may_have_objects_its_heir_is_not_upgraded() {
    let upstream = backend();
    let mut program = start(&upstream);
    let mut lobby = socket(&program, "lobby");
    let second = program.upgraded();
    give(&program, 100, &upstream);
    let refused = program.upgrade();
    let expected = format!("process {}, which this one replaced, has not ended yet", program.child.id());
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains(&expected), "{refused:?}");
    assert_eq!(program.pid(), Some(second));
    assert_eq!(version(&asked(&program, "lobby").join().unwrap()), "v1");
    echoes(&mut lobby);
    drop(lobby);
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
    eventually("it is upgraded", || program.upgrade().status.success());
    assert_ne!(program.note(), second);
    assert_eq!(version(&asked(&program, "lobby").join().unwrap()), "v2");
    program.end();
}

/// Every object, for another version than serves.
const CLAIM: &str = r#"{"Objects":[{"worker":"shop","salt":"c2hvcA","versions":["v2"],"shares":[100000],"arcs":[[0,100000]],"reset":false,"timeout_ms":30000}]}"#;

/// A request that waits in the old process for an object which a new one has claimed, until that one goes on like this: what
/// it is answered, and what becomes of the upgrade.
fn asked_while_claimed(program: &Program, goes_on: &str) -> (String, Output) {
    program.replace(&format!(
        "echo '{CLAIM}' >&0; touch claims; until [ -e goes ]; do sleep 0.02; done; {goes_on}"
    ));
    let mut command = program.command();
    let upgrading = std::thread::spawn(move || command.output().unwrap());
    eventually("it has claimed", || program.path("claims").exists());
    let asks = asked(program, "lobby");
    waits(program, 1);
    std::fs::write(program.path("goes"), "").unwrap();
    (asks.join().unwrap(), upgrading.join().unwrap())
}

#[test]
fn a_request_that_waits_in_the_old_process_is_told_to_ask_the_new_one_when_that_serves() {
    let mut program = start(&backend());
    let (answer, upgraded) = asked_while_claimed(&program, "echo '\"Serving\"' >&0");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    for line in ["gradual-error: object-elsewhere\r\n", "retry-after: 1\r\n", "connection: close\r\n"] {
        assert!(answer.contains(line), "{line}: {answer}");
    }
    assert!(upgraded.status.success(), "{upgraded:?}");
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_process_that_claims_objects_and_does_not_come_leaves_them_where_they_were() {
    let mut program = start(&backend());
    let (answer, upgraded) = asked_while_claimed(&program, "exit 3");
    assert!(!upgraded.status.success(), "{upgraded:?}");
    assert_eq!(version(&answer), "v1");
    program.end();
}
