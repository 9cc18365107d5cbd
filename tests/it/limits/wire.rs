//! A client of HTTP/2 that sends exact frames.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Pipe, Proxy, soon};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// What a client that must calm down is told.
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame's kind, flags, stream and payload.
pub(super) type Frame = (u8, u8, u32, Vec<u8>);

/// A connection whose greetings are exchanged.
pub(super) struct Wire(pub(super) Pipe);

impl Wire {
    /// A client whose streams may be sent so much; the settings' default is 65,535.
    pub(super) async fn open(proxy: &Proxy, window: u32) -> Self {
        let mut wire = Self(proxy.pipe().await);
        wire.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
        wire.send(&frame(SETTINGS, 0, 0, &setting)).await;
        wire
    }

    /// Sends what the proxy takes; false once it takes nothing.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sending = self.0.write_all(bytes);
        tokio::time::timeout(Duration::from_secs(20), sending).await.is_ok_and(|sent| sent.is_ok())
    }

    /// The next frame; `None` where the connection ends.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        soon("a frame", self.0.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        soon("a frame's payload", self.0.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        Some((head[3], head[4], stream, payload))
    }

    /// Why the connection ends: the reason in GOAWAY, if there was one.
    pub(super) async fn end(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some((kind, _, _, payload)) = self.next().await {
            if kind == GOAWAY {
                reason = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        reason
    }
}

/// A frame's bytes.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The fields of a request without those of its own, each a literal that is not indexed (RFC 7541 section 6.2.2).
pub(super) fn block(method: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in
        [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "shop.example")]
    {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A whole GET.
pub(super) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block("GET"))
}
