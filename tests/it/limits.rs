//! The bounds of `[limits]` towards clients: what is right below one passes, what is above it is refused and counted.

mod connections;
#[cfg(target_os = "linux")]
mod descriptors;
mod floods;
mod heads;
mod interim;
// These read `/proc`.
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod program;
mod reading;
mod sending;
#[cfg(target_os = "linux")]
mod spin;
mod windows;
mod wire;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::support::{Backend, File, Proxy, backend, body, eventually, file};

/// A file with these limits.
fn with_limits(limits: &str) -> File {
    file().top(&format!("[limits]\n{limits}"))
}

/// A proxy with these limits in front of a backend.
async fn limited(limits: &str, v1: &Backend) -> Proxy {
    crate::support::proxy(&with_limits(limits).version("v1", v1, 100)).await
}

/// How often a bound was met.
fn met(proxy: &Proxy, limit: &str) -> u64 {
    proxy.metric(&format!("gradual_limited_total{{limit=\"{limit}\"}}"))
}

async fn is_met(proxy: &Proxy, limit: &str, times: u64) {
    eventually(&format!("{limit} is met"), || met(proxy, limit) == times).await;
}

/// A backend whose answer is so long.
async fn long(bytes: usize) -> Backend {
    let all = Bytes::from(vec![b'x'; bytes]);
    let answer = move |_: Request<Incoming>| {
        let all = all.clone();
        async { Response::new(body(all)) }
    };
    backend("v1").answering(answer).start().await
}
