//! How much clients of HTTP/2 may send ahead, and how much may wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::AsyncWriteExt;

use super::limited;
use super::wire::{GOAWAY, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE, Wire, get};
use crate::support::{Backend, Connection, Proxy, backend, eventually, raw_backend};

/// The window that SETTINGS give to each stream, and what is added to that of the connection.
async fn granted(limits: &str) -> (u32, u32) {
    let v1 = backend("v1").start().await;
    let proxy = limited(limits, &v1).await;
    let mut wire = Wire::open(&proxy, 65_535).await;
    let (mut stream, mut connection) = (None, None);
    while stream.is_none() || connection.is_none() {
        let (kind, flags, of, payload) = wire.next().await.expect("the proxy greets");
        match (kind, of) {
            (SETTINGS, 0) if flags == 0 => {
                let setting = payload.chunks(6).find(|setting| setting[..2] == [0, 4]).expect("a window");
                stream = Some(number(&setting[2..]));
            }
            (WINDOW_UPDATE, 0) => connection = Some(number(&payload)),
            _ => {}
        }
    }
    (stream.unwrap(), connection.unwrap())
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

/// What the window of a connection is to begin with (RFC 9113 section 6.9.2).
const INITIAL: u32 = 65_535;

#[tokio::test]
async fn http2_stream_window_is_what_a_stream_may_be_sent_ahead() {
    for (limits, window) in [("", 256 << 10), ("http2_stream_window = \"100KiB\"", 100 << 10)] {
        assert_eq!(granted(limits).await, (window, (1 << 20) - INITIAL), "{limits}");
    }
}

#[tokio::test]
async fn http2_connection_window_is_what_all_streams_together_may_be_sent_ahead() {
    for (limits, window) in [("", 1 << 20), ("http2_connection_window = \"300KiB\"", 300 << 10)] {
        assert_eq!(granted(limits).await, (256 << 10, window - INITIAL), "{limits}");
    }
}

/// Answers, one after the other, of which the client takes a byte: to how many connections their upstream comes. One whose
/// answer was taken whole is used for the next.
async fn upstream_connections(send_buffer: &str) -> usize {
    let v1 = super::long(8 << 10).await;
    let proxy = limited(&format!("send_buffer = \"{send_buffer}\""), &v1).await;
    let mut wire = Wire::open(&proxy, 1).await;
    for stream in (1..=2 * ANSWERS).step_by(2) {
        wire.send(&get(stream)).await;
        loop {
            let (kind, _, of, _) = wire.next().await.expect("the connection goes on");
            assert!(kind != GOAWAY && kind != RST_STREAM, "{send_buffer}");
            if (kind, of) == (HEADERS, stream) {
                break;
            }
        }
    }
    v1.connections()
}

const ANSWERS: u32 = 60;

#[tokio::test]
async fn send_buffer_is_what_may_wait_for_one_client_over_all_its_streams() {
    let (little, much) = (upstream_connections("16KiB").await, upstream_connections("64MiB").await);
    // Beyond little, answers stay at their upstreams and hold their connections.
    assert!(little >= 50 && much <= 20, "{little} {much}");
}

/// Counts what an upstream gets rid of for a client that reads nothing, for as long as the rest is held.
async fn sending(limits: &str) -> (Arc<AtomicUsize>, (Backend, Proxy, Connection)) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let v1 = raw_backend(move |mut socket| {
        let sent = Arc::clone(&counted);
        async move {
            SockRef::from(&socket).set_send_buffer_size(4 << 10).unwrap();
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
            socket.write_all(head).await.unwrap();
            while let Ok(count) = socket.write(&[b'x'; 4 << 10]).await {
                sent.fetch_add(count, Ordering::SeqCst);
            }
        }
    })
    .await;
    let proxy = limited(limits, &v1).await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    (sent, (v1, proxy, client))
}

#[tokio::test]
async fn kernel_buffer_is_what_the_kernel_keeps_for_each_side() {
    // What the program holds itself, and little more. Without a bound it was 6.7 MB.
    let bound = 400 << 10;
    let (bounded, _held) = sending("kernel_buffer = \"8KiB\"").await;
    eventually("something is sent", || bounded.load(Ordering::SeqCst) > 0).await;
    let (mut before, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = bounded.load(Ordering::SeqCst);
        if now > before {
            (before, since) = (now, Instant::now());
        }
        assert!(now <= bound, "{now}");
    }
}
