//! The data plane on real sockets.

mod drain;
mod http2;
mod kit;
mod pools;
mod proxy_protocol;
mod reload;
mod streams;
mod tls;
mod tunnel;
mod unix;
mod websocket;
