//! What the process keeps on disk: the file.

pub mod file;
