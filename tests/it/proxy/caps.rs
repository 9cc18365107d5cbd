//! The most connections to an upstream, and the most requests that wait for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gradual::proxy::Timing;
use http::Response;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::kit::{
    ANY, Backend, Proxy, Speaks, ask1, ask2, backend, eventually, file, get, get1, get2, http1, http2, run,
    says, whole,
};

/// An upstream that answers when it is allowed to; counts what it is asked.
async fn held(speaks: Speaks) -> (Backend, Arc<AtomicUsize>, Arc<Semaphore>) {
    let (asked, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (count, wait) = (Arc::clone(&asked), Arc::clone(&go));
    let upstream = backend(speaks, move |_| {
        let (count, wait) = (Arc::clone(&count), Arc::clone(&wait));
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            wait.acquire().await.unwrap().forget();
            Response::new(whole("here"))
        }
    })
    .await;
    (upstream, asked, go)
}

fn limited(limits: &str, upstream: &str) -> String {
    format!("[limits]\n{limits}\n{}", file(ANY, "", upstream))
}

#[test]
fn requests_beyond_the_connections_wait_and_beyond_those_that_may_wait_are_shed_at_once() {
    run(async {
        let (upstream, asked, go) = held(Speaks::Http1).await;
        let text = limited("upstream_connections = 2\nupstream_pending = 1", &upstream.upstream("http"));
        let (proxy, counts) = Proxy::start_with(Timing::default(), 1, &text).await;
        let address = proxy.address();
        let mut held = JoinSet::new();
        for _ in 0..2 {
            held.spawn(async move { get(address, "/").await });
        }
        eventually("both are asked", || asked.load(Ordering::SeqCst) == 2).await;
        // One of the next four waits, the others are told at once.
        for _ in 0..4 {
            held.spawn(async move { get(address, "/").await });
        }
        for _ in 0..3 {
            let shed = held.join_next().await.unwrap().unwrap();
            assert_eq!((shed.status.as_u16(), shed.error()), (503, Some("overloaded")));
        }
        assert_eq!(counts.of("gradual_upstream_shed_total{worker=\"shop\",version=\"v1\"}"), 3);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        go.add_permits(3);
        assert!(held.join_all().await.iter().all(|answer| answer.text == "here"));
        assert_eq!(upstream.connections(), 2);
    });
}

#[test]
fn over_http_2_the_connections_are_counted_too() {
    run(async {
        let (upstream, asked, go) = held(Speaks::Http2).await;
        let text = limited("upstream_connections = 1\nupstream_pending = 0", &upstream.upstream("h2c"));
        let proxy = Proxy::start(&text).await;
        let (mut client, _) = http2(proxy.connect().await).await;
        go.add_permits(1);
        assert_eq!(ask2(&mut client, get2("/")).await.text, "here");
        // More than one connection carries.
        let mut held = JoinSet::new();
        for _ in 0..120 {
            let (mut client, _) = http1(proxy.connect().await).await;
            held.spawn(async move { ask1(&mut client, get1("/")).await });
        }
        eventually("one connection is full", || asked.load(Ordering::SeqCst) == 101).await;
        let shed = held.join_next().await.unwrap().unwrap();
        assert_eq!((shed.status.as_u16(), shed.error()), (503, Some("overloaded")));
        go.add_permits(100);
        let rest = held.join_all().await;
        assert_eq!(rest.iter().filter(|answer| answer.text == "here").count(), 100);
        assert_eq!(upstream.connections(), 1);
    });
}

#[test]
fn a_thread_does_not_starve_while_another_has_all_connections() {
    run(async {
        for (speaks, scheme) in [(Speaks::Http1, "http"), (Speaks::Http2, "h2c")] {
            let upstream = says(speaks, |_| "here".to_owned()).await;
            let text = limited("upstream_connections = 1", &upstream.upstream(scheme));
            let (proxy, _) = Proxy::start_with(Timing::default(), 4, &text).await;
            let mut clients = JoinSet::new();
            for _ in 0..12 {
                let (mut client, _) = http1(proxy.connect().await).await;
                clients.spawn(async move {
                    for _ in 0..20 {
                        let answer = ask1(&mut client, get1("/")).await;
                        assert_eq!(answer.text, "here", "{scheme}: {answer:?}");
                    }
                });
            }
            clients.join_all().await;
        }
    });
}

#[test]
fn a_request_that_stops_waiting_leaves_its_place_to_the_next() {
    run(async {
        let (upstream, asked, go) = held(Speaks::Http1).await;
        let worker = r#"timeouts = { connect = "30ms" }"#;
        let bounds = "[limits]\nupstream_connections = 1\nupstream_pending = 1\n";
        let text = format!("{bounds}{}", file(ANY, worker, &upstream.upstream("http")));
        let proxy = Proxy::start(&text).await;
        let address = proxy.address();
        let first = tokio::spawn(async move { get(address, "/").await.text });
        eventually("it is asked", || asked.load(Ordering::SeqCst) == 1).await;
        for _ in 0..3 {
            assert_eq!(get(address, "/").await.error(), Some("overloaded"));
        }
        go.add_permits(2);
        assert_eq!(first.await.unwrap(), "here");
        assert_eq!(get(address, "/").await.text, "here");
    });
}
