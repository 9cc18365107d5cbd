//! What assets that are missing cost: memories, the budget, and nothing buffered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body::Frame;

use super::*;
use crate::support::{frames, soon};

#[tokio::test]
async fn what_nobody_has_is_not_asked_of_others_again_at_once() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &[]).await);
    let proxy = proxy(&retaining(&v1, &v2)).await;
    for _ in 0..5 {
        let answer = proxy.get("/assets/a.js").await;
        assert_eq!((answer.status, answer.header("cache-control").as_deref()), (404, Some("no-store")));
    }
    // The query is part of what names a file, but for the name of the page's version.
    proxy.get("/assets/a.js?dpl=x").await;
    assert_eq!((v1.count(), v2.count()), (6, 1));
    proxy.get("/assets/a.js?dpl=y&url=a.png").await;
    proxy.get("/assets/a.js?url=a.png&dpl=z").await;
    assert_eq!((v1.count(), v2.count()), (8, 2));
    assert_eq!(proxy.get("/assets/b.js").await.status, 404);
    assert_eq!(v2.count(), 3);
    // What the own version has meanwhile is served all the same.
    v1.has(&["/assets/a.js"]);
    assert_eq!(proxy.get("/assets/a.js").await.text(), "the file of v1");
    assert_eq!(misses(&proxy, "v1", false), 9);
}

#[tokio::test]
async fn what_one_kind_of_request_is_not_given_is_not_missing_for_others() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &[]).await);
    let proxy = proxy(&retaining(&v1, &v2)).await;
    for lines in ["HEAD /assets/a.js HTTP/1.1", "GET /assets/a.js HTTP/1.1\r\nRange: bytes=100000-"] {
        v2.has(&[]);
        let mut connection = proxy.connect().await;
        connection.send(format!("{lines}\r\nHost: shop.example\r\n\r\n")).await;
        assert_eq!(connection.head().await.status, 404);
        v2.has(&["/assets/a.js"]);
        assert_eq!(proxy.get("/assets/a.js").await.text(), "the file of v2", "{lines}");
    }
}

#[tokio::test]
async fn what_nobody_has_for_one_version_is_asked_for_another_all_the_same() {
    let (order, mut sites) = (Order::default(), Vec::new());
    let mut file = assets("");
    for name in ["v1", "v2", "v3", "v4", "v5", "v6"] {
        let has: &[&str] = if name == "v6" { &["/assets/a.js"] } else { &[] };
        let site = one_of(&order, name, has, false).await;
        file = file.version(name, &site.backend, if name == "v6" { 95 } else { 1 });
        sites.push(site);
    }
    let proxy = proxy(&file).await;
    // Four others, and v6 is not among them.
    assert_eq!(proxy.get_with("/assets/a.js", &[&own("v1")]).await.status, 404);
    assert_eq!(proxy.get_with("/assets/a.js", &[&own("v1")]).await.status, 404);
    assert_eq!(*order.lock().unwrap(), ["v1", "v2", "v3", "v4", "v5", "v1"]);
    order.lock().unwrap().clear();
    assert_eq!(proxy.get_with("/assets/a.js", &[&own("v5")]).await.status, 404);
    assert_eq!(*order.lock().unwrap(), ["v5", "v1", "v2", "v3", "v4"]);
}

#[tokio::test]
async fn where_a_file_was_is_asked_first_when_the_own_version_has_missed_again() {
    let order = Order::default();
    let v1 = one_of(&order, "v1", &[], false).await;
    let v2 = one_of(&order, "v2", &[], false).await;
    let v3 = one_of(&order, "v3", &["/assets/a.js"], false).await;
    let file =
        assets("").version("v1", &v1.backend, 98).version("v2", &v2.backend, 1).version("v3", &v3.backend, 1);
    let proxy = proxy(&file).await;
    let asked = || std::mem::take(&mut *order.lock().unwrap());
    for _ in 0..3 {
        let answer = proxy.get_with("/assets/a.js", &[&own("v1")]).await;
        assert_eq!((answer.text(), &*version(&answer)), ("the file of v3", "v3 asset"));
        assert_eq!(answer.header("set-cookie"), None);
    }
    assert_eq!(asked(), ["v1", "v2", "v3", "v1", "v3", "v1", "v3"]);
    assert_eq!((misses(&proxy, "v1", true), asked_of_others(&proxy, "hit")), (3, 3));
    // Whose version has it is asked there.
    assert_eq!(version(&proxy.get_with("/assets/a.js", &[&own("v3")]).await), "v3 override");
    // Where it is not any more, nobody is asked twice, and the next one is remembered.
    asked();
    v3.has(&[]);
    v2.has(&["/assets/a.js"]);
    for expected in [&["v1", "v3", "v2"][..], &["v1", "v2"]] {
        assert_eq!(version(&proxy.get_with("/assets/a.js", &[&own("v1")]).await), "v2 asset");
        assert_eq!(asked(), expected);
    }
    v3.has(&["/assets/a.js"]);
    v2.has(&[]);
    v2.otherwise(500);
    for expected in [&["v1", "v2", "v3"][..], &["v1", "v3"]] {
        assert_eq!(version(&proxy.get_with("/assets/a.js", &[&own("v1")]).await), "v3 asset");
        assert_eq!(asked(), expected);
    }
    // A file that the own version has comes from nobody else.
    v1.has(&["/assets/a.js"]);
    assert_eq!(version(&proxy.get_with("/assets/a.js", &[&own("v1")]).await), "v1 override");
    assert_eq!(asked(), ["v1"]);
    // Another query may be another file.
    v1.has(&[]);
    v2.otherwise(404);
    assert_eq!(version(&proxy.get_with("/assets/a.js?url=x", &[&own("v1")]).await), "v3 asset");
    assert_eq!(asked(), ["v1", "v2", "v3"]);
}

#[tokio::test]
async fn where_a_file_is_known_to_be_it_is_asked_for_whatever_the_budget() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &["/assets/a.js"]).await);
    let proxy = proxy(&retaining(&v1, &v2)).await;
    for number in 0..200 {
        assert_eq!(proxy.get("/assets/a.js").await.text(), "the file of v2", "{number}");
    }
    assert_eq!((misses(&proxy, "v1", true), asked_of_others(&proxy, "budget")), (200, 0));
}

/// What there is at first.
const AT_FIRST: usize = 100;

#[tokio::test]
async fn a_flood_of_random_paths_makes_one_more_request_for_five_and_ten_a_second() {
    let (v1, v2, v3) = (site("v1", &[]).await, site("v2", &[]).await, site("v3", &[]).await);
    let file = assets(", retain = [\"v2\", \"v3\"]").version("v1", &v1.backend, 100);
    let file = file.spare("v2", &v2.backend).spare("v3", &v3.backend);
    let proxy = proxy(&file).await;
    let begun = Instant::now();
    let mut connection = proxy.connect().await;
    for number in 0..400 {
        connection.send(format!("GET /assets/{number}.js HTTP/1.1\r\nHost: shop.example\r\n\r\n")).await;
        let answer = connection.answer().await;
        assert_eq!((answer.status, answer.header("cache-control").as_deref()), (404, Some("no-store")));
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    let others = v2.count() + v3.count();
    assert_eq!(v1.count(), 400);
    // The last one that began came to its end on credit.
    let most = 80 + AT_FIRST + 1 + 10 * (seconds + 1);
    assert!((70 + AT_FIRST..=most).contains(&others), "{others} in {seconds} s");
    assert!(asked_of_others(&proxy, "budget") > 0);
    assert_eq!(asked_of_others(&proxy, "miss"), others as u64);
}

/// A server that has nothing, and takes its time to say so: whoever asks at once waits at once.
async fn slow(name: &'static str) -> Backend {
    let answer = move |_| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        other(name, 404)
    };
    backend(name).answering(answer).start().await
}

/// `v1` has all the traffic and no file. `v2`, where there is one, is asked for each before `v3`, which has them all.
async fn with_files(count: usize, v2: Option<&Backend>) -> (Proxy, Vec<Site>) {
    let (v1, v3) = (site("v1", &[]).await, site("v3", &[]).await);
    let files: Vec<_> = (0..count).map(file_of).collect();
    v3.has(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let retained = if v2.is_some() { ", retain = [\"v2\", \"v3\"]" } else { ", retain = [\"v3\"]" };
    let mut file = assets(retained).version("v1", &v1.backend, 100);
    if let Some(v2) = v2 {
        file = file.spare("v2", v2);
    }
    (proxy(&file.spare("v3", &v3.backend)).await, vec![v1, v3])
}

fn file_of(number: usize) -> String {
    format!("/assets/{number}.js")
}

/// How many of so many files are served to a browser, which asks for them over six connections.
async fn served_over_six_connections(proxy: &Proxy, count: usize) -> usize {
    let each = |first: usize| async move {
        let (mut connection, mut served) = (proxy.connect().await, 0);
        for number in (first..count).step_by(6) {
            let path = file_of(number);
            connection.send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n")).await;
            served += usize::from(connection.answer().await.status == 200);
        }
        served
    };
    let (a, b, c, d, e, f) = tokio::join!(each(0), each(1), each(2), each(3), each(4), each(5));
    a + b + c + d + e + f
}

/// The same over one connection, with as many at once as it allows.
async fn served_over_http2(proxy: &Proxy, count: usize) -> usize {
    let client = http2(proxy.pipe().await).await;
    let mut streams = tokio::task::JoinSet::new();
    for number in 0..count {
        let mut client = client.clone();
        let uri = format!("http://shop.example{}", file_of(number));
        streams.spawn(async move {
            let request = Request::get(uri).body(empty()).unwrap();
            collect(client.send_request(request).await.unwrap()).await.status
        });
    }
    streams.join_all().await.into_iter().filter(|status| *status == 200).count()
}

#[tokio::test]
async fn a_page_of_many_files_that_only_another_version_has_is_whole() {
    const COUNT: usize = 150;
    let (proxy, _sites) = with_files(COUNT, None).await;
    assert_eq!(served_over_six_connections(&proxy, COUNT).await, COUNT);
    let (proxy, _sites) = with_files(COUNT, None).await;
    assert_eq!(served_over_http2(&proxy, COUNT).await, COUNT);
    assert_eq!((misses(&proxy, "v1", true), asked_of_others(&proxy, "budget")), (COUNT as u64, 0));
}

#[tokio::test]
async fn a_page_of_many_files_that_only_the_second_of_the_others_has_is_whole() {
    const COUNT: usize = 150;
    let v2 = slow("v2").await;
    let (proxy, _sites) = with_files(COUNT, Some(&v2)).await;
    assert_eq!(served_over_six_connections(&proxy, COUNT).await, COUNT);
    let (proxy, _sites) = with_files(COUNT, Some(&v2)).await;
    assert_eq!(served_over_http2(&proxy, COUNT).await, COUNT);
    assert_eq!((asked_of_others(&proxy, "miss"), asked_of_others(&proxy, "budget")), (COUNT as u64, 0));
}

#[tokio::test]
async fn one_file_that_is_found_under_made_up_queries_does_not_make_asking_in_vain_free() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &[]).await);
    let v3 = site("v3", &["/assets/a.js"]).await;
    let file = assets(", retain = [\"v2\", \"v3\"]").version("v1", &v1.backend, 100);
    let proxy = proxy(&file.spare("v2", &v2.backend).spare("v3", &v3.backend)).await;
    let begun = Instant::now();
    let mut connection = proxy.connect().await;
    for number in 0..400 {
        let request = format!("GET /assets/a.js?{number} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        connection.send(request).await;
        connection.answer().await;
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    let most = 80 + AT_FIRST + 1 + 10 * (seconds + 1);
    assert!(v2.count() <= most, "{} in {seconds} s", v2.count());
    assert!(asked_of_others(&proxy, "budget") > 0);
}

#[tokio::test]
async fn a_flood_of_random_paths_at_once_is_bounded_too() {
    let v2 = slow("v2").await;
    let (proxy, sites) = with_files(0, Some(&v2)).await;
    let begun = Instant::now();
    assert_eq!(served_over_http2(&proxy, 600).await, 0);
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    let lost = asked_of_others(&proxy, "miss");
    let most = 600 / 5 + AT_FIRST + 300 + 10 * (seconds + 1);
    assert!(usize::try_from(lost).unwrap() <= most, "{lost} in {seconds} s");
    assert!(sites[1].count() > 100 && asked_of_others(&proxy, "budget") > 0);
}

#[tokio::test]
async fn a_path_that_the_budget_kept_from_others_is_asked_of_them_later() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &["/assets/late.js"]).await);
    let proxy = proxy(&retaining(&v1, &v2)).await;
    let spend = async {
        let mut number = 0;
        while asked_of_others(&proxy, "budget") == 0 {
            number += 1;
            proxy.get(&format!("/assets/{number}.js")).await;
        }
    };
    soon("the budget is spent", spend).await;
    // It is not remembered as missing: the next that can be afforded finds it.
    let ask = async {
        while proxy.get("/assets/late.js").await.status == 404 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the budget allows it", ask).await;
    assert_eq!(v2.asked().last().unwrap(), "GET /assets/late.js as v2");
}

#[tokio::test]
async fn the_first_answer_waits_at_its_upstream_and_not_in_memory() {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 64;
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let v1 = backend("v1").answering(move |_| {
        let (feed, body) = frames();
        let counter = Arc::clone(&counter);
        tokio::spawn(async move {
            for _ in 0..PIECES {
                if feed.send(Ok(Frame::data(vec![b'x'; PIECE].into()))).await.is_err() {
                    return;
                }
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        async move { Response::builder().status(404).body(body).unwrap() }
    });
    let v1 = v1.start().await;
    let watched = Arc::clone(&taken);
    let v2 = backend("v2").answering(move |request| {
        let watched = Arc::clone(&watched);
        async move {
            // Until the other one cannot send any more.
            let mut before = usize::MAX;
            while before != watched.load(Ordering::SeqCst) {
                before = watched.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let found = request.uri().path() == "/assets/a.js";
            Response::builder().status(if found { 200 } else { 404 }).body(body("found")).unwrap()
        }
    });
    let v2 = v2.start().await;
    let file = assets(", retain = [\"v2\"]").version("v1", &v1, 100).spare("v2", &v2);
    let proxy = proxy(&file).await;
    assert_eq!(soon("an answer", proxy.get("/assets/a.js")).await.text(), "found");
    // What the system holds for both sockets is all that was taken.
    let held = taken.load(Ordering::SeqCst);
    assert!(held < PIECES / 2, "{held} MiB");
    // And what waited is whole when it is served.
    let answer = soon("an answer", proxy.get("/assets/b.js")).await;
    assert_eq!((answer.status, answer.body.len(), answer.whole), (404, PIECE * PIECES, true));
}
