//! Bodies that a number decides, so that both ends know every byte of them without holding one.

use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use xxhash_rust::xxh3::Xxh3;

/// What all bodies are cut from: a prime number of bytes, so that no piece comes again at an even distance.
static BLOCK: LazyLock<Bytes> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(7);
    let mut block = vec![0; 4_194_301];
    random.fill(&mut block);
    block.into()
});

/// A body of a known number of bytes, in pieces of uneven length.
pub(crate) struct Content {
    at: usize,
    left: u64,
    random: fastrand::Rng,
    /// Whether its length is said beforehand: over HTTP/1.1, Content-Length instead of chunks.
    is_sized: bool,
}

impl Content {
    pub(crate) fn new(seed: u64, length: u64, is_sized: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self { at: random.usize(..BLOCK.len()), left: length, random, is_sized }
    }

    fn piece(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.random.usize(1..=64 << 10));
        let end = (self.at + wanted).min(BLOCK.len());
        let piece = BLOCK.slice(self.at..end);
        self.at = if end == BLOCK.len() { 0 } else { end };
        self.left -= piece.len() as u64;
        Some(piece)
    }
}

/// The checksum of a body.
pub(crate) fn sum(seed: u64, length: u64) -> u64 {
    let mut content = Content::new(seed, length, true);
    let mut sum = Xxh3::new();
    while let Some(piece) = content.piece() {
        sum.update(&piece);
    }
    sum.digest()
}

impl Body for Content {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_sized && self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_sized { SizeHint::with_exact(self.left) } else { SizeHint::default() }
    }
}
