//! Real servers that record what they receive, and servers of raw bytes.

use std::error::Error;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::client::{Body, pairs};

/// A request as a backend received it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    /// As on the wire; over HTTP/2 with scheme and authority.
    pub(crate) target: String,
    /// In the order of arrival, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Received {
    /// All lines of a name, joined.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let lines = self.headers.iter().filter(|(found, _)| found == name);
        lines.map(|(_, value)| value.clone()).reduce(|all, line| format!("{all} | {line}"))
    }
}

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Handler = Arc<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>;

/// A server in this process. Ends with the test.
pub(crate) struct Backend {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Backend {
    /// For `upstreams`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What was received, whole requests only, by backends that answer by themselves.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The last request received.
    pub(crate) fn last(&self) -> Received {
        self.received().pop().expect("the backend received no request")
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A port that refuses connections, and is nobody else's for as long as this is kept.
pub(crate) struct Nobody {
    url: String,
    _bound: TcpSocket,
}

/// Where nobody listens.
pub(crate) fn nobody() -> Nobody {
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    Nobody { url: format!("http://{}", bound.local_addr().unwrap()), _bound: bound }
}

impl Nobody {
    /// For `upstreams`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

/// A backend that is being described; answers 200 with its name as body and in `x-backend`.
pub(crate) struct Building {
    name: String,
    http2: bool,
    handler: Option<Handler>,
}

/// Describes a backend.
pub(crate) fn backend(name: &str) -> Building {
    Building { name: name.to_owned(), http2: false, handler: None }
}

impl Building {
    /// HTTP/2 by prior knowledge.
    pub(crate) fn h2c(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Answers by a function instead; nothing is recorded then.
    pub(crate) fn answering<F>(
        mut self,
        answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        self.handler = Some(Arc::new(move |request| Box::pin(answer(request))));
        self
    }

    /// Listens on any port.
    pub(crate) async fn start(self) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if self.http2 { "h2c" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        self.serve(url, listener)
    }

    fn serve(self, url: String, listener: TcpListener) -> Backend {
        let received = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let handler = self.handler.unwrap_or_else(|| recording(&self.name, &received));
        let http2 = self.http2;
        let accepted = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                open.spawn(converse(socket, http2, Arc::clone(&handler)));
            }
        });
        Backend { url, received, connections, _tasks: tasks }
    }
}

async fn converse(socket: TcpStream, http2: bool, handler: Handler) {
    let service = service_fn(move |request| {
        let answer = handler(request);
        async { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    // A connection that fails is the test's doing.
    if http2 {
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.enable_connect_protocol().serve_connection(TokioIo::new(socket), service).await;
    } else {
        let server = hyper::server::conn::http1::Builder::new();
        let _ = server.serve_connection(TokioIo::new(socket), service).with_upgrades().await;
    }
}

/// Records the whole request, and answers with the name.
fn recording(name: &str, received: &Arc<Mutex<Vec<Received>>>) -> Handler {
    let (name, received) = (name.to_owned(), Arc::clone(received));
    Arc::new(move |request| {
        let (name, received) = (name.clone(), Arc::clone(&received));
        Box::pin(async move {
            let Ok(whole) = record(request).await else { return Response::new(empty()) };
            received.lock().unwrap().push(whole);
            let mut response = Response::new(body(name.clone()));
            response.headers_mut().insert("x-backend", name.parse().unwrap());
            response
        })
    })
}

/// Reads a whole request.
pub(crate) async fn record(request: Request<Incoming>) -> Result<Received, hyper::Error> {
    let (parts, incoming) = request.into_parts();
    let collected = incoming.collect().await?;
    let trailers = collected.trailers().map(pairs).unwrap_or_default();
    Ok(Received {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers: pairs(&parts.headers),
        body: collected.to_bytes(),
        trailers,
    })
}

/// A body of known length.
pub(crate) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub(crate) fn empty() -> Body {
    body(Bytes::new())
}

/// What a streamed body is fed with.
pub(crate) type Feed = mpsc::Sender<Result<Frame<Bytes>, Box<dyn Error + Send + Sync>>>;

/// A body of unknown length that is fed frame by frame: it ends well when the sender is dropped, and is cut short by
/// an error.
pub(crate) fn frames() -> (Feed, Body) {
    let (feed, frames) = mpsc::channel(1);
    let stream = futures_util::stream::unfold(frames, async |mut frames: mpsc::Receiver<_>| {
        frames.recv().await.map(|frame| (frame, frames))
    });
    (feed, StreamBody::new(stream).boxed_unsync())
}

/// A server of raw bytes: `script` is run with each connection.
pub(crate) async fn raw_backend<F>(script: impl Fn(TcpStream) -> F + Send + 'static) -> Backend
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&connections);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            accepted.fetch_add(1, Ordering::SeqCst);
            open.spawn(script(socket));
        }
    });
    Backend { url, received: Arc::default(), connections, _tasks: tasks }
}

/// A frame of trailers.
pub(crate) fn trailers(fields: &[(&'static str, &'static str)]) -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, http::HeaderValue::from_static(value));
    }
    Frame::trailers(map)
}
