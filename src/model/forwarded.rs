//! What trusted proxies in front say about a request: whom it comes from, and by which scheme it was asked.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use super::head::trim_ows;

/// The client's address: the connection's, where that is a trusted proxy's the last one in `X-Forwarded-For` that is none.
/// What is no address ends the search: then the address behind it counts. For requests through a trusted proxy; of others
/// no such line is believed, and `peer` is the answer.
pub fn believed_address(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    is_proxy: impl Fn(&IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut believed = peer;
    for line in headers.get_all("x-forwarded-for").iter().rev() {
        for entry in line.as_bytes().rsplit(|&byte| byte == b',') {
            let Some(address) = address(trim_ows(entry)) else { return believed };
            believed = Some(address);
            if !is_proxy(&address) {
                return believed;
            }
        }
    }
    believed
}

/// An entry of `X-Forwarded-For`: an address, by some with a port, and then of IPv6 in brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().or_else(|_| text.parse().map(|socket: SocketAddr| socket.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// Whether `X-Forwarded-Proto` says that the client asked by https; to be believed of a trusted proxy only.
pub fn says_https(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Through a proxy at 10.0.0.1, one of the network 10.0.0.0/8, with these lines.
    fn believed(lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let is_proxy = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10);
        believed_address("10.0.0.1".parse().ok(), &headers, is_proxy).unwrap().to_string()
    }

    #[test]
    fn the_last_address_that_is_no_trusted_proxys_is_the_clients() {
        for (lines, expected) in [
            (&[][..], "10.0.0.1"),
            (&["192.0.2.1"], "192.0.2.1"),
            (&["198.51.100.1, 192.0.2.1, 10.0.0.9"], "192.0.2.1"),
            (&["198.51.100.1", "192.0.2.1,10.0.0.9", "10.0.0.8"], "192.0.2.1"),
            (&["10.0.0.7, 10.0.0.8"], "10.0.0.7"),
            (&["192.0.2.1:4711"], "192.0.2.1"),
            (&["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
        ] {
            assert_eq!(believed(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_address_hides_what_stands_before_it() {
        for (lines, expected) in [
            (&["192.0.2.1, unknown"][..], "10.0.0.1"),
            (&["192.0.2.1, unknown, 10.0.0.9"], "10.0.0.9"),
            (&["192.0.2.1,"], "10.0.0.1"),
            (&["192.0.2.1", ""], "10.0.0.1"),
        ] {
            assert_eq!(believed(lines), expected, "{lines:?}");
        }
    }
}
