//! Objects: at no moment do two versions serve one of them, and within a deployment none moves.

mod ends;
mod protocols;
mod storm;

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gradual::metrics::Gauges;
use http::{Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::support::{
    Answer, Backend, Body, Connection, Feed, File, Io, Proxy, backend, collect, empty, eventually, file,
    frames, http2, nobody, proxy, raw_backend, soon,
};

use self::storm::{Chronicle, witness};
use super::read_head;

const RESET: &str = "handover = \"reset\"";

/// Objects by a header, handed over as said.
fn objects(more: &str) -> String {
    format!("[worker.objects]\nkey = 'http.request.headers[\"x-room\"][0]'\n{more}")
}

/// Two versions, of which the second has so much.
fn split(versions: [&Backend; 2], second: u32, more: &str) -> File {
    let file = file().worker("expose_version = true").worker_table(&objects(more));
    file.version("v1", versions[0], 100 - second).version("v2", versions[1], second)
}

/// The position of an object on the ring of the worker `shop`, from 0 to 99,999.
fn position(name: &str) -> u32 {
    let hash = xxh3_64_with_seed(name.as_bytes(), xxh3_64(b"shop"));
    u32::try_from((u128::from(hash) * 100_000) >> 64).unwrap()
}

/// A name whose position is among these.
fn named(prefix: &str, positions: std::ops::Range<u32>) -> String {
    let mut names = (0..).map(|number| format!("{prefix}{number}"));
    names.find(|name| positions.contains(&position(name))).unwrap()
}

fn get(room: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: shop.example\r\nX-Room: {room}\r\n\r\n")
}

fn get2(room: &str) -> Request<Body> {
    Request::get("http://shop.example/").header("x-room", room).body(empty()).unwrap()
}

/// Which version answered.
async fn served_by(proxy: &Proxy, room: &str) -> String {
    let answer = soon("an answer", proxy.send(get(room))).await;
    assert_eq!(answer.status, 200, "{:?}", String::from_utf8_lossy(&answer.body));
    String::from_utf8(answer.body.to_vec()).unwrap()
}

fn live(proxy: &Proxy) -> u64 {
    proxy.metric(r#"gradual_objects_live{worker="shop"}"#)
}

fn waiting(proxy: &Proxy) -> u64 {
    proxy.metric(r#"gradual_objects_waiting{worker="shop"}"#)
}

async fn nothing_is_left(proxy: &Proxy) {
    eventually("the table is empty", || live(proxy) == 0 && waiting(proxy) == 0).await;
}

const ACCEPTS: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn asks_for_websocket(room: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: shop.example\r\nX-Room: {room}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A WebSocket for an object, through the proxy.
async fn websocket(proxy: &Proxy, room: &str) -> WebSocketStream<TcpStream> {
    let mut socket = TcpStream::connect(proxy.authority()).await.unwrap();
    socket.write_all(asks_for_websocket(room).as_bytes()).await.unwrap();
    let head = soon("the head", read_head(&mut socket)).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    WebSocketStream::from_raw_socket(socket, Role::Client, None).await
}

/// It sends back what it receives.
async fn echoes<S: Io>(socket: &mut WebSocketStream<S>) {
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(soon("an echo", socket.next()).await.unwrap().unwrap(), Message::text("hello"));
}

/// The other side goes away (RFC 6455 section 7.4.1).
async fn is_cut<S: Io>(mut socket: WebSocketStream<S>) {
    match soon("the end", socket.next()).await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Away),
        other => panic!("not closed: {other:?}"),
    }
}

/// A server that answers with its version's name.
async fn plain(version: &'static str) -> Backend {
    backend(version).start().await
}

/// A server that holds every request until it is let answer.
struct Holding {
    backend: Backend,
    answers: Arc<Semaphore>,
    count: Arc<AtomicUsize>,
}

async fn holding(version: &'static str) -> Holding {
    let (answers, count) = (Arc::new(Semaphore::new(0)), Arc::<AtomicUsize>::default());
    let (of_backend, counted) = (Arc::clone(&answers), Arc::clone(&count));
    let held = backend(version).answering(move |_| {
        let answers = Arc::clone(&of_backend);
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            answers.acquire().await.unwrap().forget();
            Response::new(crate::support::body(version))
        }
    });
    Holding { backend: held.start().await, answers, count }
}

impl Holding {
    /// How many requests have reached it.
    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Lets it answer so many requests.
    fn answer(&self, count: usize) {
        self.answers.add_permits(count);
    }

    /// A client whose request for an object it holds.
    async fn holds(&self, proxy: &Proxy, room: &str) -> Connection {
        let (before, mut client) = (self.count(), proxy.connect().await);
        client.send(get(room)).await;
        eventually("the request is held", || self.count() > before).await;
        client
    }
}

fn room_of(request: &Request<Incoming>) -> String {
    request.headers()["x-room"].to_str().unwrap().to_owned()
}

/// What goes on with an answer, by the object that it is for.
type Feeds = Arc<Mutex<HashMap<String, Feed>>>;

/// Begins every answer with `one`, and ends none by itself.
fn endless(feeds: &Feeds) -> impl Fn(Request<Incoming>) -> Ready<Response<Body>> + Send + Sync + use<> {
    let feeds = Arc::clone(feeds);
    move |request| {
        let (feed, body) = frames();
        feed.try_send(Ok(Frame::data(Bytes::from_static(b"one")))).unwrap();
        feeds.lock().unwrap().insert(room_of(&request), feed);
        ready(Response::new(body))
    }
}

/// An object that belongs to `two` since a reload, while `one` still holds a request for it.
struct Moved {
    proxy: Proxy,
    one: Holding,
    two: Backend,
    /// Whose request is held.
    first: Connection,
}

/// `lobby`, and every other object, moves from a server that holds its request to one that answers at once.
async fn moved() -> Moved {
    moved_to("lobby", plain("v2").await).await
}

async fn moved_to(room: &str, two: Backend) -> Moved {
    let one = holding("v1").await;
    let proxy = proxy(&split([&one.backend, &two], 0, "")).await;
    let first = one.holds(&proxy, room).await;
    let mut moved = Moved { proxy, one, two, first };
    moved.reload(100, "").await;
    moved
}

impl Moved {
    /// The second version has so much from now on.
    async fn reload(&mut self, second: u32, more: &str) {
        let file = split([&self.one.backend, &self.two], second, more);
        self.proxy.reload(&file).await.unwrap();
    }

    /// The first version ends what it holds.
    async fn ends(&mut self) {
        self.one.answer(1);
        assert_eq!(self.first.answer().await.body, b"v1");
    }
}

/// A client whose request waits for an object; no other waits.
async fn waits_for(proxy: &Proxy, room: &str) -> Connection {
    let mut client = proxy.connect().await;
    client.send(get(room)).await;
    eventually("it waits", || waiting(proxy) == 1).await;
    client
}

/// A request over HTTP/2 that is under way.
type Asked = JoinHandle<hyper::Result<Response<Incoming>>>;

fn asks2(client: &mut SendRequest<Body>, room: &str) -> Asked {
    tokio::spawn(client.send_request(get2(room)))
}

async fn answered(asked: Asked) -> Answer {
    collect(soon("an answer", asked).await.unwrap().unwrap()).await
}

#[tokio::test]
async fn an_object_has_one_version_whatever_key_or_override_its_request_has() {
    let (one, two) = (plain("v1").await, plain("v2").await);
    let proxy = proxy(&split([&one, &two], 50, "")).await;
    for (room, version) in [(named("a", 0..50_000), "v1"), (named("a", 50_000..100_000), "v2")] {
        for other in ["v1", "v2"] {
            let lines = format!(
                "X-Room: {room}\r\nCloudflare-Workers-Version-Overrides: shop=\"{other}\"\r\n\
                 Cloudflare-Workers-Version-Key: {other}"
            );
            let answer = proxy.get_with("/", &[&lines]).await;
            let says = answer.header("gradual-version").unwrap();
            assert!(says.starts_with(&format!("\"{version}\"")), "{says}");
            assert!(says.contains("reason=object;override=object"), "{says}");
        }
    }
    // Without an object, an override and a key count.
    let overrides = "Cloudflare-Workers-Version-Overrides: shop=\"v2\"";
    let says = proxy.get_with("/", &[overrides]).await.header("gradual-version").unwrap();
    assert!(says.contains("reason=override") && says.starts_with("\"v2\""), "{says}");
    let says = proxy.get_with("/", &["X-Room:", overrides]).await.header("gradual-version").unwrap();
    assert!(says.contains("reason=override"), "an empty name is none: {says}");
    nothing_is_left(&proxy).await;
}

/// Another worker of the file has objects of the same names.
#[tokio::test]
async fn a_worker_without_objects_never_touches_the_table_of_live_ones() {
    let (one, two, other) = (holding("v1").await, plain("v2").await, holding("v1").await);
    let chat = format!(
        "[[worker]]\nname = \"chat\"\nroutes = [\"chat.example/*\"]\n{}\n\
         [[worker.version]]\nid = \"v1\"\nupstreams = [\"{}\"]\n\
         [worker.deployment]\nversions = [{{ version_id = \"v1\", percentage = 100 }}]",
        objects(""),
        other.backend.url(),
    );
    let file = |second| {
        let file = file().version("v1", &one.backend, 100 - second).version("v2", &two, second);
        file.worker("routes = [\"shop.example/*\"]").end(&chat)
    };
    let mut proxy = proxy(&file(0)).await;
    let mut first = one.holds(&proxy, "lobby").await;
    let mut chats = proxy.connect().await;
    chats.send(get("lobby").replace("shop.example", "chat.example")).await;
    eventually("both are held", || other.count() == 1).await;
    proxy.reload(&file(100)).await.unwrap();
    assert_eq!(served_by(&proxy, "lobby").await, "v2", "while v1 still holds the other");
    let metrics = proxy.registry.render(&Gauges::default());
    let live: Vec<_> = metrics.lines().filter(|line| line.starts_with("gradual_objects_live{")).collect();
    assert_eq!(live, [r#"gradual_objects_live{worker="chat"} 1"#]);
    one.answer(1);
    other.answer(1);
    assert_eq!((first.answer().await.body, chats.answer().await.body), (b"v1".to_vec(), b"v1".to_vec()));
}

/// Cloudflare's documentation shows three objects, of which a first deployment of 20 % reaches one, 50 % another, and 100 %
/// the last.
#[tokio::test]
async fn three_steps_of_a_rollout_move_each_object_once_and_never_back() {
    let (one, two) = (plain("v1").await, plain("v2").await);
    // In the order of the file the growing version has the last positions.
    let rooms = [named("foo", 80_000..100_000), named("bar", 50_000..80_000), named("baz", 0..50_000)];
    let mut proxy = proxy(&split([&one, &two], 0, "")).await;
    for (share, expected) in [
        (0, ["v1", "v1", "v1"]),
        (20, ["v2", "v1", "v1"]),
        (50, ["v2", "v2", "v1"]),
        (100, ["v2", "v2", "v2"]),
    ] {
        proxy.reload(&split([&one, &two], share, "")).await.unwrap();
        for _ in 0..3 {
            for (room, version) in rooms.iter().zip(expected) {
                assert_eq!(served_by(&proxy, room).await, version, "{room} at {share} %");
            }
        }
    }
    nothing_is_left(&proxy).await;
}

#[tokio::test]
async fn a_request_for_a_moved_object_waits_until_the_other_version_has_ended() {
    let mut moved = moved().await;
    let mut second = waits_for(&moved.proxy, "lobby").await;
    let third = asks2(&mut http2(moved.proxy.pipe().await).await, "lobby");
    eventually("both wait", || waiting(&moved.proxy) == 2).await;
    assert_eq!(served_by(&moved.proxy, "another").await, "v2", "only its own requests wait");
    assert_eq!(moved.two.received().len(), 1);
    moved.ends().await;
    assert_eq!(second.answer().await.body, b"v2");
    assert_eq!(answered(third).await.body, b"v2");
    nothing_is_left(&moved.proxy).await;
    assert_eq!(moved.proxy.metric(r#"gradual_object_handovers_total{worker="shop",result="drained"}"#), 1);
}

#[tokio::test]
async fn an_object_that_comes_back_does_not_wait_for_its_own_version() {
    let mut moved = moved().await;
    let mut second = waits_for(&moved.proxy, "lobby").await;
    moved.reload(0, "").await;
    eventually("it goes to the version that still has it", || moved.one.count() == 2).await;
    moved.one.answer(2);
    for connection in [&mut moved.first, &mut second] {
        assert_eq!(connection.answer().await.body, b"v1");
    }
    assert!(moved.two.received().is_empty());
    nothing_is_left(&moved.proxy).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_is_not_served_and_leaves_nothing_behind() {
    let mut moved = moved().await;
    drop(waits_for(&moved.proxy, "lobby").await);
    eventually("it waits no more", || waiting(&moved.proxy) == 0).await;
    moved.ends().await;
    nothing_is_left(&moved.proxy).await;
    assert!(moved.two.received().is_empty());
}

#[tokio::test]
async fn requests_that_wait_are_bounded_and_the_others_are_answered_503_at_once() {
    let mut moved = moved().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(http2(moved.proxy.pipe().await).await);
    }
    let waits: Vec<_> = (0..256).map(|at| asks2(&mut clients[at % 4], "lobby")).collect();
    eventually("as many wait as may", || waiting(&moved.proxy) == 256).await;
    let refused = moved.proxy.send(get("lobby")).await;
    assert_eq!(refused.failure(), (503, "object-moving".to_owned()));
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    moved.ends().await;
    for wait in waits {
        assert_eq!(answered(wait).await.body, b"v2");
    }
    assert_eq!(moved.proxy.metric(r#"gradual_object_refusals_total{worker="shop"}"#), 1);
    nothing_is_left(&moved.proxy).await;
}

#[tokio::test]
async fn a_version_that_is_down_keeps_its_objects_and_they_are_answered_503() {
    let two = plain("v2").await;
    let (first, second) = (named("a", 0..50_000), named("a", 50_000..100_000));
    let one = nobody();
    let mut file = file().worker("on_unavailable = \"remap\"").worker_table(&objects(""));
    file = file.version_at("v1", &[one.url()], 50).version("v2", &two, 50);
    let proxy = proxy(&file).await;
    for _ in 0..12 {
        let answer = proxy.send(get(&first)).await;
        assert_eq!(answer.status, 503);
    }
    assert_eq!(served_by(&proxy, &second).await, "v2");
    assert_eq!(two.received().len(), 1);
    nothing_is_left(&proxy).await;
}

#[tokio::test]
async fn reset_cuts_requests_responses_and_tunnels_before_the_new_version_is_asked() {
    let chronicle = Arc::<Chronicle>::default();
    let (one, two) = (witness("v1", &chronicle).await, witness("v2", &chronicle).await);
    let mut proxy = proxy(&split([&one, &two], 0, RESET)).await;
    let mut socket = websocket(&proxy, "lobby").await;
    echoes(&mut socket).await;
    proxy.reload(&split([&one, &two], 100, RESET)).await.unwrap();
    is_cut(socket).await;
    assert_eq!(served_by(&proxy, "lobby").await, "v2..");
    assert_eq!(chronicle.violations(), [""; 0]);
    assert_eq!(proxy.metric(r#"gradual_object_handovers_total{worker="shop",result="cut"}"#), 1);
    nothing_is_left(&proxy).await;
}

#[tokio::test]
async fn a_request_that_waits_for_its_head_is_answered_503_when_its_object_is_cut() {
    let (one, two) = (holding("v1").await, plain("v2").await);
    let mut proxy = proxy(&split([&one.backend, &two], 0, RESET)).await;
    let mut first = one.holds(&proxy, "lobby").await;
    let second = asks2(&mut http2(proxy.pipe().await).await, "lobby");
    eventually("v1 has both", || one.count() == 2).await;
    proxy.reload(&split([&one.backend, &two], 100, RESET)).await.unwrap();
    for answer in [first.answer().await, answered(second).await] {
        assert_eq!(answer.failure(), (503, "object-moving".to_owned()));
    }
    assert_eq!(served_by(&proxy, "lobby").await, "v2");
    nothing_is_left(&proxy).await;
}

/// A response without end, over either protocol, is cut so that it does not look whole.
#[tokio::test]
async fn a_response_that_outlives_its_time_is_cut_short_and_never_looks_whole() {
    let timeout = "timeout = \"100ms\"";
    let feeds = Feeds::default();
    let (one, two) = (backend("v1").answering(endless(&feeds)).start().await, plain("v2").await);
    let mut proxy = proxy(&split([&one, &two], 0, timeout)).await;
    let mut first = proxy.connect().await;
    first.send(get("lobby")).await;
    assert_eq!(first.head().await.status, 200);
    assert_eq!(first.bytes(8).await, b"3\r\none\r\n");
    let mut second = http2(proxy.pipe().await).await;
    let second = soon("an answer", second.send_request(get2("attic"))).await.unwrap();
    proxy.reload(&split([&one, &two], 100, timeout)).await.unwrap();
    assert_eq!(served_by(&proxy, "lobby").await, "v2");
    assert_eq!(first.rest().await, b"", "no last chunk");
    assert!(!collect(second).await.whole);
    nothing_is_left(&proxy).await;
}

#[tokio::test]
async fn a_stream_that_had_to_wait_is_cut_without_the_others_of_its_connection() {
    let (lobby, attic) = (named("lobby", 0..50_000), named("attic", 50_000..100_000));
    let feeds = Feeds::default();
    let mut moved = moved_to(&lobby, backend("v2").answering(endless(&feeds)).start().await).await;
    let mut client = http2(moved.proxy.pipe().await).await;
    let waits = asks2(&mut client, &lobby);
    eventually("it waits", || waiting(&moved.proxy) == 1).await;
    let stays = soon("an answer", client.send_request(get2(&attic))).await.unwrap();
    moved.ends().await;
    let cut = soon("an answer", waits).await.unwrap().unwrap();
    moved.reload(50, RESET).await;
    assert!(!collect(cut).await.whole);
    let feed = feeds.lock().unwrap().remove(&attic).unwrap();
    feed.send(Ok(Frame::data(Bytes::from_static(b"still")))).await.unwrap();
    drop(feed);
    let answer = collect(stays).await;
    assert_eq!((answer.whole, &answer.body[..]), (true, &b"onestill"[..]));
    nothing_is_left(&moved.proxy).await;
}

#[tokio::test]
async fn a_drained_websocket_goes_on_until_it_is_closed_or_its_time_is_up() {
    let chronicle = Arc::<Chronicle>::default();
    let (one, two) = (witness("v1", &chronicle).await, witness("v2", &chronicle).await);
    let mut proxy = proxy(&split([&one, &two], 0, "")).await;
    let mut socket = websocket(&proxy, "lobby").await;
    let short = websocket(&proxy, "attic").await;
    proxy.reload(&split([&one, &two], 100, "")).await.unwrap();
    echoes(&mut socket).await;
    let mut waits = waits_for(&proxy, "lobby").await;
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = soon("the end", socket.next()).await {}
    drop(socket);
    assert_eq!(waits.answer().await.body, b"v2..");
    // The other one moves on with less time, and is closed.
    proxy.reload(&split([&one, &two], 99, "timeout = \"50ms\"")).await.unwrap();
    is_cut(short).await;
    nothing_is_left(&proxy).await;
    assert_eq!(chronicle.violations(), [""; 0]);
}

#[tokio::test]
async fn a_request_that_waits_for_too_long_is_answered_503() {
    // A peer that stops within a frame, and then does not answer the goodbye, keeps its object longer than a request waits.
    let silent = raw_backend(async |mut socket| {
        if !read_head(&mut socket).await.is_empty() {
            socket.write_all(ACCEPTS).await.unwrap();
            socket.write_all(b"\x81\x7e\x01\x00begun").await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let two = plain("v2").await;
    let reset = format!("{RESET}\ntimeout = \"1ms\"");
    let mut proxy = proxy(&split([&silent, &two], 0, &reset)).await;
    let mut socket = websocket(&proxy, "lobby").await.into_inner();
    let mut begun = [0; 9];
    soon("a part of a frame", socket.read_exact(&mut begun)).await.unwrap();
    proxy.reload(&split([&silent, &two], 100, &reset)).await.unwrap();
    // One that still sends when it is refused reads its answer all the same, and goes on.
    let mut sends = proxy.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: shop.example\r\nX-Room: lobby\r\nContent-Length: 10\r\n\r\n";
    sends.send(format!("{head}hello")).await;
    for answer in [soon("an answer", proxy.send(get("lobby"))).await, sends.answer().await] {
        assert_eq!(answer.failure(), (503, "object-moving".to_owned()));
    }
    sends.send(format!("world{}", get("another"))).await;
    assert_eq!(sends.answer().await.body, b"v2");
    assert_eq!(served_by_in_the_end(&proxy, "lobby").await, "v2");
}

/// As [`served_by`], however often it has to be asked.
async fn served_by_in_the_end(proxy: &Proxy, room: &str) -> String {
    let ask = async {
        loop {
            let answer = proxy.send(get(room)).await;
            if answer.status == 200 {
                return answer.text().to_owned();
            }
        }
    };
    soon("a version answers", ask).await
}
