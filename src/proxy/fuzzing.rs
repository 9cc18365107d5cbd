//! Private parts of the data plane, for fuzz targets alone: not compiled otherwise.

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use tokio::sync::mpsc;

use super::head::{self, Introduction, Seen};
use super::proxy_protocol::{self, Named, Parsed};
use super::shard::{self, Gauge};
use super::{Census, Common, Load, Services, Shards, Standings, Thread, Timing};
use crate::config::Config;
use crate::diag::Diagnostic;

/// What the first bytes of a connection are to whoever expects a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// More bytes are needed to tell.
    Partial,
    /// None.
    Invalid,
    /// One of so many bytes, which may name a client.
    Whole(usize, Option<SocketAddr>),
}

/// Reads a PROXY header.
pub fn proxy_header(bytes: &[u8]) -> ProxyHeader {
    match proxy_protocol::parse(bytes) {
        Parsed::Partial => ProxyHeader::Partial,
        Parsed::Invalid => ProxyHeader::Invalid,
        Parsed::Header { length, client: Named::Client(client) } => ProxyHeader::Whole(length, Some(client)),
        Parsed::Header { length, client: Named::Sender | Named::Nobody } => ProxyHeader::Whole(length, None),
    }
}

/// Checks a request's head and prepares it for the next hop, for a client of `address` (as text). The host that it is for,
/// or the status and the reason of the refusal.
///
/// # Errors
/// The head is refused.
pub fn prepare_request(
    parts: &mut Parts,
    trusted: bool,
    address: Option<&HeaderValue>,
) -> Result<Option<HeaderValue>, (u16, &'static str)> {
    let (seen, deciding) = Seen::look(&parts.headers);
    let host = seen.check(parts).and_then(|()| head::authority(parts, deciding.host));
    let host = host.map_err(|kind| (kind.status().as_u16(), kind.message()))?;
    let introduction = Introduction { trusted, address, https: false, host: host.as_ref() };
    head::prepare_request(parts, &seen, &introduction);
    Ok(host)
}

/// Prepares a response's head for the client; whether it may go there.
pub fn prepare_response(headers: &mut HeaderMap) -> bool {
    head::prepare_response(headers).is_ok()
}

/// A data plane of one shard on the thread that made it.
#[derive(Debug)]
pub struct Here(Shards);

impl Here {
    /// Serves a configuration. Must be called within a runtime that has local tasks.
    ///
    /// # Errors
    /// What cannot be bound or read.
    pub async fn start(config: &Config, services: Services) -> Result<Self, Vec<Diagnostic>> {
        let (inbox, commands) = mpsc::unbounded_channel();
        let gauge = Arc::new(Gauge::default());
        let (standings, census) = (Arc::new(Standings::new(Timing::default())), Census::of_process(1));
        let common = Common { services, standings, census, objects: Arc::default() };
        tokio::task::spawn_local(shard::run(0, common.clone(), Arc::clone(&gauge), commands));
        // Nothing but a place in the list: the shard runs here.
        let handle = std::thread::spawn(|| {});
        let threads = vec![Thread { inbox, gauge, handle }];
        let mut shards = Shards::over(threads, common);
        let prepared = shards.prepare(config).await?;
        shards.commit(prepared).await;
        Ok(Self(shards))
    }

    /// What is going on.
    pub fn load(&self) -> Load {
        self.0.load()
    }
}
