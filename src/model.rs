//! The pure core: names, shares, the ring, overrides, routes, and the decision which version a request goes to.
//!
//! Nothing here performs I/O, reads a clock, or draws a random number: whatever a decision depends on is an argument.

pub mod affinity;
pub mod assets;
pub mod decision;
pub mod deployment;
pub mod failover;
pub mod forwarded;
pub mod head;
pub mod name;
pub mod overrides;
pub mod percent;
pub mod ring;
pub mod route;
pub mod secret;
pub mod share;
