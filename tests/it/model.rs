//! Every guarantee of the decision, as a property or a table.

mod affinity;
mod assets;
mod deployment;
mod failover;
mod overrides;
mod policy;
mod ring;
mod route;
mod secrets;
mod structured_fields;
mod vectors;
