//! The data plane: shards that accept connections and carry requests to versions and responses back.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Address, Config};
use crate::diag::Diagnostic;
use crate::export::access::AccessLog;
use crate::metrics::Registry;

/// A configuration with everything bound and read that it names: committing it cannot fail.
#[derive(Debug)]
pub struct Prepared {}

/// What shards need for their whole life.
#[derive(Clone, Debug)]
pub struct Services {
    /// Where requests are counted.
    pub registry: Arc<Registry>,
    /// Where requests are logged.
    pub log: AccessLog,
}

/// The running shards. Lives on the control thread.
#[derive(Debug)]
pub struct Shards {}

/// What the data plane says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Client connections that are open.
    pub connections: u64,
    /// Requests and tunnels in flight.
    pub requests: u64,
}

impl Shards {
    /// Starts threads that serve nothing yet. Must be called within a tokio runtime (the control thread's).
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub fn start(_threads: NonZeroUsize, _services: Services) -> io::Result<Self> {
        Ok(Self {})
    }

    /// Reads every file that the configuration names (certificates, keys) and makes TLS settings of them, without
    /// binding: also what `gradual check` does.
    ///
    /// # Errors
    /// Every mistake, with its place in the file.
    pub fn read_files(_config: &Config) -> Result<(), Vec<Diagnostic>> {
        Ok(())
    }

    /// Binds what is not bound yet, and reads certificates. Changes nothing that serves.
    ///
    /// # Errors
    /// Every mistake, with its place in the file.
    pub async fn prepare(&self, _config: &Config) -> Result<Prepared, Vec<Diagnostic>> {
        Ok(Prepared {})
    }

    /// Swaps all shards to a prepared configuration; returns when every shard serves it.
    pub async fn commit(&mut self, _prepared: Prepared, _generation: u64) {}

    /// The addresses that are listened on, with the port that the system chose where the file says 0; in file order.
    pub fn addresses(&self) -> Vec<Address> {
        Vec::new()
    }

    /// What is going on.
    pub fn load(&self) -> Load {
        Load::default()
    }

    /// Stops accepting, lets what is in flight finish, cuts the rest when `timeout` has passed, and ends the threads.
    /// Returns how many connections were cut.
    pub async fn drain(self, _timeout: Duration) -> u64 {
        0
    }
}
