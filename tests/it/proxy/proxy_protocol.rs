//! The PROXY protocol on real connections.

use ppp::v2;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;

use super::kit::{ANY, Backend, Proxy, Speaks, ask1, exchange, file, get1, http1, read_head, run, says};
use super::tls::{Authority, connector};

const TRUSTING: &str = "trusted_proxies = [\"127.0.0.0/8\"]\nproxy_protocol = true";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Answers with the client's address.
async fn who() -> Backend {
    says(Speaks::Http1, |request| format!("{:?}", request.headers()["x-forwarded-for"])).await
}

async fn proxy(upstream: &Backend) -> Proxy {
    Proxy::start(&file(&format!("{ANY}\n{TRUSTING}"), "", &upstream.upstream("http"))).await
}

fn version_2(command: v2::Command, source: [u8; 4]) -> Vec<u8> {
    let addresses = v2::IPv4::new(source, [192, 0, 2, 2], 5678, 443);
    let version = v2::Version::Two | command;
    v2::Builder::with_addresses(version, v2::Protocol::Stream, addresses)
        .write_tlv(v2::Type::ALPN, b"h2")
        .unwrap()
        .build()
        .unwrap()
}

#[test]
fn the_client_is_who_the_header_says_in_both_versions() {
    run(async {
        let upstream = who().await;
        let proxy = proxy(&upstream).await;
        for (header, client) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 5678 443\r\n".to_vec(), "192.0.2.1"),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 5678 443\r\n".to_vec(), "2001:db8::1"),
            (version_2(v2::Command::Proxy, [192, 0, 2, 9]), "192.0.2.9"),
        ] {
            let answer = exchange(proxy.address(), &[&header, REQUEST].concat()).await;
            assert!(answer.ends_with(&format!("\"{client}\"")), "{answer}");
        }
    });
}

#[test]
fn a_balancer_that_speaks_for_itself_is_the_client() {
    run(async {
        let upstream = who().await;
        let proxy = proxy(&upstream).await;
        for header in [version_2(v2::Command::Local, [192, 0, 2, 9]), b"PROXY UNKNOWN\r\n".to_vec()] {
            let answer = exchange(proxy.address(), &[&header, REQUEST].concat()).await;
            assert!(answer.ends_with("\"127.0.0.1\""), "{answer}");
        }
    });
}

#[test]
fn a_header_that_arrives_byte_by_byte_is_understood() {
    run(async {
        let upstream = who().await;
        let proxy = proxy(&upstream).await;
        let version_1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 5678 443\r\n".to_vec();
        for header in [version_1, version_2(v2::Command::Proxy, [192, 0, 2, 1])] {
            let mut stream = proxy.connect().await;
            stream.set_nodelay(true).unwrap();
            for byte in header {
                stream.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            let (mut client, _) = http1(stream).await;
            for _ in 0..2 {
                assert_eq!(ask1(&mut client, get1("/")).await.text, "\"192.0.2.1\"");
            }
        }
    });
}

#[test]
fn connections_without_a_header_or_from_others_are_closed_unanswered() {
    run(async {
        let upstream = who().await;
        let trusting = proxy(&upstream).await;
        for bytes in [REQUEST, b"PROXY TCP4 nonsense\r\n", b"\r\n\r\n\0\r\nQUIT\n\x99", b"PRI * HTTP/2.0\r\n"]
        {
            assert_eq!(exchange(trusting.address(), bytes).await, "");
        }
        let listener = format!("{ANY}\n{}", TRUSTING.replace("127.0.0.0/8", "10.0.0.0/8"));
        let strict = Proxy::start(&file(&listener, "", &upstream.upstream("http"))).await;
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 5678 443\r\n";
        assert_eq!(exchange(strict.address(), &[header, REQUEST].concat()).await, "");
        assert_eq!(upstream.connections(), 0);
    });
}

#[test]
fn the_named_client_is_not_the_trusted_proxy() {
    run(async {
        let upstream = who().await;
        let proxy = proxy(&upstream).await;
        let bytes = b"PROXY TCP4 192.0.2.1 192.0.2.2 5678 443\r\n\
            GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.1\r\nConnection: close\r\n\r\n";
        let answer = exchange(proxy.address(), bytes).await;
        assert!(answer.ends_with("\"192.0.2.1\""), "{answer}");
    });
}

/// A version 1 header of a client.
fn version_1(client: &str) -> String {
    format!("PROXY TCP4 {client} 192.0.2.2 5678 443\r\n")
}

#[test]
fn what_is_believed_of_a_request_is_decided_by_the_address_that_the_header_names() {
    run(async {
        let upstream = says(Speaks::Http1, |request| {
            let all = |name: &str| format!("{:?}", request.headers().get(name));
            [
                "x-forwarded-for",
                "x-forwarded-proto",
                "cloudflare-workers-version-key",
                "cloudflare-workers-version-overrides",
            ]
            .map(all)
            .join(" ")
        })
        .await;
        let trusting = TRUSTING.replace("[\"127.0.0.0/8\"]", "[\"127.0.0.0/8\", \"10.0.0.0/8\"]");
        let worker = "keys = \"trusted\"\noverrides = \"trusted\"";
        let proxy =
            Proxy::start(&file(&format!("{ANY}\n{trusting}"), worker, &upstream.upstream("http"))).await;
        let claims =
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\n\
            Cloudflare-Workers-Version-Key: k\r\nCloudflare-Workers-Version-Overrides: shop=\"v1\"\r\n\
            Connection: close\r\n\r\n";
        let believed =
            |addresses: &str| format!(r#"Some("{addresses}") Some("https") Some("k") Some("shop=\"v1\"")"#);
        let refused = |address: &str| format!(r#"Some("{address}") Some("http") None None"#);
        for (header, expected) in [
            // The client is not the balancer, whom the connection comes from.
            (version_1("192.0.2.1").into_bytes(), refused("192.0.2.1")),
            (version_2(v2::Command::Proxy, [192, 0, 2, 1]), refused("192.0.2.1")),
            // A trusted proxy before the balancer.
            (version_1("10.1.2.3").into_bytes(), believed("198.51.100.1, 10.1.2.3")),
            // The balancer itself.
            (version_2(v2::Command::Local, [192, 0, 2, 1]), believed("198.51.100.1, 127.0.0.1")),
            // Somebody of whom the balancer does not say who it is.
            (b"PROXY UNKNOWN\r\n".to_vec(), refused("127.0.0.1")),
            (unix_client(), refused("127.0.0.1")),
        ] {
            let answer = exchange(proxy.address(), &[&header[..], claims].concat()).await;
            assert!(answer.ends_with(&expected), "{answer}\n{expected}");
        }
    });
}

/// A version 2 header of a client that the balancer has on a Unix socket.
fn unix_client() -> Vec<u8> {
    let addresses = v2::Unix::new([b'a'; 108], [b'b'; 108]);
    let version = v2::Version::Two | v2::Command::Proxy;
    v2::Builder::with_addresses(version, v2::Protocol::Stream, addresses).build().unwrap()
}

#[test]
fn tls_follows_the_header() {
    run(async {
        let upstream = who().await;
        let folder = tempfile::tempdir().unwrap();
        let ca = Authority::new(folder.path(), "ca");
        ca.issue(folder.path(), "a", &["a.example"]);
        let tls = r#"tls = [{ certificate = "a.pem", key = "a.key" }]"#;
        let text = file(&format!("{ANY}\n{TRUSTING}\n{tls}"), "", &upstream.upstream("http"));
        let proxy = Proxy::start_in(folder, 1, &text).await;
        let mut stream = proxy.connect().await;
        stream.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 5678 443\r\n").await.unwrap();
        let name = ServerName::try_from("a.example").unwrap();
        let connector = connector(proxy.folder.path(), &[], None);
        let (mut client, _) = http1(connector.connect(name, stream).await.unwrap()).await;
        assert_eq!(ask1(&mut client, get1("/")).await.text, "\"192.0.2.1\"");
    });
}

#[test]
fn a_header_and_a_request_in_one_segment_are_told_apart_whatever_their_size() {
    run(async {
        let upstream = who().await;
        let proxy = proxy(&upstream).await;
        let filler = "x".repeat(10_000);
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Filler: {filler}\r\n\r\n");
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 5678 443\r\n";
        let mut stream = proxy.connect().await;
        stream.write_all(&[header, request.as_bytes()].concat()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200"));
    });
}
