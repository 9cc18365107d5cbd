//! What is said about frequent mistakes, and what to write instead.

use super::compare;
use super::fields;
use super::functions;
use super::mistake::Mistake;
use super::parse::{LOGIC, Operand};
use super::scan::Scanner;
use super::types::{Scalar, Type};
use crate::diag::{Span, nearest, quoted};

/// Something that nothing can begin or go on with here.
pub(super) fn unexpected(scan: &Scanner<'_>) -> Mistake {
    let mistake = Mistake::new(format!("unexpected {}", scan.found_words()), scan.found());
    match scan.peek() {
        Some('\'') => mistake.help("strings stand in double quotes"),
        Some('#') => mistake.help("an expression has no comments"),
        Some('\u{201c}' | '\u{201d}' | '\u{2018}' | '\u{2019}') => mistake.help("use straight double quotes"),
        _ => mistake,
    }
}

/// Whether what stands behind an operand was meant as an operator: none that there is, but neither one that joins conditions,
/// nor the end of something, nor a value before which a comma is missing.
pub(super) fn is_like_an_operator(scan: &Scanner<'_>) -> bool {
    let (word, rest) = (scan.word(), scan.rest());
    if LOGIC.iter().any(|(logic, symbol, _)| *logic == word || rest.starts_with(symbol)) {
        return false;
    }
    if word.is_empty() {
        return rest.starts_with(['=', '!', '&', '|', '^']);
    }
    let is_call = || rest.get(word.len()..).is_some_and(|rest| rest.trim_start().starts_with('('));
    let is_number = word.starts_with(|c: char| c.is_ascii_digit());
    let is_value = fields::field(word).is_some() || (functions::function(word).is_some() && is_call());
    !is_number && !is_value
}

/// What stands behind a whole expression.
pub(super) fn after_operand(scan: &Scanner<'_>, operand: &Operand) -> Mistake {
    let (span, word) = (scan.found(), scan.word());
    if let "AND" | "OR" | "XOR" | "NOT" | "EQ" | "NE" | "IN" | "CONTAINS" | "MATCHES" | "WILDCARD" = word {
        let lower = word.to_lowercase();
        return Mistake::new(format!("unknown operator {}", quoted(word)), span)
            .label("operators are in lower case")
            .help(format!("write `{lower}`"));
    }
    if let "starts_with" | "ends_with" = word {
        let left = scan.slice(&operand.span);
        return Mistake::new(format!("{} is a function, not an operator", quoted(word)), span)
            .help(format!("write `{word}({left}, \"…\")`"));
    }
    if word == "not" {
        return Mistake::new("`not` stands before what it negates", span).help("write `not field in {…}`");
    }
    for (symbol, meant) in [("=", "=="), ("&", "&&"), ("|", "||"), ("^", "^^"), ("!", "!=")] {
        if scan.rest().starts_with(symbol) {
            return Mistake::new(format!("unknown operator `{symbol}`"), span)
                .help(format!("did you mean `{meant}`?"));
        }
    }
    if scan.rest().starts_with(')') {
        return Mistake::new("a `)` too many", span).label("no `(` belongs to it");
    }
    if word.is_empty() {
        return unexpected(scan).expected("an operator, or the end of the expression");
    }
    let expected = "an operator such as `==`, `contains`, `in`, `and`, `or`, or the end of the expression";
    let mistake = Mistake::new(format!("unknown operator {}", quoted(word)), span).expected(expected);
    match nearest(word, compare::words()) {
        Some(near) => mistake.help(format!("did you mean `{near}`?")),
        None => mistake,
    }
}

/// A name that no field has.
pub(super) fn unknown_field(name: &str, span: Span) -> Mistake {
    let mistake = Mistake::new(format!("unknown field {}", quoted(name)), span);
    if functions::function(name).is_some() || matches!(name, "any" | "all") {
        let title = format!("{} is a function", quoted(name));
        return Mistake { title, ..mistake }.help(format!("write its arguments in parentheses: `{name}(…)`"));
    }
    if let "AND" | "OR" | "XOR" | "NOT" | "TRUE" | "FALSE" | "True" | "False" = name {
        return mistake.label("words are in lower case").help(format!("write `{}`", name.to_lowercase()));
    }
    if let Some(near) = nearest(name, fields::names()) {
        return mistake.help(format!("did you mean `{near}`?"));
    }
    if foreign(name) {
        return mistake
            .label("only Cloudflare's network can know this")
            .help("docs/rules.md lists the fields");
    }
    mistake.label("no field has this name").help("docs/rules.md lists the fields")
}

/// Whether a name is like those of fields that Cloudflare fills from its own network, or from what a rule here does not see.
fn foreign(name: &str) -> bool {
    let name = name.strip_prefix("raw.").unwrap_or(name);
    ["cf.", "ip.", "http.request.body.", "http.request.jwt.", "http.response.", "tcp.", "udp.", "icmp."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// A name that no function has.
pub(super) fn unknown_function(name: &str, span: Span) -> Mistake {
    let mistake = Mistake::new(format!("unknown function {}", quoted(name)), span);
    if fields::field(name).is_some() {
        let title = format!("{} is a field, not a function", quoted(name));
        return Mistake { title, ..mistake };
    }
    match (name, nearest(name, functions::names())) {
        ("contains" | "matches" | "wildcard" | "in", _) => {
            mistake.label("this is an operator").help(format!("write `field {name} …`"))
        }
        ("is_timed_hmac_valid_v0", _) => mistake.label("gradual does not have this function of Cloudflare's"),
        (_, Some(near)) => mistake.help(format!("did you mean `{near}`?")),
        _ => mistake.label("no function has this name").help("docs/rules.md lists the functions"),
    }
}

/// No field and no call where one must be.
pub(super) fn no_value(scan: &Scanner<'_>) -> Mistake {
    let expected = "a field such as `http.host`, or a function such as `starts_with(…)`";
    if scan.at_end() {
        return Mistake::new("the expression ends too early", scan.found()).expected(expected);
    }
    unexpected(scan).expected(expected)
}

/// A string where a field must be.
pub(super) fn literal_first(scan: &mut Scanner<'_>) -> Mistake {
    match scan.string() {
        Ok(text) => literal(text.span),
        Err(mistake) => mistake,
    }
}

/// A number or an address where a field must be.
pub(super) fn number_first(scan: &mut Scanner<'_>, span: &Span) -> Mistake {
    let (_, rest) = scan.take_address();
    literal(span.start..rest.end)
}

fn literal(span: Span) -> Mistake {
    Mistake::new("a literal on the left side", span)
        .label("on the left stands what the request says: a field or a function")
        .help("write the field first, such as `http.host == \"example.com\"`")
}

/// A value where a condition must be.
pub(super) fn no_condition(operand: &Operand) -> Mistake {
    let span = operand.span.clone();
    let title = format!("this is {}, not a condition", operand.ty.with_article());
    let mistake = Mistake::new(title, span).expected("a condition, which is true or false");
    match operand.ty {
        Type { scalar: Scalar::Ip, arrays: 0, .. } => {
            mistake.help("compare it, such as `ip.src in {203.0.113.0/24}`")
        }
        Type { scalar: Scalar::Integer, arrays: 0, .. } => mistake.help("compare it, such as `… > 10`"),
        Type { scalar: Scalar::Boolean, .. } => mistake.help("write `any(…)` or `all(…)` around it"),
        ty if !ty.is_scalar() => mistake.help("ask of its elements, such as `any(…[*] == \"value\")`"),
        _ => mistake.help("compare it, such as `http.host == \"example.com\"`, or `len(…) > 0`"),
    }
}

/// A value that is the whole of what should be a filter.
pub(super) fn no_filter(operand: &Operand) -> Mistake {
    let mistake = no_condition(operand);
    let title = format!("this is {}; a filter is a condition", operand.ty.with_article());
    Mistake { title, ..mistake }
}

/// A condition that is the whole of what should be a value.
pub(super) fn no_value_but_condition(operand: &Operand) -> Mistake {
    Mistake::new("this is a condition; here belongs a value", operand.span.clone())
        .expected("a value such as `http.request.cookies[\"user_id\"][0]`")
        .help("a condition belongs into the rule's own `expression`; as text, `to_string(…)` gives \"true\" or \"false\"")
}

/// A collection that should become text.
pub(super) fn no_text(operand: &Operand) -> Mistake {
    let of = if operand.each { " for each element" } else { "" };
    let title = format!("this is {}{of}, which is no text", operand.ty.with_article());
    let mistake = Mistake::new(title, operand.span.clone())
        .expected("one String, Bytes, Integer, Boolean or IP address");
    if operand.each {
        return mistake.help("`[*]` belongs into a call; `[0]` gives the first element");
    }
    if operand.ty.map {
        return mistake.help("write a key and a position behind it, such as `[\"name\"][0]`");
    }
    mistake.help("write `[0]` behind it for its first element, or `join(…, \",\")` around it")
}

/// A literal that is the whole of what should be a value.
pub(super) fn literal_value(span: Span) -> Mistake {
    Mistake::new("a literal is the same for every request", span)
        .expected("a value such as `http.request.cookies[\"user_id\"][0]`")
        .help("write it as `value` instead of `expression`")
}

/// `[*]` outside of a call.
pub(super) fn for_each_alone(operand: &Operand) -> Mistake {
    if operand.ty.scalar == Scalar::Boolean { for_each(operand) } else { no_text(operand) }
}

/// A condition for each element where one for all of them must be.
pub(super) fn for_each(operand: &Operand) -> Mistake {
    Mistake::new("this is true or false for each element", operand.span.clone())
        .expected("one condition")
        .help("write `any(…)` or `all(…)` around it")
}

/// What `any` and `all` cannot do anything with.
pub(super) fn not_for_each(operand: &Operand) -> Mistake {
    Mistake::new("`any` and `all` ask of each element", operand.span.clone())
        .label(format!("this is {}", operand.ty.with_article()))
        .expected("a comparison of elements, such as `http.request.headers[\"accept\"][*] == \"text/html\"`")
}

/// Conditions of different kinds, joined.
pub(super) fn mixed(operand: &Operand, before: Type) -> Mistake {
    let mistake = Mistake::new("one condition is joined with one for each element", operand.span.clone());
    let label = match before {
        Type::BOOLEAN => "this is true or false for each element",
        _ => "this is true or false once; what stands before it, for each element",
    };
    mistake.label(label).help("write `any(…)` or `all(…)` around what is asked of each element")
}

/// A comparison of an array or map.
pub(super) fn compared_collection(left: &Operand) -> Mistake {
    let mistake = Mistake::new(format!("{} cannot be compared", left.ty.with_article()), left.span.clone());
    if left.ty.map {
        return mistake.help(
            "write a key and a position behind it, such as `[\"name\"][0]`, or `any(…[\"name\"][*] == …)`",
        );
    }
    mistake.help("write `[0]` behind it for its first element, or `any(…[*] == …)`")
}

/// A comparison of what is a condition already.
pub(super) fn compared_condition(operator: Span) -> Mistake {
    Mistake::new("a condition cannot be compared", operator)
        .label("what stands before this is true or false already")
        .help("leave the comparison out, or write `not (…)` around the condition if it must be false")
}

/// No string where one must be.
pub(super) fn no_string(scan: &Scanner<'_>) -> Mistake {
    let mistake = right_side(scan);
    let expected = "a string in double quotes";
    match (scan.peek(), scan.word()) {
        (Some('{'), _) => mistake.expected(expected).help("a list is compared with `in`"),
        (_, word) if fields::field(word).is_some() => {
            mistake.label("the right side is a literal, never a field").expected(expected)
        }
        (_, word) if !word.is_empty() => mistake.expected(expected).help(format!("write `\"{word}\"`")),
        _ => mistake.expected(expected),
    }
}

/// No integer where one must be.
pub(super) fn no_integer(scan: &Scanner<'_>) -> Mistake {
    let mistake = right_side(scan).expected("an integer such as `80`");
    match scan.peek() {
        Some('"') => mistake.help("write it without quotes"),
        Some('{') => mistake.help("a list is compared with `in`"),
        _ => mistake,
    }
}

/// No address where one must be.
pub(super) fn no_address(scan: &Scanner<'_>) -> Mistake {
    let mistake = right_side(scan).expected("an IP address such as `203.0.113.1` or `2001:db8::1`");
    match scan.peek() {
        Some('"') => mistake.label("a string is no IP address").help("write it without quotes"),
        Some('{') => mistake.help("a list is compared with `in`"),
        _ => mistake,
    }
}

/// No list behind `in`.
pub(super) fn no_list(scan: &mut Scanner<'_>) -> Mistake {
    let mistake = right_side(scan).expected("a list in braces, its items separated by spaces");
    match scan.peek() {
        Some('$') => {
            let start = scan.at();
            scan.eat("$");
            let (_, name) = scan.take_word();
            Mistake::new("lists are not configured here", start..name.end)
                .label("gradual has no named lists")
                .help("write the items themselves, in braces")
        }
        Some('(' | '[') => mistake.help("write `{` and `}`"),
        Some(c) if c.is_ascii_hexdigit() || c == ':' => {
            let (text, span) = scan.take_address();
            Mistake { span, title: format!("{} is no list", quoted(text)), ..mistake }
                .help(format!("write `in {{{text}}}`"))
        }
        _ => mistake,
    }
}

fn right_side(scan: &Scanner<'_>) -> Mistake {
    if scan.at_end() { Mistake::new("the right side is missing", scan.found()) } else { unexpected(scan) }
}
