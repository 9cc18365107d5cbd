//! The control thread: reloads, the watch, and the admin address.

mod access;
mod admin;
mod api;
mod cloudflare;
mod documented;
mod journal;
mod reload;
pub(crate) mod stage;
mod tails;
mod watch;
