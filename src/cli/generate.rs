//! `gradual completions` and `gradual man`: made from the definitions that parse the command line.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use serde_json::Value;

use crate::cli::failure::{Failure, Said, conclude};
use crate::cli::say;

/// Prints what a shell has to read to complete commands, options and their values.
pub(crate) fn completions(shell: Shell, mut command: Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "gradual", &mut script);
    if say(&String::from_utf8_lossy(&script)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the manual page of the program, or writes a page for each command into a folder.
pub(crate) fn man(out: Option<&Path>, command: Command) -> ExitCode {
    let result = match out {
        None => page(command).map(|text| Said::new(text, Value::Null)).map_err(|error| (None, error)),
        Some(folder) => pages(folder, command).map_err(|error| (Some(folder.to_owned()), error)),
    };
    conclude(result.map_err(|(folder, error)| failed(folder, &error)), false)
}

fn page(command: Command) -> io::Result<String> {
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    Ok(unfilled(&String::from_utf8_lossy(&text)))
}

/// The page with its examples as they stand: columns are not prose, to be filled and adjusted.
fn unfilled(page: &str) -> String {
    const EXTRA: &str = ".SH EXTRA\n";
    let Some((before, extra)) = page.split_once(EXTRA) else { return page.to_owned() };
    let end = extra.find("\n.SH ").map_or(extra.len(), |end| end + 1);
    let (examples, after) = extra.split_at(end);
    format!("{before}{EXTRA}.nf\n{examples}.fi\n{after}")
}

fn pages(folder: &Path, command: Command) -> io::Result<Said> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command.clone(), folder)?;
    // The one page that has examples.
    let own = folder.join(Man::new(command.clone()).get_filename());
    std::fs::write(own, page(command)?)?;
    Ok(Said::new(format!("the manual pages are in {}\n", folder.display()), Value::Null))
}

fn failed(folder: Option<PathBuf>, error: &io::Error) -> Failure {
    let folder = folder.map_or_else(String::new, |folder| format!(" in {}", folder.display()));
    Failure::new("write-failed", format!("the manual pages cannot be written{folder}: {error}"))
        .help("name a folder that may be written, as in `gradual man --out man`")
}
