//! `wrangler tail`: made over Cloudflare's API, read over a WebSocket.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use gradual::config::Address;
use gradual::control::Ended;
use serde_json::Value;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use super::cloudflare::{error, get, result, send};
use super::stage::{ANY_PORT, Stage, eventually, worker};

const V1: &str = "db7cd8d3-4425-4fe7-8c81-01bf963b6067";
const V2: &str = "dc8dcd28-271b-4367-9840-6c244f84cb40";
const TAILS: &str = "/client/v4/accounts/any/workers/scripts/shop/tails";
/// Far longer than anything here takes: only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy whose versions answer `ok`.
fn stage() -> Stage {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in upstream.incoming() {
            std::thread::spawn(move || answer(stream.unwrap()));
        }
    });
    Stage::new(&worker(ANY_PORT, 50, &format!("http://{address}")))
}

/// Answers every request of a connection; none has a body.
fn answer(mut stream: TcpStream) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while stream.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    }
}

/// A GET through the proxy to one version, with further header lines; waits for the answer.
fn visit(stage: &Stage, target: &str, version: &str, lines: &str) {
    let mut stream = UnixStream::connect(stage.folder.path().join("front.sock")).unwrap();
    let overrides = format!("Cloudflare-Workers-Version-Overrides: shop=\"{version}\"");
    let head = format!(
        "GET {target} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n{overrides}\r\n{lines}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

/// Makes a tail; its id and URL.
fn make(stage: &Stage, filters: &str) -> (String, String) {
    let made = result(&send(stage, "POST", TAILS, filters));
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    assert!(text("expires_at").ends_with('Z'));
    (text("id"), text("url"))
}

type Reader = WebSocket<TcpStream>;

/// Reads a tail as wrangler does.
fn read(
    stage: &Stage,
    url: &str,
) -> Result<Reader, Box<tungstenite::HandshakeError<tungstenite::ClientHandshake<TcpStream>>>> {
    let Some(Address::Tcp(address)) = stage.handle.admin() else { panic!("not TCP") };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "trace-v1".parse().unwrap());
    let (mut socket, answer) = tungstenite::client(request, stream)?;
    assert_eq!(answer.headers()["sec-websocket-protocol"], "trace-v1");
    // Unmasked, as wrangler's is: a text of 15 bytes.
    socket.get_mut().write_all(b"\x81\x0f{\"debug\":false}").unwrap();
    Ok(socket)
}

fn tail(stage: &Stage, filters: &str) -> Reader {
    read(stage, &make(stage, filters).1).unwrap()
}

/// The next message about a request.
fn next(reader: &mut Reader) -> Value {
    loop {
        match reader.read().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn closing(reader: &mut Reader) -> CloseCode {
    loop {
        if let Message::Close(frame) = reader.read().unwrap() {
            return frame.unwrap().code;
        }
    }
}

#[test]
fn a_tail_shows_requests_as_they_end_without_credentials() {
    let stage = stage();
    let (_, url) = make(&stage, r#"{"filters":[]}"#);
    assert!(url.starts_with("ws://localhost/client/v4/tails/"), "{url}");
    let mut reader = read(&stage, &url).unwrap();
    visit(
        &stage,
        "/cart?a=1&token=opensesame",
        V1,
        "Cookie: sid=opensesame\r\nX-Api-Key: opensesame\r\nX-Plain: a\r\n",
    );
    let message = next(&mut reader);
    assert!(!message.to_string().contains("opensesame"), "{message}");
    let request = &message["event"]["request"];
    assert_eq!(
        (&request["method"], &request["url"]),
        (&"GET".into(), &"http://shop.example/cart?a=1&token=REDACTED".into())
    );
    let headers = &request["headers"];
    assert_eq!(
        (&headers["cookie"], &headers["x-api-key"], &headers["x-plain"]),
        (&"REDACTED".into(), &"REDACTED".into(), &"a".into())
    );
    assert_eq!(message["event"]["response"]["status"], 200);
    assert_eq!((&message["outcome"], &message["scriptName"]), (&"ok".into(), &"shop".into()));
    assert_eq!(
        (&message["scriptVersion"]["id"], &message["scriptVersion"]["tag"]),
        (&V1.into(), &"v1".into())
    );
    assert_eq!(
        (&message["gradual"]["reason"], &message["gradual"]["responseBytes"]),
        (&"override".into(), &2.into())
    );
}

#[test]
fn a_tail_of_a_version_shows_the_requests_that_it_served() {
    let stage = stage();
    let mut reader = tail(&stage, &format!(r#"{{"filters":[{{"scriptVersion":"{V2}"}}]}}"#));
    visit(&stage, "/first", V1, "");
    visit(&stage, "/second", V2, "");
    let message = next(&mut reader);
    assert_eq!(
        (&message["scriptVersion"]["id"], &message["event"]["request"]["url"]),
        (&V2.into(), &"http://shop.example/second".into())
    );
}

#[test]
fn filters_are_those_of_wrangler() {
    let stage = stage();
    let filters = r#"{"filters":[{"sampling_rate":1},{"outcome":["ok","exceededCpu"]},{"method":["GET"]},
        {"header":{"key":"X-Show","query":"yes"}},{"query":"/shown"}]}"#;
    let mut reader = tail(&stage, filters);
    visit(&stage, "/shown/1", V1, "");
    visit(&stage, "/hidden", V1, "X-Show: yes\r\n");
    visit(&stage, "/shown/2", V1, "X-Show: yes\r\n");
    assert_eq!(next(&mut reader)["event"]["request"]["url"], "http://shop.example/shown/2");
}

#[test]
fn what_is_no_filter_is_refused_with_what_is_wrong() {
    let stage = stage();
    for (filter, code, says) in [
        (r#"{"sampling_rate":0}"#, 10001, "sampling rate"),
        (r#"{"outcome":["good"]}"#, 10001, "`good`"),
        (r#"{"header":{"key":"a b"}}"#, 10001, "`a b`"),
        (r#"{"client_ip":["nobody"]}"#, 10001, "`nobody`"),
        (r#"{"colour":"red"}"#, 10001, "colour"),
        (r#"{"scriptVersion":"nonsense"}"#, 100_146, "nonsense"),
    ] {
        let (_, got, message) = error(&send(&stage, "POST", TAILS, &format!(r#"{{"filters":[{filter}]}}"#)));
        assert_eq!(got, code, "{filter}: {message}");
        assert!(message.contains(says), "{filter}: {message}");
    }
    let unknown = send(&stage, "POST", &TAILS.replace("shop", "nope"), "{}");
    assert_eq!(error(&unknown).1, 10007);
    // Who runs wrangler is known by the connection.
    make(&stage, r#"{"filters":[{"client_ip":["self","::1"]}]}"#);
}

#[test]
fn a_reader_that_comes_late_is_told_how_much_was_dropped() {
    let stage = stage();
    let (_, url) = make(&stage, "{}");
    let lines = format!("X-Large: {}\r\n", "a".repeat(15 << 10));
    let sent = 100;
    for number in 0..sent {
        visit(&stage, &format!("/{number}"), V1, &lines);
    }
    let mut reader = read(&stage, &url).unwrap();
    let (mut shown, mut dropped) = (0, 0);
    while shown + dropped < sent {
        let message = next(&mut reader);
        match message["event"]["type"].as_str() {
            Some("overload") => {
                let text = message["event"]["message"].as_str().unwrap();
                dropped += text.split(' ').next().unwrap().parse::<i32>().unwrap();
            }
            _ => shown += 1,
        }
    }
    assert!(shown > 10 && dropped > 10, "{shown} shown, {dropped} dropped");
    visit(&stage, "/again", V1, "");
    assert_eq!(next(&mut reader)["event"]["request"]["url"], "http://shop.example/again");
}

#[test]
fn a_worker_has_ten_tails_at_the_most_and_one_that_ends_makes_room() {
    let stage = stage();
    let mut tails: Vec<_> = (0..10).map(|_| make(&stage, "{}")).collect();
    let (status, _, message) = error(&send(&stage, "POST", TAILS, "{}"));
    assert_eq!(status, 409);
    assert!(message.contains("10 tails already"), "{message}");
    let (id, _) = tails.remove(0);
    result(&send(&stage, "DELETE", &format!("{TAILS}/{id}"), ""));
    assert_eq!(error(&send(&stage, "DELETE", &format!("{TAILS}/{id}"), "")).0, 404);
    make(&stage, "{}");
    assert_eq!(send(&stage, "POST", TAILS, "{}").status, 409);
    // A reader that leaves without a word makes room as well.
    drop(read(&stage, &tails[0].1).unwrap());
    eventually("there is room", || send(&stage, "POST", TAILS, "{}").status == 200);
}

#[test]
fn a_tail_is_read_by_one_who_knows_its_id_and_speaks_its_protocol() {
    let stage = stage();
    let (id, url) = make(&stage, "{}");
    let (status, _, message) = error(&get(&stage, &format!("/client/v4/tails/{id}")));
    assert_eq!(status, 400);
    assert!(message.contains("WebSocket"), "{message}");
    assert!(read(&stage, &url.replace(&id, "00000000000000000000000000000000")).is_err());
    let reader = read(&stage, &url).unwrap();
    assert!(read(&stage, &url).is_err());
    drop(reader);
}

#[test]
fn a_tail_that_is_deleted_is_over_and_one_of_a_proxy_that_ends_is_to_be_made_again() {
    let mut stage = stage();
    let (id, url) = make(&stage, "{}");
    let mut reader = read(&stage, &url).unwrap();
    result(&send(&stage, "DELETE", &format!("{TAILS}/{id}"), ""));
    assert_eq!(closing(&mut reader), CloseCode::Normal);
    let mut reader = tail(&stage, "{}");
    assert_eq!(stage.end(), Ended::Drained { cut: 0 });
    assert_eq!(closing(&mut reader), CloseCode::Away);
}

#[test]
fn a_tail_goes_on_over_a_reload_and_ends_with_its_worker() {
    let stage = stage();
    let mut reader = tail(&stage, "{}");
    stage.reload().unwrap();
    visit(&stage, "/after", V1, "");
    assert_eq!(next(&mut reader)["event"]["request"]["url"], "http://shop.example/after");
    let text = std::fs::read_to_string(stage.path()).unwrap();
    stage.write(&text.replace("name = \"shop\"", "name = \"other\""));
    stage.reload().unwrap();
    assert_eq!(closing(&mut reader), CloseCode::Normal);
}
