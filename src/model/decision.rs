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
    /// The version that an override names, already checked to be in the deployment.
    pub forced: Option<Member>,
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
    /// Where the key fell on the ring; `None` where no key decided.
    pub position: Option<Position>,
}

/// Why a request went to its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// `Cloudflare-Workers-Version-Overrides` named it.
    Override,
    /// The version key's place on the ring.
    Key,
    /// A draw.
    Random,
    /// The version that a key or a draw chose is down; this one stands in for it.
    Failover,
}

impl Reason {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Override, Self::Key, Self::Random, Self::Failover];

    /// The word for it in headers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Override => "override",
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
    /// All key lines joined.
    pub key: Option<&'a [u8]>,
    /// All override lines joined.
    pub overrides: Option<&'a [u8]>,
    /// Whether the request came through a trusted proxy.
    pub trusted: bool,
    /// What overrides must show; `None` where this worker wants nothing shown.
    pub secret: Option<&'a Secret>,
    /// A random number, evenly distributed over all of `u64`.
    pub draw: u64,
}

/// The choice made for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection<'a> {
    /// Where it goes and why.
    pub decision: Decision,
    /// What the overrides field said for this worker.
    pub overridden: Override,
    /// The key that counts: allowed, trimmed, not empty. Present also where an override decided.
    pub key: Option<&'a [u8]>,
}

impl Policy {
    /// Chooses a version: gate, override, key, draw, in this order.
    pub fn select<'a>(&self, sent: &Sent<'a>) -> Selection<'a> {
        let key =
            sent.key.filter(|_| self.keys.allow(sent.trusted)).map(trim_ows).filter(|key| !key.is_empty());
        let overridden = self.overridden(sent);
        let forced = match overridden {
            Override::Version(member) => Some(member),
            Override::Absent | Override::Ignored(_) => None,
        };
        let decision = self.deployment.ring.decide(&Ask { forced, key, draw: sent.draw });
        Selection { decision, overridden, key }
    }

    fn overridden(&self, sent: &Sent<'_>) -> Override {
        let Some(field) = sent.overrides else { return Override::Absent };
        let said = Override::guarded(field, self.name.as_str(), sent.secret, |id| self.deployment.member(id));
        match said {
            Override::Absent => Override::Absent,
            _ if !self.overrides.allow(sent.trusted) => Override::Ignored(OverrideProblem::Denied),
            said => said,
        }
    }
}
