//! All integration tests, in one binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod config;
mod control;
mod explain;
mod export;
mod fixture;
mod life;
mod model;
