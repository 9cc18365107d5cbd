//! Versions and the deployment that splits traffic between them.

use uuid::Uuid;

use super::name::{Tag, VersionId, WorkerName};
use super::ring::{Member, Ring};

/// What is known of a version besides where it runs. Immutable, like the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The identity.
    pub id: VersionId,
    /// A short name for people, such as a release number.
    pub tag: Option<Tag>,
    /// What the version is about.
    pub message: Option<String>,
    /// When it was made: an RFC 3339 date-time as written.
    pub created_on: Option<String>,
    /// The state of the data that the version needs; `None`: the one before any was named. Versions that need different
    /// ones cannot share a deployment.
    pub migration: Option<Tag>,
}

/// An ordered list of versions with shares that total 100 %, as it was deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// As given, else derived from the content by [`Deployment::derived_id`].
    pub id: String,
    /// When it was made: an RFC 3339 date-time as written.
    pub created_on: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// What made it, such as `wrangler` or `api`.
    pub source: Option<String>,
    /// Why it was made.
    pub message: Option<String>,
    /// The versions, in order; the ring's members are their indexes.
    pub versions: Vec<VersionId>,
    /// Who owns which positions.
    pub ring: Ring,
}

impl Deployment {
    /// The version of a ring's member.
    pub fn version(&self, member: Member) -> Option<&VersionId> {
        self.versions.get(member.index())
    }

    /// The ring's member of a version id, compared exactly.
    pub fn member(&self, id: &str) -> Option<Member> {
        let index = self.versions.iter().position(|version| version.as_str() == id)?;
        self.ring.member(index)
    }

    /// The id of a deployment that was written without one: a UUIDv5 of the worker's name and the deployment's content,
    /// so that every replica and every restart agrees. The content is all fields but the id, as they are here.
    pub fn derived_id(&self, worker: &WorkerName) -> String {
        let mut content = format!("{worker}\n");
        for text in [&self.created_on, &self.author, &self.source, &self.message] {
            // Each text with its length, so that no two contents are written alike.
            let text = text.as_deref().unwrap_or("");
            content.push_str(&format!("{} {text}\n", text.len()));
        }
        for (version, share) in self.versions.iter().zip(self.ring.shares()) {
            content.push_str(&format!("{version} {}\n", share.thousandths()));
        }
        for arc in self.ring.arcs() {
            content.push_str(&format!("{} {} {}\n", arc.member.index(), arc.from, arc.to));
        }
        Uuid::new_v5(&NAMESPACE, content.as_bytes()).to_string()
    }
}

/// The namespace of derived deployment ids: a random UUID, fixed for ever.
const NAMESPACE: Uuid = Uuid::from_u128(0x6c0f_0c1b_9e0a_4f5e_8a55_4b1f_3c9d_2e71);
