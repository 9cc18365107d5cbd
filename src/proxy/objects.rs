//! Objects: at no moment do two versions serve one of them.
//!
//! A worker with `[worker.objects]` names an object with each request, and the ring gives each object a version. This is the
//! process-wide table of the objects that are live, which only such workers' requests touch: a request takes a [`Permit`]
//! before it goes to its version, and a version gets an object only when the last permit of another has gone.
//!
//! A commit first brings the table to the new deployment, and only then the shards. A request that decided by an older one
//! takes its permit all the same where the object has not moved; else it waits until its shard has the new deployment, and
//! decides again. What is live and has moved is told to end (`drain`: when its time is up, `reset`: at once).

mod domain;
mod fence;
mod held;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::domain::Overdue;
pub(super) use self::domain::{Answer, Domain, Permit, Place};
pub use self::fence::{Arrivals, Claim, Elsewhere, Fence, InvalidClaim, Leaving, LiveObject};
pub(super) use self::held::{
    Held, Hold, Holders, Obstacle, Wait, Waiting, Within, acquire, cut, end_connection, end_cut, end_stream,
    see_off,
};
use crate::config::{Config, Handover};
use crate::metrics::{HandoverResult as Outcome, Registry};
use crate::model::deployment::Deployment;
use crate::model::name::WorkerName;
use crate::model::ring::Ring;

/// Which version each object of a worker belongs to, by one deployment; and what becomes of what is live when that changes.
#[derive(Debug)]
pub(super) struct Plan {
    worker: WorkerName,
    versions: Vec<Arc<str>>,
    ring: Ring,
    pub(super) handover: Handover,
    pub(super) timeout: Duration,
    /// What an object of no version has: there is none, as a ring has no member without a version.
    nobody: Arc<str>,
}

impl Plan {
    pub(super) fn new(
        worker: &WorkerName,
        deployment: &Deployment,
        handover: Handover,
        timeout: Duration,
    ) -> Self {
        let versions = deployment.versions.iter().map(|id| id.as_str().into()).collect();
        let (worker, ring) = (worker.clone(), deployment.ring.clone());
        Self { worker, versions, ring, handover, timeout, nobody: "".into() }
    }

    /// The version that an object belongs to.
    pub(super) fn owner(&self, name: &[u8]) -> &Arc<str> {
        let member = self.ring.owner(self.ring.position(name));
        self.versions.get(member.index()).unwrap_or(&self.nobody)
    }

    /// When what is live at another version has to end, where it has to move now.
    fn due(&self, now: Instant) -> Instant {
        match self.handover {
            Handover::Drain => now + self.timeout,
            Handover::Reset => now,
        }
    }
}

/// A worker's objects as a blueprint has them.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    pub(super) domain: Arc<Domain>,
    pub(super) plan: Arc<Plan>,
}

/// What all workers' objects have in common.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// Requests that wait.
    waiting: AtomicUsize,
    /// Whether another process serves in this one's place.
    replaced: AtomicBool,
    /// Tells those that wait because they decided by something else than the table.
    changed: Arc<Notify>,
    /// Tells all shards that something was cut.
    cuts: Notify,
}

impl Common {
    fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// Resolves when something was cut after the future was made.
    pub(super) fn cuts(&self) -> tokio::sync::futures::Notified<'_> {
        self.cuts.notified()
    }
}

/// How often it is looked whether all objects are free, when the process ends.
const LOOK: Duration = Duration::from_millis(5);

/// The objects of all workers. One for each process: it goes on over reloads.
#[derive(Debug, Default)]
pub(super) struct Table {
    common: Arc<Common>,
    domains: Mutex<HashMap<WorkerName, Arc<Domain>>>,
    /// What was installed last.
    current: Mutex<Vec<Option<Objects>>>,
    /// Cut what is live of moved objects when its time is up.
    timers: Mutex<JoinSet<()>>,
}

impl Table {
    /// What tells shards that something was cut.
    pub(super) fn cuts(&self) -> &Arc<Common> {
        &self.common
    }

    /// The objects of each worker of a configuration, in its order. Changes nothing that serves.
    pub(super) fn of_all(&self, config: &Config, registry: &Registry) -> Vec<Option<Objects>> {
        let of = |worker: &crate::config::Worker| {
            let settings = worker.objects.as_ref()?;
            let name = &worker.policy.name;
            let mut domains = self.domains();
            let domain = domains
                .entry(name.clone())
                .or_insert_with(|| Arc::new(Domain::new(&self.common, registry.objects(name))));
            let plan = Plan::new(name, &worker.policy.deployment, settings.handover, settings.timeout);
            Some(Objects { domain: Arc::clone(domain), plan: Arc::new(plan) })
        };
        config.workers.iter().map(of).collect()
    }

    /// The deployments of a configuration hold from now on. To be called before any shard serves it, within a runtime that
    /// goes on, and cuts what has to end later.
    pub(super) fn install(&self, objects: &[Option<Objects>]) {
        let now = Instant::now();
        let mut domains = self.domains();
        let newest = |domain: &Arc<Domain>| {
            objects.iter().flatten().find(|objects| Arc::ptr_eq(&objects.domain, domain))
        };
        for Objects { domain, plan } in objects.iter().flatten() {
            domains.entry(plan.worker.clone()).or_insert_with(|| Arc::clone(domain));
        }
        for domain in domains.values() {
            let plan = newest(domain).map(|objects| &objects.plan);
            let overdue = domain.install(plan, now);
            if let Some(plan) = plan
                && !overdue.is_empty()
            {
                self.end_at(domain, overdue, plan.due(now));
            }
        }
        domains.retain(|_, domain| newest(domain).is_some() || !domain.is_empty());
        drop(domains);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = objects.to_vec();
    }

    /// What was installed last holds again, after another process had claimed objects.
    fn lift(&self) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.install(&current);
        self.common.changed.notify_waiters();
    }

    /// Another process serves in this one's place, and has the objects that it has claimed.
    fn replaced(&self) {
        self.common.replaced.store(true, Ordering::Release);
        self.common.changed.notify_waiters();
    }

    /// The process ends: cuts whatever is live, and waits until the upstreams have seen that, or have had the time to.
    pub(super) async fn end(&self) {
        let all: Vec<_> = self.domains().values().cloned().collect();
        all.iter().for_each(|domain| domain.end());
        self.common.cuts.notify_waiters();
        let ended = async {
            while all.iter().any(|domain| !domain.is_empty()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(2 * held::SEEN, ended).await;
    }

    /// Cuts what has not ended at its time.
    fn end_at(&self, domain: &Arc<Domain>, overdue: Vec<Overdue>, due: Instant) {
        let (common, domain) = (Arc::clone(&self.common), Arc::clone(domain));
        let end = move |now| {
            if domain.cut(&overdue, now) {
                common.cuts.notify_waiters();
            }
        };
        if due <= Instant::now() {
            return end(Instant::now());
        }
        let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
        while timers.try_join_next().is_some() {}
        timers.spawn(async move {
            tokio::time::sleep_until(due.into()).await;
            end(Instant::now());
        });
    }

    /// A panic of another holder leaves a map that is still whole: each change of it is one call.
    fn domains(&self) -> MutexGuard<'_, HashMap<WorkerName, Arc<Domain>>> {
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
