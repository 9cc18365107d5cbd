//! The two versions of the demonstration's application.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// One version: a page that names it, and a script that it alone has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// The version's id.
    pub(crate) id: &'static str,
    /// The version's tag, which the page shows.
    pub(crate) tag: &'static str,
    /// The path of its script: the name depends on the content, as with every bundler.
    pub(crate) asset: &'static str,
}

/// Both versions at work, on a thread of their own that lives as long as the process.
#[derive(Debug)]
pub(crate) struct Backends {
    /// Where they listen, in the order of the pages.
    pub(crate) addresses: [SocketAddr; 2],
}

impl Backends {
    /// Starts them on loopback ports that the system chooses.
    ///
    /// # Errors
    /// A socket, the runtime or the thread cannot be made.
    pub(crate) fn start(pages: [Page; 2]) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bind = || runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listeners = [bind()?, bind()?];
        let addresses = [listeners[0].local_addr()?, listeners[1].local_addr()?];
        thread::Builder::new().name("demo-backends".to_owned()).spawn(move || {
            let [one, two] = listeners;
            runtime.block_on(async { tokio::join!(accept(one, pages[0]), accept(two, pages[1])) });
        })?;
        Ok(Self { addresses })
    }
}

async fn accept(listener: TcpListener, page: Page) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files, most likely: some will be closed by then.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = service_fn(move |request| async move { Ok::<_, Infallible>(page.answer(&request)) });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

impl Page {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let Self { tag, asset, .. } = self;
        match request.uri().path() {
            "/" => answer(
                StatusCode::OK,
                "text/html; charset=utf-8",
                format!(
                    "<!doctype html>\n<title>gradual demo</title>\n<h1>Version {tag}</h1>\n\
                     <script src=\"{asset}\"></script>\n"
                ),
            ),
            path if path == *asset => answer(
                StatusCode::OK,
                "text/javascript",
                "document.querySelector('h1').append(' with its own script');\n".to_owned(),
            ),
            path => answer(StatusCode::NOT_FOUND, "text/plain", format!("{tag} has no {path}\n")),
        }
    }
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
