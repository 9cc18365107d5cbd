//! Comparisons: an operator, and the literal on its right side.

use std::net::IpAddr;

use ipnet::IpNet;
use memchr::memmem::Finder;

use super::hints;
use super::lists::{Addresses, Integers, Strings};
use super::mistake::Mistake;
use super::parse::{Operand, Parser};
use super::patterns;
use super::scan::{Scanner, address};
use super::tree::{Node, Relation, Test};
use super::types::{Scalar, Type};
use crate::diag::{Span, quoted};

/// An operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Relation(Relation),
    Contains,
    Matches,
    Wildcard { strict: bool },
    In,
}

/// Symbols, the longer of two with the same beginning first.
const SYMBOLS: [(&str, Operator); 7] = [
    ("==", Operator::Relation(Relation::Equal)),
    ("!=", Operator::Relation(Relation::NotEqual)),
    ("<=", Operator::Relation(Relation::LessOrEqual)),
    (">=", Operator::Relation(Relation::GreaterOrEqual)),
    ("<", Operator::Relation(Relation::Less)),
    (">", Operator::Relation(Relation::Greater)),
    ("~", Operator::Matches),
];

const WORDS: [(&str, Operator); 10] = [
    ("eq", Operator::Relation(Relation::Equal)),
    ("ne", Operator::Relation(Relation::NotEqual)),
    ("lt", Operator::Relation(Relation::Less)),
    ("le", Operator::Relation(Relation::LessOrEqual)),
    ("gt", Operator::Relation(Relation::Greater)),
    ("ge", Operator::Relation(Relation::GreaterOrEqual)),
    ("contains", Operator::Contains),
    ("matches", Operator::Matches),
    ("wildcard", Operator::Wildcard { strict: false }),
    ("in", Operator::In),
];

/// The place of the operator of a comparison, if one is next.
pub(super) fn next_operator(scan: &Scanner<'_>) -> Option<Span> {
    let symbol =
        SYMBOLS.iter().find(|(symbol, _)| scan.rest().starts_with(symbol)).map(|(symbol, _)| symbol.len());
    let word = WORDS.iter().find(|(word, _)| *word == scan.word()).map(|(word, _)| word.len());
    symbol.or(word).map(|length| scan.at()..scan.at() + length)
}

/// Every operator that is a word.
pub(super) fn words() -> impl Iterator<Item = &'static str> {
    WORDS.iter().map(|(word, _)| *word).chain(["strict", "and", "or", "xor"])
}

impl Parser<'_> {
    /// The comparison that a value begins, if an operator follows; else the value.
    pub(super) fn compared(&mut self, left: Operand) -> Result<Operand, Mistake> {
        self.scan.space();
        let at = self.scan.at();
        let Some(operator) = self.operator()? else { return Ok(left) };
        let name = at..self.scan.at();
        self.check_left(&left, operator, &name)?;
        self.scan.space();
        let test = match (operator, left.ty.scalar) {
            (Operator::Relation(relation), Scalar::Integer) => Test::Int(relation, self.integer_right()?),
            (Operator::Relation(relation), Scalar::Ip) => {
                Test::Ip(relation == Relation::Equal, self.address_right()?)
            }
            (Operator::Relation(relation), _) => Test::Bytes(relation, self.string_right()?.into()),
            (Operator::Contains, _) => {
                Test::Contains(Box::new(Finder::new(&self.string_right()?).into_owned()))
            }
            (Operator::Matches, _) => {
                self.count_pattern()?;
                self.need_string()?;
                Test::Matches(patterns::regex(&self.scan.regex_string()?)?)
            }
            (Operator::Wildcard { strict }, _) => {
                self.count_pattern()?;
                self.need_string()?;
                Test::Matches(patterns::wildcard(&self.scan.string()?, strict)?)
            }
            (Operator::In, scalar) => self.list(scalar)?,
        };
        let span = left.span.start..self.scan.at();
        let of = Box::new(left.node);
        Ok(match left.each {
            true => Operand { node: Node::EachCompare(of, test), ty: Type::BOOLEANS, each: false, span },
            false => Operand { node: Node::Compare(of, test), ty: Type::BOOLEAN, each: false, span },
        })
    }

    fn operator(&mut self) -> Result<Option<Operator>, Mistake> {
        if self.scan.rest().starts_with("=~") {
            return Err(hints::unexpected(&self.scan).help("write `matches` or `~` for a regular expression"));
        }
        if let Some((_, operator)) = SYMBOLS.into_iter().find(|(symbol, _)| self.scan.eat(symbol)) {
            return Ok(Some(operator));
        }
        if self.scan.eat_word("strict") {
            self.scan.space();
            if self.scan.eat_word("wildcard") {
                return Ok(Some(Operator::Wildcard { strict: true }));
            }
            return Err(hints::unexpected(&self.scan).expected("`strict wildcard`"));
        }
        Ok(WORDS.into_iter().find(|(word, _)| self.scan.eat_word(word)).map(|(_, operator)| operator))
    }

    /// Operators take a scalar, and not each of them every one.
    fn check_left(&self, left: &Operand, operator: Operator, name: &Span) -> Result<(), Mistake> {
        let word = self.scan.slice(name);
        if !left.ty.is_scalar() {
            return Err(hints::compared_collection(left));
        }
        let takes = match operator {
            Operator::Relation(Relation::Equal | Relation::NotEqual) | Operator::In => {
                left.ty.scalar != Scalar::Boolean
            }
            Operator::Relation(_) => !matches!(left.ty.scalar, Scalar::Boolean | Scalar::Ip),
            _ => left.ty.is_text(),
        };
        if takes {
            return Ok(());
        }
        let title = format!("`{word}` does not go with {}", left.ty.with_article());
        let mistake = Mistake::new(title, name.clone());
        let written = self.scan.slice(&left.span);
        Err(match left.ty.scalar {
            Scalar::Boolean => mistake.label("a Boolean stands alone").help(format!(
                "write {} or {}",
                quoted(written),
                quoted(&format!("not {written}"))
            )),
            Scalar::Ip => mistake
                .expected("`==`, `!=` or `in`")
                .help("a range is written `in {203.0.113.0..203.0.113.7}`, a network `in {203.0.113.0/24}`"),
            _ => mistake.expected("`==`, `!=`, `<`, `<=`, `>`, `>=` or `in`"),
        })
    }

    fn need_string(&self) -> Result<(), Mistake> {
        if self.scan.at_string() { Ok(()) } else { Err(hints::no_string(&self.scan)) }
    }

    fn string_right(&mut self) -> Result<Vec<u8>, Mistake> {
        self.need_string()?;
        Ok(self.scan.string()?.bytes)
    }

    fn integer_right(&mut self) -> Result<i64, Mistake> {
        match self.scan.peek() {
            Some('-' | '0'..='9') => self.scan.integer(),
            _ => Err(hints::no_integer(&self.scan)),
        }
    }

    fn address_right(&mut self) -> Result<IpAddr, Mistake> {
        if self.scan.at_string() || self.scan.rest().starts_with('{') {
            return Err(hints::no_address(&self.scan));
        }
        let (text, span) = self.scan.take_address();
        if text.contains('/') || text.contains("..") {
            let what = if text.contains('/') { "a network" } else { "a range" };
            let mistake = Mistake::new(format!("{} is {what}, not an address", quoted(text)), span);
            return Err(mistake.help(format!("write `in {{{text}}}`")));
        }
        if text.is_empty() { Err(hints::no_address(&self.scan)) } else { address(text, span) }
    }

    /// The list of `in`.
    fn list(&mut self, scalar: Scalar) -> Result<Test, Mistake> {
        let open = self.scan.at();
        if !self.scan.eat("{") {
            return Err(hints::no_list(&mut self.scan));
        }
        let (mut strings, mut integers, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        let mut count = 0;
        loop {
            let before = self.scan.at();
            self.scan.space();
            if self.scan.at_end() {
                return Err(Mistake::new("a `}` is missing", open..open + 1).label("nothing closes this"));
            }
            if self.scan.eat("}") {
                break;
            }
            if self.scan.peek() == Some(',') {
                let mistake = Mistake::new("a comma in a list", self.scan.found());
                return Err(mistake.label("items are separated by spaces").help("leave the comma out"));
            }
            if count > 0 && before == self.scan.at() {
                return Err(hints::unexpected(&self.scan).label("a space is missing before this"));
            }
            match scalar {
                Scalar::Integer => integers.push(self.integers()?),
                Scalar::Ip => addresses.push(self.addresses()?),
                _ => strings.push(self.string_right()?.into()),
            }
            count += 1;
        }
        Ok(match scalar {
            Scalar::Integer => Test::InIntegers(Integers::new(integers)),
            Scalar::Ip => Test::InAddresses(Addresses::new(&addresses)),
            _ => Test::InStrings(Strings::new(strings)),
        })
    }

    /// An integer or a range of integers.
    fn integers(&mut self) -> Result<(i64, i64), Mistake> {
        let start = self.scan.at();
        let first = self.integer_right()?;
        let last = if self.scan.eat("..") { self.integer_right()? } else { first };
        if last < first {
            return Err(reversed(start..self.scan.at()));
        }
        Ok((first, last))
    }

    /// An address, a range of addresses of one family, or a network.
    fn addresses(&mut self) -> Result<(IpAddr, IpAddr), Mistake> {
        if self.scan.at_string() {
            return Err(hints::no_address(&self.scan));
        }
        let (text, span) = self.scan.take_address();
        if text.is_empty() {
            return Err(hints::no_address(&self.scan));
        }
        if text.contains('/') {
            return network(text, span);
        }
        let Some((first, last)) = text.split_once("..") else {
            let address = address(text, span)?;
            return Ok((address, address));
        };
        let middle = span.start + first.len();
        let first = address(first, span.start..middle)?;
        let last = address(last, middle + 2..span.end)?;
        if first.is_ipv4() != last.is_ipv4() {
            let mistake = Mistake::new("the ends of the range are of different families", span);
            return Err(mistake.expected("two addresses of IPv4, or two of IPv6"));
        }
        if last < first { Err(reversed(span)) } else { Ok((first, last)) }
    }
}

fn reversed(span: Span) -> Mistake {
    Mistake::new("the range is the wrong way round", span).label("the first end is greater than the last")
}

fn network(text: &str, span: Span) -> Result<(IpAddr, IpAddr), Mistake> {
    let Ok(network) = text.parse::<IpNet>() else {
        let mistake = Mistake::new(format!("{} is not a network", quoted(text)), span);
        return Err(mistake.expected("a network such as `203.0.113.0/24` or `2001:db8::/32`"));
    };
    if network.addr() != network.network() {
        let mistake = Mistake::new(format!("{} has bits set behind its prefix", quoted(text)), span);
        return Err(mistake.help(format!("write `{}`", network.trunc())));
    }
    let (first, last) = (network.network(), network.broadcast());
    // A network of addresses of IPv4 in IPv6 form is one of IPv4, as the clients' addresses are. A wider one has others, too,
    // and those are what it is for.
    let (first4, last4) = (first.to_canonical(), last.to_canonical());
    Ok(if first4.is_ipv4() && last4.is_ipv4() { (first4, last4) } else { (first, last) })
}
