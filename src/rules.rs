//! The rules language: filters and values over a request's head, and the header edits that they decide.
//!
//! It is the language of Cloudflare's rules, with its fields and functions as far as a proxy can know them; `docs/rules.md`
//! says all of it. An expression is parsed and typed once, when the file is loaded: whatever is wrong with it is a
//! [`Mistake`] that points at the bytes at fault. What is left to evaluation cannot fail: a value that is not there is
//! *missing*, a comparison with it is false, and every result is bounded.

mod compare;
mod compute;
mod context;
mod evaluate;
mod fields;
mod functions;
pub mod header;
mod hints;
mod json;
mod lists;
mod mistake;
mod parse;
mod patterns;
mod request;
mod scan;
mod tree;
mod types;
mod url;

use std::fmt::{self, Debug, Formatter};
use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

pub use context::Scratch;
pub use mistake::Mistake;
pub use types::Value;

use crate::model::head::{Lines, trim_ows};
use context::Context;
use parse::{Operand, parse};
use tree::Node;
use types::Type;

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

impl Debug for Facts<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // Header lines may hold secrets, and so does the query.
        f.debug_struct("Facts")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// A condition, such as `http.cookie contains "user_id"`. Equal to another of the same text.
#[derive(Clone, Debug)]
pub struct Filter {
    source: Box<str>,
    node: Node,
}

impl Filter {
    /// A filter from its text.
    ///
    /// # Errors
    /// The first mistake in the text.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let operand = parse(text)?;
        match (operand.ty, operand.each) {
            (Type::BOOLEAN, false) => Ok(Self { source: text.into(), node: operand.node }),
            (Type::BOOLEAN, true) | (Type::BOOLEANS, false) => Err(hints::for_each(&operand)),
            _ => Err(hints::no_filter(&operand)),
        }
    }

    /// Whether the request matches.
    pub fn matches(&self, facts: &Facts<'_>, scratch: &mut Scratch) -> bool {
        match self.node {
            Node::Constant(value) => value,
            _ => Context::new(facts, scratch.start()).holds(&self.node),
        }
    }

    /// The text that it was parsed from.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Filter {}

/// A value that becomes text, such as `http.request.cookies["user_id"][0]`. Equal to another of the same text.
#[derive(Clone, Debug)]
pub struct Expression {
    source: Box<str>,
    node: Node,
}

impl Expression {
    /// A value from its text. Its type is String or Bytes; IP addresses, integers and Booleans are converted.
    ///
    /// # Errors
    /// The first mistake in the text.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let literal = parse::literal(text);
        let operand = literal.map_or_else(|| parse(text), |span| Err(hints::literal_value(span)))?;
        if operand.node.is_condition() {
            return Err(hints::no_value_but_condition(&operand));
        }
        if operand.each || !operand.ty.is_scalar() {
            return Err(hints::no_text(&operand));
        }
        Ok(Self { source: text.into(), node: operand.node })
    }

    /// The value of a request; `None` where it is missing. Borrows from the request where it can, else from the scratch.
    pub fn value<'s>(&'s self, facts: &'s Facts<'_>, scratch: &'s mut Scratch) -> Option<&'s [u8]> {
        let context = Context::new(facts, scratch.start());
        compute::text(&context, context.value(&self.node))
    }

    /// The text that it was parsed from.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Expression {}

/// Either kind of expression, with a result of any type: for tools.
#[derive(Clone, Debug)]
pub struct Parsed {
    node: Node,
    ty: Type,
}

impl Parsed {
    /// A filter or a value from its text.
    ///
    /// # Errors
    /// The first mistake in the text.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let operand = parse(text)?;
        let Operand { ty, each, .. } = operand;
        if each || ty == Type::BOOLEANS {
            return Err(hints::for_each_alone(&operand));
        }
        Ok(Self { node: operand.node, ty })
    }

    /// What it is, such as `Boolean` or `Array<String>`.
    pub fn type_name(&self) -> String {
        self.ty.to_string()
    }

    /// The result for a request.
    pub fn evaluate<'s>(&'s self, facts: &'s Facts<'_>, scratch: &'s mut Scratch) -> Value<'s> {
        Context::new(facts, scratch.start()).value(&self.node)
    }
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

    /// Whether no rule is in force.
    pub fn is_empty(&self) -> bool {
        !self.rules.iter().any(|rule| rule.enabled)
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
        for (number, rule) in self.rules.iter().enumerate() {
            if rule.enabled && rule.filter.matches(facts, scratch) {
                for edit in &rule.edits {
                    visit(number, &edit.name, edit.operation.outcome(facts, scratch));
                }
            }
        }
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

impl Operation {
    fn outcome(&self, facts: &Facts<'_>, scratch: &mut Scratch) -> Outcome {
        match self {
            Self::Set(value) => Outcome::Set(value.clone()),
            Self::Remove => Outcome::Remove,
            Self::Compute(expression) => {
                match trim_ows(expression.value(facts, scratch).unwrap_or_default()) {
                    [] => Outcome::Remove,
                    value => header::computed(value).map_or(Outcome::Dropped, Outcome::Set),
                }
            }
        }
    }
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
