//! `[worker.assets]`: static assets, which the versions of a worker serve for each other.

use std::collections::HashMap;
use std::str::FromStr;

use toml::value::{Datetime, Offset};

use super::Version;
use super::deployment::Known;
use super::fields::{Fields, Text, Walk};
use super::texts::Problem;
use super::worker::named;
use crate::diag::{Diagnostic, Span, quoted};
use crate::model::assets::{Eligible, PathPattern};
use crate::model::deployment::{Deployment, Metadata};
use crate::model::name::VersionId;
use crate::model::ring::Member;
use crate::model::route::has_dot_segment;

/// `[worker.assets]`: paths of static assets, and what is done about those that a version has not got.
#[derive(Clone, Debug, PartialEq)]
pub struct Assets {
    /// Which paths are static assets; at least one pattern.
    pub paths: Vec<PathPattern>,
    /// Whether an asset that its version has not got is asked of others.
    pub fallback: bool,
    /// Versions that serve assets whatever their share; at most [`MOST_RETAINED`].
    pub retain: Vec<VersionId>,
    /// The versions that an asset may be asked of.
    pub eligible: Eligible,
}

/// The most versions that a worker retains.
pub const MOST_RETAINED: usize = 8;

impl Assets {
    /// Whether a raw path is that of a static asset. One with a dot segment, encoded or not, never is: what the upstream takes
    /// it for may be anything else.
    pub fn matches(&self, path: &str) -> bool {
        self.paths.iter().any(|pattern| pattern.matches(path)) && !has_dot_segment(path)
    }

    /// The version that a request for an asset names, by `x-deployment-id`, else by `dpl` in its query. GET and HEAD alone
    /// name one: nothing that may change something goes to a version that is out of the deployment. For paths that
    /// [`Self::matches`] alone.
    pub fn pinned(&self, method: &str, header: Option<&[u8]>, query: Option<&str>) -> Option<Member> {
        if !matches!(method, "GET" | "HEAD") {
            return None;
        }
        self.eligible.pinned(header, query)
    }
}

/// What the file says of a worker's assets, before its deployment is known to be good.
pub(super) struct Written {
    paths: Vec<PathPattern>,
    fallback: bool,
    retain: Vec<VersionId>,
}

/// `[worker.assets]`, as far as it is good.
pub(super) fn assets(walk: &mut Walk<'_>, fields: &Fields<'_>, known: &Known<'_>) -> Written {
    let kind = fields.kind("paths");
    let parse = |text: &str| PathPattern::parse(text).map_err(|error| Problem::new(error.to_string()));
    let texts = fields.texts("paths");
    let paths =
        texts.iter().filter_map(|text| walk.parsed(text, "a pattern of paths", kind, parse)).collect();
    Written {
        paths,
        fallback: fields.boolean("fallback").unwrap_or(true),
        retain: retain(walk, fields, known),
    }
}

/// Warns of a pattern that makes pages assets, where there is a cookie that only pages are given.
pub(super) fn warn_of_pages(walk: &mut Walk<'_>, fields: &Fields<'_>, cookie: &str) {
    let takes_pages =
        |text: &Text<'_>| PathPattern::parse(text.value).is_ok_and(|pattern| pattern.matches("/"));
    if let Some(text) = fields.texts("paths").into_iter().find(takes_pages) {
        let title = format!("the pattern {} makes pages assets", quoted(text.value));
        walk.report(
            Diagnostic::warning(title, text.span)
                .label(format!("it matches `/`, and assets are never given the cookie {}", quoted(cookie)))
                .help("list where files are, such as \"/assets/*\" or \"*.js\""),
        );
    }
}

fn retain(walk: &mut Walk<'_>, fields: &Fields<'_>, known: &Known<'_>) -> Vec<VersionId> {
    let kind = fields.kind("retain");
    let mut seen: HashMap<&str, Span> = HashMap::new();
    let mut retain = Vec::new();
    let texts = fields.texts("retain");
    for text in &texts {
        let Some(id) = walk.parsed(text, "an id", kind, named(VersionId::new)) else { continue };
        if let Some(first) = seen.get(text.value) {
            let label = format!("listed already on line {}", walk.line(first));
            let title = format!("version {} is retained twice", quoted(text.value));
            walk.conclude(Diagnostic::error(title, text.span.clone()).label(label));
        } else if known.contains(text.value) {
            retain.push(id);
        } else if !known.is_empty() {
            walk.conclude(known.unknown(text, "a version of this worker"));
        }
        seen.insert(text.value, text.span.clone());
    }
    if let (true, Some(text)) = (texts.len() > MOST_RETAINED, texts.get(MOST_RETAINED)) {
        let title = format!("more than {MOST_RETAINED} versions are retained");
        let mistake = Diagnostic::error(title, text.span.clone());
        let label = format!("this is number {} of {}", MOST_RETAINED + 1, texts.len());
        walk.conclude(mistake.label(label).help("retain those whose pages are still open somewhere"));
    }
    retain
}

impl Written {
    /// With the deployment that it belongs to.
    pub(super) fn resolved(self, deployment: &Deployment, versions: &[Version]) -> Assets {
        let made = |version: &Version| made(&version.metadata);
        let named = versions.iter().map(|version| (&version.metadata, made(version)));
        let eligible = Eligible::new(deployment, &self.retain, named);
        Assets { paths: self.paths, fallback: self.fallback, retain: self.retain, eligible }
    }
}

/// When a version was made, in nanoseconds from some moment.
fn made(metadata: &Metadata) -> Option<i128> {
    let Datetime { date: Some(date), time: Some(time), offset: Some(offset) } =
        Datetime::from_str(metadata.created_on.as_deref()?).ok()?
    else {
        return None;
    };
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    // Days of the civil calendar: years begin in March, so that leap days are last.
    let (month, year) = (i64::from(date.month), i64::from(date.year) - i64::from(date.month <= 2));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(date.day);
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year;
    let clock = (i64::from(time.hour) * 60 + i64::from(time.minute) - minutes) * 60;
    let seconds = days * 86_400 + clock + i64::from(time.second.unwrap_or(0));
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(time.nanosecond.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(created_on: &str) -> i128 {
        let id = VersionId::new("v").unwrap();
        let metadata = Metadata {
            id,
            tag: None,
            message: None,
            created_on: Some(created_on.to_owned()),
            migration: None,
        };
        made(&metadata).unwrap()
    }

    #[test]
    fn times_are_compared_as_moments_and_not_as_texts() {
        let ordered = [
            "2023-12-31T23:59:59Z",
            "2024-01-01T01:00:00+01:00",
            "2024-01-01T00:00:00.5Z",
            "2024-02-28T23:59:59Z",
            "2024-02-29T12:00:00Z",
            "2024-02-29T23:30:00-01:00",
            "2024-03-01T01:00:00Z",
            "2024-12-31T23:59:59Z",
            "2025-01-01T00:00:00Z",
        ];
        assert!(ordered.windows(2).all(|pair| at(pair[0]) < at(pair[1])));
        assert_eq!(at("2024-01-01T01:00:00+01:00"), at("2024-01-01T00:00:00Z"));
        assert_eq!(at("2024-03-01T00:00:00Z") - at("2024-02-29T00:00:00Z"), 86_400_000_000_000);
        assert_eq!(at("2023-03-01T00:00:00Z") - at("2023-02-28T00:00:00Z"), 86_400_000_000_000);
    }
}
