//! `Cloudflare-Workers-Version-Overrides`: an RFC 8941 Dictionary of worker names and version ids.

use std::convert::Infallible;
use std::ops::Range;

use sfv::visitor::{
    DictionaryVisitor, EntryVisitor, Ignored, InnerListVisitor, ItemVisitor, ParameterVisitor,
};
use sfv::{BareItemFromInput, KeyRef, Parser, Version};

use super::ring::Member;
use super::secret::Secret;

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
    /// The request is for an object, which has one version.
    Object,
}

impl OverrideProblem {
    /// Every problem, in the order of their discriminants.
    pub const ALL: [Self; 5] =
        [Self::Invalid, Self::NotAString, Self::NotInDeployment, Self::Denied, Self::Object];

    /// The word for it in headers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotAString => "not-a-string",
            Self::NotInDeployment => "not-in-deployment",
            Self::Denied => "denied",
            Self::Object => "object",
        }
    }
}

impl Override {
    /// Reads a field value (all its lines joined with `, `) for one worker. Parameters are ignored; of duplicates the
    /// last counts, whatever its type. Allocates only where the value has an escaped String.
    pub fn parse(field: &[u8], worker: &str, find: impl Fn(&str) -> Option<Member>) -> Self {
        Self::guarded(field, worker, None, find)
    }

    /// The same where a secret must be shown: a member without it as its parameter `token` is denied, so that nobody else
    /// learns which versions there are. The parameter must be a String; of duplicates the last counts (RFC 8941 section
    /// 4.2.3.2).
    pub fn guarded(
        field: &[u8],
        worker: &str,
        secret: Option<&Secret>,
        find: impl Fn(&str) -> Option<Member>,
    ) -> Self {
        let visitor = Visitor { worker, secret, find, found: Self::Absent };
        parser(field)
            .parse_dictionary_with_visitor(visitor)
            .unwrap_or(Self::Ignored(OverrideProblem::Invalid))
    }
}

fn parser(field: &[u8]) -> Parser<'_> {
    Parser::new(field).with_version(Version::Rfc8941)
}

struct Visitor<'a, F> {
    worker: &'a str,
    secret: Option<&'a Secret>,
    find: F,
    found: Override,
}

impl<'de, F: Fn(&str) -> Option<Member>> DictionaryVisitor<'de> for Visitor<'_, F> {
    type Out = Override;
    type Error = Infallible;

    fn entry(&mut self, key: &'de KeyRef) -> Result<impl EntryVisitor<'de>, Infallible> {
        let ours = key.as_str() == self.worker;
        Ok(ours.then_some(Entry { find: &self.find, secret: self.secret, found: &mut self.found }))
    }

    fn finish(self) -> Result<Override, Infallible> {
        Ok(self.found)
    }
}

/// The member named after the worker: sets the result anew each time, so that the last duplicate wins.
struct Entry<'a, F> {
    find: &'a F,
    secret: Option<&'a Secret>,
    found: &'a mut Override,
}

impl<'a, F> Entry<'a, F> {
    /// Notes what the member says; where a secret must be shown, it says so only once its parameters have shown it.
    fn says(self, what: Override) -> Option<Guard<'a>> {
        *self.found = what;
        self.secret.map(|secret| Guard { secret, shown: false, found: self.found })
    }
}

impl<'de, F: Fn(&str) -> Option<Member>> EntryVisitor<'de> for Entry<'_, F> {
    type Error = Infallible;

    fn item(self) -> Result<impl ItemVisitor<'de>, Infallible> {
        Ok(self)
    }

    fn inner_list(self) -> Result<impl InnerListVisitor<'de>, Infallible> {
        Ok(self)
    }
}

impl<'de, F: Fn(&str) -> Option<Member>> InnerListVisitor<'de> for Entry<'_, F> {
    type Error = Infallible;

    fn item(&mut self) -> Result<impl ItemVisitor<'de>, Infallible> {
        Ok(Ignored)
    }

    fn finish(self) -> Result<impl ParameterVisitor<'de>, Infallible> {
        Ok(self.says(Override::Ignored(OverrideProblem::NotAString)))
    }
}

impl<'de, F: Fn(&str) -> Option<Member>> ItemVisitor<'de> for Entry<'_, F> {
    type Out = Option<()>;
    type Error = Infallible;

    fn bare_item(
        self,
        item: BareItemFromInput<'de>,
    ) -> Result<impl ParameterVisitor<'de, Out = Option<()>>, Infallible> {
        let what = match item {
            BareItemFromInput::String(id) => match (self.find)(id.as_str()) {
                Some(member) => Override::Version(member),
                None => Override::Ignored(OverrideProblem::NotInDeployment),
            },
            _ => Override::Ignored(OverrideProblem::NotAString),
        };
        Ok(self.says(what))
    }
}

/// The parameter that shows the secret.
const TOKEN: &str = "token";

/// The parameters of a member that must show a secret.
struct Guard<'a> {
    secret: &'a Secret,
    shown: bool,
    found: &'a mut Override,
}

impl<'de> ParameterVisitor<'de> for Guard<'_> {
    type Out = ();
    type Error = Infallible;

    fn parameter(&mut self, key: &'de KeyRef, value: BareItemFromInput<'de>) -> Result<(), Infallible> {
        if key.as_str() == TOKEN {
            self.shown = match value {
                BareItemFromInput::String(token) => self.secret.is(token.as_str().as_bytes()),
                _ => false,
            };
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Infallible> {
        if !self.shown {
            *self.found = Override::Ignored(OverrideProblem::Denied);
        }
        Ok(())
    }
}

/// Where a field value (all its lines joined with `, `) has parameters named `token` in members of a worker, duplicates
/// and those of any type included, so that they can be cut: each range begins with the `;`. In order; what is left when
/// they are cut is a Dictionary that says the same without them. `None`: the value is no Dictionary, and so nobody can
/// say where they are.
pub fn tokens(field: &[u8], worker: &str) -> Option<Vec<Range<usize>>> {
    let mut names = Vec::new();
    parser(field).parse_dictionary_with_visitor(Members { worker, names: &mut names }).ok()?;
    names.into_iter().map(|name| parameter(field, name)).collect()
}

/// Collects the names of the parameters of a worker's members.
struct Members<'a, 'de> {
    worker: &'a str,
    names: &'a mut Vec<&'de str>,
}

impl<'de> DictionaryVisitor<'de> for Members<'_, 'de> {
    type Out = ();
    type Error = Infallible;

    fn entry(&mut self, key: &'de KeyRef) -> Result<impl EntryVisitor<'de>, Infallible> {
        let ours = key.as_str() == self.worker;
        Ok(ours.then_some(Names(self.names)))
    }

    fn finish(self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Collects the names of a member's parameters, wherever in it they are.
struct Names<'a, 'de>(&'a mut Vec<&'de str>);

impl<'de> EntryVisitor<'de> for Names<'_, 'de> {
    type Error = Infallible;

    fn item(self) -> Result<impl ItemVisitor<'de>, Infallible> {
        Ok(self)
    }

    fn inner_list(self) -> Result<impl InnerListVisitor<'de>, Infallible> {
        Ok(self)
    }
}

impl<'de> InnerListVisitor<'de> for Names<'_, 'de> {
    type Error = Infallible;

    fn item(&mut self) -> Result<impl ItemVisitor<'de>, Infallible> {
        Ok(Names(self.0))
    }

    fn finish(self) -> Result<impl ParameterVisitor<'de>, Infallible> {
        Ok(self)
    }
}

impl<'de> ItemVisitor<'de> for Names<'_, 'de> {
    type Out = ();
    type Error = Infallible;

    fn bare_item(
        self,
        _: BareItemFromInput<'de>,
    ) -> Result<impl ParameterVisitor<'de, Out = ()>, Infallible> {
        Ok(self)
    }
}

impl<'de> ParameterVisitor<'de> for Names<'_, 'de> {
    type Out = ();
    type Error = Infallible;

    fn parameter(&mut self, key: &'de KeyRef, _: BareItemFromInput<'de>) -> Result<(), Infallible> {
        if key.as_str() == TOKEN {
            self.0.push(key.as_str());
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The range of the parameter whose name this is, a part of the field: from its `;` to the end of its value.
fn parameter(field: &[u8], name: &str) -> Option<Range<usize>> {
    let at = name.as_ptr().addr().checked_sub(field.as_ptr().addr())?;
    let before = field.get(..at)?.trim_ascii_end();
    let start = before.len().checked_sub(1).filter(|&at| before[at] == b';')?;
    let value = at + name.len();
    let length = match field.get(value..)? {
        [b'=', rest @ ..] => 1 + item_length(rest),
        _ => 0,
    };
    Some(start..value + length)
}

/// The length of the bare item that a text begins with, which was parsed already and is none that has brackets.
fn item_length(text: &[u8]) -> usize {
    let ends = |byte: &u8| matches!(byte, b';' | b',' | b' ' | b'\t' | b')');
    match text {
        [b'"', rest @ ..] => 1 + string_length(rest),
        _ => text.iter().position(ends).unwrap_or(text.len()),
    }
}

/// The length of a String behind its first quote, the last quote included.
fn string_length(rest: &[u8]) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.iter().enumerate() {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}
