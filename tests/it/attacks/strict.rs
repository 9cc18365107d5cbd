//! A reader of requests that is as strict as the strictest upstream: what it does not read as exactly one canonical request
//! must never be sent to anybody.

/// A request as an upstream received it, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The request line.
    pub(super) line: String,
    /// In the order of arrival.
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, String)>,
}

impl Heard {
    /// All lines of a name, joined.
    pub(super) fn field(&self, name: &str) -> Option<String> {
        let lines = self.fields.iter().filter(|(found, _)| found == name);
        lines.map(|(_, value)| value.clone()).reduce(|all, line| format!("{all} | {line}"))
    }
}

/// The whole requests of a connection, and the bytes behind them: those of a request that is not whole. The error says what
/// is not canonical.
pub(super) fn read(bytes: &[u8]) -> Result<(Vec<Heard>, &[u8]), String> {
    let (mut requests, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        match request(rest)? {
            Some((request, length)) => {
                requests.push(request);
                rest = &rest[length..];
            }
            None => break,
        }
    }
    Ok((requests, rest))
}

fn request(bytes: &[u8]) -> Result<Option<(Heard, usize)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let mut lines = std::str::from_utf8(&bytes[..end]).map_err(|error| error.to_string())?.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let parts: Vec<&str> = line.split(' ').collect();
    if parts.len() != 3 || parts[2] != "HTTP/1.1" || parts.iter().any(|part| part.is_empty()) {
        return Err(format!("request line {line:?}"));
    }
    if line.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(format!("control characters in {line:?}"));
    }
    let fields = lines.map(field).collect::<Result<Vec<_>, _>>()?;
    if fields.iter().filter(|(name, _)| name == "host").count() != 1 {
        return Err(format!("not one host: {fields:?}"));
    }
    let Some((body, trailers, length)) = framed(&fields, &bytes[end + 4..])? else { return Ok(None) };
    Ok(Some((Heard { line, fields, body, trailers }, end + 4 + length)))
}

fn field(line: &str) -> Result<(String, String), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match line.split_once(':') {
        Some((name, value))
            if !name.is_empty()
                && name.bytes().all(token)
                && !value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) =>
        {
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        }
        _ => Err(format!("field line {line:?}")),
    }
}

type Framed = (Vec<u8>, Vec<(String, String)>, usize);

/// The body, its trailers and how many bytes they took; nothing where they are not whole.
fn framed(fields: &[(String, String)], bytes: &[u8]) -> Result<Option<Framed>, String> {
    let (lengths, codings) = (lines(fields, "content-length"), lines(fields, "transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Some((Vec::new(), Vec::new(), 0))),
        ([], ["chunked"]) => chunked(bytes),
        ([length], []) => {
            let count: usize = length.parse().map_err(|_| format!("length {length:?}"))?;
            if count.to_string() != *length {
                return Err(format!("length {length:?}"));
            }
            Ok(bytes.get(..count).map(|body| (body.to_vec(), Vec::new(), count)))
        }
        _ => Err(format!("ambiguous length: {lengths:?} {codings:?}")),
    }
}

fn lines<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(found, _)| found == name).map(|(_, value)| &value[..]).collect()
}

fn chunked(bytes: &[u8]) -> Result<Option<Framed>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        if text.is_empty() || text.len() > 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("chunk size line {text:?}"));
        }
        let size = usize::from_str_radix(&text, 16).map_err(|error| error.to_string())?;
        at += end + 2;
        if size == 0 {
            return trailers(&bytes[at..]).map(|read| {
                let (trailers, length) = read?;
                Some((body, trailers, at + length))
            });
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err("a chunk that does not end where its size says".to_owned());
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
}

type Trailers = (Vec<(String, String)>, usize);

fn trailers(bytes: &[u8]) -> Result<Option<Trailers>, String> {
    if bytes.starts_with(b"\r\n") {
        return Ok(Some((Vec::new(), 2)));
    }
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|error| error.to_string())?;
    let fields = text.split("\r\n").map(field).collect::<Result<_, _>>()?;
    Ok(Some((fields, end + 4)))
}

/// Where some bytes are found first.
pub(super) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[test]
fn the_strict_reader_itself_reads_canonical_requests_and_no_others() {
    let one =
        b"POST /a HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n";
    let (requests, rest) = read(one).unwrap();
    assert_eq!((requests.len(), &requests[0].body[..], rest.len()), (1, &b"ok"[..], 0));
    assert_eq!(requests[0].trailers, [("x".to_owned(), "y".to_owned())]);
    let (requests, rest) = read(&one[..one.len() - 1]).unwrap();
    assert_eq!((requests.len(), rest.len()), (0, one.len() - 1));
    for (head, body) in [
        ("GET /a b HTTP/1.1\r\nhost: b", ""),
        ("GET /a HTTP/1.0\r\nhost: b", ""),
        ("GET /a HTTP/1.1", ""),
        ("GET /a HTTP/1.1\r\nhost: b\r\nhost: b", ""),
        ("GET /a HTTP/1.1\r\nhost: b\r\nx : y", ""),
        ("GET /a HTTP/1.1\r\nhost: b\r\nx: a\nb", ""),
        ("POST /a HTTP/1.1\r\nhost: b\r\ncontent-length: 01", "a"),
        ("POST /a HTTP/1.1\r\nhost: b\r\ncontent-length: 1\r\ntransfer-encoding: chunked", "0\r\n\r\n"),
        ("POST /a HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked, chunked", "0\r\n\r\n"),
        ("POST /a HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked", "2;x\r\nok\r\n0\r\n\r\n"),
        ("POST /a HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked", "2\r\nokay\r\n0\r\n\r\n"),
    ] {
        assert!(read(format!("{head}\r\n\r\n{body}").as_bytes()).is_err(), "{head:?}");
    }
}
