//! Active health checks: who is asked when, and what so many failures or successes in a row mean.
//!
//! Each endpoint that has a check is asked by a task of its own, at its interval. An endpoint that refuses connections is
//! dialed until somebody listens there again, so that no user's request has to find out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::config::HealthCheck;
use crate::metrics::Registry;
use crate::proxy::{HealthMeter, LastCheck, News, Place, PlaceId, ProbeError, User};

/// How often endpoints are looked at that refuse connections, and names for other addresses.
const LOOK: Duration = Duration::from_secs(1);
/// How long a dial may take.
const DIAL: Duration = Duration::from_secs(1);
/// The most of a failure's text, in characters.
const MAX_TEXT: usize = 300;

/// The health checks of one process. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct HealthChecks(JoinHandle<()>);

impl HealthChecks {
    /// Checks from now on what there is to be checked, so many at once at the most: what hangs must not take all
    /// descriptors. Must be called within the control thread's runtime.
    pub(crate) fn start(meter: &HealthMeter, registry: &Arc<Registry>, at_once: usize) -> Self {
        let all = Checks {
            registry: Arc::clone(registry),
            at_once: Arc::new(Semaphore::new(at_once)),
            asked: HashMap::new(),
            dialed: HashMap::new(),
        };
        Self(tokio::spawn(all.keep(meter.clone())))
    }
}

impl Drop for HealthChecks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Checks {
    registry: Arc<Registry>,
    at_once: Arc<Semaphore>,
    /// Places that are asked at intervals.
    asked: HashMap<PlaceId, Task>,
    /// Places that refuse connections, or did.
    dialed: HashMap<PlaceId, Task>,
}

/// What goes on at one place.
struct Task {
    users: Users,
    running: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Task {
    /// The same, for the versions that the place serves now.
    fn serving(self, place: &Place) -> Self {
        *self.users.lock().unwrap_or_else(PoisonError::into_inner) = place.users().to_vec();
        self
    }
}

/// The versions that a place serves, which a reload may change.
type Users = Arc<Mutex<Vec<User>>>;

impl Checks {
    async fn keep(mut self, meter: HealthMeter) {
        let mut following = meter.watch();
        let mut places = Vec::new();
        loop {
            match following.news(LOOK).await {
                News::Places(now) => {
                    places = now;
                    self.follow(&places);
                }
                News::None => {}
                News::End => return,
            }
            self.look(&places);
        }
    }

    /// Begins to check what is new, and ends what is gone. What stays goes on as it was.
    fn follow(&mut self, places: &[Place]) {
        let (mut asked, mut dialed) = (std::mem::take(&mut self.asked), std::mem::take(&mut self.dialed));
        for place in places {
            let id = place.id();
            if let Some(task) = dialed.remove(&id) {
                self.dialed.insert(id.clone(), task.serving(place));
            }
            let task = match (asked.remove(&id), place.check()) {
                (Some(task), _) => task.serving(place),
                (None, Some(check)) => {
                    let users = users(place);
                    let checked = self.checked(place.clone(), Arc::clone(check), Arc::clone(&users));
                    Task { users, running: tokio::spawn(checked.keep()) }
                }
                (None, None) => continue,
            };
            self.asked.insert(id, task);
        }
    }

    /// Begins to dial what has come to refuse connections.
    fn look(&mut self, places: &[Place]) {
        self.dialed.retain(|_, task| !task.running.is_finished());
        for place in places.iter().filter(|place| place.is_refused()) {
            let dial = || {
                let users = users(place);
                let dialing = dial(place.clone(), Arc::clone(&users), Arc::clone(&self.at_once));
                Task { users, running: tokio::spawn(dialing) }
            };
            self.dialed.entry(place.id()).or_insert_with(dial);
        }
    }

    fn checked(&self, place: Place, check: Arc<HealthCheck>, users: Users) -> Checked {
        // Requests under way may have kept an earlier verdict.
        let judge = Judge { fall: check.fall, rise: check.rise, is_well: place.is_well(), other: 0 };
        let (registry, at_once) = (Arc::clone(&self.registry), Arc::clone(&self.at_once));
        Checked { place, check, users, registry, at_once, judge, starved: false }
    }
}

fn users(place: &Place) -> Users {
    Arc::new(Mutex::new(place.users().to_vec()))
}

/// An endpoint that is checked.
struct Checked {
    place: Place,
    check: Arc<HealthCheck>,
    users: Users,
    registry: Arc<Registry>,
    at_once: Arc<Semaphore>,
    judge: Judge,
    /// Whether the last check could not be made, for want of something in this process.
    starved: bool,
}

impl Checked {
    async fn keep(mut self) {
        // Endpoints that come together must not be asked together for ever.
        tokio::time::sleep(self.check.interval.mul_f64(fastrand::f64())).await;
        let mut ticks = tokio::time::interval(self.check.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Ok(permit) = self.at_once.acquire().await else { return };
            let outcome = self.place.ask(&self.check).await;
            drop(permit);
            self.note(outcome.err().as_ref());
        }
    }

    /// Notes what came of a check: well, or why not.
    fn note(&mut self, failure: Option<&ProbeError>) {
        let error = failure.map(text);
        if failure.is_some_and(ProbeError::is_local) {
            // Nothing was learnt about the endpoint.
            if !std::mem::replace(&mut self.starved, true) {
                tracing::warn!("health checks cannot be made: {}", error.unwrap_or_default());
            }
            return;
        }
        self.starved = false;
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for User { worker, version, upstream } in &users {
            self.registry.checked(worker, version, upstream, error.is_none());
        }
        let verdict = self.judge.note(error.is_none());
        if let Some(is_well) = verdict {
            self.place.judge(is_well);
            say(&self.place, &users, error.as_deref());
        }
        self.place.checked(LastCheck { time: SystemTime::now(), error });
    }
}

/// Dials an endpoint until somebody listens there.
async fn dial(place: Place, users: Users, at_once: Arc<Semaphore>) {
    let say = |error| {
        // Of one that is checked, the checks say what it is.
        if place.check().is_none() {
            say(&place, &users.lock().unwrap_or_else(PoisonError::into_inner), error);
        }
    };
    say(Some("it refuses connections"));
    while place.is_refused() {
        let Ok(permit) = at_once.acquire().await else { return };
        let dialed = place.dial(DIAL).await;
        drop(permit);
        if dialed.is_err() {
            tokio::time::sleep(LOOK).await;
        }
    }
    say(None);
}

/// Says once for each version that an endpoint is down, or (`None`) up again.
fn say(place: &Place, users: &[User], error: Option<&str>) {
    let address = place.address();
    for User { worker, version, upstream } in users {
        // A name may have several addresses.
        let at = if upstream.contains(&address) { String::new() } else { format!(" at {address}") };
        match error {
            Some(error) => {
                tracing::warn!(
                    "upstream {upstream}{at} of worker {worker}, version {version}, is down: {error}"
                );
            }
            None => {
                tracing::info!("upstream {upstream}{at} of worker {worker}, version {version}, is up again");
            }
        }
    }
}

/// A failure with all that caused it, on one line, bounded: parts of it come from the endpoint.
fn text(error: &ProbeError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Takes so many failures in a row for a fall, and so many successes in a row for a rise.
struct Judge {
    fall: u32,
    rise: u32,
    is_well: bool,
    /// Outcomes in a row that are not as the verdict is.
    other: u32,
}

impl Judge {
    /// Notes an outcome; the new verdict, where it changes.
    fn note(&mut self, succeeded: bool) -> Option<bool> {
        if succeeded == self.is_well {
            self.other = 0;
            return None;
        }
        self.other += 1;
        let needed = if self.is_well { self.fall } else { self.rise };
        if self.other < needed {
            return None;
        }
        (self.is_well, self.other) = (succeeded, 0);
        Some(succeeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdicts after each of these outcomes: `+` a success, `-` a failure.
    fn verdicts(fall: u32, rise: u32, outcomes: &str) -> String {
        let mut judge = Judge { fall, rise, is_well: true, other: 0 };
        let mut verdict = |outcome| {
            judge.note(outcome == '+');
            if judge.is_well { '+' } else { '-' }
        };
        outcomes.chars().map(&mut verdict).collect()
    }

    #[test]
    fn so_many_failures_in_a_row_are_a_fall_and_so_many_successes_a_rise() {
        assert_eq!(verdicts(3, 2, "++---++--"), "++++--+++");
        assert_eq!(verdicts(1, 1, "+-+-"), "+-+-");
        assert_eq!(verdicts(2, 3, "--+++-"), "+---++");
    }

    #[test]
    fn what_flaps_within_the_rows_changes_nothing() {
        assert_eq!(verdicts(3, 2, "--+--+--+"), "+++++++++");
        assert_eq!(verdicts(3, 2, "---+-+-+-"), "++-------");
    }

    #[test]
    fn a_verdict_is_news_only_when_it_changes() {
        let mut judge = Judge { fall: 2, rise: 2, is_well: true, other: 0 };
        let news = [true, false, false, false, true, true, true].map(|outcome| judge.note(outcome));
        assert_eq!(news, [None, None, Some(false), None, None, Some(true), None]);
    }

    #[test]
    fn a_failure_is_said_with_its_cause_on_one_line() {
        let refused = ProbeError::Connect(std::io::Error::other("nobody\nlistens"));
        assert_eq!(text(&refused), "no connection: nobody listens");
    }
}
