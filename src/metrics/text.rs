//! The Prometheus text exposition format, version 0.0.4.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::atomic::Ordering;

use crate::model::decision::Reason;
use crate::model::name::{VersionId, WorkerName};
use crate::model::overrides::OverrideProblem;

use super::limits::{Limit, Limited};
use super::objects::HandoverResult;
use super::series::{ASSET_REQUESTS, BOUNDS, CLASSES, Counter, REASONS, RESULTS, RETRIES, VersionSeries};
use super::{ByShard, Checks, Ejections, Gauges, Objects, Process, Recorders, UpgradeResult};

/// All families, always in the same order.
pub(super) fn render(recorders: &Recorders, process: &Process<'_>, gauges: &Gauges) -> String {
    let mut page = Page::default();
    page.build_info();
    page.requests(recorders);
    page.durations(recorders);
    page.misses(recorders);
    page.asset_requests(recorders);
    page.retries(recorders);
    page.overrides(recorders);
    page.rules(recorders);
    page.process(process.reloads, gauges);
    page.upgrades(process.upgrades);
    page.limits(process.limited);
    page.panics(process.panics);
    page.shares(gauges);
    page.versions(gauges);
    page.retired(gauges);
    page.upstreams(gauges);
    page.checks(process.checks);
    page.ejections(process.ejections, gauges);
    page.objects(process.objects);
    page.text
}

/// The text so far, and the family that is to be introduced before its first sample.
#[derive(Default)]
struct Page {
    text: String,
    pending: Option<Family>,
}

/// A family of series.
#[derive(Clone, Copy)]
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

/// An upstream as [`Gauges`] has it.
type Upstream = (WorkerName, VersionId, String, bool);

/// Names and values of labels, in order.
type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    fn build_info(&mut self) {
        self.family(
            "gradual_build_info",
            "gauge",
            "Always 1; the label says which version of the proxy runs.",
        );
        self.sample("gradual_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    }

    fn requests(&mut self, recorders: &Recorders) {
        const NAME: &str = "gradual_requests_total";
        self.family(
            NAME,
            "counter",
            "Requests whose response has ended, by the status that the client was sent.",
        );
        for ((worker, version), shards) in &recorders.versions {
            let of = labels(worker.as_ref(), version.as_ref());
            for (at, reason) in reasons().into_iter().enumerate() {
                for (class, status) in CLASSES.into_iter().enumerate() {
                    let labels = [&of[..], &[("reason", reason), ("status", status)]].concat();
                    self.counted(NAME, &labels, sum(shards, |series| &series.requests[at][class]));
                }
            }
        }
    }

    fn durations(&mut self, recorders: &Recorders) {
        const NAME: &str = "gradual_request_duration_seconds";
        self.family(NAME, "histogram", "From a request's head to the end of its response.");
        for ((worker, version), shards) in &recorders.versions {
            self.histogram(NAME, &labels(worker.as_ref(), version.as_ref()), shards);
        }
    }

    fn histogram(&mut self, name: &str, labels: Labels<'_>, shards: &ByShard<VersionSeries>) {
        let counts: Vec<u64> =
            (0..=BOUNDS.len()).map(|at| sum(shards, |series| &series.buckets[at])).collect();
        let count: u64 = counts.iter().sum();
        if count == 0 {
            return;
        }
        let bounds = BOUNDS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, here) in bounds.zip(&counts) {
            below += here;
            self.sample(&bucket, &[labels, &[("le", bound)]].concat(), below);
        }
        let micros = sum(shards, |series| &series.micros);
        let seconds = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        self.sample(&format!("{name}_sum"), labels, seconds);
        self.sample(&format!("{name}_count"), labels, count);
    }

    fn misses(&mut self, recorders: &Recorders) {
        const NAME: &str = "gradual_asset_misses_total";
        self.family(
            NAME,
            "counter",
            "Scripts, styles, images, fonts and other assets that a version has not got.",
        );
        for ((worker, version), shards) in &recorders.versions {
            let of = labels(worker.as_ref(), version.as_ref());
            for (at, rescued) in ["false", "true"].into_iter().enumerate() {
                let labels = [&of[..], &[("rescued", rescued)]].concat();
                self.counted(NAME, &labels, sum(shards, |series| &series.misses[at]));
            }
        }
    }

    fn asset_requests(&mut self, recorders: &Recorders) {
        const NAME: &str = "gradual_asset_requests_total";
        self.family(
            NAME,
            "counter",
            "Assets asked of another version than the request's own, and what came of that.",
        );
        for (worker, shards) in &recorders.workers {
            for (at, result) in ASSET_REQUESTS.into_iter().enumerate() {
                let labels = [("worker", worker.as_str()), ("result", result)];
                self.counted(NAME, &labels, sum(shards, |series| &series.assets_asked[at]));
            }
        }
    }

    fn retries(&mut self, recorders: &Recorders) {
        const NAME: &str = "gradual_upstream_retries_total";
        self.family(
            NAME,
            "counter",
            "Requests whose first attempt failed in a way that allows a second, and what came of that.",
        );
        for ((worker, version), shards) in &recorders.versions {
            let of = labels(worker.as_ref(), version.as_ref());
            for (at, result) in RETRIES.into_iter().enumerate() {
                let labels = [&of[..], &[("result", result)]].concat();
                self.counted(NAME, &labels, sum(shards, |series| &series.retries[at]));
            }
        }
        self.of_versions(
            recorders,
            "gradual_upstream_shed_total",
            "Requests refused because their upstream has as many connections and waiting requests as it may have.",
            |series| &series.shed,
        );
        self.of_versions(
            recorders,
            "gradual_retired_ended_total",
            "Requests and tunnels ended because their version had left the deployment.",
            |series| &series.retired,
        );
    }

    /// A counter that each version has one of.
    fn of_versions(
        &mut self,
        recorders: &Recorders,
        name: &'static str,
        help: &'static str,
        counter: impl Fn(&VersionSeries) -> &Counter,
    ) {
        self.family(name, "counter", help);
        for ((worker, version), shards) in &recorders.versions {
            let of = labels(worker.as_ref(), version.as_ref());
            self.counted(name, &of, sum(shards, &counter));
        }
    }

    fn overrides(&mut self, recorders: &Recorders) {
        const NAME: &str = "gradual_overrides_total";
        self.family(NAME, "counter", "Overrides that named a worker, and what became of them.");
        for (worker, shards) in &recorders.workers {
            for (at, result) in results().into_iter().enumerate() {
                let count = sum(shards, |series| &series.overrides[at]);
                self.counted(NAME, &[("worker", worker.as_str()), ("result", result)], count);
            }
        }
    }

    fn rules(&mut self, recorders: &Recorders) {
        const NAME: &str = "gradual_rule_values_dropped_total";
        self.family(
            NAME,
            "counter",
            "Headers that a rule removed because its value for them is none that HTTP allows.",
        );
        for (worker, shards) in &recorders.workers {
            self.counted(
                NAME,
                &[("worker", worker.as_str())],
                sum(shards, |series| &series.rule_values_dropped),
            );
        }
    }

    fn upgrades(&mut self, counts: [u64; 3]) {
        const NAME: &str = "gradual_upgrades_total";
        self.family(NAME, "counter", "Binary upgrades, those of the processes before this one included.");
        let results = [UpgradeResult::Success, UpgradeResult::Failure, UpgradeResult::Refused];
        for (result, count) in results.into_iter().zip(counts) {
            self.counted(NAME, &[("result", result.as_str())], count);
        }
    }

    fn process(&mut self, [failures, successes]: [u64; 2], gauges: &Gauges) {
        const RELOADS: &str = "gradual_reloads_total";
        self.family(RELOADS, "counter", "Reloads of the configuration.");
        self.counted(RELOADS, &[("result", "success")], successes);
        self.counted(RELOADS, &[("result", "failure")], failures);
        const GENERATION: &str = "gradual_config_generation";
        self.family(
            GENERATION,
            "gauge",
            "The number of the running generation; grows by one with each commit.",
        );
        self.sample(GENERATION, &[], gauges.generation);
        const DROPPED: &str = "gradual_access_log_dropped_total";
        self.family(DROPPED, "counter", "Access log lines dropped because the log could not keep up.");
        self.sample(DROPPED, &[], gauges.log_dropped);
    }

    fn limits(&mut self, limited: &Limited) {
        const NAME: &str = "gradual_limited_total";
        self.family(NAME, "counter", "Clients that met a bound, by its key in [limits].");
        for limit in Limit::ALL {
            self.counted(NAME, &[("limit", limit.as_str())], limited.get(limit));
        }
    }

    fn panics(&mut self, panics: u64) {
        const NAME: &str = "gradual_panics_total";
        self.family(
            NAME,
            "counter",
            "Requests lost to a panic: a mistake of the proxy itself, to be reported.",
        );
        self.sample(NAME, &[], panics);
    }

    fn shares(&mut self, gauges: &Gauges) {
        const NAME: &str = "gradual_deployment_percentage";
        self.family(NAME, "gauge", "Each version's share in its worker's active deployment, in per cent.");
        for (worker, version, share) in &gauges.shares {
            self.sample(NAME, &[("worker", worker.as_str()), ("version", version.as_str())], share);
        }
    }

    fn versions(&mut self, gauges: &Gauges) {
        const NAME: &str = "gradual_version_up";
        self.family(NAME, "gauge", "Whether any of a version's upstreams is healthy.");
        for (worker, version, up) in &gauges.versions {
            let labels = [("worker", worker.as_str()), ("version", version.as_str())];
            self.sample(NAME, &labels, u8::from(*up));
        }
    }

    fn checks(&mut self, checks: &Checks) {
        const NAME: &str = "gradual_health_checks_total";
        self.family(NAME, "counter", "Active health checks, by what came of them.");
        for ((worker, version, upstream), [failures, successes]) in checks {
            let of = of(worker, version, upstream);
            for (result, count) in [("success", successes), ("failure", failures)] {
                self.counted(NAME, &[&of[..], &[("result", result)]].concat(), *count);
            }
        }
    }

    fn ejections(&mut self, ejections: &Ejections, gauges: &Gauges) {
        let help = "Whether an upstream gets no requests because it failed too many.";
        self.of_upstreams("gradual_upstream_ejected", help, &gauges.ejected);
        const NAME: &str = "gradual_upstream_ejections_total";
        self.family(
            NAME,
            "counter",
            "How often an upstream was ejected because it failed too many requests.",
        );
        for ((worker, version, upstream), count) in ejections {
            self.sample(NAME, &of(worker, version, upstream), count);
        }
    }

    fn retired(&mut self, gauges: &Gauges) {
        const NAME: &str = "gradual_retired_streams";
        let help = "Requests and tunnels under way on a version that has left its worker's deployment.";
        self.family(NAME, "gauge", help);
        for (worker, version, count) in &gauges.retired {
            self.sample(NAME, &[("worker", worker.as_str()), ("version", version.as_str())], count);
        }
    }

    fn upstreams(&mut self, gauges: &Gauges) {
        let help = "Whether an upstream is healthy; 1 until known otherwise.";
        self.of_upstreams("gradual_upstream_healthy", help, &gauges.upstreams);
    }

    /// A gauge of what is so or not of each upstream.
    fn of_upstreams(&mut self, name: &'static str, help: &'static str, all: &[Upstream]) {
        self.family(name, "gauge", help);
        let mut seen = BTreeSet::new();
        for (worker, version, upstream, is_so) in all {
            // A version may list an upstream twice; a series may stand on a page only once.
            if seen.insert((worker, version, upstream)) {
                self.sample(name, &of(worker, version, upstream), u8::from(*is_so));
            }
        }
    }

    fn objects(&mut self, objects: &Objects) {
        const LIVE: &str = "gradual_objects_live";
        self.family(LIVE, "gauge", "Objects that have a request or tunnel under way.");
        for (worker, series) in objects {
            self.sample(LIVE, &[("worker", worker.as_str())], series.live.load(Ordering::Relaxed));
        }
        const WAITING: &str = "gradual_objects_waiting";
        self.family(
            WAITING,
            "gauge",
            "Requests that wait until another version has ended with their object.",
        );
        for (worker, series) in objects {
            self.sample(WAITING, &[("worker", worker.as_str())], series.waiting.load(Ordering::Relaxed));
        }
        const HANDOVERS: &str = "gradual_object_handovers_total";
        self.family(HANDOVERS, "counter", "Live objects that went from one version to the next.");
        for (worker, series) in objects {
            for (result, number) in HandoverResult::ALL.iter().zip(&series.handovers) {
                let labels = [("worker", worker.as_str()), ("result", result.as_str())];
                self.counted(HANDOVERS, &labels, number.load(Ordering::Relaxed));
            }
        }
        const REFUSED: &str = "gradual_object_refusals_total";
        self.family(REFUSED, "counter", "Requests answered 503 because another version had their object.");
        for (worker, series) in objects {
            self.counted(REFUSED, &[("worker", worker.as_str())], series.refused.load(Ordering::Relaxed));
        }
    }

    /// Begins a family: its lines are written with its first sample, so that there is none without samples.
    fn family(&mut self, name: &'static str, kind: &'static str, help: &'static str) {
        self.pending = Some(Family { name, kind, help });
    }

    fn counted(&mut self, name: &str, labels: Labels<'_>, count: u64) {
        if count > 0 {
            self.sample(name, labels, count);
        }
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl std::fmt::Display) {
        if let Some(Family { name, kind, help }) = self.pending.take() {
            self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        }
        self.text.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            self.write(format_args!("{label}=\""));
            self.escaped(value);
            self.text.push('"');
        }
        self.text.push_str(if labels.is_empty() { "" } else { "}" });
        self.write(format_args!(" {value}\n"));
    }

    fn escaped(&mut self, value: &str) {
        for c in value.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
    }

    /// Writing to a `String` cannot fail.
    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = self.text.write_fmt(text);
    }
}

/// Both labels, empty where there is nothing to name.
fn labels<'a>(
    worker: Option<&'a WorkerName>,
    version: Option<&'a VersionId>,
) -> [(&'static str, &'a str); 2] {
    [("worker", worker.map_or("", WorkerName::as_str)), ("version", version.map_or("", VersionId::as_str))]
}

/// The labels of an upstream.
fn of<'a>(worker: &'a WorkerName, version: &'a VersionId, upstream: &'a str) -> [(&'static str, &'a str); 3] {
    [("worker", worker.as_str()), ("version", version.as_str()), ("upstream", upstream)]
}

/// All shards' counts together.
fn sum<T>(shards: &ByShard<T>, counter: impl Fn(&T) -> &Counter) -> u64 {
    shards.values().fold(0, |sum, series| sum.wrapping_add(counter(series).get()))
}

fn reasons() -> [&'static str; REASONS] {
    std::array::from_fn(|at| at.checked_sub(1).map_or("", |at| Reason::ALL[at].as_str()))
}

fn results() -> [&'static str; RESULTS] {
    std::array::from_fn(|at| at.checked_sub(1).map_or("applied", |at| OverrideProblem::ALL[at].as_str()))
}
