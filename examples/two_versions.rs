//! Two versions of an application and the proxy before them, all in one process, and a visitor who counts: draws, a key,
//! an override, and a reload that changes the split.
//!
//! ```console
//! $ cargo run --example two_versions
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use gradual::control::{self, Handle, Options};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn Error + Send + Sync>;

/// The ids of both versions, v1's first.
const IDS: [&str; 2] = ["db7cd8d3-4425-4fe7-8c81-01bf963b6067", "dc8dcd28-271b-4367-9840-6c244f84cb40"];

/// Starts a version of the application: it answers its own name. Returns where.
async fn version(name: &'static str) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let answer = move |_: Request<Incoming>| async move {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(name)))
            };
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(client), service_fn(answer));
            tokio::spawn(connection);
        }
    });
    Ok(address)
}

/// The proxy's file, with so many per cent for v2. Port 0: the system chooses.
fn text(upstreams: [SocketAddr; 2], canary: u8) -> String {
    let [one, two] = upstreams;
    let rest = 100 - canary;
    format!(
        r#"
[[listener]]
address = "127.0.0.1:0"

[admin]
address = "unix:admin.sock"

[[worker]]
name = "example"

[[worker.version]]
id = "{}"
tag = "v1"
upstreams = ["http://{one}"]

[[worker.version]]
id = "{}"
tag = "v2"
upstreams = ["http://{two}"]

[worker.deployment]
versions = [
  {{ version_id = "{}", percentage = {canary} }},
  {{ version_id = "{}", percentage = {rest} }},
]
"#,
        IDS[0], IDS[1], IDS[1], IDS[0]
    )
}

/// Sends requests, one after the other on one connection, and counts which version answered.
async fn count(
    proxy: &str,
    requests: usize,
    header: impl Fn(usize) -> Option<(&'static str, String)>,
) -> Result<BTreeMap<String, usize>, Failure> {
    let stream = TcpStream::connect(proxy).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut counts = BTreeMap::new();
    for number in 0..requests {
        let mut request = Request::get("/").header("host", "example.test");
        if let Some((name, value)) = header(number) {
            request = request.header(name, value);
        }
        sender.ready().await?;
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let body = response.into_body().collect().await?.to_bytes();
        *counts.entry(String::from_utf8_lossy(&body).into_owned()).or_default() += 1;
    }
    Ok(counts)
}

const KEY: &str = "cloudflare-workers-version-key";
const OVERRIDES: &str = "cloudflare-workers-version-overrides";

async fn visit(handle: &Handle, file: &Path, upstreams: [SocketAddr; 2]) -> Result<(), Failure> {
    let proxy = handle.listeners().first().ok_or("nothing listens")?.to_string();
    println!("1000 requests that draw:          {:?}", count(&proxy, 1000, |_| None).await?);
    let key = |number: usize| Some((KEY, format!("visitor {number}")));
    println!("1000 requests, each with its key: {:?}", count(&proxy, 1000, key).await?);
    println!("1000 requests with one key:       {:?}", count(&proxy, 1000, |_| key(1)).await?);
    let forced = |_| Some((OVERRIDES, format!("example=\"{}\"", IDS[1])));
    println!("1000 requests with an override:   {:?}", count(&proxy, 1000, forced).await?);
    std::fs::write(file, text(upstreams, 50))?;
    let outcome = handle.reload().await.ok_or("the proxy has ended")?;
    outcome.map_err(|report| report.render(false))?;
    println!("the same keys at 50 %:            {:?}", count(&proxy, 1000, key).await?);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let upstreams = [version("v1").await?, version("v2").await?];
    let folder = tempfile::tempdir()?;
    let file: PathBuf = folder.path().join("gradual.toml");
    std::fs::write(&file, text(upstreams, 10))?;
    let options = Options { file: file.clone(), watch: false };
    let visitor = move |handle: Handle| {
        tokio::spawn(async move {
            if let Err(error) = visit(&handle, &file, upstreams).await {
                eprintln!("error: {error}");
            }
            handle.stop();
        });
    };
    match control::run(options, visitor).await {
        Ok(_ended) => Ok(()),
        Err(report) => Err(report.render(false).into()),
    }
}
