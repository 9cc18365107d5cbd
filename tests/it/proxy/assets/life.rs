//! Retained versions and what is under way: health, deadlines, clients that leave, and versions that leave the deployment.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use http_body_util::BodyExt;

use super::super::read_head;
use super::*;
use crate::support::{nobody, raw_backend, soon};

const GRACE: &str = "[limits]\nretired_grace = \"50ms\"";

/// A server that never answers.
async fn silent() -> Backend {
    raw_backend(async |mut socket| {
        read_head(&mut socket).await;
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test]
async fn a_retained_version_that_is_down_costs_the_user_nothing_but_its_assets() {
    let (v1, v3) = (site("v1", &[]).await, site("v3", &["/assets/a.js"]).await);
    let gone = nobody();
    let file = assets(", retain = [\"v2\", \"v3\"]").version("v1", &v1.backend, 100);
    let file = file.version_at("v2", &[gone.url()], 0).spare("v3", &v3.backend);
    let proxy = proxy(&file).await;
    for number in 0..3 {
        assert_eq!(proxy.get("/assets/a.js").await.text(), "the file of v3");
        assert_eq!(proxy.get(&format!("/assets/{number}.js")).await.text(), "not at v1");
    }
}

#[tokio::test]
async fn a_version_that_does_not_answer_is_given_a_part_of_the_time_and_the_next_is_asked() {
    let (v1, v3) = (site("v1", &[]).await, site("v3", &["/assets/a.js"]).await);
    let silent = silent().await;
    let file = assets(", retain = [\"v2\", \"v3\"]").worker("timeouts = { response = \"2s\" }");
    let file = file.version("v1", &v1.backend, 100).spare("v2", &silent).spare("v3", &v3.backend);
    let proxy = proxy(&file).await;
    let answer = proxy.get("/assets/a.js").await;
    assert_eq!((answer.text(), &*version(&answer)), ("the file of v3", "v3 asset"));
    assert_eq!((asked_of_others(&proxy, "failure"), asked_of_others(&proxy, "hit")), (1, 1));
}

#[tokio::test]
async fn an_upstream_that_never_answers_for_others_is_ejected_like_any() {
    let (v1, well) = (site("v1", &[]).await, site("v2", &[]).await);
    let silent = silent().await;
    let file = assets(", retain = [\"v2\"]").worker("timeouts = { response = \"1s\" }");
    let file = file.version("v1", &v1.backend, 100);
    let proxy = proxy(&file.version_at("v2", &[silent.url(), well.backend.url()], 0)).await;
    let series = format!(
        r#"gradual_upstream_ejections_total{{worker="shop",version="v2",upstream="{}"}}"#,
        silent.url()
    );
    soon("an ejection", async {
        let mut number = 0;
        while proxy.metric(&series) == 0 {
            number += 1;
            assert_eq!(proxy.get(&format!("/assets/{number}.js")).await.status, 404);
        }
    })
    .await;
    assert!(asked_of_others(&proxy, "failure") >= 5);
}

#[tokio::test]
async fn a_version_whose_time_is_over_is_asked_nothing_more() {
    let (go, arrived) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (of_backend, counter) = (Arc::clone(&go), Arc::clone(&arrived));
    let new = backend("new").answering(move |_| {
        let go = Arc::clone(&of_backend);
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            go.notified().await;
            Response::builder().status(404).body(body("missing")).unwrap()
        }
    });
    let new = new.start().await;
    let old = streaming("/missing").await;
    let before = assets(", retain = [\"old\"]").top(GRACE).version("new", &new, 100).spare("old", &old);
    let after = assets("").top(GRACE).version("new", &new, 100);
    let mut proxy = proxy(&before).await;
    let mut asset = proxy.connect().await;
    asset.send("GET /assets/a.js?dpl=old HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert_eq!(version(&asset.head().await), "old asset");
    let mut late = proxy.connect().await;
    late.send("GET /assets/b.js HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    eventually("the new version is asked", || arrived.load(Ordering::SeqCst) == 1).await;
    proxy.reload(&after).await.unwrap();
    assert_eq!(asset.bytes(3).await, b"one");
    assert!(soon("the old one's time is over", asset.is_closed()).await);
    go.notify_one();
    let answer = soon("an answer", late.answer()).await;
    assert_eq!((answer.status, &*version(&answer)), (404, "new random"));
    assert_eq!(asked_of_others(&proxy, "hit") + asked_of_others(&proxy, "failure"), 0);
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_search() {
    let v1 = site("v1", &[]).await;
    let (arrived, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (Arc::clone(&arrived), Arc::clone(&left));
    let waiting = raw_backend(move |mut socket| {
        let (arrived, left) = (Arc::clone(&counters.0), Arc::clone(&counters.1));
        async move {
            read_head(&mut socket).await;
            arrived.fetch_add(1, Ordering::SeqCst);
            // The connection is closed.
            read_head(&mut socket).await;
            left.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let file = assets(", retain = [\"v2\"]").version("v1", &v1.backend, 100).spare("v2", &waiting);
    let proxy = proxy(&file).await;
    let mut client = proxy.connect().await;
    client.send("GET /assets/a.js HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    eventually("the other version is asked", || arrived.load(Ordering::SeqCst) == 1).await;
    drop(client);
    eventually("it is asked no more", || left.load(Ordering::SeqCst) == 1).await;
    eventually("nothing is under way", || proxy.registry.under_way().is_empty()).await;
}

/// A server that begins an answer, and ends it when the other side has closed. Where a path has these words, nothing is there.
async fn streaming(missing: &'static str) -> Backend {
    raw_backend(move |mut socket| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        loop {
            let head = read_head(&mut socket).await;
            if head.is_empty() {
                return;
            }
            if head.contains(missing) {
                let _ = socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
                continue;
            }
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\none").await;
            let _ = socket.read_u8().await;
            return;
        }
    })
    .await
}

#[tokio::test]
async fn what_left_with_its_version_is_ended_and_what_the_version_serves_as_retained_is_not() {
    let (old, new) = (streaming("/missing").await, site("new", &[]).await);
    let before = assets("").top(GRACE).version("old", &old, 100);
    let after = assets(", retain = [\"old\"]").top(GRACE);
    let after = after.version("new", &new.backend, 100).spare("old", &old);
    let mut proxy = proxy(&before).await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    let begin = async |proxy: &Proxy, path: &str| {
        let mut client = proxy.connect().await;
        client.send(request(path)).await;
        assert_eq!(client.head().await.status, 200);
        assert_eq!(client.bytes(3).await, b"one");
        client
    };
    let mut page = begin(&proxy, "/page").await;
    proxy.reload(&after).await.unwrap();
    let asset = begin(&proxy, "/assets/old.js").await;
    assert!(soon("the page is ended", page.is_closed()).await);
    // All that was overdue has been ended; the asset goes on, now and as the version comes back.
    eventually("one is left", || proxy.registry.under_way()[0].requests == 1).await;
    proxy.reload(&before).await.unwrap();
    proxy.reload(&after).await.unwrap();
    assert_eq!(proxy.registry.under_way()[0].requests, 1);
    // What is retained no more ends as every other.
    let last = assets("").top(GRACE).version("new", &new.backend, 100);
    proxy.reload(&last).await.unwrap();
    let mut asset = asset;
    assert!(soon("the asset is ended", asset.is_closed()).await);
}

#[tokio::test]
async fn retained_versions_are_in_use_and_shown_like_those_in_the_deployment() {
    let file = retaining(&site("v1", &[]).await, &site("v2", &[]).await);
    let (config, _) =
        gradual::config::parse("gradual.toml", &file.text(), std::path::Path::new("/")).unwrap();
    let in_use: Vec<_> =
        config.workers[0].in_use().map(|(place, one)| (place, one.metadata.id.as_str())).collect();
    assert_eq!(in_use, [(0, "v1"), (1, "v2")]);
    let proxy = super::super::kit::Proxy::start(&file.text()).await;
    let known = proxy.shards.health().read();
    assert_eq!(known.iter().map(|one| one.version.as_str()).collect::<Vec<_>>(), ["v1", "v2"]);
}

#[tokio::test]
async fn what_another_version_serves_does_not_end_with_the_version_that_missed() {
    let (old, new) = (streaming("/missing").await, streaming("/assets/").await);
    let before = assets(", retain = [\"old\"]").top(GRACE).version("new", &new, 100).spare("old", &old);
    let after = assets("").top(GRACE).version("old", &old, 100);
    let mut proxy = proxy(&before).await;
    let mut client = http2(proxy.pipe().await).await;
    let get = |path: &str| Request::get(format!("http://shop.example{path}")).body(empty()).unwrap();
    let mut begin = async |path: &str| {
        let mut body = soon("an answer", client.send_request(get(path))).await.unwrap().into_body();
        assert_eq!(soon("a piece", body.frame()).await.unwrap().unwrap().into_data().unwrap(), "one");
        body
    };
    let (mut page, mut asset) = (begin("/page").await, begin("/assets/old.js").await);
    let mut other = proxy.connect().await;
    other.send("GET /assets/old.js HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert_eq!(version(&other.head().await), "old asset");
    proxy.reload(&after).await.unwrap();
    assert!(soon("the page is ended", page.frame()).await.unwrap().is_err());
    let under_way = || -> Vec<_> {
        proxy.registry.under_way().iter().map(|one| (one.version.to_string(), one.requests)).collect()
    };
    eventually("nothing is under way on the new one", || under_way().len() == 1).await;
    assert_eq!(under_way(), [("old".to_owned(), 2)]);
    assert!(asset.frame().now_or_never().is_none(), "it goes on");
}
