//! The end: what is in flight finishes, what is idle is closed, and what does not end is cut.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::kit::{
    ANY, Answer, Backend, Proxy, Speaks, ask1, ask2, backend, data, file, get1, get2, http1, http2, listen,
    piped, read_head, read_rest, run, says, whole,
};
use super::tls::{Authority, connector};

/// Longer than any test: nothing is cut.
const AMPLE: Duration = Duration::from_secs(600);

/// Answers when told to; counts who waits.
struct Gate {
    upstream: Backend,
    arrived: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

impl Gate {
    async fn new() -> Self {
        let (arrived, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (here, wait) = (Arc::clone(&arrived), Arc::clone(&go));
        let upstream = backend(Speaks::Http1, move |_: Request<Incoming>| {
            let (here, wait) = (Arc::clone(&here), Arc::clone(&wait));
            async move {
                here.add_permits(1);
                wait.acquire().await.unwrap().forget();
                Response::new(whole("done"))
            }
        })
        .await;
        Self { upstream, arrived, go }
    }

    async fn someone_waits(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }
}

#[test]
fn an_http1_request_in_flight_finishes_with_connection_close() {
    run(async {
        let gate = Gate::new().await;
        let proxy = Proxy::start(&file(ANY, "", &gate.upstream.upstream("http"))).await;
        let address = proxy.address();
        let mut stream = proxy.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        gate.someone_waits().await;
        let Proxy { shards, folder: _folder, .. } = proxy;
        let draining = tokio::spawn(shards.drain(AMPLE));
        // It has begun when nobody listens any more.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!draining.is_finished());
        gate.go.add_permits(1);
        let head = read_head(&mut stream).await.to_lowercase();
        assert!(head.starts_with("http/1.1 200") && head.contains("connection: close\r\n"), "{head}");
        assert_eq!(read_rest(&mut stream).await, "done");
        assert_eq!(draining.await.unwrap(), 0);
    });
}

#[test]
fn an_http2_connection_is_told_to_go_away_and_its_streams_finish() {
    run(async {
        let gate = Gate::new().await;
        let proxy = Proxy::start(&file(ANY, "", &gate.upstream.upstream("http"))).await;
        let (mut client, connection) = http2(proxy.connect().await).await;
        let mut asking = client.clone();
        let answer = tokio::spawn(async move { ask2(&mut asking, get2("/")).await });
        gate.someone_waits().await;
        let Proxy { shards, folder: _folder, .. } = proxy;
        let draining = tokio::spawn(shards.drain(AMPLE));
        // Streams that come before the client has read GOAWAY are served, later ones are never sent.
        gate.go.add_permits(1);
        assert_eq!(answer.await.unwrap().text, "done");
        assert_eq!(draining.await.unwrap(), 0);
        connection.await.unwrap().unwrap();
        assert!(client.ready().await.is_err() || client.send_request(get2("/")).await.is_err());
    });
}

#[test]
fn idle_connections_are_closed_and_nobody_is_let_in() {
    run(async {
        let upstream = says(Speaks::Http1, |_| "hello".to_owned()).await;
        let folder = tempfile::tempdir().unwrap();
        let proxy = Proxy::start_in(folder, 2, &file(ANY, "", &upstream.upstream("http"))).await;
        let address = proxy.address();
        let (mut idle_1, ended_1) = http1(proxy.connect().await).await;
        let (mut idle_2, ended_2) = http2(proxy.connect().await).await;
        assert_eq!(ask1(&mut idle_1, get1("/")).await.text, "hello");
        assert_eq!(ask2(&mut idle_2, get2("/")).await.text, "hello");
        let Proxy { shards, folder: _folder, .. } = proxy;
        assert_eq!(shards.drain(AMPLE).await, 0);
        ended_1.await.unwrap().unwrap();
        ended_2.await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    });
}

#[test]
fn connections_that_have_asked_for_nothing_yet_do_not_hold_the_end_up() {
    run(async {
        let upstream = says(Speaks::Http1, |_| "hello".to_owned()).await;
        let folder = tempfile::tempdir().unwrap();
        Authority::new(folder.path(), "ca").issue(folder.path(), "a", &["a.example"]);
        let tls = r#"tls = [{ certificate = "a.pem", key = "a.key" }]"#;
        let balanced = "trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = true";
        let listeners = format!("{ANY}\n[[listener]]\n{ANY}\n{balanced}\n[[listener]]\n{ANY}\n{tls}");
        let proxy = Proxy::start_in(folder, 1, &file(&listeners, "", &upstream.upstream("http"))).await;
        let mut silent = Vec::new();
        for listener in 0..3 {
            silent.push(TcpStream::connect(proxy.address_of(listener)).await.unwrap());
        }
        let stream = TcpStream::connect(proxy.address_of(2)).await.unwrap();
        let name = ServerName::try_from("a.example").unwrap();
        let connector = connector(proxy.folder.path(), &["http/1.1"], None);
        let mut greeted = connector.connect(name, stream).await.unwrap();
        // What does ask for something in time is served.
        let mut late = proxy.connect().await;
        let address = proxy.address();
        let Proxy { shards, folder: _folder, .. } = proxy;
        let draining = tokio::spawn(shards.drain(AMPLE));
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        late.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let answer = read_rest(&mut late).await;
        assert!(answer.ends_with("hello"), "{answer:?}");
        assert_eq!(draining.await.unwrap(), 0);
        assert_eq!(read_rest(&mut greeted).await, "");
        for mut stream in silent {
            assert_eq!(read_rest(&mut stream).await, "");
        }
    });
}

#[test]
fn an_http2_client_that_acknowledges_nothing_does_not_hold_the_end_up() {
    run(async {
        let upstream = says(Speaks::Http1, |_| "hello".to_owned()).await;
        let folder = tempfile::tempdir().unwrap();
        let proxy = Proxy::start_in(folder, 1, &file(ANY, "", &upstream.upstream("http"))).await;
        let mut client = proxy.connect().await;
        // The preface and empty SETTINGS (RFC 9113 section 3.4); the server's are read, and never answered.
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut settings = [0; 9];
        client.read_exact(&mut settings).await.unwrap();
        assert_eq!(settings[3], 4, "a SETTINGS frame");
        let Proxy { shards, folder: _folder, .. } = proxy;
        assert_eq!(shards.drain(AMPLE).await, 0);
    });
}

#[test]
fn a_response_that_is_being_sent_is_finished() {
    run(async {
        let (pipe, body) = piped();
        let body = Arc::new(std::sync::Mutex::new(Some(body)));
        let upstream = backend(Speaks::Http1, move |_| {
            let body = body.lock().unwrap().take().unwrap();
            async move { Response::new(body) }
        })
        .await;
        let proxy = Proxy::start(&file(ANY, "", &upstream.upstream("http"))).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        let mut response = client.send_request(get1("/")).await.unwrap();
        pipe.send(data("first ")).await.unwrap();
        response.frame().await.unwrap().unwrap();
        let Proxy { shards, folder: _folder, .. } = proxy;
        let draining = tokio::spawn(shards.drain(AMPLE));
        pipe.send(data("last")).await.unwrap();
        drop(pipe);
        assert_eq!(Answer::read(response).await.text, "last");
        assert_eq!(draining.await.unwrap(), 0);
    });
}

#[test]
fn what_does_not_end_is_cut_at_the_limit_and_counted() {
    run(async {
        let gate = Gate::new().await;
        let proxy = Proxy::start(&file(ANY, "", &gate.upstream.upstream("http"))).await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut stream = proxy.connect().await;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            gate.someone_waits().await;
            streams.push(stream);
        }
        let Proxy { shards, folder: _folder, .. } = proxy;
        assert_eq!(shards.drain(Duration::from_millis(50)).await, 3);
        for mut stream in streams {
            assert_eq!(read_rest(&mut stream).await, "");
        }
    });
}

#[test]
fn a_tunnel_goes_on_until_the_limit_and_is_then_cut_and_counted() {
    run(async {
        let upstream = listen(|mut stream| async move {
            read_head(&mut stream).await;
            let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chess\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        })
        .await;
        for ends in [true, false] {
            let proxy = Proxy::start(&file(ANY, "", &upstream.upstream("http"))).await;
            let mut stream = proxy.connect().await;
            let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: chess\r\n\r\n";
            stream.write_all(ask.as_bytes()).await.unwrap();
            assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 101"));
            let address = proxy.address();
            let Proxy { shards, folder: _folder, .. } = proxy;
            let limit = if ends { AMPLE } else { Duration::from_millis(300) };
            let draining = tokio::spawn(shards.drain(limit));
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
            // Where the limit is short, it may be over by now.
            if ends {
                stream.write_all(b"ping").await.unwrap();
                let mut echoed = [0; 4];
                stream.read_exact(&mut echoed).await.unwrap();
                assert_eq!(&echoed, b"ping");
                stream.shutdown().await.unwrap();
            }
            assert_eq!(read_rest(&mut stream).await, "");
            assert_eq!(draining.await.unwrap(), u64::from(!ends));
        }
    });
}

#[test]
fn connections_that_are_queued_when_the_end_begins_are_served() {
    run(async {
        let upstream = says(Speaks::Http1, |_| "hello".to_owned()).await;
        let folder = tempfile::tempdir().unwrap();
        let proxy = Proxy::start_in(folder, 2, &file(ANY, "", &upstream.upstream("http"))).await;
        let address = proxy.address();
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut queued = Vec::new();
        for _ in 0..100 {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            std::io::Write::write_all(&mut stream, request).unwrap();
            stream.set_nonblocking(true).unwrap();
            queued.push(stream);
        }
        let Proxy { shards, folder: _folder, .. } = proxy;
        let draining = tokio::spawn(shards.drain(AMPLE));
        for stream in queued {
            let mut stream = TcpStream::from_std(stream).unwrap();
            let answer = read_rest(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer:?}");
        }
        assert_eq!(draining.await.unwrap(), 0);
    });
}

#[test]
fn a_client_that_reads_its_last_response_slowly_gets_all_of_it() {
    run(async {
        let upstream = backend(Speaks::Http1, |_| async { Response::new(whole(vec![b'x'; 4 << 20])) }).await;
        let proxy = Proxy::start(&file(ANY, "", &upstream.upstream("http"))).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        let response = client.send_request(get1("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let Proxy { shards, folder: _folder, .. } = proxy;
        let draining = tokio::spawn(shards.drain(AMPLE));
        assert_eq!(Answer::read(response).await.text.len(), 4 << 20);
        assert_eq!(draining.await.unwrap(), 0);
    });
}
