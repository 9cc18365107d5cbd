//! Panics, put into every place of a request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio_tungstenite::{accept_async, client_async};

use crate::config::{self, AccessTarget, Address};
use crate::export::access::AccessLog;
use crate::metrics::{Gauges, Registry};
use crate::proxy::{Services, Shards};

type Content = BoxBody<Bytes, Infallible>;

fn content(text: &str) -> Content {
    Full::from(Bytes::copy_from_slice(text.as_bytes())).boxed()
}

/// A body in pieces, of a length that nobody is told.
fn pieces(pieces: impl IntoIterator<Item = Frame<Bytes>>) -> Content {
    let pieces: Vec<_> = pieces.into_iter().map(Ok).collect();
    StreamBody::new(stream::iter(pieces)).boxed()
}

/// A body whose trailers make the proxy panic.
fn with_trailers(text: &'static str) -> Content {
    let trailers = HeaderMap::from_iter([(PANIC, HeaderValue::from_static("trailers"))]);
    pieces([Frame::data(Bytes::from(text)), Frame::trailers(trailers)])
}

/// A body of one piece, which comes when it is told to.
fn later(text: &'static str, when: oneshot::Receiver<()>) -> Content {
    let piece = stream::once(async move {
        let _ = when.await;
        Ok(Frame::data(Bytes::from(text)))
    });
    StreamBody::new(piece).boxed()
}

/// The field that says where to panic.
const PANIC: HeaderName = HeaderName::from_static("x-test-panic");

/// A proxy with one shard.
struct Stage {
    /// Told of the head of each POST that the upstream gets.
    posts: Arc<Notify>,
    shards: Shards,
    registry: Arc<Registry>,
    log: AccessLog,
    folder: tempfile::TempDir,
}

/// Says that trailers come.
fn announce(headers: &mut HeaderMap) {
    headers.insert("trailer", HeaderValue::from_static("x-test-panic"));
}

/// An upstream that answers with the path, `/trailers` with such, and begins with its answer to `/early` before it has the
/// request's body; it tells of each POST's head.
async fn upstream(http2: bool, posts: Arc<Notify>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if http2 { "h2c" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr().unwrap());
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        if request.method() == Method::POST {
            posts.notify_one();
        }
        answer(request)
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            if http2 {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            } else {
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        }
    });
    url
}

async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Content>> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let body = request.into_body().collect();
    if path == "early" {
        let (tell, when) = oneshot::channel();
        tokio::spawn(async move {
            match body.await {
                Ok(_) => drop(tell.send(())),
                // Cut short: the answer does not end by itself either.
                Err(_) => std::future::pending().await,
            }
        });
        return Ok(Response::new(later("early", when)));
    }
    let _ = body.await;
    if path != "trailers" {
        return Ok(Response::new(content(&path)));
    }
    let mut response = Response::new(with_trailers("content"));
    announce(response.headers_mut());
    Ok(response)
}

/// An upstream that agrees to be a WebSocket, and sends back what it gets.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = accept_async(stream).await.unwrap().into_inner().into_split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    url
}

impl Stage {
    async fn new(http2_upstream: bool) -> Self {
        let posts = Arc::<Notify>::default();
        Self::before(upstream(http2_upstream, Arc::clone(&posts)).await, posts).await
    }

    async fn before(upstream: String, posts: Arc<Notify>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "[log]\naccess = \"access.log\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[[worker]]\nname = \"shop\"\n\
             [[worker.version]]\nid = \"v1\"\nupstreams = [\"{upstream}\"]\n\
             [worker.deployment]\nversions = [{{ version_id = \"v1\", percentage = 100 }}]\n"
        );
        let config = config::parse("gradual.toml", &text, folder.path()).unwrap().0;
        let log = AccessLog::open(&AccessTarget::File(folder.path().join("access.log"))).unwrap();
        let registry = Arc::new(Registry::default());
        let services = Services { registry: Arc::clone(&registry), log: log.clone() };
        let mut shards = Shards::start(NonZeroUsize::MIN, &services).unwrap();
        let prepared = shards.prepare(&config).await.unwrap();
        shards.commit(prepared).await;
        Self { posts, shards, registry, log, folder }
    }

    async fn connect(&self) -> TokioIo<TcpStream> {
        let Address::Tcp(address) = self.shards.addresses()[0] else { panic!("not TCP") };
        TokioIo::new(TcpStream::connect(address).await.unwrap())
    }

    async fn http1(&self) -> conn::http1::SendRequest<Content> {
        let (client, connection) = conn::http1::handshake(self.connect().await).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn http2(&self) -> conn::http2::SendRequest<Content> {
        let (client, connection) =
            conn::http2::handshake(TokioExecutor::new(), self.connect().await).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The answer to one request, on a connection of its own.
    async fn send(&self, http2: bool, request: Request<Content>) -> hyper::Result<Response<Incoming>> {
        match http2 {
            true => self.http2().await.send_request(request).await,
            false => self.http1().await.send_request(request).await,
        }
    }

    /// Ends in order; the panics that were counted, and the lines of the access log.
    async fn end(self) -> (String, Vec<serde_json::Value>) {
        assert_eq!(self.shards.drain(Duration::from_secs(60)).await, 0);
        self.log.flush(Duration::from_secs(60));
        let metrics = self.registry.render(&Gauges::default());
        let panics = metrics.lines().find(|line| line.starts_with("gradual_panics_total "));
        let log = std::fs::read_to_string(Path::new(self.folder.path()).join("access.log")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (panics.unwrap().to_owned(), lines)
    }
}

fn asking(http2: bool, path: &str, place: &str) -> Request<Content> {
    request(Method::GET, http2, path).header(PANIC, place).body(content("")).unwrap()
}

fn request(method: Method, http2: bool, path: &str) -> http::request::Builder {
    let target = if http2 { format!("http://a{path}") } else { path.to_owned() };
    Request::builder().method(method).uri(target).header("host", "a")
}

async fn text(response: Response<Incoming>) -> (StatusCode, String, Option<String>) {
    let kind = response.headers().get("gradual-error").map(|kind| kind.to_str().unwrap().to_owned());
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap(), kind)
}

/// Whether a response does not end as it should; before its head, or after it.
async fn is_cut(answer: hyper::Result<Response<Incoming>>) -> bool {
    match answer {
        Ok(response) => response.into_body().collect().await.is_err(),
        Err(_) => true,
    }
}

const PLACES: [&str; 2] = ["admission", "exchange"];

/// The protocols of the upstream and of the client: whether they are HTTP/2.
const PAIRS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[tokio::test]
async fn a_panic_costs_its_request_which_is_answered_and_its_connection_closed() {
    let stage = Stage::new(false).await;
    for place in PLACES {
        let mut client = stage.http1().await;
        let failed = text(client.send_request(asking(false, "/", place)).await.unwrap()).await;
        assert_eq!((failed.0, failed.2.as_deref()), (StatusCode::INTERNAL_SERVER_ERROR, Some("internal")));
        assert!(failed.1.contains("\"error\":\"internal\"") && !failed.1.contains("provoked"), "{failed:?}");
        let mut client = stage.http1().await;
        let next = text(client.send_request(asking(false, "/next", "")).await.unwrap()).await;
        assert_eq!((next.0, &*next.1), (StatusCode::OK, "next"));
    }
    let (panics, lines) = stage.end().await;
    assert_eq!(panics, "gradual_panics_total 2");
    let outcomes: Vec<_> =
        lines.iter().map(|line| (&line["Outcome"], &line["Event"]["Response"]["Status"])).collect();
    let (panicked, whole) = (("exception".into(), 500.into()), ("ok".into(), 200.into()));
    assert_eq!(outcomes, [&panicked, &whole, &panicked, &whole].map(|(outcome, status)| (outcome, status)));
}

#[tokio::test]
async fn a_panic_over_http_2_leaves_the_other_streams_alone() {
    for http2_upstream in [false, true] {
        let stage = Stage::new(http2_upstream).await;
        let mut client = stage.http2().await;
        let before = client.send_request(asking(true, "/before", ""));
        let failing = PLACES.map(|place| client.send_request(asking(true, "/", place)));
        let after = client.send_request(asking(true, "/after", ""));
        for failed in failing {
            assert_eq!(text(failed.await.unwrap()).await.0, StatusCode::INTERNAL_SERVER_ERROR);
        }
        assert_eq!(text(before.await.unwrap()).await.1, "before");
        assert_eq!(text(after.await.unwrap()).await.1, "after");
        drop(client);
        assert_eq!(stage.end().await.0, "gradual_panics_total 2");
    }
}

#[tokio::test]
async fn a_panic_after_the_head_cuts_its_response_and_is_counted() {
    for http2_upstream in [false, true] {
        let stage = Stage::new(http2_upstream).await;
        let mut client = stage.http1().await;
        assert!(is_cut(client.send_request(asking(false, "/body", "")).await).await);
        let mut client = stage.http2().await;
        let cut = client.send_request(asking(true, "/body", ""));
        let other = client.send_request(asking(true, "/other", ""));
        assert!(cut.await.unwrap().into_body().collect().await.is_err());
        assert_eq!(text(other.await.unwrap()).await.1, "other");
        drop(client);
        let (panics, lines) = stage.end().await;
        assert_eq!(panics, "gradual_panics_total 2");
        assert_eq!(lines.iter().filter(|line| line["Outcome"] == "exception").count(), 2);
    }
}

fn post(http2: bool, path: &str, body: Content) -> Request<Content> {
    request(Method::POST, http2, path).body(body).unwrap()
}

#[tokio::test]
async fn a_panic_while_a_body_is_sent_costs_its_request_and_no_other_to_the_same_upstream() {
    for (http2_upstream, http2) in PAIRS {
        for waited_for in [false, true] {
            let stage = Stage::new(http2_upstream).await;
            let (go_on, when) = oneshot::channel();
            let other = stage.send(http2, post(http2, "/other", later("more", when)));
            let failing = async {
                stage.posts.notified().await;
                let (begin, when) = oneshot::channel();
                let body = if waited_for { later("upload", when) } else { content("upload") };
                let failed = stage.send(http2, post(http2, "/", body));
                let begins = async {
                    if waited_for {
                        stage.posts.notified().await;
                    }
                    let _ = begin.send(());
                };
                let (failed, ()) = tokio::join!(failed, begins);
                let failed = text(failed.unwrap()).await;
                assert_eq!(
                    (failed.0, failed.2.as_deref()),
                    (StatusCode::INTERNAL_SERVER_ERROR, Some("internal"))
                );
                go_on.send(()).unwrap();
            };
            let (other, ()) = tokio::join!(other, failing);
            let other = text(other.unwrap()).await;
            assert_eq!((other.0, &*other.1), (StatusCode::OK, "other"));
            let (panics, lines) = stage.end().await;
            assert_eq!(panics, "gradual_panics_total 1");
            assert_eq!(lines.iter().filter(|line| line["Outcome"] == "exception").count(), 1);
        }
    }
}

#[tokio::test]
async fn a_panic_while_a_body_is_sent_cuts_a_response_that_has_begun_and_is_counted() {
    for (http2_upstream, http2) in PAIRS {
        let stage = Stage::new(http2_upstream).await;
        let (begin, when) = oneshot::channel();
        let cut = stage.send(http2, post(http2, "/early", later("upload", when))).await.unwrap();
        assert_eq!(cut.status(), StatusCode::OK);
        begin.send(()).unwrap();
        assert!(is_cut(Ok(cut)).await);
        let next = stage.send(http2, asking(http2, "/next", "")).await.unwrap();
        assert_eq!(text(next).await.1, "next");
        let (panics, lines) = stage.end().await;
        assert_eq!(panics, "gradual_panics_total 1");
        assert_eq!(lines.iter().filter(|line| line["Outcome"] == "exception").count(), 1);
    }
}

#[tokio::test]
async fn a_panic_in_the_trailers_of_a_request_costs_it_and_no_other() {
    for (http2_upstream, http2) in PAIRS {
        let stage = Stage::new(http2_upstream).await;
        let mut upload = post(http2, "/", with_trailers("content"));
        announce(upload.headers_mut());
        let failed = stage.send(http2, upload).await.unwrap();
        assert_eq!(failed.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let next = stage.send(http2, asking(http2, "/next", "")).await.unwrap();
        assert_eq!(text(next).await.1, "next");
        assert_eq!(stage.end().await.0, "gradual_panics_total 1");
    }
}

#[tokio::test]
async fn a_panic_in_the_trailers_of_a_response_cuts_it_and_is_counted() {
    for (http2_upstream, http2) in PAIRS {
        let stage = Stage::new(http2_upstream).await;
        let mut wanted = asking(http2, "/trailers", "");
        wanted.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        if !http2 {
            wanted.headers_mut().insert("connection", HeaderValue::from_static("te"));
        }
        assert!(is_cut(stage.send(http2, wanted).await).await);
        let next = stage.send(http2, asking(http2, "/next", "")).await.unwrap();
        assert_eq!(text(next).await.1, "next");
        let (panics, lines) = stage.end().await;
        assert_eq!(panics, "gradual_panics_total 1");
        assert_eq!(lines.iter().filter(|line| line["Outcome"] == "exception").count(), 1);
    }
}

trait Tunnel: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Tunnel for T {}

/// A tunnel on an HTTP/1.1 connection of its own.
async fn by_upgrade(stage: &Stage) -> Box<dyn Tunnel> {
    let stream = stage.connect().await.into_inner();
    Box::new(client_async("ws://a/chat", stream).await.unwrap().0.into_inner())
}

/// A tunnel on a stream of an HTTP/2 connection.
async fn by_extended_connect(client: &mut conn::http2::SendRequest<Content>) -> Box<dyn Tunnel> {
    loop {
        client.ready().await.unwrap();
        let mut connect = request(Method::CONNECT, true, "/chat").body(content("")).unwrap();
        connect.extensions_mut().insert(Protocol::from_static("websocket"));
        match client.send_request(connect).await {
            Ok(response) => return Box::new(TokioIo::new(hyper::upgrade::on(response).await.unwrap())),
            // The settings that allow it are not here yet: nothing was sent.
            Err(error) if error.is_user() => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_panic_in_a_tunnel_ends_it_and_leaves_the_others_alone() {
    for http2 in [false, true] {
        let stage = Stage::before(echo().await, Arc::default()).await;
        let mut client = stage.http2().await;
        let mut tunnels = Vec::new();
        for _ in 0..2 {
            tunnels.push(match http2 {
                true => by_extended_connect(&mut client).await,
                false => by_upgrade(&stage).await,
            });
        }
        let (mut other, mut failing) = (tunnels.pop().unwrap(), tunnels.pop().unwrap());
        failing.write_all(b"tunnel").await.unwrap();
        let mut came = Vec::new();
        // An end or an error: as the protocol says it.
        let _ = failing.read_to_end(&mut came).await;
        assert!(came.is_empty(), "{came:?}");
        let mut came = [0; 4];
        other.write_all(b"more").await.unwrap();
        other.read_exact(&mut came).await.unwrap();
        assert_eq!(&came, b"more");
        drop((failing, other, client));
        let (panics, lines) = stage.end().await;
        assert_eq!(panics, "gradual_panics_total 1");
        assert_eq!(lines.iter().filter(|line| line["Outcome"] == "exception").count(), 1);
    }
}

/// How many requests each worker of the storm sends, one of them with a panic.
const HUNDRED: usize = 100;
/// How many workers there are for each protocol, and on how many HTTP/2 connections.
const WORKERS: usize = 20;
const SHARING: usize = 4;
/// Where they panic in turn; the last cuts a response that has begun.
const STORM: [&str; 3] = ["admission", "exchange", "body"];

/// What came of requests: whether one panicked, and how it was answered.
type Tally = BTreeMap<(bool, &'static str), usize>;

async fn outcome(answer: hyper::Result<Response<Incoming>>, path: &str) -> &'static str {
    let Ok(response) = answer else { return "cut" };
    let status = response.status();
    match response.into_body().collect().await.map(http_body_util::Collected::to_bytes) {
        _ if status == StatusCode::INTERNAL_SERVER_ERROR => "500",
        _ if status != StatusCode::OK => "another status",
        Err(_) => "cut",
        Ok(body) if body == path[1..] => "whole",
        Ok(_) => "mixed",
    }
}

/// A hundred requests one after another, with a panic at a moment that is the worker's own.
async fn work(stage: Arc<Stage>, number: usize, shared: Option<conn::http2::SendRequest<Content>>) -> Tally {
    let (mut tally, place) = (Tally::new(), STORM[number % STORM.len()]);
    let mut kept = None;
    for count in 0..HUNDRED {
        let panics = count == number * HUNDRED / WORKERS;
        let (path, place) = match (panics, place) {
            (false, _) => (format!("/{number}-{count}"), ""),
            (true, "body") => ("/body".to_owned(), ""),
            (true, place) => (format!("/{number}-{count}"), place),
        };
        let answer = match (&shared, kept.take()) {
            (Some(client), _) => client.clone().send_request(asking(true, &path, place)).await,
            (None, client) => {
                let mut client = match client {
                    Some(client) => client,
                    None => stage.http1().await,
                };
                let answer = client.send_request(asking(false, &path, place)).await;
                kept = Some(client).filter(|_| !panics);
                answer
            }
        };
        *tally.entry((panics, outcome(answer, &path).await)).or_default() += 1;
    }
    tally
}

#[tokio::test]
async fn a_panic_in_every_hundredth_request_costs_these_and_no_other() {
    let stage = Arc::new(Stage::new(false).await);
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        workers.spawn(work(Arc::clone(&stage), number, None));
    }
    for connection in 0..WORKERS / SHARING {
        let client = stage.http2().await;
        for number in 0..SHARING {
            let number = connection * SHARING + number;
            workers.spawn(work(Arc::clone(&stage), number, Some(client.clone())));
        }
    }
    let mut all = Tally::new();
    while let Some(tally) = workers.join_next().await {
        for (came, count) in tally.unwrap() {
            *all.entry(came).or_default() += count;
        }
    }
    let (counted, _) = Arc::into_inner(stage).unwrap().end().await;
    let count = |wanted: &dyn Fn(bool, &str) -> bool| {
        all.iter().filter(|((panics, how), _)| wanted(*panics, how)).map(|(_, count)| count).sum::<usize>()
    };
    // `tests/faults/run` takes this line for its table.
    println!(
        "{} requests over HTTP/1.1 and HTTP/2 at once, {} panics, {} counted: {} answered 500, {} cut where their answer \
         had begun; {} others failed, {} mixed",
        count(&|_, _| true),
        count(&|panics, _| panics),
        counted.trim_start_matches("gradual_panics_total "),
        count(&|panics, how| panics && how == "500"),
        count(&|panics, how| panics && how == "cut"),
        count(&|panics, how| !panics && how != "whole"),
        count(&|_, how| how == "mixed"),
    );
    let requests = 2 * WORKERS * HUNDRED;
    let panics = requests / HUNDRED;
    let cut = 2 * (WORKERS / STORM.len());
    let wanted = [((false, "whole"), requests - panics), ((true, "500"), panics - cut), ((true, "cut"), cut)];
    assert_eq!(all, Tally::from(wanted));
    assert_eq!(counted, format!("gradual_panics_total {panics}"));
}
