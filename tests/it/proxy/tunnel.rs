//! Upgrades to any protocol, and how tunnels end.

use gradual::proxy::Timing;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kit::{
    ANY, Backend, Proxy, Speaks, eventually, exchange, file, listen, read_head, read_rest, run, says,
};

/// An upstream that switches to `chess`, says something at once, and then echoes until its client ends.
async fn chess() -> Backend {
    listen(|mut stream| async move {
        let head = read_head(&mut stream).await.to_lowercase();
        assert!(head.contains("upgrade: chess/2\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chess/2\r\n\r\nfirst";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.write_all(b"last").await;
    })
    .await
}

const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: chess/2\r\n\r\n";

async fn open(proxy: &Proxy, early: &[u8]) -> TcpStream {
    let mut stream = proxy.connect().await;
    stream.write_all(&[ASK, early].concat()).await.unwrap();
    let head = read_head(&mut stream).await.to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: chess/2\r\n"), "{head}");
    stream
}

#[test]
fn any_protocol_may_be_upgraded_to_and_each_side_may_end_first() {
    run(async {
        let upstream = chess().await;
        let proxy = Proxy::start(&file(ANY, "", &upstream.upstream("http"))).await;
        let mut stream = open(&proxy, b"early").await;
        let mut bytes = [0; 10];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"firstearly");
        stream.write_all(b" more").await.unwrap();
        // The client ends its half; the other half goes on until the upstream has said its last.
        stream.shutdown().await.unwrap();
        assert_eq!(read_rest(&mut stream).await, " morelast");
    });
}

#[test]
fn a_tunnel_whose_upstream_is_gone_ends_although_its_client_goes_on_sending() {
    run(async {
        let upstream = listen(|mut stream| async move {
            read_head(&mut stream).await;
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chess/2\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let proxy = Proxy::start(&file(ANY, "", &upstream.upstream("http"))).await;
        let mut stream = open(&proxy, b"").await;
        assert_eq!(read_rest(&mut stream).await, "");
        eventually("nothing is taken from the client", || stream.try_write(b"x").is_err()).await;
    });
}

#[test]
fn a_tunnel_in_which_nothing_moves_for_the_idle_limit_is_cut() {
    run(async {
        let upstream = chess().await;
        let worker = r#"timeouts = { idle = "100ms" }"#;
        let proxy = Proxy::start(&file(ANY, worker, &upstream.upstream("http"))).await;
        let mut stream = open(&proxy, b"").await;
        assert_eq!(read_rest(&mut stream).await, "first");
    });
}

#[test]
fn a_tunnel_that_is_cut_for_its_client_is_counted() {
    run(async {
        let upstream = chess().await;
        let text = file(ANY, "", &upstream.upstream("http")) + "[limits]\nbody_idle_timeout = \"100ms\"\n";
        let (proxy, counts) = Proxy::start_with(Timing::default(), 1, &text).await;
        let mut stream = open(&proxy, b"").await;
        assert_eq!(read_rest(&mut stream).await, "first");
        let series = "gradual_limited_total{limit=\"body_idle_timeout\"}";
        eventually("counted", || counts.of(series) == 1).await;
    });
}

#[test]
fn an_upgrade_to_h2c_is_not_passed_on() {
    run(async {
        let upstream = says(Speaks::Http1, |request| {
            let there = |name: &&str| request.headers().contains_key(*name);
            let names = ["upgrade", "http2-settings", "connection"];
            names.into_iter().filter(|name| there(name)).collect::<Vec<_>>().join(" ")
        })
        .await;
        let proxy = Proxy::start(&file(ANY, "", &upstream.upstream("http"))).await;
        let answer = exchange(
            proxy.address(),
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Upgrade, HTTP2-Settings\r\n\
              Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    });
}

#[test]
fn an_upgrade_beside_h2c_is_asked_for_without_it() {
    run(async {
        let upstream = chess().await;
        let proxy = Proxy::start(&file(ANY, "", &upstream.upstream("http"))).await;
        let mut stream = proxy.connect().await;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c, chess/2\r\n\r\n")
            .await
            .unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 101"));
        stream.shutdown().await.unwrap();
        assert_eq!(read_rest(&mut stream).await, "firstlast");
    });
}
