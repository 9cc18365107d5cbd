//! What is going on, as those outside of the shards see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::shard::Gauge;

/// What the data plane says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Client connections that are open.
    pub connections: u64,
    /// Requests and tunnels in flight.
    pub requests: u64,
}

/// Tells at any time what is going on, without asking anybody. Cheap to clone; the default sees no shards.
#[derive(Clone, Debug, Default)]
pub struct LoadMeter {
    /// Those of all shards, which go on counting as long as the shards live.
    gauges: Arc<[Arc<Gauge>]>,
}

impl LoadMeter {
    pub(super) fn new<'g>(gauges: impl Iterator<Item = &'g Arc<Gauge>>) -> Self {
        Self { gauges: gauges.cloned().collect() }
    }

    /// What is going on at the moment.
    pub fn read(&self) -> Load {
        let sum = |number: fn(&Gauge) -> u64| self.gauges.iter().map(|gauge| number(gauge)).sum();
        Load {
            connections: sum(|gauge| gauge.connections.load(Ordering::Relaxed)),
            requests: sum(|gauge| gauge.requests.load(Ordering::Relaxed)),
        }
    }
}
