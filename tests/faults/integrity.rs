//! Checksums of very many responses through the real program, at clients that read slowly.
//!
//!     cargo run --release --example faults_integrity -- target/release/gradual [--count N] [--max-size BYTES] [--json]
//!
//! Every client protocol (HTTP/1.1 and HTTP/2, with and without TLS) meets every upstream protocol, and both framings of
//! HTTP/1.1. Most responses are short: 99 in 100 have up to 1 MB, 9 in 1000 up to 10 MB, and 1 in 1000 has up to 100 MB.
//! Prints figures; the exit code is 1 where a checksum differs, an end is missing, or a request failed.

#![allow(clippy::unwrap_used)]

mod content;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use xxhash_rust::xxh3::Xxh3;

use self::content::Content;

/// Checksums of very many responses through the real program, at clients that read slowly.
#[derive(Parser)]
struct Arguments {
    /// The program under test.
    #[arg(default_value = "target/release/gradual")]
    program: PathBuf,
    /// How many responses.
    #[arg(long, default_value_t = 100_000)]
    count: u64,
    /// The length of the longest response, in bytes.
    #[arg(long, default_value_t = 100_000_000)]
    max_size: u64,
    /// How many clients ask at once.
    #[arg(long, default_value_t = 64)]
    clients: u64,
    /// Decides lengths, contents and pauses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

/// What came of everything.
#[derive(Default)]
struct Figures {
    next: AtomicU64,
    responses: AtomicU64,
    bytes: AtomicU64,
    longest: AtomicU64,
    mismatches: AtomicU64,
    missing_ends: AtomicU64,
    failures: AtomicU64,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    http2: bool,
    tls: bool,
}

const ALL: [Protocol; 4] = [
    Protocol { http2: false, tls: false },
    Protocol { http2: true, tls: false },
    Protocol { http2: false, tls: true },
    Protocol { http2: true, tls: true },
];

impl Protocol {
    fn alpn(self) -> &'static str {
        if self.http2 { "h2" } else { "http/1.1" }
    }

    fn scheme(self) -> &'static str {
        match self {
            Self { tls: true, .. } => "https",
            Self { http2: true, .. } => "h2c",
            Self { .. } => "http",
        }
    }

    /// The host whose worker has upstreams that speak this.
    fn host(self) -> String {
        format!("{}-{}.test", self.scheme(), if self.http2 { 2 } else { 1 })
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir().unwrap();
    let authority = certificates(folder.path());
    let mut workers = String::new();
    for (at, to) in ALL.into_iter().enumerate() {
        workers += &worker(to, at, &upstream(to, folder.path()).await);
    }
    let ports = [free_port(), free_port()];
    let program = Program::start(&arguments.program, folder.path(), ports, &workers);
    wait_for(ports[0]).await;
    let begun = Instant::now();
    let figures = Arc::new(Figures::default());
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..arguments.clients {
        let by = ALL[usize::try_from(client).unwrap() % ALL.len()];
        let port = ports[usize::from(by.tls)];
        let tls = by.tls.then(|| connector(&authority, by));
        let slow = Slow { by, port, tls, random: fastrand::Rng::with_seed(arguments.seed ^ client << 32) };
        clients.spawn(slow.ask(Arc::clone(&figures), arguments.count, arguments.max_size));
    }
    clients.join_all().await;
    drop(program);
    figures.report(begun.elapsed(), arguments.json)
}

impl Figures {
    fn report(&self, took: Duration, as_json: bool) -> ExitCode {
        let named = [
            ("responses", &self.responses),
            ("bytes", &self.bytes),
            ("longest", &self.longest),
            ("mismatches", &self.mismatches),
            ("missing ends", &self.missing_ends),
            ("failures", &self.failures),
        ];
        let named = named.map(|(name, number)| (name, number.load(Ordering::Relaxed)));
        if as_json {
            let map: serde_json::Map<_, _> =
                named.iter().map(|(name, number)| ((*name).into(), (*number).into())).collect();
            println!("{}", serde_json::Value::from(map));
        } else {
            named.iter().for_each(|(name, number)| println!("{name}: {number}"));
            println!("seconds: {:.0}", took.as_secs_f64());
        }
        let [(_, responses), .., (_, mismatches), (_, missing_ends), (_, failures)] = named;
        ExitCode::from(u8::from(mismatches + missing_ends + failures > 0 || responses == 0))
    }

    fn count(&self, number: &AtomicU64, what: std::fmt::Arguments<'_>) {
        number.fetch_add(1, Ordering::Relaxed);
        eprintln!("{what}");
    }
}

/// The program under test; ends with this.
struct Program(Child);

impl Program {
    fn start(program: &Path, folder: &Path, [plain, tls]: [u16; 2], workers: &str) -> Self {
        let text = format!(
            "[admin]\naddress = \"unix:admin.sock\"\n[[listener]]\naddress = \"127.0.0.1:{plain}\"\n\
             [[listener]]\naddress = \"127.0.0.1:{tls}\"\n\
             tls = [{{ certificate = \"server.pem\", key = \"server.key\" }}]\n{workers}"
        );
        let file = folder.join("gradual.toml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        command.arg("run").arg(file).env("GRADUAL_LOG", "warn").stdin(Stdio::null());
        let child = command.spawn();
        Self(child.unwrap_or_else(|error| panic!("{}: {error}", program.display())))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn worker(to: Protocol, at: usize, address: &str) -> String {
    let host = to.host();
    let tls = if to.tls { "tls = { ca = \"ca.pem\", server_name = \"a.test\" }" } else { "" };
    format!(
        "[[worker]]\nname = \"w{at}\"\nroutes = [\"{host}/*\"]\n[[worker.version]]\nid = \"v1\"\n\
         upstreams = [\"{}://{address}\"]\n{tls}\n[worker.deployment]\n\
         versions = [{{ version_id = \"v1\", percentage = 100 }}]\n",
        to.scheme()
    )
}

/// Answers `/SEED/LENGTH/sized` and `/SEED/LENGTH/unsized`; where it listens.
async fn upstream(to: Protocol, folder: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = to.tls.then(|| acceptor(folder, to));
    let service = hyper::service::service_fn(async |request: Request<Incoming>| {
        let words: Vec<_> = request.uri().path().split('/').collect();
        let number = |at: usize| words[at].parse().unwrap();
        Ok::<_, Infallible>(Response::new(Content::new(number(1), number(2), words[3] == "sized")))
    });
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream: Box<dyn Io> = match acceptor {
                    Some(acceptor) => Box::new(acceptor.accept(stream).await.unwrap()),
                    None => Box::new(stream),
                };
                // How it ends is judged by the clients.
                if to.http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                }
            });
        }
    });
    address
}

/// Writes `ca.pem`, `server.pem` and `server.key` into a folder; the authority.
fn certificates(folder: &Path) -> rustls::RootCertStore {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["a.test".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
    std::fs::write(folder.join("server.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(issuer.der().clone()).unwrap();
    roots
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn acceptor(folder: &Path, to: Protocol) -> TlsAcceptor {
    use rustls::pki_types::pem::PemObject;
    let chain = rustls::pki_types::CertificateDer::from_pem_file(folder.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(vec![chain], key).unwrap();
    config.alpn_protocols = vec![to.alpn().into()];
    TlsAcceptor::from(Arc::new(config))
}

fn connector(authority: &rustls::RootCertStore, by: Protocol) -> TlsConnector {
    let builder = rustls::ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(authority.clone()).with_no_client_auth();
    config.alpn_protocols = vec![by.alpn().into()];
    TlsConnector::from(Arc::new(config))
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn wait_for(port: u16) {
    for _ in 0..1000 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the program does not listen");
}

/// A client that reads slowly.
struct Slow {
    by: Protocol,
    port: u16,
    tls: Option<TlsConnector>,
    random: fastrand::Rng,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    async fn send(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// How many requests one connection carries.
const PER_CONNECTION: usize = 64;

impl Slow {
    /// Asks until so many responses have been asked for by all clients together.
    async fn ask(mut self, figures: Arc<Figures>, count: u64, most: u64) {
        loop {
            let (mut sender, connection) = self.connect().await;
            for _ in 0..PER_CONNECTION {
                if figures.next.fetch_add(1, Ordering::Relaxed) >= count {
                    return;
                }
                if !self.ask_once(&mut sender, &figures, most).await {
                    break;
                }
            }
            drop(sender);
            connection.abort();
        }
    }

    async fn connect(&mut self) -> (Sender, tokio::task::AbortHandle) {
        let socket = TcpSocket::new_v4().unwrap();
        if self.random.bool() {
            socket.set_recv_buffer_size(4096 << self.random.u32(0..5)).unwrap();
        }
        let stream = socket.connect(([127, 0, 0, 1], self.port).into()).await.unwrap();
        let stream: Box<dyn Io> = match &self.tls {
            Some(tls) => {
                Box::new(tls.connect(ServerName::try_from("a.test").unwrap(), stream).await.unwrap())
            }
            None => Box::new(stream),
        };
        let io = TokioIo::new(stream);
        if self.by.http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(self.random.u32(4_000..1_000_000));
            let (sender, connection) = builder.handshake(io).await.unwrap();
            (Sender::Http2(sender), tokio::spawn(connection).abort_handle())
        } else {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            (Sender::Http1(sender), tokio::spawn(connection).abort_handle())
        }
    }

    /// One request; whether the connection can go on.
    async fn ask_once(&mut self, sender: &mut Sender, figures: &Figures, most: u64) -> bool {
        let (to, seed) = (ALL[self.random.usize(..ALL.len())], self.random.u64(..));
        let (length, is_sized) = (length(&mut self.random).min(most), self.random.bool());
        let path = format!("/{seed}/{length}/{}", if is_sized { "sized" } else { "unsized" });
        let case = format!("{:?} to {to:?}, {path}", self.by);
        let uri = if self.by.http2 { format!("http://{}{path}", to.host()) } else { path };
        let request = Request::get(uri).header("host", to.host()).body(Empty::new()).unwrap();
        let answer = match sender.send(request).await {
            Ok(answer) if answer.status() == 200 => answer,
            Ok(answer) => {
                figures.count(&figures.failures, format_args!("{case}: {}", answer.status()));
                return false;
            }
            Err(error) => {
                figures.count(&figures.failures, format_args!("{case}: {error:?}"));
                return false;
            }
        };
        let Some((read, sum)) = self.read(answer.into_body()).await else {
            figures.count(&figures.missing_ends, format_args!("{case}: cut"));
            return false;
        };
        figures.responses.fetch_add(1, Ordering::Relaxed);
        figures.bytes.fetch_add(read, Ordering::Relaxed);
        figures.longest.fetch_max(read, Ordering::Relaxed);
        if (read, sum) != (length, content::sum(seed, length)) {
            figures.count(&figures.mismatches, format_args!("{case}: {read} bytes"));
        }
        true
    }

    /// Reads a body with pauses; its length and checksum. `None`: it was cut.
    async fn read(&mut self, mut body: Incoming) -> Option<(u64, u64)> {
        let (mut sum, mut read) = (Xxh3::new(), 0);
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.ok()?.into_data() {
                sum.update(&data);
                read += data.len() as u64;
            }
            if self.random.u8(..) < 4 {
                tokio::time::sleep(Duration::from_millis(self.random.u64(1..8))).await;
            }
        }
        Some((read, sum.digest()))
    }
}

/// 1 KB to 100 MB, the logarithm even within each of three ranges.
fn length(random: &mut fastrand::Rng) -> u64 {
    let (from, to): (f64, f64) = match random.u32(..1000) {
        0 => (1e7, 1e8),
        1..10 => (1e6, 1e7),
        _ => (1e3, 1e6),
    };
    // Through its text, as a cast would cut what does not fit without a word.
    format!("{:.0}", from * f64::powf(to / from, random.f64())).parse().unwrap()
}
