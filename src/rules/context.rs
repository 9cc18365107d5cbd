//! What evaluation works with: the facts, and memory that is given back all at once.

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;
use std::cell::Cell;

use super::Facts;
use super::types::Value;

/// The most bytes of one result that is longer than what it was made of; a longer one is missing.
pub(super) const MOST_BYTES: usize = 64 * 1024;
/// The most bytes that one evaluation may write in all: results of functions, arrays, and fields that are put together. After
/// that they are missing.
pub(super) const MOST_WORK: usize = 4 * 1024 * 1024;

/// Buffers that evaluation reuses. One per shard: it is not shared between threads.
#[derive(Debug, Default)]
pub struct Scratch {
    bump: Bump,
}

impl Scratch {
    /// The memory, empty.
    pub(super) fn start(&mut self) -> &Bump {
        // What a request of unusual size has needed is not kept.
        const MOST_KEPT: usize = 256 * 1024;
        self.bump.reset();
        if self.bump.allocated_bytes() > MOST_KEPT {
            self.bump = Bump::new();
        }
        &self.bump
    }
}

/// What one evaluation works with.
pub(super) struct Context<'s> {
    pub(super) facts: &'s Facts<'s>,
    pub(super) bump: &'s Bump,
    /// Bytes that may yet be written.
    left: Cell<usize>,
}

impl<'s> Context<'s> {
    pub(super) fn new(facts: &'s Facts<'s>, bump: &'s Bump) -> Self {
        Self { facts, bump, left: Cell::new(MOST_WORK) }
    }

    /// Takes leave to write so many bytes; `false` where that would be too much work.
    pub(super) fn may_write(&self, bytes: usize) -> bool {
        let left = self.left.get().checked_sub(bytes);
        // What did not fit is the end of it: smaller things that come later do not fit either.
        self.left.set(left.unwrap_or(0));
        left.is_some()
    }

    /// An empty buffer for a result of at most so many bytes; `None` where that would be too much work.
    pub(super) fn buffer(&self, bytes: usize) -> Option<BumpVec<'s, u8>> {
        self.may_write(bytes).then(|| BumpVec::with_capacity_in(bytes, self.bump))
    }

    /// An empty list of values.
    pub(super) fn values(&self) -> BumpVec<'s, Value<'s>> {
        BumpVec::new_in(self.bump)
    }

    /// An empty list of at most so many items; `None` where that would be too much work.
    pub(super) fn list<T>(&self, most: usize) -> Option<BumpVec<'s, T>> {
        let leave = self.may_write(most.saturating_mul(size_of::<T>()));
        leave.then(|| BumpVec::with_capacity_in(most, self.bump))
    }

    /// Appends to a list; `false` where that would be too much work, and then the list is of no use.
    pub(super) fn push<T>(&self, list: &mut BumpVec<'s, T>, item: T) -> bool {
        let leave = self.may_write(size_of::<T>());
        if leave {
            list.push(item);
        }
        leave
    }

    /// A list of values as a value.
    pub(super) fn array(&self, values: BumpVec<'s, Value<'s>>) -> Value<'s> {
        Value::Array(values.into_bump_slice())
    }

    /// Some texts one after the other; `None` where that would be too much work.
    pub(super) fn concat(&self, parts: &[&[u8]]) -> Option<&'s [u8]> {
        let mut all = self.buffer(parts.iter().map(|part| part.len()).sum())?;
        parts.iter().for_each(|part| all.extend_from_slice_copy(part));
        Some(all.into_bump_slice())
    }

    /// A text with its ASCII letters in lower case: itself where they are. `None` where that would be too much work.
    pub(super) fn lower_case(&self, text: &'s [u8]) -> Option<&'s [u8]> {
        self.recased(text, u8::is_ascii_uppercase, <[u8]>::make_ascii_lowercase)
    }

    /// A text with its ASCII letters in upper case: itself where they are. `None` where that would be too much work.
    pub(super) fn upper_case(&self, text: &'s [u8]) -> Option<&'s [u8]> {
        self.recased(text, u8::is_ascii_lowercase, <[u8]>::make_ascii_uppercase)
    }

    fn recased(&self, text: &'s [u8], other: fn(&u8) -> bool, change: fn(&mut [u8])) -> Option<&'s [u8]> {
        if !text.iter().any(other) {
            return Some(text);
        }
        let mut changed = self.buffer(text.len())?;
        changed.extend_from_slice_copy(text);
        change(&mut changed);
        Some(changed.into_bump_slice())
    }
}
