//! The PROXY protocol, versions 1 and 2: who the client is, said by a load balancer in front.

use std::net::{IpAddr, SocketAddr};

use ppp::{PartialResult, v1, v2};

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// More bytes are needed to tell.
    Partial,
    /// Not a PROXY header.
    Invalid,
    /// A header of so many bytes.
    Header { length: usize, client: Named },
}

/// Whom a header names as the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// Somebody with an address.
    Client(SocketAddr),
    /// The balancer itself: it speaks on its own behalf (LOCAL).
    Sender,
    /// Somebody whose address the balancer does not say (UNKNOWN, or a client of its own on a Unix socket): not the
    /// balancer, and so nobody to trust.
    Nobody,
}

/// The most bytes of a version 1 header, its line end included; and of a version 2 header: 520 bytes of addresses and
/// extensions are far more than any balancer sends.
const MAX_V1: usize = 107;
const MAX_V2: usize = 536;

/// Reads a header from the first bytes of a connection. What can become no header any more is invalid at once.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let begins = |prefix: &[u8]| bytes.starts_with(prefix) || prefix.starts_with(bytes);
    if begins(v2::PROTOCOL_PREFIX) {
        parse_v2(bytes)
    } else if begins(b"PROXY ") {
        parse_v1(bytes)
    } else {
        Parsed::Invalid
    }
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let line = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MAX_V1 { Parsed::Partial } else { Parsed::Invalid };
    };
    match v1::Header::try_from(&line[..end + 2]) {
        Ok(header) => Parsed::Header { length: end + 2, client: client_v1(&header.addresses) },
        Err(_) => Parsed::Invalid,
    }
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    match v2::Header::try_from(bytes) {
        Ok(header) if header.len() <= MAX_V2 => {
            let client = match header.command {
                v2::Command::Local => Named::Sender,
                v2::Command::Proxy => client_v2(&header.addresses),
            };
            Parsed::Header { length: header.len(), client }
        }
        Err(error) if error.is_incomplete() && bytes.len() < MAX_V2 => Parsed::Partial,
        _ => Parsed::Invalid,
    }
}

fn client_v1(addresses: &v1::Addresses) -> Named {
    match addresses {
        v1::Addresses::Unknown => Named::Nobody,
        v1::Addresses::Tcp4(ip) => named(IpAddr::V4(ip.source_address), ip.source_port),
        v1::Addresses::Tcp6(ip) => named(IpAddr::V6(ip.source_address), ip.source_port),
    }
}

fn client_v2(addresses: &v2::Addresses) -> Named {
    match addresses {
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => Named::Nobody,
        v2::Addresses::IPv4(ip) => named(IpAddr::V4(ip.source_address), ip.source_port),
        v2::Addresses::IPv6(ip) => named(IpAddr::V6(ip.source_address), ip.source_port),
    }
}

fn named(address: IpAddr, port: u16) -> Named {
    Named::Client((address, port).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_names_the_client() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 5678 443\r\nGET /";
        let client = Named::Client("192.0.2.1:5678".parse().unwrap());
        assert_eq!(parse(line), Parsed::Header { length: 41, client });
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Parsed::Header { length: 15, client: Named::Nobody });
    }

    #[test]
    fn version_2_names_the_client_and_its_extensions_are_skipped() {
        let addresses = v2::IPv6::new([1u16; 8], [2u16; 8], 5678, 443);
        let header = v2::Builder::with_addresses(0x21, v2::Protocol::Stream, addresses)
            .write_tlv(v2::Type::ALPN, b"h2")
            .unwrap()
            .build()
            .unwrap();
        let client = Named::Client("[1:1:1:1:1:1:1:1]:5678".parse().unwrap());
        assert_eq!(parse(&header), Parsed::Header { length: header.len(), client });
    }

    #[test]
    fn a_header_may_arrive_byte_by_byte() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 5678 443\r\n";
        for end in 0..line.len() {
            assert_eq!(parse(&line[..end]), Parsed::Partial, "{end}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXX", b"\r\n\r\nx", b"PROXY TCP4 nonsense\r\n"] {
            assert_eq!(parse(bytes), Parsed::Invalid, "{bytes:?}");
        }
        assert_eq!(parse(&[b"PROXY TCP4 ".as_slice(), &[b'1'; MAX_V1]].concat()), Parsed::Invalid);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600), v2 in proptest::bool::ANY) {
            let prefix = if v2 { v2::PROTOCOL_PREFIX } else { b"PROXY " };
            parse(&[prefix, &bytes].concat());
            parse(&bytes);
        }
    }
}
