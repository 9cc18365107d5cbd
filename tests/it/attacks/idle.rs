//! Clients that are slow, or do nothing: they cost no processor time and little memory, and end when their time is over.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frames::{DATA, GOAWAY, HEADERS, Outcome, RST_STREAM, SETTINGS, request as fields};
use super::language::{HTTP2, OK, Reaches, Stage, Trial, Upstream, Way, When, exchange, refusal, request};
use crate::support::eventually;

#[tokio::test]
async fn clients_that_stop_halfway_keep_nobody_from_being_served() {
    let stage = Stage::new().await;
    let mut held = Vec::new();
    for begun in [
        &b""[..],
        b"G",
        b"GET / HTTP/1.1\r\nHost: shop.exam",
        b"PRI * HTTP/2.0\r\n\r\nS",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04",
        b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n5",
        b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Tra",
    ] {
        for _ in 0..10 {
            let mut pipe = stage.pipe(Way::Http1).await;
            pipe.write_all(begun).await.unwrap();
            held.push(pipe);
        }
    }
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        frames.bytes(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3]);
        frames.flush().await;
        stage.serves_neighbours().await;
    }
    stage.heard_nothing_but_honest(Reaches::Part).await.unwrap();
    drop(held);
}

#[tokio::test]
async fn an_upload_that_stands_still_is_refused_and_ended_on_both_sides() {
    let stage = Stage::with(Upstream::start(OK, When::Honest).await, |file| {
        file.worker("timeouts = { idle = \"300ms\", response = \"60s\" }")
    })
    .await;
    let bytes = request("POST /", "Content-Length: 100", "beginning");
    let said = exchange(stage.pipe(Way::Http1).await, bytes).await.unwrap();
    assert!(refusal(&[408], &said).is_ok(), "{:?}", String::from_utf8_lossy(&said));
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        frames.headers(1, false, &fields("POST", "/"));
        frames.frame(DATA, 0, 1, b"beginning");
        frames.flush().await;
        assert_eq!(frames.outcome(1).await, Outcome::Status(408), "{way:?}");
    }
    stage.heard_nothing_but_honest(Reaches::Part).await.unwrap();
}

#[tokio::test]
async fn what_clients_do_not_read_is_not_fetched_in_full_from_the_upstream() {
    const SIZE: usize = 20 << 20;
    const STREAMS: u32 = 20;
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&written);
    let backend = crate::support::raw_backend(move |mut socket| {
        let count = std::sync::Arc::clone(&count);
        async move {
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                let Ok(byte) = socket.read_u8().await else { return };
                heard.push(byte);
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
            let _ = socket.write_all(head.as_bytes()).await;
            let piece = vec![b'x'; 64 << 10];
            while socket.write_all(&piece).await.is_ok() {
                count.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
            }
        }
    })
    .await;
    let stage = Stage::with(Upstream::answering(OK).await, |file| {
        file.worker("routes = [\"shop.example/honest\"]").end(&format!(
            "[[worker]]\nname = \"large\"\n[[worker.version]]\nid = \"w1\"\nupstreams = [\"{}\"]\n[worker.deployment]\n\
             versions = [{{ version_id = \"w1\", percentage = 100 }}]",
            backend.url()
        ))
    })
    .await;
    for way in HTTP2 {
        let before = written.load(std::sync::atomic::Ordering::SeqCst);
        let mut frames = stage.http2(way).await;
        // SETTINGS_INITIAL_WINDOW_SIZE of nothing.
        frames.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        for number in 0..STREAMS {
            frames.get(number * 2 + 1, "/large");
        }
        frames.flush().await;
        assert_eq!(frames.outcome(1).await, Outcome::Status(200), "{way:?}");
        let mut last = usize::MAX;
        loop {
            let now = written.load(std::sync::atomic::Ordering::SeqCst);
            if now == last {
                break;
            }
            last = now;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The kernel's buffers on the way take some megabytes; nothing takes all of it.
        assert!(last - before < SIZE * STREAMS as usize / 2, "{way:?}: {} MiB", (last - before) >> 20);
        stage.serves_neighbours().await;
    }
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_ended_on_both_sides() {
    let large = [b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n", &vec![b'x'; 64 << 20][..]].concat();
    let stage = Stage::with(Upstream::start(large, When::Whole).await, |file| {
        file.top("[limits]\nbody_idle_timeout = \"300ms\"\nmin_rate = 0")
    })
    .await;
    for (count, way) in [Way::Http1, Way::Tls, Way::Prior].into_iter().enumerate() {
        let mut held = None;
        if way == Way::Http1 {
            let mut pipe = stage.pipe(way).await;
            pipe.write_all(&request("GET /large", "", "")).await.unwrap();
            held = Some(pipe);
        } else {
            let mut frames = stage.http2(way).await;
            // SETTINGS_INITIAL_WINDOW_SIZE of nothing.
            frames.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
            frames.get(1, "/large");
            frames.flush().await;
            assert_eq!(frames.outcome(1).await, Outcome::Status(200), "{way:?}");
            let over = || frames.count(RST_STREAM) + frames.count(GOAWAY) > 0 || frames.is_closed();
            eventually(&format!("{way:?}: the client is told"), over).await;
            assert_eq!(frames.body(1), (Vec::new(), false), "{way:?}");
        }
        eventually(&format!("{way:?}: the upstream is hung up on"), || stage.upstream.ended() == count + 1)
            .await;
        drop(held);
    }
    assert!(stage.upstream.requests().iter().all(|heard| heard.line == "GET /large HTTP/1.1"));
}

#[tokio::test]
async fn clients_that_are_silent_stop_halfway_or_drip_are_ended_at_their_deadline() {
    let brief =
        "[limits]\ndetection_timeout = \"200ms\"\nheader_timeout = \"200ms\"\nkeep_alive_timeout = \"200ms\"";
    let stage = Stage::with(Upstream::answering(OK).await, |file| file.top(brief)).await;
    let mut trial = Trial::default();
    for (name, begun, status) in [
        ("silent", &b""[..], None),
        ("half a preface", b"PRI * HTTP/2.0\r\n\r\nS", None),
        ("half a request line", b"GET /", Some(408)),
        ("half a head", b"GET / HTTP/1.1\r\nHost: shop.exam", Some(408)),
        ("half a frame", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", None),
    ] {
        let pipe = stage.pipe(Way::Http1).await;
        let said = exchange(pipe, begun.to_vec()).await;
        let judged = match status {
            Some(status) => said.and_then(|said| refusal(&[status], &said)),
            None => said.map(drop),
        };
        trial.note(name, judged);
    }
    // Behind a TLS handshake the same. Where the handshake itself does not come is among the bounds' own tests.
    for (name, begun) in [
        ("silent", &b""[..]),
        ("half a preface", b"PRI * HTTP/2.0\r\n\r\nS"),
        ("half a frame", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04"),
    ] {
        let said = exchange(stage.pipe(Way::Tls).await, begun.to_vec()).await;
        trial.note(&format!("over TLS, {name}"), said.map(drop));
    }
    for way in HTTP2 {
        // Nothing behind the greetings; a head that never ends.
        for begun in [&b""[..], &[0, 0, 1, HEADERS, 0, 0, 0, 0, 1, 0x82]] {
            let mut frames = stage.http2(way).await;
            frames.bytes(begun);
            frames.flush().await;
            eventually(&format!("{way:?} {begun:?} is ended"), || frames.is_closed()).await;
        }
    }
    trial.note("the upstream", stage.heard_nothing_but_honest(Reaches::Nothing).await);
    trial.end();
    // A byte now and then does not lengthen the time.
    let (mut read, mut write) = tokio::io::split(stage.pipe(Way::Http1).await);
    let dripping = tokio::spawn(async move {
        let head = b"GET / HTTP/1.1\r\nHost: shop.example\r\nX: ";
        for byte in head.iter().chain(std::iter::repeat(&b'y')) {
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut said = Vec::new();
    let _ = read.read_to_end(&mut said).await;
    dripping.abort();
    assert!(refusal(&[408], &said).is_ok(), "{:?}", String::from_utf8_lossy(&said));
    let (_, lines) = stage.records().await;
    let slow = lines
        .iter()
        .filter(|line| line["Error"] == "request-timeout" && line["Event"]["Response"]["Status"] == 408);
    assert_eq!(slow.count(), 3, "{lines:?}");
}
