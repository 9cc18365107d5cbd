//! What clients that do not read cost: told from outside of the process.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;

use super::long;
use super::program::Program;
use super::wire::{PREFACE, SETTINGS, frame, get};
use crate::support::{Authority, backend, body, tls_client};

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
        let all = [PREFACE, &frame(SETTINGS, 0, 0, &setting)[..], &asked].concat();
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
async fn what_clients_took_is_given_back_when_they_have_left() {
    let v1 = long(8).await;
    let program = Program::start(4096, &v1).await;
    assert_eq!(program.status().as_deref(), Some("200"));
    let before = program.settled().await;
    let mut clients = Vec::new();
    for _ in 0..1000 {
        let mut client = program.client();
        client.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").unwrap();
        clients.push(client);
    }
    for client in &mut clients {
        assert!(client.read(&mut [0; 1000]).unwrap() > 0);
    }
    let took = program.settled().await.saturating_sub(before);
    assert!(took > 6 << 10, "{took} KiB are too few to tell");
    drop(clients);
    let left = || program.memory().saturating_sub(before);
    let deadline = Instant::now() + Duration::from_secs(20);
    while left() > took / 2 {
        assert!(Instant::now() < deadline, "of {took} KiB {} are left", left());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
