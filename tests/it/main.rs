//! Integration tests: one binary, a module for each module of the crate.

// Helpers of tests are test code, too; clippy exempts only the tests themselves.
#![allow(clippy::unwrap_used)]

mod attacks;
mod cli;
mod config;
mod control;
mod edit;
mod explain;
mod export;
mod fixture;
mod health;
mod life;
mod limits;
mod model;
mod plan;
mod proxy;
mod release;
mod rules;
mod rules_test;
mod store;
mod support;
mod tail;
mod upgrade;
