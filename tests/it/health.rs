//! Health: active checks, and what becomes of requests whose version is down. A whole proxy, with its control thread.

mod checks;
mod failing;
mod failover;
mod grpc;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};

use crate::control::stage::{ANY_PORT, Stage, eventually, exchange};
use crate::support::{Backend, File, backend, body};

/// A check that finds out soon, and has patience with a busy machine.
const CHECK: &str = r#"health = { path = "/up", interval = "5ms", timeout = "30s", fall = 2, rise = 2 }"#;

/// Where the backends of a test run, beside its own thread.
fn hall() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A backend that answers its name, `/up` with a status that can be set, and `/hang` never.
struct Patient {
    backend: Backend,
    status: Arc<AtomicU16>,
    /// The heads of what was asked at `/up`.
    checks: Arc<Mutex<Vec<Request<()>>>>,
    /// How many other requests there were.
    others: Arc<AtomicUsize>,
}

impl Patient {
    fn new(hall: &Runtime, name: &'static str) -> Self {
        Self::speaking(hall, name, false)
    }

    fn speaking(hall: &Runtime, name: &'static str, h2c: bool) -> Self {
        let (status, checks) = (Arc::new(AtomicU16::new(200)), Arc::<Mutex<Vec<_>>>::default());
        let (answered, asked) = (Arc::clone(&status), Arc::clone(&checks));
        let others = Arc::<AtomicUsize>::default();
        let other = Arc::clone(&others);
        let building = backend(name).answering(move |request| {
            let mut response = Response::new(body(name));
            let request_path = request.uri().path().to_owned();
            if request_path.starts_with("/up") {
                *response.status_mut() = answered.load(Ordering::SeqCst).try_into().unwrap();
                asked.lock().unwrap().push(request.map(drop));
            } else {
                other.fetch_add(1, Ordering::SeqCst);
            }
            let hangs = request_path == "/hang";
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                response
            }
        });
        let building = if h2c { building.h2c() } else { building };
        Self { backend: hall.block_on(building.start()), status, checks, others }
    }

    /// What it answers checks with from now on.
    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn checks(&self) -> usize {
        self.checks.lock().unwrap().len()
    }

    fn requests(&self) -> usize {
        self.others.load(Ordering::SeqCst)
    }
}

/// A backend that listens at a Unix socket until it is dropped; then nobody listens there.
struct Local(JoinHandle<()>, PathBuf);

impl Local {
    fn new(hall: &Runtime, path: &Path, name: &'static str) -> Self {
        let _inside = hall.enter();
        let listener = UnixListener::bind(path).unwrap();
        let serving = hall.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = move |_| async move { Ok::<_, Infallible>(Response::new(body(name))) };
                let server = hyper::server::conn::http1::Builder::new();
                open.spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
        Self(serving, path.to_owned())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.1);
        self.0.abort();
    }
}

/// A whole proxy with this file; its folder is filled by `furnish`.
fn stage_with(file: &File, furnish: impl FnOnce(&Path)) -> Stage {
    Stage::start(&text(file), false, furnish)
}

fn stage(file: &File) -> Stage {
    stage_with(file, |_| {})
}

/// A file's text, with what is always needed here.
fn text(file: &File) -> String {
    let file = file.clone().top(&format!("[admin]\n{ANY_PORT}\n[server]\nthreads = 2"));
    file.worker("expose_version = true").text()
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fate {
    status: u16,
    /// The version that it was for.
    version: String,
    reason: String,
    /// The kind of failure that the proxy says; empty where it does not.
    error: String,
}

impl Fate {
    /// Whether it was answered by its version, for this reason.
    fn is_good(&self, reason: &str) -> bool {
        self.status == 200 && self.reason == reason
    }

    /// Whether it failed in this way.
    fn is_bad(&self, error: &str, reason: &str) -> bool {
        self.status == 503 && self.error == error && self.reason == reason
    }
}

/// A GET with one more header line.
fn get(stage: &Stage, line: &str) -> Fate {
    let request = format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{line}");
    let answer = exchange(&stage.handle.listeners()[0], request.trim_end());
    let item = answer.header("gradual-version").unwrap_or_else(|| panic!("{answer:?}")).to_owned();
    let reason = item.split(";reason=").nth(1).unwrap().split(';').next().unwrap().to_owned();
    let version = item.trim_start_matches('"').split('"').next().unwrap().to_owned();
    if answer.status == 200 {
        assert!(answer.body.contains(&version), "{answer:?}");
    }
    let error = answer.header("gradual-error").unwrap_or("").to_owned();
    Fate { status: answer.status, version, reason, error }
}

fn get_with_key(stage: &Stage, key: &str) -> Fate {
    get(stage, &format!("Cloudflare-Workers-Version-Key: {key}"))
}

fn get_with_override(stage: &Stage, version: &str) -> Fate {
    get(stage, &format!("Cloudflare-Workers-Version-Overrides: shop=\"{version}\""))
}

/// A version as the status shows it.
fn version(stage: &Stage, id: &str) -> Value {
    let status = stage.status();
    let versions = status["workers"][0]["versions"].as_array().unwrap();
    versions.iter().find(|version| version["id"] == id).unwrap().clone()
}

/// Waits until the status shows a version as up, or as down.
fn eventually_up(stage: &Stage, id: &str, up: bool) {
    eventually(&format!("{id} up: {up}"), || version(stage, id)["up"] == up);
}

/// The one series that begins like this.
fn series(stage: &Stage, name_and_labels: &str) -> Option<f64> {
    let metrics = stage.ask("GET /metrics HTTP/1.1\r\nHost: localhost").body;
    let line = metrics.lines().find(|line| line.starts_with(name_and_labels))?;
    line.rsplit_once(' ').unwrap().1.parse().ok()
}
