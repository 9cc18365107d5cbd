//! Backends that write down when each object's requests begin and end, and very many requests at them while reloads fall.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::read_head;
use super::{ACCEPTS, asks_for_websocket, get, nothing_is_left, position, split};
use crate::support::{Backend, Connection, eventually, file, proxy, raw_backend, soon};

/// When each object's requests began and ended, as its backends saw it.
#[derive(Default)]
pub(super) struct Chronicle {
    /// By object: which version has it now, and how many requests it has.
    now: Mutex<HashMap<String, (&'static str, usize)>>,
    pub(super) violations: Mutex<Vec<String>>,
    served: AtomicU64,
}

impl Chronicle {
    fn begins(self: &Arc<Self>, room: &str, version: &'static str) -> Stay {
        let mut now = self.now.lock().unwrap();
        let (has, count) = now.entry(room.to_owned()).or_insert((version, 0));
        if *count > 0 && *has != version {
            let what = format!("{room}: {version} began while {has} had {count}");
            self.violations.lock().unwrap().push(what);
        }
        *has = version;
        *count += 1;
        self.served.fetch_add(1, Ordering::Relaxed);
        Stay { chronicle: Arc::clone(self), room: room.to_owned() }
    }
}

/// A request at its backend.
struct Stay {
    chronicle: Arc<Chronicle>,
    room: String,
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some((_, count)) = self.chronicle.now.lock().unwrap().get_mut(&self.room) {
            *count -= 1;
        }
    }
}

/// The value of a header of a raw head.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// A server that writes down who was served when: plain requests with an answer in two pieces, and WebSockets that send back
/// what they receive. It closes a connection when it has written down the end.
pub(super) async fn witness(version: &'static str, chronicle: &Arc<Chronicle>) -> Backend {
    let chronicle = Arc::clone(chronicle);
    raw_backend(move |mut socket| {
        let chronicle = Arc::clone(&chronicle);
        async move { while let Some(()) = serve(version, &chronicle, &mut socket).await {} }
    })
    .await
}

async fn serve(version: &'static str, chronicle: &Arc<Chronicle>, socket: &mut TcpStream) -> Option<()> {
    let head = read_head(socket).await;
    let room = header(&head, "x-room")?.to_owned();
    let stay = chronicle.begins(&room, version);
    if header(&head, "upgrade").is_some() {
        socket.write_all(ACCEPTS).await.ok()?;
        let mut socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                let _ = socket.send(message).await;
            }
        }
        return None;
    }
    let pause = Duration::from_millis(u64::from(position(&room) % 4));
    let begins = format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{}", &version[..1]);
    let rest = format!("{}..", &version[1..]);
    tokio::time::sleep(pause).await;
    socket.write_all(begins.as_bytes()).await.ok()?;
    tokio::time::sleep(pause).await;
    // Before anybody else can know of it.
    drop(stay);
    socket.write_all(rest.as_bytes()).await.ok()
}

/// A client that asks for one object after the other, some of which others ask for, too.
async fn keep_asking(authority: String, client: u32, over: Arc<AtomicBool>) {
    for turn in 0_u32.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let number = if turn % 3 == 0 { turn % 16 } else { client * 1000 + turn % 1000 };
        let mut connection = Connection::new(Box::new(TcpStream::connect(&authority).await.unwrap()));
        connection.send(get(&format!("room{number}"))).await;
        if turn % 17 == 3 {
            // It does not wait for its answer.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        // Where its object is reset, there may be none, or not all of it.
        let _ = connection.bytes(12).await;
    }
}

/// A client that has a WebSocket for an object as long as it is let, and again.
async fn keep_open(authority: String, room: String) {
    loop {
        let mut socket = TcpStream::connect(&authority).await.unwrap();
        socket.write_all(asks_for_websocket(&room).as_bytes()).await.unwrap();
        if read_head(&mut socket).await.starts_with("HTTP/1.1 101") {
            let mut socket = WebSocketStream::from_raw_socket(socket, Role::Client, None).await;
            while let Some(Ok(_)) = socket.next().await {}
        }
    }
}

/// Thousands of objects on three shards, and reloads at any moment.
async fn storm(handover: &str) {
    let chronicle = Arc::<Chronicle>::default();
    let (one, two) = (witness("v1", &chronicle).await, witness("v2", &chronicle).await);
    let file = |share| split([&one, &two], share, handover).top("[server]\nthreads = 3");
    let mut proxy = proxy(&file(0)).await;
    let over = Arc::new(AtomicBool::new(false));
    let (mut clients, mut sockets) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    for client in 0..24 {
        clients.spawn(keep_asking(proxy.authority(), client, Arc::clone(&over)));
    }
    for number in 0..16 {
        sockets.spawn(keep_open(proxy.authority(), format!("room{number}")));
    }
    for (turn, share) in (1..).zip([20, 20, 50, 30, 100, 0, 70, 100]) {
        let served = || chronicle.served.load(Ordering::Relaxed) >= turn * 300;
        eventually("some more are served", served).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..20))).await;
        proxy.reload(&file(share)).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    soon("the clients' end", clients.join_all()).await;
    sockets.shutdown().await;
    assert_eq!(*chronicle.violations.lock().unwrap(), [""; 0]);
    nothing_is_left(&proxy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_object_is_ever_served_by_two_versions_however_reloads_fall_while_it_drains() {
    storm("timeout = \"200ms\"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_object_is_ever_served_by_two_versions_however_reloads_fall_while_it_is_reset() {
    storm("handover = \"reset\"").await;
}

/// What the test above would find.
#[tokio::test]
async fn without_objects_two_versions_serve_at_once_what_a_request_names() {
    let chronicle = Arc::<Chronicle>::default();
    let (one, two) = (witness("v1", &chronicle).await, witness("v2", &chronicle).await);
    let proxy = proxy(&file().version("v1", &one, 50).version("v2", &two, 50)).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        clients.spawn(keep_asking(proxy.authority(), client, Arc::clone(&over)));
    }
    eventually("it is seen", || !chronicle.violations.lock().unwrap().is_empty()).await;
    over.store(true, Ordering::Relaxed);
    soon("the clients' end", clients.join_all()).await;
}
