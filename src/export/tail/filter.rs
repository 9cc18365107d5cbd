//! Which requests a tail shows.

use std::net::IpAddr;

use http::HeaderName;

use super::Seen;
use crate::export::access::{Outcome, Record};

/// Conditions that a request must meet, all of them.
#[derive(Clone, Debug, Default)]
pub struct Filter(Vec<Condition>);

/// One condition, as Cloudflare's tails know them.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// This part of the requests, chosen at random: above 0, and 1 for all.
    Sampling(f64),
    /// It ended in one of these ways.
    Outcome(Vec<Outcome>),
    /// It has one of these methods, in any case.
    Method(Vec<String>),
    /// It has this field; and this text in a line of it, where there is one.
    Header(HeaderName, Option<String>),
    /// It comes from one of these addresses.
    Client(Vec<IpAddr>),
    /// Its URL as it is shown, its error or its upstream has this text in it.
    Text(String),
    /// The version of this id serves it.
    Version(String),
}

impl Filter {
    /// A filter of these conditions; of none, it lets everything through.
    pub fn new(conditions: Vec<Condition>) -> Self {
        Self(conditions)
    }

    /// Whether the tail shows a request.
    pub(super) fn admits(&self, record: &Record<'_>, seen: &Seen<'_>, url: &str) -> bool {
        self.0.iter().all(|condition| condition.is_met(record, seen, url))
    }
}

impl Condition {
    fn is_met(&self, record: &Record<'_>, seen: &Seen<'_>, url: &str) -> bool {
        match self {
            Self::Sampling(rate) => fastrand::f64() < *rate,
            Self::Outcome(outcomes) => outcomes.contains(&record.outcome),
            Self::Method(methods) => methods.iter().any(|method| method.eq_ignore_ascii_case(record.method)),
            Self::Header(name, None) => seen.headers.contains_key(name),
            Self::Header(name, Some(text)) => {
                seen.headers.get_all(name).iter().any(|line| contains(line.as_bytes(), text.as_bytes()))
            }
            Self::Client(addresses) => {
                let client = record.client.map(|address| address.to_canonical());
                client.is_some_and(|client| addresses.iter().any(|address| address.to_canonical() == client))
            }
            Self::Text(text) => [Some(url), record.error, seen.problem, record.upstream]
                .into_iter()
                .flatten()
                .any(|shown| shown.contains(text)),
            Self::Version(id) => record.version.is_some_and(|version| version.id == id),
        }
    }
}

fn contains(line: &[u8], text: &[u8]) -> bool {
    memchr::memmem::find(line, text).is_some()
}
