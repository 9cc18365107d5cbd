//! The commands about versions and deployments: the program as it is, with and without a running proxy.

mod deployments;
mod generate;
mod mistakes;
mod plan;
mod prompts;
mod running;
mod stage;
mod terminal;
mod versions;
