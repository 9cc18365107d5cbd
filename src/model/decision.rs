//! What a decision may depend on, and what it says.

use super::deployment::Deployment;
use super::head::trim_ows;
use super::name::WorkerName;
use super::overrides::{Override, OverrideProblem};
use super::ring::Member;
use super::secret::Secret;
use super::share::Position;

/// All that a decision may depend on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// The name of the object that the request is for.
    pub object: Option<&'a [u8]>,
    /// The version that an override names, already checked to be in the deployment.
    pub forced: Option<Member>,
    /// The version that an asset's page came from, already checked to be eligible.
    pub pinned: Option<Member>,
    /// The version key, trimmed and not empty.
    pub key: Option<&'a [u8]>,
    /// A random number from the caller, evenly distributed over all of `u64`.
    pub draw: u64,
}

/// Where a request goes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The version.
    pub member: Member,
    /// Why this one.
    pub reason: Reason,
    /// Where the object's name or the key fell on the ring; `None` where neither decided.
    pub position: Option<Position>,
}

/// Why a request went to its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The object that it is for has this version.
    Object,
    /// `Cloudflare-Workers-Version-Overrides` named it.
    Override,
    /// It is for an asset: its page came from this version, or this version has what its own has not.
    Asset,
    /// The version key's place on the ring.
    Key,
    /// A draw.
    Random,
    /// The version that a key or a draw chose is down; this one stands in for it.
    Failover,
}

impl Reason {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Object, Self::Override, Self::Asset, Self::Key, Self::Random, Self::Failover];

    /// The word for it in headers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Override => "override",
            Self::Asset => "asset",
            Self::Key => "key",
            Self::Random => "random",
            Self::Failover => "failover",
        }
    }
}

/// Who may send a header that chooses a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Senders {
    /// Every client.
    #[default]
    Anyone,
    /// Clients whose connection comes from one of the listener's trusted proxies.
    Trusted,
    /// No client: only what the proxy itself sets counts.
    Never,
}

impl Senders {
    /// Whether a client may send it.
    pub fn allow(self, trusted: bool) -> bool {
        match self {
            Self::Anyone => true,
            Self::Trusted => trusted,
            Self::Never => false,
        }
    }
}

/// What a worker's own settings say about choosing a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The worker.
    pub name: WorkerName,
    /// Who may send `Cloudflare-Workers-Version-Key`.
    pub keys: Senders,
    /// Who may send `Cloudflare-Workers-Version-Overrides`.
    pub overrides: Senders,
    /// The active deployment.
    pub deployment: Deployment,
}

/// What a request brings to the choice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent<'a> {
    /// The name of the object that the request is for, not empty; `None` where it is for none.
    pub object: Option<&'a [u8]>,
    /// All key lines joined.
    pub key: Option<&'a [u8]>,
    /// All override lines joined.
    pub overrides: Option<&'a [u8]>,
    /// Which of the two a rule has set.
    pub ruled: Ruled,
    /// Whether the gate has taken an override away: see [`Policy::denies`].
    pub denied: bool,
    /// Whether the request came through a trusted proxy.
    pub trusted: bool,
    /// What overrides must show; `None` where this worker wants nothing shown.
    pub secret: Option<&'a Secret>,
    /// The eligible version that an asset's page came from.
    pub pinned: Option<Member>,
    /// The value of the affinity cookie, already checked by [`super::affinity::is_valid`].
    pub cookie: Option<&'a [u8]>,
    /// An id for a client that has none and can receive it as a cookie.
    pub made: Option<&'a [u8]>,
    /// A random number, evenly distributed over all of `u64`.
    pub draw: u64,
}

/// Which headers a rule of the worker has set: those count whoever sent the request, and without a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ruled {
    /// `Cloudflare-Workers-Version-Key`.
    pub key: bool,
    /// `Cloudflare-Workers-Version-Overrides`.
    pub overrides: bool,
}

/// The choice made for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection<'a> {
    /// Where it goes and why.
    pub decision: Decision,
    /// What the overrides field said for this worker.
    pub overridden: Override,
    /// The key that counts: allowed, trimmed, not empty. Present also where something else decided.
    pub key: Option<&'a [u8]>,
    /// Where the key came from.
    pub origin: Origin,
}

/// Where a key came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The key header, as the client sent it or a rule set it; or there is no key.
    #[default]
    Header,
    /// The affinity cookie.
    Cookie,
    /// It was made for this request, which nothing else has decided.
    Made,
}

impl Policy {
    /// Chooses a version: gate, object, override, asset pin, key, cookie, made id, draw, in this order.
    // Within its caller, so that a request that brings only a few of these pays for no other.
    #[inline(always)]
    pub fn select<'a>(&self, sent: &Sent<'a>) -> Selection<'a> {
        let allowed = |key: &&[u8]| !key.is_empty() && (sent.ruled.key || self.keys.allow(sent.trusted));
        let key = sent.key.map(trim_ows).filter(allowed);
        let (key, origin) = match key {
            None if sent.cookie.is_some() => (sent.cookie, Origin::Cookie),
            key => (key, Origin::Header),
        };
        let overridden = self.overridden(sent);
        let forced = match overridden {
            Override::Version(member) => Some(member),
            Override::Absent | Override::Ignored(_) => None,
        };
        let decided = sent.object.is_some() || forced.is_some() || sent.pinned.is_some();
        let (key, origin) = match sent.made {
            Some(made) if key.is_none() && !decided => (Some(made), Origin::Made),
            _ => (key, origin),
        };
        let ask = Ask { object: sent.object, forced, pinned: sent.pinned, key, draw: sent.draw };
        Selection { decision: self.deployment.ring.decide(&ask), overridden, key, origin }
    }

    /// Whether an overrides field names this worker, and its sender may not send it. For callers that take the field off
    /// before they ask for a version.
    pub fn denies(&self, field: &[u8], trusted: bool) -> bool {
        let says = || Override::parse(field, self.name.as_str(), |_| None) != Override::Absent;
        !self.overrides.allow(trusted) && says()
    }

    fn overridden(&self, sent: &Sent<'_>) -> Override {
        let nothing = if sent.denied { Override::Ignored(OverrideProblem::Denied) } else { Override::Absent };
        let Some(field) = sent.overrides else { return nothing };
        let secret = sent.secret.filter(|_| !sent.ruled.overrides);
        let said = Override::guarded(field, self.name.as_str(), secret, |id| self.deployment.member(id));
        match said {
            Override::Absent => nothing,
            _ if !sent.ruled.overrides && !self.overrides.allow(sent.trusted) => {
                Override::Ignored(OverrideProblem::Denied)
            }
            // An object has one version, whatever anybody asks for.
            Override::Version(_) if sent.object.is_some() => Override::Ignored(OverrideProblem::Object),
            said => said,
        }
    }
}
