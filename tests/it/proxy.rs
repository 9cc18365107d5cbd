//! The data plane end to end: real sockets on loopback, real backends, exact bytes.

mod assets;
mod bodies;
mod budget;
mod calls;
mod caps;
mod choice;
mod cookie;
mod drain;
mod ejection;
mod failures;
mod flow;
mod forwarding;
mod handover;
mod heads;
mod http2;
mod http2_upstream;
mod kit;
mod limits;
mod objects;
mod pools;
mod proxy_protocol;
mod recipes;
mod records;
mod reload;
mod retire;
mod retries;
mod rules;
mod secrets;
mod tls;
mod truth;
mod tunnel;
mod unix;
mod websocket;

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Backend, backend, raw_backend};

/// Two backends that answer with their names.
async fn two() -> (Backend, Backend) {
    (backend("v1").start().await, backend("v2").start().await)
}

/// Reads up to the end of a head; what follows it is left. Shorter where the connection ends.
async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// The heads that a raw backend received, as they were on the wire.
type Heads = Arc<Mutex<Vec<String>>>;

/// A backend that answers every head with these bytes, and closes where they say so.
async fn answering(bytes: &'static str) -> (Backend, Heads) {
    let heads = Heads::default();
    let received = Arc::clone(&heads);
    let backend = raw_backend(move |mut socket| {
        let received = Arc::clone(&received);
        async move {
            loop {
                let head = read_head(&mut socket).await;
                if head.is_empty() {
                    return;
                }
                received.lock().unwrap().push(head);
                if socket.write_all(bytes.as_bytes()).await.is_err() || !bytes.contains("keep-alive") {
                    return;
                }
            }
        }
    })
    .await;
    (backend, heads)
}
