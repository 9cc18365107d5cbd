//! `[[worker.rule]]`: filters, and what they do to headers.

use std::collections::HashMap;

use http::HeaderName;

use super::fields::{Fields, Text, Walk};
use crate::diag::{Diagnostic, Span, quoted};
use crate::rules::{Edit, Expression, Filter, Mistake, Operation, Rule, Rules, header};

/// The most headers that one rule may change, as with Cloudflare.
const MOST_HEADERS: usize = 30;
/// The most rules of a worker: each one costs every request.
const MOST_RULES: usize = 500;

/// The rules of a worker that are whole.
pub(super) fn rules(walk: &mut Walk<'_>, listed: &[Fields<'_>]) -> Rules {
    if let Some(beyond) = listed.get(MOST_RULES) {
        let title = format!("a worker has at most {MOST_RULES} rules");
        walk.report(Diagnostic::error(title, beyond.span.clone()).label("this one is too many"));
    }
    Rules::new(listed.iter().filter_map(|fields| rule(walk, fields)).collect())
}

fn rule(walk: &mut Walk<'_>, fields: &Fields<'_>) -> Option<Rule> {
    let filter = fields.text("expression").and_then(|text| parsed(walk, &text, Filter::parse));
    let edits = edits(walk, fields);
    let description = fields.text("description").map(|text| text.value.to_owned());
    let enabled = fields.boolean("enabled").unwrap_or(true);
    Some(Rule { filter: filter?, description, enabled, edits })
}

/// What a text says in a language of its own.
pub(super) fn parsed<T>(
    walk: &mut Walk<'_>,
    text: &Text<'_>,
    parse: impl FnOnce(&str) -> Result<T, Mistake>,
) -> Option<T> {
    parse(text.value)
        .map_err(|mistake| {
            let span = walk.place(text, mistake.span.clone());
            walk.report(mistake.diagnostic(span));
        })
        .ok()
}

fn edits(walk: &mut Walk<'_>, fields: &Fields<'_>) -> Vec<Edit> {
    let entries = fields.named("headers");
    let all = fields.any("headers");
    if let Some((_, span)) = all.filter(|(all, _)| all.as_table().is_some_and(|all| all.is_empty())) {
        walk.conclude(Diagnostic::error("the rule changes no header", span).label("`headers` is empty"));
    }
    if let Some((beyond, _)) = entries.get(MOST_HEADERS) {
        let title = format!("a rule changes at most {MOST_HEADERS} headers");
        let mistake = Diagnostic::error(title, beyond.span.clone()).label("this one is too many");
        walk.report(mistake.help("make two rules of it"));
    }
    let mut seen: HashMap<HeaderName, Span> = HashMap::new();
    let mut edits = Vec::new();
    for (text, fields) in &entries {
        let removes = fields.word("operation") == Some("remove");
        let name = parsed(walk, text, |text| header::name(text, removes));
        if let Some(first) = name.as_ref().and_then(|name| seen.get(name)) {
            let label = format!("the same header as on line {}", walk.line(first));
            let title = format!("header {} is there twice", quoted(text.value));
            walk.conclude(
                Diagnostic::error(title, text.span.clone()).label(label).help("case makes no difference"),
            );
        }
        let operation = operation(walk, fields, text);
        if let Some(name) = name {
            seen.entry(name.clone()).or_insert_with(|| text.span.clone());
            edits.extend(operation.map(|operation| Edit { name, operation }));
        }
    }
    edits
}

fn operation(walk: &mut Walk<'_>, fields: &Fields<'_>, name: &Text<'_>) -> Option<Operation> {
    let word = fields.word("operation");
    let (value, expression) = (fields.text("value"), fields.text("expression"));
    // Whatever the operation is: all that is wrong is said at once. What is to be left out may be wrong.
    let sets = word != Some("remove");
    let fixed = value.as_ref().filter(|_| sets).and_then(|text| parsed(walk, text, header::value));
    let computed =
        expression.as_ref().filter(|_| sets).and_then(|text| parsed(walk, text, Expression::parse));
    match (word?, value, expression) {
        ("set", Some(_), None) => fixed.map(Operation::Set),
        ("set", None, Some(_)) => computed.map(Operation::Compute),
        ("set", None, None) => {
            // Of another type it is there, and reported.
            if !fields.has("value") && !fields.has("expression") {
                let mistake = Diagnostic::error("a header is set to nothing", name.span.clone())
                    .label("this has neither `value` nor `expression`")
                    .expected(
                        "`value`, which is the same for every request, or `expression`, which computes it",
                    );
                walk.conclude(mistake);
            }
            None
        }
        ("set", Some(_), Some(expression)) => {
            let mistake = Diagnostic::error("`value` and `expression` exclude each other", expression.span);
            walk.conclude(mistake.label("there is a `value`, too").help("leave one of them out"));
            None
        }
        (_, None, None) => Some(Operation::Remove),
        (_, value, expression) => {
            for (name, text) in [("value", value), ("expression", expression)] {
                if let Some(text) = text {
                    let mistake =
                        Diagnostic::error(format!("`{name}` of a header that is removed"), text.span);
                    walk.conclude(
                        mistake.help(format!("leave `{name}` out, or write `operation = \"set\"`")),
                    );
                }
            }
            None
        }
    }
}
