//! What leaves the process about the requests it served.

pub mod access;
