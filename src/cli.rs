//! The commands.

pub mod check;
mod demo;
pub mod explain;
mod logging;
pub mod request;
pub mod rules;
pub mod schema;
mod upgrade;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::control::{self, Ended, Handle, Options, Service};
use crate::diag::Report;

/// A reverse proxy that splits traffic between versions of an application.
#[derive(Debug, Parser)]
#[command(name = "gradual", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  gradual demo                         see it at work, without any set-up
  gradual check gradual.toml           every mistake of a file at once
  gradual run gradual.toml --watch     serve, and reload when the file changes
  gradual explain --key alice /cart    where would this request go, and why?
  gradual rules test 'ip.src in {192.0.2.0/24}' --ip 192.0.2.7
                                       what does an expression say of a request?
  kill -HUP <pid>                      reload now
  gradual upgrade gradual.toml         have the running proxy start its new program, without losing a connection
  gradual schema > schema.json         for editors that complete and check the file

Environment:
  GRADUAL_LOG   what is logged on standard error, such as `debug` or `gradual=debug,info`; else RUST_LOG; else `info`
  NO_COLOR      no colours, when set";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what a file says
    Run(Run),
    /// Replace the running proxy by its program's new version, without losing a connection
    Upgrade(Upgrade),
    /// Say every mistake of a file, and whether it is good
    Check(Check),
    /// Print the JSON schema of the file, for editors
    Schema,
    /// Say where a request would go, and why, from the file alone
    Explain(explain::ExplainArgs),
    /// Try expressions of the rules language
    Rules(rules::RulesArgs),
    /// See it at work: two versions of a tiny application, a proxy before them, and commands to try
    Demo,
}

#[derive(Debug, Args)]
struct Run {
    /// The file
    #[arg(default_value = "gradual.toml")]
    file: PathBuf,
    /// Reload when the file changes
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Args)]
struct Upgrade {
    /// The file that the proxy runs on: it says where the admin address is
    #[arg(default_value = "gradual.toml")]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct Check {
    /// The file
    #[arg(default_value = "gradual.toml")]
    file: PathBuf,
    /// Print JSON on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the command that the arguments name. 2 for arguments that name none; else as the command says, 1 for failure.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(options) => run(options),
        Command::Upgrade(options) => upgrade::upgrade(&options.file),
        Command::Check(options) => check::check(&options.file, options.json, color(&io::stderr())),
        Command::Schema => schema::schema(),
        Command::Explain(question) => explain::run(&question, load),
        Command::Rules(options) => rules::run(&options),
        Command::Demo => demo::demo(),
    }
}

/// Whether a stream wants colours: a terminal, and NO_COLOR neither set nor empty (no-color.org).
fn color(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Reads a file for the commands that need no proxy; on failure, the report as it is to be printed.
fn load(file: &Path) -> Result<Config, String> {
    let rendered = |report: Report| report.render(color(&io::stderr()));
    let source = crate::store::file::read(file).map_err(rendered)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let parsed = crate::config::parse(&file.display().to_string(), &source, folder);
    parsed.map(|(config, _)| config).map_err(rendered)
}

fn run(options: Run) -> ExitCode {
    let _log = logging::start();
    let file = options.file.display().to_string();
    let service = Service::of_this_process().map_err(|why| control::failure(&file, why));
    let options = Options { file: options.file, watch: options.watch };
    finish(service.and_then(|service| serve(options, service, |_| {})))
}

/// Runs the proxy on this thread, which becomes the control thread, until it ends.
fn serve(options: Options, service: Service, ready: impl FnOnce(Handle)) -> Result<Ended, Report> {
    let file = options.file.display().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| control::failure(&file, format!("no runtime: {error}")))?;
    let ended = runtime.block_on(control::run_as(service, options, ready));
    // Whatever still runs in the background must not hold up the end.
    runtime.shutdown_background();
    ended
}

fn finish(ended: Result<Ended, Report>) -> ExitCode {
    match ended {
        Ok(ended) => ended.exit_code(),
        Err(report) => {
            complain(&report.render(color(&io::stderr())));
            ExitCode::FAILURE
        }
    }
}

/// Prints on standard output; says whether it was taken. The macros of the standard library panic where it is not.
fn say(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Prints on standard error. Where that takes nothing, the exit code has to tell.
fn complain(text: &str) {
    logging::say(text);
}
