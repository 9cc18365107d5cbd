//! The admin API under `/api/v1/`: what it answers, what it refuses, and what it writes.

mod bodies;
mod document;
mod reads;
mod together;
mod writes;

use serde_json::{Value, json};

use super::stage::{ANY_PORT, Answer, Stage, file};

const V1: &str = "db7cd8d3-4425-4fe7-8c81-01bf963b6067";
const V2: &str = "dc8dcd28-271b-4367-9840-6c244f84cb40";

/// A proxy with the worker `shop`, which gives v1 90 %.
fn shop() -> Stage {
    Stage::new(&file(ANY_PORT, 90))
}

impl Stage {
    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET /api/v1{path} HTTP/1.1\r\nHost: localhost"))
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, &body.to_string())
    }

    fn post_text(&self, path: &str, body: &str) -> Answer {
        let length = body.len();
        let head = "Host: localhost\r\nContent-Type: application/json";
        self.ask(&format!("POST /api/v1{path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}"))
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }
}

/// A split as requests and answers have it.
fn split(parts: &[(&str, f64)]) -> Value {
    // Whole percentages are whole numbers.
    let number = |share: &f64| share.to_string().parse::<serde_json::Number>().unwrap();
    parts.iter().map(|(id, share)| json!({ "version_id": id, "percentage": number(share) })).collect()
}

/// Status and kind of a problem; it is one.
fn problem(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let json = answer.json();
    assert_eq!(json["status"], answer.status, "{json}");
    assert!(!json["detail"].as_str().unwrap().is_empty() && json["title"].is_string(), "{json}");
    (answer.status, json["kind"].as_str().unwrap().to_owned())
}

/// The active deployment's ids and shares.
fn active(stage: &Stage) -> Vec<(String, f64)> {
    let worker = stage.get("/workers/shop").json();
    let parts = worker["deployment"]["versions"].as_array().unwrap().iter();
    let part = |part: &Value| {
        (part["version_id"].as_str().unwrap().to_owned(), part["percentage"].as_f64().unwrap())
    };
    parts.map(part).collect()
}
