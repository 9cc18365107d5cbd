//! What `in` compares with: sorted once, then searched by halves.

use std::net::IpAddr;

/// Strings in their order.
#[derive(Clone, Debug)]
pub(super) struct Strings(Box<[Box<[u8]>]>);

impl Strings {
    pub(super) fn new(mut strings: Vec<Box<[u8]>>) -> Self {
        strings.sort_unstable();
        strings.dedup();
        Self(strings.into())
    }

    pub(super) fn contains(&self, found: &[u8]) -> bool {
        self.0.binary_search_by(|string| string[..].cmp(found)).is_ok()
    }
}

/// Ranges, both ends included, in order and without overlaps.
#[derive(Clone, Debug)]
struct Ranges<T>(Box<[(T, T)]>);

impl<T: Ord + Copy> Ranges<T> {
    fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged.into())
    }

    fn contains(&self, found: T) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= found);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| found <= *last)
    }
}

/// Integers and ranges of them.
#[derive(Clone, Debug)]
pub(super) struct Integers(Ranges<i64>);

impl Integers {
    pub(super) fn new(ranges: Vec<(i64, i64)>) -> Self {
        Self(Ranges::new(ranges))
    }

    pub(super) fn contains(&self, found: i64) -> bool {
        self.0.contains(found)
    }
}

/// Addresses, ranges and networks. No address of IPv4 is in a range of IPv6.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Addresses {
    /// Of ranges whose ends are of one family.
    pub(super) fn new(ranges: &[(IpAddr, IpAddr)]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for range in ranges {
            match *range {
                (IpAddr::V4(first), IpAddr::V4(last)) => v4.push((first.to_bits(), last.to_bits())),
                (IpAddr::V6(first), IpAddr::V6(last)) => v6.push((first.to_bits(), last.to_bits())),
                _ => {}
            }
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    pub(super) fn contains(&self, found: IpAddr) -> bool {
        match found {
            IpAddr::V4(found) => self.v4.contains(found.to_bits()),
            IpAddr::V6(found) => self.v6.contains(found.to_bits()),
        }
    }
}
