//! `gradual upgrade`: the running proxy starts its program anew and hands everything over.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use http::Method;

use crate::cli::{complain, load, say};
use crate::control::client::{Answer, Client, ClientError};

/// Longer than the running process itself waits for the new one.
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks the process that runs a file, and says what came of it. 1 where it goes on as it is.
pub(crate) fn upgrade(file: &Path) -> ExitCode {
    match ask(file) {
        Ok(done) => {
            say(&done);
            ExitCode::SUCCESS
        }
        Err(report) => {
            complain(&report);
            ExitCode::FAILURE
        }
    }
}

fn ask(file: &Path) -> Result<String, String> {
    let config = load(file)?;
    let error = |what: String| format!("error: {what}\n");
    let answer = post(&config.admin).map_err(|problem| error(problem.to_string()))?;
    match (answer.status.is_success(), &answer.body["from"], &answer.body["to"]) {
        (true, from, to) => Ok(format!("process {to} serves; process {from} finishes what is in flight\n")),
        (false, ..) => Err(error(format!("no upgrade: {}", answer.problem()))),
    }
}

fn post(admin: &crate::config::Admin) -> Result<Answer, ClientError> {
    let client = Client::new(admin)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ClientError::Connect(admin.address.value.clone(), error))?;
    runtime.block_on(client.ask(Method::POST, "/api/v1/upgrade", PATIENCE))
}
