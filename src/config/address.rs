//! Addresses to listen on, and upstreams to connect to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `127.0.0.1:8080`, `[::1]:8080`.
    Tcp(SocketAddr),
    /// `unix:/run/gradual/http.sock`.
    Unix(PathBuf),
}

impl Address {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Whether one of the two cannot be listened on while the other is: the same, or one of them all addresses of a
    /// machine (`[::]` those of IPv4, too). Port 0 overlaps with nothing, as the system chooses a free one.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (Self::Tcp(one), Self::Tcp(two)) = (self, other) else { return self == other };
        let (one_ip, two_ip) = (one.ip().to_canonical(), two.ip().to_canonical());
        let covers = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
        let shared = one_ip == two_ip || covers(one_ip, two_ip) || covers(two_ip, one_ip);
        shared && one.port() == two.port() && one.port() != 0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One of a version's upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// What is spoken there.
    pub scheme: Scheme,
    /// Where it is.
    pub endpoint: Endpoint,
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP/1.1 without TLS: `http://`, and `unix:`.
    Http,
    /// HTTP/2 without TLS: `h2c://`.
    H2c,
    /// TLS, and by ALPN HTTP/2 or HTTP/1.1: `https://`.
    Https,
}

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A fixed address.
    Address(SocketAddr),
    /// A DNS name, resolved again on its TTL.
    Name {
        /// In lower case, without a final dot.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Upstream {
    /// The `Host` of requests with `upstream_host = "upstream"`: the port is left out where it is the scheme's own.
    pub fn authority(&self) -> String {
        let default = if self.scheme == Scheme::Https { 443 } else { 80 };
        match &self.endpoint {
            Endpoint::Address(address) if address.port() != default => address.to_string(),
            Endpoint::Address(address) if address.is_ipv6() => format!("[{}]", address.ip()),
            Endpoint::Address(address) => address.ip().to_string(),
            Endpoint::Name { host, port } if *port != default => format!("{host}:{port}"),
            Endpoint::Name { host, .. } => host.clone(),
            Endpoint::Unix(_) => "localhost".to_owned(),
        }
    }
}

/// As the file says it, in its normal form.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::H2c => "h2c",
            Scheme::Https => "https",
        };
        match &self.endpoint {
            Endpoint::Address(address) => write!(f, "{scheme}://{address}"),
            Endpoint::Name { host, port } => write!(f, "{scheme}://{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_one_listener_would_keep_the_other_out() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        for (one, two, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("[::1]:80", "0.0.0.0:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "0.0.0.0:81", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let (one, two) = (tcp(one), tcp(two));
            assert_eq!((one.overlaps(&two), two.overlaps(&one)), (expected, expected), "{one} {two}");
        }
        let unix = |path: &str| Address::Unix(path.into());
        assert!(unix("/s").overlaps(&unix("/s")) && !unix("/s").overlaps(&unix("/t")));
        assert!(!unix("/s").overlaps(&tcp("127.0.0.1:80")));
    }
}
