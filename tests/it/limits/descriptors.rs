//! What happens where file descriptors run out: told from outside of the process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use http::Request;
use rustix::process::{Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::io::AsyncReadExt;

use super::long;
use super::program::Program;
use crate::support::{backend, empty, eventually, file, http2, raw_backend, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_descriptors_run_out_it_stays_alive_calm_and_reachable_and_recovers() {
    let v1 = backend("v1").start().await;
    let program = Program::start(100, &v1).await;
    assert_eq!(program.status().as_deref(), Some("200"));
    let mut clients: Vec<_> = (0..200).map(|_| program.client()).collect();
    eventually("clients are turned away", || program.status().as_deref() == Some("503")).await;
    for client in &mut clients {
        // Those that were turned away are closed by now.
        let _ = client.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n");
    }
    let (before, since) = (program.processor_time(), Instant::now());
    for path in ["/readyz", "/metrics", "/api/v1/status"] {
        assert_eq!(program.admin(path).unwrap().status, 200, "{path}");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (busy, passed) = (program.processor_time() - before, since.elapsed());
    assert!(busy < passed / 5, "{busy:?} of {passed:?}");
    let log = std::fs::read_to_string(program.path("log")).unwrap();
    assert!(log.lines().count() < 20, "{log}");
    assert!(log.contains("limit of open files"), "{log}");
    drop(clients);
    eventually("it has recovered", || program.status().as_deref() == Some("200")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_turned_away_do_not_take_the_descriptors_that_others_need_for_upstreams() {
    // Answers that nobody reads to the end keep their connections to the upstream in use.
    let v1 = long(20 << 20).await;
    let program = Program::start(256, &v1).await;
    let mut clients: Vec<_> = (0..400).map(|_| program.client()).collect();
    for client in &mut clients {
        // Those that were turned away may be closed by now.
        let _ = client.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    }
    let mut served = 0;
    for client in &mut clients {
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut start = [0; 1024];
        let length = client.read(&mut start).unwrap_or(0);
        let answer = String::from_utf8_lossy(&start[..length]);
        served += usize::from(answer.starts_with("HTTP/1.1 200 "));
        assert!(!answer.contains("the version's upstream"), "of the {served}th client: {answer}");
    }
    assert!(served >= 256 / 4, "{served}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_that_may_be_open_is_open_nothing_fails_and_the_admin_address_answers_when_one_of_its_own_ends()
 {
    let v1 = long(4 << 20).await;
    let silent = raw_backend(async |mut socket| {
        let _ = socket.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut file = file().version("v1", &v1, 100);
    for number in 0..40 {
        let check = format!("health = {{ path = \"/{number}\", interval = \"50ms\", timeout = \"60s\" }}");
        file = file.version(&format!("checked-{number}"), &silent, 0).version_with(&check);
    }
    let program = Program::start_with(tempfile::tempdir().unwrap(), &file, 160).await;
    eventually("as many checks as may be are under way", || silent.connections() == 160 / 16).await;
    let mut clients: Vec<_> = (0..200).map(|_| program.client()).collect();
    for client in &mut clients {
        // Those that were turned away may be closed by now; of the others, none reads its answer.
        let _ = client.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    }
    eventually("clients are turned away", || program.status().as_deref() == Some("503")).await;
    let connect = || UnixStream::connect(program.path("admin.sock")).unwrap();
    let mut held: Vec<_> = (0..160 / 8).map(|_| connect()).collect();
    let mut waiting = connect();
    let reload = "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                  Connection: close\r\n\r\n";
    waiting.write_all(reload.as_bytes()).unwrap();
    held.pop();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let log = std::fs::read_to_string(program.path("log")).unwrap();
    assert!(!log.contains("cannot"), "{log}");
    assert_eq!(silent.connections(), 160 / 16);
    drop((clients, held));
    eventually("it has recovered", || program.status().as_deref() == Some("200")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_no_descriptor_for_an_upstream_says_that_it_is_the_proxys_fault() {
    let v1 = long(4 << 20).await;
    let program = Program::start(100, &v1).await;
    let pipe = tokio::net::UnixStream::connect(program.path("client.sock")).await.unwrap();
    let mut client = http2(Box::new(pipe)).await;
    // Answers that nobody reads to the end keep their connections to the upstream in use.
    let (mut unread, mut refused) = (Vec::new(), 0);
    for _ in 0..60 {
        let request = Request::get("http://shop.example/").body(empty()).unwrap();
        let answer = soon("an answer", client.send_request(request)).await.unwrap();
        match answer.headers().get("gradual-error") {
            None => unread.push(answer),
            Some(kind) => {
                assert_eq!((answer.status().as_u16(), kind.as_bytes()), (503, &b"proxy-exhausted"[..]));
                refused += 1;
            }
        }
    }
    assert!(refused >= 20 && unread.len() >= 20, "{refused} and {}", unread.len());
    let metrics = program.admin("/metrics").unwrap().body;
    for series in ["gradual_upstream_shed_total", "gradual_upstream_ejections_total"] {
        let mut counted = metrics.lines().filter(|line| line.starts_with(series) && !line.ends_with(" 0"));
        assert_eq!(counted.next(), None);
    }
    let log = std::fs::read_to_string(program.path("log")).unwrap();
    assert!(log.contains("proxy-exhausted"), "{log}");
    drop((unread, client));
    eventually("it has recovered", || program.status().as_deref() == Some("200")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_wait_to_be_accepted_when_it_ends_are_served_when_there_are_descriptors_again() {
    let v1 = backend("v1").start().await;
    let program = Program::start(256, &v1).await;
    assert_eq!(program.status().as_deref(), Some("200"));
    let limit = |current| {
        let limit = Rlimit { current: Some(current), maximum: Some(256) };
        prlimit(Some(program.pid()), Resource::Nofile, limit).unwrap();
    };
    limit(1);
    let mut clients: Vec<_> = (0..10).map(|_| program.client()).collect();
    for client in &mut clients {
        client.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").unwrap();
    }
    kill_process(program.pid(), Signal::TERM).unwrap();
    let log = || std::fs::read_to_string(program.path("log")).unwrap();
    eventually("it drains", || log().contains("draining")).await;
    // So long that it has found no descriptor for any of them.
    tokio::time::sleep(Duration::from_millis(500)).await;
    limit(256);
    for client in &mut clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    eventually("it has ended", || log().contains("every request was finished")).await;
}
