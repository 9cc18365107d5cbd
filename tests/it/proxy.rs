//! The data plane on real sockets.

mod http2;
mod kit;
mod tls;
mod tunnel;
mod unix;
mod websocket;
