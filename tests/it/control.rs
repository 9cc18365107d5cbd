//! The control thread: reloads, the watch, and the admin address.

mod access;
mod admin;
mod api;
mod documented;
mod journal;
mod reload;
pub(crate) mod stage;
mod watch;
