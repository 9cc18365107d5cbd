#![forbid(unsafe_code)]
//! The `gradual` program: arguments in, exit code out.

fn main() -> std::process::ExitCode {
    gradual::cli::main()
}
