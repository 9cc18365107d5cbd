//! Threads, endpoints, names and the deadline of connecting.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::kit::{
    ANY, Backend, Proxy, Speaks, ask1, backend, file, get, get1, http1, run, says, upstreams, whole,
};

/// Two versions of equal share, told apart by what they say.
async fn halves(threads: usize) -> (Proxy, [Backend; 2]) {
    let both =
        [says(Speaks::Http1, |_| "one".to_owned()).await, says(Speaks::Http1, |_| "two".to_owned()).await];
    let [one, two] = [&both[0], &both[1]].map(|upstream| upstream.upstream("http"));
    let text = format!(
        "[[listener]]\n{ANY}\n[[worker]]\nname = \"shop\"\n[[worker.version]]\nid = \"v1\"\n{one}\n\
         [[worker.version]]\nid = \"v2\"\n{two}\n[worker.deployment]\nversions = [\
         {{ version_id = \"v1\", percentage = 50 }}, {{ version_id = \"v2\", percentage = 50 }}]\n"
    );
    (Proxy::start_in(tempfile::tempdir().unwrap(), threads, &text).await, both)
}

#[test]
fn the_same_key_has_the_same_version_on_every_connection_and_number_of_threads() {
    run(async {
        let (single, _first) = halves(1).await;
        let (many, _second) = halves(4).await;
        let mut versions: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for proxy in [&single, &many] {
            for _ in 0..16 {
                let (mut client, _) = http1(proxy.connect().await).await;
                for key in 0..20 {
                    let mut request = get1("/");
                    let header = format!("key-{key}").parse().unwrap();
                    request.headers_mut().insert("cloudflare-workers-version-key", header);
                    versions.entry(key).or_default().insert(ask1(&mut client, request).await.text);
                }
            }
        }
        assert!(versions.values().all(|seen| seen.len() == 1), "{versions:?}");
        let distinct: BTreeSet<_> = versions.values().flatten().collect();
        assert_eq!(distinct.len(), 2);
    });
}

#[test]
fn two_endpoints_of_a_version_share_its_load() {
    run(async {
        let one = says(Speaks::Http1, |_| "one".to_owned()).await;
        let two = says(Speaks::Http1, |_| "two".to_owned()).await;
        let both = upstreams("http", &[one.address, two.address]);
        let proxy = Proxy::start(&file(ANY, "", &both)).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        let mut ones = 0;
        for _ in 0..400 {
            ones += usize::from(ask1(&mut client, get1("/")).await.text == "one");
        }
        // Outside of this with a chance of less than one in 10^20.
        assert!((100..300).contains(&ones), "{ones}");
        assert_eq!((one.connections(), two.connections()), (1, 1));
    });
}

#[test]
fn the_busier_endpoint_is_avoided() {
    run(async {
        let (stuck, count) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let waiting = |name: &'static str| {
            let (stuck, count) = (Arc::clone(&stuck), Arc::clone(&count));
            backend(Speaks::Http1, move |request: http::Request<hyper::body::Incoming>| {
                let (stuck, count) = (Arc::clone(&stuck), Arc::clone(&count));
                async move {
                    if request.uri().path() == "/slow" {
                        count.fetch_add(1, Ordering::SeqCst);
                        let _ = stuck.acquire().await;
                    }
                    Response::new(whole(name))
                }
            })
        };
        let (one, two) = (waiting("one").await, waiting("two").await);
        let both = upstreams("http", &[one.address, two.address]);
        let proxy = Proxy::start(&file(ANY, "", &both)).await;
        let address = proxy.address();
        let slow = tokio::spawn(async move { get(address, "/slow").await });
        super::kit::eventually("it is under way", || count.load(Ordering::SeqCst) == 1).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        let mut names = BTreeSet::new();
        for _ in 0..50 {
            names.insert(ask1(&mut client, get1("/")).await.text);
        }
        assert_eq!(names.len(), 1, "{names:?}");
        stuck.add_permits(1);
        assert!(!names.contains(&slow.await.unwrap().text));
    });
}

#[test]
fn an_upstream_may_be_named_and_need_not_listen_at_every_address_of_its_name() {
    run(async {
        let upstream = says(Speaks::Http1, |request| format!("{:?}", request.headers()["host"])).await;
        let port = upstream.address.port();
        let version = format!("upstreams = [\"http://localhost:{port}\"]");
        let preserving = Proxy::start(&file(ANY, "", &version)).await;
        let own = Proxy::start(&file(ANY, r#"upstream_host = "upstream""#, &version)).await;
        for _ in 0..40 {
            assert_eq!(get(preserving.address(), "/").await.text, r#""example.com""#);
            assert_eq!(get(own.address(), "/").await.text, format!("\"localhost:{port}\""));
        }
    });
}

#[test]
fn a_name_at_whose_addresses_nobody_listens_is_a_503() {
    run(async {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let version = format!("upstreams = [\"http://localhost:{port}\"]");
        let proxy = Proxy::start(&file(ANY, "", &version)).await;
        let answer = get(proxy.address(), "/").await;
        assert_eq!((answer.status.as_u16(), answer.error()), (503, Some("connect-failed")));
    });
}

#[test]
fn a_name_that_cannot_be_resolved_is_a_503_and_stops_neither_start_nor_other_upstreams() {
    run(async {
        let unknown = r#"upstreams = ["http://no-such-name.invalid:80"]"#;
        let mut proxy = Proxy::start(&file(ANY, "", unknown)).await;
        let answer = get(proxy.address(), "/").await;
        assert_eq!((answer.status.as_u16(), answer.error()), (503, Some("no-upstream")));
        let upstream = says(Speaks::Http1, |_| "hello".to_owned()).await;
        let both =
            format!("upstreams = [\"http://no-such-name.invalid:80\", \"http://{}\"]", upstream.address);
        proxy.reload(&file(ANY, "", &both)).await.unwrap();
        assert_eq!(get(proxy.address(), "/").await.text, "hello");
    });
}

/// A listening socket whose queue is full, so that nobody's SYN is answered; with what fills it.
async fn full() -> (SocketAddr, socket2::Socket, Vec<tokio::task::JoinHandle<std::io::Result<TcpStream>>>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let fill = |_| tokio::spawn(TcpStream::connect(address));
    let filling: Vec<_> = (0..8).map(fill).collect();
    super::kit::eventually("the queue has somebody", || filling.iter().any(|one| one.is_finished())).await;
    (address, socket, filling)
}

#[test]
fn an_upstream_that_does_not_answer_the_dial_is_a_503_when_the_deadline_has_passed() {
    run(async {
        let (address, _socket, _filling) = full().await;
        let worker = r#"timeouts = { connect = "100ms" }"#;
        for scheme in ["http", "h2c"] {
            let proxy = Proxy::start(&file(ANY, worker, &upstreams(scheme, &[address]))).await;
            let answer = get(proxy.address(), "/").await;
            assert_eq!((answer.status.as_u16(), answer.error()), (503, Some("connect-timeout")));
        }
    });
}

#[test]
fn an_upstream_that_nobody_listens_on_is_a_503() {
    run(async {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for scheme in ["http", "h2c"] {
            let proxy = Proxy::start(&file(ANY, "", &upstreams(scheme, &[address]))).await;
            let answer = get(proxy.address(), "/").await;
            assert_eq!((answer.status.as_u16(), answer.error()), (503, Some("connect-failed")));
        }
        let version = r#"upstreams = ["unix:none.sock"]"#;
        let proxy = Proxy::start(&file(ANY, "", version)).await;
        assert_eq!(get(proxy.address(), "/").await.error(), Some("connect-failed"));
    });
}
