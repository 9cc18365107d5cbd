#![forbid(unsafe_code)]
//! `gradual`: a reverse proxy that splits traffic between versions of an application.
//!
//! Text becomes valid values at the edge, a pure core decides, and thin async shells carry bytes. A module may name
//! only modules of a lower layer (`tests/architecture.rs` holds this):
//!
//! | layer | module | what |
//! |---|---|---|
//! | 0 | [`diag`] | source spans, diagnostics, reports |
//! | 0 | [`model`] | names, shares, the ring, overrides and their secrets, routes, the decision, failover |
//! | 1 | [`metrics`] | counters and histograms, and their text form |
//! | 1 | [`rules`] | the rules language: filters and values over a request, and edits of its headers |
//! | 1 | [`plan`] | what a change of deployment does to keys, and the ring that moves no more than must |
//! | 2 | [`config`] | TOML text to a valid [`config::Config`], or a report of every mistake |
//! | 3 | [`proxy`] | the data plane: listeners, bounds, handler, upstreams, retries, tunnels, TLS |
//! | 3 | [`store`] | the configuration file on disk |
//! | 3 | [`export`] | the access log |
//! | 4 | [`control`] | reload, upgrade, admin address, file watch, signals, health checks |
//! | 5 | [`cli`] | the commands |

pub mod cli;
pub mod config;
pub mod control;
pub mod diag;
pub mod export;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod proxy;
pub mod rules;
pub mod store;
