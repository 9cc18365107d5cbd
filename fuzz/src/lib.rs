//! What the fuzz targets check, apart from libFuzzer: `tests/fuzz.rs` runs the same functions on the stable compiler.

pub mod config;
pub mod connection;
pub mod head;
pub mod overrides;
pub mod proxy_header;
pub mod route;
pub mod rules;
pub mod strict;
mod upstream;

/// A target: panics where something is wrong with what came of an input.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const ALL: [(&str, Target); 7] = [
    ("overrides", overrides::run),
    ("route", route::run),
    ("config", config::run),
    ("proxy_header", proxy_header::run),
    ("head", head::run),
    ("connection", connection::run),
    ("rules", rules::run),
];
