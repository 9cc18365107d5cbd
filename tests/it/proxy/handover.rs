//! Listening sockets that go from one data plane to the next, as they do from one process to the next.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use gradual::config::Address;
use gradual::proxy::Handed;
use tokio::io::AsyncWriteExt;

use super::kit::{
    ANY, Backend, Proxy, Speaks, ask1, file, get, get1, http1, parse, read_rest, run, says, shards,
};

/// Far longer than any end here takes.
const PATIENCE: Duration = Duration::from_secs(60);

const UNIX: &str = r#"address = "unix:front.sock""#;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";

async fn hello() -> Backend {
    says(Speaks::Http1, |_| "hello".to_owned()).await
}

/// The data plane that comes after `old`, with so many threads.
async fn successor(old: Proxy, handed: Vec<Handed>, threads: usize, text: &str) -> Proxy {
    let mut next = Proxy { shards: shards(threads), folder: old.folder };
    next.shards.take_over(handed);
    next.reload(text).await.unwrap();
    next.shards.own_files();
    next
}

/// Ends a data plane whose sockets have been handed over. Its folder stays.
async fn end(old: Proxy) -> Proxy {
    let Proxy { mut shards, folder } = old;
    shards.replaced();
    assert_eq!(shards.drain(PATIENCE).await, 0);
    Proxy { shards: super::kit::shards(1), folder }
}

/// A connection whose request waits where nobody accepts.
fn waiting(address: SocketAddr) -> tokio::net::TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nonblocking(true).unwrap();
    tokio::net::TcpStream::from_std(stream).unwrap()
}

#[test]
fn connections_that_wait_in_any_queue_are_answered_whatever_the_number_of_threads() {
    run(async {
        for (before, after) in [(2, 2), (4, 1), (3, 2), (1, 3), (2, 5)] {
            let upstream = hello().await;
            let text = file(ANY, "", &upstream.upstream("http"));
            let old = Proxy::start_in(tempfile::tempdir().unwrap(), before, &text).await;
            let address = old.address();
            let handed = old.shards.hand_over().unwrap();
            assert_eq!(handed[0].sockets().len(), before);
            let old = end(old).await;
            let mut clients: Vec<_> = (0..40).map(|_| waiting(address)).collect();
            let next = successor(old, handed, after, &text).await;
            assert_eq!(next.address(), address);
            for client in &mut clients {
                client.write_all(REQUEST).await.unwrap();
                let answer = read_rest(client).await;
                assert!(answer.ends_with("\r\n\r\nhello"), "{before} to {after}: {answer}");
            }
        }
    });
}

#[test]
fn both_accept_until_the_old_one_ends_and_then_the_new_one_alone() {
    run(async {
        let upstream = hello().await;
        let text = file(ANY, "", &upstream.upstream("http"));
        let old = Proxy::start_in(tempfile::tempdir().unwrap(), 2, &text).await;
        let (address, handed) = (old.address(), old.shards.hand_over().unwrap());
        let mut next = Proxy { shards: shards(3), folder: tempfile::tempdir().unwrap() };
        next.shards.take_over(handed);
        next.reload(&text).await.unwrap();
        for _ in 0..20 {
            assert_eq!(get(address, "/").await.text, "hello");
        }
        end(old).await;
        for _ in 0..20 {
            assert_eq!(get(address, "/").await.text, "hello");
        }
        assert_eq!(next.shards.drain(PATIENCE).await, 0);
        assert!(TcpStream::connect(address).is_err());
    });
}

#[test]
fn a_kept_connection_to_the_old_one_is_told_with_the_next_answer_and_loses_none() {
    run(async {
        let upstream = hello().await;
        let text = file(ANY, "", &upstream.upstream("http"));
        let mut old = Proxy::start_in(tempfile::tempdir().unwrap(), 2, &text).await;
        let address = old.address();
        let (mut client, _) = http1(old.connect().await).await;
        assert_eq!(ask1(&mut client, get1("/")).await.headers.get("connection"), None);
        old.shards.replaced();
        let drained = tokio::spawn(old.shards.drain(PATIENCE));
        // It has begun when nobody listens any more.
        while TcpStream::connect(address).is_ok() {
            tokio::task::yield_now().await;
        }
        let last = ask1(&mut client, get1("/")).await;
        assert_eq!((last.text.as_str(), &last.headers["connection"]), ("hello", &"close".parse().unwrap()));
        assert_eq!(drained.await.unwrap(), 0);
    });
}

#[test]
fn a_client_that_connected_to_the_old_one_may_ask_for_the_first_time_seconds_later() {
    run(async {
        let upstream = hello().await;
        let text = file(ANY, "", &upstream.upstream("http"));
        let mut old = Proxy::start_in(tempfile::tempdir().unwrap(), 2, &text).await;
        let address = old.address();
        let mut client = old.connect().await;
        old.shards.replaced();
        let drained = tokio::spawn(old.shards.drain(PATIENCE));
        while TcpStream::connect(address).is_ok() {
            tokio::task::yield_now().await;
        }
        // Longer than a packet takes that was lost once, and than an end without a successor waits.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        client.write_all(REQUEST).await.unwrap();
        let answer = read_rest(&mut client).await;
        assert!(answer.ends_with("\r\n\r\nhello"), "{answer:?}");
        assert_eq!(drained.await.unwrap(), 0);
    });
}

#[test]
fn what_was_handed_over_can_be_handed_over_again_whole() {
    run(async {
        let upstream = hello().await;
        let text = file(ANY, "", &upstream.upstream("http"));
        let first = Proxy::start_in(tempfile::tempdir().unwrap(), 4, &text).await;
        let (address, handed) = (first.address(), first.shards.hand_over().unwrap());
        let second = successor(end(first).await, handed, 1, &text).await;
        let handed = second.shards.hand_over().unwrap();
        assert_eq!(handed[0].sockets().len(), 4);
        let third = successor(end(second).await, handed, 2, &text).await;
        for _ in 0..40 {
            assert_eq!(get(address, "/").await.text, "hello");
        }
        assert_eq!(third.address(), address);
    });
}

#[test]
fn what_no_listener_names_is_closed_and_what_was_not_handed_over_is_bound() {
    run(async {
        let upstream = hello().await;
        let both = format!("{ANY}\n[[listener]]\n{UNIX}");
        let text = file(&both, "", &upstream.upstream("http"));
        let old = Proxy::start_in(tempfile::tempdir().unwrap(), 2, &text).await;
        let (address, handed) = (old.address(), old.shards.hand_over().unwrap());
        let path = old.folder.path().join("front.sock");
        let other = format!("{UNIX}\n[[listener]]\naddress = \"127.0.0.2:0\"");
        let next = successor(end(old).await, handed, 2, &file(&other, "", &upstream.upstream("http"))).await;
        assert!(TcpStream::connect(address).is_err());
        assert_eq!(get(next.address_of(1), "/").await.text, "hello");
        assert!(UnixStream::connect(path).is_ok());
    });
}

#[test]
fn a_unix_socket_keeps_its_file_until_its_last_holder_ends() {
    run(async {
        let upstream = hello().await;
        let text = file(UNIX, "", &upstream.upstream("http"));
        let old = Proxy::start_in(tempfile::tempdir().unwrap(), 2, &text).await;
        let path = old.folder.path().join("front.sock");
        let handed = old.shards.hand_over().unwrap();
        let old = end(old).await;
        assert!(path.exists());
        let next = successor(old, handed, 3, &text).await;
        assert_eq!(next.shards.addresses(), [Address::Unix(path.clone())]);
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(next.shards.drain(PATIENCE).await, 0);
        assert!(!path.exists());
    });
}

#[test]
fn until_the_old_one_has_left_the_new_one_leaves_its_files_and_removes_its_own() {
    run(async {
        let upstream = hello().await;
        let text = file(UNIX, "", &upstream.upstream("http"));
        let old = Proxy::start_in(tempfile::tempdir().unwrap(), 1, &text).await;
        let path = |name: &str| old.folder.path().join(name);
        let mut next = shards(1);
        next.take_over(old.shards.hand_over().unwrap());
        let more = format!("{UNIX}\n[[listener]]\naddress = \"unix:more.sock\"");
        let of_both = parse(&file(&more, "", &upstream.upstream("http")), old.folder.path());
        let prepared = next.prepare(&of_both).await.unwrap();
        next.commit(prepared).await;
        assert!(path("more.sock").exists());
        assert_eq!(next.drain(PATIENCE).await, 0);
        assert_eq!((path("front.sock").exists(), path("more.sock").exists()), (true, false));
        assert!(UnixStream::connect(path("front.sock")).is_ok());
    });
}

#[test]
fn a_service_managers_socket_is_found_by_its_address_and_its_file_stays() {
    run(async {
        let upstream = hello().await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("front.sock");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let unix = UnixListener::bind(&path).unwrap();
        let handed = [tcp.into(), unix.into()].map(|one| Handed::new(None, vec![one], false).unwrap());
        let text =
            file(&format!("{UNIX}\n[[listener]]\naddress = \"{address}\""), "", &upstream.upstream("http"));
        let mut proxy = Proxy { shards: shards(2), folder };
        proxy.shards.take_over(handed.into());
        proxy.reload(&text).await.unwrap();
        for _ in 0..10 {
            assert_eq!(get(address, "/").await.text, "hello");
        }
        assert_eq!(proxy.shards.drain(PATIENCE).await, 0);
        assert!(path.exists());
    });
}

#[test]
fn a_file_that_is_refused_leaves_what_was_handed_over_as_it_is() {
    run(async {
        let upstream = hello().await;
        let text = file(UNIX, "", &upstream.upstream("http"));
        let old = Proxy::start_in(tempfile::tempdir().unwrap(), 2, &text).await;
        let path = old.folder.path().join("front.sock");
        let handed = old.shards.hand_over().unwrap();
        let mut next = shards(2);
        next.take_over(handed);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let both = format!("{UNIX}\n[[listener]]\naddress = \"{}\"", taken.local_addr().unwrap());
        let bad = parse(&file(&both, "", &upstream.upstream("http")), old.folder.path());
        assert!(next.prepare(&bad).await.is_err());
        assert_eq!(next.drain(PATIENCE).await, 0);
        assert!(path.exists() && UnixStream::connect(&path).is_ok());
    });
}
