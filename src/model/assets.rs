//! Static assets: which paths are some, and which versions a request for one may be asked of.
//!
//! A page names its scripts and styles by their content, so each version has files that no other has. A browser that shows a
//! page of one version and asks another for its files gets 404. So an asset may be asked of every version whose pages are
//! about: those with a share of the traffic, and those that are retained although they have none any more. A version at 0 %
//! that is not retained is never asked.

use std::fmt;

use super::deployment::{Deployment, Metadata};
use super::head::trim_ows;
use super::name::VersionId;
use super::percent;
use super::ring::Member;

/// A pattern of paths: `*` stands for any run of bytes, all else for itself. It is matched against the whole raw path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// What stands before the first `*`; the whole path where there is none.
    first: Box<str>,
    /// What stands between two.
    middle: Box<[Box<str>]>,
    /// What stands behind the last; `None` where there is none.
    last: Option<Box<str>>,
}

/// The longest pattern, in bytes.
pub const LONGEST_PATTERN: usize = 1024;

impl PathPattern {
    /// A pattern from its text.
    ///
    /// # Errors
    /// [`PathPatternError`] says why no path can match it, or which one was meant.
    pub fn parse(text: &str) -> Result<Self, PathPatternError> {
        if text.len() > LONGEST_PATTERN {
            return Err(PathPatternError::TooLong);
        }
        if !text.starts_with(['/', '*']) {
            return Err(PathPatternError::Start);
        }
        if text.contains(['?', '#']) {
            return Err(PathPatternError::Query);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(PathPatternError::Character);
        }
        let Some((first, rest)) = text.split_once('*') else {
            return Ok(Self { first: text.into(), middle: Box::default(), last: None });
        };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let middle = middle.split('*').filter(|part| !part.is_empty()).map(Box::from).collect();
        Ok(Self { first: first.into(), middle, last: Some(last.into()) })
    }

    /// Whether it matches a raw path. Takes time in proportion to the path's length for each `*`, and allocates nothing.
    pub fn matches(&self, path: &str) -> bool {
        let Some(last) = &self.last else { return *self.first == *path };
        let rest = path.strip_prefix(&*self.first).and_then(|rest| rest.strip_suffix(&**last));
        // The first place of each part leaves the most for those that follow.
        let after = |rest: &'_ str, part: &str| rest.find(part).map(|at| at + part.len());
        let mut left = match rest {
            Some(rest) => rest,
            None => return false,
        };
        for part in &self.middle {
            let Some(rest) = after(left, part).and_then(|end| left.get(end..)) else { return false };
            left = rest;
        }
        true
    }
}

/// Why a text is not a pattern of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathPatternError {
    /// It is longer than [`LONGEST_PATTERN`].
    TooLong,
    /// It begins neither with `/` nor with `*`, as every path does.
    Start,
    /// It has a query or a fragment.
    Query,
    /// It has a character that must be percent-encoded.
    Character,
}

impl fmt::Display for PathPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "it has more than {LONGEST_PATTERN} characters"),
            Self::Start => f.write_str("every path begins with `/`, so a pattern begins with `/` or `*`"),
            Self::Query => f.write_str("the path is matched without query and fragment"),
            Self::Character => f.write_str("the path has a character that must be percent-encoded"),
        }
    }
}

impl std::error::Error for PathPatternError {}

/// How many versions besides its own a request for an asset may be asked of.
pub const MOST_OTHERS: usize = 4;

/// The versions that a request for an asset may be asked of, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eligible {
    members: Box<[Member]>,
    /// The newest first; of those that are equally old, the later in the file.
    names: Box<[Name]>,
}

/// By what names a page says which version it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    id: VersionId,
    tag: Option<Box<str>>,
    member: Member,
}

impl Eligible {
    /// Those of a deployment with a share above 0, in its order, then the retained ones in theirs. `versions` are the worker's
    /// in the order of the file, each with its time of making, in any unit; one without a time counts as older.
    pub fn new<'a>(
        deployment: &Deployment,
        retained: &[VersionId],
        versions: impl Iterator<Item = (&'a Metadata, Option<i128>)>,
    ) -> Self {
        let mut members: Vec<_> =
            deployment.ring.members().filter(|(_, share)| *share > 0).map(|(member, _)| member).collect();
        let mut beyond = 0;
        let mut known: Vec<(&VersionId, Member)> = Vec::new();
        known.extend(members.iter().filter_map(|member| Some((deployment.version(*member)?, *member))));
        for id in retained {
            let member = deployment.member(id.as_str()).unwrap_or_else(|| {
                beyond += 1;
                deployment.ring.beyond(beyond - 1)
            });
            if !members.contains(&member) {
                members.push(member);
                known.push((id, member));
            }
        }
        let named = |(place, (metadata, made)): (usize, (&Metadata, Option<i128>))| {
            let (_, member) = known.iter().find(|(id, _)| **id == metadata.id)?;
            let tag = metadata.tag.as_ref().map(|tag| tag.as_str().into());
            Some(((made, place), Name { id: metadata.id.clone(), tag, member: *member }))
        };
        let mut names: Vec<_> = versions.enumerate().filter_map(named).collect();
        names.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
        Self { members: members.into(), names: names.into_iter().map(|(_, name)| name).collect() }
    }

    /// All of them.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether a request may be asked of any version but this one.
    pub fn others_than(&self, member: Member) -> bool {
        self.members.iter().any(|one| *one != member)
    }

    /// The next version to ask, given those that were asked already, its own among them: none twice, and only so many.
    pub fn next(&self, asked: &[Member], mut is_up: impl FnMut(Member) -> bool) -> Option<Member> {
        if asked.len() > MOST_OTHERS {
            return None;
        }
        self.members.iter().copied().find(|member| !asked.contains(member) && is_up(*member))
    }

    /// The version that a page says it is of: by its id, else the newest with that tag.
    pub fn named(&self, name: &[u8]) -> Option<Member> {
        let by_id = || self.names.iter().find(|one| one.id.as_str().as_bytes() == name);
        let by_tag =
            || self.names.iter().find(|one| one.tag.as_ref().is_some_and(|tag| tag.as_bytes() == name));
        by_id().or_else(by_tag).map(|one| one.member)
    }

    /// The version that a request names, by `x-deployment-id`, else by `dpl` in its query; a name of none is as if it were not
    /// there.
    pub fn pinned(&self, header: Option<&[u8]>, query: Option<&str>) -> Option<Member> {
        let by_header = || self.named(trim_ows(header?));
        let by_query = || {
            let value = query?.split('&').find_map(|pair| pair.strip_prefix("dpl="))?;
            let mut buffer = [0; LONGEST_NAME];
            self.named(decoded(value, &mut buffer)?)
        };
        by_header().or_else(by_query)
    }
}

/// The request header by which a page says which version it is of, as Next.js and Vercel have it.
pub const DEPLOYMENT_HEADER: &str = "x-deployment-id";

/// No id and no tag is longer, in bytes.
const LONGEST_NAME: usize = 100;

/// A part of a query with what is percent-encoded decoded; `None` where it is too long for a name. `+` stands for itself: tags
/// have it, as build metadata.
fn decoded<'b>(text: &str, buffer: &'b mut [u8; LONGEST_NAME]) -> Option<&'b [u8]> {
    let (mut rest, mut length) = (text.as_bytes(), 0);
    while let Some((byte, width)) = percent::first(rest) {
        *buffer.get_mut(length)? = byte;
        rest = rest.get(width..).unwrap_or_default();
        length += 1;
    }
    buffer.get(..length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern).unwrap().matches(path)
    }

    /// What a pattern means, by its definition: each `*` is tried with every run of bytes.
    fn naive(pattern: &[u8], path: &[u8]) -> bool {
        match pattern {
            [] => path.is_empty(),
            [b'*', rest @ ..] => (0..=path.len()).any(|skip| naive(rest, &path[skip..])),
            [byte, rest @ ..] => path.first() == Some(byte) && naive(rest, &path[1..]),
        }
    }

    #[test]
    fn a_pattern_is_for_the_whole_path_with_its_case() {
        for (pattern, path, expected) in [
            ("/assets/*", "/assets/a.js", true),
            ("/assets/*", "/assets/", true),
            ("/assets/*", "/assets", false),
            ("/assets/*", "/x/assets/a", false),
            ("*.js", "/a/b.js", true),
            ("*.js", "/a.js/b", false),
            ("*.js", "/a.JS", false),
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("*", "/", true),
            ("/a*a", "/a", false),
            ("/a*a", "/aa", true),
            ("/_next/*/x-*.css", "/_next/static/x-1.css", true),
            ("/*ab*ab*ab", "/abab", false),
            ("/é", "/", false),
        ] {
            let found = PathPattern::parse(pattern).is_ok_and(|pattern| pattern.matches(path));
            assert_eq!(found, expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_longer_than_one_of_few() {
        let pattern = format!("/{}b", "*a".repeat(500));
        assert!(!matches(&pattern, &format!("/{}", "a".repeat(16_000))));
        assert!(matches(&pattern, &format!("/{}b", "a".repeat(16_000))));
    }

    #[test]
    fn what_can_match_no_path_is_no_pattern() {
        for (text, error) in [
            ("", PathPatternError::Start),
            ("assets/*", PathPatternError::Start),
            ("/a?b", PathPatternError::Query),
            ("/a#b", PathPatternError::Query),
            ("/a b", PathPatternError::Character),
            ("/ü", PathPatternError::Character),
        ] {
            assert_eq!(PathPattern::parse(text), Err(error), "{text}");
        }
        assert_eq!(PathPattern::parse(&"/".repeat(1025)), Err(PathPatternError::TooLong));
    }

    #[test]
    fn what_is_percent_encoded_is_decoded_and_nothing_else() {
        let mut buffer = [0; LONGEST_NAME];
        for (text, expected) in [
            ("a%20b", "a b"),
            ("%4a%4A", "JJ"),
            ("a%2", "a%2"),
            ("%zz%", "%zz%"),
            ("1.0+b", "1.0+b"),
            ("", ""),
        ] {
            assert_eq!(decoded(text, &mut buffer), Some(expected.as_bytes()), "{text}");
        }
        assert!(decoded(&"%41".repeat(100), &mut buffer).is_some());
        assert_eq!(decoded(&"a".repeat(101), &mut buffer), None);
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_definition_says(pattern in "[/*][ab/*]{0,8}", path in "/[ab/]{0,10}") {
            prop_assert_eq!(matches(&pattern, &path), naive(pattern.as_bytes(), path.as_bytes()));
        }
    }
}
