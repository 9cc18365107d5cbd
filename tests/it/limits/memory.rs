//! What clients that do not read cost, and what happens where file descriptors run out: told from outside of the process.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use super::long;
use super::program::Program;
use super::wire::{PREFACE, SETTINGS, frame, get};
use crate::support::{Authority, backend, eventually, tls_client};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_that_are_not_read_cost_what_their_connection_may_hold() {
    let v1 = long(20 << 20).await;
    let program = Program::start(4096, &v1).await;
    assert_eq!(program.status().as_deref(), Some("200"));
    for window in [0_u32, 65_535, 1 << 30] {
        let before = program.settled().await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut client = program.client();
            let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
            let asked: Vec<_> = (0..100).flat_map(|at| get(at * 2 + 1)).collect();
            let all = [PREFACE, &frame(SETTINGS, 0, 0, &setting)[..], &asked].concat();
            client.write_all(&all).unwrap();
            clients.push(client);
        }
        let each = program.settled().await.saturating_sub(before) / 8;
        // What the codec needs for each connection to the upstream comes on top of what is held for the client.
        assert!(each <= 256 + 100 * 40, "{window}: {each} KiB");
    }
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
                    PREFACE,
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
