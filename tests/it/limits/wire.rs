//! A client of HTTP/2 that sends exact frames.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(super) use crate::support::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PADDED, PING, PREFACE,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
};
use crate::support::wire::{frame_head, request};
use crate::support::{Pipe, Proxy, soon};

/// A frame's kind, flags, stream and payload.
pub(super) type Frame = (u8, u8, u32, Vec<u8>);

/// A connection whose greetings are exchanged.
pub(super) struct Wire(pub(super) Pipe);

impl Wire {
    /// A client whose streams may be sent so much; the settings' default is 65,535.
    pub(super) async fn open(proxy: &Proxy, window: u32) -> Self {
        Self::over(proxy.pipe().await, window).await
    }

    /// The same, on a connection on which nothing was said yet.
    pub(super) async fn over(pipe: Pipe, window: u32) -> Self {
        let mut wire = Self(pipe);
        wire.0.write_all(PREFACE).await.unwrap();
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
        let (length, kind, flags, stream) = frame_head(head);
        let mut payload = vec![0; length];
        soon("a frame's payload", self.0.read_exact(&mut payload)).await.ok()?;
        Some((kind, flags, stream, payload))
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

/// The header block of a request without fields of its own.
pub(super) fn block(method: &str) -> Vec<u8> {
    crate::support::wire::block(&request(method, "/"))
}

/// A whole GET.
pub(super) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block("GET"))
}
