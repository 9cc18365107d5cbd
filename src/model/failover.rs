//! Failover: where the keys and draws of a version go while it is down.
//!
//! Every key has an order of the versions, of which the ring gives the first; a version that is down is passed over. The
//! order depends on the deployment alone and not on who is up: so only what a version that is down would have had moves,
//! and what has moved stays where it is when another version goes down, until one comes back that stands before it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::decision::{Decision, Policy, Reason, Selection};
use super::ring::{Member, Ring};
use super::share::Position;

/// What the salt is followed by where the seed of failover is made.
pub(super) const SUFFIX: &[u8] = b"\0failover";

impl Ring {
    /// The first version that is up, in a key's or draw's order of the versions; `None` where none with a share is.
    ///
    /// `hash` is what the position on the ring is made of: [`Ring::hash`] of a key, or the draw. The order is public, as
    /// the ring is; any tool can recompute it:
    ///
    /// - `h(0)` is `hash`, and the first version is the owner of its position.
    /// - `h(n) = XXH3-64(h(n - 1) as 8 bytes, little-endian, seed = XXH3-64(salt, a zero byte, "failover"))`.
    /// - The versions with a share that do not stand in the order yet lie side by side in the order listed, each as wide
    ///   as its share in thousandths of a per cent, together `T`: the next one has the place `(h(n) × T) >> 64`.
    ///
    /// So whoever is up gets keys in proportion to the shares of those who are, and a version at 0 % gets none.
    pub fn first_up(&self, hash: u64, is_up: impl Fn(Member) -> bool) -> Option<Member> {
        let mut next = self.owner(Position::of(hash));
        if is_up(next) {
            return Some(next);
        }
        let mut hash = hash;
        let mut rest: Vec<_> = self.members().filter(|(_, share)| *share > 0).collect();
        loop {
            rest.retain(|(member, _)| *member != next);
            hash = xxh3_64_with_seed(&hash.to_le_bytes(), self.failover_seed());
            next = placed(&rest, hash)?;
            if is_up(next) {
                return Some(next);
            }
        }
    }
}

/// Who has a hash's place among versions that lie side by side; `None` where there are none.
fn placed(versions: &[(Member, u32)], hash: u64) -> Option<Member> {
    let total: u64 = versions.iter().map(|(_, share)| u64::from(*share)).sum();
    let mut place = (u128::from(hash) * u128::from(total)) >> 64;
    for (member, share) in versions {
        match place.checked_sub(u128::from(*share)) {
            Some(behind) => place = behind,
            None => return Some(*member),
        }
    }
    None
}

impl Policy {
    /// The decision for a request whose version is down: another version, for [`Reason::Failover`], where a key or a draw
    /// chose the one that is down. `None` where nothing can be done: an object, an override and an asset's pin have one
    /// version, and the others may be down as well. `draw` is the request's.
    pub fn fail_over(
        &self,
        selection: &Selection<'_>,
        draw: u64,
        is_up: impl Fn(Member) -> bool,
    ) -> Option<Decision> {
        let ring = &self.deployment.ring;
        let hash = match (selection.decision.reason, selection.key) {
            (Reason::Key, Some(key)) => ring.hash(key),
            (Reason::Random, _) => draw,
            (Reason::Key | Reason::Object | Reason::Override | Reason::Asset | Reason::Failover, _) => {
                return None;
            }
        };
        let member = ring.first_up(hash, is_up)?;
        Some(Decision { member, reason: Reason::Failover, position: selection.decision.position })
    }
}
