//! Objects between two processes: one that serves, and one that takes its place.
//!
//! Before the new process accepts, it says which version each object will belong to. From then on the old one begins no
//! request for an object that moves, says which of them are live, and says when each has ended. What does not move, both may
//! serve: at the same version.
//!
//! A later generation of the new process may give an object back to the version that it has in the old one. That may not
//! begin it all the same: the new process may still have it at the version in between, and nobody tells the old one when
//! that ends.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use super::domain::Domain;
use super::{Permit, Plan, Table};
use crate::config::Handover;
use crate::model::name::WorkerName;
use crate::model::ring::Ring;
use crate::model::share::Share;

/// Which version each object of a worker belongs to, as one process tells it another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    worker: String,
    /// In base64.
    salt: String,
    versions: Vec<String>,
    /// In thousandths of a per cent, by version.
    shares: Vec<u32>,
    /// Version and thousandths of a per cent, in the ring's order.
    arcs: Vec<(usize, u32)>,
    reset: bool,
    timeout_ms: u64,
}

/// A live object that moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveObject {
    worker: String,
    version: String,
    /// In base64.
    name: String,
}

impl Plan {
    pub(in crate::proxy) fn claim(&self) -> Claim {
        let arc = |arc: &crate::model::ring::Arc| (arc.member.index(), arc.to - arc.from);
        Claim {
            worker: self.worker.as_str().to_owned(),
            salt: STANDARD_NO_PAD.encode(self.ring.salt()),
            versions: self.versions.iter().map(|version| version.as_ref().to_owned()).collect(),
            shares: self.ring.shares().iter().map(|share| share.thousandths()).collect(),
            arcs: self.ring.arcs().iter().map(arc).collect(),
            reset: self.handover == Handover::Reset,
            timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// `None` where it makes no sense.
    fn claimed(claim: &Claim) -> Option<Self> {
        let shares: Option<Vec<_>> =
            claim.shares.iter().map(|&share| Share::from_thousandths(share)).collect();
        let arc = |&(version, share): &(usize, u32)| Some((version, Share::from_thousandths(share)?));
        let arcs: Option<Vec<_>> = claim.arcs.iter().map(arc).collect();
        let salt = STANDARD_NO_PAD.decode(&claim.salt).ok()?;
        let ring = Ring::with_arcs(&salt, &shares?, &arcs?).ok()?;
        if ring.shares().len() != claim.versions.len() {
            return None;
        }
        Some(Self {
            worker: WorkerName::new(&claim.worker).ok()?,
            versions: claim.versions.iter().map(|version| version.as_str().into()).collect(),
            ring,
            handover: if claim.reset { Handover::Reset } else { Handover::Drain },
            timeout: Duration::from_millis(claim.timeout_ms).min(LONGEST_TIMEOUT),
            nobody: "".into(),
        })
    }
}

/// As in the file.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// How many different claims are told apart: the new process makes one with each reload, for as long as this one drains.
const MOST_CLAIMS: usize = 64;

/// All that another process has claimed of a worker's objects.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    plans: Vec<Arc<Plan>>,
    /// There were more: nothing is known of any object.
    overflows: bool,
}

impl Claimed {
    /// What was claimed before, and one claim more.
    pub(super) fn with(before: Option<&Self>, plan: &Arc<Plan>) -> Self {
        let (mut plans, overflows) =
            before.map_or_else(Default::default, |before| (before.plans.clone(), before.overflows));
        let is_known = plans.iter().any(|known| known.ring == plan.ring && known.versions == plan.versions);
        let has_room = plans.len() < MOST_CLAIMS;
        if !is_known && has_room {
            plans.push(Arc::clone(plan));
        }
        Self { plans, overflows: overflows || !(is_known || has_room) }
    }

    /// Whether an object was claimed for this version and no other.
    pub(super) fn always(&self, name: &[u8], version: &Arc<str>) -> bool {
        !self.overflows && self.plans.iter().all(|plan| plan.owner(name) == version)
    }
}

/// A claim makes no sense to this process: it cannot see to its objects.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidClaim {
    worker: String,
}

impl fmt::Display for InvalidClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what is claimed for the objects of worker {:?} makes no sense", self.worker)
    }
}

impl std::error::Error for InvalidClaim {}

/// The old process's side.
#[derive(Debug)]
pub struct Fence {
    table: Arc<Table>,
}

/// A live object that moves to the new process.
#[derive(Debug)]
pub struct Leaving {
    object: LiveObject,
    domain: Arc<Domain>,
    name: Arc<[u8]>,
}

impl Leaving {
    /// What the new process is told.
    pub fn object(&self) -> &LiveObject {
        &self.object
    }

    /// Resolves when it has ended.
    pub async fn ended(self) {
        while let Some(ends) = self.domain.wait_for(&self.name) {
            ends.await;
        }
    }
}

impl Fence {
    pub(in crate::proxy) fn new(table: &Arc<Table>) -> Self {
        Self { table: Arc::clone(table) }
    }

    /// Whether any worker has objects, or had and some are live.
    pub fn has_objects(&self) -> bool {
        !self.table.domains().is_empty()
    }

    /// From now on objects belong to what the new process claims. Returns what is live and moves. A worker that has no
    /// objects here has none that are live.
    ///
    /// # Errors
    /// A claim makes no sense. Then nothing has changed.
    pub fn raise(&self, claims: &[Claim]) -> Result<Vec<Leaving>, InvalidClaim> {
        let now = Instant::now();
        let plan = |claim: &Claim| {
            let invalid = || InvalidClaim { worker: claim.worker.clone() };
            Plan::claimed(claim).map(Arc::new).ok_or_else(invalid)
        };
        let plans: Vec<_> = claims.iter().map(plan).collect::<Result<_, _>>()?;
        let mut all = Vec::new();
        for plan in plans {
            let Some(domain) = self.table.domains().get(&plan.worker).cloned() else { continue };
            let overdue = domain.yield_to(&plan, now);
            let moved = domain.moved();
            self.table.end_at(&domain, overdue, plan.due(now));
            all.extend(moved.into_iter().map(|moved| {
                let (worker, version) = (plan.worker.as_str().to_owned(), moved.version.as_ref().to_owned());
                let object = LiveObject { worker, version, name: STANDARD_NO_PAD.encode(&moved.name) };
                Leaving { object, domain: Arc::clone(&domain), name: moved.name }
            }));
        }
        Ok(all)
    }

    /// The new process does not come: objects belong to what serves here.
    pub fn lift(&self) {
        self.table.lift();
    }

    /// The new process serves: whoever waits here for an object that has moved is told to ask there.
    pub fn replaced(&self) {
        self.table.replaced();
    }
}

/// The new process's side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Arrivals(Arc<Table>);

/// An object that is live in another process, for as long as this lives.
#[derive(Debug)]
pub struct Elsewhere(#[expect(dead_code, reason = "it is there to be dropped")] Permit);

impl Arrivals {
    pub(in crate::proxy) fn new(table: &Arc<Table>) -> Self {
        Self(Arc::clone(table))
    }

    /// Notes that an object is live in another process. `None` where no worker here has such objects.
    pub fn enter(&self, object: &LiveObject) -> Option<Elsewhere> {
        let worker = WorkerName::new(&object.worker).ok()?;
        let name = STANDARD_NO_PAD.decode(&object.name).ok()?;
        let domain = self.0.domains().get(&worker).cloned()?;
        domain.enter(&name, &object.version).map(Elsewhere)
    }
}
