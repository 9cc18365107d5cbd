//! Whatever bytes a client sends on a connection: the proxy answers with well-formed responses, its upstream gets
//! well-formed requests that nobody can misunderstand, nothing panics, and the connection ends when the client leaves.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gradual::config::AccessTarget;
use gradual::export::access::AccessLog;
use gradual::metrics::Registry;
use gradual::proxy::Services;
use gradual::proxy::fuzzing::Here;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::runtime::LocalRuntime;

use super::strict::{Framing, Message};
use super::upstream::{self, Activity};

/// What overrides must show.
pub const SECRET: &str = "0123456789abcdef";
/// The most bytes that are sent: longer inputs find nothing else.
const MOST: usize = 32 << 10;
/// After so many looks at which nothing had happened, nothing will.
const QUIET: u32 = 24;
/// Far longer than it takes until a connection without client has ended.
const PATIENCE: Duration = Duration::from_secs(10);

thread_local! {
    static PLANE: RefCell<Option<Plane>> = const { RefCell::new(None) };
}

/// The input's first byte says which listener is asked and in which pieces the others are sent.
pub fn run(input: &[u8]) {
    let Some((&way, bytes)) = input.split_first() else { return };
    PLANE.with_borrow_mut(|plane| {
        let plane = plane.get_or_insert_with(Plane::start);
        let bytes = &bytes[..bytes.len().min(MOST)];
        let pieces = [MOST, 1, 7, 100][usize::from(way / 4 % 4)];
        let listener = usize::from(way % 4).min(plane.listeners.len() - 1);
        let answer = plane.runtime.block_on(plane.converse(&plane.listeners[listener], bytes, pieces));
        check(&answer);
    });
}

/// A proxy and its upstream, on this thread.
struct Plane {
    runtime: LocalRuntime,
    here: Here,
    activity: Activity,
    listeners: Vec<PathBuf>,
    _folder: TempDir,
}

impl Plane {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        let (runtime, folder) = (runtime.unwrap(), tempfile::tempdir().unwrap());
        let activity = Rc::new(Cell::new(0));
        let listeners = ["plain", "trusting", "proxied"].map(|name| folder.path().join(name)).to_vec();
        std::fs::write(folder.path().join("secret"), SECRET).unwrap();
        let here = runtime.block_on(async {
            upstream::listen(&folder.path().join("upstream"), &activity).unwrap();
            serve(folder.path()).await
        });
        Self { runtime, here, activity, listeners, _folder: folder }
    }

    /// What comes back when these bytes are sent, the client waits until nothing happens any more, and leaves.
    async fn converse(&self, listener: &Path, bytes: &[u8], pieces: usize) -> Vec<u8> {
        let client = UnixStream::connect(listener).await.unwrap();
        let mut answer = Vec::new();
        let mut open = true;
        for piece in bytes.chunks(pieces) {
            open = open && self.send(&client, piece, &mut answer).await;
        }
        if open {
            self.settle(&client, &mut answer, QUIET).await;
        }
        let left =
            client.into_std().and_then(|client| client.shutdown(std::net::Shutdown::Write).map(|()| client));
        let Ok(client) = left.and_then(UnixStream::from_std) else { return answer };
        let end = async {
            while !read(&client, &mut answer) {
                client.readable().await.unwrap();
            }
            drop(client);
            while self.here.load().connections > 0 || self.here.load().requests > 0 {
                tokio::task::yield_now().await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, end).await;
        assert!(ended.is_ok(), "the connection does not end: {:?}", self.here.load());
        answer
    }

    /// Whether the connection is still open after a piece.
    async fn send(&self, client: &UnixStream, mut piece: &[u8], answer: &mut Vec<u8>) -> bool {
        while !piece.is_empty() {
            match client.try_write(piece) {
                Ok(sent) => piece = &piece[sent..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if !self.settle(client, answer, QUIET).await {
                        return false;
                    }
                    // Where the other side takes nothing for so long, it waits for something else than this.
                    match client.try_write(piece) {
                        Ok(sent) => piece = &piece[sent..],
                        Err(_) => return true,
                    }
                }
                Err(_) => return false,
            }
        }
        self.settle(client, answer, 2).await
    }

    /// Reads until nothing has happened at so many looks. Whether the connection is still open.
    async fn settle(&self, client: &UnixStream, answer: &mut Vec<u8>, looks: u32) -> bool {
        let (mut quiet, mut before) = (0, None);
        while quiet < looks {
            tokio::task::yield_now().await;
            if read(client, answer) {
                return false;
            }
            let load = self.here.load();
            let now = Some((answer.len(), self.activity.get(), load.connections, load.requests));
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
        true
    }
}

/// Reads what is there; whether the connection has ended.
fn read(client: &UnixStream, answer: &mut Vec<u8>) -> bool {
    loop {
        match client.try_read_buf(answer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

async fn serve(folder: &Path) -> Here {
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        r#"
[[listener]]
address = "unix:{plain}"
[[listener]]
address = "unix:{trusting}"
trusted_proxies = ["unix"]
[[listener]]
address = "unix:{proxied}"
trusted_proxies = ["unix"]
proxy_protocol = true
[admin]
address = "unix:{admin}"
[[worker]]
name = "app"
expose_version = true
overrides_secret_file = "secret"
[[worker.version]]
id = "v1"
upstreams = ["unix:{upstream}"]
[[worker.version]]
id = "v2"
tag = "two"
upstreams = ["unix:{upstream}"]
[worker.deployment]
versions = [{{ version_id = "v1", percentage = 100 }}, {{ version_id = "v2", percentage = 0 }}]
"#,
        plain = at("plain"),
        trusting = at("trusting"),
        proxied = at("proxied"),
        admin = at("admin"),
        upstream = at("upstream"),
    );
    let parsed = gradual::config::parse("gradual.toml", &text, folder);
    let (config, _) = parsed.unwrap_or_else(|report| panic!("{}", report.render(false)));
    let services = Services {
        registry: Arc::new(Registry::default()),
        log: AccessLog::open(&AccessTarget::Off).unwrap(),
    };
    Here::start(&config, services).await.unwrap()
}

/// Every answer is whole and well-formed; the last may be cut, as the client had left.
fn check(mut answers: &[u8]) {
    // HTTP/2 is for another parser: what it sends first is SETTINGS.
    if answers.get(3..5) == Some(&[4, 0]) {
        return;
    }
    assert!(!contains(answers, SECRET.as_bytes()), "the secret came back");
    while let Some(message) = Message::read(answers) {
        let status = message.start.strip_prefix("HTTP/1.1 ").or(message.start.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|status| status.get(..3)?.parse::<u16>().ok());
        let Some(status) = status else { panic!("status line {:?}", message.start) };
        answers = &answers[message.head..];
        for name in ["keep-alive", "proxy-connection", "x-hop"] {
            assert_eq!(message.values(name).count(), 0, "{name}");
        }
        assert!(!message.values("gradual-version").any(|value| contains(value, b"forged")));
        let of_head = match message.values("x-canned").next() {
            Some(method) => method == b"HEAD",
            None => message.values("gradual-error").count() > 0 && !answers.starts_with(b"{"),
        };
        if status == 101 {
            return;
        }
        if of_head || matches!(status, 100..=199 | 204 | 304) {
            continue;
        }
        if message.framing == Framing::Untold {
            // To the end, which only a connection that closes can tell.
            return;
        }
        let Some(length) = message.body(answers, |name| assert_ne!(name, "set-cookie")) else { return };
        answers = &answers[length..];
    }
    // What is left is the beginning of a head.
    assert!(answers.is_empty() || answers.starts_with(b"HTTP/1.") || b"HTTP/1.".starts_with(answers));
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
