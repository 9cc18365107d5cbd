//! Backends, clients and a proxy on loopback, for tests of what passes between them.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gradual::config::{AccessTarget, Address, Config};
use gradual::diag::Diagnostic;
use gradual::export::access::AccessLog;
use gradual::metrics::{Gauges, Registry};
use gradual::proxy::{KnownNames, Services, Shards, Timing};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Far longer than anything here takes: only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listener on any free port.
pub(crate) const ANY: &str = r#"address = "127.0.0.1:0""#;

/// Runs a test, and fails it if it stands still.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("the test stands still") });
}

/// Lets other tasks go on until it holds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let all = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE / 2, all).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A file of one worker with one version.
pub(crate) fn file(listener: &str, worker: &str, version: &str) -> String {
    format!(
        "[[listener]]\n{listener}\n[[worker]]\nname = \"shop\"\n{worker}\n[[worker.version]]\nid = \"v1\"\n{version}\n\
         [worker.deployment]\nversions = [{{ version_id = \"v1\", percentage = 100 }}]\n"
    )
}

/// The line that names a version's upstreams.
pub(crate) fn upstreams(scheme: &str, addresses: &[SocketAddr]) -> String {
    let all: Vec<_> = addresses.iter().map(|address| format!("\"{scheme}://{address}\"")).collect();
    format!("upstreams = [{}]", all.join(", "))
}

/// A data plane in this process.
pub(crate) struct Proxy {
    pub(crate) shards: Shards,
    pub(crate) folder: TempDir,
}

impl Proxy {
    /// One thread, serving this file.
    pub(crate) async fn start(text: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), 1, text).await
    }

    /// So many threads; relative paths are relative to the folder.
    pub(crate) async fn start_in(folder: TempDir, threads: usize, text: &str) -> Self {
        let mut proxy = Self { shards: shards(threads), folder };
        if let Err(problems) = proxy.reload(text).await {
            panic!("no start: {problems:?}");
        }
        proxy
    }

    /// So many threads, with times of their own for upstreams that fail; and what they count.
    pub(crate) async fn start_with(timing: Timing, threads: usize, text: &str) -> (Self, Counts) {
        Self::start_counting(tempfile::tempdir().unwrap(), timing, threads, text).await
    }

    /// The same; relative paths are relative to the folder.
    pub(crate) async fn start_counting(
        folder: TempDir,
        timing: Timing,
        threads: usize,
        text: &str,
    ) -> (Self, Counts) {
        let (shards, counts) = shards_with(timing, threads);
        let mut proxy = Self { shards, folder };
        proxy.reload(text).await.unwrap();
        (proxy, counts)
    }

    /// So many threads, with times of their own for upstreams that fail, and names of upstreams whose addresses are known;
    /// and what they count.
    pub(crate) async fn start_knowing(
        names: KnownNames,
        timing: Timing,
        threads: usize,
        text: &str,
    ) -> (Self, Counts) {
        let (mut shards, counts) = shards_with(timing, threads);
        shards.take_over_names(names);
        let mut proxy = Self { shards, folder: tempfile::tempdir().unwrap() };
        proxy.reload(text).await.unwrap();
        (proxy, counts)
    }

    /// Prepares a file and, if that is well, commits it.
    pub(crate) async fn reload(&mut self, text: &str) -> Result<(), Vec<Diagnostic>> {
        let prepared = self.shards.prepare(&parse(text, self.folder.path())).await?;
        self.shards.commit(prepared).await;
        Ok(())
    }

    /// Where the first listener listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    pub(crate) fn address_of(&self, listener: usize) -> SocketAddr {
        match &self.shards.addresses()[listener] {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("a Unix socket: {}", path.display()),
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }
}

/// Threads that serve nothing yet.
pub(crate) fn shards(threads: usize) -> Shards {
    shards_with(Timing::default(), threads).0
}

/// The same, with times of their own for upstreams that fail; and what they count.
fn shards_with(timing: Timing, threads: usize) -> (Shards, Counts) {
    let threads = NonZeroUsize::new(threads).unwrap();
    let registry = Arc::new(Registry::default());
    let log = AccessLog::open(&AccessTarget::Off).unwrap();
    let services = Services { registry: Arc::clone(&registry), log };
    (Shards::start_with(threads, &services, timing).unwrap(), Counts(registry))
}

/// What a proxy's shards count.
pub(crate) struct Counts(Arc<Registry>);

impl Counts {
    /// The sample of `/metrics` whose name and labels begin like this; 0 where there is none.
    pub(crate) fn of(&self, series: &str) -> u64 {
        let text = self.0.render(&Gauges::default());
        let line = text.lines().find(|line| line.starts_with(series));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Requests that are under way.
    pub(crate) fn under_way(&self) -> u64 {
        self.0.under_way().iter().map(|version| version.requests).sum()
    }
}

pub(crate) fn parse(text: &str, folder: &Path) -> Config {
    match gradual::config::parse("gradual.toml", text, folder) {
        Ok((config, _)) => config,
        Err(report) => panic!("{report:?}"),
    }
}

/// The body of every message here.
pub(crate) type Content = BoxBody<Bytes, io::Error>;

pub(crate) fn whole(bytes: impl Into<Bytes>) -> Content {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body that is fed piece by piece, and ends when the sender is dropped.
pub(crate) fn piped() -> (mpsc::Sender<Frame<Bytes>>, Content) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Piped(receiver).boxed())
}

struct Piped(mpsc::Receiver<Frame<Bytes>>);

impl Body for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// A frame of data.
pub(crate) fn data(bytes: impl Into<Bytes>) -> Frame<Bytes> {
    Frame::data(bytes.into())
}

/// A trailer section of one field.
pub(crate) fn trailers(name: &'static str, value: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert(name, value.parse().unwrap());
    Frame::trailers(trailers)
}

/// What a backend's connections speak.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// A server on a port of its own, until it is dropped.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Backend {
    /// How many connections it has accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// As the one upstream of a version.
    pub(crate) fn upstream(&self, scheme: &str) -> String {
        upstreams(scheme, &[self.address])
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that answers with what `answer` makes of a request.
pub(crate) async fn backend<A, F>(speaks: Speaks, answer: A) -> Backend
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Content>> + Send + 'static,
{
    listen(move |stream| serve(stream, speaks == Speaks::Http2, answer.clone())).await
}

/// A server that answers each request with 200 and the text that `answer` makes of it.
pub(crate) async fn says<A>(speaks: Speaks, answer: A) -> Backend
where
    A: Fn(&Request<Incoming>) -> String + Clone + Send + Sync + 'static,
{
    backend(speaks, move |request| {
        let text = answer(&request);
        async move { Response::new(whole(text)) }
    })
    .await
}

/// A server that does with each connection what `handle` says.
pub(crate) async fn listen<H, F>(handle: H) -> Backend
where
    H: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(handle(stream));
        }
    });
    Backend { address, connections, task }
}

/// Answers the requests of one connection.
pub(crate) async fn serve<S, A, F>(stream: S, http2: bool, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Content>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let response = answer(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    // How a connection ends is the business of whoever has asked for something on it.
    if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.enable_connect_protocol();
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    }
}

pub(crate) type Http1 = hyper::client::conn::http1::SendRequest<Content>;
pub(crate) type Http2 = hyper::client::conn::http2::SendRequest<Content>;

/// A client's HTTP/1.1 connection, and the task that ends with it.
pub(crate) async fn http1<S>(stream: S) -> (Http1, JoinHandle<hyper::Result<()>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection.with_upgrades()))
}

/// A client's HTTP/2 connection, and the task that ends with it.
pub(crate) async fn http2<S>(stream: S) -> (Http2, JoinHandle<hyper::Result<()>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (sender, connection) = handshake.await.unwrap();
    (sender, tokio::spawn(connection))
}

/// A GET for HTTP/1.1.
pub(crate) fn get1(path: &str) -> Request<Content> {
    Request::get(path).header("host", "example.com").body(whole("")).unwrap()
}

/// A GET for HTTP/2.
pub(crate) fn get2(path: &str) -> Request<Content> {
    Request::get(format!("http://example.com{path}")).body(whole("")).unwrap()
}

/// A POST for HTTP/2.
pub(crate) fn post2(path: &str, body: Content) -> Request<Content> {
    Request::post(format!("http://example.com{path}")).body(body).unwrap()
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let collected = body.collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let text = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
        Self { status: parts.status, headers: parts.headers, text, trailers }
    }

    /// The kind of the proxy's own failure, if it is one.
    pub(crate) fn error(&self) -> Option<&str> {
        self.headers.get("gradual-error").map(|kind| kind.to_str().unwrap())
    }
}

pub(crate) async fn ask1(sender: &mut Http1, request: Request<Content>) -> Answer {
    sender.ready().await.unwrap();
    Answer::read(sender.send_request(request).await.unwrap()).await
}

pub(crate) async fn ask2(sender: &mut Http2, request: Request<Content>) -> Answer {
    sender.ready().await.unwrap();
    Answer::read(sender.send_request(request).await.unwrap()).await
}

/// A GET on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    let (mut sender, _) = http1(TcpStream::connect(address).await.unwrap()).await;
    ask1(&mut sender, get1(path)).await
}

/// Reads a message's head, byte by byte: what follows stays unread.
pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    String::from_utf8(head).unwrap()
}

/// Sends bytes and reads until the other side closes.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may have closed already: what it said counts.
    let _ = stream.write_all(bytes).await;
    read_rest(&mut stream).await
}

/// What is still to come; a reset counts as an end.
pub(crate) async fn read_rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    String::from_utf8_lossy(&rest).into_owned()
}
