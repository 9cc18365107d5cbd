//! Streams whose pieces must arrive as they are sent: gRPC-shaped calls and server-sent events.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::kit::{
    ANY, Backend, Content, Http1, Http2, Proxy, Speaks, ask2, backend, data, file, get1, get2, http1, http2,
    piped, post2, run, trailers, whole,
};

/// A length-prefixed message, as gRPC frames it.
fn message(text: &str) -> Frame<Bytes> {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(text.len()).unwrap());
    bytes.put_slice(text.as_bytes());
    data(bytes.freeze())
}

/// Takes length-prefixed messages out of a body, however it is cut into frames.
struct Messages {
    body: Incoming,
    buffer: BytesMut,
    trailers: HeaderMap,
}

impl Messages {
    fn of(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), trailers: HeaderMap::new() }
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(text) = self.take() {
                return Some(text);
            }
            match self.body.frame().await?.unwrap().into_data() {
                Ok(data) => self.buffer.put(data),
                Err(frame) => self.trailers = frame.into_trailers().unwrap(),
            }
        }
    }

    fn take(&mut self) -> Option<String> {
        let length = usize::try_from(self.buffer.get(1..5)?.get_u32()).unwrap();
        if self.buffer.len() < 5 + length {
            return None;
        }
        self.buffer.advance(5);
        Some(String::from_utf8(self.buffer.split_to(length).to_vec()).unwrap())
    }
}

/// An h2c server with a method of each of gRPC's four kinds.
async fn service() -> Backend {
    backend(Speaks::Http2, |request: Request<Incoming>| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let response = Response::builder().header("content-type", "application/grpc");
        if request.uri().path() == "/shop/Unknown" {
            return response.header("grpc-status", "12").body(whole("")).unwrap();
        }
        let (pipe, body) = piped();
        tokio::spawn(call(request, pipe));
        response.body(body).unwrap()
    })
    .await
}

async fn call(request: Request<Incoming>, pipe: mpsc::Sender<Frame<Bytes>>) {
    let method = request.uri().path().to_owned();
    let mut asked = Messages::of(request.into_body());
    match method.as_str() {
        "/shop/Unary" => {
            let text = asked.next().await.unwrap();
            assert!(asked.next().await.is_none());
            pipe.send(message(&text.to_uppercase())).await.unwrap();
        }
        "/shop/Server" => {
            let text = asked.next().await.unwrap();
            for index in 0..100 {
                pipe.send(message(&format!("{text}{index}"))).await.unwrap();
            }
        }
        "/shop/Client" => {
            let mut count = 0;
            while asked.next().await.is_some() {
                count += 1;
            }
            pipe.send(message(&count.to_string())).await.unwrap();
        }
        _ => {
            while let Some(text) = asked.next().await {
                pipe.send(message(&text.to_uppercase())).await.unwrap();
            }
        }
    }
    pipe.send(trailers("grpc-status", "0")).await.unwrap();
}

fn grpc(method: &str, body: Content) -> Request<Content> {
    let mut request = post2(&format!("/shop/{method}"), body);
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request
}

async fn client_of(service: &Backend) -> (Proxy, Http2) {
    let proxy = Proxy::start(&file(ANY, "", &service.upstream("h2c"))).await;
    let (client, _) = http2(proxy.connect().await).await;
    (proxy, client)
}

async fn start(
    client: &mut Http2,
    method: &str,
) -> (mpsc::Sender<Frame<Bytes>>, tokio::task::JoinHandle<Messages>) {
    let (pipe, body) = piped();
    client.ready().await.unwrap();
    let response = client.send_request(grpc(method, body));
    (pipe, tokio::spawn(async move { Messages::of(response.await.unwrap().into_body()) }))
}

#[test]
fn a_unary_call_has_its_answer_and_its_status_in_the_trailers() {
    run(async {
        let service = service().await;
        let (_proxy, mut client) = client_of(&service).await;
        let (pipe, answer) = start(&mut client, "Unary").await;
        pipe.send(message("tea")).await.unwrap();
        drop(pipe);
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.next().await.as_deref(), Some("TEA"));
        assert_eq!(answer.next().await, None);
        assert_eq!(answer.trailers["grpc-status"], "0");
    });
}

#[test]
fn a_server_streaming_call_gets_every_message_in_order() {
    run(async {
        let service = service().await;
        let (_proxy, mut client) = client_of(&service).await;
        let (pipe, answer) = start(&mut client, "Server").await;
        pipe.send(message("n")).await.unwrap();
        drop(pipe);
        let mut answer = answer.await.unwrap();
        for index in 0..100 {
            assert_eq!(answer.next().await, Some(format!("n{index}")));
        }
        assert_eq!(answer.next().await, None);
        assert_eq!(answer.trailers["grpc-status"], "0");
    });
}

#[test]
fn a_client_streaming_call_is_read_to_its_end() {
    run(async {
        let service = service().await;
        let (_proxy, mut client) = client_of(&service).await;
        let (pipe, answer) = start(&mut client, "Client").await;
        for index in 0..100 {
            pipe.send(message(&index.to_string())).await.unwrap();
        }
        drop(pipe);
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.next().await.as_deref(), Some("100"));
        assert_eq!(answer.next().await, None);
        assert_eq!(answer.trailers["grpc-status"], "0");
    });
}

#[test]
fn the_messages_of_bidirectional_calls_are_interleaved_and_calls_are_apart() {
    run(async {
        let service = service().await;
        let (_proxy, mut client) = client_of(&service).await;
        let mut calls = Vec::new();
        for name in ["x", "y"] {
            let (pipe, answer) = start(&mut client, "Both").await;
            pipe.send(message(name)).await.unwrap();
            let mut answer = answer.await.unwrap();
            assert_eq!(answer.next().await, Some(name.to_uppercase()));
            calls.push((name, pipe, answer));
        }
        for round in 0..50 {
            for (name, pipe, answer) in &mut calls {
                let text = format!("{name}{round}");
                pipe.send(message(&text)).await.unwrap();
                assert_eq!(answer.next().await, Some(text.to_uppercase()));
            }
        }
        for (_, pipe, mut answer) in calls {
            drop(pipe);
            assert_eq!(answer.next().await, None);
            assert_eq!(answer.trailers["grpc-status"], "0");
        }
        assert_eq!(service.connections(), 1);
    });
}

#[test]
fn a_status_without_messages_passes_in_the_head() {
    run(async {
        let service = service().await;
        let (_proxy, mut client) = client_of(&service).await;
        let answer = ask2(&mut client, grpc("Unknown", whole(""))).await;
        assert_eq!((&answer.headers["grpc-status"], answer.text.as_str()), (&"12".parse().unwrap(), ""));
        assert_eq!(answer.headers["content-type"], "application/grpc");
    });
}

/// An upstream of server-sent events: each is sent only when the test says so.
async fn events(speaks: Speaks) -> (Backend, mpsc::UnboundedSender<String>) {
    let (next, told) = mpsc::unbounded_channel::<String>();
    let told = std::sync::Arc::new(tokio::sync::Mutex::new(told));
    let upstream = backend(speaks, move |_| {
        let told = std::sync::Arc::clone(&told);
        async move {
            let (pipe, body) = piped();
            tokio::spawn(async move {
                while let Some(event) = told.lock().await.recv().await {
                    pipe.send(data(format!("data: {event}\n\n"))).await.unwrap();
                }
            });
            Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
        }
    })
    .await;
    (upstream, next)
}

async fn one_by_one(mut body: Incoming, next: mpsc::UnboundedSender<String>) {
    for index in 0..20 {
        next.send(index.to_string()).unwrap();
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece, format!("data: {index}\n\n"));
    }
    drop(next);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "");
}

#[test]
fn server_sent_events_arrive_one_by_one() {
    run(async {
        for (speaks, scheme) in [(Speaks::Http1, "http"), (Speaks::Http2, "h2c")] {
            let (upstream, next) = events(speaks).await;
            let proxy = Proxy::start(&file(ANY, "", &upstream.upstream(scheme))).await;
            let (mut client, _): (Http1, _) = http1(proxy.connect().await).await;
            let response = client.send_request(get1("/events")).await.unwrap();
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            one_by_one(response.into_body(), next).await;
            let (upstream, next) = events(speaks).await;
            let proxy = Proxy::start(&file(ANY, "", &upstream.upstream(scheme))).await;
            let (mut client, _) = http2(proxy.connect().await).await;
            let response = client.send_request(get2("/events")).await.unwrap();
            one_by_one(response.into_body(), next).await;
        }
    });
}
