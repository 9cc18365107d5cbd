//! A panic costs the request that it happens in, and nothing else.
//!
//! Nothing that a client or an upstream sends may panic. Where a mistake is left all the same, its request is answered
//! 500, or cut where its response has begun, and is counted; other requests and the process go on. An HTTP/1.1 connection
//! closes with it.
//! Whoever runs the process decides how the panic itself is reported, by the panic hook.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// What a function makes; `None` where it panics. What it held has been dropped by then, locks and borrows among it.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    // Nothing half done can be seen afterwards: what the shard shares changes in whole steps, and what belongs to the
    // request is gone.
    catch_unwind(AssertUnwindSafe(work)).ok()
}

pin_project! {
    /// A future whose panic is caught.
    pub(super) struct Catching<F, O> {
        #[pin]
        future: F,
        panicked: fn() -> O,
    }
}

/// What a future makes, or `panicked` where it panics. What it held has been dropped by then, if it is an `async` one.
pub(super) fn catching<F: Future>(future: F, panicked: fn() -> F::Output) -> Catching<F, F::Output> {
    Catching { future, panicked }
}

impl<F: Future> Future for Catching<F, F::Output> {
    type Output = F::Output;

    // By hand: an `async` function would hold the future twice.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut polled = Poll::Pending;
        if caught(|| polled = this.future.poll(context)).is_none() {
            return Poll::Ready((this.panicked)());
        }
        polled
    }
}

/// Something shared that ends with the task that drives it, however that ends: nobody may wait for what nothing drives.
pub(super) struct EndsWithTask<T>(pub(super) Rc<RefCell<Option<T>>>);

impl<T> Drop for EndsWithTask<T> {
    fn drop(&mut self) {
        let over = self.0.try_borrow_mut().ok().and_then(|mut driven| driven.take());
        // Who waits for it is told by its end, when it is no longer borrowed.
        drop(over);
    }
}

/// Panics where a test says so. Exists in the unit tests of this crate only.
#[cfg(test)]
pub(super) fn provoke(said: &[u8], place: &str) {
    assert!(said != place.as_bytes(), "provoked:\n{place}");
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::client::conn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::net::{TcpListener, TcpStream};

    use crate::config::{self, AccessTarget, Address};
    use crate::export::access::AccessLog;
    use crate::metrics::{Gauges, Registry};
    use crate::proxy::{Services, Shards};

    type Content = Full<Bytes>;

    /// A proxy with one shard, before an upstream that answers with the path.
    struct Stage {
        shards: Shards,
        registry: Arc<Registry>,
        log: AccessLog,
        folder: tempfile::TempDir,
    }

    async fn upstream(http2: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if http2 { "h2c" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let service = hyper::service::service_fn(async |request: Request<Incoming>| {
            let path = request.uri().path().trim_start_matches('/').to_owned();
            let _ = request.into_body().collect().await;
            Ok::<_, hyper::Error>(Response::new(Content::from(path)))
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if http2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
                }
            }
        });
        url
    }

    impl Stage {
        async fn new(http2_upstream: bool) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let text = format!(
                "[log]\naccess = \"access.log\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[[worker]]\nname = \"shop\"\n\
                 [[worker.version]]\nid = \"v1\"\nupstreams = [\"{}\"]\n\
                 [worker.deployment]\nversions = [{{ version_id = \"v1\", percentage = 100 }}]\n",
                upstream(http2_upstream).await
            );
            let config = config::parse("gradual.toml", &text, folder.path()).unwrap().0;
            let log = AccessLog::open(&AccessTarget::File(folder.path().join("access.log"))).unwrap();
            let registry = Arc::new(Registry::default());
            let services = Services { registry: Arc::clone(&registry), log: log.clone() };
            let mut shards = Shards::start(NonZeroUsize::MIN, &services).unwrap();
            let prepared = shards.prepare(&config).await.unwrap();
            shards.commit(prepared).await;
            Self { shards, registry, log, folder }
        }

        async fn connect(&self) -> TokioIo<TcpStream> {
            let Address::Tcp(address) = self.shards.addresses()[0] else { panic!("not TCP") };
            TokioIo::new(TcpStream::connect(address).await.unwrap())
        }

        /// Ends in order; the panics that were counted, and the lines of the access log.
        async fn end(self) -> (String, Vec<serde_json::Value>) {
            assert_eq!(self.shards.drain(Duration::from_secs(60)).await, 0);
            self.log.flush(Duration::from_secs(60));
            let metrics = self.registry.render(&Gauges::default());
            let panics = metrics.lines().find(|line| line.starts_with("gradual_panics_total "));
            let log = std::fs::read_to_string(Path::new(self.folder.path()).join("access.log")).unwrap();
            let lines = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (panics.unwrap().to_owned(), lines)
        }
    }

    fn asking(http2: bool, path: &str, place: &str) -> Request<Content> {
        let target = if http2 { format!("http://a{path}") } else { path.to_owned() };
        let request = Request::get(target).header("host", "a").header("x-test-panic", place);
        request.body(Content::default()).unwrap()
    }

    async fn text(response: Response<Incoming>) -> (StatusCode, String, Option<String>) {
        let kind = response.headers().get("gradual-error").map(|kind| kind.to_str().unwrap().to_owned());
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap(), kind)
    }

    const PLACES: [&str; 2] = ["admission", "exchange"];

    #[tokio::test]
    async fn a_panic_costs_its_request_which_is_answered_and_its_connection_closed() {
        let stage = Stage::new(false).await;
        for place in PLACES {
            let (mut client, connection) = conn::http1::handshake(stage.connect().await).await.unwrap();
            tokio::spawn(connection);
            let failed = text(client.send_request(asking(false, "/", place)).await.unwrap()).await;
            assert_eq!(
                (failed.0, failed.2.as_deref()),
                (StatusCode::INTERNAL_SERVER_ERROR, Some("internal"))
            );
            assert!(
                failed.1.contains("\"error\":\"internal\"") && !failed.1.contains("provoked"),
                "{failed:?}"
            );
            let (mut client, connection) = conn::http1::handshake(stage.connect().await).await.unwrap();
            tokio::spawn(connection);
            let next = text(client.send_request(asking(false, "/next", "")).await.unwrap()).await;
            assert_eq!((next.0, &*next.1), (StatusCode::OK, "next"));
        }
        let (panics, lines) = stage.end().await;
        assert_eq!(panics, "gradual_panics_total 2");
        let outcomes: Vec<_> =
            lines.iter().map(|line| (&line["Outcome"], &line["Event"]["Response"]["Status"])).collect();
        let (panicked, whole) = (("exception".into(), 500.into()), ("ok".into(), 200.into()));
        assert_eq!(
            outcomes,
            [&panicked, &whole, &panicked, &whole].map(|(outcome, status)| (outcome, status))
        );
    }

    #[tokio::test]
    async fn a_panic_over_http_2_leaves_the_other_streams_alone() {
        for http2_upstream in [false, true] {
            let stage = Stage::new(http2_upstream).await;
            let (mut client, connection) =
                conn::http2::handshake(TokioExecutor::new(), stage.connect().await).await.unwrap();
            tokio::spawn(connection);
            let before = client.send_request(asking(true, "/before", ""));
            let failing = PLACES.map(|place| client.send_request(asking(true, "/", place)));
            let after = client.send_request(asking(true, "/after", ""));
            for failed in failing {
                assert_eq!(text(failed.await.unwrap()).await.0, StatusCode::INTERNAL_SERVER_ERROR);
            }
            assert_eq!(text(before.await.unwrap()).await.1, "before");
            assert_eq!(text(after.await.unwrap()).await.1, "after");
            drop(client);
            assert_eq!(stage.end().await.0, "gradual_panics_total 2");
        }
    }

    #[tokio::test]
    async fn a_panic_after_the_head_cuts_its_response_and_is_counted() {
        for http2_upstream in [false, true] {
            let stage = Stage::new(http2_upstream).await;
            let (mut client, connection) = conn::http1::handshake(stage.connect().await).await.unwrap();
            tokio::spawn(connection);
            let cut = client.send_request(asking(false, "/body", "")).await;
            let cut = match cut {
                Ok(response) => response.into_body().collect().await.map(drop),
                Err(error) => Err(error),
            };
            assert!(cut.is_err());
            let (mut client, connection) =
                conn::http2::handshake(TokioExecutor::new(), stage.connect().await).await.unwrap();
            tokio::spawn(connection);
            let cut = client.send_request(asking(true, "/body", ""));
            let other = client.send_request(asking(true, "/other", ""));
            assert!(cut.await.unwrap().into_body().collect().await.is_err());
            assert_eq!(text(other.await.unwrap()).await.1, "other");
            drop(client);
            let (panics, lines) = stage.end().await;
            assert_eq!(panics, "gradual_panics_total 2");
            assert_eq!(lines.iter().filter(|line| line["Outcome"] == "exception").count(), 2);
        }
    }

    #[tokio::test]
    async fn a_panic_while_a_body_is_sent_ends_its_request_and_the_upstream_serves_on() {
        for http2_upstream in [false, true] {
            let stage = Stage::new(http2_upstream).await;
            let (mut client, connection) =
                conn::http2::handshake(TokioExecutor::new(), stage.connect().await).await.unwrap();
            tokio::spawn(connection);
            let upload = Request::post("http://a/").body(Content::from("upload")).unwrap();
            let failed = text(client.send_request(upload).await.unwrap()).await;
            assert!(failed.0.is_server_error(), "{failed:?}");
            for _ in 0..3 {
                let next = client.send_request(asking(true, "/next", "")).await.unwrap();
                assert_eq!(text(next).await.1, "next");
            }
            drop(client);
            stage.end().await;
        }
    }
}
