//! `Cloudflare-Workers-Version-Overrides`: an RFC 8941 Dictionary of worker names and version ids.

use std::convert::Infallible;

use sfv::visitor::{
    DictionaryVisitor, EntryVisitor, Ignored, InnerListVisitor, ItemVisitor, ParameterVisitor,
};
use sfv::{BareItemFromInput, KeyRef, Parser, Version};

use super::ring::Member;

/// The request header that names versions by worker.
pub const OVERRIDES_HEADER: &str = "cloudflare-workers-version-overrides";

/// What an overrides field says for one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Override {
    /// Nothing: no field, or no member of this worker's name.
    Absent,
    /// A version of the active deployment, 0 % included.
    Version(Member),
    /// It does not count; the request goes on as if there were none.
    Ignored(OverrideProblem),
}

/// Why an override does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OverrideProblem {
    /// The field is not a Dictionary: all of it is ignored (RFC 8941 section 4.2).
    Invalid,
    /// The member named after this worker is not a String.
    NotAString,
    /// The String names no version of the active deployment.
    NotInDeployment,
    /// The sender may not send overrides to this worker.
    Denied,
}

impl OverrideProblem {
    /// Every problem, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Invalid, Self::NotAString, Self::NotInDeployment, Self::Denied];

    /// The word for it in headers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotAString => "not-a-string",
            Self::NotInDeployment => "not-in-deployment",
            Self::Denied => "denied",
        }
    }
}

impl Override {
    /// Reads a field value (all its lines joined with `, `) for one worker. Parameters are ignored; of duplicates the
    /// last counts, whatever its type. Allocates only where the value has an escaped String.
    pub fn parse(field: &[u8], worker: &str, find: impl Fn(&str) -> Option<Member>) -> Self {
        let visitor = Visitor { worker, find, found: Self::Absent };
        Parser::new(field)
            .with_version(Version::Rfc8941)
            .parse_dictionary_with_visitor(visitor)
            .unwrap_or(Self::Ignored(OverrideProblem::Invalid))
    }
}

struct Visitor<'a, F> {
    worker: &'a str,
    find: F,
    found: Override,
}

impl<'de, F: Fn(&str) -> Option<Member>> DictionaryVisitor<'de> for Visitor<'_, F> {
    type Out = Override;
    type Error = Infallible;

    fn entry(&mut self, key: &'de KeyRef) -> Result<impl EntryVisitor<'de>, Infallible> {
        let ours = key.as_str() == self.worker;
        Ok(ours.then_some(Entry { find: &self.find, found: &mut self.found }))
    }

    fn finish(self) -> Result<Override, Infallible> {
        Ok(self.found)
    }
}

/// The member named after the worker: sets the result anew each time, so that the last duplicate wins.
struct Entry<'a, F> {
    find: &'a F,
    found: &'a mut Override,
}

impl<'de, F: Fn(&str) -> Option<Member>> EntryVisitor<'de> for Entry<'_, F> {
    type Error = Infallible;

    fn item(self) -> Result<impl ItemVisitor<'de>, Infallible> {
        Ok(self)
    }

    fn inner_list(self) -> Result<impl InnerListVisitor<'de>, Infallible> {
        *self.found = Override::Ignored(OverrideProblem::NotAString);
        Ok(Ignored)
    }
}

impl<'de, F: Fn(&str) -> Option<Member>> ItemVisitor<'de> for Entry<'_, F> {
    type Out = ();
    type Error = Infallible;

    fn bare_item(
        self,
        item: BareItemFromInput<'de>,
    ) -> Result<impl ParameterVisitor<'de, Out = ()>, Infallible> {
        *self.found = match item {
            BareItemFromInput::String(id) => match (self.find)(id.as_str()) {
                Some(member) => Override::Version(member),
                None => Override::Ignored(OverrideProblem::NotInDeployment),
            },
            _ => Override::Ignored(OverrideProblem::NotAString),
        };
        Ok(Ignored)
    }
}
