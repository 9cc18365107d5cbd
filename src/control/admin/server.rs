//! The accept loop of the admin address, and the bounds on what clients may hold.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::Address;
use crate::control::admin::State;
use crate::control::admin::routes;
use crate::control::admin::socket::{Bound, Listener};

/// Connections at a time; more wait in the system's queue.
const CONNECTIONS: usize = 256;
/// From the start of a connection, or the end of the last answer, to the end of a request's head.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may go on taking requests, and then how long its last answer may take: nobody occupies a place
/// for ever by not reading.
const LIFETIME: Duration = Duration::from_secs(60);
/// What may be buffered of a request's head, in bytes.
const BUFFER: usize = 64 * 1024;
/// The pause after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server at work. Dropping it stops accepting; requests under way are finished.
#[derive(Debug)]
pub(crate) struct Server {
    address: Address,
    /// Its end is what the accept loop and all connections wait for.
    _stop: watch::Sender<()>,
}

impl Server {
    /// Starts to accept. Must be called within a tokio runtime.
    pub(crate) fn start(bound: Bound, state: &Arc<State>) -> Self {
        let (stop, stopped) = watch::channel(());
        tokio::spawn(accept(bound.listener, routes::router(Arc::clone(state)), stopped));
        Self { address: bound.address, _stop: stop }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}

async fn accept(listener: Listener, router: Router, mut stopped: watch::Receiver<()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let theirs = stopped.clone();
    loop {
        let accepted = tokio::select! {
            // Nothing is ever sent: this returns when the server is dropped.
            _ = stopped.changed() => return,
            accepted = next(&listener, &router, &places, &theirs) => accepted,
        };
        if let Err(error) = accepted {
            tracing::warn!("the admin address cannot accept: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

async fn next(
    listener: &Listener,
    router: &Router,
    places: &Arc<Semaphore>,
    stopped: &watch::Receiver<()>,
) -> io::Result<()> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve(stream, router.clone(), stopped.clone(), place));
        }
        Listener::Unix { listener, .. } => {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve(stream, router.clone(), stopped.clone(), place));
        }
    }
    Ok(())
}

async fn serve<S>(stream: S, router: Router, mut stopped: watch::Receiver<()>, _place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // How a connection ends is the client's affair: there is nothing to do about it, and nothing to log.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.changed() => {}
        () = tokio::time::sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LIFETIME, connection).await;
}
