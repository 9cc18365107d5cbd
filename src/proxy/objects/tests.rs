//! The table against a model: whatever happens in whatever order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use proptest::prelude::*;

use super::domain::{Answer, Domain, MOST_WAITING, MOST_WAITING_FOR_ONE, Overdue, Permit, Place};
use super::{Common, Plan};
use crate::config::Handover;
use crate::metrics::ObjectSeries;
use crate::model::deployment::Deployment;
use crate::model::name::{VersionId, WorkerName};
use crate::model::ring::Ring;
use crate::model::share::Share;

const HOUR: Duration = Duration::from_secs(3600);

fn domain() -> Arc<Domain> {
    Arc::new(Domain::new(&Arc::<Common>::default(), Arc::<ObjectSeries>::default()))
}

/// A deployment of `a` and `b`; `a` has so many per cent.
fn plan(percentage: u32, handover: Handover) -> Arc<Plan> {
    let shares = [percentage, 100 - percentage].map(|share| Share::from_thousandths(share * 1000).unwrap());
    let deployment = Deployment {
        id: String::new(),
        created_on: None,
        author: None,
        source: None,
        message: None,
        versions: vec![VersionId::new("a").unwrap(), VersionId::new("b").unwrap()],
        ring: Ring::cumulative(b"salt", &shares).unwrap(),
    };
    Arc::new(Plan::new(&WorkerName::new("shop").unwrap(), &deployment, handover, HOUR))
}

fn drain(percentage: u32) -> Arc<Plan> {
    plan(percentage, Handover::Drain)
}

fn granted(domain: &Arc<Domain>, plan: &Arc<Plan>, name: &[u8]) -> Permit {
    match domain.acquire(plan, name) {
        Answer::Granted(permit) => permit,
        other => panic!("not granted: {other:?}"),
    }
}

fn busy(domain: &Arc<Domain>, plan: &Arc<Plan>, name: &[u8]) -> Place {
    match domain.acquire(plan, name) {
        Answer::Busy(place) => place,
        other => panic!("not busy: {other:?}"),
    }
}

fn is_called(place: &mut Place) -> bool {
    place.called().now_or_never().is_some()
}

#[test]
fn a_moved_object_is_free_when_the_last_permit_has_gone_and_not_before() {
    let (domain, before, after) = (domain(), drain(100), drain(0));
    domain.install(Some(&before), Instant::now());
    let (one, two) = (granted(&domain, &before, b"room"), granted(&domain, &before, b"room"));
    domain.install(Some(&after), Instant::now());
    let mut waits = busy(&domain, &after, b"room");
    drop(one);
    assert!(!is_called(&mut waits));
    drop(two);
    assert!(is_called(&mut waits) && domain.is_empty());
    let _next = granted(&domain, &after, b"room");
}

#[test]
fn an_object_that_does_not_move_is_served_by_requests_of_both_deployments() {
    let (domain, before, after) = (domain(), drain(100), drain(100));
    domain.install(Some(&before), Instant::now());
    let _old = granted(&domain, &before, b"room");
    domain.install(Some(&after), Instant::now());
    // A shard that has not heard of the commit, and one that has.
    let _late = granted(&domain, &before, b"room");
    let _new = granted(&domain, &after, b"room");
}

#[test]
fn a_request_that_decided_by_an_older_deployment_decides_again_where_its_object_has_moved() {
    let (domain, before, after) = (domain(), drain(100), drain(0));
    domain.install(Some(&before), Instant::now());
    domain.install(Some(&after), Instant::now());
    assert!(matches!(domain.acquire(&before, b"room"), Answer::Stale(_)));
    // The worker has no objects any more: nothing is known by which it could be served.
    domain.install(None, Instant::now());
    assert!(matches!(domain.acquire(&after, b"room"), Answer::Stale(_)));
}

#[test]
fn an_object_that_comes_back_in_time_stays_and_those_that_wait_are_called_at_once() {
    let (domain, before, after) = (domain(), drain(100), drain(0));
    domain.install(Some(&before), Instant::now());
    let permit = granted(&domain, &before, b"room");
    let overdue = domain.install(Some(&after), Instant::now());
    let mut waits = busy(&domain, &after, b"room");
    domain.install(Some(&before), Instant::now());
    assert!(is_called(&mut waits));
    let _other = granted(&domain, &before, b"room");
    assert!(!domain.cut(&overdue, Instant::now() + 2 * HOUR) && !permit.tenancy().is_over());
}

#[test]
fn what_moves_on_is_cut_at_the_first_of_its_moments() {
    let (domain, now) = (domain(), Instant::now());
    let plans = [drain(100), drain(0), plan(0, Handover::Reset)];
    domain.install(Some(&plans[0]), now);
    let permit = granted(&domain, &plans[0], b"room");
    let drained = domain.install(Some(&plans[1]), now);
    assert!(!domain.cut(&drained, now + HOUR / 2) && !permit.tenancy().is_over());
    let reset = domain.install(Some(&plans[2]), now + HOUR / 2);
    assert!(domain.cut(&reset, now + HOUR / 2) && permit.tenancy().is_over());
    // It is cut once.
    assert!(!domain.cut(&drained, now + HOUR));
    let mut waits = busy(&domain, &plans[2], b"room");
    drop(permit);
    assert!(is_called(&mut waits));
}

#[test]
fn what_was_cut_has_to_end_even_if_its_object_comes_back() {
    let (domain, now) = (domain(), Instant::now());
    let (before, after) = (drain(100), plan(0, Handover::Reset));
    domain.install(Some(&before), now);
    let permit = granted(&domain, &before, b"room");
    let overdue = domain.install(Some(&after), now);
    domain.cut(&overdue, now);
    domain.install(Some(&before), now);
    // Who came now would be cut with it.
    let mut waits = busy(&domain, &before, b"room");
    drop(permit);
    assert!(is_called(&mut waits));
    assert!(!granted(&domain, &before, b"room").tenancy().is_over());
}

#[test]
fn only_so_many_wait_for_one_object_and_who_leaves_makes_room() {
    let (domain, before, after) = (domain(), drain(100), drain(0));
    domain.install(Some(&before), Instant::now());
    let _permit = granted(&domain, &before, b"room");
    domain.install(Some(&after), Instant::now());
    let mut places: Vec<_> = (0..MOST_WAITING_FOR_ONE).map(|_| busy(&domain, &after, b"room")).collect();
    assert!(matches!(domain.acquire(&after, b"room"), Answer::Full));
    places.pop();
    let _place = busy(&domain, &after, b"room");
    let _other = granted(&domain, &after, b"cart");
}

#[test]
fn only_so_many_wait_for_all_objects_together() {
    let (domain, before, after) = (domain(), drain(100), drain(0));
    domain.install(Some(&before), Instant::now());
    let names: Vec<_> = (0..=MOST_WAITING).map(|number| number.to_string()).collect();
    let mut permits: Vec<_> = names.iter().map(|name| granted(&domain, &before, name.as_bytes())).collect();
    domain.install(Some(&after), Instant::now());
    let (last, others) = names.split_last().unwrap();
    let mut places: Vec<_> = others.iter().map(|name| busy(&domain, &after, name.as_bytes())).collect();
    assert!(matches!(domain.acquire(&after, last.as_bytes()), Answer::Full));
    // Those that wait for their shard count, too.
    assert!(matches!(domain.acquire(&before, b"another"), Answer::Full));
    places.pop();
    drop(busy(&domain, &after, last.as_bytes()));
    // Nobody has to wait for an object that is free.
    permits.pop();
    places.push(busy(&domain, &after, others[0].as_bytes()));
    let _granted = granted(&domain, &after, last.as_bytes());
}

#[test]
fn what_is_to_be_cut_is_noted_once_however_often_deployments_change() {
    let (domain, now) = (domain(), Instant::now());
    let before = drain(100);
    domain.install(Some(&before), now);
    let _permit = granted(&domain, &before, b"room");
    let noted =
        [0, 60].map(|seconds| domain.install(Some(&drain(0)), now + Duration::from_secs(seconds)).len());
    assert_eq!(noted, [1, 0]);
    assert_eq!(domain.install(Some(&plan(0, Handover::Reset)), now).len(), 1, "it is to end earlier");
    domain.install(Some(&drain(100)), now);
    assert_eq!(domain.install(Some(&drain(0)), now).len(), 1, "it had come back");
}

#[test]
fn an_object_that_is_live_in_another_process_is_free_when_that_says_so() {
    let (domain, plan) = (domain(), drain(0));
    let elsewhere = domain.enter(b"room", "a").unwrap();
    assert!(domain.enter(b"room", "b").is_none());
    domain.install(Some(&plan), Instant::now());
    let mut waits = busy(&domain, &plan, b"room");
    assert_eq!(domain.moved().len(), 1);
    drop(elsewhere);
    assert!(is_called(&mut waits) && domain.moved().is_empty());
}

#[test]
fn what_another_process_has_had_in_between_is_begun_here_no_more() {
    let (domain, own, now) = (domain(), drain(100), Instant::now());
    domain.install(Some(&own), now);
    let permit = granted(&domain, &own, b"room");
    domain.yield_to(&drain(0), now);
    assert!(matches!(domain.acquire(&own, b"cart"), Answer::Stale(_)));
    domain.yield_to(&drain(100), now);
    // It may be live there, at the other version.
    assert!(matches!(domain.acquire(&own, b"cart"), Answer::Stale(_)));
    // This has been live here all the time, and is known to be.
    drop((granted(&domain, &own, b"room"), permit));
    assert!(matches!(domain.acquire(&own, b"room"), Answer::Stale(_)));
    // The other process does not come, after all.
    domain.install(Some(&own), now);
    let _both = (granted(&domain, &own, b"cart"), granted(&domain, &own, b"room"));
}

#[test]
fn what_another_process_always_claims_for_the_same_version_is_begun_here_however_often_it_does() {
    let (domain, own, now) = (domain(), drain(100), Instant::now());
    domain.install(Some(&own), now);
    for _ in 0..1000 {
        domain.yield_to(&drain(100), now);
    }
    drop(granted(&domain, &own, b"room"));
    // So many different ones are not told apart.
    for percentage in 1..100 {
        domain.yield_to(&drain(percentage), now);
    }
    domain.yield_to(&drain(100), now);
    let begins = |name: u16| matches!(domain.acquire(&own, &name.to_be_bytes()), Answer::Granted(_));
    assert!(!(0..1000).any(begins));
}

/// What may happen.
#[derive(Clone, Debug)]
enum Event {
    /// A request of a shard for an object.
    Request(usize, u8),
    /// A request ends.
    End(prop::sample::Index),
    /// A client that waits leaves.
    Leave(prop::sample::Index),
    /// A commit reaches the table: so many per cent for `a`.
    Install(u32, bool),
    /// It reaches a shard.
    Commit(usize),
    /// The time of what moves is up.
    Cut,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0..3_usize, 0..12_u8).prop_map(|(shard, object)| Event::Request(shard, object)),
        4 => any::<prop::sample::Index>().prop_map(Event::End),
        1 => any::<prop::sample::Index>().prop_map(Event::Leave),
        2 => (0..=100_u32, any::<bool>()).prop_map(|(share, reset)| Event::Install(share, reset)),
        3 => (0..3_usize).prop_map(Event::Commit),
        1 => Just(Event::Cut),
    ];
    prop::collection::vec(event, 1..120)
}

/// Three shards, and all that is under way.
struct World {
    domain: Arc<Domain>,
    newest: Arc<Plan>,
    shards: [Arc<Plan>; 3],
    live: Vec<(u8, Arc<str>, Permit)>,
    waiting: Vec<(u8, bool, Place)>,
    overdue: Vec<Overdue>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let (domain, newest, now) = (domain(), drain(50), Instant::now());
        domain.install(Some(&newest), now);
        let shards = [(); 3].map(|()| Arc::clone(&newest));
        Self { domain, newest, shards, live: Vec::new(), waiting: Vec::new(), overdue: Vec::new(), now }
    }

    fn request(&mut self, shard: usize, object: u8) {
        let name = [object];
        let plan = &self.shards[shard];
        let (wanted, newest) = (plan.owner(&name), self.newest.owner(&name));
        let others = self.live.iter().any(|(live, version, permit)| {
            *live == object && (version != wanted || permit.tenancy().is_over())
        });
        match self.domain.acquire(plan, &name) {
            Answer::Granted(permit) => {
                assert!(wanted == newest, "served by a version that has the object no more");
                assert!(!others, "two versions serve one object");
                self.live.push((object, Arc::clone(wanted), permit));
            }
            Answer::Busy(place) => {
                assert!(others && wanted == newest);
                self.waiting.push((object, false, place));
            }
            Answer::Stale(place) => {
                assert!(wanted != newest);
                self.waiting.push((object, true, place));
            }
            other => panic!("{other:?}"),
        }
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Request(shard, object) => self.request(*shard, *object),
            Event::End(index) if !self.live.is_empty() => {
                drop(self.live.swap_remove(index.index(self.live.len())));
            }
            Event::Leave(index) if !self.waiting.is_empty() => {
                drop(self.waiting.swap_remove(index.index(self.waiting.len())));
            }
            Event::End(_) | Event::Leave(_) => {}
            Event::Install(share, reset) => {
                self.newest = plan(*share, if *reset { Handover::Reset } else { Handover::Drain });
                self.overdue.extend(self.domain.install(Some(&self.newest), self.now));
            }
            Event::Commit(shard) => self.shards[*shard] = Arc::clone(&self.newest),
            Event::Cut => {
                self.now += 2 * HOUR;
                self.domain.cut(&self.overdue, self.now);
                for (object, version, permit) in &self.live {
                    let stays = version == self.newest.owner(&[*object]);
                    assert!(stays || permit.tenancy().is_over(), "what moved was not cut");
                }
            }
        }
    }

    /// Nobody waits for an object that is free.
    fn check(&mut self) {
        let live: Vec<_> = self.live.iter().map(|(object, ..)| *object).collect();
        self.waiting.retain_mut(|(object, is_stale, place)| {
            let called = is_called(place);
            assert!(called || *is_stale || live.contains(object), "a request was forgotten");
            !called
        });
    }
}

proptest! {
    #[test]
    fn at_no_moment_do_two_versions_have_one_object_and_nobody_is_forgotten(events in events()) {
        let mut world = World::new();
        for event in &events {
            world.happens(event);
            world.check();
        }
        world.live.clear();
        world.check();
        prop_assert!(world.domain.is_empty(), "idle objects cost nothing");
    }
}
