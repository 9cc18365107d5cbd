//! Listening sockets: one for each shard by `SO_REUSEPORT`, bound so that an address in use is noticed all the same; or
//! those that another process has bound, all of them and no others.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Address;

/// One shard's listening socket.
#[derive(Debug)]
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }
}

/// The sockets of one listener, as the control thread holds them: every descriptor in a shard is a duplicate of one of
/// these, so that they can be handed to another process at any time. A connection that waits in a queue is lost only with
/// the last descriptor of its socket.
#[derive(Debug)]
pub(super) struct Held {
    /// With the port that the system chose.
    pub(super) actual: Address,
    /// Whether the file of a Unix socket is removed with it.
    pub(super) removes_file: bool,
    /// Whether another process has bound them.
    pub(super) handed: bool,
    sockets: Vec<Listening>,
}

impl Held {
    /// Descriptors for so many shards. Each socket goes to a shard, as connections wait in each one's queue: with fewer
    /// shards some accept from several, with more some share one.
    ///
    /// # Errors
    /// There are too many open files.
    pub(super) fn shared_out(&self, shards: usize) -> io::Result<Vec<Vec<Listening>>> {
        let mut all: Vec<_> = (0..shards).map(|_| Vec::new()).collect();
        for at in 0..shards.max(self.sockets.len()) {
            all[at % shards].push(self.sockets[at % self.sockets.len()].try_clone()?);
        }
        Ok(all)
    }

    /// The same sockets for another process.
    ///
    /// # Errors
    /// There are too many open files.
    pub(super) fn hand_over(&self, named: &Address) -> io::Result<Handed> {
        let descriptor = |socket: &Listening| {
            Ok(match socket.try_clone()? {
                Listening::Tcp(socket) => socket.into(),
                Listening::Unix(socket) => socket.into(),
            })
        };
        let sockets = self.sockets.iter().map(descriptor).collect::<io::Result<_>>()?;
        let (named, actual) = (named.clone(), self.actual.clone());
        Ok(Handed { named, actual, sockets, removes_file: self.removes_file })
    }
}

/// Listening sockets of one address on their way from one process to another.
#[derive(Debug)]
pub struct Handed {
    named: Address,
    actual: Address,
    sockets: Vec<OwnedFd>,
    removes_file: bool,
}

impl Handed {
    /// Sockets that another process has bound to one address, at least one. `named` is what that process's file called it
    /// (a port of 0 stays 0 there); `None` where there was no file. `removes_file`: the file of a Unix socket is removed
    /// when it is no longer listened on.
    ///
    /// # Errors
    /// One of them does not listen, or is not for streams, or is neither TCP nor a Unix socket with a path; or the system
    /// refuses to tell.
    pub fn new(named: Option<Address>, sockets: Vec<OwnedFd>, removes_file: bool) -> io::Result<Self> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let mut actual = None;
        for socket in &sockets {
            let socket = socket2::SockRef::from(socket);
            if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
                return Err(invalid("it does not listen for streams"));
            }
            // A service manager's are blocking.
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            let tcp = address.as_socket().map(Address::Tcp);
            let place = tcp.or_else(|| address.as_pathname().map(|path| Address::Unix(path.to_owned())));
            actual = Some(place.ok_or_else(|| invalid("it has neither an IP address nor a path"))?);
        }
        let mut actual = actual.ok_or_else(|| invalid("there is no socket"))?;
        // A Unix socket may have been moved after it was bound, and does not know.
        if let (Some(Address::Unix(path)), Address::Unix(_)) = (&named, &actual) {
            actual = Address::Unix(path.clone());
        }
        Ok(Self { named: named.unwrap_or_else(|| actual.clone()), actual, sockets, removes_file })
    }

    /// What its former holder's file called it.
    pub fn named(&self) -> &Address {
        &self.named
    }

    /// Where it is, with the port that the system chose.
    pub fn actual(&self) -> &Address {
        &self.actual
    }

    /// Whether this is what a file means by an address.
    pub fn is_at(&self, address: &Address) -> bool {
        self.named == *address || self.actual == *address
    }

    /// Its descriptors.
    pub fn sockets(&self) -> &[OwnedFd] {
        &self.sockets
    }

    /// Adds the sockets of `other`, which are at the same address.
    pub fn join(&mut self, other: Self) {
        self.sockets.extend(other.sockets);
    }

    /// Whether the file of a Unix socket is removed when it is no longer listened on.
    pub fn removes_file(&self) -> bool {
        self.removes_file
    }

    pub(super) fn hold(self) -> Held {
        let unix = matches!(self.actual, Address::Unix(_));
        let listening = |descriptor: OwnedFd| {
            if unix { Listening::Unix(descriptor.into()) } else { Listening::Tcp(descriptor.into()) }
        };
        let sockets = self.sockets.into_iter().map(listening).collect();
        Held { actual: self.actual, sockets, removes_file: self.removes_file, handed: true }
    }
}

/// Connections that the kernel keeps until they are accepted; it lowers this to its own limit.
const BACKLOG: i32 = 4096;

/// Listens on one address, for so many shards.
///
/// # Errors
/// The address is in use by any other socket, `SO_REUSEPORT` or not; or it cannot be bound.
pub(super) fn listen(address: &Address, count: usize) -> io::Result<Held> {
    let (actual, sockets) = match address {
        Address::Tcp(address) => {
            let (actual, sockets) = listen_tcp(*address, count)?;
            (Address::Tcp(actual), sockets.into_iter().map(Listening::Tcp).collect())
        }
        // A Unix socket has one queue: all shards accept from it.
        Address::Unix(path) => (address.clone(), vec![Listening::Unix(listen_unix(path)?)]),
    };
    Ok(Held { actual, sockets, removes_file: true, handed: false })
}

fn listen_tcp(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    // A second process of this user could share the port by SO_REUSEPORT and take half of the traffic unnoticed:
    // a socket without it is refused wherever anybody listens.
    let probe = tcp_socket(address, false)?;
    let actual = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        sockets.push(tcp_socket(actual, true)?.into());
    }
    Ok((actual, sockets))
}

fn tcp_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process that are still in TIME-WAIT do not keep the address.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes a socket file on which nobody listens any more. Anything else in its place is left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"))
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            _ => Err(io::ErrorKind::AddrInUse.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_noticed_although_ports_are_shared() {
        let any = Address::Tcp(([127, 0, 0, 1], 0).into());
        let held = listen(&any, 3).unwrap();
        let actual = held.actual.clone();
        assert_eq!(held.sockets.len(), 3);
        assert_eq!(listen(&actual, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(held);
        assert!(listen(&actual, 1).is_ok());
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_anything_else_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let address = Address::Unix(path.clone());
        let held = listen(&address, 2).unwrap();
        assert_eq!(listen(&address, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(held);
        assert!(listen(&address, 1).is_ok());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(listen(&address, 1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn every_socket_goes_to_some_shard_and_every_shard_has_one() {
        let held = listen(&Address::Tcp(([127, 0, 0, 1], 0).into()), 4).unwrap();
        for (shards, expected) in [(1, vec![4]), (3, vec![2, 1, 1]), (4, vec![1; 4]), (6, vec![1; 6])] {
            let shared: Vec<_> = held.shared_out(shards).unwrap().iter().map(Vec::len).collect();
            assert_eq!(shared, expected, "{shards} shards");
        }
    }

    #[test]
    fn what_does_not_listen_for_streams_is_not_taken_over() {
        let file = tempfile::tempfile().unwrap();
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (stream, _peer) = UnixStream::pair().unwrap();
        for descriptor in [file.into(), datagrams.into(), stream.into()] {
            assert!(Handed::new(None, vec![descriptor], false).is_err());
        }
        assert!(Handed::new(None, Vec::new(), false).is_err());
    }
}
