//! What a reload changes, and what it leaves alone.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kit::{
    ANY, Answer, Backend, Proxy, Speaks, ask1, ask2, backend, data, eventually, file, get, get1, get2, http1,
    http2, parse, piped, read_head, run, says, shards, whole,
};

/// A file of two versions, of which the second has so much.
fn split(listener: &str, upstreams: [&Backend; 2], second: u32) -> String {
    let [one, two] = upstreams.map(|upstream| upstream.upstream("http"));
    let first = 100 - second;
    format!(
        "[[listener]]\n{listener}\n[[worker]]\nname = \"shop\"\n\
         [[worker.version]]\nid = \"v1\"\n{one}\n[[worker.version]]\nid = \"v2\"\n{two}\n\
         [worker.deployment]\nversions = [{{ version_id = \"v1\", percentage = {first} }}, \
         {{ version_id = \"v2\", percentage = {second} }}]\n"
    )
}

/// Says which version it was told to be, and its own name; a body is read to its end first.
async fn version(name: &'static str) -> Backend {
    backend(Speaks::Http1, move |request: Request<Incoming>| async move {
        let told = request.headers()["gradual-version-id"].to_str().unwrap().to_owned();
        let length = request.into_body().collect().await.unwrap().to_bytes().len();
        Response::new(whole(format!("{name} {told} {length}")))
    })
    .await
}

#[test]
fn a_request_in_flight_keeps_its_generation_while_its_body_is_still_coming() {
    run(async {
        let (one, two) = (version("one").await, version("two").await);
        let mut proxy = Proxy::start(&split(ANY, [&one, &two], 0)).await;
        let mut slow = proxy.connect().await;
        slow.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf-").await.unwrap();
        eventually("v1 has the request", || one.connections() == 1).await;
        proxy.reload(&split(ANY, [&one, &two], 100)).await.unwrap();
        assert_eq!(get(proxy.address(), "/").await.text, "two v2 0");
        slow.write_all(b"half2GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answers = String::new();
        slow.read_to_string(&mut answers).await.unwrap();
        let ends: Vec<_> = answers.split("\r\n\r\n").skip(1).collect();
        assert!(ends[0].starts_with("one v1 10") && ends[1] == "two v2 0", "{answers}");
    });
}

#[test]
fn a_response_in_flight_goes_on_after_its_version_has_left_the_file() {
    run(async {
        let (pipe, body) = piped();
        let body = Arc::new(std::sync::Mutex::new(Some(body)));
        let one = backend(Speaks::Http1, move |_| {
            let body = body.lock().unwrap().take().unwrap();
            async move { Response::new(body) }
        })
        .await;
        let two = version("two").await;
        let mut proxy = Proxy::start(&split(ANY, [&one, &two], 0)).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        let mut response = client.send_request(get1("/")).await.unwrap();
        pipe.send(data("before ")).await.unwrap();
        response.frame().await.unwrap().unwrap();
        proxy.reload(&file(ANY, "", &two.upstream("http"))).await.unwrap();
        pipe.send(data("after")).await.unwrap();
        drop(pipe);
        assert_eq!(Answer::read(response).await.text, "after");
        assert_eq!(ask1(&mut client, get1("/")).await.text, "two v1 0");
    });
}

#[test]
fn kept_connections_of_clients_see_the_new_generation_at_their_next_request() {
    run(async {
        let (one, two) = (version("one").await, version("two").await);
        let mut proxy = Proxy::start(&split(ANY, [&one, &two], 0)).await;
        let (mut by_1, _) = http1(proxy.connect().await).await;
        let (mut by_2, _) = http2(proxy.connect().await).await;
        for (second, expected) in [(0, "one v1 0"), (100, "two v2 0"), (0, "one v1 0")] {
            proxy.reload(&split(ANY, [&one, &two], second)).await.unwrap();
            assert_eq!(ask1(&mut by_1, get1("/")).await.text, expected);
            assert_eq!(ask2(&mut by_2, get2("/")).await.text, expected);
        }
    });
}

#[test]
fn upstreams_that_a_reload_does_not_change_keep_their_connections() {
    run(async {
        let (one, two) = (version("one").await, version("two").await);
        let mut proxy = Proxy::start(&split(ANY, [&one, &two], 0)).await;
        for second in [0, 0, 40, 0] {
            proxy.reload(&split(ANY, [&one, &two], second)).await.unwrap();
            // Version 2 has its turn by draw where it has a share; version 1 is always met in the end.
            while get(proxy.address(), "/").await.text != "one v1 0" {}
        }
        assert_eq!(one.connections(), 1);
    });
}

#[test]
fn not_one_request_fails_while_reloads_go_on() {
    run(async {
        let (one, two) = (version("one").await, version("two").await);
        let folder = tempfile::tempdir().unwrap();
        let mut proxy = Proxy::start_in(folder, 2, &split(ANY, [&one, &two], 50)).await;
        let address = proxy.address();
        let served = Arc::new([const { AtomicUsize::new(0) }; 8]);
        let over = Arc::new(AtomicBool::new(false));
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..served.len() {
            let (served, over) = (Arc::clone(&served), Arc::clone(&over));
            clients.spawn(async move {
                let (mut kept, _) = http1(TcpStream::connect(address).await.unwrap()).await;
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(ask1(&mut kept, get1("/")).await.status, StatusCode::OK);
                    assert_eq!(get(address, "/").await.status, StatusCode::OK);
                    served[number].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let all_served = || served.iter().all(|count| count.load(Ordering::Relaxed) >= 10);
        let mut reloads = 0;
        while reloads < 50 || !all_served() {
            proxy.reload(&split(ANY, [&one, &two], reloads % 100)).await.unwrap();
            reloads += 1;
            if let Some(failed) = clients.try_join_next() {
                failed.unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
        clients.join_all().await;
    });
}

/// A port that is free now.
fn free_port() -> SocketAddr {
    StdTcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn at(addresses: &[SocketAddr]) -> String {
    let all: Vec<_> = addresses.iter().map(|address| format!("address = \"{address}\"")).collect();
    all.join("\n[[listener]]\n")
}

#[test]
fn a_listener_may_be_added_and_removed() {
    run(async {
        let upstream = version("one").await;
        let (first, second) = (free_port(), free_port());
        let text = |addresses: &[SocketAddr]| file(&at(addresses), "", &upstream.upstream("http"));
        let folder = tempfile::tempdir().unwrap();
        let mut proxy = Proxy::start_in(folder, 2, &text(&[first])).await;
        assert!(TcpStream::connect(second).await.is_err());
        proxy.reload(&text(&[second, first])).await.unwrap();
        let (mut kept, _) = http1(TcpStream::connect(first).await.unwrap()).await;
        assert_eq!(ask1(&mut kept, get1("/")).await.text, "one v1 0");
        assert_eq!(get(second, "/").await.text, "one v1 0");
        proxy.reload(&text(&[second])).await.unwrap();
        assert!(TcpStream::connect(first).await.is_err());
        assert_eq!(get(second, "/").await.text, "one v1 0");
        // What was connected to the removed listener is still served.
        assert_eq!(ask1(&mut kept, get1("/")).await.text, "one v1 0");
    });
}

#[test]
fn connections_that_wait_to_be_accepted_by_a_listener_that_is_removed_are_served() {
    run(async {
        let upstream = version("one").await;
        let (first, second) = (free_port(), free_port());
        let text = |address| file(&at(&[address]), "", &upstream.upstream("http"));
        let folder = tempfile::tempdir().unwrap();
        let mut proxy = Proxy::start_in(folder, 2, &text(first)).await;
        // The kernel completes these without the proxy's doing: most are still queued when the listener goes.
        let waiting: Vec<_> = (0..200).map(|_| std::net::TcpStream::connect(first).unwrap()).collect();
        proxy.reload(&text(second)).await.unwrap();
        for stream in waiting {
            stream.set_nonblocking(true).unwrap();
            let (mut client, _) = http1(TcpStream::from_std(stream).unwrap()).await;
            assert_eq!(ask1(&mut client, get1("/")).await.text, "one v1 0");
        }
    });
}

#[test]
fn a_reload_that_cannot_be_prepared_changes_nothing_and_binds_nothing() {
    run(async {
        let (one, two) = (version("one").await, version("two").await);
        let first = free_port();
        let old = split(&at(&[first]), [&one, &two], 0);
        let mut proxy = Proxy::start(&old).await;
        let taken = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let (free, taken_address) = (free_port(), taken.local_addr().unwrap());
        let unix = "address = \"unix:new.sock\"\n[[listener]]\n";
        let port_in_use = split(&format!("{unix}{}", at(&[first, free, taken_address])), [&one, &two], 100);
        let tls = r#"tls = [{ certificate = "none.pem", key = "none.key" }]"#;
        let no_certificate = split(&format!("{unix}{}\n{tls}", at(&[free])), [&one, &two], 100);
        for (text, problem) in
            [(port_in_use, "cannot listen on"), (no_certificate, "none.pem cannot be used")]
        {
            let problems = proxy.reload(&text).await.unwrap_err();
            assert!(problems.iter().any(|found| found.title.contains(problem)), "{problems:?}");
            let places: Vec<_> = problems.iter().map(|found| text[found.span.clone()].to_owned()).collect();
            let named =
                |place: &String| place.contains("none.") || place.contains(&taken_address.to_string());
            assert!(places.iter().all(named), "{places:?}");
            assert!(TcpStream::connect(free).await.is_err());
            assert!(!proxy.folder.path().join("new.sock").exists());
            assert_eq!(get(first, "/").await.text, "one v1 0");
        }
        drop(taken);
        proxy.reload(&split(&at(&[first, free, taken_address]), [&one, &two], 100)).await.unwrap();
        assert_eq!(get(taken_address, "/").await.text, "two v2 0");
    });
}

#[test]
fn an_address_that_another_gradual_listens_on_is_noticed() {
    run(async {
        let upstream = version("one").await;
        let text = |address| file(&at(&[address]), "", &upstream.upstream("http"));
        let proxy = Proxy::start(&text(free_port())).await;
        let mut other = shards(1);
        let config = parse(&text(proxy.address()), proxy.folder.path());
        let problems = other.prepare(&config).await.unwrap_err();
        assert!(problems[0].title.contains("cannot listen on"), "{problems:?}");
        assert_eq!(get(proxy.address(), "/").await.status, StatusCode::OK);
    });
}

#[test]
fn settings_of_a_listener_that_stays_count_from_the_next_request_on() {
    run(async {
        let upstream = says(Speaks::Http1, |_| "proxied".to_owned()).await;
        let text = |more: &str| file(&format!("{ANY}\n{more}"), "", &upstream.upstream("http"));
        let mut proxy = Proxy::start(&text("")).await;
        let (mut kept, _) = http1(proxy.connect().await).await;
        assert_eq!(ask1(&mut kept, get1("/healthz")).await.text, "proxied");
        proxy.reload(&text("health_path = \"/healthz\"")).await.unwrap();
        assert_eq!(ask1(&mut kept, get1("/healthz")).await.text, "ok\n");
        let mut raw = proxy.connect().await;
        raw.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_head(&mut raw).await.starts_with("HTTP/1.1 200"));
    });
}
