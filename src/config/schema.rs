//! The JSON schema of the file, made from the same keys that the parser reads.

use serde_json::{Map, Value, json};

use super::keys::{FILE, Key, Kind, Section};

/// The JSON schema (draft 2020-12) of the file, for editors that complete and check TOML by one. What the file may say
/// beyond the form of single values, only [`super::parse`] checks.
pub fn json_schema() -> Value {
    let mut schema = section(&FILE);
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("gradual.toml"));
    Value::Object(schema)
}

fn section(section: &Section) -> Map<String, Value> {
    let properties: Map<_, _> = section.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<_> = section.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("description".to_owned(), json!(section.doc));
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = of_kind(&key.kind);
    schema.insert("description".to_owned(), json!(key.doc));
    if let Some(default) = key.default {
        let default = match key.kind {
            Kind::Boolean => json!(default == "true"),
            Kind::Integer { .. } => json!(default.parse::<i64>().ok()),
            _ => json!(default),
        };
        schema.insert("default".to_owned(), default);
    }
    Value::Object(schema)
}

fn of_kind(kind: &Kind) -> Map<String, Value> {
    let value = match kind {
        Kind::Text { pattern: "", .. } => json!({"type": "string"}),
        Kind::Text { pattern, .. } => json!({"type": "string", "pattern": pattern}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::Integer { least, most } => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Percentage => json!({"oneOf": [
            {"type": "number", "minimum": 0, "maximum": 100},
            {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?$"},
        ]}),
        // Tools hand TOML's date-times to a schema as strings.
        Kind::DateTime => json!({"type": "string", "format": "date-time"}),
        Kind::List { of, least } => {
            let items = Value::Object(of_kind(of));
            json!({"type": "array", "items": items, "minItems": least})
        }
        Kind::Table(table) => Value::Object(section(table)),
        Kind::Map(entry) => json!({"type": "object", "additionalProperties": section(entry)}),
    };
    match value {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}
