//! An object is free when its upstream has seen the end, however a request ends; and when nothing is asked of an upstream
//! any more, nothing holds it.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::read_head;
use super::storm::{Chronicle, Stay, header, witness};
use super::{
    ACCEPTS, RESET, asks_for_websocket, get, holding, live, named, nothing_is_left, objects, plain, room_of,
    served_by, split, waiting, websocket,
};
use crate::support::{Backend, backend, eventually, file, proxy, raw_backend, soon, wire};

/// A server that says this to every request, and goes on with it for a while when its client has ended the connection.
async fn lingering(version: &'static str, chronicle: &Arc<Chronicle>, says: &'static [u8]) -> Backend {
    let chronicle = Arc::clone(chronicle);
    raw_backend(move |mut socket| {
        let chronicle = Arc::clone(&chronicle);
        async move {
            let head = read_head(&mut socket).await;
            let Some(room) = header(&head, "x-room") else { return };
            let stay = chronicle.begins(room, version);
            socket.write_all(says).await.unwrap();
            let _ = socket.read_to_end(&mut Vec::new()).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(stay);
        }
    })
    .await
}

#[tokio::test]
async fn the_process_does_not_end_before_the_upstream_has_seen_the_end() {
    let chronicle = Arc::<Chronicle>::default();
    let one = lingering("v1", &chronicle, b"").await;
    let proxy = proxy(&file().worker_table(&objects("")).version("v1", &one, 100)).await;
    let mut leaves = proxy.connect().await;
    leaves.send(get("lobby")).await;
    eventually("v1 has it", || chronicle.under_way() == 1).await;
    drop(leaves);
    let (metrics, _) = proxy.records().await;
    assert_eq!(chronicle.under_way(), 0);
    assert!(metrics.contains(r#"gradual_objects_live{worker="shop"} 0"#));
}

/// An HTTP/2 server that answers nothing, and goes on with a request for a while when its client has reset it.
async fn slow_to_see(version: &'static str, chronicle: &Arc<Chronicle>) -> Backend {
    struct Late(Option<Stay>);
    impl Drop for Late {
        fn drop(&mut self) {
            let stay = self.0.take();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                drop(stay);
            });
        }
    }
    let chronicle = Arc::clone(chronicle);
    let slow = backend(version).h2c().answering(move |request| {
        let late = Late(Some(chronicle.begins(&room_of(&request), version)));
        async move {
            let _late = late;
            std::future::pending().await
        }
    });
    slow.start().await
}

/// A request for `lobby` that its version has not answered is cut, and the object served elsewhere only when that version has
/// ended with it.
async fn moves_when_the_end_was_seen(one: Backend, request: &str, chronicle: &Arc<Chronicle>) {
    let two = witness("v2", chronicle).await;
    let mut proxy = proxy(&split([&one, &two], 0, RESET)).await;
    let mut asks = proxy.connect().await;
    asks.send(request).await;
    eventually("v1 has it", || chronicle.under_way() == 1).await;
    proxy.reload(&split([&one, &two], 100, RESET)).await.unwrap();
    assert_eq!(served_by(&proxy, "lobby").await, "v2..");
    assert_eq!(chronicle.violations(), [""; 0]);
    assert_eq!(asks.answer().await.failure(), (503, "object-moving".to_owned()));
    nothing_is_left(&proxy).await;
}

/// HTTP/2 has no acknowledgement of a reset.
#[tokio::test]
async fn an_http_2_upstream_has_the_time_to_see_that_a_stream_is_reset_before_its_object_is_free() {
    let chronicle = Arc::default();
    moves_when_the_end_was_seen(slow_to_see("v1", &chronicle).await, &get("lobby"), &chronicle).await;
}

#[tokio::test]
async fn a_tunnel_that_has_not_opened_keeps_its_object_until_its_upstream_has_seen_the_end() {
    let chronicle = Arc::default();
    let one = lingering("v1", &chronicle, b"").await;
    moves_when_the_end_was_seen(one, &asks_for_websocket("lobby"), &chronicle).await;
}

#[tokio::test]
async fn a_tunnel_that_stands_still_keeps_its_object_until_its_upstream_has_seen_the_end() {
    let chronicle = Arc::<Chronicle>::default();
    let (one, two) = (lingering("v1", &chronicle, ACCEPTS).await, witness("v2", &chronicle).await);
    let still = |share| split([&one, &two], share, "").worker("timeouts = { idle = \"300ms\" }");
    let mut proxy = proxy(&still(0)).await;
    let _stands_still = websocket(&proxy, "lobby").await;
    proxy.reload(&still(100)).await.unwrap();
    assert_eq!(served_by(&proxy, "lobby").await, "v2..");
    assert_eq!(chronicle.violations(), [""; 0]);
    nothing_is_left(&proxy).await;
}

/// A client with an HTTP/2 window of nothing never takes its answer.
#[tokio::test]
async fn an_answer_of_the_proxy_s_own_holds_no_object_however_slow_its_client_is() {
    let garbled = raw_backend(async |mut socket| {
        read_head(&mut socket).await;
        socket.write_all(b"This is no HTTP\r\n\r\n").await.unwrap();
    })
    .await;
    let proxy = proxy(&file().worker_table(&objects("")).version("v1", &garbled, 100)).await;
    let mut pipe = proxy.pipe().await;
    let head = wire::block(&[&wire::request("GET", "/")[..], &[("x-room", "lobby")]].concat());
    let open = wire::frame(wire::HEADERS, wire::END_HEADERS | wire::END_STREAM, 1, &head);
    let no_window = wire::frame(wire::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    pipe.write_all(&[wire::PREFACE, &no_window, &open].concat()).await.unwrap();
    loop {
        let mut bytes = [0; 9];
        soon("a frame", pipe.read_exact(&mut bytes)).await.unwrap();
        let (length, kind, _, _) = wire::frame_head(bytes);
        soon("its payload", pipe.read_exact(&mut vec![0; length])).await.unwrap();
        assert_ne!(kind, wire::DATA, "there is no room for it");
        if kind == wire::HEADERS {
            break;
        }
    }
    eventually("nobody has it", || live(&proxy) == 0).await;
    drop(pipe);
}

#[tokio::test]
async fn a_retired_version_does_not_take_along_who_waits_for_another() {
    let (zero, one, two) = (holding("v0").await, holding("v1").await, plain("v2").await);
    let file = |limits: &str| {
        file().top(&format!("[server]\nthreads = 1\n[limits]\n{limits}")).worker_table(&objects(""))
    };
    let (of_v0, of_v1) = (named("a", 0..50_000), named("a", 50_000..100_000));
    let before = file("").version("v0", &zero.backend, 50).version("v1", &one.backend, 50);
    let mut proxy = proxy(&before).await;
    let mut waits = zero.holds(&proxy, &of_v0).await;
    zero.answer(1);
    assert_eq!(waits.answer().await.body, b"v0");
    let (mut retired, mut first) = (zero.holds(&proxy, &of_v0).await, one.holds(&proxy, &of_v1).await);
    let after = |limits: &str| file(limits).version("v2", &two, 100).version("v1", &one.backend, 0);
    proxy.reload(&after("")).await.unwrap();
    waits.send(get(&of_v1)).await;
    eventually("it waits", || waiting(&proxy) == 1).await;
    proxy.reload(&after("retired_grace = \"1ms\"")).await.unwrap();
    assert_eq!(retired.rest().await, b"");
    one.answer(1);
    assert_eq!(first.answer().await.body, b"v1");
    assert_eq!(waits.answer().await.body, b"v2");
    nothing_is_left(&proxy).await;
}
