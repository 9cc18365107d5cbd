//! A small language for tests of the data plane: backends, a proxy in this process, and clients, all on loopback.

mod backend;
mod certificates;
mod client;
mod file;
mod proxy;
pub(crate) mod wire;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use backend::{
    Backend, Feed, backend, body, empty, frames, nobody, raw_backend, record, trailers,
};
pub(crate) use certificates::Authority;
pub(crate) use client::{Answer, Body, Connection, collect, http2, reset_reason, tls_client};
pub(crate) use file::{File, file};
pub(crate) use proxy::{Proxy, proxy};

/// Any stream of bytes.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A stream of bytes of whatever kind.
pub(crate) type Pipe = Box<dyn Io>;

/// Far longer than anything here takes: only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must happen.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("never happened: {what}"),
    }
}

/// Waits until something is so that nobody tells us about.
pub(crate) async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let watch = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(what, watch).await;
}
