//! What clients that do nothing cost in processor time: told from outside of the process.

use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::program::Program;
use super::wire::{
    CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PREFACE, SETTINGS, WINDOW_UPDATE, block, frame, get,
};
use crate::support::{Authority, Backend, Pipe, backend, body, file, record, tls_client};

/// A backend that answers a POST once it is whole, `/long` with much, and others with little.
async fn answering() -> Backend {
    let answer = |request: Request<Incoming>| async move {
        if request.method() == "POST" {
            let _ = record(request).await;
            return Response::new(body("whole"));
        }
        let length = if request.uri().path() == "/long" { 20 << 20 } else { 2 };
        Response::new(body(vec![b'x'; length]))
    };
    backend("v1").answering(answer).start().await
}

const POST: &str = "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Clients of HTTP/1.1 that are idle, have stopped halfway or do not read.
fn http1() -> Vec<(&'static str, Vec<u8>)> {
    let get = |path| format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    vec![
        ("nothing", Vec::new()),
        ("half a request line", b"GET / HT".to_vec()),
        ("half a head", b"GET / HTTP/1.1\r\nHost: shop.example\r\nX: ".to_vec()),
        (
            "half a body",
            [&POST.replace("Transfer-Encoding: chunked", "Content-Length: 9"), "half"].concat().into(),
        ),
        ("half a chunk size", [POST, "5"].concat().into()),
        ("half a chunk", [POST, "5\r\nhe"].concat().into()),
        ("half a trailer", [POST, "5\r\nhello\r\n0\r\nX: y"].concat().into()),
        ("a kept connection", get("/").into()),
        ("half a head behind a request", [&get("/")[..], "GET / HTTP"].concat().into()),
        ("an answer that is not read", get("/long").into()),
    ]
}

/// The same of HTTP/2.
fn http2() -> Vec<(&'static str, Vec<u8>)> {
    let greeted = [PREFACE, &frame(SETTINGS, 0, 0, &[])[..]].concat();
    let post = frame(HEADERS, END_HEADERS, 1, &block("POST"));
    let window = |size: u32| frame(SETTINGS, 0, 0, &[&[0, 4][..], &size.to_be_bytes()].concat());
    // All of it asks for an answer of which nothing, or nothing more, is taken.
    let no_window = [window(0), get(1), get(3)].concat();
    let unread: Vec<_> = (0..50).flat_map(|at| get(at * 2 + 1)).collect();
    let wide = [window(1 << 30), frame(WINDOW_UPDATE, 0, 0, &[64, 0, 0, 0]), unread].concat();
    let behind = |bytes: &[u8]| [&greeted, bytes].concat();
    vec![
        ("half a preface", greeted[..10].to_vec()),
        ("no settings", greeted[..24].to_vec()),
        ("nothing behind the greeting", greeted.clone()),
        ("half the head of a frame", behind(&[0, 0, 8, PING])),
        ("half a PING", behind(&frame(PING, 0, 0, &[0; 8])[..13])),
        ("half a SETTINGS", behind(&[0, 0, 12, SETTINGS, 0, 0, 0, 0, 0, 0, 3])),
        ("half a head", behind(&get(1)[..20])),
        ("a head without end", behind(&frame(HEADERS, 0, 1, &block("GET")))),
        (
            "half a CONTINUATION",
            behind(&[frame(HEADERS, 0, 1, &block("GET")), vec![0, 0, 9, CONTINUATION]].concat()),
        ),
        ("a body that does not come", behind(&post)),
        ("half a DATA", behind(&[&post[..], &frame(DATA, 0, 1, b"hello")[..11]].concat())),
        ("a request that was answered", behind(&get(1))),
        ("a window of nothing", behind(&no_window)),
        ("answers that are not read", behind(&wide)),
    ]
}

/// The processor time that passes in a second, once what came before is done with.
async fn spent(program: &Program) -> Duration {
    let mut before = Duration::MAX;
    for _ in 0..50 {
        let now = program.processor_time();
        if now == before {
            break;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (before, since) = (program.processor_time(), Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let passed = since.elapsed();
    (program.processor_time() - before).mul_f64(1.0 / passed.as_secs_f64())
}

/// Nobody is ended in the meantime.
const PATIENT: &str = "tls_handshake_timeout = \"5m\"\ndetection_timeout = \"5m\"\nheader_timeout = \"5m\"\n\
                       keep_alive_timeout = \"5m\"\nmin_rate = 0";

/// So many of each.
const COPIES: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_idle_stop_halfway_or_do_not_read_take_no_processor_time() {
    let v1 = answering().await;
    let authority = Authority::new();
    for tls in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        authority.write(folder.path(), "a", &["shop.example"]);
        let listener = if tls { "tls = [{ certificate = \"a.pem\", key = \"a.key\" }]" } else { "" };
        let file = file().top(&format!("[limits]\n{PATIENT}")).listener(listener).version("v1", &v1, 100);
        let program = Program::start_with(folder, &file, 4096).await;
        let connect = async || UnixStream::connect(program.path("client.sock")).await.unwrap();
        let mut clients: Vec<Pipe> = Vec::new();
        for (protocol, kinds) in [("http/1.1", http1()), ("h2", http2())] {
            for (_, bytes) in kinds {
                for _ in 0..COPIES {
                    let mut client: Pipe = Box::new(connect().await);
                    if tls {
                        let config = authority.client(&[protocol]);
                        client = Box::new(tls_client(client, config, "shop.example").await.unwrap());
                    }
                    client.write_all(&bytes).await.unwrap();
                    client.flush().await.unwrap();
                    clients.push(client);
                }
            }
        }
        if tls {
            // No handshake, and half of one.
            for begun in [&b""[..], b"\x16\x03\x01\x02\0\x01\0\x01"] {
                for _ in 0..COPIES {
                    let mut client = connect().await;
                    client.write_all(begun).await.unwrap();
                    clients.push(Box::new(client));
                }
            }
        }
        let spent = spent(&program).await;
        assert!(spent < Duration::from_millis(100), "TLS {tls}: {spent:?} a second");
        // They were there all the time.
        let status = program.admin("/api/v1/status").unwrap().json();
        assert_eq!(status["load"]["connections"], clients.len(), "TLS {tls}");
        drop(clients);
    }
}
