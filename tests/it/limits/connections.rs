//! How many connections there may be.

use super::{is_met, met, with_limits};
use crate::support::{Answer, Authority, Connection, File, Proxy, backend, proxy};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";

/// A connection that is known to be counted.
async fn served(proxy: &Proxy) -> Connection {
    let mut connection = proxy.connect().await;
    connection.send(GET).await;
    assert_eq!(connection.answer().await.status, 200);
    connection
}

/// What a connection is told that is one too many.
async fn turned_away(proxy: &Proxy) -> Answer {
    let mut connection = proxy.connect().await;
    connection.send_what_can_be(GET).await;
    let answer = connection.answer().await;
    assert!(connection.is_closed().await);
    answer
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_closed_and_there_is_room_when_another_ends() {
    let v1 = backend("v1").start().await;
    for (limits, name) in
        [("connections = 2", "connections"), ("connections_per_address = 2", "connections_per_address")]
    {
        let proxy = proxy(&with_limits(limits).version("v1", &v1, 100)).await;
        let (first, _second) = (served(&proxy).await, served(&proxy).await);
        let answer = turned_away(&proxy).await;
        assert_eq!(answer.failure(), (503, "overloaded".into()));
        assert_eq!(answer.header("connection").as_deref(), Some("close"));
        assert_eq!(answer.json()["error"], "overloaded");
        assert_eq!(met(&proxy, name), 1);
        drop(first);
        let mut status = 0;
        while status != 200 {
            let mut connection = proxy.connect().await;
            connection.send_what_can_be(GET).await;
            status = connection.answer().await.status;
        }
    }
}

#[tokio::test]
async fn over_tls_a_connection_too_many_is_closed() {
    let v1 = backend("v1").start().await;
    let folder = tempfile::tempdir().unwrap();
    Authority::new().write(folder.path(), "a", &["shop.example"]);
    let file =
        with_limits("connections = 1").listener("tls = [{ certificate = \"a.pem\", key = \"a.key\" }]");
    let proxy = Proxy::start(folder, &file.version("v1", &v1, 100).text()).await;
    let _first = proxy.pipe().await;
    // Which of the two is accepted first is for the kernel to say; one of them is closed at once.
    let _second = proxy.pipe().await;
    is_met(&proxy, "connections", 1).await;
}

fn one_of_each() -> File {
    with_limits("connections_per_address = 1")
}

#[tokio::test]
async fn trusted_proxies_and_unix_sockets_have_as_many_as_they_like() {
    let v1 = backend("v1").start().await;
    for file in [
        one_of_each().listener("trusted_proxies = [\"127.0.0.0/8\"]"),
        one_of_each().address("unix:client.sock"),
    ] {
        let proxy = proxy(&file.version("v1", &v1, 100)).await;
        let _all = [served(&proxy).await, served(&proxy).await, served(&proxy).await];
        assert_eq!(met(&proxy, "connections_per_address"), 0);
    }
}

#[tokio::test]
async fn behind_a_balancer_the_address_that_it_names_is_counted() {
    let v1 = backend("v1").start().await;
    let file = one_of_each().listener("proxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let proxy = proxy(&file.version("v1", &v1, 100)).await;
    let mut held = Vec::new();
    for (client, status) in [("192.0.2.1", 200), ("192.0.2.2", 200), ("192.0.2.1", 503)] {
        let mut connection = proxy.connect().await;
        connection.send_what_can_be(format!("PROXY TCP4 {client} 192.0.2.9 5678 80\r\n{GET}")).await;
        assert_eq!(connection.answer().await.status, status, "{client}");
        held.push(connection);
    }
    is_met(&proxy, "connections_per_address", 1).await;
}

#[tokio::test]
async fn one_too_many_of_an_address_takes_no_place_of_others_while_it_lingers() {
    let v1 = backend("v1").start().await;
    let file = with_limits("connections = 2\nconnections_per_address = 1");
    let file = file.listener("proxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let proxy = proxy(&file.version("v1", &v1, 100)).await;
    let mut held = Vec::new();
    for (client, status) in [("192.0.2.1", 200), ("192.0.2.1", 503), ("192.0.2.2", 200)] {
        let mut connection = proxy.connect().await;
        connection.send_what_can_be(format!("PROXY TCP4 {client} 192.0.2.9 5678 80\r\n{GET}")).await;
        assert_eq!(connection.answer().await.status, status, "{client}");
        held.push(connection);
    }
}

#[tokio::test]
async fn a_reload_changes_the_number_for_connections_that_begin_then() {
    let v1 = backend("v1").start().await;
    let mut proxy = proxy(&with_limits("connections = 1").version("v1", &v1, 100)).await;
    let mut first = served(&proxy).await;
    assert_eq!(turned_away(&proxy).await.status, 503);
    proxy.reload(&with_limits("connections = 2").version("v1", &v1, 100)).await.unwrap();
    let _second = served(&proxy).await;
    first.send(GET).await;
    assert_eq!(first.answer().await.status, 200);
}
