//! Versions that left the deployment: what is still under way on them is counted, and ended where the file says so.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use gradual::metrics::Gauges;
use h2::Reason;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::{WebSocketStream, accept_async};

use crate::support::{
    Backend, Body, Connection, File, Pipe, Proxy, empty, eventually, file, frames, http2, proxy, raw_backend,
    reset_reason, soon, wire,
};

use super::kit::{self, Speaks};
use super::read_head;
use super::websocket::{by_http1, by_http2};

/// The version that a request names serves it, whatever its share is.
fn request(version: &str) -> String {
    let overrides = format!("Cloudflare-Workers-Version-Overrides: shop=\"{version}\"");
    format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{overrides}\r\n\r\n")
}

fn request2(version: &str) -> Request<Body> {
    let request = Request::get("http://shop.example/");
    let request = request.header("cloudflare-workers-version-overrides", format!("shop=\"{version}\""));
    request.body(empty()).unwrap()
}

/// A server whose every answer begins at once, and goes on with a piece for each that is asked for, without end.
async fn endless() -> Backend {
    raw_backend(async |mut socket| {
        if read_head(&mut socket).await.is_empty() {
            return;
        }
        socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await.unwrap();
        let _ = socket.read_u8().await;
    })
    .await
}

/// A file of these versions, all at one backend; the first has it all. One shard, so that what is seen of one request is
/// so for all.
fn deployed(backend: &Backend, versions: &[&str], grace: &str) -> File {
    let start = file().top(&format!("[server]\nthreads = 1\n[limits]\n{grace}"));
    let share = |at: usize| if at == 0 { 100 } else { 0 };
    versions.iter().enumerate().fold(start, |file, (at, id)| file.version(id, backend, share(at)))
}

const SOON: &str = "retired_grace = \"50ms\"";

/// Starts a request over HTTP/1.1; its answer's first piece has arrived.
async fn streaming(proxy: &Proxy, version: &str) -> Connection {
    let mut connection = proxy.connect().await;
    connection.send(request(version)).await;
    assert_eq!(connection.head().await.status, 200);
    assert_eq!(connection.bytes(8).await, b"3\r\none\r\n");
    connection
}

/// Starts a request over HTTP/2; its answer's first piece has arrived.
async fn streaming2(client: &mut SendRequest<Body>, version: &str) -> hyper::body::Incoming {
    let mut incoming = soon("an answer", client.send_request(request2(version))).await.unwrap().into_body();
    let piece = soon("a piece", incoming.frame()).await.unwrap().unwrap();
    assert_eq!(piece.into_data().unwrap(), "one");
    incoming
}

/// What is under way, as `version: requests + tunnels`.
fn under_way(proxy: &Proxy) -> Vec<String> {
    let all = proxy.registry.under_way();
    all.iter().map(|one| format!("{}: {} + {}", one.version, one.requests, one.tunnels)).collect()
}

#[tokio::test]
async fn what_is_under_way_is_counted_by_version_until_it_ends() {
    let endless = endless().await;
    let mut proxy = proxy(&deployed(&endless, &["v1", "v2"], "")).await;
    let _first = streaming(&proxy, "v1").await;
    let second = streaming(&proxy, "v2").await;
    let mut client = http2(proxy.pipe().await).await;
    let third = streaming2(&mut client, "v2").await;
    assert_eq!(under_way(&proxy), ["v1: 1 + 0", "v2: 2 + 0"]);
    proxy.reload(&deployed(&endless, &["v1"], "")).await.unwrap();
    assert_eq!(under_way(&proxy), ["v1: 1 + 0", "v2: 2 + 0"]);
    drop(third);
    eventually("the stream is no longer counted", || under_way(&proxy) == ["v1: 1 + 0", "v2: 1 + 0"]).await;
    drop(second);
    eventually("the connection is no longer counted", || under_way(&proxy) == ["v1: 1 + 0"]).await;
}

#[tokio::test]
async fn a_version_with_a_request_keeps_its_counters_however_many_leave_after_it() {
    let endless = endless().await;
    let mut proxy = proxy(&deployed(&endless, &["v1", "v2"], "")).await;
    let kept = streaming(&proxy, "v2").await;
    for number in 0..130 {
        proxy.reload(&deployed(&endless, &["v1", &format!("n{number}")], "")).await.unwrap();
    }
    assert_eq!(under_way(&proxy), ["v2: 1 + 0"]);
    drop(kept);
    let counted = r#"gradual_requests_total{worker="shop",version="v2","#;
    let metrics = || proxy.registry.render(&Gauges::default());
    eventually("its end is counted", || metrics().contains(counted)).await;
}

#[tokio::test]
async fn without_a_grace_nothing_is_ended() {
    let endless = endless().await;
    let mut proxy = proxy(&deployed(&endless, &["v1", "v2"], SOON)).await;
    let kept = streaming(&proxy, "v2").await;
    proxy.reload(&deployed(&endless, &["v1", "v3"], "")).await.unwrap();
    let ended = streaming(&proxy, "v3").await;
    assert_eq!(under_way(&proxy), ["v2: 1 + 0", "v3: 1 + 0"]);
    // What a file without a grace leaves alone counts from when it left, once a file has one.
    proxy.reload(&deployed(&endless, &["v1"], "")).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(under_way(&proxy), ["v2: 1 + 0", "v3: 1 + 0"]);
    proxy.reload(&deployed(&endless, &["v1"], SOON)).await.unwrap();
    for mut cut in [kept, ended] {
        assert_eq!(cut.rest().await, b"");
    }
}

#[tokio::test]
async fn over_http_1_1_the_answer_is_cut_and_neither_0_per_cent_nor_another_version_is() {
    let endless = endless().await;
    let mut proxy = proxy(&deployed(&endless, &["v1", "v2", "v3"], SOON)).await;
    let mut retired = streaming(&proxy, "v1").await;
    let mut still = streaming(&proxy, "v2").await;
    proxy.reload(&deployed(&endless, &["v3", "v2"], SOON)).await.unwrap();
    // Closed, without a final chunk.
    assert_eq!(retired.rest().await, b"");
    proxy.reload(&deployed(&endless, &["v3", "v2"], SOON)).await.unwrap();
    assert_eq!(under_way(&proxy), ["v2: 1 + 0"]);
    proxy.reload(&deployed(&endless, &["v3"], SOON)).await.unwrap();
    assert_eq!(still.rest().await, b"");
    eventually("nothing is under way", || under_way(&proxy).is_empty()).await;
}

#[tokio::test]
async fn over_http_2_the_stream_is_reset_and_others_of_its_connection_go_on() {
    let endless = endless().await;
    let mut proxy = proxy(&deployed(&endless, &["v1", "v2"], SOON)).await;
    let mut client = http2(proxy.pipe().await).await;
    let mut retired = streaming2(&mut client, "v1").await;
    let mut kept = streaming2(&mut client, "v2").await;
    proxy.reload(&deployed(&endless, &["v2"], SOON)).await.unwrap();
    // Some clients take CANCEL for an end.
    assert_eq!(soon("the reset", reset_reason(&mut retired)).await, Some(Reason::INTERNAL_ERROR));
    let _more = streaming2(&mut client, "v2").await;
    // The last of its connection: the connection is told to go, too.
    proxy.reload(&deployed(&endless, &["v3"], SOON)).await.unwrap();
    assert!(soon("the reset", kept.frame()).await.unwrap().is_err());
    eventually("the connection ends", || client.is_closed()).await;
}

#[tokio::test]
async fn over_http_2_a_connection_without_other_streams_is_told_to_go() {
    let endless = endless().await;
    let mut proxy = proxy(&deployed(&endless, &["v1", "v2"], SOON)).await;
    let mut pipe = proxy.pipe().await;
    let overrides = ("cloudflare-workers-version-overrides", "shop=\"v2\"");
    let head = wire::block(&[&wire::request("GET", "/")[..], &[overrides]].concat());
    let open = wire::frame(wire::HEADERS, wire::END_HEADERS | wire::END_STREAM, 1, &head);
    let settings = wire::frame(wire::SETTINGS, 0, 0, &[]);
    pipe.write_all(&[wire::PREFACE, &settings, &open].concat()).await.unwrap();
    eventually("the request is under way", || under_way(&proxy) == ["v2: 1 + 0"]).await;
    proxy.reload(&deployed(&endless, &["v1"], SOON)).await.unwrap();
    // The codec says so twice: once before it knows what is on its way, and, when a PING has come back, for good.
    let mut ends = Vec::new();
    while let Some((kind, flags, payload)) = soon("a frame", frame_of(&mut pipe)).await {
        match kind {
            wire::PING if flags & wire::ACK == 0 => {
                pipe.write_all(&wire::frame(wire::PING, wire::ACK, 0, &payload)).await.unwrap();
            }
            wire::RST_STREAM | wire::GOAWAY => ends.push((kind, payload)),
            _ => {}
        }
    }
    let [(first, no_error), goaways @ ..] = &ends[..] else { panic!("{ends:?}") };
    assert_eq!(
        (*first, &no_error[..]),
        (wire::RST_STREAM, &wire::INTERNAL_ERROR.to_be_bytes()[..]),
        "{ends:?}"
    );
    assert!(goaways.iter().all(|(kind, _)| *kind == wire::GOAWAY), "{ends:?}");
    let (_, last) = goaways.last().unwrap_or_else(|| panic!("no GOAWAY: {ends:?}"));
    // The last stream, and NO_ERROR.
    assert_eq!(last[..8], [0, 0, 0, 1, 0, 0, 0, 0], "{ends:?}");
}

/// The next frame's kind, flags and payload; `None` at the end.
async fn frame_of(pipe: &mut Pipe) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    pipe.read_exact(&mut head).await.ok()?;
    let (length, kind, flags, _) = wire::frame_head(head);
    let mut payload = vec![0; length];
    pipe.read_exact(&mut payload).await.ok()?;
    Some((kind, flags, payload))
}

#[tokio::test]
async fn a_version_that_comes_back_in_time_keeps_its_streams() {
    let endless = endless().await;
    let long = "retired_grace = \"24h\"";
    let mut proxy = proxy(&deployed(&endless, &["v1", "v2", "v3"], long)).await;
    let mut retired = streaming(&proxy, "v2").await;
    let _back = streaming(&proxy, "v3").await;
    proxy.reload(&deployed(&endless, &["v1"], long)).await.unwrap();
    proxy.reload(&deployed(&endless, &["v1", "v3"], SOON)).await.unwrap();
    assert_eq!(retired.rest().await, b"");
    eventually("only what came back goes on", || under_way(&proxy) == ["v3: 1 + 0"]).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_ended_as_well() {
    let upstream = raw_backend(async |mut socket| {
        read_head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while socket.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
    })
    .await;
    let mut proxy = proxy(&deployed(&upstream, &["v1", "v2"], SOON)).await;
    let mut unread = proxy.connect().await;
    unread.send(request("v2")).await;
    assert_eq!(unread.head().await.status, 200);
    let mut client = http2(proxy.pipe().await).await;
    let _unread = soon("an answer", client.send_request(request2("v2"))).await.unwrap();
    assert_eq!(under_way(&proxy), ["v2: 2 + 0"]);
    proxy.reload(&deployed(&upstream, &["v1"], SOON)).await.unwrap();
    eventually("nothing is under way", || under_way(&proxy).is_empty()).await;
}

#[tokio::test]
async fn a_request_that_still_waits_for_its_answer_is_ended_as_well() {
    let silent = raw_backend(async |mut socket| {
        read_head(&mut socket).await;
        let _ = socket.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut proxy = proxy(&deployed(&silent, &["v1", "v2"], SOON)).await;
    let mut waiting = proxy.connect().await;
    waiting.send(request("v2")).await;
    let mut client = http2(proxy.pipe().await).await;
    let (feed, upload) = frames();
    let waiting2 = client.send_request(request2("v2").map(|_| upload));
    feed.send(Ok(Frame::data(Bytes::from("part")))).await.unwrap();
    eventually("both are under way", || under_way(&proxy) == ["v2: 2 + 0"]).await;
    proxy.reload(&deployed(&silent, &["v1"], SOON)).await.unwrap();
    assert_eq!(waiting.rest().await, b"");
    assert!(soon("the reset", waiting2).await.is_err());
    eventually("nothing is under way", || under_way(&proxy).is_empty()).await;
}

#[tokio::test]
async fn what_is_ended_is_recorded_as_that_and_neither_as_its_clients_end_nor_as_an_upstreams_failure() {
    let endless = endless().await;
    let silent = raw_backend(async |mut socket| {
        let _ = socket.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let logging = format!("{SOON}\n[log]\naccess = \"access.log\"");
    let all = deployed(&endless, &["v1", "v2"], &logging).version("v3", &silent, 0);
    let mut proxy = proxy(&all).await;
    drop(streaming(&proxy, "v2").await);
    eventually("the client has left", || under_way(&proxy).is_empty()).await;
    let mut cut = streaming(&proxy, "v2").await;
    let mut client = http2(proxy.pipe().await).await;
    let reset = streaming2(&mut client, "v2").await;
    let mut waiting = proxy.connect().await;
    waiting.send(request("v3")).await;
    eventually("all are under way", || under_way(&proxy) == ["v2: 2 + 0", "v3: 1 + 0"]).await;
    proxy.reload(&deployed(&endless, &["v1"], &logging)).await.unwrap();
    assert_eq!((cut.rest().await, waiting.rest().await), (Vec::new(), Vec::new()));
    eventually("nothing is under way", || under_way(&proxy).is_empty()).await;
    drop((client, reset));
    let (metrics, lines) = proxy.records().await;
    let mut brief: Vec<_> = lines
        .iter()
        .map(|line| {
            let (version, status) = (&line["ScriptVersion"]["id"], &line["Event"]["Response"]["Status"]);
            format!("{version} {} {} {status}", line["Outcome"], line["Error"])
        })
        .collect();
    brief.sort();
    let ended = |version, status| format!("\"{version}\" \"exception\" \"version-retired\" {status}");
    let left = "\"v2\" \"canceled\" null 200".to_owned();
    assert_eq!(brief, [left, ended("v2", 200), ended("v2", 200), ended("v3", 503)]);
    assert!(metrics.contains(&counted("v2", 2)) && metrics.contains(&counted("v3", 1)), "{metrics}");
}

fn counted(version: &str, ended: u64) -> String {
    format!("gradual_retired_ended_total{{worker=\"shop\",version=\"{version}\"}} {ended}\n")
}

/// Passes on what it is sent, to the end; then it has closed.
async fn note<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: WebSocketStream<S>,
    noted: mpsc::UnboundedSender<Option<Message>>,
) {
    while let Some(Ok(message)) = socket.next().await {
        noted.send(Some(message)).unwrap();
    }
    noted.send(None).unwrap();
}

/// An upstream that notes the messages of a WebSocket.
async fn noting(http2: bool) -> (kit::Backend, mpsc::UnboundedReceiver<Option<Message>>) {
    let (noted, messages) = mpsc::unbounded_channel();
    if !http2 {
        let upstream = kit::listen(move |stream| {
            let noted = noted.clone();
            async move { note(accept_async(stream).await.unwrap(), noted).await }
        });
        return (upstream.await, messages);
    }
    let upstream = kit::backend(Speaks::Http2, move |mut request| {
        let (noted, on_upgrade) = (noted.clone(), hyper::upgrade::on(&mut request));
        async move {
            tokio::spawn(async move {
                let upgraded = TokioIo::new(on_upgrade.await.unwrap());
                note(WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await, noted).await;
            });
            Response::new(kit::whole(""))
        }
    });
    (upstream.await, messages)
}

fn away() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() }))
}

/// The client is told 1001 after what came before, and the connection ends.
async fn is_sent_away<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) {
    assert_eq!(soon("the close", socket.next()).await.unwrap().unwrap(), away());
    assert!(soon("the end", socket.next()).await.is_none());
}

#[tokio::test]
async fn a_websocket_is_closed_with_1001_in_both_directions_over_all_protocols() {
    for (http2_client, http2_upstream) in [(false, false), (false, true), (true, false), (true, true)] {
        let (upstream, mut messages) = noting(http2_upstream).await;
        let scheme = if http2_upstream { "h2c" } else { "http" };
        let text = |version: &str| {
            let file = kit::file(kit::ANY, "", &upstream.upstream(scheme)).replace("v1", version);
            format!("[limits]\n{SOON}\n{file}")
        };
        let mut proxy = kit::Proxy::start(&text("v1")).await;
        if http2_client {
            let (mut socket, _) = by_http2(&proxy).await;
            socket.send(Message::text("first")).await.unwrap();
            assert_eq!(soon("a message", messages.recv()).await.unwrap(), Some(Message::text("first")));
            proxy.reload(&text("v2")).await.unwrap();
            is_sent_away(socket).await;
        } else {
            let (mut socket, _) = by_http1(&proxy).await;
            socket.send(Message::text("first")).await.unwrap();
            assert_eq!(soon("a message", messages.recv()).await.unwrap(), Some(Message::text("first")));
            proxy.reload(&text("v2")).await.unwrap();
            is_sent_away(socket).await;
        }
        assert_eq!(soon("the close", messages.recv()).await.unwrap(), Some(away()));
        assert_eq!(soon("the end", messages.recv()).await.unwrap(), None);
    }
}

/// Opens a tunnel to an upstream that then sends these bytes, and waits.
async fn tunnel(protocol: &'static str, bytes: &'static [u8]) -> (Backend, Proxy, Connection) {
    let upstream = raw_backend(move |mut socket| async move {
        read_head(&mut socket).await;
        let head =
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let proxy = proxy(&deployed(&upstream, &["v1", "v2"], SOON)).await;
    let mut connection = proxy.connect().await;
    let upgrade = format!("\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n");
    connection.send(request("v2").trim_end().to_owned() + &upgrade).await;
    assert_eq!(connection.head().await.status, 101);
    assert_eq!(connection.bytes(bytes.len()).await, bytes);
    eventually("the tunnel is counted", || under_way(&proxy) == ["v2: 0 + 1"]).await;
    (upstream, proxy, connection)
}

#[tokio::test]
async fn a_websocket_within_a_frame_that_does_not_end_is_cut() {
    let (upstream, mut proxy, mut connection) = tunnel("websocket", b"\x82\x05he").await;
    proxy.reload(&deployed(&upstream, &["v1"], SOON)).await.unwrap();
    assert_eq!(connection.rest().await, b"");
    eventually("nothing is under way", || under_way(&proxy).is_empty()).await;
    assert!(proxy.registry.render(&Gauges::default()).contains(&counted("v2", 1)));
}

#[tokio::test]
async fn a_tunnel_of_another_protocol_is_cut() {
    let (upstream, mut proxy, mut connection) = tunnel("something", b"between").await;
    proxy.reload(&deployed(&upstream, &["v1"], SOON)).await.unwrap();
    assert_eq!(connection.rest().await, b"");
    eventually("nothing is under way", || under_way(&proxy).is_empty()).await;
    assert!(proxy.registry.render(&Gauges::default()).contains(&counted("v2", 1)));
}
