//! What lies on disk: the configuration file.

pub mod file;
