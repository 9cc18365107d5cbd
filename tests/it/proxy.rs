//! The data plane on real sockets.

mod http2;
mod kit;
