//! An upstream that reads by the letter what the proxy sends, and answers as the path says.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use gradual::model::overrides::{OVERRIDES_HEADER, tokens};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::strict::{Framing, Message, is_token};

/// Counts what happens, so that it is known when nothing does any more.
pub(super) type Activity = Rc<Cell<u64>>;

/// Listens at a path for as long as the runtime lives.
pub(super) fn listen(path: &Path, activity: &Activity) -> std::io::Result<()> {
    let listener = UnixListener::bind(path)?;
    let activity = Rc::clone(activity);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(serve(stream, Rc::clone(&activity)));
        }
    });
    Ok(())
}

async fn serve(mut stream: UnixStream, activity: Activity) {
    let mut received = Vec::new();
    loop {
        let Some(request) = read_head(&mut stream, &mut received, &activity).await else { return };
        check(&request);
        received.drain(..request.head);
        let wanted = request.start.split(' ').nth(1).and_then(|target| target.as_bytes().get(1).copied());
        if wanted == Some(b'e') {
            // Answers before the body.
            let _ = stream
                .write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .await;
            return;
        }
        let Some(length) = read_body(&mut stream, &mut received, &request, &activity).await else { return };
        received.drain(..length);
        assert!(received.is_empty(), "bytes before the answer: {:?}", String::from_utf8_lossy(&received));
        activity.set(activity.get() + 1);
        let head = request.start.starts_with("HEAD ");
        let (answer, stays) = answer(wanted, head, &request);
        if stream.write_all(&answer).await.is_err() || !stays {
            return;
        }
    }
}

/// What is answered, and whether the connection stays open.
fn answer(wanted: Option<u8>, head: bool, request: &Message) -> (Vec<u8>, bool) {
    let method = if head { "HEAD" } else { "-" };
    let mark = format!("X-Canned: {method}\r\n");
    let text = |status: &str, fields: &str, body: &str| {
        let body = if head { "" } else { body };
        format!("HTTP/1.1 {status}\r\n{mark}{fields}\r\n{body}").into_bytes()
    };
    match wanted {
        Some(b'c') => {
            let fields = "Transfer-Encoding: chunked\r\nTrailer: x-end\r\n";
            (text("200 OK", fields, "3\r\nabc\r\n0\r\nX-End: 1\r\nSet-Cookie: a\r\n\r\n"), true)
        }
        Some(b'n') => (text("204 No Content", "", ""), true),
        Some(b'g') => (b"nonsense\r\n\r\n".to_vec(), false),
        Some(b'x') => (Vec::new(), false),
        Some(b'l') => (text("200 OK", "Content-Length: 10\r\n", "cut"), false),
        Some(b'b') => {
            let fields = "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n";
            (text("200 OK", fields, "1\r\na\r\n0\r\n\r\n"), false)
        }
        Some(b'o') => (text("200 OK", "", "until the end"), false),
        Some(b'i') => {
            let final_answer = text("200 OK", "Content-Length: 2\r\n", "ok");
            ([b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n", &final_answer[..]].concat(), true)
        }
        Some(b'u') => {
            let named = request.values("upgrade").next().map(String::from_utf8_lossy).unwrap_or_default();
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {named}\r\n\r\n"
            );
            (head.into_bytes(), false)
        }
        Some(b'h') => {
            let fields =
                "Connection: X-Hop\r\nX-Hop: 1\r\nGradual-Version: \"forged\"\r\nContent-Length: 2\r\n";
            (text("200 OK", fields, "ok"), true)
        }
        _ => (text("200 OK", "Content-Length: 2\r\n", "ok"), true),
    }
}

async fn read_head(stream: &mut UnixStream, received: &mut Vec<u8>, activity: &Activity) -> Option<Message> {
    loop {
        if let Some(message) = Message::read(received) {
            return Some(message);
        }
        more(stream, received, activity).await?;
    }
}

async fn read_body(
    stream: &mut UnixStream,
    received: &mut Vec<u8>,
    request: &Message,
    activity: &Activity,
) -> Option<usize> {
    loop {
        if let Some(length) = request.body(received, check_trailer) {
            return Some(length);
        }
        more(stream, received, activity).await?;
    }
}

async fn more(stream: &mut UnixStream, received: &mut Vec<u8>, activity: &Activity) -> Option<()> {
    let read = stream.read_buf(received).await;
    activity.set(activity.get() + 1);
    (read.unwrap_or(0) > 0).then_some(())
}

fn check_trailer(name: &str) {
    let routing = name.starts_with("cloudflare-workers-") || name.starts_with("gradual-");
    let framing =
        matches!(name, "content-length" | "transfer-encoding" | "host" | "connection" | "x-forwarded-for");
    assert!(!routing && !framing, "trailer {name}");
}

/// Whatever a client sent, the upstream gets a head that it cannot misunderstand and that tells the truth.
fn check(request: &Message) {
    let words: Vec<_> = request.start.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else { panic!("request line {:?}", request.start) };
    assert!(!method.is_empty() && method.bytes().all(|byte| is_token(&byte)) && method != "CONNECT");
    assert!(target.starts_with('/') || (target == "*" && method == "OPTIONS"), "target {target:?}");
    assert!(!target.contains('#'), "target {target:?}");
    let one = |name: &str| {
        let mut values = request.values(name);
        let first = values.next();
        assert!(first.is_some() && values.next().is_none(), "{name}: {:?}", request.fields);
        first.map(<[u8]>::to_vec).unwrap_or_default()
    };
    let host = one("host");
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_~:[]".contains(byte);
    assert!(!host.is_empty() && host.iter().all(good), "host {host:?}");
    assert_eq!(one("gradual-worker"), b"app");
    one("gradual-version-id");
    // A trusted client may say it twice.
    assert!(request.values("x-forwarded-proto").count() > 0);
    for (name, value) in &request.fields {
        check_field(request, name, value);
    }
    let overrides: Vec<_> = request.values(OVERRIDES_HEADER).collect();
    assert_eq!(tokens(&overrides.join(&b", "[..]), "app"), Some(Vec::new()), "the secret's place is empty");
}

fn check_field(request: &Message, name: &str, value: &[u8]) {
    let value = String::from_utf8_lossy(value).to_ascii_lowercase();
    let upgrade = request.values("upgrade").count() > 0;
    match name {
        "connection" => {
            let known = |token: &str| matches!(token.trim(), "te" | "upgrade" | "close" | "keep-alive");
            assert!(value.split(',').all(known), "{value}");
        }
        "te" => assert_eq!(value, "trailers"),
        "upgrade" => {
            let named: Vec<_> = value.split(',').map(|token| token.trim().split('/').next()).collect();
            assert!(!named.contains(&Some("h2c")) && !value.contains(": "), "{value}");
            assert_eq!(request.values("connection").count(), 1);
            assert_eq!(request.framing, Framing::Untold);
        }
        "keep-alive" | "proxy-connection" | "http2-settings" => panic!("{name}"),
        _ if name.starts_with("gradual-") => {
            assert!(
                matches!(name, "gradual-worker" | "gradual-version-id" | "gradual-version-tag"),
                "{name}"
            );
        }
        _ => assert!(!upgrade || name != "content-length"),
    }
}
