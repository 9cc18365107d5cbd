//! HTTP/1.1 read by the letter: whatever is not exactly as RFC 9112 has it is a mistake of whoever wrote it.

/// A message on the wire, and where it stops.
#[derive(Debug)]
pub struct Message {
    /// The first line without its end.
    pub start: String,
    /// Names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    /// How the length of the body is told.
    pub framing: Framing,
    /// Bytes of the head.
    pub head: usize,
}

/// How the length of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By `Content-Length`.
    Length(usize),
    /// By `Transfer-Encoding: chunked`.
    Chunked,
    /// Not at all.
    Untold,
}

impl Message {
    /// Reads a head; `None` where it is not all there.
    ///
    /// # Panics
    /// It is malformed or ambiguous.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let head = bytes.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
        let mut lines = Vec::new();
        let mut rest = &bytes[..head - 2];
        while let Some(end) = rest.windows(2).position(|part| part == b"\r\n") {
            lines.push(&rest[..end]);
            rest = &rest[end + 2..];
        }
        let (start, fields) = lines.split_first()?;
        assert!(start.iter().all(|byte| *byte >= b' ' && *byte != 0x7f), "start line {start:?}");
        let fields: Vec<_> = fields.iter().map(|line| field(line)).collect();
        let framing = framing(&fields);
        Some(Self { start: String::from_utf8_lossy(start).into_owned(), fields, framing, head })
    }

    /// The values of a name.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(found, _)| found == name).map(|(_, value)| &value[..])
    }

    /// How many bytes the body has that follows, framing included; `None` where it is not all there. Fields of a trailer
    /// section are passed to `trailer`.
    ///
    /// # Panics
    /// The chunks are malformed.
    pub fn body(&self, bytes: &[u8], trailer: impl Fn(&str)) -> Option<usize> {
        match self.framing {
            Framing::Length(length) => (bytes.len() >= length).then_some(length),
            Framing::Chunked => chunks(bytes, trailer),
            Framing::Untold => Some(0),
        }
    }
}

/// Whether a byte may stand in a token.
pub fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

fn field(line: &[u8]) -> (String, Vec<u8>) {
    let colon = line.iter().position(|&byte| byte == b':');
    let Some(colon) = colon else { panic!("no colon in {:?}", String::from_utf8_lossy(line)) };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    assert!(!name.is_empty() && name.iter().all(is_token), "name {:?}", String::from_utf8_lossy(name));
    let value = value.strip_prefix(b" ").unwrap_or(value);
    let good = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    assert!(value.iter().all(good), "value {:?}", String::from_utf8_lossy(value));
    (String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec())
}

fn framing(fields: &[(String, Vec<u8>)]) -> Framing {
    let all = |name: &str| -> Vec<&Vec<u8>> {
        fields.iter().filter(|(found, _)| found == name).map(|(_, value)| value).collect()
    };
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => Framing::Untold,
        ([length], []) => {
            let text = std::str::from_utf8(length).unwrap_or_default();
            let plain = !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_digit())
                && (text == "0" || !text.starts_with('0'));
            assert!(plain, "length {text:?}");
            Framing::Length(text.parse().unwrap_or(usize::MAX))
        }
        ([], [coding]) => {
            assert_eq!(&coding[..], b"chunked");
            Framing::Chunked
        }
        _ => panic!("two framings: {fields:?}"),
    }
}

fn chunks(bytes: &[u8], trailer: impl Fn(&str)) -> Option<usize> {
    let mut at = 0;
    loop {
        let end = at + bytes[at..].windows(2).position(|part| part == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..end]).unwrap_or("?");
        let parsed = usize::from_str_radix(size, 16);
        let Ok(length) = parsed else { panic!("chunk size {size:?}") };
        assert!(!size.starts_with('+') && size.len() <= 16, "chunk size {size:?}");
        at = end + 2;
        if length == 0 {
            break;
        }
        let after = bytes.get(at + length..at + length + 2)?;
        assert_eq!(after, b"\r\n", "after a chunk");
        at += length + 2;
    }
    loop {
        let end = at + bytes[at..].windows(2).position(|part| part == b"\r\n")?;
        if end == at {
            return Some(at + 2);
        }
        trailer(&field(&bytes[at..end]).0);
        at = end + 2;
    }
}
