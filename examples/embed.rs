//! The data plane inside a program of your own: no file, no signals, no admin address. What is configured is text that
//! the program makes, when to reload and when to end is the program's decision.
//!
//! ```console
//! $ cargo run --example embed -- http://127.0.0.1:3001 http://127.0.0.1:3002
//! ```

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gradual::config::{self, AccessTarget, Config};
use gradual::diag::Report;
use gradual::export::access::AccessLog;
use gradual::metrics::Registry;
use gradual::proxy::{Services, Shards};

/// The file that there is not: two versions, and so many per cent for the second.
fn text(upstreams: &[String; 2], canary: u8) -> String {
    let [one, two] = upstreams;
    let rest = 100 - canary;
    format!(
        r#"
[[listener]]
address = "127.0.0.1:8080"

[[worker]]
name = "embedded"
expose_version = true

[[worker.version]]
id = "v1"
upstreams = ["{one}"]

[[worker.version]]
id = "v2"
upstreams = ["{two}"]

[worker.deployment]
versions = [
  {{ version_id = "v2", percentage = {canary} }},
  {{ version_id = "v1", percentage = {rest} }},
]
"#
    )
}

fn parse(source: &str) -> Result<Config, Box<dyn Error>> {
    match config::parse("embedded", source, Path::new(".")) {
        Ok((config, _warnings)) => Ok(config),
        Err(report) => Err(report.render(false).into()),
    }
}

/// Prepares a configuration, which may fail and then changes nothing; and commits it, which cannot fail.
async fn serve(shards: &mut Shards, source: &str) -> Result<(), Box<dyn Error>> {
    let config = parse(source)?;
    match shards.prepare(&config).await {
        Ok(prepared) => shards.commit(prepared).await,
        Err(diagnostics) => {
            let report = Report { file: "embedded".to_owned(), source: source.to_owned(), diagnostics };
            return Err(report.render(false).into());
        }
    }
    Ok(())
}

/// The calling thread is the control thread: it needs a runtime, but carries no request.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Ok(upstreams) = <[String; 2]>::try_from(arguments) else {
        return Err("usage: embed UPSTREAM UPSTREAM, such as http://127.0.0.1:3001".into());
    };
    let services =
        Services { registry: Arc::new(Registry::default()), log: AccessLog::open(&AccessTarget::Stdout)? };
    let log = services.log.clone();
    let mut shards = Shards::start(NonZeroUsize::MIN, &services)?;
    let mut canary = 10;
    serve(&mut shards, &text(&upstreams, canary)).await?;
    for address in shards.addresses() {
        println!(
            "http://{address} serves v2 with {canary} %; every line on standard input adds 10, Ctrl-C ends"
        );
    }
    let mut lines = lines_of_standard_input();
    loop {
        tokio::select! {
            stopped = tokio::signal::ctrl_c() => {
                stopped?;
                break;
            }
            Some(()) = lines.recv() => {
                canary = (canary + 10).min(100);
                serve(&mut shards, &text(&upstreams, canary)).await?;
                println!("v2 has {canary} %");
            }
        }
    }
    let cut = shards.drain(Duration::from_secs(10)).await;
    log.flush(Duration::from_secs(1));
    println!("{cut} connections were cut");
    Ok(())
}

/// A signal for every line that is typed.
fn lines_of_standard_input() -> tokio::sync::mpsc::Receiver<()> {
    let (typed, lines) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for _line in std::io::stdin().lines().map_while(Result::ok) {
            if typed.blocking_send(()).is_err() {
                return;
            }
        }
    });
    lines
}
