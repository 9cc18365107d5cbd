//! The WebSocket of a tail: messages out, signs of life in.

use std::pin::pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use tokio::time::MissedTickBehavior;

use super::Claimed;
use crate::control::status::Status;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How often everything is looked after.
    pub(super) tick: Duration,
    /// How long a reader may be silent before it is asked whether it is there.
    pub(super) ping: Duration,
    /// How long a reader may be silent.
    pub(super) silence: Duration,
    /// How long a message may take on its way out: a reader that does not read is not waited for.
    pub(super) send: Duration,
}

/// What readers get.
pub(super) const PATIENCE: Patience = Patience {
    tick: Duration::from_secs(1),
    ping: Duration::from_secs(10),
    silence: Duration::from_secs(35),
    send: Duration::from_secs(10),
};

/// The most messages in a tick: what is above is dropped where it comes from, as this thread has other work, too.
const MOST_OUT: u32 = 1000;
/// The most that a reader may say in a tick.
const MOST_IN: u32 = 100;

/// RFC 6455 section 7.4.1: it is over.
const NORMAL: u16 = 1000;
/// The same: this end goes away. wrangler comes again.
const AWAY: u16 = 1001;

/// Serves the reader of a tail until either has enough.
pub(super) async fn serve(mut socket: WebSocket, claimed: Claimed, status: &Status, patience: &Patience) {
    let reader = Reader { socket: &mut socket, patience };
    if let Some((code, reason)) = reader.serve(claimed, status).await {
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        let _ = tokio::time::timeout(patience.send, socket.send(close)).await;
    }
}

struct Reader<'a> {
    socket: &'a mut WebSocket,
    patience: &'a Patience,
}

impl Reader<'_> {
    /// Returns how the connection is to be closed; `None`: it is gone.
    async fn serve(mut self, claimed: Claimed, status: &Status) -> Option<(u16, &'static str)> {
        let Claimed { mut tail, worker, expires, mut end, _entry } = claimed;
        let mut tick = tokio::time::interval(self.patience.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drained = pin!(status.drained());
        let (mut heard, mut asked) = (Instant::now(), Instant::now());
        let (mut out, mut words) = (MOST_OUT, MOST_IN);
        loop {
            tokio::select! {
                biased;
                _ = end.changed() => return Some((NORMAL, "the tail was deleted")),
                () = &mut drained => return Some((AWAY, "the proxy ends")),
                _ = tick.tick() => {
                    (out, words) = (MOST_OUT, MOST_IN);
                    let now = Instant::now();
                    if now >= expires {
                        return Some((AWAY, "the tail's time is over"));
                    }
                    if !has(status, &worker) {
                        return Some((NORMAL, "the worker is gone"));
                    }
                    if now.duration_since(heard) > self.patience.silence {
                        return None;
                    }
                    if now.duration_since(heard.max(asked)) >= self.patience.ping {
                        asked = now;
                        self.send(Message::Ping(bytes::Bytes::new())).await?;
                    }
                    let dropped = tail.dropped();
                    if dropped > 0 {
                        self.send(Message::text(tail.overload(dropped, now_ms()))).await?;
                    }
                }
                said = self.socket.recv() => {
                    match said? {
                        Ok(Message::Close(_)) => {
                            // RFC 6455 section 5.5.1: it is answered, which to go on reading does.
                            let _ = tokio::time::timeout(self.patience.send, self.socket.recv()).await;
                            return None;
                        }
                        Err(_) => return None,
                        Ok(_) => heard = Instant::now(),
                    }
                    words = words.checked_sub(1)?;
                }
                message = tail.next(), if out > 0 => {
                    out -= 1;
                    self.send(Message::text(&*message)).await?;
                }
            }
        }
    }

    async fn send(&mut self, message: Message) -> Option<()> {
        tokio::time::timeout(self.patience.send, self.socket.send(message)).await.ok()?.ok()
    }
}

fn has(status: &Status, worker: &str) -> bool {
    let config = status.config();
    config.is_none_or(|config| config.workers.iter().any(|one| one.policy.name.as_str() == worker))
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use axum::Router;
    use axum::extract::ws::WebSocketUpgrade;
    use axum::routing::any;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::sync::oneshot;

    use super::*;
    use crate::config::AccessTarget;
    use crate::control::cloudflare::Sessions;
    use crate::control::status::Facts;
    use crate::export::access::{AccessLog, Outcome, Record};
    use crate::export::tail::{Filter, Seen};
    use crate::proxy::{HealthMeter, LoadMeter};

    /// Far longer than anything takes that does not fail.
    const LONG: Duration = Duration::from_secs(60);

    const SHORT: Patience = Patience {
        tick: Duration::from_millis(5),
        ping: Duration::from_millis(20),
        silence: Duration::from_millis(200),
        send: Duration::from_millis(200),
    };

    /// A tail of `shop` that is served over a real connection.
    struct Stage {
        log: AccessLog,
        stream: TcpStream,
        /// Told when the server has done with it.
        over: oneshot::Receiver<()>,
    }

    async fn stage(patience: Patience) -> Stage {
        let log = AccessLog::open(&AccessTarget::Off).unwrap();
        let facts = Facts {
            name: "gradual.toml".to_owned(),
            file: PathBuf::from("/gradual.toml"),
            threads: 1,
            registry: Arc::default(),
            log: log.clone(),
            load: LoadMeter::default(),
            health: HealthMeter::default(),
        };
        let status = Arc::new(Status::new(facts));
        let sessions = Sessions::default();
        let id = sessions.open("shop", log.tails().subscribe("shop", Filter::default()).unwrap());
        let (told, over) = oneshot::channel();
        let once = Arc::new(std::sync::Mutex::new(Some((sessions.claim(&id).unwrap(), told))));
        let router = Router::new().route(
            "/",
            any(async move |upgrade: WebSocketUpgrade| {
                let (claimed, told) = once.lock().unwrap().take().unwrap();
                upgrade.write_buffer_size(0).on_upgrade(async move |socket| {
                    serve(socket, claimed, &status, &patience).await;
                    told.send(()).unwrap();
                })
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(router);
            let stream = hyper_util::rt::TokioIo::new(stream);
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(stream, service);
            connection.with_upgrades().await.unwrap();
        });
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        Stage { log, stream, over }
    }

    /// A request with a target of 8 KiB.
    fn show(log: &AccessLog) {
        let target = format!("/{}", "a".repeat(8 << 10));
        let record = Record {
            timestamp_ms: 0,
            outcome: Outcome::Ok,
            worker: Some("shop"),
            version: None,
            scheme: "http",
            authority: b"a",
            target: &target,
            method: "GET",
            status: 200,
            ray: 0,
            wall_time: Duration::ZERO,
            reason: None,
            overridden: None,
            upstream: None,
            error: None,
            client: None,
            request_bytes: 0,
            response_bytes: 0,
        };
        let headers = http::HeaderMap::new();
        let seen = Seen { headers: &headers, protocol: http::Version::HTTP_11, problem: None };
        log.sink().show(&record, &seen);
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_is_dropped_and_its_tail_with_it() {
        // It is not asked for signs of life here.
        let patience = Patience { ping: LONG, silence: LONG, ..SHORT };
        let Stage { log, stream, mut over } = stage(patience).await;
        let gone = async {
            while over.try_recv().is_err() {
                show(&log);
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        };
        tokio::time::timeout(LONG, gone).await.expect("it is dropped");
        assert_eq!(log.tails().count(), 0);
        drop(stream);
    }

    #[tokio::test]
    async fn a_reader_that_gives_no_sign_of_life_is_dropped() {
        let Stage { log, mut stream, over } = stage(SHORT).await;
        tokio::time::timeout(LONG, over).await.expect("it is dropped").unwrap();
        assert_eq!(log.tails().count(), 0);
        let mut sent = Vec::new();
        stream.read_to_end(&mut sent).await.unwrap();
        assert!(sent.starts_with(&[0x89, 0]), "it was asked first: {sent:?}");
    }

    #[tokio::test]
    async fn a_reader_that_leaves_ends_its_tail() {
        let Stage { log, stream, over } = stage(PATIENCE).await;
        assert_eq!(log.tails().count(), 1);
        drop(stream);
        tokio::time::timeout(LONG, over).await.expect("it is noticed").unwrap();
        assert_eq!(log.tails().count(), 0);
    }
}
