//! The standard health check of gRPC, over HTTP/2.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::Response;

use super::{eventually_up, hall, stage, version};
use crate::control::stage::{Stage, eventually};
use crate::support::{Backend, Body, backend, body, empty, file, frames, record, trailers};

/// What a server of gRPC answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Serving,
    NotServing,
    /// In trailers, with nothing before them.
    Unknown,
    /// In the head, as there is no message.
    Unimplemented,
    /// No gRPC.
    Page,
}

struct Server {
    backend: Backend,
    says: Arc<Mutex<Says>>,
    calls: Arc<AtomicUsize>,
}

impl Server {
    /// Answers calls about `shop.Cart`.
    async fn start() -> Self {
        let (says, calls) = (Arc::new(Mutex::new(Says::Serving)), Arc::<AtomicUsize>::default());
        let (said, called) = (Arc::clone(&says), Arc::clone(&calls));
        let building = backend("v1").h2c().answering(move |request| {
            let says = *said.lock().unwrap();
            called.fetch_add(1, Ordering::SeqCst);
            async move {
                let call = record(request).await.unwrap();
                let expected = ("POST", "application/grpc", "trailers");
                let header = |name| call.header(name).unwrap();
                let seen = (call.method.as_str(), &*header("content-type"), &*header("te"));
                assert_eq!(seen, expected);
                assert!(call.target.ends_with("/grpc.health.v1.Health/Check"), "{}", call.target);
                assert_eq!(&call.body[..], b"\0\0\0\0\x0b\x0a\x09shop.Cart");
                answer(says).await
            }
        });
        Self { backend: building.start().await, says, calls }
    }

    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

async fn answer(says: Says) -> Response<Body> {
    let head = Response::builder().header("content-type", "application/grpc");
    if says == Says::Unimplemented {
        return head.header("grpc-status", "12").body(empty()).unwrap();
    }
    if says == Says::Page {
        return Response::new(body("<!DOCTYPE html>"));
    }
    let (feed, frames) = frames();
    tokio::spawn(async move {
        let status = if says == Says::Serving { 1 } else { 2 };
        if says != Says::Unknown {
            let message = [0, 0, 0, 0, 2, 8, status];
            let _ = feed.send(Ok(http_body::Frame::data(bytes::Bytes::copy_from_slice(&message)))).await;
        }
        let code = if says == Says::Unknown { "5" } else { "0" };
        let _ = feed.send(Ok(trailers(&[("grpc-status", code)]))).await;
    });
    head.body(frames).unwrap()
}

fn error(stage: &Stage) -> String {
    let shown = version(stage, "v1");
    shown["health"][0]["endpoints"][0]["checked"]["error"].as_str().unwrap_or("").to_owned()
}

#[test]
fn a_service_is_well_while_it_says_that_it_serves() {
    let hall = hall();
    let server = hall.block_on(Server::start());
    let check = r#"health = { grpc = "shop.Cart", interval = "5ms", timeout = "30s", fall = 2, rise = 2 }"#;
    let stage = stage(&file().version("v1", &server.backend, 100).version_with(check));
    for (says, expected) in [
        (Says::NotServing, "the service is not serving (ServingStatus 2)"),
        (Says::Unknown, "the gRPC call failed with status 5"),
        (Says::Unimplemented, "the gRPC call failed with status 12"),
        (Says::Page, "the answer is no gRPC health response"),
    ] {
        server.says(Says::Serving);
        eventually_up(&stage, "v1", true);
        let before = server.calls.load(Ordering::SeqCst);
        eventually("it is asked", || server.calls.load(Ordering::SeqCst) > before + 4);
        assert_eq!((version(&stage, "v1")["up"].clone(), error(&stage)), (true.into(), String::new()));
        server.says(says);
        eventually_up(&stage, "v1", false);
        assert_eq!(error(&stage), expected);
    }
}
