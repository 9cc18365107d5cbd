//! Trailer sections on their way (RFC 9110 section 6.5).

use http::HeaderMap;

use super::failure::Source;
use super::head;

/// What the codec of HTTP/2 counts each field for besides its name and its value (RFC 9113 section 10.5.1).
const FIELD: usize = 32;

/// Removes what may not stand in a trailer section (RFC 9110 section 6.5.1).
///
/// # Errors
/// The section takes more than `most` bytes. `most` is to be half of what the codec reads: beyond that it leaves fields out
/// without a word, and what comes near may lack some.
pub(super) fn clean(trailers: &mut HeaderMap, most: usize) -> Result<(), Source> {
    #[cfg(test)]
    super::panics::provoke(trailers.get("x-test-panic").map_or(b"", http::HeaderValue::as_bytes), "trailers");
    if size(trailers) > most {
        return Err("the trailers are too large".into());
    }
    let forbidden: Vec<_> =
        trailers.keys().filter(|name| head::forbidden_in_trailers(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
    Ok(())
}

fn size(trailers: &HeaderMap) -> usize {
    trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_section_may_have_so_many_bytes_with_32_more_for_each_field() {
        let mut section = section(&[("a", "1"), ("bc", "")]);
        assert!(clean(&mut section, 2 + 2 + 64).is_ok());
        assert!(clean(&mut section, 2 + 2 + 63).is_err());
    }

    #[test]
    fn framing_and_routing_are_removed() {
        let mut section = section(&[("host", "a"), ("grpc-status", "0")]);
        clean(&mut section, 1000).unwrap();
        assert_eq!(section.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
    }
}
