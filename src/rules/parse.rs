//! The grammar: logic over comparisons over values. Types are checked on the way, so that what is left cannot fail.

use super::compare;
use super::fields::{self, Field, MapField};
use super::functions;
use super::hints;
use super::mistake::Mistake;
use super::scan::Scanner;
use super::tree::{Literal, Logic, Node};
use super::types::Type;
use crate::diag::Span;

/// The most bytes of an expression, as with Cloudflare.
pub(super) const MOST_LENGTH: usize = 4096;
/// How deep parentheses, calls and negations may be nested.
pub(super) const MOST_NESTING: usize = 128;
/// How many levels a call is: its arguments, and what stands in each.
const CALL_LEVELS: usize = 2;
/// The most regular expressions and wildcards in one expression.
const MOST_PATTERNS: usize = 32;
/// What joins conditions, as a word and as a symbol.
pub(super) const LOGIC: [(&str, &str, Logic); 3] =
    [("and", "&&", Logic::And), ("xor", "^^", Logic::Xor), ("or", "||", Logic::Or)];

/// A part of an expression as parsed.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) node: Node,
    pub(super) ty: Type,
    /// Whether it ends in `[*]`: what it stands beside is done for each element.
    pub(super) each: bool,
    pub(super) span: Span,
}

/// An expression of any type from its text.
pub(super) fn parse(text: &str) -> Result<Operand, Mistake> {
    if text.len() > MOST_LENGTH {
        let beyond = text.char_indices().find(|(at, c)| at + c.len_utf8() > MOST_LENGTH);
        let start = beyond.map_or(text.len(), |(at, _)| at);
        let title = format!("the expression has more than {MOST_LENGTH} bytes");
        let mistake = Mistake::new(title, start..text.len()).label("from here on it is too much");
        return Err(mistake.help("make several rules of it"));
    }
    let mut parser = Parser { scan: Scanner::new(text), depth: 0, patterns: 0, replaced: None };
    parser.scan.space();
    if parser.scan.at_end() {
        let mistake = Mistake::new("the expression is empty", 0..text.len());
        return Err(mistake.expected(
            "an expression such as `http.cookie contains \"user_id\"`, or `true` for every request",
        ));
    }
    let operand = parser.either()?;
    parser.scan.space();
    if parser.scan.at_end() { Ok(operand) } else { Err(hints::after_operand(&parser.scan, &operand)) }
}

/// The place of a text that is nothing but a string literal.
pub(super) fn literal(text: &str) -> Option<Span> {
    let mut scan = Scanner::new(text);
    scan.space();
    let span = scan.at_string().then(|| scan.string().ok()).flatten()?.span;
    scan.space();
    scan.at_end().then_some(span)
}

/// The state of parsing one expression.
#[derive(Debug)]
pub(super) struct Parser<'t> {
    pub(super) scan: Scanner<'t>,
    depth: usize,
    patterns: usize,
    /// The function that replaces, if there is one: there is at most one, as with Cloudflare.
    replaced: Option<&'static str>,
}

impl Parser<'_> {
    /// So many levels deeper, for as long as `parse` goes on.
    fn nested<T>(
        &mut self,
        levels: usize,
        parse: impl FnOnce(&mut Self) -> Result<T, Mistake>,
    ) -> Result<T, Mistake> {
        if self.depth + levels > MOST_NESTING {
            let title = format!("the expression is nested more than {MOST_NESTING} levels deep");
            return Err(Mistake::new(title, self.scan.found()));
        }
        self.depth += levels;
        let parsed = parse(self);
        self.depth -= levels;
        parsed
    }

    /// Counts a regular expression or wildcard.
    pub(super) fn count_pattern(&mut self) -> Result<(), Mistake> {
        self.patterns += 1;
        if self.patterns > MOST_PATTERNS {
            let title = format!("the expression has more than {MOST_PATTERNS} patterns");
            return Err(Mistake::new(title, self.scan.found()).help("make several rules of it"));
        }
        Ok(())
    }

    /// Operands joined by operators. However many there are, they are not nested.
    pub(super) fn either(&mut self) -> Result<Operand, Mistake> {
        let first = self.unary()?;
        let mut rest = Vec::new();
        while let Some(logic) = self.logic() {
            rest.push((logic, self.unary()?));
        }
        if rest.is_empty() { Ok(first) } else { combined(first, rest) }
    }

    fn logic(&mut self) -> Option<Logic> {
        self.scan.space();
        let mut operators = LOGIC.into_iter();
        let found = operators.find(|(word, symbol, _)| self.scan.eat_word(word) || self.scan.eat(symbol));
        found.map(|(_, _, logic)| logic)
    }

    /// Behind an operand stands nothing that was meant as an operator. Said here, as what the operand is could only be judged
    /// once that is clear.
    fn check_operator(&mut self, operand: &Operand) -> Result<(), Mistake> {
        self.scan.space();
        // A value would have taken the operator that follows.
        match compare::next_operator(&self.scan) {
            Some(operator) => Err(hints::compared_condition(operator)),
            None if hints::is_like_an_operator(&self.scan) => Err(hints::after_operand(&self.scan, operand)),
            None => Ok(()),
        }
    }

    fn unary(&mut self) -> Result<Operand, Mistake> {
        self.scan.space();
        let start = self.scan.at();
        let negated = !self.scan.rest().starts_with("!=") && self.scan.eat("!");
        if negated || self.scan.eat_word("not") {
            let operand = self.nested(1, Self::unary)?;
            let span = start..operand.span.end;
            let ty = condition(&operand)?;
            let of = Box::new(operand.node);
            let node = if ty == Type::BOOLEAN { Node::Not(of) } else { Node::EachNot(of) };
            return Ok(Operand { node, ty, each: false, span });
        }
        if self.scan.eat("(") {
            let operand = self.nested(1, Self::either)?;
            self.close(start, ")")?;
            condition(&operand)?;
            let operand = Operand { span: start..self.scan.at(), ..operand };
            self.check_operator(&operand)?;
            return Ok(operand);
        }
        let operand = self.comparison()?;
        self.check_operator(&operand)?;
        Ok(operand)
    }

    /// The symbol that closes what was opened at `start`.
    fn close(&mut self, start: usize, symbol: &str) -> Result<(), Mistake> {
        self.scan.space();
        if self.scan.eat(symbol) {
            return Ok(());
        }
        if self.scan.at_end() {
            let title = format!("a `{symbol}` is missing");
            return Err(Mistake::new(title, start..start + 1).label("nothing closes this"));
        }
        Err(hints::unexpected(&self.scan).expected(format!("`{symbol}`")))
    }

    fn comparison(&mut self) -> Result<Operand, Mistake> {
        let left = self.value()?;
        self.compared(left)
    }

    /// A field or call, with what stands in brackets behind it.
    fn value(&mut self) -> Result<Operand, Mistake> {
        self.scan.space();
        if self.scan.at_string() {
            return Err(hints::literal_first(&mut self.scan));
        }
        let (name, span) = self.scan.take_word();
        let mut operand = match name {
            "" => return Err(hints::no_value(&self.scan)),
            "true" | "false" => Operand {
                node: Node::Constant(name == "true"),
                ty: Type::BOOLEAN,
                each: false,
                span: span.clone(),
            },
            _ if name.starts_with(|c: char| c.is_ascii_digit()) => {
                return Err(hints::number_first(&mut self.scan, &span));
            }
            _ => self.named(name, span.clone())?,
        };
        loop {
            self.scan.space();
            if !self.scan.rest().starts_with('[') {
                operand.span = span.start..operand.span.end;
                return Ok(operand);
            }
            operand = self.index(operand)?;
        }
    }

    fn named(&mut self, name: &str, span: Span) -> Result<Operand, Mistake> {
        self.scan.space();
        if self.scan.rest().starts_with('(') {
            return self.nested(CALL_LEVELS, |parser| parser.call(name, span));
        }
        match fields::field(name) {
            Some(field) => Ok(Operand { node: Node::Field(field), ty: field.ty(), each: false, span }),
            None => Err(hints::unknown_field(name, span)),
        }
    }

    /// The rest of a call after the name.
    fn call(&mut self, name: &str, span: Span) -> Result<Operand, Mistake> {
        if let "any" | "all" = name {
            return self.quantified(name == "all", span);
        }
        let Some(signature) = functions::function(name) else {
            return Err(hints::unknown_function(name, span));
        };
        if name == "regex_replace" || name == "wildcard_replace" {
            self.count_pattern()?;
            if let Some(before) = self.replaced.replace(signature.name) {
                let title = if before == name {
                    format!("`{name}` is there twice")
                } else {
                    format!("`{name}` and `{before}` in one expression")
                };
                return Err(Mistake::new(title, span).label("an expression may replace once"));
            }
        }
        let arguments = self.arguments()?;
        let end = self.scan.at();
        let (node, ty) = signature.call(arguments, span.clone(), span.start..end)?;
        Ok(Operand { node, ty, each: false, span: span.start..end })
    }

    /// `any` and `all`.
    fn quantified(&mut self, all: bool, name: Span) -> Result<Operand, Mistake> {
        let open = self.scan.at();
        self.scan.eat("(");
        let operand = self.either()?;
        self.scan.space();
        if self.scan.rest().starts_with(',') {
            return Err(Mistake::new("`any` and `all` take one argument", self.scan.found()));
        }
        self.close(open, ")")?;
        if !matches!((operand.ty, operand.each), (Type::BOOLEANS, false) | (Type::BOOLEAN, true)) {
            return Err(hints::not_for_each(&operand));
        }
        let of = Box::new(operand.node);
        let node = if all { Node::All(of) } else { Node::Any(of) };
        Ok(Operand { node, ty: Type::BOOLEAN, each: false, span: name.start..self.scan.at() })
    }

    fn arguments(&mut self) -> Result<Vec<functions::Argument>, Mistake> {
        let open = self.scan.at();
        self.scan.eat("(");
        let mut list = Vec::new();
        self.scan.space();
        if self.scan.eat(")") {
            return Ok(list);
        }
        loop {
            list.push(self.argument()?);
            self.scan.space();
            if !self.scan.eat(",") {
                self.close(open, ")")?;
                return Ok(list);
            }
        }
    }

    fn argument(&mut self) -> Result<functions::Argument, Mistake> {
        self.scan.space();
        let start = self.scan.at();
        if self.scan.at_string() {
            let text = self.scan.string()?;
            let node = Node::Literal(Literal::Bytes(text.bytes.as_slice().into()));
            let span = text.span.clone();
            return Ok(functions::Argument {
                node,
                ty: Type::STRING,
                each: false,
                span,
                text: Some(text),
                literal: true,
            });
        }
        if self.scan.rest().starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            let node = Node::Literal(Literal::Int(self.scan.integer()?));
            let span = start..self.scan.at();
            return Ok(functions::Argument {
                node,
                ty: Type::INTEGER,
                each: false,
                span,
                text: None,
                literal: true,
            });
        }
        let Operand { node, ty, each, span } = self.either()?;
        Ok(functions::Argument { node, ty, each, span, text: None, literal: false })
    }

    /// What stands in brackets behind a value.
    fn index(&mut self, of: Operand) -> Result<Operand, Mistake> {
        let open = self.scan.at();
        self.scan.eat("[");
        self.scan.space();
        let start = of.span.start;
        let Some(element) = of.ty.element() else {
            let mistake = Mistake::new("only arrays and maps have elements", open..open + 1);
            return Err(mistake.label(format!("before this stands {}", of.ty.with_article())));
        };
        let (node, each) = if self.scan.eat("*") {
            let flatten = of.each;
            (Node::Elements { of: Box::new(of.node), flatten }, true)
        } else if self.scan.at_string() {
            (self.key(&of.node, of.ty, of.each)?, of.each)
        } else {
            (self.position(of.node, of.ty, of.each)?, of.each)
        };
        self.close(open, "]")?;
        Ok(Operand { node, ty: element, each, span: start..self.scan.at() })
    }

    /// A map's key.
    fn key(&mut self, of: &Node, ty: Type, each: bool) -> Result<Node, Mistake> {
        let text = self.scan.string()?;
        let &Node::Field(Field::Map(map)) = of else {
            let mistake = Mistake::new("an array has no keys", text.span);
            return Err(mistake
                .label(format!("this is {}", ty.with_article()))
                .expected("a position such as `[0]`"));
        };
        debug_assert!(!each, "a map is a field, and nothing unpacks it before its key");
        if map == MapField::Headers && text.bytes.iter().any(u8::is_ascii_uppercase) {
            let lower = String::from_utf8_lossy(&text.bytes).to_ascii_lowercase();
            return Err(Mistake::new("no header has this name", text.span)
                .label("the names of `http.request.headers` are in lower case")
                .help(format!("write `\"{lower}\"`")));
        }
        Ok(Node::Lookup { map, key: text.bytes.into(), at: None })
    }

    /// A position in an array.
    fn position(&mut self, of: Node, ty: Type, each: bool) -> Result<Node, Mistake> {
        let start = self.scan.at();
        if !self.scan.rest().starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            let expected = if ty.map {
                "a key such as `[\"name\"]`, or `[*]`"
            } else {
                "a position such as `[0]`, or `[*]`"
            };
            return Err(hints::unexpected(&self.scan).expected(expected));
        }
        let number = self.scan.integer()?;
        let span = start..self.scan.at();
        let Ok(at) = usize::try_from(number) else {
            return Err(Mistake::new("a position is not negative", span).label("counted from 0"));
        };
        if ty.map {
            let mistake =
                Mistake::new("a map has no positions", span).label(format!("this is {}", ty.with_article()));
            return Err(mistake.expected("a key such as `[\"name\"]`"));
        }
        Ok(match of {
            Node::Lookup { map, key, at: None } if !each => Node::Lookup { map, key, at: Some(at) },
            of if each => Node::EachIndex { of: Box::new(of), at },
            of => Node::Index { of: Box::new(of), at },
        })
    }
}

/// Operands with the operators before them: those that bind most are joined first.
fn combined(first: Operand, rest: Vec<(Logic, Operand)>) -> Result<Operand, Mistake> {
    let mut chain = Chain { first, rest };
    for logic in [Logic::And, Logic::Xor, Logic::Or] {
        chain = chain.joined(logic)?;
    }
    Ok(chain.first)
}

/// Operands, each but the first with the operator before it.
struct Chain {
    first: Operand,
    rest: Vec<(Logic, Operand)>,
}

impl Chain {
    /// The chain with all operands joined that stand beside one operator.
    fn joined(self, logic: Logic) -> Result<Self, Mistake> {
        let mut group = Group::new(self.first);
        let mut first = None;
        let mut rest: Vec<(Logic, Operand)> = Vec::new();
        let mut before = logic;
        for (operator, operand) in self.rest {
            if operator == logic {
                group.push(operand)?;
                continue;
            }
            let done = std::mem::replace(&mut group, Group::new(operand)).joined(logic);
            match first {
                None => first = Some(done),
                Some(_) => rest.push((before, done)),
            }
            before = operator;
        }
        let last = group.joined(logic);
        match first {
            None => Ok(Self { first: last, rest }),
            Some(first) => {
                rest.push((before, last));
                Ok(Self { first, rest })
            }
        }
    }
}

/// Conditions of one kind that one operator joins.
struct Group {
    first: Operand,
    others: Vec<Node>,
}

impl Group {
    fn new(first: Operand) -> Self {
        Self { first, others: Vec::new() }
    }

    fn push(&mut self, operand: Operand) -> Result<(), Mistake> {
        let ty = condition(&self.first)?;
        if condition(&operand)? != ty {
            return Err(hints::mixed(&operand, ty));
        }
        self.first.span.end = operand.span.end;
        self.others.push(operand.node);
        Ok(())
    }

    fn joined(self, logic: Logic) -> Operand {
        let Self { first, others } = self;
        if others.is_empty() {
            return first;
        }
        let (once, nodes) =
            (first.ty == Type::BOOLEAN && !first.each, [first.node].into_iter().chain(others).collect());
        let node = if once { Node::Combine(logic, nodes) } else { Node::EachCombine(logic, nodes) };
        Operand { node, ty: if once { Type::BOOLEAN } else { Type::BOOLEANS }, each: false, span: first.span }
    }
}

/// Whether an operand is true or false, once or for each element; and which.
fn condition(operand: &Operand) -> Result<Type, Mistake> {
    match (operand.ty, operand.each) {
        (Type::BOOLEAN, false) => Ok(Type::BOOLEAN),
        (Type::BOOLEAN, true) | (Type::BOOLEANS, false) => Ok(Type::BOOLEANS),
        _ => Err(hints::no_condition(operand)),
    }
}
