//! Listening sockets: one for each shard by `SO_REUSEPORT`, bound so that an address in use is noticed all the same.

use std::io;
use std::net::{SocketAddr, TcpListener};
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

/// Connections that the kernel keeps until they are accepted; it lowers this to its own limit.
const BACKLOG: i32 = 4096;

/// What the kernel takes of us for a client before it can send it, in bytes: unlike a bound on all of its buffer, this
/// costs no throughput on long ways.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 32 << 10;

/// Listens with so many sockets on one address. Returns the address with the port that the system chose for port 0.
///
/// # Errors
/// The address is in use by any other socket, `SO_REUSEPORT` or not; or it cannot be bound.
pub(super) fn listen(address: &Address, count: usize) -> io::Result<(Address, Vec<Listening>)> {
    match address {
        Address::Tcp(address) => {
            let (actual, sockets) = listen_tcp(*address, count)?;
            Ok((Address::Tcp(actual), sockets.into_iter().map(Listening::Tcp).collect()))
        }
        Address::Unix(path) => {
            let first = listen_unix(path)?;
            // A Unix socket has one queue: all shards accept from it.
            let sockets: io::Result<Vec<_>> =
                (0..count).map(|_| first.try_clone().map(Listening::Unix)).collect();
            Ok((address.clone(), sockets?))
        }
    }
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
    // Accepted connections inherit it. Elsewhere the kernel's own bound on its buffers has to do.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_notsent_lowat(UNSENT)?;
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
        let (actual, sockets) = listen(&any, 3).unwrap();
        assert_eq!(sockets.len(), 3);
        assert_eq!(listen(&actual, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        assert!(listen(&actual, 1).is_ok());
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_anything_else_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let address = Address::Unix(path.clone());
        let (_, sockets) = listen(&address, 2).unwrap();
        assert_eq!(listen(&address, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        assert!(listen(&address, 1).is_ok());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(listen(&address, 1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
