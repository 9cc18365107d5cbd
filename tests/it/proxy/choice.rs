//! Which version a request goes to, seen from outside.

use crate::support::{backend, collect, empty, file, http2, proxy};

#[tokio::test]
async fn a_request_reaches_its_version() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let answer = proxy.get("/a?b").await;
    assert_eq!((answer.status, answer.text()), (200, "v1"));
    assert_eq!(v1.last().target, "/a?b");
    let mut client = http2(proxy.pipe().await).await;
    let request = http::Request::get("http://shop.example/x").body(empty()).unwrap();
    let answer = collect(client.send_request(request).await.unwrap()).await;
    assert_eq!(answer.text(), "v1");
}
