//! All integration tests, in one binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod control;
mod life;
