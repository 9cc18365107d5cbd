//! A client of a running process's admin address, for commands: found by the file that the process runs on.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::{Address, Admin};
use crate::control::admin::read_token;
use crate::diag::Diagnostic;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const LONGEST: usize = 16 << 20;

/// Where to ask, and what to show there.
#[derive(Debug)]
pub struct Client {
    address: Address,
    bearer: Option<HeaderValue>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The JSON; `null` where it is none.
    pub body: Value,
}

impl Answer {
    /// Why the server did not do it: the detail of its problem (RFC 9457), else the status.
    pub fn problem(&self) -> String {
        let detail = self.body["detail"].as_str().map(str::to_owned);
        detail.unwrap_or_else(|| format!("the answer is {}", self.status))
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The file leaves the admin address's port to the system.
    AnyPort,
    /// The token cannot be read.
    Token(Box<Diagnostic>),
    /// Nobody is there.
    Connect(Address, io::Error),
    /// The connection broke, or what came back is not HTTP.
    Broken(Address, Box<dyn std::error::Error + Send + Sync>),
    /// Nothing came back in time.
    Silent(Address, Duration),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyPort => f.write_str(
                "the admin address has port 0, so that only the running process knows it: give it a fixed port",
            ),
            Self::Token(diagnostic) => f.write_str(&diagnostic.title),
            Self::Connect(address, error) => {
                write!(f, "nobody answers at the admin address {address}: {error}; does `gradual run` run this file?")
            }
            Self::Broken(address, error) => write!(f, "no answer from the admin address {address}: {error}"),
            Self::Silent(address, patience) => {
                write!(f, "no answer from the admin address {address} within {patience:?}")
            }
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(_, error) => Some(error),
            Self::Broken(_, error) => Some(&**error),
            Self::AnyPort | Self::Token(_) | Self::Silent(..) => None,
        }
    }
}

impl Client {
    /// A client of the process that runs with these settings. Reads the token's file.
    ///
    /// # Errors
    /// The address cannot be known, or the token cannot be read.
    pub fn new(admin: &Admin) -> Result<Self, ClientError> {
        let token = admin.token_file.as_ref().map(read_token).transpose();
        let token = token.map_err(|problem| ClientError::Token(Box::new(problem)))?;
        let address = reachable(&admin.address.value).ok_or(ClientError::AnyPort)?;
        Ok(Self { address, bearer: token.and_then(|token| token.bearer()) })
    }

    /// Sends a request without a body, and waits so long for its answer.
    ///
    /// # Errors
    /// Nobody is there, or no answer comes.
    pub async fn ask(
        &self,
        method: Method,
        path: &'static str,
        patience: Duration,
    ) -> Result<Answer, ClientError> {
        let answer = async {
            match &self.address {
                Address::Tcp(address) => {
                    self.talk(self.connect(TcpStream::connect(address)).await?, method, path).await
                }
                Address::Unix(file) => {
                    self.talk(self.connect(UnixStream::connect(file)).await?, method, path).await
                }
            }
        };
        let silent = |_| ClientError::Silent(self.address.clone(), patience);
        tokio::time::timeout(patience, answer).await.map_err(silent)?
    }

    async fn connect<S>(&self, stream: impl Future<Output = io::Result<S>>) -> Result<S, ClientError> {
        let stream = tokio::time::timeout(CONNECT, stream)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        stream.map_err(|error| ClientError::Connect(self.address.clone(), error))
    }

    async fn talk<S>(&self, stream: S, method: Method, path: &'static str) -> Result<Answer, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: hyper::Error| ClientError::Broken(self.address.clone(), error.into());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let answer = async {
            let response = sender.send_request(self.request(method, path)).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| ClientError::Broken(self.address.clone(), error))?;
            Ok(Answer { status, body: serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null) })
        };
        // The connection does the work; its own errors reach the answer.
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    }

    fn request(&self, method: Method, path: &'static str) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        *request.uri_mut() = http::Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(bearer) = &self.bearer {
            headers.insert(AUTHORIZATION, bearer.clone());
        }
        request
    }
}

/// Where to connect to reach what listens: all addresses of a machine include its loopback address.
fn reachable(address: &Address) -> Option<Address> {
    let Address::Tcp(address) = address else { return Some(address.clone()) };
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    (address.port() != 0).then(|| Address::Tcp(SocketAddr::new(ip, address.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_reached_by_loopback_and_port_0_is_not_known() {
        let reached = |text: &str| reachable(&Address::Tcp(text.parse().unwrap())).map(|one| one.to_string());
        assert_eq!(reached("0.0.0.0:9900").as_deref(), Some("127.0.0.1:9900"));
        assert_eq!(reached("[::]:9900").as_deref(), Some("[::1]:9900"));
        assert_eq!(reached("10.0.0.1:9900").as_deref(), Some("10.0.0.1:9900"));
        assert_eq!(reached("127.0.0.1:0"), None);
    }
}
