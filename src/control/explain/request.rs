//! A request as a question describes it: the arguments of a command, or the body of a question to the admin address.

use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::target::Target;
use crate::config::{Config, TrustedProxies};
use crate::model::forwarded;
use crate::model::head::Uniform;
use crate::rules::Facts;

/// The version of HTTP of all requests here.
const VERSION: Version = Version::HTTP_11;

/// A request. It is one of HTTP/1.1.
#[derive(Clone, Debug)]
pub struct Request {
    /// A URL with or without scheme, or a path.
    pub url: Option<String>,
    /// The method.
    pub method: Method,
    /// The header lines.
    pub headers: HeaderMap,
    /// The peer's address; `None`: one that no listener trusts.
    pub ip: Option<IpAddr>,
}

/// Why there is no answer: what to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake(pub(crate) String);

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mistake {}

/// A method.
///
/// # Errors
/// It is not one that HTTP knows.
pub(crate) fn method(text: &str) -> Result<Method, Mistake> {
    Method::from_bytes(text.as_bytes()).map_err(|_| Mistake(format!("{text:?} is not a method")))
}

/// A header line from its name and its value, which loses the spaces and tabs around it.
///
/// # Errors
/// HTTP knows no such name, or no such value.
pub(crate) fn field(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Mistake> {
    let value = value.trim_matches([' ', '\t']);
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        return Err(Mistake(format!("{name:?} is not the name of a header")));
    };
    match HeaderValue::from_bytes(value.as_bytes()) {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(Mistake(format!("{value:?} cannot be a header's value"))),
    }
}

/// Who sends a request, as far as the listeners believe it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sender<'a> {
    /// The peer's address.
    peer: Option<IpAddr>,
    /// The trusted proxies that it is one of.
    among: Option<&'a TrustedProxies>,
}

impl<'a> Sender<'a> {
    /// The sender before a file's listeners: it is trusted where the first one that trusts it is asked.
    pub(crate) fn of(config: &'a Config, request: &Request) -> Self {
        let peer = request.ip.map(|ip| SocketAddr::new(ip, 0));
        let mut lists = config.listeners.iter().map(|listener| &listener.trusted_proxies);
        let among = peer.and_then(|peer| lists.find(|list| list.contain(Some(peer))));
        Self { peer: request.ip, among }
    }

    /// The sender where no file says who is trusted.
    pub(crate) fn unknown(request: &Request) -> Self {
        Self { peer: request.ip, among: None }
    }

    /// Whether it is a trusted proxy.
    pub(crate) fn is_trusted(&self) -> bool {
        self.among.is_some()
    }

    fn address(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let peer = self.peer.map(|ip| ip.to_canonical());
        let Some(proxies) = self.among else { return peer };
        forwarded::believed_address(peer, headers, |address| proxies.include(address))
    }
}

impl Request {
    /// A request of these header lines. Without a Host line, it has the URL's.
    ///
    /// # Errors
    /// The URL is not one that HTTP knows.
    pub(crate) fn new(
        url: Option<String>,
        method: Method,
        fields: Vec<(HeaderName, HeaderValue)>,
        ip: Option<IpAddr>,
    ) -> Result<Self, Mistake> {
        let mut headers = HeaderMap::new();
        let authority = url.as_deref().map(Target::parse).transpose()?.and_then(|url| url.authority);
        let host = authority.and_then(|authority| HeaderValue::from_str(authority).ok());
        if let Some(host) = host.filter(|_| !fields.iter().any(|(name, _)| *name == HOST)) {
            headers.insert(HOST, host);
        }
        for (name, value) in fields {
            headers.append(name, value);
        }
        Ok(Self { url, method, headers, ip })
    }

    /// Its URL taken apart.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn target(&self) -> Result<Target<'_>, Mistake> {
        let bare = Target { https: false, authority: None, path: "/", query: None };
        self.url.as_deref().map_or(Ok(bare), Target::parse)
    }

    /// The host that it is for: the URL's, else that of its Host line.
    pub(crate) fn authority<'a>(&'a self, target: &Target<'a>) -> &'a str {
        let host = || self.headers.get(HOST).and_then(|host| host.to_str().ok());
        target.authority.or_else(host).unwrap_or("")
    }

    /// Its lines as rules see them. `headers` are its own, as far as the gate lets them pass.
    pub(crate) fn lines<'a>(&'a self, target: &Target<'a>, headers: &'a HeaderMap) -> Uniform<'a> {
        Uniform::new(headers, VERSION, self.authority(target))
    }

    /// What rules may see of it, were it sent now.
    pub(crate) fn facts<'a>(
        &'a self,
        target: &Target<'a>,
        lines: &'a Uniform<'a>,
        sender: &Sender<'_>,
    ) -> Facts<'a> {
        let headers = lines.headers();
        Facts {
            method: self.method.as_str(),
            version: VERSION,
            https: target.https || (sender.is_trusted() && forwarded::says_https(headers)),
            authority: lines.host(),
            path: target.path,
            query: target.query,
            lines,
            client: sender.address(headers),
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            seed: [fastrand::u64(..), fastrand::u64(..)],
            ray: fastrand::u64(..),
        }
    }
}
