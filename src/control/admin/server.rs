//! The accept loop of the admin address, and the bounds on what clients may hold.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::config::Address;
use crate::control::admin::State;
use crate::control::admin::routes;
use crate::control::admin::socket::{Bound, Listener, SocketFile};
use crate::control::cloudflare::Visitor;

/// From the start of a connection, or the end of the last answer, to the end of a request's head.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may go on taking requests, and then how long its last answer may take: nobody occupies a place
/// for ever by not reading.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long answers may take that are under way when another process takes over.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long a connection may still begin a request after the server has stopped: it may be on its way, or unread.
const LAST_CHANCE: Duration = Duration::from_secs(1);
/// What may be buffered of a request's head, in bytes.
const BUFFER: usize = 64 * 1024;
/// The pause after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server at work. Dropping it stops accepting; requests under way are finished.
#[derive(Debug)]
pub(crate) struct Server {
    address: Address,
    /// The file of a Unix socket, removed with the server.
    file: Option<SocketFile>,
    /// Whether that file is still another process's, which may go on after all.
    lent: bool,
    kept: OwnedFd,
    /// The accept loop.
    accepting: JoinHandle<()>,
    /// A value, or its end, is what the accept loop and all connections wait for.
    stop: watch::Sender<()>,
}

impl Server {
    /// Starts to accept, a connection for each of the places at a time; more wait in the system's queue. Must be called
    /// within a tokio runtime.
    pub(crate) fn start(mut bound: Bound, state: &Arc<State>, places: Arc<Semaphore>) -> Self {
        let (file, lent) = (bound.take_file(), bound.takes_file());
        let (stop, stopped) = watch::channel(());
        let router = routes::router(Arc::clone(state));
        let accepting = tokio::spawn(accept(bound.listener, router, places, stopped));
        Self { address: bound.address, file, lent, kept: bound.kept, accepting, stop }
    }

    /// The socket, for a process that is to go on with it, and whether a file goes with it.
    pub(crate) fn hand_over(&self) -> io::Result<(OwnedFd, bool)> {
        Ok((self.kept.try_clone()?, self.lent || self.file.is_some()))
    }

    /// The process that has bound the address has left it.
    pub(crate) fn own_file(&mut self) {
        if let (true, Address::Unix(path)) = (std::mem::take(&mut self.lent), &self.address) {
            self.file = SocketFile::at(path).ok();
        }
    }

    /// Stops accepting and leaves the socket to another process: when this returns, only that process accepts.
    pub(crate) async fn leave(mut self) -> Leaving {
        if let Some(file) = self.file.take() {
            file.leave();
        }
        self.close().await
    }

    /// Stops accepting; the file of a Unix socket is removed.
    pub(crate) async fn close(self) -> Leaving {
        self.stop.send_replace(());
        let _ = self.accepting.await;
        Leaving(self.stop)
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}

/// The last requests of a server that has left its address.
#[derive(Debug)]
pub(crate) struct Leaving(watch::Sender<()>);

impl Leaving {
    /// Returns when their answers are on their way, or take too long.
    pub(crate) async fn done(self) {
        let _ = tokio::time::timeout(LAST_ANSWERS, self.0.closed()).await;
    }
}

async fn accept(
    listener: Listener,
    router: Router,
    places: Arc<Semaphore>,
    mut stopped: watch::Receiver<()>,
) {
    let theirs = stopped.clone();
    loop {
        let accepted = tokio::select! {
            // This returns when the server is left or dropped.
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
    let place = Arc::new(Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?);
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            let visitor = Visitor { address: Some(address.ip().to_canonical()), place };
            tokio::spawn(serve(stream, router.clone(), stopped.clone(), visitor));
        }
        Listener::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            let visitor = Visitor { address: None, place };
            tokio::spawn(serve(stream, router.clone(), stopped.clone(), visitor));
        }
    }
    Ok(())
}

async fn serve<S>(stream: S, router: Router, mut stopped: watch::Receiver<()>, visitor: Visitor)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(visitor.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // How a connection ends is the client's affair: there is nothing to do about it, and nothing to log.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stopped_for_a_while(&mut stopped) => {}
        () = tokio::time::sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LIFETIME, connection).await;
}

async fn stopped_for_a_while(stopped: &mut watch::Receiver<()>) {
    let _ = stopped.changed().await;
    tokio::time::sleep(LAST_CHANCE).await;
}
