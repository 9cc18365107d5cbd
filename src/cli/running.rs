//! The running proxy, as commands find it: by the admin address of the file that it runs.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;

use crate::cli::failure::{Failure, Said, clean, warn};
use crate::config::{Admin, Config};
use crate::control::client::{Answer, Client, ClientError};
use crate::control::release::Told;
use crate::diag::counted;

/// How long a reload may take: names are resolved meanwhile.
const RELOAD: Duration = Duration::from_secs(60);
/// How long a status may take.
const STATUS: Duration = Duration::from_secs(10);

/// Why no proxy is asked.
#[derive(Debug)]
pub(crate) enum Absent {
    /// None runs the file, and how that was found out.
    Nobody(String),
    /// That cannot be found out.
    Unknown(String),
}

impl From<Absent> for Told {
    fn from(absent: Absent) -> Self {
        match absent {
            Absent::Nobody(why) => Self::NoProxy { why },
            Absent::Unknown(why) => Self::Unknown { why },
        }
    }
}

impl From<Absent> for Failure {
    fn from(absent: Absent) -> Self {
        match absent {
            Absent::Nobody(why) => Self::new("no-proxy", format!("no proxy runs this file: {why}"))
                .help("`gradual run FILE` starts one; `--file` says which file is meant"),
            Absent::Unknown(why) => Self::new("no-answer", why),
        }
    }
}

/// A proxy that runs a certain file.
pub(crate) struct Proxy {
    client: Client,
    status: Value,
}

impl Proxy {
    /// The proxy at the admin address, if it runs this very file.
    pub(crate) async fn find(admin: &Admin, file: &Path) -> Result<Self, Absent> {
        let client = Client::new(admin).map_err(|error| absent(&error))?;
        let answer =
            client.ask(Method::GET, "/api/v1/status", STATUS).await.map_err(|error| absent(&error))?;
        let address = &admin.address.value;
        match (answer.status, answer.body["file"].as_str()) {
            (StatusCode::OK, Some(other)) if is_same(Path::new(other), file) => {
                Ok(Self { client, status: answer.body })
            }
            (StatusCode::OK, Some(other)) => {
                Err(Absent::Nobody(format!("the proxy at the admin address {address} runs {other}")))
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Err(Absent::Unknown(format!(
                "the admin address {address} refuses to tell: {}",
                answer.problem()
            ))),
            (StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _) => {
                Err(Absent::Nobody(format!("what answers at the admin address {address} is not gradual")))
            }
            _ => Err(Absent::Unknown(format!(
                "the admin address {address} gives no status: {}",
                answer.problem()
            ))),
        }
    }

    /// Has the file read again; returns once every shard serves it, or says why none does.
    async fn reload(&self) -> Result<Answer, Told> {
        let answer = self.client.ask(Method::POST, "/api/v1/reload", RELOAD).await;
        match answer {
            Ok(answer) if answer.status.is_success() => Ok(answer),
            Ok(answer) if answer.status == StatusCode::UNPROCESSABLE_ENTITY => {
                Err(Told::Refused { report: diagnostics(&answer.body) })
            }
            Ok(answer) => Err(Told::Unknown { why: answer.problem() }),
            Err(error) => Err(Told::Unknown { why: error.to_string() }),
        }
    }
}

/// Has the proxy that runs a file take it over.
pub(crate) async fn tell(admin: &Admin, file: &Path) -> Told {
    let proxy = match Proxy::find(admin, file).await {
        Ok(proxy) => proxy,
        Err(absent) => return absent.into(),
    };
    match proxy.reload().await {
        Ok(answer) => Told::Serves { generation: answer.body["generation"].as_u64().unwrap_or(0) },
        Err(told) => told,
    }
}

/// `gradual reload`.
pub(crate) fn reload(config: &Config, file: &Path) -> Result<Said, Failure> {
    runtime()?.block_on(async {
        let proxy = Proxy::find(&config.admin, file).await?;
        match proxy.reload().await {
            Ok(answer) => {
                if answer.body["warnings"].as_array().is_some_and(|warnings| !warnings.is_empty()) {
                    warn(&format!("the file was taken, but\n{}", diagnostics_of(&answer.body["warnings"])));
                }
                let text = format!("generation {} serves on every thread\n", answer.body["generation"]);
                Ok(Said::new(text, answer.body))
            }
            Err(Told::Refused { report }) => {
                let title = format!("the running proxy refused the file, and goes on as it was\n{report}");
                Err(Failure::new("refused-by-proxy", title).help("mend the file, then `gradual reload`"))
            }
            Err(Told::Unknown { why } | Told::NoProxy { why }) => Err(Absent::Unknown(why).into()),
            Err(Told::Serves { generation }) => {
                Ok(Said::new(format!("generation {generation} serves\n"), Value::Null))
            }
        }
    })
}

/// `gradual status`.
pub(crate) fn status(config: &Config, file: &Path) -> Result<Said, Failure> {
    let proxy = runtime()?.block_on(Proxy::find(&config.admin, file))?;
    Ok(Said::new(status_text(&proxy.status), proxy.status))
}

/// A runtime for one conversation.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new("no-runtime", format!("no runtime: {error}")))
}

fn absent(error: &ClientError) -> Absent {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    match error {
        ClientError::Connect(address, cause) if matches!(cause.kind(), ConnectionRefused | NotFound) => {
            Absent::Nobody(format!("nobody answers at the admin address {address}"))
        }
        // Then the file names no address to ask at.
        ClientError::AnyPort => Absent::Nobody(format!("none can be found, as {error}")),
        _ => Absent::Unknown(error.to_string()),
    }
}

/// Whether two paths lead to the same file.
fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// What a proxy says of a file that it refused.
fn diagnostics(problem: &Value) -> String {
    match diagnostics_of(&problem["diagnostics"]) {
        text if text.is_empty() => problem["detail"].as_str().unwrap_or("it did not say why").to_owned(),
        text => text,
    }
}

fn diagnostics_of(list: &Value) -> String {
    let mut text = String::new();
    for one in list.as_array().into_iter().flatten() {
        let word = |name: &str| one[name].as_str().filter(|word| !word.is_empty());
        let _ =
            write!(text, "{}: {}", word("severity").unwrap_or("error"), word("title").unwrap_or_default());
        if let (Some(line), Some(column)) = (one["line"].as_u64(), one["column"].as_u64()) {
            let _ = write!(text, " (line {line}, column {column})");
        }
        text.push('\n');
        for (name, value) in [("", word("label")), ("expected ", word("expected")), ("help: ", word("help"))]
        {
            if let Some(value) = value {
                let _ = writeln!(text, "  = {name}{value}");
            }
        }
    }
    text
}

/// The status for people.
fn status_text(status: &Value) -> String {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), clean);
    let mut text = String::new();
    let state = match (status["draining"].as_bool(), status["ready"].as_bool()) {
        (Some(true), _) => "draining",
        (_, Some(true)) => "ready",
        _ => "not ready",
    };
    let listeners: Vec<_> = status["listeners"].as_array().into_iter().flatten().map(word).collect();
    let count = |name: &str, what: &str| {
        counted(usize::try_from(status["load"][name].as_u64().unwrap_or(0)).unwrap_or(usize::MAX), what)
    };
    let rows = [
        ("gradual", format!("{}, process {}, {state}", word(&status["version"]), status["pid"])),
        ("started", word(&status["started"])),
        ("file", word(&status["file"])),
        ("generation", format!("{}{}", status["generation"], last_reload(&status["last_reload"]))),
        ("listeners", listeners.join(", ")),
        ("admin", word(&status["admin"])),
        ("threads", word(&status["threads"])),
        ("load", format!("{}, {}", count("connections", "connection"), count("requests", "request"))),
        ("journal", word(&status["journal"])),
    ];
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<11} {value}");
    }
    for worker in status["workers"].as_array().into_iter().flatten() {
        worker_text(worker, &mut text);
    }
    text
}

fn last_reload(last: &Value) -> String {
    match last["result"].as_str() {
        Some("failure") => {
            format!("; the file was refused at {}: see `gradual check`", last["time"].as_str().unwrap_or("-"))
        }
        Some(_) => format!("; reloaded at {}", last["time"].as_str().unwrap_or("-")),
        None => String::new(),
    }
}

/// A worker's deployment: share, version, whether it is up, and what is not well of it.
fn worker_text(worker: &Value, text: &mut String) {
    let word = |value: &Value| value.as_str().map(clean);
    let deployment = &worker["deployment"];
    let name = word(&worker["name"]).unwrap_or_default();
    let _ = writeln!(text, "\nworker {name}: deployment {}", word(&deployment["id"]).unwrap_or_default());
    for shown in deployment["versions"].as_array().into_iter().flatten() {
        let all = worker["versions"].as_array().into_iter().flatten();
        let Some(version) = all.clone().find(|version| version["id"] == shown["version_id"]) else {
            continue;
        };
        let up = match version["up"].as_bool() {
            Some(false) => "down",
            _ => "up",
        };
        let tag = word(&shown["tag"]).map(|tag| format!(" ({tag})")).unwrap_or_default();
        let id = word(&shown["version_id"]).unwrap_or_default();
        let _ = writeln!(text, "  {:>7}%  {up:<4}  {id}{tag}", shown["percentage"].to_string());
        let upstreams = version["health"].as_array().into_iter().flatten();
        for upstream in upstreams.filter(|upstream| upstream["healthy"] == false) {
            let _ =
                writeln!(text, "            unhealthy: {}", word(&upstream["upstream"]).unwrap_or_default());
        }
    }
}
