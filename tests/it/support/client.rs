//! Clients: exact bytes over HTTP/1.1, and hyper's for both protocols, with or without TLS.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Pipe, soon};

/// The body of a request or response that a test sends.
pub(crate) type Body = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// What came back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// Whether the body ended as its framing says; an end that is told by closing counts.
    pub(crate) whole: bool,
}

impl Answer {
    /// All lines of a name, joined.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let lines = self.headers.iter().filter(|(found, _)| found == name);
        lines.map(|(_, value)| value.clone()).reduce(|all, line| format!("{all} | {line}"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Why its version was chosen, as `Gradual-Version` says.
    pub(crate) fn reason(&self) -> String {
        let says = self.header("gradual-version").unwrap();
        let (_, reason) = says.split_once(";reason=").unwrap_or_else(|| panic!("no reason: {says}"));
        reason.split(';').next().unwrap().to_owned()
    }

    /// The status, and the kind of failure that the proxy says.
    pub(crate) fn failure(&self) -> (u16, String) {
        (self.status, self.header("gradual-error").unwrap_or_default())
    }
}

/// A connection of HTTP/1.1 on which exact bytes are sent.
pub(crate) struct Connection {
    stream: BufReader<Pipe>,
}

impl Connection {
    pub(crate) fn new(pipe: Pipe) -> Self {
        Self { stream: BufReader::new(pipe) }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("the bytes are sent", self.stream.write_all(bytes.as_ref())).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Sends as much as the other side takes.
    pub(crate) async fn send_what_can_be(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// One line without its end; `None` where the connection ends.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = soon("a line", self.stream.read_until(b'\n', &mut line)).await.unwrap_or(0);
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        (read > 0).then_some(text)
    }

    /// Bytes of a known number; fewer where the connection ends.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut part = (&mut self.stream).take(count as u64);
        // A reset is an end, too.
        let _ = soon("bytes", part.read_to_end(&mut bytes)).await;
        bytes
    }

    /// Whatever comes until the connection ends.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = soon("the end of the connection", self.stream.read_to_end(&mut bytes)).await;
        bytes
    }

    /// Whatever comes, until the connection ends, after these bytes.
    pub(crate) async fn bytes_after(&mut self, bytes: &str) -> Vec<u8> {
        self.send_what_can_be(bytes).await;
        self.rest().await
    }

    /// Whether the other side has ended the connection, once nothing else comes.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.rest().await.is_empty()
    }

    /// The head of an answer, final or not; its body is still to be read.
    pub(crate) async fn head(&mut self) -> Answer {
        let status_line = self.line().await.expect("the connection was closed without an answer");
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let headers = self.fields().await.expect("the connection was closed within a head");
        Answer { status, headers, ..Answer::default() }
    }

    async fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else {
                return line.is_empty().then_some(fields);
            };
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The answer to a request that was no HEAD.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if answer.status < 200 || matches!(answer.status, 204 | 304) {
            answer.whole = true;
        } else if answer.header("transfer-encoding").is_some() {
            self.chunks(&mut answer).await;
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            answer.body = self.bytes(length).await;
            answer.whole = answer.body.len() == length;
        } else {
            answer.body = self.rest().await;
            answer.whole = true;
        }
        answer
    }

    async fn chunks(&mut self, answer: &mut Answer) {
        while let Some(size) = self.line().await {
            let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("chunk size {size:?}"));
            if size == 0 {
                let trailers = self.fields().await;
                answer.whole = trailers.is_some();
                answer.trailers = trailers.unwrap_or_default();
                return;
            }
            let chunk = self.bytes(size).await;
            answer.body.extend_from_slice(&chunk);
            if chunk.len() < size || self.line().await.is_none() {
                return;
            }
        }
    }
}

/// The fields of a header section.
pub(crate) fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Reads a response to its end.
pub(crate) async fn collect(response: Response<Incoming>) -> Answer {
    let (parts, mut incoming) = response.into_parts();
    let (status, headers) = (parts.status.as_u16(), pairs(&parts.headers));
    let mut answer = Answer { status, headers, whole: true, ..Answer::default() };
    while let Some(frame) = soon("a frame", incoming.frame()).await {
        let Ok(frame) = frame else {
            answer.whole = false;
            break;
        };
        match frame.into_data() {
            Ok(data) => answer.body.extend_from_slice(&data),
            Err(frame) => answer.trailers = pairs(frame.trailers_ref().unwrap()),
        }
    }
    answer
}

/// hyper's client of HTTP/2 on a stream.
pub(crate) async fn http2(pipe: Pipe) -> conn::http2::SendRequest<Body> {
    let client = conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = client.handshake(TokioIo::new(pipe)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Takes what comes of a response; why its stream was reset before its end, `None` where it has an end.
pub(crate) async fn reset_reason(incoming: &mut Incoming) -> Option<h2::Reason> {
    while let Some(frame) = incoming.frame().await {
        if let Err(error) = frame {
            let cause = Error::source(&error).and_then(|cause| cause.downcast_ref::<h2::Error>());
            return cause.and_then(h2::Error::reason);
        }
    }
    None
}

/// A TLS handshake on a stream.
pub(crate) async fn tls_client(
    pipe: Pipe,
    config: Arc<rustls::ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<Pipe>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    soon("the TLS handshake", TlsConnector::from(config).connect(name, pipe)).await
}
