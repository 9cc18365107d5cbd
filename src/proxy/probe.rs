//! One active health check: a connection of its own, one request, and what the answer says.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::failure;
use super::source::Spot;
use super::standing::Standing;
use super::stream::{Peeked, Socket, Stream};
use super::upstream::Target;
use crate::config::{HealthCheck, Probe, Scheme};

/// Why an endpoint is not well.
#[derive(Debug)]
pub enum ProbeError {
    /// No connection was made.
    Connect(io::Error),
    /// The TLS handshake failed.
    Tls(io::Error),
    /// There was no answer within this time.
    Timeout(Duration),
    /// The check cannot be written as a request.
    Request(http::Error),
    /// The answer was no HTTP, or the connection ended before it.
    Http(hyper::Error),
    /// The status is not one of those that were expected.
    Status(StatusCode),
    /// gRPC was asked for, and the endpoint speaks HTTP/1.1 only.
    NoHttp2,
    /// The answer was no gRPC, or malformed.
    NoGrpc,
    /// The call failed, with this `grpc-status`.
    Grpc(u32),
    /// The service says that it does not serve, with this `ServingStatus`.
    NotServing(u64),
}

impl ProbeError {
    /// Whether this process itself is at its end (descriptors, ports, memory), so that nothing was learnt about the
    /// endpoint.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Connect(error) if failure::is_our_own(error))
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(_) => f.write_str("no connection"),
            Self::Tls(_) => f.write_str("the TLS handshake failed"),
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Request(_) => f.write_str("the health check is no valid request"),
            Self::Http(_) => f.write_str("no HTTP answer"),
            Self::Status(status) => write!(f, "the status is {}", status.as_u16()),
            Self::NoHttp2 => f.write_str("gRPC needs HTTP/2, and HTTP/1.1 was chosen"),
            Self::NoGrpc => f.write_str("the answer is no gRPC health response"),
            Self::Grpc(code) => write!(f, "the gRPC call failed with status {code}"),
            Self::NotServing(status) => write!(f, "the service is not serving (ServingStatus {status})"),
        }
    }
}

impl Error for ProbeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Connect(error) | Self::Tls(error) => Some(error),
            Self::Request(error) => Some(error),
            Self::Http(error) => Some(error),
            _ => None,
        }
    }
}

/// The most that is read of an answer's body, in bytes.
const MAX_BODY: usize = 16 << 10;
/// The most of an answer's head, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// How long the rest of an answer is waited for that has said already what it has to say: closed before it was read, the
/// connection would look broken to the endpoint.
const REST: Duration = Duration::from_millis(100);
/// What health checks call themselves.
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("gradual-health-check/", env!("CARGO_PKG_VERSION")));
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// `ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// Asks an endpoint once whether it is well.
pub(super) async fn ask(spot: &Spot, standing: &Standing, check: &HealthCheck) -> Result<(), ProbeError> {
    let in_time = async {
        let stream = connect(spot, standing).await?;
        match &check.probe {
            Probe::Http { path, .. } => stream.send(spot, get(spot, check, path)?).await,
            Probe::Grpc { .. } if !stream.http2 => Err(ProbeError::NoHttp2),
            Probe::Grpc { service } => {
                let mut talk = stream.send(spot, call(spot, check, service)?).await?;
                serving(&mut talk.response).await?;
                Ok(talk)
            }
        }
    };
    let talk = tokio::time::timeout(check.timeout, in_time).await;
    let mut talk = talk.map_err(|_| ProbeError::Timeout(check.timeout))??;
    let status = talk.response.status();
    if let Probe::Http { status: well, .. } = &check.probe
        && !well.iter().any(|range| range.contains(&status.as_u16()))
    {
        return Err(ProbeError::Status(status));
    }
    // Whatever becomes of it, the endpoint has answered.
    let _ = tokio::time::timeout(REST, collect(talk.response.body_mut())).await;
    Ok(())
}

/// Makes a connection and closes it: somebody listens.
///
/// # Errors
/// Nobody does, or not in time.
pub(super) async fn dial(spot: &Spot, standing: &Standing, limit: Duration) -> Result<(), ProbeError> {
    let dialed = tokio::time::timeout(limit, open(spot, standing)).await;
    dialed.map_err(|_| ProbeError::Timeout(limit))?.map(drop)
}

async fn open(spot: &Spot, standing: &Standing) -> Result<Peeked, ProbeError> {
    let socket = match &spot.key.target {
        Target::Tcp(address) => TcpStream::connect(address).await.map(Socket::Tcp),
        Target::Unix(path) => UnixStream::connect(path).await.map(Socket::Unix),
    };
    let socket = socket.map_err(ProbeError::Connect)?;
    standing.connected();
    Ok(Peeked::uncounted(socket))
}

/// A connection, and which HTTP is spoken on it.
struct Open {
    stream: Stream,
    http2: bool,
}

async fn connect(spot: &Spot, standing: &Standing) -> Result<Open, ProbeError> {
    let plain = open(spot, standing).await?;
    let Some((connector, name)) = &spot.tls else {
        return Ok(Open { stream: Stream::Plain(plain), http2: spot.key.scheme == Scheme::H2c });
    };
    let stream = TlsConnector::from(connector.any.clone()).connect(name.clone(), plain).await;
    let stream = stream.map_err(ProbeError::Tls)?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Open { stream: Stream::ClientTls(Box::new(stream)), http2 })
}

/// A request and the head of its answer; its connection ends with it.
struct Talk {
    response: Response<Incoming>,
    _connection: JoinSet<()>,
}

impl Open {
    async fn send(self, spot: &Spot, request: Request<Full<Bytes>>) -> Result<Talk, ProbeError> {
        let io = TokioIo::new(self.stream);
        let mut driver = JoinSet::new();
        let response = if self.http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
            let (mut sender, connection) = builder.handshake(io).await.map_err(ProbeError::Http)?;
            driver.spawn(async { drop(connection.await) });
            sender.send_request(absolute(spot, request)?).await
        } else {
            let mut builder = http1::Builder::new();
            builder.max_buf_size(MAX_HEAD);
            let (mut sender, connection) = builder.handshake(io).await.map_err(ProbeError::Http)?;
            driver.spawn(async { drop(connection.await) });
            sender.send_request(request).await
        };
        Ok(Talk { response: response.map_err(ProbeError::Http)?, _connection: driver })
    }
}

/// The request of a check of a path, as HTTP/1.1 has it.
fn get(spot: &Spot, check: &HealthCheck, path: &str) -> Result<Request<Full<Bytes>>, ProbeError> {
    let request = Request::get(path)
        .header(header::HOST, host(spot, check))
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, HeaderValue::from_static("*/*"))
        .header(header::CONNECTION, HeaderValue::from_static("close"));
    request.body(Full::default()).map_err(ProbeError::Request)
}

/// A call of `grpc.health.v1.Health/Check`.
fn call(spot: &Spot, check: &HealthCheck, service: &str) -> Result<Request<Full<Bytes>>, ProbeError> {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/grpc.health.v1.Health/Check")
        .header(header::HOST, host(spot, check))
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, GRPC)
        .header(header::TE, HeaderValue::from_static("trailers"));
    request.body(Full::new(message(service))).map_err(ProbeError::Request)
}

fn host<'a>(spot: &'a Spot, check: &'a HealthCheck) -> &'a str {
    check.host.as_deref().unwrap_or(&spot.key.authority)
}

/// The same request for HTTP/2: RFC 9113 section 8.3.1 has the host in `:authority`, and no connection-specific fields.
fn absolute(spot: &Spot, request: Request<Full<Bytes>>) -> Result<Request<Full<Bytes>>, ProbeError> {
    let (mut parts, body) = request.into_parts();
    let host = parts.headers.remove(header::HOST);
    parts.headers.remove(header::CONNECTION);
    let scheme = if spot.tls.is_some() { "https" } else { "http" };
    let authority = host.as_ref().map_or(&b""[..], |host| host.as_bytes());
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let uri = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build();
    parts.uri = uri.map_err(ProbeError::Request)?;
    parts.version = Version::HTTP_2;
    Ok(Request::from_parts(parts, body))
}

/// A body, and its trailers, up to the bound.
async fn collect(body: &mut Incoming) -> Result<(Bytes, Option<HeaderMap>), ProbeError> {
    let mut bytes = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(ProbeError::Http)?.into_data() {
            Ok(data) if bytes.len() + data.len() <= MAX_BODY => bytes.extend_from_slice(&data),
            Ok(_) => break,
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((bytes.freeze(), trailers))
}

/// What a gRPC answer says.
async fn serving(response: &mut Response<Incoming>) -> Result<(), ProbeError> {
    if response.status() != StatusCode::OK {
        return Err(ProbeError::Status(response.status()));
    }
    // Without a message the status is in the head.
    if let Some(code) = grpc_status(response.headers())?
        && code != 0
    {
        return Err(ProbeError::Grpc(code));
    }
    let (bytes, trailers) = collect(response.body_mut()).await?;
    let code = trailers.as_ref().map(grpc_status).transpose()?.flatten();
    match code.or(grpc_status(response.headers())?) {
        Some(0) => {}
        Some(code) => return Err(ProbeError::Grpc(code)),
        None => return Err(ProbeError::NoGrpc),
    }
    match serving_status(bytes) {
        Some(SERVING) => Ok(()),
        Some(status) => Err(ProbeError::NotServing(status)),
        None => Err(ProbeError::NoGrpc),
    }
}

fn grpc_status(headers: &HeaderMap) -> Result<Option<u32>, ProbeError> {
    let Some(status) = headers.get(GRPC_STATUS) else { return Ok(None) };
    let code = status.to_str().ok().and_then(|text| text.parse().ok());
    code.map(Some).ok_or(ProbeError::NoGrpc)
}

/// `HealthCheckRequest { string service = 1; }` as a gRPC message: not compressed, its length, and the field unless it is
/// empty.
fn message(service: &str) -> Bytes {
    let mut field = Vec::new();
    if !service.is_empty() {
        field.push(1 << 3 | LENGTH_DELIMITED);
        push_varint(&mut field, service.len() as u64);
        field.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], &field].concat().into()
}

/// `HealthCheckResponse { ServingStatus status = 1; }` of a gRPC message; `None` where it is none. A status that is left
/// out is 0, which is unknown; fields that this does not know are passed over.
fn serving_status(message: Bytes) -> Option<u64> {
    let mut rest = message;
    let compressed = rest.try_get_u8().ok()?;
    let length = usize::try_from(rest.try_get_u32().ok()?).ok()?;
    if compressed != 0 || length != rest.len() {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut rest)?,
            (_, 0) => drop(varint(&mut rest)?),
            (_, 1) => skip(&mut rest, 8)?,
            (_, 2) => {
                let length = varint(&mut rest)?;
                skip(&mut rest, length)?;
            }
            (_, 5) => skip(&mut rest, 4)?,
            _ => return None,
        }
    }
    Some(status)
}

/// The wire type of strings.
const LENGTH_DELIMITED: u8 = 2;

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        bytes.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap_or(0));
}

fn varint(bytes: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn skip(bytes: &mut Bytes, count: u64) -> Option<()> {
    let count = usize::try_from(count).ok().filter(|count| *count <= bytes.len())?;
    bytes.advance(count);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &'static [u8]) -> Option<u64> {
        serving_status(Bytes::from_static(bytes))
    }

    #[test]
    fn the_whole_server_is_an_empty_message_and_a_service_its_name() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("shop.Cart")[..], b"\0\0\0\0\x0b\x0a\x09shop.Cart");
        let long = message(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 10, 0xac, 2]);
        assert_eq!(long.len(), 5 + 303);
    }

    #[test]
    fn an_answer_says_its_serving_status_and_unknown_fields_do_not_matter() {
        assert_eq!(said(b"\0\0\0\0\x02\x08\x01"), Some(1));
        assert_eq!(said(b"\0\0\0\0\x02\x08\x02"), Some(2));
        assert_eq!(said(b"\0\0\0\0\0"), Some(0));
        // A varint, 8 bytes, a string and 4 bytes before it.
        let more = b"\0\0\0\0\x17\x10\x96\x01\x19abcdefgh\x22\x02hi\x2dwxyz\x08\x01";
        assert_eq!(said(more), Some(1));
    }

    #[test]
    fn what_is_cut_compressed_or_no_message_says_nothing() {
        for bytes in [
            &b""[..],
            b"\0\0\0",
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x03\x08\x01",
            b"\0\0\0\0\x01\x08",
            b"\0\0\0\0\x03\x12\x7f\x01",
            b"\0\0\0\0\x02\x0b\x01",
            b"\0\0\0\0\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"<!DOCTYPE html>",
        ] {
            assert_eq!(said(bytes), None, "{bytes:?}");
        }
    }
}
