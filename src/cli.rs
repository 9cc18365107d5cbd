//! The commands.

mod change;
pub mod check;
mod demo;
mod deploy;
mod deployments;
pub mod explain;
mod failure;
mod generate;
mod logging;
mod plan;
mod prompts;
pub mod request;
pub mod rules;
mod running;
pub mod schema;
mod show;
mod specs;
mod upgrade;
mod versions;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::cli::deploy::{DeployArgs, RollbackArgs};
use crate::cli::deployments::Deployments;
use crate::cli::failure::{Failure, Said, conclude};
use crate::cli::plan::PlanArgs;
use crate::cli::versions::Versions;
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
  gradual versions upload --upstream http://127.0.0.1:3002 --tag v2
                                       add a version: no request reaches it yet
  gradual versions deploy <id>@10% <id>@90%
                                       split traffic; shows which keys move
  gradual rollback                     back to the version that had all traffic before
  gradual plan old.toml new.toml       who moves when one file takes the other's place?
  gradual status                       what serves, and is it well?
  gradual reload                       read the file again
  gradual upgrade gradual.toml         have the running proxy start its new program, without losing a connection
  gradual schema > schema.json         for editors that complete and check the file

Environment:
  GRADUAL_AUTHOR  who deploys, for the journal; else the user's name
  GRADUAL_LOG     what is logged on standard error, such as `debug` or `gradual=debug,info`; else RUST_LOG; else `info`
  NO_COLOR        no colours, when set
  CI              no questions, when set

Exit codes: 0 done, 1 refused or failed, 2 arguments that mean nothing.";

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
    /// Upload, list, show and deploy versions
    #[command(subcommand)]
    Versions(Versions),
    /// List and show deployments
    #[command(subcommand)]
    Deployments(Deployments),
    /// Give all traffic to one version: a new one, or one that was uploaded
    Deploy(DeployArgs),
    /// Give all traffic back to a version that had it before
    Rollback(RollbackArgs),
    /// Say who moves when one file takes another's place
    Plan(PlanArgs),
    /// Have the running proxy read its file again, and wait until it serves it
    Reload(At),
    /// Show what the running proxy serves, and whether it is well
    Status(At),
    /// See it at work: two versions of a tiny application, a proxy before them, and commands to try
    Demo,
    /// Print what a shell reads to complete the command line
    Completions(Completions),
    /// Print the manual page, or write one for each command
    Man(Man),
}

#[derive(Debug, Args)]
struct At {
    /// The file that the proxy runs on: it says where the admin address is
    #[arg(long, default_value = "gradual.toml", value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Print one JSON value on standard output
    #[arg(long)]
    json: bool,
}

impl At {
    fn ask(&self, ask: impl FnOnce(&Config, &Path) -> Result<Said, Failure>) -> ExitCode {
        conclude(change::read(&self.file).and_then(|config| ask(&config, &self.file)), self.json)
    }
}

#[derive(Debug, Args)]
struct Completions {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Args)]
struct Man {
    /// The folder for a page of each command; without it, the page of the program is printed
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
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
    match Cli::try_parse() {
        Ok(cli) => obey(cli.command),
        Err(error) => misunderstood(&error),
    }
}

/// Prints the help, or what is wrong with the arguments; for machines that, too.
fn misunderstood(error: &clap::Error) -> ExitCode {
    // Where nobody takes it, the exit code has to tell.
    let _ = error.print();
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if code != 0 && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or_default();
        failure::say_usage(first.strip_prefix("error: ").unwrap_or(first));
    }
    ExitCode::from(code)
}

fn obey(command: Command) -> ExitCode {
    match command {
        Command::Run(options) => run(options),
        Command::Upgrade(options) => upgrade::upgrade(&options.file),
        Command::Check(options) => check::check(&options.file, options.json, color(&io::stderr())),
        Command::Schema => schema::schema(),
        Command::Explain(question) => explain::run(&question, load),
        Command::Rules(options) => rules::run(&options),
        Command::Versions(versions) => conclude(versions.run(), versions.json()),
        Command::Deployments(deployments) => conclude(deployments.run(), deployments.json()),
        Command::Deploy(deploy) => conclude(deploy.run(), deploy.json()),
        Command::Rollback(rollback) => conclude(rollback.run(), rollback.json()),
        Command::Plan(plan) => conclude(plan.run(), plan.json()),
        Command::Reload(at) => at.ask(running::reload),
        Command::Status(at) => at.ask(running::status),
        Command::Completions(Completions { shell }) => generate::completions(shell, Cli::command()),
        Command::Man(Man { out }) => generate::man(out.as_deref(), Cli::command()),
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
