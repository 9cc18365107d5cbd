//! Every mistake of a JSON value, by the very schema that the OpenAPI document shows.

use std::collections::HashMap;

use regex::Regex;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::control::admin::problem::Mistake;
use crate::diag::{nearest, quoted};

/// The most mistakes that are said of one body; there may be more then.
pub(super) const MOST: usize = 20;
/// The longest name in a pointer, in bytes: a longer one is nobody's member, and is cut short.
const LONGEST_NAME: usize = 200;

/// What a value of type `T` must be like.
pub(crate) struct Rules {
    root: Value,
    /// Schemas that others refer to, by the names in their references.
    named: HashMap<String, Value>,
}

impl Rules {
    /// The rules of a type.
    pub(crate) fn of<T: ToSchema>() -> Self {
        let json = |schema| serde_json::to_value(schema).unwrap_or_default();
        let mut schemas = Vec::new();
        T::schemas(&mut schemas);
        let named = schemas.into_iter().map(|(name, schema)| (name, json(schema))).collect();
        Self { root: json(T::schema()), named }
    }

    /// Whether nothing has to be there.
    pub(crate) fn take_nothing(&self) -> bool {
        self.root.get("required").and_then(Value::as_array).is_none_or(Vec::is_empty)
    }

    /// Every mistake of a value, as far as the schema tells, in its order; at most so many as anybody would read.
    pub(crate) fn mistakes(&self, value: &Value) -> Vec<Mistake> {
        let mut found =
            Found { rules: self, at: String::new(), patterns: HashMap::new(), mistakes: Vec::new() };
        found.value(&self.root, value);
        found.mistakes
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let name = reference.and_then(|reference| reference.strip_prefix("#/components/schemas/"));
        name.and_then(|name| self.named.get(name)).unwrap_or(schema)
    }
}

/// A walk through a value beside its schema.
struct Found<'a> {
    rules: &'a Rules,
    /// The JSON pointer of where the walk is.
    at: String,
    /// Each compiled once, however many texts it is for; `None`: it cannot be.
    patterns: HashMap<&'a str, Option<Regex>>,
    mistakes: Vec<Mistake>,
}

impl<'a> Found<'a> {
    /// Whether nothing more is said.
    fn is_full(&self) -> bool {
        self.mistakes.len() >= MOST
    }

    fn add(&mut self, detail: impl Into<String>) {
        if !self.is_full() {
            self.mistakes.push(Mistake { pointer: self.at.clone(), detail: detail.into() });
        }
    }

    /// Walks on into a member or an element. RFC 6901 section 3: `~` and `/` are escaped.
    fn within(&mut self, token: &str, walk: impl FnOnce(&mut Self)) {
        let length = self.at.len();
        let token = token.get(..token.floor_char_boundary(LONGEST_NAME)).unwrap_or(token);
        self.at.push('/');
        self.at.push_str(&token.replace('~', "~0").replace('/', "~1"));
        walk(self);
        self.at.truncate(length);
    }

    fn value(&mut self, schema: &'a Value, value: &Value) {
        let schema = self.rules.resolved(schema);
        if let Some(others) = schema.get("oneOf").and_then(Value::as_array) {
            // Null, or what is named.
            let other = others.iter().find(|other| other.get("$ref").is_some());
            if let Some(other) = other.filter(|_| !value.is_null()) {
                self.value(other, value);
            }
            return;
        }
        let wanted = types(schema);
        if !wanted.is_empty() && !wanted.iter().any(|name| is_a(name, value)) {
            return self.add(format!("expected {}, found {}", wanted.join(" or "), kind(value)));
        }
        match value {
            Value::Object(members) => self.object(schema, members),
            Value::Array(values) => self.array(schema, values),
            Value::String(text) => self.text(schema, text),
            Value::Number(number) => self.number(schema, number),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn object(&mut self, schema: &'a Value, members: &Map<String, Value>) {
        let known = schema.get("properties").and_then(Value::as_object);
        for (name, value) in members {
            if self.is_full() {
                return;
            }
            match known.and_then(|known| known.get(name)) {
                Some(schema) => self.within(name, |walk| walk.value(schema, value)),
                None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => {
                    let near = nearest(name, known.iter().flat_map(|known| known.keys().map(String::as_str)));
                    let near = near.map(|near| format!("; did you mean {}?", quoted(near)));
                    let detail = format!("there is no member of this name{}", near.unwrap_or_default());
                    self.within(name, |walk| walk.add(detail));
                }
                None => {}
            }
        }
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        for name in required.filter_map(Value::as_str).filter(|name| !members.contains_key(*name)) {
            self.within(name, |walk| walk.add("this member is missing"));
        }
    }

    fn array(&mut self, schema: &'a Value, values: &[Value]) {
        let length = values.len();
        if let Some(least) = bound(schema, "minItems").filter(|least| length < *least) {
            self.add(format!("expected at least {least}, found {length}"));
        }
        if let Some(most) = bound(schema, "maxItems").filter(|most| length > *most) {
            self.add(format!("expected at most {most}, found {length}"));
        }
        if let Some(items) = schema.get("items") {
            for (place, value) in values.iter().enumerate() {
                if self.is_full() {
                    return;
                }
                self.within(&place.to_string(), |walk| walk.value(items, value));
            }
        }
    }

    fn text(&mut self, schema: &'a Value, text: &str) {
        let length = text.chars().count();
        if let Some(least) = bound(schema, "minLength").filter(|least| length < *least) {
            return self.add(format!("expected at least {least} characters, found {length}"));
        }
        if let Some(most) = bound(schema, "maxLength").filter(|most| length > *most) {
            return self.add(format!("expected at most {most} characters, found {length}"));
        }
        let pattern = schema.get("pattern").and_then(Value::as_str);
        let Some(pattern) = pattern else { return };
        let compiled = self.patterns.entry(pattern).or_insert_with(|| Regex::new(pattern).ok());
        if !compiled.as_ref().is_some_and(|compiled| compiled.is_match(text)) {
            self.add(format!("{} does not match {pattern}", quoted(text)));
        }
    }

    fn number(&mut self, schema: &Value, number: &serde_json::Number) {
        let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
        let (least, most) = (limit("minimum"), limit("maximum"));
        let value = number.as_f64().unwrap_or(f64::NAN);
        let within = least.is_none_or(|least| value >= least) && most.is_none_or(|most| value <= most);
        match (least, most) {
            _ if within => {}
            (Some(least), Some(most)) => self.add(format!("expected {least} to {most}, found {number}")),
            (Some(least), None) => self.add(format!("expected {least} or more, found {number}")),
            (None, most) => {
                self.add(format!("expected {} or less, found {number}", most.unwrap_or_default()));
            }
        }
    }
}

fn bound(schema: &Value, name: &str) -> Option<usize> {
    schema.get(name).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok())
}

/// The types that a schema allows, by their names in JSON Schema; none: all.
fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn is_a(name: &str, value: &Value) -> bool {
    match name {
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        name => kind(value) == name,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(ToSchema, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Order {
        #[schema(min_items = 1, max_items = 2)]
        lines: Vec<Line>,
        #[schema(max_length = 3, pattern = "^[a-z]*$")]
        code: Option<String>,
        best: Option<Line>,
        dry_run: Option<bool>,
    }

    #[derive(ToSchema, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Line {
        #[schema(minimum = 0, maximum = 100)]
        count: f64,
        place: Option<u32>,
    }

    fn said(value: &Value) -> Vec<String> {
        let mistakes = Rules::of::<Order>().mistakes(value).into_iter();
        mistakes.map(|one| format!("{}: {}", one.pointer, one.detail)).collect()
    }

    #[test]
    fn what_the_schema_allows_has_no_mistake() {
        for good in [
            json!({ "lines": [{ "count": 0 }] }),
            json!({ "lines": [{ "count": 12.5, "place": 3 }], "code": "abc", "best": { "count": 1 }, "dry_run": true }),
            json!({ "lines": [{ "count": 100, "place": null }], "code": null, "best": null, "dry_run": null }),
        ] {
            assert_eq!(said(&good), [""; 0]);
        }
    }

    #[test]
    fn every_mistake_is_said_with_its_place() {
        for (bad, mistakes) in [
            (json!([]), &[": expected object, found array"][..]),
            (json!({}), &["/lines: this member is missing"]),
            (json!({ "lines": [] }), &["/lines: expected at least 1, found 0"]),
            (
                json!({ "lines": [{}, { "count": "1" }, { "count": 101 }], "cod": 1, "a/b~": 2 }),
                &[
                    "/a~1b~0: there is no member of this name",
                    "/cod: there is no member of this name; did you mean `code`?",
                    "/lines: expected at most 2, found 3",
                    "/lines/0/count: this member is missing",
                    "/lines/1/count: expected number, found string",
                    "/lines/2/count: expected 0 to 100, found 101",
                ],
            ),
            (
                json!({ "lines": [{ "count": 1, "place": 1.5 }, { "count": -1, "place": -1 }], "code": "abcd" }),
                &[
                    "/code: expected at most 3 characters, found 4",
                    "/lines/0/place: expected integer or null, found number",
                    "/lines/1/count: expected 0 to 100, found -1",
                    "/lines/1/place: expected 0 or more, found -1",
                ],
            ),
            (
                json!({ "lines": [{ "count": 1 }], "code": "A", "best": { "count": null }, "dry_run": 0 }),
                &[
                    "/best/count: expected number, found null",
                    "/code: `A` does not match ^[a-z]*$",
                    "/dry_run: expected boolean or null, found number",
                ],
            ),
        ] {
            assert_eq!(said(&bad), mistakes);
        }
    }

    #[test]
    fn no_more_mistakes_are_said_than_anybody_reads() {
        let lines: Vec<_> = (0..1000).map(|_| json!({})).collect();
        assert_eq!(said(&json!({ "lines": lines })).len(), MOST);
    }
}
