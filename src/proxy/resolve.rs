//! DNS names of upstreams, resolved again when their TTL has passed. Lives on the control thread.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use tokio::sync::watch;

use super::KnownNames;

/// A name's addresses as last resolved; empty until they are known.
pub(super) type Addresses = watch::Receiver<Arc<[IpAddr]>>;

/// Resolves names, each by a task of its own that ends when nobody holds its addresses any more.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Made with the first name; the inner `None`: the C library is asked.
    resolver: Option<Option<Arc<TokioResolver>>>,
    watched: HashMap<String, watch::Sender<Arc<[IpAddr]>>>,
    /// What another process knew, until the first commit.
    handed: KnownNames,
}

/// Bounds of how long an answer counts, whatever its TTL says.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
/// How long an answer without TTL counts.
const WITHOUT_TTL: Duration = Duration::from_secs(30);
/// How long to wait after a failed look-up. The addresses known before go on.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

impl Names {
    /// A name's addresses, kept up to date from now on. Must be called within the control thread's runtime.
    pub(super) fn watch(&mut self, host: &str) -> Addresses {
        self.watched.retain(|_, sender| !sender.is_closed());
        if let Some(sender) = self.watched.get(host) {
            return sender.subscribe();
        }
        let known = self.handed.remove(host).unwrap_or_default();
        let (sender, receiver) = watch::channel(Arc::from(known));
        self.watched.insert(host.to_owned(), sender.clone());
        let resolver = self.resolver.get_or_insert_with(|| configured_resolver().map(Arc::new)).clone();
        tokio::spawn(keep_resolving(resolver, host.to_owned(), sender));
        receiver
    }

    /// Begins with what another process knew: names that are watched first are asked for all the same, but until there
    /// is an answer these addresses count.
    pub(super) fn take_over(&mut self, handed: KnownNames) {
        self.handed = handed;
    }

    /// Forgets what another process knew of names that nobody watches: it grows old.
    pub(super) fn committed(&mut self) {
        self.handed.clear();
    }

    /// The names that are watched and have addresses.
    pub(super) fn known(&self) -> KnownNames {
        let open = self.watched.iter().filter(|(_, sender)| !sender.is_closed());
        let all = open.map(|(host, sender)| (host.clone(), sender.borrow().to_vec()));
        all.filter(|(_, addresses)| !addresses.is_empty()).collect()
    }
}

/// Asks as the system's configuration says; `None` where there is none that can be used.
fn configured_resolver() -> Option<TokioResolver> {
    match TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build) {
        Ok(resolver) => Some(resolver),
        Err(error) => {
            tracing::warn!(%error, "the resolver's configuration cannot be used: asking the C library, without TTLs");
            None
        }
    }
}

/// A name's addresses, and how long they count.
async fn look_up(resolver: Option<&TokioResolver>, host: &str) -> io::Result<(Vec<IpAddr>, Duration)> {
    let (mut addresses, valid): (Vec<IpAddr>, _) = match resolver {
        Some(resolver) => {
            let found = resolver.lookup_ip(host).await.map_err(io::Error::other)?;
            let valid = found.as_lookup().valid_until().saturating_duration_since(Instant::now());
            (found.iter().collect(), valid)
        }
        None => {
            let found = tokio::net::lookup_host((host, 0)).await?;
            (found.map(|address| address.ip()).collect(), WITHOUT_TTL)
        }
    };
    addresses.sort_unstable();
    addresses.dedup();
    Ok((addresses, valid.clamp(SHORTEST, LONGEST)))
}

async fn keep_resolving(
    resolver: Option<Arc<TokioResolver>>,
    host: String,
    sender: watch::Sender<Arc<[IpAddr]>>,
) {
    let mut failing = false;
    loop {
        let pause = match look_up(resolver.as_deref(), &host).await {
            Ok((addresses, valid)) => {
                failing = false;
                publish(&sender, &host, addresses);
                valid
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(host, %error, "cannot be resolved; {}", consequence(&sender.borrow()));
                }
                failing = true;
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = sender.closed() => return,
        }
    }
}

/// What a failed look-up means for requests.
fn consequence(known: &[IpAddr]) -> &'static str {
    if known.is_empty() {
        "no address is known, so no request can go there"
    } else {
        "addresses known before go on"
    }
}

/// Tells the shards only what has changed, so that they do not rebuild their lists for nothing.
fn publish(sender: &watch::Sender<Arc<[IpAddr]>>, host: &str, addresses: Vec<IpAddr>) {
    sender.send_if_modified(|known| {
        let changed = **known != *addresses;
        if changed {
            tracing::info!(host, ?addresses, "resolved");
            *known = addresses.into();
        }
        changed
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_look_up_says_that_known_addresses_go_on_only_where_there_are_any() {
        assert!(consequence(&[]).contains("no address is known"));
        assert!(consequence(&[[127, 0, 0, 1].into()]).contains("go on"));
    }
}
