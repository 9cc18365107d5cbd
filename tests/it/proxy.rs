//! The data plane end to end: real sockets on loopback, real backends, exact bytes.

mod choice;
