//! Listening sockets of the admin address.

use std::fs::Permissions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use crate::config::Address;
use crate::proxy::Handed;

/// A bound address.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Where connections come from.
    pub(crate) listener: Listener,
    /// Where it is, with the port that the system chose.
    pub(crate) address: Address,
    file: Option<SocketFile>,
    /// Whether another process's file goes with it, once that process has left.
    takes_file: bool,
    /// The same socket, for a process that is to go on with it.
    pub(crate) kept: OwnedFd,
}

/// What connections are accepted from.
#[derive(Debug)]
pub(crate) enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// The file of a Unix socket. Dropping it removes the file, unless another process has put its own there.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Bound {
    /// Binds an address. A Unix socket is for its owner only (mode 0600) from the first moment on; a file that a dead
    /// process left in its place is replaced.
    ///
    /// # Errors
    /// The address is in use or cannot be had.
    pub(crate) fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                // On Unix, the standard library sets SO_REUSEADDR: an address whose last connections still fade away can
                // be had.
                let listener = std::net::TcpListener::bind(address)?;
                let address = Address::Tcp(listener.local_addr()?);
                Self::new(listener.into(), address, None)
            }
            Address::Unix(path) => {
                let (listener, file) = bind_unix(path)?;
                Self::new(listener.into(), address.clone(), Some(file))
            }
        }
    }

    /// Goes on with a socket that another process has bound.
    ///
    /// # Errors
    /// There are too many open files, or it is not one socket.
    pub(crate) fn take_over(handed: &Handed) -> io::Result<Self> {
        let [socket] = handed.sockets() else { return Err(io::ErrorKind::InvalidInput.into()) };
        if let Address::Unix(path) = handed.actual()
            && std::fs::symlink_metadata(path)?.permissions().mode() & 0o007 != 0
        {
            tracing::warn!("every user may connect to {}: set SocketMode=0600", path.display());
        }
        let bound = Self::new(socket.try_clone()?, handed.actual().clone(), None)?;
        Ok(Self { takes_file: handed.removes_file(), ..bound })
    }

    /// What is removed with it.
    pub(crate) fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }

    /// Whether [`Self::take_file`] is not all: another process's file goes with it, too, once that process has left.
    pub(crate) fn takes_file(&self) -> bool {
        self.takes_file
    }

    fn new(socket: OwnedFd, address: Address, file: Option<SocketFile>) -> io::Result<Self> {
        let kept = socket.try_clone()?;
        let listener = match address {
            Address::Tcp(_) => {
                let socket = std::net::TcpListener::from(socket);
                socket.set_nonblocking(true)?;
                Listener::Tcp(TcpListener::from_std(socket)?)
            }
            Address::Unix(_) => {
                let socket = std::os::unix::net::UnixListener::from(socket);
                socket.set_nonblocking(true)?;
                Listener::Unix(UnixListener::from_std(socket)?)
            }
        };
        Ok(Self { listener, address, file, takes_file: false, kept })
    }
}

fn bind_unix(path: &Path) -> io::Result<(std::os::unix::net::UnixListener, SocketFile)> {
    ensure_vacant(path)?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Bound in a folder that only its owner enters, and moved when its mode is set: nobody else can connect in between.
    let folder = tempfile::Builder::new().prefix(".g").tempdir_in(parent)?;
    let private = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&private)?;
    std::fs::set_permissions(&private, Permissions::from_mode(0o600))?;
    let file = SocketFile::at(&private)?;
    std::fs::rename(&private, path)?;
    Ok((listener, file.moved(path)))
}

/// Whether nothing stands at the path but, maybe, a socket on which nobody listens.
fn ensure_vacant(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in its place"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

impl SocketFile {
    /// The file that is there.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }

    fn moved(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Leaves the file to another process.
    pub(crate) fn leave(mut self) {
        // No file has an empty name.
        self.path = PathBuf::new();
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            // A file that stays is harmless: the next start finds that nobody listens on it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> Address {
        Address::Unix(path.to_owned())
    }

    #[tokio::test]
    async fn a_unix_socket_is_for_its_owner_and_is_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let bound = Bound::bind(&unix(&path)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        let second = Bound::bind(&unix(&path)).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(bound);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_foreign_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Bound::bind(&unix(&path)).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert!(Bound::bind(&unix(&path)).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
