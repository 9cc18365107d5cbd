//! Backends that write down when each object's requests begin and end, and very many requests at them while reloads fall.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::read_head;
use super::{ACCEPTS, asks_for_websocket, get, nothing_is_left, position, split};
use crate::support::{Backend, eventually, file, proxy, raw_backend, soon};

/// When each object's requests began and ended, as its backends saw it.
#[derive(Default)]
pub(super) struct Chronicle {
    /// By object: which version has it now, and how many requests it has.
    now: Mutex<HashMap<String, (&'static str, usize)>>,
    violations: Mutex<Vec<String>>,
}

impl Chronicle {
    pub(super) fn begins(self: &Arc<Self>, room: &str, version: &'static str) -> Stay {
        let mut now = self.now.lock().unwrap();
        let (has, count) = now.entry(room.to_owned()).or_insert((version, 0));
        if *count > 0 && *has != version {
            let what = format!("{room}: {version} began while {has} had {count}");
            self.violations.lock().unwrap().push(what);
        }
        *has = version;
        *count += 1;
        Stay { chronicle: Arc::clone(self), room: room.to_owned() }
    }

    /// Requests that one version was asked while another was at the same object.
    pub(super) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    /// Which version has had an object last.
    pub(super) fn version_of(&self, room: &str) -> Option<&'static str> {
        self.now.lock().unwrap().get(room).map(|(version, _)| *version)
    }

    /// How many requests are at their backends.
    pub(super) fn under_way(&self) -> usize {
        self.now.lock().unwrap().values().map(|(_, count)| count).sum()
    }
}

/// A request at its backend.
pub(super) struct Stay {
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
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
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

/// A head behind which nothing comes before it is answered.
async fn whole_head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8(head).ok()
}

async fn serve(version: &'static str, chronicle: &Arc<Chronicle>, socket: &mut TcpStream) -> Option<()> {
    let head = whole_head(socket).await?;
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

/// How many objects there are. Each client asks for those of its pair, and for those that have WebSockets, too.
const ROOMS: usize = PAIRS * OF_A_PAIR;
const PAIRS: usize = 32;
const OF_A_PAIR: usize = 64;
const WITH_SOCKETS: usize = 16;

/// What clients were answered.
#[derive(Default)]
struct Answers(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// The second version's share in each deployment so far.
    shares: Vec<u32>,
    /// Whether no reload is under way.
    is_settled: bool,
    is_over: bool,
    /// By object and deployment: who was answered by which version.
    rooms: BTreeMap<(usize, usize), Answered>,
    /// How many objects two clients were answered for in this deployment.
    shared: usize,
    /// Objects for which two versions answered in one deployment.
    moves: Vec<String>,
}

struct Answered {
    by: String,
    client: usize,
    is_shared: bool,
}

impl Answers {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }

    /// A reload begins.
    fn unsettle(&self) {
        self.seen().is_settled = false;
    }

    /// It is through.
    fn settle(&self, share: u32) {
        let mut seen = self.seen();
        seen.shares.push(share);
        (seen.is_settled, seen.shared) = (true, 0);
    }

    /// The deployment that holds, where no reload is under way; the error: it is over.
    fn deployment(&self) -> Result<Option<usize>, ()> {
        let seen = self.seen();
        if seen.is_over { Err(()) } else { Ok(seen.is_settled.then_some(seen.shares.len())) }
    }

    /// A client was answered. It counts where the deployment was the same all the time.
    fn note(&self, client: usize, room: usize, asked_in: Option<usize>, by: &str) {
        let mut seen = self.seen();
        let now = seen.is_settled.then_some(seen.shares.len());
        let Some(deployment) = now.filter(|_| asked_in == now) else { return };
        let first = Answered { by: by.to_owned(), client, is_shared: false };
        let answered = seen.rooms.entry((room, deployment)).or_insert(first);
        let is_second = answered.client != client && !answered.is_shared;
        answered.is_shared |= is_second;
        let before = answered.by.clone();
        seen.shared += usize::from(is_second);
        if before != by {
            seen.moves.push(format!("room{room}: {before} and {by} in deployment {deployment}"));
        }
    }
}

impl Seen {
    /// Whether an object, from one deployment in which it was asked for to the next one, goes to the version that grows all
    /// the time, or stays.
    fn went_back(&self) -> Vec<String> {
        let pairs = self.rooms.iter().zip(self.rooms.iter().skip(1));
        let of_one = pairs.filter(|(((one, _), _), ((other, _), _))| one == other);
        let wrong = of_one.filter(|(((_, from), before), ((_, to), after))| {
            let shares = &self.shares[from - 1..*to];
            let is_second = |answered: &Answered| answered.by.starts_with("v2");
            shares.is_sorted() && is_second(before) && !is_second(after)
                || shares.is_sorted_by(|a, b| a >= b) && !is_second(before) && is_second(after)
        });
        wrong.map(|(((room, from), _), ((_, to), _))| format!("room{room} from {from} to {to}")).collect()
    }

    /// For how many objects both versions have answered, one after the other.
    fn handed_over(&self) -> usize {
        let mut versions = HashMap::<usize, HashSet<&str>>::new();
        for ((room, _), answered) in &self.rooms {
            versions.entry(*room).or_default().insert(&answered.by);
        }
        versions.values().filter(|versions| versions.len() == 2).count()
    }
}

/// A client that asks for one object after the other, all of which others ask for, too.
async fn keep_asking(authority: String, client: usize, answers: Arc<Answers>) {
    let mut kept = None;
    for turn in 0.. {
        let Ok(deployment) = answers.deployment() else { return };
        let room = match turn % 9 {
            0 => (turn / 9) % WITH_SOCKETS,
            _ => (client / 2) * OF_A_PAIR + turn % OF_A_PAIR,
        };
        let mut socket = match kept.take() {
            Some(socket) => socket,
            None => TcpStream::connect(&authority).await.unwrap(),
        };
        if socket.write_all(get(&format!("room{room}")).as_bytes()).await.is_err() {
            continue;
        }
        if turn % 17 == 3 {
            // It does not wait for its answer.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        // Where its object is reset, there may be none, or not all of it.
        let Some(by) = answer(&mut socket).await else { continue };
        answers.note(client, room, deployment, &by);
        kept = Some(socket);
    }
}

/// The body of an answer that is one of a version, and whole.
async fn answer(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if soon("a piece", socket.read_buf(&mut bytes)).await.ok()? == 0 {
            return None;
        }
        let text = std::str::from_utf8(&bytes).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if !head.starts_with("HTTP/1.1 200") {
            return None;
        }
        if body.len() == 4 {
            return Some(body.to_owned());
        }
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
    let (chronicle, answers) = (Arc::<Chronicle>::default(), Arc::<Answers>::default());
    let (one, two) = (witness("v1", &chronicle).await, witness("v2", &chronicle).await);
    let file = |share| split([&one, &two], share, handover).top("[server]\nthreads = 3");
    let mut proxy = proxy(&file(0)).await;
    answers.settle(0);
    let (mut clients, mut sockets) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    for client in 0..2 * PAIRS {
        clients.spawn(keep_asking(proxy.authority(), client, Arc::clone(&answers)));
    }
    for number in 0..WITH_SOCKETS {
        sockets.spawn(keep_open(proxy.authority(), format!("room{number}")));
    }
    // Most reloads fall where they fall; before these, two clients have been answered for every object.
    for (share, is_awaited) in [(20, true), (50, false), (30, false), (100, false), (0, true), (70, false)] {
        if is_awaited {
            let shared = || answers.seen().shared == ROOMS;
            eventually("every object is asked for by two clients", shared).await;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..50))).await;
        answers.unsettle();
        proxy.reload(&file(share)).await.unwrap();
        answers.settle(share);
    }
    answers.seen().is_over = true;
    soon("the clients' end", clients.join_all()).await;
    sockets.shutdown().await;
    assert_eq!(chronicle.violations(), [""; 0]);
    nothing_is_left(&proxy).await;
    let seen = answers.seen();
    assert_eq!(seen.moves, [""; 0], "within a deployment");
    assert_eq!(seen.went_back(), [""; 0]);
    assert_eq!(seen.handed_over(), ROOMS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_object_is_ever_served_by_two_versions_however_reloads_fall_while_it_drains() {
    storm("timeout = \"200ms\"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_object_is_ever_served_by_two_versions_however_reloads_fall_while_it_is_reset() {
    storm("handover = \"reset\"").await;
}

/// What the tests above would find.
#[tokio::test]
async fn without_objects_two_versions_serve_at_once_what_a_request_names() {
    let (chronicle, answers) = (Arc::<Chronicle>::default(), Arc::<Answers>::default());
    let (one, two) = (witness("v1", &chronicle).await, witness("v2", &chronicle).await);
    let proxy = proxy(&file().version("v1", &one, 50).version("v2", &two, 50)).await;
    answers.settle(50);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        clients.spawn(keep_asking(proxy.authority(), client, Arc::clone(&answers)));
    }
    eventually("it is seen", || !chronicle.violations().is_empty()).await;
    eventually("so is the change", || !answers.seen().moves.is_empty()).await;
    answers.seen().is_over = true;
    soon("the clients' end", clients.join_all()).await;
}
