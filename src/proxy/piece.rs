//! Pieces of bodies on their way to clients.

use std::rc::Rc;

use bytes::{Buf, Bytes};

use super::unread::Unread;
use super::watch::Watch;

/// A piece of a body on its way to a client: it counts as held until its bytes have left.
pub(super) struct Piece {
    bytes: Bytes,
    /// Its place among those of its connection.
    number: u64,
    /// `None` where nobody counts.
    watch: Option<Rc<Watch>>,
    unread: Option<Rc<Unread>>,
}

impl Piece {
    /// One that is counted by the watch of its connection, with its number there; and by its response, where that is looked
    /// after.
    pub(super) fn held(bytes: Bytes, number: u64, watch: &Rc<Watch>, unread: Option<&Rc<Unread>>) -> Self {
        Self { bytes, number, watch: Some(Rc::clone(watch)), unread: unread.cloned() }
    }

    /// A piece that is not counted: of the proxy's own, and small.
    pub(super) fn own(bytes: Bytes) -> Self {
        Self { bytes, number: 0, watch: None, unread: None }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(watch) = &self.watch {
            watch.left(count, self.number);
        }
        if let Some(unread) = &self.unread {
            unread.left(count);
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch
            && !self.bytes.is_empty()
        {
            watch.given_up(self.bytes.len());
            if let Some(unread) = &self.unread {
                unread.given_up(self.bytes.len());
            }
        }
    }
}
