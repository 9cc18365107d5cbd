//! Upstreams that send interim answers (1xx) without end: the deadline of the answer holds, nothing of them is kept, and
//! nobody else waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire::{END_HEADERS, HEADERS, PREFACE, SETTINGS, frame};
use super::with_limits;
use crate::support::wire::{block, frame_head};
use crate::support::{Backend, File, Proxy, backend, collect, empty, eventually, http2, proxy, raw_backend};

/// An upstream that says 103 to every request, again and again for as long as anybody listens.
struct Hinting {
    backend: Backend,
    scheme: &'static str,
    /// Bytes that were taken of it.
    sent: Arc<AtomicUsize>,
    /// Connections on which it hints.
    open: Arc<AtomicUsize>,
}

impl Hinting {
    async fn start(scheme: &'static str) -> Self {
        let (sent, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&sent), Arc::clone(&open));
        let backend = raw_backend(move |mut socket| {
            let (sent, open) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
            async move {
                let hint = if scheme == "h2c" { asked2(&mut socket).await } else { asked(&mut socket).await };
                let Some(hint) = hint else { return };
                open.fetch_add(1, Ordering::SeqCst);
                while socket.write_all(&hint).await.is_ok() {
                    sent.fetch_add(hint.len(), Ordering::SeqCst);
                }
                open.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .await;
        Self { backend, scheme, sent, open }
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst) > 0
    }

    /// A file with this upstream, a deadline for its answers, and another version that is well.
    fn file(&self, response: &str, well: &Backend) -> File {
        let worker = format!("timeouts = {{ response = \"{response}\" }}");
        let url = self.backend.url().replace("http:", &format!("{}:", self.scheme));
        with_limits("").worker(&worker).version_at("v1", &[&url], 100).version("v2", well, 0)
    }
}

/// A hint of some size.
fn link() -> String {
    format!("</{}>; rel=preload", "a".repeat(4000))
}

/// Waits for a request; a hint for it.
async fn asked(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    Some(format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", link()).into_bytes())
}

/// The same over HTTP/2.
async fn asked2(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut preface = vec![0; PREFACE.len()];
    socket.read_exact(&mut preface).await.ok()?;
    socket.write_all(&frame(SETTINGS, 0, 0, &[])).await.ok()?;
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.ok()?;
        let (length, kind, _, stream) = frame_head(head);
        socket.read_exact(&mut vec![0; length]).await.ok()?;
        if kind == HEADERS {
            let hint = block(&[(":status", "103"), ("link", &link())]);
            return Some(frame(HEADERS, END_HEADERS, stream, &hint));
        }
    }
}

const SCHEMES: [&str; 2] = ["http", "h2c"];
const GET: &str = "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";

async fn neighbours_are_served(proxy: &Proxy) {
    for _ in 0..5 {
        let line = "Cloudflare-Workers-Version-Overrides: shop=\"v2\"";
        assert_eq!(proxy.get_with("/", &[line]).await.text(), "well");
    }
}

#[tokio::test]
async fn the_deadline_of_the_answer_ends_them() {
    let well = backend("well").start().await;
    for scheme in SCHEMES {
        let hinting = Hinting::start(scheme).await;
        let proxy = proxy(&hinting.file("200ms", &well)).await;
        let late = (504, "response-timeout".to_owned());
        assert_eq!(proxy.send(GET).await.failure(), late, "{scheme}");
        let mut client = http2(proxy.pipe().await).await;
        let request = Request::get("http://shop.example/").body(empty()).unwrap();
        assert_eq!(collect(client.send_request(request).await.unwrap()).await.failure(), late, "{scheme}");
        assert!(hinting.sent() > 0);
        neighbours_are_served(&proxy).await;
        if scheme == "http" {
            eventually("it is hung up on", || !hinting.is_open()).await;
        }
    }
}

#[tokio::test]
async fn nobody_else_of_the_thread_waits_for_them() {
    let well = backend("well").start().await;
    for scheme in SCHEMES {
        let hinting = Hinting::start(scheme).await;
        let file = hinting.file("10m", &well).top("[server]\nthreads = 1");
        let proxy = proxy(&file).await;
        let mut waiting = proxy.connect().await;
        waiting.send(GET).await;
        eventually("it hints", || hinting.sent() > 1 << 20).await;
        let before = hinting.sent();
        neighbours_are_served(&proxy).await;
        eventually("it goes on", || hinting.sent() > before + (1 << 20)).await;
        drop(waiting);
        if scheme == "http" {
            eventually("it is hung up on when the client leaves", || !hinting.is_open()).await;
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_take_no_memory() {
    use std::io::Write;

    let well = backend("well").start().await;
    for scheme in SCHEMES {
        let hinting = Hinting::start(scheme).await;
        let folder = tempfile::tempdir().unwrap();
        let program = super::program::Program::start_with(folder, &hinting.file("10m", &well), 4096).await;
        let mut client = program.client();
        client.write_all(GET.as_bytes()).unwrap();
        eventually("it hints", || hinting.sent() > 8 << 20).await;
        let (before, sent) = (program.memory(), hinting.sent());
        eventually("it goes on", || hinting.sent() > sent + (48 << 20)).await;
        let grown = program.memory().saturating_sub(before);
        assert!(grown < 4 << 10, "{scheme}: {grown} KiB");
    }
}
