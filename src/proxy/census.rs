//! How many connections there are, of the whole process: touched once when a connection begins and once when it ends.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Counts client connections, and the descriptors that connections of either side take.
///
/// Descriptors are not used up: some are left for everything else, so that at the limit the process can still answer on
/// the admin address, read its file and write its log.
#[derive(Debug)]
pub(super) struct Census {
    /// The most descriptors that connections may take.
    most: usize,
    spare: Spare,
    descriptors: AtomicUsize,
    clients: AtomicUsize,
    /// Connections that were turned away, and are listened to until they have heard it.
    leaving: AtomicUsize,
    /// Tells all shards that a client or a request finds no descriptor, so that they close idle connections to upstreams.
    pub(super) wanted: Notify,
    /// By network address, where there is one; in parts, so that shards seldom wait for each other.
    addresses: [Mutex<HashMap<IpAddr, usize>>; PARTS],
}

/// What others than clients and upstreams may have at a time: as many as there are descriptors kept back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    /// Connections to the admin address.
    pub admin_connections: usize,
    /// Health checks.
    pub checks: usize,
}

impl Spare {
    /// Of so many descriptors in all: a part that leaves most of them to those who are served, also where there are few.
    fn of(limit: usize) -> Self {
        Self { admin_connections: (limit / 8).clamp(4, 256), checks: (limit / 16).clamp(2, 128) }
    }
}

const PARTS: usize = 16;
/// Descriptors that are left for everything else: files, look-ups of names.
const OTHERS: usize = 32;
/// Descriptors of a shard's runtime, and of a few listeners.
const PER_SHARD: usize = 6;

impl Census {
    /// For a process with so many descriptors at the most. Those that are open now are never given back.
    pub(super) fn new(limit: usize, open: usize) -> Arc<Self> {
        let spare = Spare::of(limit);
        let kept_back = spare.admin_connections + spare.checks + OTHERS;
        let most = limit.saturating_sub(open + kept_back).max(limit / 4);
        let addresses = std::array::from_fn(|_| Mutex::default());
        Arc::new(Self {
            most,
            spare,
            descriptors: AtomicUsize::new(0),
            clients: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            wanted: Notify::new(),
            addresses,
        })
    }

    /// For this process, whose limit of descriptors is raised as far as that is allowed. So many shards are about to start.
    pub(super) fn of_process(shards: usize) -> Arc<Self> {
        Self::new(raise_limit(), open_descriptors() + shards.saturating_mul(PER_SHARD))
    }

    /// What others than clients and upstreams may have.
    pub(super) fn spare(&self) -> Spare {
        self.spare
    }

    /// The most client connections that there are descriptors for: each may need one to an upstream, too.
    pub(super) fn most_clients(&self) -> usize {
        self.most / 2
    }

    /// A descriptor for a connection to an upstream.
    ///
    /// # Errors
    /// There is none to spare.
    pub(super) fn descriptor(self: &Arc<Self>) -> io::Result<Descriptor> {
        let descriptor = self.take(Holder::Upstream);
        descriptor.ok_or_else(|| {
            io::Error::new(io::ErrorKind::QuotaExceeded, "all file descriptors for connections are in use")
        })
    }

    /// A descriptor for a client's connection; `None` if there are `most` already, or none to spare.
    pub(super) fn client(self: &Arc<Self>, most: usize) -> Option<Descriptor> {
        if !take(&self.clients, most.min(self.most_clients())) {
            return None;
        }
        self.take(Holder::Client)
    }

    /// A descriptor for a connection that was turned away, where there may be `most` clients; `None` if there is none but
    /// those for them and their connections to upstreams.
    pub(super) fn leaving(self: &Arc<Self>, most: usize) -> Option<Descriptor> {
        if !take(&self.leaving, self.most - 2 * most.min(self.most_clients())) {
            return None;
        }
        self.take(Holder::Leaving)
    }

    /// Whether all descriptors are in use.
    pub(super) fn is_spent(&self) -> bool {
        self.descriptors.load(Ordering::Relaxed) >= self.most
    }

    /// A descriptor for whoever is counted as its holder already. Where there is none, that count is given back.
    fn take(self: &Arc<Self>, holder: Holder) -> Option<Descriptor> {
        if take(&self.descriptors, self.most) {
            return Some(Descriptor { census: Arc::clone(self), holder });
        }
        if !matches!(holder, Holder::Leaving) {
            self.wanted.notify_waiters();
        }
        self.give_back(holder);
        None
    }

    /// Counts a holder less.
    fn give_back(&self, holder: Holder) {
        let number = match holder {
            Holder::Upstream => return,
            Holder::Client => &self.clients,
            Holder::Leaving => &self.leaving,
        };
        number.fetch_sub(1, Ordering::Relaxed);
    }

    /// A place for one more connection of an address; `None` if it has `most` already.
    pub(super) fn place(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Place> {
        let network = network(address);
        let mut part = self.part(network);
        let count = part.entry(network).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { census: Arc::clone(self), network })
    }

    /// A panic of another holder leaves a map that is whole.
    fn part(&self, network: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        let mut hasher = DefaultHasher::new();
        network.hash(&mut hasher);
        let part = usize::try_from(hasher.finish() % PARTS as u64).unwrap_or(0);
        self.addresses[part].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes one of `most`.
fn take(number: &AtomicUsize, most: usize) -> bool {
    let more = |taken: usize| (taken < most).then_some(taken + 1);
    number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

/// What counts as one address: of IPv6 the network of 64 bits, which one client has as a whole.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// A descriptor that is counted for as long as this lives.
#[derive(Debug)]
pub(super) struct Descriptor {
    census: Arc<Census>,
    holder: Holder,
}

/// Whose connection a descriptor is of.
#[derive(Clone, Copy, Debug)]
enum Holder {
    Upstream,
    Client,
    Leaving,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.census.descriptors.fetch_sub(1, Ordering::Relaxed);
        self.census.give_back(self.holder);
    }
}

/// A connection of an address that is counted for as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    census: Arc<Census>,
    network: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.census.part(self.network).entry(self.network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Raises the soft limit of descriptors to the hard one; returns the limit as it is then. The soft limit is low for the
/// sake of programs that use `select`, which nothing here does.
fn raise_limit() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = getrlimit(Resource::Nofile);
        }
    }
    limit.current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Descriptors that the process has open; a guess where the system does not say.
fn open_descriptors() -> usize {
    const GUESS: usize = 32;
    std::fs::read_dir("/dev/fd").map_or(GUESS, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        let census = Census::new(100, 2);
        let clients: Vec<_> = (0..24).map(|_| census.client(1000).unwrap()).collect();
        assert!(census.client(1000).is_none());
        let upstreams: Vec<_> = (0..24).map(|_| census.descriptor().unwrap()).collect();
        assert!(census.descriptor().is_err());
        drop((clients, upstreams));
        assert!(census.client(1).is_some());
    }

    #[test]
    fn admin_connections_and_health_checks_have_as_many_as_they_may_have_at_once() {
        for (limit, open, admin_connections, checks) in
            [(100, 20, 12, 6), (256, 40, 32, 16), (1024, 60, 128, 64), (1 << 20, 100, 256, 128)]
        {
            let census = Census::new(limit, open);
            assert_eq!(census.spare(), Spare { admin_connections, checks });
            assert!(census.most + open + admin_connections + checks < limit, "{limit}");
        }
        assert_eq!(Census::new(20, 0).spare(), Spare { admin_connections: 4, checks: 2 });
    }

    #[test]
    fn a_client_that_finds_no_descriptor_leaves_the_counts_as_they_were() {
        let census = Census::new(100, 2);
        let others: Vec<_> = std::iter::from_fn(|| census.descriptor().ok()).collect();
        for _ in 0..100 {
            assert!(census.client(1000).is_none());
        }
        assert_eq!(others.len(), 48);
        drop(others);
        assert_eq!(census.descriptors.load(Ordering::Relaxed), 0);
        assert_eq!(census.clients.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn those_that_are_turned_away_leave_each_client_a_descriptor_for_an_upstream() {
        for (most, leaving) in [(1000, 0), (24, 0), (20, 8), (0, 48)] {
            let census = Census::new(100, 2);
            let left: Vec<_> = std::iter::from_fn(|| census.leaving(most)).collect();
            assert_eq!(left.len(), leaving, "{most}");
            let clients: Vec<_> = std::iter::from_fn(|| census.client(most)).collect();
            assert_eq!(clients.len(), most.min(24));
            let upstreams: Vec<_> = clients.iter().map(|_| census.descriptor().unwrap()).collect();
            drop((left, clients, upstreams));
            let counts = [&census.descriptors, &census.clients, &census.leaving];
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 0));
        }
    }

    #[test]
    fn where_the_limit_is_very_low_a_quarter_is_for_connections() {
        assert_eq!(Census::new(64, 60).most, 16);
        assert_eq!(Census::new(usize::MAX, 60).most_clients(), (usize::MAX - 60 - 416) / 2);
    }

    #[test]
    fn an_address_has_so_many_places_and_gives_them_back() {
        let census = Census::new(1000, 0);
        let one = census.place([192, 0, 2, 1].into(), 2).unwrap();
        let _two = census.place("::ffff:192.0.2.1".parse().unwrap(), 2).unwrap();
        assert!(census.place([192, 0, 2, 1].into(), 2).is_none());
        assert!(census.place([192, 0, 2, 2].into(), 2).is_some());
        drop(one);
        assert!(census.place([192, 0, 2, 1].into(), 2).is_some());
    }

    #[test]
    fn of_ipv6_a_whole_network_is_one_address_and_nothing_is_kept_of_those_that_left() {
        let census = Census::new(1000, 0);
        let one = census.place("2001:db8::1".parse().unwrap(), 1).unwrap();
        assert!(census.place("2001:db8::ffff:1:2:3".parse().unwrap(), 1).is_none());
        assert!(census.place("2001:db8:0:1::1".parse().unwrap(), 1).is_some());
        drop(one);
        assert!(census.addresses.iter().all(|part| part.lock().unwrap().is_empty()));
    }
}
