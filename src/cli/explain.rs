//! `gradual explain`: where a request would go and why, from the file alone.

mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub use super::request::RequestArgs;
use crate::config::Config;
pub use crate::control::explain::{Answer, KeyFrom, Mistake, Question, Request, RuleRun, explain};

/// The arguments of `gradual explain`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// The request.
    #[command(flatten)]
    pub request: RequestArgs,
    /// The worker, instead of the one that the URL's route names
    #[arg(long, visible_alias = "name", value_name = "WORKER")]
    pub worker: Option<String>,
    /// The configuration file; all listeners' trusted_proxies say whether --ip is trusted
    #[arg(long, default_value = "gradual.toml", value_name = "FILE")]
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command: prints the answer and returns 0, or prints what is wrong to stderr and returns 1; 1 also where
/// standard output does not take the answer. `load` reads the file, or says what is wrong with it in the words to be printed.
pub fn run(args: &ExplainArgs, load: impl FnOnce(&Path) -> Result<Config, String>) -> ExitCode {
    match load(&args.file).and_then(|config| answer_text(&config, args).map_err(|e| format!("error: {e}"))) {
        Ok(text) if crate::cli::say(&format!("{text}\n")) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(message) => {
            crate::cli::complain(&format!("{}\n", message.trim_end()));
            ExitCode::FAILURE
        }
    }
}

fn answer_text(config: &Config, args: &ExplainArgs) -> Result<String, Mistake> {
    let question = args.question()?;
    let answer = explain(config, &question)?;
    Ok(if args.json { super::check::json_text(&answer.to_json()) } else { answer.to_text() })
}

impl ExplainArgs {
    /// The question that the arguments ask.
    ///
    /// # Errors
    /// The URL, a header or the method is not one that HTTP knows.
    pub fn question(&self) -> Result<Question, Mistake> {
        Ok(Question { worker: self.worker.clone(), request: self.request.request()? })
    }
}
