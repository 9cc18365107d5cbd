//! HTTP/2 from clients and to upstreams.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;

use super::kit::{
    ANY, Answer, Backend, Content, Http2, Proxy, Speaks, ask2, backend, data, file, get2, http2, piped,
    post2, run, says, trailers, whole,
};

async fn proxy(scheme: &str, backend: &Backend) -> (Proxy, Http2) {
    let limits = "[limits]\nhttp2_streams = 256\n".to_owned();
    let proxy = Proxy::start(&(limits + &file(ANY, "", &backend.upstream(scheme)))).await;
    let (client, _) = http2(proxy.connect().await).await;
    (proxy, client)
}

/// So many requests at once on one connection.
async fn at_once(client: &Http2, count: usize) -> Vec<Answer> {
    let mut asked = JoinSet::new();
    for index in 0..count {
        let mut client = client.clone();
        asked.spawn(async move { ask2(&mut client, get2(&format!("/{index}"))).await });
    }
    asked.join_all().await
}

#[test]
fn http2_without_tls_is_understood_by_prior_knowledge() {
    run(async {
        let upstream = says(Speaks::Http1, |request| {
            let headers = request.headers();
            format!("{:?} {:?} {:?}", request.version(), headers["host"], headers["via"])
        })
        .await;
        let (_proxy, mut client) = proxy("http", &upstream).await;
        let answer = ask2(&mut client, get2("/")).await;
        assert_eq!(answer.text, r#"HTTP/1.1 "example.com" "2.0 gradual""#);
    });
}

#[test]
fn two_hundred_streams_of_one_connection_are_served_at_the_same_time() {
    run(async {
        let together = Arc::new(Barrier::new(200));
        let upstream = backend(Speaks::Http1, move |_| {
            let together = Arc::clone(&together);
            async move {
                together.wait().await;
                Response::new(whole("all here"))
            }
        })
        .await;
        let (_proxy, client) = proxy("http", &upstream).await;
        let answers = at_once(&client, 200).await;
        assert!(answers.iter().all(|answer| answer.text == "all here"));
        assert_eq!(upstream.connections(), 200);
    });
}

#[test]
fn cookie_crumbs_are_joined_for_an_http1_upstream() {
    run(async {
        let upstream = says(Speaks::Http1, |request| {
            let cookies = request.headers().get_all("cookie").iter();
            cookies.map(|line| line.to_str().unwrap().to_owned()).collect::<Vec<_>>().join("|")
        })
        .await;
        let (_proxy, mut client) = proxy("http", &upstream).await;
        let mut request = get2("/");
        for crumb in ["a=1", "b=2", "c=3"] {
            request.headers_mut().append("cookie", crumb.parse().unwrap());
        }
        assert_eq!(ask2(&mut client, request).await.text, "a=1; b=2; c=3");
    });
}

#[test]
fn te_trailers_is_passed_in_the_form_of_each_protocol() {
    run(async {
        for (speaks, scheme, expected) in [
            (Speaks::Http1, "http", r#"Some("trailers") Some("te")"#),
            (Speaks::Http2, "h2c", r#"Some("trailers") None"#),
        ] {
            let upstream = says(speaks, |request| {
                let headers = request.headers();
                format!("{:?} {:?}", headers.get("te"), headers.get("connection"))
            })
            .await;
            let (_proxy, mut client) = proxy(scheme, &upstream).await;
            let mut request = get2("/");
            request.headers_mut().insert("te", "trailers".parse().unwrap());
            assert_eq!(ask2(&mut client, request).await.text, expected);
            assert_eq!(ask2(&mut client, get2("/")).await.text, "None None");
        }
    });
}

#[test]
fn streams_to_an_h2c_upstream_share_one_connection() {
    run(async {
        let together = Arc::new(Barrier::new(100));
        let upstream = backend(Speaks::Http2, move |_| {
            let together = Arc::clone(&together);
            async move {
                together.wait().await;
                Response::new(whole("all here"))
            }
        })
        .await;
        let (_proxy, client) = proxy("h2c", &upstream).await;
        for _ in 0..2 {
            let answers = at_once(&client, 100).await;
            assert!(answers.iter().all(|answer| answer.text == "all here"));
        }
        assert_eq!(upstream.connections(), 1);
    });
}

#[test]
fn more_than_a_hundred_streams_at_once_open_a_second_h2c_connection() {
    run(async {
        let together = Arc::new(Barrier::new(150));
        let upstream = backend(Speaks::Http2, move |_| {
            let together = Arc::clone(&together);
            async move {
                together.wait().await;
                Response::new(whole("all here"))
            }
        })
        .await;
        let (_proxy, client) = proxy("h2c", &upstream).await;
        let answers = at_once(&client, 150).await;
        assert!(answers.iter().all(|answer| answer.text == "all here"));
        assert_eq!(upstream.connections(), 2);
    });
}

#[test]
fn an_h2c_upstream_is_told_host_scheme_and_path_as_they_came() {
    run(async {
        let upstream =
            says(Speaks::Http2, |request| format!("{} {:?}", request.uri(), request.headers().get("host")))
                .await;
        let (_proxy, mut client) = proxy("h2c", &upstream).await;
        let answer = ask2(&mut client, get2("/a%2Fb/../c?x=%20&y")).await;
        assert_eq!(answer.text, "http://example.com/a%2Fb/../c?x=%20&y None");
    });
}

#[test]
fn bodies_and_trailers_pass_both_ways_between_http2_and_each_upstream_protocol() {
    run(async {
        for (speaks, scheme) in [(Speaks::Http1, "http"), (Speaks::Http2, "h2c")] {
            let upstream = backend(speaks, |request: Request<_>| async move {
                let collected = request.into_body().collect().await.unwrap();
                let sent = format!("{:?}", collected.trailers().and_then(|all| all.get("x-sum")));
                let (pipe, body) = piped();
                tokio::spawn(async move {
                    pipe.send(data(collected.to_bytes())).await.unwrap();
                    pipe.send(data(sent)).await.unwrap();
                    pipe.send(trailers("x-end", "now")).await.unwrap();
                });
                Response::builder().header("trailer", "x-end").body(body).unwrap()
            })
            .await;
            let (_proxy, mut client) = proxy(scheme, &upstream).await;
            let (pipe, body) = piped();
            tokio::spawn(async move {
                pipe.send(data("one ")).await.unwrap();
                pipe.send(data("two ")).await.unwrap();
                pipe.send(trailers("x-sum", "3")).await.unwrap();
            });
            let mut request = post2("/", body);
            request.headers_mut().insert("te", "trailers".parse().unwrap());
            request.headers_mut().insert("trailer", "x-sum".parse().unwrap());
            let answer = ask2(&mut client, request).await;
            assert_eq!(answer.text, r#"one two Some("3")"#);
            assert_eq!(answer.trailers["x-end"], "now");
        }
    });
}

const PIECE: usize = 64 << 10;
/// Far more than all buffers on the way can hold.
const PIECES: usize = 1024;

/// A body of many pieces, and how many of them were taken so far.
fn large() -> (Content, Arc<AtomicUsize>) {
    let (pipe, body) = piped();
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        for _ in 0..PIECES {
            if pipe.send(data(vec![b'x'; PIECE])).await.is_err() {
                return;
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (body, taken)
}

#[test]
fn a_client_that_does_not_read_holds_its_upstream_back_and_no_other_stream() {
    run(async {
        for (speaks, scheme) in [(Speaks::Http1, "http"), (Speaks::Http2, "h2c")] {
            let sent = Arc::new(std::sync::Mutex::new(None));
            let counter = Arc::clone(&sent);
            let upstream = backend(speaks, move |request| {
                let counter = Arc::clone(&counter);
                async move {
                    if request.uri().path() == "/small" {
                        return Response::new(whole("small"));
                    }
                    let (body, taken) = large();
                    *counter.lock().unwrap() = Some(taken);
                    Response::new(body)
                }
            })
            .await;
            let (_proxy, mut client) = proxy(scheme, &upstream).await;
            let unread = client.send_request(get2("/large")).await.unwrap();
            for _ in 0..300 {
                assert_eq!(ask2(&mut client, get2("/small")).await.text, "small");
            }
            let taken = sent.lock().unwrap().take().unwrap();
            assert!(taken.load(Ordering::SeqCst) < PIECES / 2, "{scheme}: {taken:?} pieces");
            let all = unread.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(all.len(), PIECE * PIECES);
        }
    });
}

#[test]
fn an_upstream_that_does_not_read_holds_its_client_back_and_no_other_stream() {
    run(async {
        for (speaks, scheme) in [(Speaks::Http1, "http"), (Speaks::Http2, "h2c")] {
            let go = Arc::new(Semaphore::new(0));
            let signal = Arc::clone(&go);
            let upstream = backend(speaks, move |request: Request<_>| {
                let go = Arc::clone(&signal);
                async move {
                    if request.uri().path() == "/small" {
                        return Response::new(whole("small"));
                    }
                    let _go = go.acquire().await.unwrap();
                    let length = request.into_body().collect().await.unwrap().to_bytes().len();
                    Response::new(whole(length.to_string()))
                }
            })
            .await;
            let (_proxy, client) = proxy(scheme, &upstream).await;
            let (body, taken) = large();
            let mut uploading = client.clone();
            let answer = tokio::spawn(async move { ask2(&mut uploading, post2("/large", body)).await });
            let mut other = client.clone();
            for _ in 0..300 {
                assert_eq!(ask2(&mut other, get2("/small")).await.text, "small");
            }
            assert!(taken.load(Ordering::SeqCst) < PIECES / 2, "{scheme}: {taken:?} pieces");
            go.add_permits(1);
            assert_eq!(answer.await.unwrap().text, (PIECE * PIECES).to_string());
        }
    });
}

#[test]
fn a_stream_that_its_client_resets_is_ended_at_the_upstream_and_the_others_go_on() {
    run(async {
        let (gone, mut is_gone) = tokio::sync::mpsc::unbounded_channel();
        let upstream = backend(Speaks::Http2, move |request: Request<_>| {
            let gone = gone.clone();
            async move {
                if request.uri().path() == "/small" {
                    return Response::new(whole("small"));
                }
                let (pipe, body) = piped();
                tokio::spawn(async move {
                    pipe.send(data("begun")).await.unwrap();
                    pipe.closed().await;
                    gone.send(()).unwrap();
                });
                Response::new(body)
            }
        })
        .await;
        let (_proxy, mut client) = proxy("h2c", &upstream).await;
        let mut response = client.send_request(get2("/endless")).await.unwrap();
        response.frame().await.unwrap().unwrap();
        drop(response);
        is_gone.recv().await.unwrap();
        assert_eq!(ask2(&mut client, get2("/small")).await.status, StatusCode::OK);
        assert_eq!(upstream.connections(), 1);
    });
}
