//! The ring: which version owns which positions, and so where a key or a draw goes.

use std::fmt;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::decision::{Ask, Decision, Reason};
use super::failover;
use super::share::{POSITIONS, Position, Share};

/// A version of a worker, as its index: the deployment's versions in the order listed, then those that are retained and not in
/// the deployment, which no ring knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member(usize);

impl Member {
    /// The index among the versions that serve; below the number of the deployment's, also that in its list.
    pub fn index(self) -> usize {
        self.0
    }
}

/// Consecutive positions of one version: `from` up to and without `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arc {
    /// Whose positions these are.
    pub member: Member,
    /// The first position.
    pub from: u32,
    /// The position after the last.
    pub to: u32,
}

/// Arcs in order, half-open, none empty, together exactly 100,000 positions. A version at 0 % is known but owns no arc.
///
/// A key falls on `XXH3-64(key, seed = XXH3-64(salt))`, scaled to the ring by [`Position::of`]: any tool can recompute
/// it. Growing a version in place therefore never moves a key away from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Kept for tools that recompute a position.
    salt: Box<[u8]>,
    seed: u64,
    failover_seed: u64,
    shares: Box<[Share]>,
    arcs: Box<[Arc]>,
}

impl Ring {
    /// The most that a total may differ from 100 %, in thousandths of a per cent.
    pub const TOLERANCE: u32 = 1;

    /// A ring in cumulative order: version *i* owns `[sum before i, sum up to i)`.
    ///
    /// # Errors
    /// The shares must total 100 % within a thousandth, which is then given to (or taken from) the largest, the first
    /// of equals.
    pub fn cumulative(salt: &[u8], shares: &[Share]) -> Result<Self, RingError> {
        let largest = largest(shares);
        let mut spans: Vec<_> = shares.iter().enumerate().map(|(i, s)| (i, s.thousandths())).collect();
        Self::build(salt, shares, &mut spans, largest)
    }

    /// A ring of explicit arcs, in order, in which a version may occur more than once.
    ///
    /// # Errors
    /// Each version's arcs must total its share, the arcs name only versions that exist, and the shares total 100 % as
    /// for [`Ring::cumulative`]; the thousandth then goes to the largest version's first arc.
    pub fn with_arcs(salt: &[u8], shares: &[Share], arcs: &[(usize, Share)]) -> Result<Self, RingError> {
        let mut spans: Vec<_> = arcs.iter().map(|&(member, share)| (member, share.thousandths())).collect();
        if let Some(&(member, _)) = spans.iter().find(|(member, _)| *member >= shares.len()) {
            return Err(RingError::UnknownMember { member });
        }
        for (member, share) in shares.iter().enumerate() {
            let of_member = spans.iter().filter(|(m, _)| *m == member);
            let total: u64 = of_member.map(|(_, width)| u64::from(*width)).sum();
            if total != u64::from(share.thousandths()) {
                return Err(RingError::ArcsTotal { member, total });
            }
        }
        Self::build(salt, shares, &mut spans, largest(shares))
    }

    fn build(
        salt: &[u8],
        shares: &[Share],
        spans: &mut [(usize, u32)],
        largest: Option<usize>,
    ) -> Result<Self, RingError> {
        let total: u64 = shares.iter().map(|share| u64::from(share.thousandths())).sum();
        let whole = u64::from(POSITIONS);
        let Some(largest) = largest.filter(|_| total.abs_diff(whole) <= u64::from(Self::TOLERANCE)) else {
            return Err(RingError::Total { total });
        };
        let mut shares = shares.to_vec();
        if let Some(first) = spans.iter_mut().find(|(member, width)| *member == largest && *width > 0) {
            first.1 = balanced(first.1, total);
            shares[largest] = Share::from_thousandths(balanced(shares[largest].thousandths(), total))
                .unwrap_or(Share::WHOLE);
        }
        let mut arcs: Vec<Arc> = Vec::with_capacity(spans.len());
        let mut from = 0;
        for &(member, width) in spans.iter().filter(|(_, width)| *width > 0) {
            let to = from + width;
            match arcs.last_mut() {
                Some(last) if last.member.0 == member => last.to = to,
                _ => arcs.push(Arc { member: Member(member), from, to }),
            }
            from = to;
        }
        Ok(Self {
            salt: salt.into(),
            seed: xxh3_64(salt),
            failover_seed: xxh3_64(&[salt, failover::SUFFIX].concat()),
            shares: shares.into(),
            arcs: arcs.into(),
        })
    }

    /// What the seed is the hash of.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// A key's hash. The same on every thread, replica, restart and architecture.
    pub fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.seed)
    }

    /// Where a key falls.
    pub fn position(&self, key: &[u8]) -> Position {
        Position::of(self.hash(key))
    }

    /// The seed of the hashes that order versions for failover.
    pub(super) fn failover_seed(&self) -> u64 {
        self.failover_seed
    }

    /// Every version with its share in thousandths of a per cent, in the order listed.
    pub(super) fn members(&self) -> impl Iterator<Item = (Member, u32)> {
        self.shares.iter().enumerate().map(|(index, share)| (Member(index), share.thousandths()))
    }

    /// Who owns a position.
    pub fn owner(&self, position: Position) -> Member {
        let at = match &*self.arcs {
            [_] => 0,
            [first, _] => usize::from(position.index() >= first.to),
            arcs => arcs.partition_point(|arc| arc.to <= position.index()),
        };
        self.arcs.get(at).map_or(Member(0), |arc| arc.member)
    }

    /// Where a request goes: the object decides, then the override, the asset's pin, the key, and at last the draw.
    pub fn decide(&self, ask: &Ask<'_>) -> Decision {
        if let Some(object) = ask.object {
            let position = self.position(object);
            return Decision {
                member: self.owner(position),
                reason: Reason::Object,
                position: Some(position),
            };
        }
        if let Some(member) = ask.forced {
            return Decision { member, reason: Reason::Override, position: None };
        }
        if let Some(member) = ask.pinned {
            return Decision { member, reason: Reason::Asset, position: None };
        }
        if let Some(key) = ask.key {
            let position = self.position(key);
            return Decision { member: self.owner(position), reason: Reason::Key, position: Some(position) };
        }
        Decision { member: self.owner(Position::of(ask.draw)), reason: Reason::Random, position: None }
    }

    /// The version of an index; `None` if the deployment has fewer.
    pub fn member(&self, index: usize) -> Option<Member> {
        (index < self.shares.len()).then_some(Member(index))
    }

    /// The version that comes so many after the last one that the ring knows: no key and no draw reaches it.
    pub(super) fn beyond(&self, count: usize) -> Member {
        Member(self.shares.len() + count)
    }

    /// The arcs in order.
    pub fn arcs(&self) -> &[Arc] {
        &self.arcs
    }

    /// Each version's exact share, in the order listed; they total 100 %.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }
}

/// The first of those with the most.
fn largest(shares: &[Share]) -> Option<usize> {
    (0..shares.len()).rev().max_by_key(|&index| shares[index])
}

/// A width after the total's missing or excess thousandth has gone to or come from it.
fn balanced(width: u32, total: u64) -> u32 {
    let exact = u64::from(width) + u64::from(POSITIONS) - total;
    u32::try_from(exact).unwrap_or(POSITIONS)
}

/// Why shares or arcs make no ring. Totals are in thousandths of a per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// The shares do not total 100 %.
    Total {
        /// What they total.
        total: u64,
    },
    /// A version's arcs do not total its share.
    ArcsTotal {
        /// The index of the version.
        member: usize,
        /// What its arcs total.
        total: u64,
    },
    /// An arc is of a version that the deployment does not list.
    UnknownMember {
        /// The index that does not exist.
        member: usize,
    },
}

/// Thousandths of a per cent as a percentage, also above 100.
pub fn percentage(thousandths: u64) -> String {
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Total { total } => {
                write!(f, "the percentages add up to {}, but must total exactly 100", percentage(*total))
            }
            Self::ArcsTotal { member, total } => {
                write!(f, "the arcs of version {member} add up to {}, not to its share", percentage(*total))
            }
            Self::UnknownMember { member } => write!(f, "there is no version {member}"),
        }
    }
}

impl std::error::Error for RingError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(thousandths: &[u32]) -> Vec<Share> {
        thousandths.iter().map(|&t| Share::from_thousandths(t).unwrap()).collect()
    }

    #[test]
    fn the_missing_thousandth_goes_to_the_first_of_the_largest() {
        let ring = Ring::cumulative(b"w", &shares(&[33_333, 33_333, 33_333])).unwrap();
        assert_eq!(ring.shares(), shares(&[33_334, 33_333, 33_333]));
    }

    #[test]
    fn the_excess_thousandth_comes_from_the_largest() {
        let ring = Ring::cumulative(b"w", &shares(&[33_333, 33_333, 33_335])).unwrap();
        assert_eq!(ring.shares(), shares(&[33_333, 33_333, 33_334]));
    }

    #[test]
    fn a_total_off_by_more_than_a_thousandth_is_refused() {
        let error = Ring::cumulative(b"w", &shares(&[99_900])).unwrap_err();
        assert_eq!(error, RingError::Total { total: 99_900 });
        assert_eq!(error.to_string(), "the percentages add up to 99.9, but must total exactly 100");
    }

    #[test]
    fn arcs_of_one_version_may_lie_apart() {
        let arcs = [(0, 30_000), (1, 20_000), (0, 50_000)];
        let arcs: Vec<_> = arcs.iter().map(|&(m, t)| (m, Share::from_thousandths(t).unwrap())).collect();
        let ring = Ring::with_arcs(b"w", &shares(&[80_000, 20_000]), &arcs).unwrap();
        let owners: Vec<_> = ring.arcs().iter().map(|arc| (arc.member.index(), arc.from, arc.to)).collect();
        assert_eq!(owners, [(0, 0, 30_000), (1, 30_000, 50_000), (0, 50_000, 100_000)]);
    }

    #[test]
    fn arcs_that_do_not_total_a_versions_share_are_refused() {
        let arcs = [(0, Share::WHOLE)];
        let error = Ring::with_arcs(b"w", &shares(&[80_000, 20_000]), &arcs).unwrap_err();
        assert_eq!(error, RingError::ArcsTotal { member: 0, total: 100_000 });
    }
}
