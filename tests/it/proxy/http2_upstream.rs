//! HTTP/2 upstreams that set limits, go away, or fail.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::kit::{
    ANY, Backend, Content, Http2, Proxy, Speaks, ask1, ask2, backend, data, file, get1, get2, http1, http2,
    listen, piped, read_rest, run, whole,
};

async fn client_of(upstream: &Backend) -> (Proxy, Http2) {
    let proxy = Proxy::start(&file(ANY, "", &upstream.upstream("h2c"))).await;
    let (client, _) = http2(proxy.connect().await).await;
    (proxy, client)
}

#[test]
fn an_upstream_that_allows_few_streams_gets_more_connections() {
    run(async {
        let (arrived, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (here, wait) = (Arc::clone(&arrived), Arc::clone(&go));
        let upstream = listen(move |stream| {
            let (here, wait) = (Arc::clone(&here), Arc::clone(&wait));
            let service = service_fn(move |request: Request<Incoming>| {
                let (here, wait) = (Arc::clone(&here), Arc::clone(&wait));
                async move {
                    if request.uri().path() == "/held" {
                        here.add_permits(1);
                        wait.acquire().await.unwrap().forget();
                    }
                    Ok::<_, Infallible>(Response::new(whole("here")))
                }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(10);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            async move {
                let _ = connection.await;
            }
        })
        .await;
        let (_proxy, mut client) = client_of(&upstream).await;
        // The first answer tells the limit.
        assert_eq!(ask2(&mut client, get2("/")).await.text, "here");
        let mut held = JoinSet::new();
        for _ in 0..10 {
            let mut client = client.clone();
            held.spawn(async move { ask2(&mut client, get2("/held")).await.text });
        }
        arrived.acquire_many(10).await.unwrap().forget();
        assert_eq!(upstream.connections(), 1);
        assert_eq!(ask2(&mut client, get2("/")).await.text, "here");
        assert_eq!(upstream.connections(), 2);
        go.add_permits(10);
        assert!(held.join_all().await.iter().all(|text| text == "here"));
    });
}

#[test]
fn an_upstream_that_goes_away_finishes_its_streams_and_is_dialed_anew() {
    run(async {
        let (leave, served) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (told, count) = (Arc::clone(&leave), Arc::clone(&served));
        let upstream = listen(move |stream| {
            let (told, count) = (Arc::clone(&told), Arc::clone(&count));
            async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    count.fetch_add(1, Ordering::SeqCst);
                    async move {
                        // Answers when it has the whole body.
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        Ok::<_, Infallible>(Response::new(whole(body)))
                    }
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    _ = connection.as_mut() => {}
                    () = told.notified() => {
                        connection.as_mut().graceful_shutdown();
                        let _ = connection.await;
                    }
                }
            }
        })
        .await;
        let (proxy, mut client) = client_of(&upstream).await;
        let (pipe, body) = piped();
        let slow = client.send_request(super::kit::post2("/", body));
        pipe.send(data("before ")).await.unwrap();
        let reached = || served.load(Ordering::SeqCst) == 1;
        super::kit::eventually("the upstream has the slow request", reached).await;
        leave.notify_one();
        for _ in 0..50 {
            let (mut other, _) = http1(proxy.connect().await).await;
            assert_eq!(ask1(&mut other, get1("/")).await.status, 200);
        }
        pipe.send(data("after")).await.unwrap();
        drop(pipe);
        assert_eq!(super::kit::Answer::read(slow.await.unwrap()).await.text, "before after");
        assert_eq!(upstream.connections(), 2);
    });
}

#[test]
fn an_upstream_that_was_restarted_costs_nobody_a_request() {
    run(async {
        for (speaks, scheme) in [(Speaks::Http1, "http"), (Speaks::Http2, "h2c")] {
            let first = backend(speaks, |_| async { Response::new(whole("first")) }).await;
            let address = first.address;
            let (_proxy, mut client) = {
                let proxy = Proxy::start(&file(ANY, "", &first.upstream(scheme))).await;
                let (client, _) = http1(proxy.connect().await).await;
                (proxy, client)
            };
            assert_eq!(ask1(&mut client, get1("/")).await.text, "first");
            drop(first);
            let listener = loop {
                match tokio::net::TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let answer = |_: Request<Incoming>| async { Response::new(whole("second")) };
                    tokio::spawn(super::kit::serve(stream, speaks == Speaks::Http2, answer));
                }
            });
            // The old server's connections live on in this process: both answer as they should.
            for _ in 0..20 {
                let answer = ask1(&mut client, get1("/")).await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        }
    });
}

/// A body of one piece that then fails.
fn cut_short() -> Content {
    struct Cut(bool);
    impl http_body::Body for Cut {
        type Data = bytes::Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<std::io::Result<http_body::Frame<bytes::Bytes>>>> {
            if std::mem::replace(&mut self.0, false) {
                return std::task::Poll::Ready(Some(Ok(data("part"))));
            }
            // Only once what there was has been sent.
            cx.waker().wake_by_ref();
            std::task::Poll::Ready(Some(Err(std::io::Error::other("cut"))))
        }
    }
    Cut(true).boxed()
}

#[test]
fn a_response_cut_short_upstream_is_cut_short_downstream_in_every_protocol() {
    run(async {
        for (speaks, scheme) in [(Speaks::Http1, "http"), (Speaks::Http2, "h2c")] {
            let upstream = backend(speaks, |_| async { Response::new(cut_short()) }).await;
            let proxy = Proxy::start(&file(ANY, "", &upstream.upstream(scheme))).await;
            let (mut client, _) = http2(proxy.connect().await).await;
            // It may be cut before anything of it was there: then it is the proxy's own 502, which is whole.
            match client.send_request(get2("/")).await {
                Ok(response) if response.status() == 502 => {}
                Ok(response) => assert!(response.into_body().collect().await.is_err(), "{scheme}"),
                Err(error) => panic!("{scheme}: {error:?}"),
            }
            let (mut client, _) = http1(proxy.connect().await).await;
            match client.send_request(get1("/")).await {
                Ok(response) if response.status() == 502 => {}
                Ok(response) => assert!(response.into_body().collect().await.is_err(), "{scheme}"),
                Err(error) => panic!("{scheme}: {error:?}"),
            }
        }
    });
}

#[test]
fn an_upstream_that_speaks_no_http2_where_it_should_is_a_502_and_not_a_hang() {
    run(async {
        let upstream = listen(|mut stream| async move {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            read_rest(&mut stream).await;
        })
        .await;
        let (_proxy, mut client) = client_of(&upstream).await;
        let answer = ask2(&mut client, get2("/")).await;
        assert!(answer.status.is_server_error() && answer.error().is_some(), "{answer:?}");
    });
}

#[test]
fn a_client_that_leaves_before_the_answer_ends_the_upstream_request() {
    run(async {
        for (speaks, scheme) in [(Speaks::Http1, "http"), (Speaks::Http2, "h2c")] {
            struct Told(tokio::sync::mpsc::UnboundedSender<&'static str>);
            impl Drop for Told {
                fn drop(&mut self) {
                    let _ = self.0.send("gone");
                }
            }
            let (events, mut happened) = tokio::sync::mpsc::unbounded_channel();
            let upstream = backend(speaks, move |_| {
                let told = Told(events.clone());
                async move {
                    told.0.send("here").unwrap();
                    std::future::pending::<()>().await;
                    drop(told);
                    Response::new(whole("never"))
                }
            })
            .await;
            let proxy = Proxy::start(&file(ANY, "", &upstream.upstream(scheme))).await;
            let (mut client, _) = http2(proxy.connect().await).await;
            let asking = tokio::spawn(client.send_request(get2("/")));
            assert_eq!(happened.recv().await, Some("here"));
            asking.abort();
            assert_eq!(happened.recv().await, Some("gone"), "{scheme} by HTTP/2");
            let mut stream = proxy.connect().await;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            assert_eq!(happened.recv().await, Some("here"));
            drop(stream);
            assert_eq!(happened.recv().await, Some("gone"), "{scheme} by HTTP/1.1");
        }
    });
}
