//! Accepting connections: a loop for each socket of a listener, on the thread of its shard.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::connection::{self, ListenerSlot};
use super::shard::Shard;
use super::snapshot::Blueprint;
use super::socket::Listening;
use super::stream::Socket;

/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For how long a listener that closes goes on to accept what still waits, with such pauses.
const REST: Duration = Duration::from_secs(5);

/// The accept loops of a listener, one a socket. Dropping `stops` ends them.
pub(super) struct Accepting {
    slot: Rc<ListenerSlot>,
    stops: Vec<oneshot::Sender<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Accepting {
    /// Begins to accept for a shard.
    pub(super) fn start(
        shard: &Rc<Shard>,
        blueprint: &Arc<Blueprint>,
        index: usize,
        sockets: Vec<Listening>,
    ) -> Self {
        let slot = ListenerSlot::new(blueprint, index);
        let (mut stops, mut tasks) = (Vec::new(), Vec::new());
        for socket in sockets {
            let listener = match Listener::new(socket) {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(%error, "a bound socket cannot be listened on");
                    continue;
                }
            };
            let (stop, stopped) = oneshot::channel();
            let accepts = accept(Rc::clone(shard), Rc::clone(&slot), listener, stopped);
            stops.push(stop);
            tasks.push(tokio::task::spawn_local(accepts));
        }
        Self { slot, stops, tasks }
    }

    /// Serves connections by another generation's listener from now on.
    pub(super) fn replace(&self, blueprint: &Arc<Blueprint>, index: usize) {
        self.slot.replace(blueprint, index);
    }

    /// Stops accepting, all at once; returns when nothing is queued and the sockets are closed.
    pub(super) async fn end_all(all: impl IntoIterator<Item = Self>) {
        // None is to accept what another has no descriptor for any more.
        let stopped = |one: Self| {
            drop(one.stops);
            one.tasks
        };
        let tasks: Vec<_> = all.into_iter().flat_map(stopped).collect();
        for task in tasks {
            let _ = task.await;
        }
    }
}

/// A listening socket within the shard's runtime.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

type Accepted = io::Result<(Socket, Option<std::net::SocketAddr>)>;

impl Listener {
    fn new(socket: Listening) -> io::Result<Self> {
        Ok(match socket {
            Listening::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            Listening::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    async fn accept(&self) -> Accepted {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(socket, peer)| tcp(socket, peer)),
            Self::Unix(listener) => listener.accept().await.map(|(socket, _)| (Socket::Unix(socket), None)),
        }
    }

    /// Begins everything that the kernel has queued, asked of the kernel itself: the runtime may not know of it yet. With
    /// the listener goes what still waits: where the process has no descriptor left, those that end give theirs back.
    async fn rest(self, begin: impl Fn((Socket, Option<std::net::SocketAddr>)) -> bool) {
        let Ok(accept) = self.into_accept() else { return };
        let due = Instant::now() + REST;
        while Instant::now() < due {
            match accept() {
                Ok(connection) => {
                    begin(connection);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A client that has left by now, or a signal: what is behind it still waits.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Want of descriptors, or what the network says of one connection: the next may be well.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
            // Others are served, however many come.
            tokio::task::yield_now().await;
        }
    }

    /// What asks the kernel for a connection, and never waits.
    fn into_accept(self) -> io::Result<Box<dyn Fn() -> Accepted>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                Box::new(move || {
                    let (socket, peer) = listener.accept()?;
                    socket.set_nonblocking(true)?;
                    Ok(tcp(tokio::net::TcpStream::from_std(socket)?, peer))
                })
            }
            Self::Unix(listener) => {
                let listener = listener.into_std()?;
                Box::new(move || {
                    let (socket, _) = listener.accept()?;
                    socket.set_nonblocking(true)?;
                    Ok((Socket::Unix(tokio::net::UnixStream::from_std(socket)?), None))
                })
            }
        })
    }
}

fn tcp(socket: tokio::net::TcpStream, peer: std::net::SocketAddr) -> (Socket, Option<std::net::SocketAddr>) {
    // Small answers must not wait for acknowledgements of earlier ones. Where it fails the connection is broken anyway.
    let _ = socket.set_nodelay(true);
    (Socket::Tcp(socket), Some(peer))
}

async fn accept(
    shard: Rc<Shard>,
    slot: Rc<ListenerSlot>,
    listener: Listener,
    mut stopped: oneshot::Receiver<()>,
) {
    let begin = |(socket, peer)| connection::begin(&shard, &slot, socket, peer);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(connection) => {
                    // One that is turned away is not counted: it is to be closed before the next one is accepted.
                    if !begin(connection) {
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => {
                    if shard.may_warn_of_connections() {
                        tracing::warn!(%error, "a connection cannot be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = &mut stopped => break,
        }
    }
    listener.rest(begin).await;
}
