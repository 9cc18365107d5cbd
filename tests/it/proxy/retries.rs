//! Requests that are sent once more, and those that never are; kept connections that upstreams close.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use gradual::proxy::Timing;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::kit::{
    ANY, Answer, Backend, Counts, Proxy, Speaks, ask1, exchange, file, get, get1, http1, listen, run, says,
    upstreams, whole,
};

/// The heads that an upstream has read, in order.
type Heads = Arc<Mutex<Vec<String>>>;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Reads a head; empty where the connection ends before.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return String::new(),
        }
    }
    String::from_utf8(head).unwrap()
}

/// Ends a connection so that the other side is told at once that it is broken.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

async fn through(upstream: &Backend) -> (Proxy, Counts) {
    Proxy::start_with(Timing::default(), 1, &file(ANY, "", &upstream.upstream("http"))).await
}

/// An upstream that answers the first request of its first connection, and ends that connection in some way when the
/// second is there; all other connections are answered.
async fn closing_under_the_second(how: &'static str) -> (Backend, Heads) {
    let heads = Heads::default();
    let (seen, connections) = (Arc::clone(&heads), Arc::new(AtomicUsize::new(0)));
    let upstream = listen(move |mut stream| {
        let (seen, connections) = (Arc::clone(&seen), Arc::clone(&connections));
        async move {
            let is_first = connections.fetch_add(1, Ordering::SeqCst) == 0;
            for count in 0.. {
                if is_first && count == 1 && how.starts_with("unread") {
                    assert_eq!(stream.peek(&mut [0]).await.unwrap(), 1);
                } else {
                    let head = head(&mut stream).await;
                    if head.is_empty() {
                        return;
                    }
                    seen.lock().unwrap().push(head);
                }
                if is_first && count == 1 {
                    if how.ends_with("reset") {
                        reset(stream);
                    }
                    return;
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    (upstream, heads)
}

const WAYS: [&str; 4] = ["read, closed", "read, reset", "unread, closed", "unread, reset"];

#[test]
fn a_get_on_a_kept_connection_that_the_upstream_closes_under_it_is_answered_on_a_new_one() {
    run(async {
        for how in WAYS {
            let (upstream, heads) = closing_under_the_second(how).await;
            let (proxy, counts) = through(&upstream).await;
            let (mut client, _) = http1(proxy.connect().await).await;
            assert_eq!(ask1(&mut client, get1("/first")).await.text, "ok");
            let mut request = get1("/again?a=%2F&b=\u{e9}");
            for value in ["one", "two", ""] {
                request.headers_mut().append("x-some", value.parse().unwrap());
            }
            let answer = ask1(&mut client, request).await;
            assert_eq!((answer.status.as_u16(), &*answer.text), (200, "ok"), "{how}: {answer:?}");
            let again: Vec<_> =
                heads.lock().unwrap().iter().filter(|h| h.contains("/again")).cloned().collect();
            assert!(again.iter().all(|head| *head == again[0]), "{how}: not the same: {again:?}");
            assert!(again[0].contains("x-some: one\r\nx-some: two\r\nx-some: \r\n"), "{again:?}");
            let retried = counts
                .of("gradual_upstream_retries_total{worker=\"shop\",version=\"v1\",result=\"success\"}");
            assert_eq!(retried, 1, "{how}");
        }
    });
}

#[test]
fn a_post_on_a_kept_connection_that_the_upstream_closes_under_it_is_not_sent_again() {
    run(async {
        for how in WAYS {
            for body in ["", "body"] {
                let (upstream, heads) = closing_under_the_second(how).await;
                let (proxy, _) = through(&upstream).await;
                let (mut client, _) = http1(proxy.connect().await).await;
                assert_eq!(ask1(&mut client, get1("/first")).await.text, "ok");
                let mut post = get1("/again").map(|_| whole(body));
                *post.method_mut() = http::Method::POST;
                let answer = ask1(&mut client, post).await;
                assert_eq!(answer.error(), Some("upstream-closed"), "{how}: {answer:?}");
                let again = heads.lock().unwrap().iter().filter(|head| head.contains("/again")).count();
                assert!(again <= 1 && upstream.connections() == 1, "{how}: {again}");
            }
        }
    });
}

/// An upstream that closes its connections on its own, when it has answered.
async fn closing_after(mode: usize) -> Backend {
    listen(move |mut stream| async move {
        for count in 1.. {
            if head(&mut stream).await.is_empty() {
                return;
            }
            let said = if mode == 1 {
                &b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"[..]
            } else {
                OK
            };
            if stream.write_all(said).await.is_err() {
                return;
            }
            match mode {
                // After each answer, said so or not; after some; at once or a moment later; in order or not.
                0 | 1 => return,
                2 if count == 3 => return,
                3 => {
                    tokio::time::sleep(std::time::Duration::from_micros(fastrand::u64(0..2000))).await;
                    return;
                }
                4 => return reset(stream),
                5 if fastrand::bool() => return reset(stream),
                _ => {}
            }
        }
    })
    .await
}

#[test]
fn no_get_is_lost_to_an_upstream_that_closes_idle_connections() {
    run(async {
        let mut all = JoinSet::new();
        for (mode, upstreams_of_version) in (0..6).flat_map(|mode| [(mode, 1), (mode, 2)]) {
            all.spawn(async move {
                let both = [closing_after(mode).await, closing_after(mode).await];
                let addresses: Vec<_> =
                    both.iter().map(|one| one.address).take(upstreams_of_version).collect();
                let proxy = Proxy::start(&file(ANY, "", &upstreams("http", &addresses))).await;
                let mut clients = JoinSet::new();
                for _ in 0..4 {
                    let stream = proxy.connect().await;
                    clients.spawn(async move {
                        let (mut client, _) = http1(stream).await;
                        for count in 0..100 {
                            let answer = ask1(&mut client, get1("/")).await;
                            assert_eq!(answer.status, 200, "mode {mode}, request {count}: {answer:?}");
                            if count % 8 == 0 {
                                tokio::time::sleep(std::time::Duration::from_micros(fastrand::u64(0..2000)))
                                    .await;
                            }
                        }
                    });
                }
                clients.join_all().await;
            });
        }
        all.join_all().await;
    });
}

#[test]
fn a_post_finds_out_before_it_is_sent_that_its_kept_connection_was_closed() {
    run(async {
        let upstream = closing_after(0).await;
        let (proxy, _) = through(&upstream).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        for _ in 0..30 {
            let mut post = get1("/").map(|_| whole("body"));
            *post.method_mut() = http::Method::POST;
            assert_eq!(ask1(&mut client, post).await.status, 200);
            // The end is here by now, though the runtime may not have heard of it.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    });
}

#[test]
fn a_get_that_a_new_connection_is_closed_under_goes_to_another_endpoint_once() {
    run(async {
        let heads = Heads::default();
        let seen = Arc::clone(&heads);
        let bad = listen(move |mut stream| {
            let seen = Arc::clone(&seen);
            async move {
                let head = head(&mut stream).await;
                seen.lock().unwrap().push(head);
            }
        })
        .await;
        let good =
            says(Speaks::Http1, |request| request.headers()["host"].to_str().unwrap().to_owned()).await;
        let both = upstreams("http", &[bad.address, good.address]);
        let proxy = Proxy::start(&file(ANY, "", &both)).await;
        let mut lost = 0;
        for _ in 0..40 {
            assert_eq!(get(proxy.address(), "/").await.text, "example.com");
            let post = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            lost += usize::from(exchange(proxy.address(), post.as_bytes()).await.contains("upstream-closed"));
        }
        let posts = heads.lock().unwrap().iter().filter(|head| head.starts_with("POST")).count();
        assert_eq!(posts, lost);
        assert!(heads.lock().unwrap().len() <= 5, "it is ejected");
    });
}

/// An upstream whose process is killed under the first `/last` that it reads: its connections end before its listener does,
/// so that those that come then are made, and reset.
async fn killed_under_the_last() -> (Backend, Heads) {
    let (heads, killed) = (Heads::default(), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&heads);
    let upstream = listen(move |mut stream| {
        let (seen, killed) = (Arc::clone(&seen), Arc::clone(&killed));
        async move {
            if killed.load(Ordering::SeqCst) {
                return reset(stream);
            }
            loop {
                let head = head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                let is_last = head.starts_with("GET /last");
                seen.lock().unwrap().push(head);
                if is_last {
                    return killed.store(true, Ordering::SeqCst);
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    (upstream, heads)
}

#[test]
fn a_get_on_a_kept_connection_of_an_upstream_that_is_killed_is_answered_by_another() {
    run(async {
        let (dying, heads) = killed_under_the_last().await;
        let well = says(Speaks::Http1, |_| "ok".to_owned()).await;
        let both = upstreams("http", &[dying.address, well.address]);
        let proxy = Proxy::start(&file(ANY, "", &both)).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        while heads.lock().unwrap().is_empty() {
            assert_eq!(ask1(&mut client, get1("/first")).await.text, "ok");
        }
        let reads_last = || heads.lock().unwrap().iter().any(|head| head.starts_with("GET /last"));
        while !reads_last() {
            let answer = ask1(&mut client, get1("/last")).await;
            assert_eq!((answer.status.as_u16(), &*answer.text), (200, "ok"), "{answer:?}");
        }
    });
}

#[test]
fn a_request_that_finds_nobody_listening_goes_to_another_endpoint_whatever_its_method() {
    run(async {
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let good = says(Speaks::Http1, |_| "here".to_owned()).await;
        let proxy = Proxy::start(&file(ANY, "", &upstreams("http", &[dead, good.address]))).await;
        for _ in 0..40 {
            let (mut client, _) = http1(proxy.connect().await).await;
            let mut post = get1("/").map(|_| whole("body"));
            *post.method_mut() = http::Method::POST;
            assert_eq!(ask1(&mut client, post).await.text, "here");
        }
    });
}

#[test]
fn a_late_answer_is_not_asked_for_again() {
    run(async {
        let heads = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&heads);
        let upstream = listen(move |mut stream| {
            let seen = Arc::clone(&seen);
            async move {
                while !head(&mut stream).await.is_empty() {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
        .await;
        let worker = r#"timeouts = { response = "50ms" }"#;
        let proxy = Proxy::start(&file(ANY, worker, &upstream.upstream("http"))).await;
        assert_eq!(get(proxy.address(), "/").await.error(), Some("response-timeout"));
        assert_eq!(heads.load(Ordering::SeqCst), 1);
    });
}

/// What an HTTP/2 upstream does with the first stream of all; it answers all others.
#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    Refuse,
    Reset,
    GoAway,
    Close,
}

async fn http2_upstream(first: First) -> (Backend, Heads) {
    let heads = Heads::default();
    let seen = Arc::clone(&heads);
    let upstream = listen(move |stream| {
        let seen = Arc::clone(&seen);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let is_first = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(format!("{} {} {:?}", request.method(), request.uri(), request.headers()));
                    seen.len() == 1
                };
                match first {
                    First::Refuse if is_first => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    First::Reset if is_first => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                    First::GoAway if is_first => {
                        connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                        std::mem::forget(respond);
                    }
                    First::Close if is_first => return,
                    _ => {
                        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                        body.send_data("ok".into(), true).unwrap();
                    }
                }
            }
        }
    })
    .await;
    (upstream, heads)
}

#[test]
fn over_http_2_what_the_upstream_refused_is_sent_again_and_what_it_may_have_seen_only_if_idempotent() {
    run(async {
        for first in [First::Refuse, First::Reset, First::GoAway, First::Close] {
            for method in [http::Method::GET, http::Method::POST] {
                let (upstream, heads) = http2_upstream(first).await;
                let proxy = Proxy::start(&file(ANY, "", &upstream.upstream("h2c"))).await;
                let (mut client, _) = http1(proxy.connect().await).await;
                let mut request = get1("/a?b=c").map(|_| whole(""));
                *request.method_mut() = method.clone();
                let answer = ask1(&mut client, request).await;
                let again = first == First::Refuse || method == http::Method::GET;
                assert_eq!(answer.status == 200, again, "{first:?} {method}: {answer:?}");
                let heads = heads.lock().unwrap();
                assert_eq!(heads.len(), if again { 2 } else { 1 }, "{first:?} {method}");
                assert!(heads.iter().all(|head| *head == heads[0]), "{first:?}: {heads:?}");
            }
        }
    });
}

#[test]
fn what_an_http_2_endpoint_refused_goes_to_one_of_http_1_with_its_host() {
    run(async {
        let (refuses, heads) = http2_upstream(First::Refuse).await;
        let answers = says(Speaks::Http1, |request| format!("{:?}", request.headers().get("host"))).await;
        let both = format!("upstreams = [\"h2c://{}\", \"http://{}\"]", refuses.address, answers.address);
        let proxy = Proxy::start(&file(ANY, "", &both)).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        while heads.lock().unwrap().is_empty() {
            assert_eq!(ask1(&mut client, get1("/")).await.text, "Some(\"example.com\")");
        }
    });
}

/// What an upstream does with a connection's next request.
#[derive(Clone, Copy, Debug)]
struct Act {
    /// How much of the head it reads: nothing, a part, or all.
    reads: u8,
    /// Answers, closes, resets, or says a part of an answer and closes.
    does: u8,
}

/// An upstream that acts one after the other, and answers when it has no more acts; counts how often it saw each request.
async fn acting(acts: Vec<Act>) -> (Backend, Arc<Mutex<HashMap<String, usize>>>) {
    let seen = Arc::new(Mutex::new(HashMap::new()));
    let (counts, acts) = (Arc::clone(&seen), Arc::new(Mutex::new(acts)));
    let upstream = listen(move |mut stream| {
        let (counts, acts) = (Arc::clone(&counts), Arc::clone(&acts));
        async move {
            loop {
                if stream.peek(&mut [0]).await.unwrap_or(0) == 0 {
                    return;
                }
                let act = acts.lock().unwrap().pop().unwrap_or(Act { reads: 2, does: 0 });
                // The request's line is `METHOD /0000 …`: enough of it to know which.
                let mut line = [0; 10];
                if act.reads > 0 {
                    if stream.read_exact(&mut line).await.is_err() {
                        return;
                    }
                    let line = String::from_utf8(line.to_vec()).unwrap();
                    *counts.lock().unwrap().entry(line).or_insert(0) += 1;
                }
                if act.reads > 1 {
                    let head = head(&mut stream).await;
                    let body = usize::from(head.contains("content-length: 4")) * 4;
                    if head.is_empty() || stream.read_exact(&mut vec![0; body]).await.is_err() {
                        return;
                    }
                }
                match act.does {
                    0 if act.reads > 1 => stream.write_all(OK).await.unwrap(),
                    1 => return reset(stream),
                    2 => {
                        let _ = stream.write_all(b"HTTP/1.1 2").await;
                        return;
                    }
                    _ => return,
                }
            }
        }
    })
    .await;
    (upstream, seen)
}

/// Sends so many requests of both kinds, and checks what became of them.
async fn try_acts(acts: Vec<Act>) {
    let (first, seen_by_first) = acting(acts.clone()).await;
    let (second, seen_by_second) = acting(acts).await;
    let both = upstreams("http", &[first.address, second.address]);
    let proxy = Proxy::start(&file(ANY, "", &both)).await;
    let (mut client, _) = http1(proxy.connect().await).await;
    for count in 0..12 {
        let post = count % 2 == 0;
        // Of the same length, so that both fill what the upstream reads.
        let mut request = get1(&format!("/{count:0width$}", width = if post { 4 } else { 5 }));
        if post {
            *request.method_mut() = http::Method::POST;
            *request.body_mut() = whole(if count % 4 == 0 { "" } else { "body" });
        }
        let answer: Answer = ask1(&mut client, request).await;
        assert!(matches!(answer.status.as_u16(), 200 | 502), "{answer:?}");
    }
    let mut all = seen_by_first.lock().unwrap().clone();
    for (line, count) in &*seen_by_second.lock().unwrap() {
        *all.entry(line.clone()).or_insert(0) += count;
    }
    for (line, count) in all {
        assert!(count <= if line.starts_with("POST") { 1 } else { 2 }, "{line:?} was seen {count} times");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_upstreams_do_none_sees_a_post_twice_and_no_get_more_than_twice(
        acts in proptest::collection::vec((0..3u8, 0..4u8).prop_map(|(reads, does)| Act { reads, does }), 0..12),
    ) {
        run(try_acts(acts));
    }
}
