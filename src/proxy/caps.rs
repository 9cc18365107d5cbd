//! How many connections there are to an endpoint, how many requests wait, and the most of both: counted over all
//! shards, and touched only where a connection is made or closed, or a request has to wait.
//!
//! Who ends a connection looks for those that wait, and who begins to wait looks for connections that have ended: one of
//! the two must see the other, hence the sequential consistency.

use std::rc::Weak;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::census::Census;
use super::standing::Standing;
use super::upstream::Endpoint;

/// One endpoint's connections and waiting requests.
#[derive(Debug, Default)]
pub(super) struct Caps {
    connections: AtomicUsize,
    /// Requests that wait, for whatever.
    waiting: AtomicUsize,
    /// Those of them that can go on as soon as a connection is closed or given back.
    pending: AtomicUsize,
    /// Wakes one of the waiting requests when a connection was closed.
    pub(super) freed: Notify,
    /// Tells all shards that a request waits for a connection, so that they close one that is idle.
    pub(super) wanted: Notify,
}

/// The right to one connection; it ends with the connection.
#[derive(Debug)]
pub(super) struct Slot(Arc<Standing>);

/// A place among those that wait.
#[derive(Debug)]
pub(super) struct Waits<'a>(&'a Caps);

/// A place among those that wait for a connection.
#[derive(Debug)]
pub(super) struct Pending<'a>(Waits<'a>);

impl Caps {
    /// How many requests wait for a connection, on all shards.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }

    /// A connection that several requests share has none at the moment: it may be closed for those that wait.
    pub(super) fn has_idle(&self) {
        if self.pending() > 0 {
            self.wanted.notify_waiters();
        }
    }

    /// A place among those that wait, for something else than a connection; `None` where that many wait already.
    pub(super) fn wait(&self, most: usize) -> Option<Waits<'_>> {
        add(&self.waiting, most).then(|| Waits(self))
    }

    /// A place among those that wait for a connection; `None` where that many wait already, for whatever.
    pub(super) fn wait_for_connection(&self, most: usize) -> Option<Pending<'_>> {
        let waits = self.wait(most)?;
        self.pending.fetch_add(1, Ordering::SeqCst);
        self.wanted.notify_waiters();
        Some(Pending(waits))
    }
}

impl Slot {
    /// The right to make a connection; `None` where there are as many as there may be.
    pub(super) fn take(standing: &Arc<Standing>, most: usize) -> Option<Self> {
        add(&standing.caps.connections, most).then(|| Self(Arc::clone(standing)))
    }
}

/// Adds one, where that is not more than there may be.
fn add(number: &AtomicUsize, most: usize) -> bool {
    let more = |count| (count < most).then_some(count + 1);
    number.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
}

impl Drop for Slot {
    fn drop(&mut self) {
        let caps = &self.0.caps;
        caps.connections.fetch_sub(1, Ordering::SeqCst);
        if caps.pending() > 0 {
            caps.freed.notify_one();
        }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.0.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Has an endpoint make room whenever that is wanted, until its end.
pub(super) async fn make_room(endpoint: Weak<Endpoint>, standing: Arc<Standing>, census: Arc<Census>) {
    loop {
        // What is wanted from here on is not missed.
        let (slot, descriptor) = (standing.caps.wanted.notified(), census.wanted.notified());
        match endpoint.upgrade() {
            Some(endpoint) => endpoint.make_room(),
            None => return,
        }
        tokio::select! {
            () = slot => {}
            () = descriptor => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::config::{Limits, Scheme};
    use crate::proxy::asks::{Asks, Need};
    use crate::proxy::upstream::{EndpointKey, Target};

    #[test]
    fn there_are_never_more_connections_than_there_may_be_and_an_ended_one_makes_room() {
        let standing = Arc::<Standing>::default();
        let slots: Vec<_> = (0..3).filter_map(|_| Slot::take(&standing, 2)).collect();
        assert_eq!(slots.len(), 2);
        drop(slots);
        assert!(Slot::take(&standing, 1).is_some());
    }

    #[test]
    fn there_are_never_more_waiting_than_there_may_be() {
        let caps = Caps::default();
        let first = caps.wait_for_connection(1);
        assert!(first.is_some() && caps.wait_for_connection(1).is_none() && caps.wait(1).is_none());
        drop(first);
        assert_eq!(caps.pending(), 0);
        assert!(caps.wait_for_connection(0).is_none());
    }

    #[test]
    fn who_waits_for_something_else_takes_a_place_and_wants_no_connection() {
        let caps = Caps::default();
        let first = caps.wait(1);
        assert!(first.is_some() && caps.wait_for_connection(1).is_none());
        assert_eq!(caps.pending(), 0);
        drop(first);
        assert!(caps.wait_for_connection(1).is_some());
    }

    /// Endpoints of two shards; the socket listens for as long as they are used.
    fn of_two_shards(scheme: Scheme, census: &Arc<Census>) -> (std::net::TcpListener, [Rc<Endpoint>; 2]) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::Tcp(listener.local_addr().unwrap());
        let key = EndpointKey { target, scheme, authority: String::new(), tls: None, check: None };
        let standing = Arc::default();
        let one = || Endpoint::new(key.clone(), "x", None, None, Arc::clone(&standing), census);
        (listener, [Rc::new(one()), Rc::new(one())])
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    /// How a request asks where there may be so many connections.
    fn asks(connections: usize) -> Asks<'static> {
        let limits = Limits { upstream_connections: connections, upstream_pending: 1, ..Limits::default() };
        let limits = Box::leak(Box::new(limits));
        Asks { need: Need::Request, fresh: false, once: false, patience: PATIENCE, limits }
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        let test = async { tokio::time::timeout(PATIENCE * 2, test).await.expect("the test stands still") };
        runtime.unwrap().block_on(test);
    }

    #[test]
    fn a_connection_that_sleeps_is_closed_as_soon_as_another_shard_wants_one() {
        run(async {
            let (_listener, [here, there]) = of_two_shards(Scheme::Http, &Census::new(1000, 0));
            here.lease(asks(3)).await.unwrap().give_back();
            while !here.pool.sleeps() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let _held = (there.lease(asks(3)).await.unwrap(), there.lease(asks(3)).await.unwrap());
            assert!(there.lease(asks(3)).await.is_ok());
        });
    }

    #[test]
    fn a_kept_connection_makes_room_for_a_tunnel() {
        run(async {
            let (_listener, [here, _]) = of_two_shards(Scheme::Http, &Census::new(1000, 0));
            here.lease(asks(1)).await.unwrap().give_back();
            assert!(here.lease(Asks { need: Need::Tunnel, ..asks(1) }).await.is_ok());
        });
    }

    #[test]
    fn a_tunnel_that_waits_has_the_next_connection_before_requests_that_wait_behind_it() {
        run(async {
            let (_listener, [here, _]) = of_two_shards(Scheme::Http, &Census::new(1000, 0));
            let limits = Limits { upstream_connections: 1, upstream_pending: 9, ..Limits::default() };
            let asks =
                Asks { need: Need::Request, fresh: false, once: false, patience: PATIENCE, limits: &limits };
            let lease = here.lease(asks).await.unwrap();
            let served = RefCell::new(Vec::new());
            let serve = async |need| {
                here.lease(Asks { need, ..asks }).await.unwrap().give_back();
                served.borrow_mut().push(need);
            };
            let give_back = async {
                while here.standing().caps.pending() < 3 {
                    tokio::task::yield_now().await;
                }
                lease.give_back();
            };
            tokio::join!(serve(Need::Tunnel), serve(Need::Request), serve(Need::Request), give_back);
            assert_eq!(served.take(), [Need::Tunnel, Need::Request, Need::Request]);
        });
    }

    #[test]
    fn an_http2_connection_without_a_stream_is_closed_as_soon_as_another_shard_wants_one() {
        run(async {
            let (_listener, [here, there]) = of_two_shards(Scheme::H2c, &Census::new(1000, 0));
            drop(here.lease(asks(1)).await.unwrap());
            assert!(there.lease(asks(1)).await.is_ok());
            // That one has a stream for as long as it is asked for one.
            let lease = there.lease(asks(1)).await.unwrap();
            let waits = here.lease(asks(1));
            let ends = async {
                while there.standing().caps.pending() == 0 {
                    tokio::task::yield_now().await;
                }
                drop(lease);
            };
            assert!(tokio::join!(waits, ends).0.is_ok());
        });
    }

    #[test]
    fn idle_connections_are_closed_where_there_is_no_descriptor_for_another_or_for_a_client() {
        run(async {
            for scheme in [Scheme::Http, Scheme::H2c] {
                let census = Census::new(16, 0);
                let others: Vec<_> = (1..4).map(|_| census.descriptor().unwrap()).collect();
                let (_listener, [here, there]) = of_two_shards(scheme, &census);
                here.lease(asks(9)).await.unwrap().give_back();
                assert!(census.descriptor().is_err());
                let lease = there.lease(asks(9)).await.unwrap();
                lease.give_back();
                assert!(census.is_spent());
                while census.client(9).is_none() {
                    tokio::task::yield_now().await;
                }
                drop(others);
            }
        });
    }
}
