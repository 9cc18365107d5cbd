//! Whatever a connection begins with: nothing panics, the answer does not depend on how the bytes arrive, and what counts
//! is bounded.

use gradual::proxy::fuzzing::{ProxyHeader, proxy_header};

/// More than the longest header of either version.
const BOUND: usize = 600;
const VERSION_1: &[u8] = b"PROXY ";
const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The input is what a connection begins with.
pub fn run(input: &[u8]) {
    let all = proxy_header(input);
    // Byte by byte: `Partial` up to some point, from which on what is said stays.
    let mut settled = None;
    for end in 0..=input.len().min(BOUND) {
        let now = proxy_header(&input[..end]);
        match settled {
            None if now == ProxyHeader::Partial => {}
            None => settled = Some(now),
            Some(before) => assert_eq!(now, before, "after {end} bytes"),
        }
    }
    match all {
        ProxyHeader::Partial => assert!(input.len() < BOUND),
        ProxyHeader::Invalid => {}
        ProxyHeader::Whole(length, client) => {
            assert!(length <= input.len() && length < BOUND);
            assert_eq!(settled, Some(all));
            if let Some(line) = input[..length].strip_prefix(VERSION_1) {
                let line = std::str::from_utf8(line).map(str::trim_end).unwrap_or_default();
                let mut words = line.split(' ');
                let unknown = words.next() == Some("UNKNOWN");
                let named = words.next().filter(|_| !unknown).and_then(|address| address.parse().ok());
                assert_eq!(client.map(|client| client.ip()), named);
            } else {
                assert!(input.starts_with(VERSION_2));
                let extra = usize::from(u16::from_be_bytes([input[14], input[15]]));
                assert_eq!(length, 16 + extra);
            }
        }
    }
}
