#![forbid(unsafe_code)]
//! The `gradual` program: arguments in, exit code out.

/// Many connections' buffers come and go: this allocator gives the pages of those that are gone back to the system, where
/// the C library's keeps all that were ever touched (measured in `docs/performance.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    gradual::cli::main()
}
