//! `[worker.assets]`: static assets, which the versions of a worker serve for each other.

use std::collections::HashMap;

use super::Version;
use super::deployment::Known;
use super::fields::{Fields, Text, Walk};
use super::moment::moment;
use super::texts::Problem;
use super::worker::named;
use crate::diag::{Diagnostic, Span, quoted};
use crate::model::assets::{Eligible, PathPattern};
use crate::model::deployment::Deployment;
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
        let made = |version: &Version| moment(version.metadata.created_on.as_deref()?);
        let named = versions.iter().map(|version| (&version.metadata, made(version)));
        let eligible = Eligible::new(deployment, &self.retain, named);
        Assets { paths: self.paths, fallback: self.fallback, retain: self.retain, eligible }
    }
}
