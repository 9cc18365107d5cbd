//! A parsed expression: every name resolved, every type checked, every pattern compiled.

use memchr::memmem::Finder;
use regex::bytes::Regex;

use super::fields::{Field, MapField};
use super::functions::Function;
use super::lists::{Addresses, Integers, Strings};
use super::types::Value;

/// A part of an expression. What has `Each` in its name works on every element of its first operand.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Constant(bool),
    Literal(Literal),
    Field(Field),
    /// The values of a map's key, or one of them.
    Lookup {
        map: MapField,
        key: Box<[u8]>,
        at: Option<usize>,
    },
    /// An element of an array.
    Index {
        of: Box<Self>,
        at: usize,
    },
    EachIndex {
        of: Box<Self>,
        at: usize,
    },
    /// `[*]`: the elements of an array, or the values of a map; of an array of arrays, their elements.
    Elements {
        of: Box<Self>,
        flatten: bool,
    },
    Call(Box<Call>),
    EachCall(Box<Call>),
    Compare(Box<Self>, Test),
    EachCompare(Box<Self>, Test),
    Not(Box<Self>),
    EachNot(Box<Self>),
    Combine(Logic, Box<[Self]>),
    EachCombine(Logic, Box<[Self]>),
    Any(Box<Self>),
    All(Box<Self>),
}

impl Node {
    /// Whether it is logic or a comparison, and so can only be true or false.
    pub(super) fn is_condition(&self) -> bool {
        matches!(
            self,
            Self::Constant(_)
                | Self::Compare(..)
                | Self::EachCompare(..)
                | Self::Not(_)
                | Self::EachNot(_)
                | Self::Combine(..)
                | Self::EachCombine(..)
                | Self::Any(_)
                | Self::All(_)
        )
    }
}

/// A literal argument.
#[derive(Clone, Debug)]
pub(super) enum Literal {
    Bytes(Box<[u8]>),
    Int(i64),
}

impl Literal {
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Bytes(bytes) => Value::Bytes(bytes),
            Self::Int(number) => Value::Int(*number),
        }
    }
}

/// How operands are combined, all of them from left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logic {
    And,
    Or,
    Xor,
}

/// A function with its arguments, apart from those that are part of the function, such as a regular expression.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) function: Function,
    pub(super) first: Node,
    pub(super) rest: Box<[Node]>,
}

/// What the right side of a comparison demands of the left side.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Bytes(Relation, Box<[u8]>),
    Int(Relation, i64),
    Ip(bool, std::net::IpAddr),
    Contains(Box<Finder<'static>>),
    /// `matches`, and both wildcard operators.
    Matches(Regex),
    InStrings(Strings),
    InIntegers(Integers),
    InAddresses(Addresses),
}

/// An order of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Relation {
    pub(super) fn holds<T: Ord + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

impl Test {
    /// Whether a value passes. A missing one never does.
    pub(super) fn passes(&self, value: Value<'_>) -> bool {
        match (self, value) {
            // Equality of slices compares lengths first; an order cannot.
            (Self::Bytes(Relation::Equal, expected), Value::Bytes(found)) => found == &expected[..],
            (Self::Bytes(relation, expected), Value::Bytes(found)) => relation.holds(found, expected),
            (Self::Int(relation, expected), Value::Int(found)) => relation.holds(&found, expected),
            (Self::Ip(equal, expected), Value::Ip(found)) => (found == *expected) == *equal,
            (Self::Contains(finder), Value::Bytes(found)) => finder.find(found).is_some(),
            (Self::Matches(regex), Value::Bytes(found)) => regex.is_match(found),
            (Self::InStrings(set), Value::Bytes(found)) => set.contains(found),
            (Self::InIntegers(set), Value::Int(found)) => set.contains(found),
            (Self::InAddresses(set), Value::Ip(found)) => set.contains(found),
            _ => false,
        }
    }
}
