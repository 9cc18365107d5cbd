//! Attacks: what is sent to do harm gets a safe answer, and nothing unframed, unasked or ambiguous reaches an upstream or a
//! client. Every test judges both the answer and the bytes that a recording upstream received.

mod bodies;
mod floods;
mod frames;
mod framing;
mod heads;
mod hops;
mod http2;
mod idle;
mod language;
mod refusals;
mod responses;
mod sizes;
mod strict;
mod targets;
mod trust;
mod upgrades;
