//! The backend behind every proxy of the comparison: `bench_backend NAME=ADDRESS…`, one version for each argument.
//!
//! One thread, and answers that are made in advance: it must cost little, because the proxy in front of it is what is
//! measured. `/100k` and `/10m` answer that many bytes, every other path 1 KiB; a request with a body gets two bytes once
//! its body has been read. `X-Backend` names the version. Bodies need a `Content-Length`.

use std::io;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// More than any head of a benchmark; a longer one closes the connection.
const LONGEST_HEAD: usize = 64 * 1024;

/// Whole responses of one version, head and body.
struct Answers {
    read: Vec<u8>,
    kib: Vec<u8>,
    kib100: Vec<u8>,
    mib10: Vec<u8>,
}

impl Answers {
    fn new(name: &str) -> Self {
        let answer = |length: usize| {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nX-Backend: {name}\r\n\
                 Content-Length: {length}\r\n\r\n"
            );
            let mut answer = head.into_bytes();
            answer.resize(answer.len() + length, b'x');
            answer
        };
        Self { read: answer(2), kib: answer(1 << 10), kib100: answer(100 << 10), mib10: answer(10 << 20) }
    }

    fn to(&self, request: &Request<'_>) -> &[u8] {
        match request.path {
            _ if request.body > 0 => &self.read,
            b"/100k" => &self.kib100,
            b"/10m" => &self.mib10,
            _ => &self.kib,
        }
    }
}

/// What matters of a request's head.
struct Request<'a> {
    path: &'a [u8],
    /// The length of the head.
    head: usize,
    /// The length of the body.
    body: usize,
}

impl<'a> Request<'a> {
    /// The first request in the bytes, if its head is there whole.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let mut lines = bytes[..head].split(|&byte| byte == b'\n');
        let path = lines.next()?.split(|&byte| byte == b' ').nth(1)?;
        let length = lines.find_map(|line| {
            let (name, value) = line.split_at_checked(15)?;
            name.eq_ignore_ascii_case(b"content-length:").then_some(value)
        });
        let length = length.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
        Some(Self { path, head, body: length.unwrap_or(0) })
    }
}

async fn serve(mut client: TcpStream, answers: Rc<Answers>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(8 * 1024);
    loop {
        while let Some(request) = Request::parse(&buffer) {
            let answer = answers.to(&request);
            let (end, have) = (request.head + request.body, buffer.len());
            if have < end {
                discard(&mut client, end - have).await?;
            }
            buffer.drain(..end.min(have));
            client.write_all(answer).await?;
        }
        if buffer.len() > LONGEST_HEAD || client.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// Reads the rest of a body.
async fn discard(client: &mut TcpStream, length: usize) -> io::Result<()> {
    let mut rest = client.take(length as u64);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

async fn listen(listener: TcpListener, answers: Rc<Answers>) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        // A client that leaves in the middle of an answer is the end of its connection and nothing else.
        tokio::task::spawn_local(serve(client, Rc::clone(&answers)));
    }
}

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut versions = Vec::new();
        for argument in std::env::args().skip(1) {
            let Some((name, address)) = argument.split_once('=') else {
                return Err(io::Error::other("usage: bench_backend NAME=ADDRESS..."));
            };
            let listener = TcpListener::bind(address).await?;
            versions.push(tokio::task::spawn_local(listen(listener, Rc::new(Answers::new(name)))));
        }
        for version in versions {
            version.await.map_err(io::Error::other)??;
        }
        Ok(())
    })
}
