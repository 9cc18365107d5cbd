//! The rules language: filters and values over a request's head, and the header edits that they decide.
//!
//! It is the language of Cloudflare's rules, with its fields and functions as far as a proxy can know them; `docs/rules.md`
//! says all of it. An expression is parsed and typed once, when the file is loaded: whatever is wrong with it is a
//! [`Mistake`] that points at the bytes at fault. What is left to evaluation cannot fail: a value that is not there is
//! *missing*, a comparison with it is false, and every result is bounded.

mod mistake;

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

pub use mistake::Mistake;

use crate::model::head::Lines;

/// What a rule may see: the original request, borrowed. No rule sees what another one has done.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The method, such as `GET`.
    pub method: &'a str,
    /// The version of HTTP that the client speaks.
    pub version: http::Version,
    /// Whether the (believed) scheme is https.
    pub https: bool,
    /// The host that the request is for, as received: with its port where one was sent. Empty if none.
    pub authority: &'a str,
    /// The path as received, not decoded.
    pub path: &'a str,
    /// What follows `?` in the target.
    pub query: Option<&'a str>,
    /// The header lines, names in lower case.
    pub lines: &'a dyn Lines,
    /// The client's address as far as it is believed; `None` on a Unix socket, and then missing.
    pub client: Option<IpAddr>,
    /// The time since the Unix epoch.
    pub time: Duration,
    /// Random bits for `cf.random_seed`.
    pub seed: [u64; 2],
    /// The request's number, for `cf.ray_id`.
    pub ray: u64,
}

/// Buffers that evaluation reuses. One per shard.
#[derive(Debug, Default)]
pub struct Scratch;

/// A condition, such as `http.cookie contains "user_id"`. Equal to another of the same text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    source: Box<str>,
}

impl Filter {
    /// A filter from its text.
    ///
    /// # Errors
    /// The first mistake in the text.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        Ok(Self { source: text.into() })
    }

    /// Whether the request matches.
    pub fn matches(&self, facts: &Facts<'_>, scratch: &mut Scratch) -> bool {
        let _ = (facts, scratch);
        false
    }

    /// The text that it was parsed from.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// A value that becomes text, such as `http.request.cookies["user_id"][0]`. Equal to another of the same text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    source: Box<str>,
}

impl Expression {
    /// A value from its text. Its type is String or Bytes; IP addresses, integers and Booleans are converted.
    ///
    /// # Errors
    /// The first mistake in the text.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        Ok(Self { source: text.into() })
    }

    /// The value of a request; `None` where it is missing. Borrows from the request where it can, else from the scratch.
    pub fn value<'s>(&'s self, facts: &'s Facts<'_>, scratch: &'s mut Scratch) -> Option<&'s [u8]> {
        let _ = (facts, scratch);
        None
    }

    /// The text that it was parsed from.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// Either kind of expression, with a result of any type: for tools.
#[derive(Clone, Debug)]
pub struct Parsed {
    source: Box<str>,
}

impl Parsed {
    /// A filter or a value from its text.
    ///
    /// # Errors
    /// The first mistake in the text.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        Ok(Self { source: text.into() })
    }

    /// What it is, such as `Boolean` or `Array<String>`.
    pub fn type_name(&self) -> String {
        self.source.to_string()
    }

    /// The result for a request.
    pub fn evaluate<'s>(&'s self, facts: &'s Facts<'_>, scratch: &'s mut Scratch) -> Value<'s> {
        let _ = (facts, scratch);
        Value::Missing
    }
}

/// A result. `Display` prints it as the language writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// There is none: no such key or element.
    Missing,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// An IP address.
    Ip(IpAddr),
    /// A String or Bytes: bytes, by custom UTF-8.
    Bytes(&'a [u8]),
    /// Values of one type.
    Array(&'a [Value<'a>]),
    /// Values of one type by their keys.
    Map(&'a [(&'a [u8], Value<'a>)]),
}

/// The rules of a worker, in the order of the file. A clone has caches of its own for its regular expressions, so that
/// shards with a clone each do not wait for one another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    rules: Box<[Rule]>,
}

impl Rules {
    /// Rules in their order.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules: rules.into() }
    }

    /// Whether there is none that could do anything.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Each rule in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.rules.iter()
    }

    /// Runs every rule on the original request, in order, and hands out each edit of those that match: the rule's number
    /// from 0, the header, and what becomes of it. A later edit of a header replaces an earlier one.
    pub fn run(
        &self,
        facts: &Facts<'_>,
        scratch: &mut Scratch,
        visit: &mut dyn FnMut(usize, &HeaderName, Outcome),
    ) {
        let _ = (facts, scratch, visit);
    }
}

/// One rule: what it does to headers of the requests that match.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Which requests.
    pub filter: Filter,
    /// What it is for, in its author's words.
    pub description: Option<String>,
    /// Whether it is in force.
    pub enabled: bool,
    /// What it does, no two edits of one header.
    pub edits: Vec<Edit>,
}

/// What a rule does to a header.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// The header.
    pub name: HeaderName,
    /// What is done to it.
    pub operation: Operation,
}

/// What is done to a header.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// All its lines are replaced by one of this value.
    Set(HeaderValue),
    /// The same, with a value of the request's own; where that is missing or empty, the header is removed.
    Compute(Expression),
    /// All its lines are removed.
    Remove,
}

/// What becomes of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All its lines are replaced by one of this value.
    Set(HeaderValue),
    /// All its lines are removed: the rule says so, or its value is missing or empty.
    Remove,
    /// All its lines are removed because the value can stand in no header: control characters, or too long.
    Dropped,
}
