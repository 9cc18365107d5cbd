//! Counters and histograms by worker and version, and their Prometheus text.
//!
//! Every shard has recorders of its own and is their only writer, so recording is a load, an addition and a store, without
//! locked instructions; a scrape reads all shards' recorders and adds them up. The registry itself is locked only when a
//! snapshot is built or scraped. A version that left the deployment keeps its series, so that counters never go back, until
//! a hundred others have left after it: else they would grow with every deployment.

mod limits;
mod objects;
mod series;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use limits::Limit;
pub use objects::{HandoverResult, ObjectSeries};
pub use series::{AssetRequest, Retry, VersionSeries, WorkerSeries};

use crate::model::name::{VersionId, WorkerName};
use crate::model::share::Share;

/// All series of one process.
#[derive(Debug, Default)]
pub struct Registry {
    recorders: Mutex<Recorders>,
    reloads: [AtomicU64; 2],
    upgrades: [AtomicU64; 3],
    checks: Mutex<Checks>,
    ejections: Mutex<Ejections>,
    objects: Mutex<Objects>,
    limited: limits::Limited,
    panics: AtomicU64,
}

/// The series of each worker that has objects.
type Objects = BTreeMap<WorkerName, Arc<ObjectSeries>>;

/// What came of a binary upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeResult {
    /// A new process serves.
    Success,
    /// The new process did not become ready.
    Failure,
    /// No process was started.
    Refused,
}

impl UpgradeResult {
    /// The word for it in labels and JSON.
    pub fn as_str(self) -> &'static str {
        ["success", "failure", "refused"][self as usize]
    }
}

/// Health checks of each upstream: those that failed, those that did not.
type Checks = BTreeMap<(WorkerName, VersionId, String), [u64; 2]>;
/// How often each upstream was ejected.
type Ejections = BTreeMap<(WorkerName, VersionId, String), u64>;

/// What is counted of the process as a whole.
struct Process<'a> {
    /// Failures, successes.
    reloads: [u64; 2],
    /// In the order of [`UpgradeResult`]'s variants.
    upgrades: [u64; 3],
    limited: &'a limits::Limited,
    panics: u64,
    checks: &'a Checks,
    ejections: &'a Ejections,
    objects: &'a Objects,
}

/// The recorders of all shards, in the order in which they are written out.
#[derive(Debug, Default)]
struct Recorders {
    versions: BTreeMap<Labels, ByShard<VersionSeries>>,
    workers: BTreeMap<WorkerName, ByShard<WorkerSeries>>,
    /// The versions that no shard holds any more, neither in what serves nor for a request, in the order in which they were
    /// found so.
    retired: Vec<Labels>,
}

/// A worker and a version; `None`: requests that reached none.
type Labels = (Option<WorkerName>, Option<VersionId>);

/// How many versions keep their series when nobody holds them any more.
const RETIRED: usize = 100;

type ByShard<T> = BTreeMap<usize, Arc<T>>;

/// Values that are facts of the moment and not counted: set anew at each commit, read at each scrape.
#[derive(Debug, Default, Clone)]
pub struct Gauges {
    /// The number of the running generation.
    pub generation: u64,
    /// Each active deployment's shares.
    pub shares: Vec<(WorkerName, VersionId, Share)>,
    /// Every version in use, and whether any of its upstreams is healthy.
    pub versions: Vec<(WorkerName, VersionId, bool)>,
    /// Every upstream in use, and whether it is healthy (true until known otherwise).
    pub upstreams: Vec<(WorkerName, VersionId, String, bool)>,
    /// Every upstream in use, and whether any of its addresses is ejected.
    pub ejected: Vec<(WorkerName, VersionId, String, bool)>,
    /// What is under way on versions that have left their worker's deployment: requests and tunnels together.
    pub retired: Vec<(WorkerName, VersionId, u64)>,
    /// Access log lines that were dropped because the log could not keep up.
    pub log_dropped: u64,
}

/// Failures of a version's upstreams, or of another version's, that clients did not see, or only once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spared {
    /// Requests that were sent a second time, or should have been, in the order of [`Retry`]'s variants.
    pub retries: [u64; 3],
    /// Requests that came because their own version is down (`reason=failover`).
    pub failovers: u64,
}

/// What is under way on a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// The version's worker.
    pub worker: WorkerName,
    /// The version.
    pub version: VersionId,
    /// Requests that are no tunnels.
    pub requests: u64,
    /// Tunnels: WebSockets, and whatever else a connection or stream was upgraded to.
    pub tunnels: u64,
}

impl Registry {
    /// One shard's recorder for a version; the same one for the same arguments.
    pub fn version(&self, shard: usize, worker: &WorkerName, version: &VersionId) -> Arc<VersionSeries> {
        self.recorder(shard, Some(worker), Some(version))
    }

    /// One shard's recorder for requests that reached no version of a worker, or (`None`) no worker.
    pub fn unversioned(&self, shard: usize, worker: Option<&WorkerName>) -> Arc<VersionSeries> {
        self.recorder(shard, worker, None)
    }

    /// What is under way on each version, of those on which anything is; in alphabetical order.
    pub fn under_way(&self) -> Vec<UnderWay> {
        let recorders = self.lock();
        let of = |((worker, version), shards): (&Labels, &ByShard<VersionSeries>)| {
            let (requests, tunnels) = shards.values().fold((0, 0), |sum, series| {
                let (requests, tunnels) = series.under_way();
                (sum.0 + requests, sum.1 + tunnels)
            });
            let (worker, version) = (worker.clone()?, version.clone()?);
            (requests + tunnels > 0).then_some(UnderWay { worker, version, requests, tunnels })
        };
        recorders.versions.iter().filter_map(of).collect()
    }

    /// What a version's requests were spared, and what it spared those of others, since the start of the process.
    pub fn spared(&self, worker: &WorkerName, version: &VersionId) -> Spared {
        let recorders = self.lock();
        let labels = (Some(worker.clone()), Some(version.clone()));
        let mut spared = Spared::default();
        for series in recorders.versions.get(&labels).into_iter().flat_map(BTreeMap::values) {
            for (sum, counter) in spared.retries.iter_mut().zip(&series.retries) {
                *sum = sum.wrapping_add(counter.get());
            }
            spared.failovers = spared.failovers.wrapping_add(series.failovers());
        }
        spared
    }

    fn recorder(
        &self,
        shard: usize,
        worker: Option<&WorkerName>,
        version: Option<&VersionId>,
    ) -> Arc<VersionSeries> {
        let labels = (worker.cloned(), version.cloned());
        let mut recorders = self.lock();
        let forgotten =
            if recorders.versions.contains_key(&labels) { Vec::new() } else { recorders.forget() };
        let recorder = Arc::clone(recorders.versions.entry(labels).or_default().entry(shard).or_default());
        drop(recorders);
        if !forgotten.is_empty() {
            let is_known = |(worker, version): (&WorkerName, &VersionId)| {
                !forgotten.contains(&(Some(worker.clone()), Some(version.clone())))
            };
            let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
            checks.retain(|(worker, version, _), _| is_known((worker, version)));
            drop(checks);
            let mut ejections = self.ejections.lock().unwrap_or_else(PoisonError::into_inner);
            ejections.retain(|(worker, version, _), _| is_known((worker, version)));
        }
        recorder
    }

    /// One shard's recorder for a worker.
    pub fn worker(&self, shard: usize, worker: &WorkerName) -> Arc<WorkerSeries> {
        Arc::clone(self.lock().workers.entry(worker.clone()).or_default().entry(shard).or_default())
    }

    /// The series of a worker's objects, of all shards; the same one for the same worker.
    pub fn objects(&self, worker: &WorkerName) -> Arc<ObjectSeries> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(objects.entry(worker.clone()).or_default())
    }

    /// Counts a reload.
    pub fn reloaded(&self, succeeded: bool) {
        self.reloads[usize::from(succeeded)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that a client met a bound.
    pub fn limited(&self, limit: Limit) {
        self.limited.count(limit);
    }

    /// Counts a binary upgrade.
    pub fn upgraded(&self, result: UpgradeResult) {
        self.upgrades[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Binary upgrades so far, in the order of [`UpgradeResult`]'s variants.
    pub fn upgrades(&self) -> [u64; 3] {
        std::array::from_fn(|at| self.upgrades[at].load(Ordering::Relaxed))
    }

    /// Goes on with the counts of the process before.
    pub fn upgrades_before(&self, counts: [u64; 3]) {
        for (counter, count) in self.upgrades.iter().zip(counts) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Counts a health check of an upstream. Not for the data plane: it takes a lock.
    pub fn checked(&self, worker: &WorkerName, version: &VersionId, upstream: &str, succeeded: bool) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = (worker.clone(), version.clone(), upstream.to_owned());
        checks.entry(labels).or_default()[usize::from(succeeded)] += 1;
    }

    /// Counts that an upstream was ejected. Takes a lock: this is seldom, and never for a request that goes well.
    pub fn ejected(&self, worker: &WorkerName, version: &VersionId, upstream: &str) {
        let mut ejections = self.ejections.lock().unwrap_or_else(PoisonError::into_inner);
        *ejections.entry((worker.clone(), version.clone(), upstream.to_owned())).or_default() += 1;
    }

    /// Counts a request that was lost to a panic.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything in the Prometheus text format, version 0.0.4. Series that never counted anything are left out; of the
    /// gauges none is. The same state gives the same text.
    pub fn render(&self, gauges: &Gauges) -> String {
        let reloads = [self.reloads[0].load(Ordering::Relaxed), self.reloads[1].load(Ordering::Relaxed)];
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        // A shard may be about to count one, and must not wait for the whole page.
        let ejections = self.ejections.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let process = Process {
            reloads,
            upgrades: self.upgrades(),
            limited: &self.limited,
            panics: self.panics.load(Ordering::Relaxed),
            checks: &checks,
            ejections: &ejections,
            objects: &objects,
        };
        text::render(&self.lock(), &process, gauges)
    }

    /// A panic of another holder leaves maps that are still whole: each change of them is one call.
    fn lock(&self) -> MutexGuard<'_, Recorders> {
        self.recorders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorders {
    /// Lets go of the versions that were the first to be held by nobody, but for the last [`RETIRED`]; and returns which
    /// they are. To be called when a new one comes.
    fn forget(&mut self) -> Vec<Labels> {
        // Whoever holds a recorder has it from here: what nobody holds cannot be taken up during this call.
        let is_held = |shards: &ByShard<_>| shards.values().any(|one| Arc::strong_count(one) > 1);
        let mut retired = std::mem::take(&mut self.retired);
        retired.retain(|labels| self.versions.get(labels).is_some_and(|shards| !is_held(shards)));
        for (labels, shards) in &self.versions {
            if labels.1.is_some() && !is_held(shards) && !retired.contains(labels) {
                retired.push(labels.clone());
            }
        }
        let forgotten: Vec<_> = retired.drain(..retired.len().saturating_sub(RETIRED)).collect();
        forgotten.iter().for_each(|labels| drop(self.versions.remove(labels)));
        self.retired = retired;
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decision::Reason;
    use crate::model::overrides::OverrideProblem;
    use std::time::Duration;

    fn worker() -> WorkerName {
        WorkerName::new("shop").unwrap()
    }

    fn version(id: &str) -> VersionId {
        VersionId::new(id).unwrap()
    }

    fn gauges() -> Gauges {
        let half = Share::from_thousandths(12_500).unwrap();
        let rest = Share::from_thousandths(87_500).unwrap();
        Gauges {
            generation: 3,
            shares: vec![(worker(), version("v2"), half), (worker(), version("v1"), rest)],
            versions: vec![(worker(), version("v1"), true), (worker(), version("v2"), false)],
            upstreams: vec![
                (worker(), version("v1"), "http://127.0.0.1:3001".into(), true),
                (worker(), version("v1"), "http://127.0.0.1:3001".into(), true),
                (worker(), version("v2"), "unix:/odd\"path\\\n".into(), false),
            ],
            ejected: vec![
                (worker(), version("v1"), "http://127.0.0.1:3001".into(), true),
                (worker(), version("v1"), "http://127.0.0.1:3001".into(), true),
                (worker(), version("v2"), "http://127.0.0.1:3001".into(), false),
            ],
            retired: vec![(worker(), version("v0"), 3)],
            log_dropped: 7,
        }
    }

    #[test]
    fn all_shards_recorders_are_added_up_into_the_golden_text() {
        let registry = Registry::default();
        let (a, b) =
            (registry.version(0, &worker(), &version("v1")), registry.version(1, &worker(), &version("v1")));
        a.request(Some(Reason::Key), 200, Duration::from_micros(900));
        b.request(Some(Reason::Key), 204, Duration::from_millis(3));
        b.request(Some(Reason::Override), 101, Duration::from_secs(3600));
        b.asset_miss(false);
        a.asset_miss(true);
        let (one, other) = (registry.worker(0, &worker()), registry.worker(1, &worker()));
        for result in [AssetRequest::Hit, AssetRequest::Miss, AssetRequest::Failure, AssetRequest::Budget] {
            one.asset_asked(result);
        }
        other.asset_asked(AssetRequest::Hit);
        registry.version(0, &worker(), &version("v2")).request(
            Some(Reason::Random),
            502,
            Duration::from_millis(1),
        );
        registry.unversioned(1, Some(&worker())).request(None, 400, Duration::ZERO);
        registry.unversioned(1, None).request(None, 404, Duration::ZERO);
        registry.worker(0, &worker()).overridden(None);
        registry.worker(1, &worker()).overridden(Some(OverrideProblem::NotInDeployment));
        registry.worker(1, &worker()).rule_value_dropped();
        let failover = registry.version(1, &worker(), &version("v1"));
        failover.request(Some(Reason::Failover), 200, Duration::from_micros(900));
        for succeeded in [true, false, true] {
            registry.checked(&worker(), &version("v1"), "http://127.0.0.1:3001", succeeded);
            registry.ejected(&worker(), &version("v1"), "http://127.0.0.1:3001");
        }
        for result in [Retry::Success, Retry::Success, Retry::Failure, Retry::Budget] {
            b.retried(result);
        }
        a.shed();
        a.retired();
        registry.reloaded(true);
        registry.reloaded(false);
        registry.reloaded(true);
        registry.upgrades_before([1, 0, 2]);
        registry.upgraded(UpgradeResult::Failure);
        registry.upgraded(UpgradeResult::Success);
        registry.limited(Limit::MinRate);
        registry.limited(Limit::HeaderCount);
        registry.limited(Limit::MinRate);
        registry.panicked();
        let objects = registry.objects(&worker());
        objects.lives(true);
        [true, true, true, false].into_iter().for_each(|waits| objects.waits(waits));
        HandoverResult::ALL.into_iter().for_each(|result| objects.handed_over(result));
        objects.refused();
        let golden = include_str!("metrics/golden.txt").replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert_eq!(registry.render(&gauges()), golden);
    }

    #[test]
    fn series_that_never_counted_anything_are_left_out() {
        let registry = Registry::default();
        registry.version(0, &worker(), &version("v1"));
        registry.worker(0, &worker());
        let text = registry.render(&Gauges::default());
        assert!(!text.contains("shop") && !text.contains("gradual_requests_total"), "{text}");
        assert!(text.contains("gradual_config_generation 0\n"));
        assert!(text.contains("gradual_access_log_dropped_total 0\n"));
    }

    /// Whether any counter of a version is in the text.
    fn mentions(registry: &Registry, version: &str) -> bool {
        registry.render(&Gauges::default()).contains(&format!("version=\"{version}\""))
    }

    /// A version that is deployed, serves one request, and is checked once.
    fn deployed(registry: &Registry, id: &str) -> Arc<VersionSeries> {
        let series = registry.version(0, &worker(), &version(id));
        series.request(None, 200, Duration::ZERO);
        registry.checked(&worker(), &version(id), "http://127.0.0.1:3001", true);
        registry.ejected(&worker(), &version(id), "http://127.0.0.1:3001");
        series
    }

    #[test]
    fn of_the_versions_that_nobody_holds_only_the_last_hundred_keep_their_series() {
        let registry = Registry::default();
        let in_use = deployed(&registry, "in-use");
        for number in 0..300 {
            drop(deployed(&registry, &format!("v{number}")));
        }
        registry.version(0, &worker(), &version("next"));
        let known: Vec<_> = (0..300).filter(|number| mentions(&registry, &format!("v{number}"))).collect();
        assert_eq!(known, (200..300).collect::<Vec<_>>());
        assert_eq!(registry.checks.lock().unwrap().len(), RETIRED + 1);
        assert_eq!(registry.ejections.lock().unwrap().len(), RETIRED + 1);
        // What is held has never been forgotten, and counts on.
        in_use.request(None, 200, Duration::ZERO);
        let counted = r#"gradual_requests_total{worker="shop",version="in-use",reason="",status="2xx"} 2"#;
        assert!(registry.render(&Gauges::default()).contains(counted));
    }

    #[test]
    fn what_was_spared_is_counted_over_all_shards_and_for_its_version_alone() {
        let registry = Registry::default();
        for shard in 0..2 {
            let series = registry.version(shard, &worker(), &version("v1"));
            series.retried(Retry::Success);
            series.request(Some(Reason::Failover), 200, Duration::ZERO);
            series.request(Some(Reason::Failover), 503, Duration::ZERO);
            series.request(Some(Reason::Key), 200, Duration::ZERO);
        }
        registry.version(1, &worker(), &version("v1")).retried(Retry::Budget);
        assert_eq!(registry.spared(&worker(), &version("v1")), Spared { retries: [2, 0, 1], failovers: 4 });
        assert_eq!(registry.spared(&worker(), &version("v2")), Spared::default());
    }

    #[test]
    fn a_version_that_came_back_is_among_the_last_to_have_left() {
        let registry = Registry::default();
        drop(deployed(&registry, "back"));
        for number in 0..60 {
            drop(deployed(&registry, &format!("a{number}")));
        }
        let back = deployed(&registry, "back");
        drop(deployed(&registry, "between"));
        drop(back);
        for number in 0..60 {
            drop(deployed(&registry, &format!("b{number}")));
        }
        assert!(mentions(&registry, "back") && !mentions(&registry, "a0"));
    }

    #[test]
    fn requests_without_a_version_are_never_forgotten() {
        let registry = Registry::default();
        registry.unversioned(0, Some(&worker())).request(None, 400, Duration::ZERO);
        registry.unversioned(0, None).request(None, 404, Duration::ZERO);
        for number in 0..150 {
            drop(deployed(&registry, &format!("v{number}")));
        }
        let text = registry.render(&Gauges::default());
        assert!(text.contains(r#"worker="shop",version="",reason="",status="4xx"} 1"#), "{text}");
        assert!(text.contains(r#"worker="",version="",reason="",status="4xx"} 1"#), "{text}");
    }

    #[test]
    fn the_same_arguments_give_the_same_recorder() {
        let registry = Registry::default();
        let first = registry.version(0, &worker(), &version("v1"));
        assert!(Arc::ptr_eq(&first, &registry.version(0, &worker(), &version("v1"))));
        assert!(!Arc::ptr_eq(&first, &registry.version(1, &worker(), &version("v1"))));
        assert!(Arc::ptr_eq(&registry.unversioned(0, None), &registry.unversioned(0, None)));
        assert!(Arc::ptr_eq(&registry.worker(0, &worker()), &registry.worker(0, &worker())));
    }

    #[test]
    fn every_sample_belongs_to_a_family_that_is_introduced_once() {
        let registry = Registry::default();
        registry.version(0, &worker(), &version("v1")).request(None, 200, Duration::ZERO);
        let text = registry.render(&gauges());
        let mut families = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                families.push(rest.split(' ').next().unwrap().to_owned());
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert!(families.last().is_some_and(|family| name.starts_with(family)), "{line}");
            }
        }
        let count = families.len();
        families.sort();
        families.dedup();
        assert_eq!(families.len(), count);
    }
}
