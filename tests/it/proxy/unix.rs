//! Unix sockets on both sides.

use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;

use http::Response;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use super::kit::{Proxy, Speaks, ask1, backend, eventually, file, get, get1, http1, run, says, serve, whole};

const UNIX: &str = r#"address = "unix:front.sock""#;

#[test]
fn clients_and_upstreams_may_be_on_unix_sockets() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("back.sock")).unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = |request: http::Request<hyper::body::Incoming>| {
                    let headers = request.headers();
                    let text = format!("{:?} {:?}", headers["host"], headers.get("x-forwarded-for"));
                    async move { Response::new(whole(text)) }
                };
                tokio::spawn(serve(stream, false, answer));
            }
        });
        let path = folder.path().join("front.sock");
        let text = file(UNIX, "", r#"upstreams = ["unix:back.sock"]"#);
        let _proxy = Proxy::start_in(folder, 2, &text).await;
        let (mut client, _) = http1(UnixStream::connect(&path).await.unwrap()).await;
        for _ in 0..3 {
            assert_eq!(ask1(&mut client, get1("/")).await.text, r#""example.com" None"#);
        }
    });
}

#[test]
fn a_stale_socket_file_is_replaced_and_the_file_is_removed_at_the_end() {
    run(async {
        let upstream = says(Speaks::Http1, |_| "hello".to_owned()).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("front.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let proxy = Proxy::start_in(folder, 2, &file(UNIX, "", &upstream.upstream("http"))).await;
        let (mut client, _) = http1(UnixStream::connect(&path).await.unwrap()).await;
        assert_eq!(ask1(&mut client, get1("/")).await.text, "hello");
        assert_eq!(proxy.shards.drain(std::time::Duration::from_secs(30)).await, 0);
        assert!(!path.exists());
    });
}

#[test]
fn one_that_still_drains_leaves_the_socket_file_of_its_successor_alone() {
    run(async {
        let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (here, wait) = (Arc::clone(&arrived), Arc::clone(&go));
        let upstream = backend(Speaks::Http1, move |request| {
            let (here, wait) = (Arc::clone(&here), Arc::clone(&wait));
            async move {
                if request.uri().path() == "/held" {
                    here.notify_one();
                    wait.notified().await;
                }
                Response::new(whole("hello"))
            }
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("front.sock");
        let text = file(&format!("address = \"unix:{}\"", path.display()), "", &upstream.upstream("http"));
        let proxy = Proxy::start(&text).await;
        let (mut client, _) = http1(UnixStream::connect(&path).await.unwrap()).await;
        let held = tokio::spawn(async move { ask1(&mut client, get1("/held")).await.text });
        arrived.notified().await;
        let draining = tokio::spawn(proxy.shards.drain(std::time::Duration::from_secs(30)));
        let is_closed = || std::os::unix::net::UnixStream::connect(&path).is_err();
        eventually("the old one does not listen any more", is_closed).await;
        let _successor = Proxy::start(&text).await;
        go.notify_one();
        assert_eq!((held.await.unwrap().as_str(), draining.await.unwrap()), ("hello", 0));
        let (mut client, _) = http1(UnixStream::connect(&path).await.unwrap()).await;
        assert_eq!(ask1(&mut client, get1("/")).await.text, "hello");
    });
}

#[test]
fn a_listener_that_a_reload_removes_takes_its_socket_file_with_it() {
    run(async {
        let upstream = says(Speaks::Http1, |_| "hello".to_owned()).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("front.sock");
        let both = format!("{UNIX}\n[[listener]]\n{}", super::kit::ANY);
        let upstreams = upstream.upstream("http");
        let mut proxy = Proxy::start_in(folder, 2, &file(&both, "", &upstreams)).await;
        assert!(path.exists());
        proxy.reload(&file(super::kit::ANY, "", &upstreams)).await.unwrap();
        assert!(!path.exists());
        assert_eq!(get(proxy.address(), "/").await.text, "hello");
    });
}

#[test]
fn a_peer_on_a_unix_socket_is_a_trusted_proxy_where_the_listener_says_so() {
    run(async {
        let upstream =
            says(Speaks::Http1, |request| format!("{:?}", request.headers().get("x-forwarded-for"))).await;
        for (trusted, expected) in [("", "None"), ("\ntrusted_proxies = [\"unix\"]", r#"Some("192.0.2.7")"#)]
        {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("front.sock");
            let text = file(&format!("{UNIX}{trusted}"), "", &upstream.upstream("http"));
            let _proxy = Proxy::start_in(folder, 1, &text).await;
            let (mut client, _) = http1(UnixStream::connect(&path).await.unwrap()).await;
            let mut request = get1("/");
            request.headers_mut().insert("x-forwarded-for", "192.0.2.7".parse().unwrap());
            assert_eq!(ask1(&mut client, request).await.text, expected);
        }
    });
}
