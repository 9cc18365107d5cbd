//! What a change of deployment does to keys: who moves, the least that could, and a ring that moves no more.
//!
//! The least is half the sum of the absolute changes of share: what a version gains, others must lose. Two versions in their
//! order always reach it. With three or more, plain cumulative order may push a version along the ring whose share did not
//! change; then explicit arcs reach the least, taken only from versions that shrink.

use std::collections::HashMap;

use crate::model::deployment::Deployment;
use crate::model::name::VersionId;
use crate::model::ring::{Ring, RingError};
use crate::model::share::{POSITIONS, Share};

/// Who moves when one deployment follows another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The share of all keys that moves between each pair of versions, in the order of the old deployment, then of the new.
    pub moves: Vec<Move>,
    /// The share of all keys that moves, in thousandths of a per cent: the sum of `moves`.
    pub moved: u32,
    /// The least that any ring with the new shares would move, in thousandths of a per cent.
    pub least: u32,
    /// Whether the two rings hash keys with different salts: then every key is drawn anew, and `moves` is what is expected.
    pub rehashed: bool,
}

/// Keys that go from one version to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where they were.
    pub from: VersionId,
    /// Where they are then.
    pub to: VersionId,
    /// How many of all keys.
    pub share: Share,
}

impl Plan {
    /// What the step from one deployment to the next moves.
    pub fn between(old: &Deployment, new: &Deployment) -> Self {
        let rehashed = old.ring.salt() != new.ring.salt();
        let widths = if rehashed { expected(old, new) } else { overlaps(old, new) };
        let mut moves = Vec::new();
        for (i, from) in old.versions.iter().enumerate() {
            for (j, to) in new.versions.iter().enumerate() {
                let share = widths.get(&(i, j)).copied().and_then(Share::from_thousandths);
                if let Some(share) = share.filter(|share| !share.is_zero() && from != to) {
                    moves.push(Move { from: from.clone(), to: to.clone(), share });
                }
            }
        }
        let moved = moves.iter().map(|one| one.share.thousandths()).sum();
        Self { moves, moved, least: least(old, new), rehashed }
    }

    /// Whether no ring with the new shares would move fewer keys.
    pub fn is_least(&self) -> bool {
        self.moved <= self.least
    }
}

/// What the versions gain that have more than before; the others lose as much.
fn least(old: &Deployment, new: &Deployment) -> u32 {
    let before: HashMap<_, _> = shares(old).collect();
    let gain = |(id, share): (&VersionId, u32)| share.saturating_sub(before.get(id).copied().unwrap_or(0));
    shares(new).map(gain).sum()
}

fn shares(deployment: &Deployment) -> impl Iterator<Item = (&VersionId, u32)> {
    deployment.versions.iter().zip(deployment.ring.shares().iter().map(|share| share.thousandths()))
}

/// How much of the ring two versions own one after the other, by their indexes.
type Widths = HashMap<(usize, usize), u32>;

fn overlaps(old: &Deployment, new: &Deployment) -> Widths {
    let mut widths = Widths::new();
    let (mut before, mut after) = (old.ring.arcs().iter().peekable(), new.ring.arcs().iter().peekable());
    let mut from = 0;
    while let (Some(one), Some(other)) = (before.peek(), after.peek()) {
        let to = one.to.min(other.to);
        *widths.entry((one.member.index(), other.member.index())).or_default() += to - from;
        from = to;
        before.next_if(|arc| arc.to == to);
        after.next_if(|arc| arc.to == to);
    }
    widths
}

/// With another salt, where a key was says nothing about where it will be.
fn expected(old: &Deployment, new: &Deployment) -> Widths {
    let mut widths = Widths::new();
    for (i, (_, before)) in shares(old).enumerate() {
        for (j, (_, after)) in shares(new).enumerate() {
            let product = u64::from(before) * u64::from(after) / u64::from(POSITIONS);
            widths.insert((i, j), u32::try_from(product).unwrap_or(POSITIONS));
        }
    }
    widths
}

/// How a deployment is best written that follows another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The versions: those of the previous deployment in its order, then the others as they were asked for. Their shares
    /// total exactly 100 %.
    pub versions: Vec<(VersionId, Share)>,
    /// Explicit arcs, where the order of the versions alone would move more keys than necessary.
    pub ring: Option<Vec<(VersionId, Share)>>,
}

/// Lays wanted shares out so that no more keys move than must: in the previous order, with arcs where that is not enough.
/// No version may be there twice.
///
/// # Errors
/// The shares do not total 100 % (± 0.001).
pub fn arrange(old: &Deployment, wanted: &[(VersionId, Share)]) -> Result<Layout, RingError> {
    let place = |id: &VersionId| old.versions.iter().position(|one| one == id).unwrap_or(usize::MAX);
    let mut versions = wanted.to_vec();
    versions.sort_by_key(|(id, _)| place(id));
    let shares: Vec<_> = versions.iter().map(|(_, share)| *share).collect();
    let ring = Ring::cumulative(old.ring.salt(), &shares)?;
    for (version, share) in versions.iter_mut().zip(ring.shares()) {
        version.1 = *share;
    }
    let plain =
        Deployment { versions: versions.iter().map(|(id, _)| id.clone()).collect(), ring, ..old.clone() };
    if Plan::between(old, &plain).is_least() {
        return Ok(Layout { versions, ring: None });
    }
    let arcs = Carving::new(old, &versions).carved();
    let named = |(owner, width): (usize, u32)| {
        let (id, _) = versions.get(owner)?;
        Some((id.clone(), Share::from_thousandths(width)?))
    };
    let ring = arcs.into_iter().filter_map(named).collect();
    Ok(Layout { versions, ring: Some(ring) })
}

/// The old ring on its way to the new shares. Versions are known by their index in the new deployment; those that left it
/// have indexes behind.
struct Carving {
    /// Owner and width, in the order of the ring.
    arcs: Vec<(usize, u32)>,
    /// How much each has to lose (above 0) or still to get (below).
    excess: Vec<i64>,
}

impl Carving {
    fn new(old: &Deployment, versions: &[(VersionId, Share)]) -> Self {
        let gone = old.versions.iter().filter(|id| versions.iter().all(|(one, _)| one != *id));
        let all: Vec<_> = versions.iter().map(|(id, _)| id).chain(gone).collect();
        let mut excess = vec![0; all.len()];
        for (excess, (_, share)) in excess.iter_mut().zip(versions) {
            *excess -= i64::from(share.thousandths());
        }
        let mut arcs = Vec::new();
        for arc in old.ring.arcs() {
            let owner = old.version(arc.member).and_then(|id| all.iter().position(|one| *one == id));
            let owner = owner.unwrap_or(0);
            arcs.push((owner, arc.to - arc.from));
            excess[owner] += i64::from(arc.to - arc.from);
        }
        Self { arcs, excess }
    }

    /// The arcs once everybody has what is due. An arc is rather moved at its border or given away whole than cut in two, so
    /// that a ring stays short over many deployments.
    fn carved(mut self) -> Vec<(usize, u32)> {
        loop {
            while self.shift_a_border() {}
            if !self.give_an_arc() {
                return self.arcs;
            }
        }
    }

    /// Gives an end of an arc to its neighbour, where one has too much and the other too little.
    fn shift_a_border(&mut self) -> bool {
        for at in 1..self.arcs.len() {
            for (from, to) in [(at - 1, at), (at, at - 1)] {
                let ((giver, width), (taker, _)) = (self.arcs[from], self.arcs[to]);
                let amount = self.transferable(giver, taker, width);
                if amount > 0 {
                    self.transfer(giver, taker, amount);
                    self.arcs[from].1 -= amount;
                    self.arcs[to].1 += amount;
                    self.tidy();
                    return true;
                }
            }
        }
        false
    }

    /// Gives who lacks most an arc, or the end of one, of somebody who has too much.
    fn give_an_arc(&mut self) -> bool {
        let Some(taker) = (0..self.excess.len()).rev().min_by_key(|&index| self.excess[index]) else {
            return false;
        };
        let worth = |at: &usize| {
            let (giver, width) = self.arcs[*at];
            let amount = self.transferable(giver, taker, width);
            // An arc that goes whole leaves no border behind.
            (amount > 0, amount == width, amount)
        };
        let Some(at) = (0..self.arcs.len()).rev().max_by_key(worth).filter(|at| worth(at).0) else {
            return false;
        };
        let (giver, width) = self.arcs[at];
        let amount = self.transferable(giver, taker, width);
        self.transfer(giver, taker, amount);
        self.arcs[at].1 -= amount;
        self.arcs.insert(at + 1, (taker, amount));
        self.tidy();
        true
    }

    /// How much of an arc may go from one to another.
    fn transferable(&self, giver: usize, taker: usize, width: u32) -> u32 {
        let most = self.excess[giver].min(-self.excess[taker]).max(0);
        u32::try_from(most).unwrap_or(u32::MAX).min(width)
    }

    fn transfer(&mut self, giver: usize, taker: usize, amount: u32) {
        self.excess[giver] -= i64::from(amount);
        self.excess[taker] += i64::from(amount);
    }

    /// Drops empty arcs and joins neighbours of one owner.
    fn tidy(&mut self) {
        self.arcs.retain(|(_, width)| *width > 0);
        self.arcs.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
    }
}
