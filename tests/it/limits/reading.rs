//! How slowly clients may read.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::wire::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, WINDOW_UPDATE, Wire, block, frame, get,
};
use super::{is_met, limited, long, met};
use crate::support::{Backend, Connection, Proxy, backend, soon};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
/// More than the kernel takes of a client that does not read.
const LONG: usize = 64 << 20;

/// A client for which the kernel keeps little.
async fn asking(proxy: &Proxy) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut client = soon("a connection", socket.connect(proxy.authority().parse().unwrap())).await.unwrap();
    client.write_all(GET).await.unwrap();
    client
}

async fn slow_readers(limits: &str) -> (Backend, Proxy) {
    let v1 = long(LONG).await;
    let proxy = limited(limits, &v1).await;
    (v1, proxy)
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_at_the_body_idle_timeout() {
    let (_v1, proxy) = slow_readers("body_idle_timeout = \"200ms\"\nmin_rate = 0").await;
    let client = asking(&proxy).await;
    is_met(&proxy, "body_idle_timeout", 1).await;
    let answer = Connection::new(Box::new(client)).answer().await;
    assert!(!answer.whole && answer.body.len() < LONG);
}

#[tokio::test]
async fn a_client_that_reads_more_slowly_than_the_minimum_is_cut() {
    let (_v1, proxy) = slow_readers("min_rate = 1000000\nmin_rate_grace = \"200ms\"").await;
    let mut client = asking(&proxy).await;
    let (mut total, mut rest) = (0, Vec::new());
    let reading = async {
        while met(&proxy, "min_rate") == 0 {
            total += client.read(&mut [0; 1000]).await.unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("it is cut", reading).await;
    // What the kernel has of it may still be read, and then it is over; a reset is an end, too.
    let _ = soon("the end", client.read_to_end(&mut rest)).await;
    assert!(total + rest.len() < LONG, "{total} and {}", rest.len());
    is_met(&proxy, "min_rate", 1).await;
}

#[tokio::test]
async fn a_client_of_http_2_that_reads_nothing_is_cut() {
    let (_v1, proxy) = slow_readers("min_rate = 1000000\nmin_rate_grace = \"200ms\"").await;
    // One that lets its streams be sent nothing, and one that does not read what it lets them be sent.
    for (window, met) in [(0, 1), (1 << 30, 2)] {
        let mut wire = Wire::open(&proxy, window).await;
        wire.send(&[get(1), get(3), get(5)].concat()).await;
        is_met(&proxy, "min_rate", met).await;
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_enough_gets_all() {
    let v1 = long(1 << 20).await;
    let proxy = limited("min_rate = 1000\nmin_rate_grace = \"200ms\"", &v1).await;
    let mut client = asking(&proxy).await;
    let (mut total, mut buffer) = (0, vec![0; 16 << 10]);
    while let Ok(count @ 1..) = client.read(&mut buffer).await {
        total += count;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(total > 1 << 20, "{total}");
    assert_eq!(met(&proxy, "min_rate"), 0);
}

#[tokio::test]
async fn an_answer_that_the_upstream_sends_slowly_is_not_the_clients_fault() {
    let (feed, stream) = crate::support::frames();
    let stream = std::sync::Mutex::new(Some(stream));
    let v1 = backend("v1")
        .answering(move |_| {
            let body = stream.lock().unwrap().take().unwrap();
            async move { http::Response::new(body) }
        })
        .start()
        .await;
    let proxy =
        limited("min_rate = 1000000\nmin_rate_grace = \"50ms\"\nbody_idle_timeout = \"100ms\"", &v1).await;
    let client = asking(&proxy).await;
    let feeding = tokio::spawn(async move {
        for _ in 0..20 {
            feed.send(Ok(http_body::Frame::data("x".into()))).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    let answer = Connection::new(Box::new(client)).answer().await;
    assert!(answer.whole && answer.body.len() == 20, "{answer:?}");
    feeding.await.unwrap();
}

#[tokio::test]
async fn streams_of_http_2_that_are_not_read_hold_up_no_others() {
    let v1 = backend("v1")
        .answering(|request: http::Request<_>| async move {
            let length = if request.method() == "POST" { 1 << 20 } else { 60_000 };
            http::Response::new(crate::support::body(vec![b'x'; length]))
        })
        .start()
        .await;
    let proxy = limited("", &v1).await;
    let mut wire = Wire::open(&proxy, 65_535).await;
    // The connection itself may be sent any amount; its first streams only what they may at the beginning.
    wire.send(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes())).await;
    let (mut whole, mut came) = (0, [0; 16]);
    for stream in 0..8 {
        wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream * 2 + 1, &block("POST"))).await;
    }
    while came.iter().sum::<usize>() < 8 * 65_535 {
        let (kind, _, stream, payload) = wire.next().await.unwrap();
        if kind == DATA {
            came[usize::try_from(stream).unwrap()] += payload.len();
        }
    }
    wire.send(&get(17)).await;
    loop {
        let (kind, flags, stream, payload) = wire.next().await.expect("the connection goes on");
        if (kind, stream) == (DATA, 17) {
            whole += payload.len();
            if flags & END_STREAM != 0 {
                break;
            }
        }
    }
    assert_eq!(whole, 60_000);
}

/// A backend that leaves a POST without an answer, answers a PUT with a byte now and then, and others with so much.
async fn mixed(length: usize) -> Backend {
    let answer = move |request: http::Request<_>| async move {
        if request.method() == "POST" {
            std::future::pending::<()>().await;
        }
        if request.method() != "PUT" {
            return http::Response::new(crate::support::body(vec![b'x'; length]));
        }
        let (feed, stream) = crate::support::frames();
        tokio::spawn(async move {
            while feed.send(Ok(http_body::Frame::data("x".into()))).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        http::Response::new(stream)
    };
    backend("v1").answering(answer).start().await
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_reset_and_others_of_its_connection_live_on() {
    // What the window has no room for may be much, the end of a body, or all of it.
    for (window, length) in [(65_535, 1 << 20), (1000, 2000), (0, 10)] {
        for other in ["POST", "PUT"] {
            let v1 = mixed(length).await;
            let proxy = limited("body_idle_timeout = \"300ms\"\nmin_rate = 0", &v1).await;
            let mut wire = Wire::open(&proxy, window).await;
            wire.send(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes())).await;
            wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(other))).await;
            wire.send(&frame(WINDOW_UPDATE, 0, 1, &(1_u32 << 20).to_be_bytes())).await;
            wire.send(&get(3)).await;
            loop {
                let (kind, flags, stream, _) = wire.next().await.expect("the connection goes on");
                let is_end = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
                assert!(kind != GOAWAY && !is_end, "{other} {window}");
                if kind == RST_STREAM {
                    assert_eq!(stream, 3);
                    break;
                }
            }
            is_met(&proxy, "body_idle_timeout", 1).await;
            wire.send(&get(5)).await;
            wire.send(&frame(WINDOW_UPDATE, 0, 5, &(1_u32 << 20).to_be_bytes())).await;
            let mut came = 0;
            while came < length {
                let (kind, _, stream, payload) = wire.next().await.expect("the connection goes on");
                assert!(kind != GOAWAY && kind != RST_STREAM, "{other} {window}");
                came += if (kind, stream) == (DATA, 5) { payload.len() } else { 0 };
            }
        }
    }
}

/// A client of HTTP/2 that asks for so many long responses, and pauses each of them after a thousand bytes.
async fn pausing(proxy: &Proxy, streams: u32) -> Wire {
    let mut wire = Wire::open(proxy, 1000).await;
    wire.send(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes())).await;
    for stream in 0..streams {
        wire.send(&get(stream * 2 + 1)).await;
    }
    wire
}

#[tokio::test]
async fn beyond_its_share_a_client_loses_streams_and_within_it_those_that_it_pauses_stay() {
    let v1 = long(256 << 10).await;
    let proxy = limited("send_buffer_grace = \"200ms\"", &v1).await;
    let mut within = pausing(&proxy, 3).await;
    let mut paused = 0;
    while paused < 3 * 1000 {
        let (kind, _, _, payload) = within.next().await.expect("the connection goes on");
        paused += if kind == DATA { payload.len() } else { 0 };
    }
    // Of twelve that wait, at most seven are within the share, however little they hold; so the grace has passed, too, for
    // the client that began before.
    let mut beyond = pausing(&proxy, 12).await;
    let mut reset = 0;
    while reset < 5 {
        let (kind, ..) = beyond.next().await.expect("the connection goes on");
        assert_ne!(kind, GOAWAY);
        reset += usize::from(kind == RST_STREAM);
    }
    assert!(met(&proxy, "send_buffer") >= 5);
    assert_eq!(take_whole(&mut beyond, &[25], true).await, 256 << 10);
    assert_eq!(take_whole(&mut within, &[1, 3, 5], false).await, 3 * (256 << 10) - paused);
}

/// Reads what is left of streams that have no room any more, or that begin now; how much it was. None of them is reset.
async fn take_whole(wire: &mut Wire, streams: &[u32], begin: bool) -> usize {
    for &stream in streams {
        if begin {
            wire.send(&get(stream)).await;
        }
        wire.send(&frame(WINDOW_UPDATE, 0, stream, &(1_u32 << 20).to_be_bytes())).await;
    }
    let (mut came, mut ended) = (0, 0);
    while ended < streams.len() {
        let (kind, flags, stream, payload) = wire.next().await.expect("the connection goes on");
        assert!(kind != GOAWAY && (kind != RST_STREAM || !streams.contains(&stream)));
        if kind == DATA && streams.contains(&stream) {
            came += payload.len();
            ended += usize::from(flags & END_STREAM != 0);
        }
    }
    came
}
