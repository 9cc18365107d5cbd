//! The rules language: what every operator, field and function gives, and what is said about every mistake.

#![allow(clippy::too_many_lines, reason = "tables of cases")]

mod documented;
mod edits;
mod fields;
mod functions;
mod grammar;
mod laws;
mod manual;
mod mistakes;

use std::net::IpAddr;
use std::time::Duration;

use gradual::rules::{Expression, Facts, Filter, Mistake, Parsed, Scratch};

/// A request that rules look at.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    method: String,
    version: http::Version,
    https: bool,
    authority: String,
    path: String,
    query: Option<String>,
    lines: Vec<(String, Vec<u8>)>,
    client: Option<IpAddr>,
}

/// A GET of a URL without lines, over https, from 203.0.113.7.
pub(crate) fn get(target: &str) -> Sample {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    Sample {
        method: "GET".into(),
        version: http::Version::HTTP_11,
        https: true,
        authority: "www.example.com".into(),
        path: path.into(),
        query: query.map(Into::into),
        lines: Vec::new(),
        client: Some([203, 0, 113, 7].into()),
    }
}

impl Sample {
    /// The same with a line more.
    pub(crate) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.lines.push((name.into(), value.as_ref().to_vec()));
        self
    }

    /// What rules see of it.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            method: &self.method,
            version: self.version,
            https: self.https,
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            lines: &self.lines,
            client: self.client,
            time: Duration::from_millis(1_795_233_600_123),
            seed: [0x0011_2233_4455_6677, 0x8899_aabb_ccdd_eeff],
            ray: 0xabc,
        }
    }

    /// Whether it matches.
    pub(crate) fn matches(&self, filter: &str) -> bool {
        let filter = Filter::parse(filter).unwrap_or_else(|mistake| panic!("{filter}: {mistake:#?}"));
        filter.matches(&self.facts(), &mut Scratch::default())
    }

    /// The value of an expression as text; `None` where it is missing.
    pub(crate) fn value(&self, expression: &str) -> Option<Vec<u8>> {
        let parsed = Expression::parse(expression).unwrap_or_else(|m| panic!("{expression}: {m:#?}"));
        parsed.value(&self.facts(), &mut Scratch::default()).map(<[u8]>::to_vec)
    }

    /// The result of an expression of any type, as tools print it.
    pub(crate) fn shows(&self, expression: &str) -> String {
        let parsed = Parsed::parse(expression).unwrap_or_else(|m| panic!("{expression}: {m:#?}"));
        parsed.evaluate(&self.facts(), &mut Scratch::default()).to_string()
    }
}

/// What is wrong with a filter, and the text at fault.
pub(crate) fn mistake(filter: &str) -> (String, Mistake) {
    let mistake = Filter::parse(filter).expect_err(filter);
    (filter[mistake.span.clone()].to_owned(), mistake)
}
