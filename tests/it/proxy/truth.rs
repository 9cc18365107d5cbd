//! Truth at the end of bodies: what one side ends, cuts or leaves is so for the other side, whatever both speak.

mod checksums;
mod cuts;
mod early;
mod leaves;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::support::{Body, Connection, Pipe};

use super::kit::{Backend, Proxy};
use super::tls::{Authority, connector};

/// What is spoken on a connection, by either side of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Protocol {
    http2: bool,
    tls: bool,
}

const ALL: [Protocol; 4] = [
    Protocol { http2: false, tls: false },
    Protocol { http2: false, tls: true },
    Protocol { http2: true, tls: false },
    Protocol { http2: true, tls: true },
];

impl Protocol {
    fn scheme(self) -> &'static str {
        match self {
            Self { tls: true, .. } => "https",
            Self { http2: true, .. } => "h2c",
            Self { .. } => "http",
        }
    }

    fn alpn(self) -> &'static str {
        if self.http2 { "h2" } else { "http/1.1" }
    }
}

/// The certificates of one test.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Authority::new(folder.path(), "ca").issue(folder.path(), "server", &["a", "127.0.0.1"]);
        Self(folder)
    }

    /// For an upstream that speaks TLS.
    fn acceptor(&self, protocol: Protocol) -> Option<TlsAcceptor> {
        let chain = rustls::pki_types::CertificateDer::from_pem_file(self.0.path().join("server.pem"));
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(self.0.path().join("server.key"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![chain.unwrap()], key.unwrap()).unwrap();
        config.alpn_protocols = vec![protocol.alpn().into()];
        protocol.tls.then(|| TlsAcceptor::from(Arc::new(config)))
    }
}

/// The server's side of a handshake, where there is one.
async fn accepted(stream: TcpStream, acceptor: Option<&TlsAcceptor>) -> Option<Pipe> {
    // What is written is on its way, also where a reset follows at once.
    stream.set_nodelay(true).unwrap();
    match acceptor {
        Some(acceptor) => Some(Box::new(acceptor.accept(stream).await.ok()?)),
        None => Some(Box::new(stream)),
    }
}

/// A proxy of one shard before an upstream; its listeners are a plain one and one with TLS.
async fn before(certificates: Certificates, upstream: &Backend, to: Protocol) -> Proxy {
    let tls = "address = \"127.0.0.1:0\"\ntls = [{ certificate = \"server.pem\", key = \"server.key\" }]";
    let listeners = format!("{}\n[[listener]]\n{tls}", super::kit::ANY);
    let version = format!("{}\ntls = {{ ca = \"ca.pem\" }}", upstream.upstream(to.scheme()));
    let version = if to.tls { version } else { upstream.upstream(to.scheme()) };
    Proxy::start_in(certificates.0, 1, &super::kit::file(&listeners, "", &version)).await
}

/// A client's connection to the proxy. Where it is to be reset, that is said with [`reset_when_closed`].
async fn connect(proxy: &Proxy, by: Protocol, reset: bool) -> Pipe {
    let stream = TcpStream::connect(proxy.address_of(usize::from(by.tls))).await.unwrap();
    if reset {
        reset_when_closed(&stream);
    }
    if !by.tls {
        return Box::new(stream);
    }
    let connector = connector(proxy.folder.path(), &[by.alpn()], None);
    Box::new(connector.connect(ServerName::try_from("a").unwrap(), stream).await.unwrap())
}

/// Closing sends RST instead of FIN.
fn reset_when_closed(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A client.
enum Client {
    Http1(Connection),
    Http2(SendRequest<Body>, Tasks),
}

/// What drives an HTTP/2 client: ending it closes the connection, whatever is under way.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

impl Tasks {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.lock().unwrap().push(tokio::spawn(task).abort_handle());
    }

    fn end(&self) {
        self.0.lock().unwrap().iter().for_each(AbortHandle::abort);
    }
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.spawn(async move { drop(task.await) });
    }
}

impl Client {
    async fn new(pipe: Pipe, by: Protocol) -> Self {
        if !by.http2 {
            return Self::Http1(Connection::new(pipe));
        }
        let (tasks, io) = (Tasks::default(), hyper_util::rt::TokioIo::new(pipe));
        let (sender, connection) = hyper::client::conn::http2::handshake(tasks.clone(), io).await.unwrap();
        tasks.spawn(async move { drop(connection.await) });
        Self::Http2(sender, tasks)
    }
}
