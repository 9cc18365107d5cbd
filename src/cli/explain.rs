//! `gradual explain`: where a request would go and why, from the file alone.

mod target;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{Config, Worker};
use crate::model::assets::DEPLOYMENT_HEADER;
use crate::model::decision::{Policy, Reason, Selection, Sent};
use crate::model::head::{KEY_HEADER, Lines};
use crate::model::name::VersionId;
use crate::model::overrides::{OVERRIDES_HEADER, Override};
use crate::model::ring::{Arc, Member};
use crate::model::route::Router;
use crate::model::secret::Secret;
use crate::model::share::Position;

/// The arguments of `gradual explain`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// The request's URL; the scheme, and with --worker all of it, may be left out. A bare path is enough, too
    pub url: Option<String>,
    /// The worker, instead of the one that the URL's route names
    #[arg(long, visible_alias = "name", value_name = "WORKER")]
    pub worker: Option<String>,
    /// The version key: short for --header 'Cloudflare-Workers-Version-Key: KEY'
    #[arg(long)]
    pub key: Option<String>,
    /// A request header; may be given several times
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// The request's method
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// The address that the request comes from: decides whether it is trusted, by all listeners' trusted_proxies.
    /// Without it the request comes from an address that is not trusted
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<IpAddr>,
    /// The configuration file
    #[arg(long, default_value = "gradual.toml", value_name = "FILE")]
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A request to explain.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// A URL with or without scheme, or a path. May be absent where the worker is known without.
    pub url: Option<String>,
    /// The worker's name; it then needs no route.
    pub worker: Option<String>,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The peer's address; `None`: one that no listener trusts.
    pub ip: Option<IpAddr>,
}

/// Where a request goes, and why; borrows from the configuration and the question.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// The worker's settings, its deployment included.
    pub policy: &'a Policy,
    /// The version; `None` where a draw decides.
    pub version: Option<&'a VersionId>,
    /// The version's tag.
    pub tag: Option<&'a str>,
    /// Why it goes there.
    pub reason: Reason,
    /// The key that counts, present also where an override decides.
    pub key: Option<Vec<u8>>,
    /// Whether a key was sent that does not count, because this sender may not send one.
    pub key_denied: bool,
    /// Where the key falls on the ring; `None` where no key decides.
    pub position: Option<Position>,
    /// What the overrides field says for the worker.
    pub overridden: Override,
    /// Whether this sender may send overrides; where it may and one is denied, it did not show the secret.
    pub overrides_allowed: bool,
}

/// Why a request cannot be explained: what to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake(String);

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mistake {}

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
    Ok(if args.json { format!("{:#}", answer.to_json()) } else { answer.to_text() })
}

impl ExplainArgs {
    /// The question that the arguments ask.
    ///
    /// # Errors
    /// A header or the method is not one that HTTP knows.
    pub fn question(&self) -> Result<Question, Mistake> {
        if http::Method::from_bytes(self.method.as_bytes()).is_err() {
            return Err(Mistake(format!("{:?} is not a method", self.method)));
        }
        let mut headers = self.headers.iter().map(|text| header(text)).collect::<Result<Vec<_>, _>>()?;
        if let Some(key) = &self.key {
            headers.push(field(KEY_HEADER, key)?);
        }
        Ok(Question { url: self.url.clone(), worker: self.worker.clone(), headers, ip: self.ip })
    }
}

/// A header line from `Name: value`.
fn header(text: &str) -> Result<(String, Vec<u8>), Mistake> {
    let Some((name, value)) = text.split_once(':') else {
        return Err(Mistake(format!("the header {text:?} has no colon: write 'Name: value'")));
    };
    field(name, value)
}

fn field(name: &str, value: &str) -> Result<(String, Vec<u8>), Mistake> {
    let value = value.trim_matches([' ', '\t']);
    let Ok(name) = http::HeaderName::from_bytes(name.as_bytes()) else {
        return Err(Mistake(format!("{name:?} is not the name of a header")));
    };
    match http::HeaderValue::from_bytes(value.as_bytes()) {
        Ok(value) => Ok((name.as_str().to_owned(), value.as_bytes().to_vec())),
        Err(_) => Err(Mistake(format!("{value:?} cannot be a header's value"))),
    }
}

/// Where a request would go, and why: exactly as the proxy decides it.
///
/// # Errors
/// The URL cannot be read, no worker has a route for it, none is given where several workers could be meant, or the secret
/// that an override must show cannot be read.
pub fn explain<'a>(config: &'a Config, question: &Question) -> Result<Answer<'a>, Mistake> {
    let worker = worker(config, question)?;
    let sent_key = question.headers[..].joined(KEY_HEADER);
    let overrides = question.headers[..].joined(OVERRIDES_HEADER);
    let peer = question.ip.map(|ip| SocketAddr::new(ip, 0));
    let trusted = peer.is_some_and(|peer| {
        config.listeners.iter().any(|listener| listener.trusted_proxies.contain(Some(peer)))
    });
    let secret = secret(worker, overrides.is_some())?;
    let (key, overrides, secret) = (sent_key.as_deref(), overrides.as_deref(), secret.as_ref());
    let pinned = pinned(worker, question)?;
    let sent = Sent { key, overrides, trusted, secret, pinned, ..Sent::default() };
    let policy = &worker.policy;
    let Selection { decision, overridden, key, .. } = policy.select(&sent);
    let drawn = decision.reason == Reason::Random;
    let version = worker.in_use().nth(decision.member.index()).filter(|_| !drawn);
    let version = version.map(|(_, version)| &version.metadata.id);
    Ok(Answer {
        policy,
        version,
        tag: version.and_then(|id| tag(worker, id)),
        reason: decision.reason,
        key: key.map(<[u8]>::to_vec),
        key_denied: sent_key.is_some() && !policy.keys.allow(trusted),
        position: decision.position,
        overridden,
        overrides_allowed: policy.overrides.allow(trusted),
    })
}

/// The version that a request for an asset names.
fn pinned(worker: &Worker, question: &Question) -> Result<Option<Member>, Mistake> {
    let target = question.url.as_deref().map(target::Target::parse).transpose()?;
    let (Some(assets), Some(target)) = (&worker.assets, target) else { return Ok(None) };
    if !assets.matches(target.path) {
        return Ok(None);
    }
    let line = question.headers.iter().find(|(name, _)| name == DEPLOYMENT_HEADER);
    Ok(assets.pinned(line.map(|(_, value)| value.as_slice()), target.query))
}

/// What overrides for the worker must show, read only where there are any.
fn secret(worker: &Worker, needed: bool) -> Result<Option<Secret>, Mistake> {
    let file = worker.overrides_secret_file.as_ref().filter(|_| needed);
    let read = file.map(|file| crate::proxy::secret::read(file, "secret"));
    read.transpose().map_err(|error| Mistake(error.title))
}

fn tag<'a>(worker: &'a Worker, id: &VersionId) -> Option<&'a str> {
    let version = worker.versions.iter().find(|version| version.metadata.id == *id)?;
    version.metadata.tag.as_ref().map(|tag| tag.as_str())
}

/// The worker that is named, else that of the URL's route, else the only one.
fn worker<'a>(config: &'a Config, question: &Question) -> Result<&'a Worker, Mistake> {
    let workers = &config.workers;
    let target = question.url.as_deref().map(target::Target::parse).transpose()?;
    if let Some(name) = &question.worker {
        return workers
            .iter()
            .find(|worker| worker.policy.name.as_str() == name)
            .ok_or_else(|| Mistake(format!("there is no worker {name:?}; there is {}", names(workers))));
    }
    let Some(target) = target else {
        return match &workers[..] {
            [worker] => Ok(worker),
            _ => Err(Mistake(format!("give a URL, or one of the workers with --worker: {}", names(workers)))),
        };
    };
    let host = question.headers[..].joined("host");
    let host = host.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    route(workers, target.authority.unwrap_or(&host), target.path)
}

fn route<'a>(workers: &'a [Worker], authority: &str, path: &str) -> Result<&'a Worker, Mistake> {
    let patterns = workers.iter().enumerate();
    let router = Router::new(
        patterns.flat_map(|(at, worker)| worker.routes.iter().map(move |route| (route.clone(), at))),
    );
    match router.route(authority, path) {
        Ok(Some(at)) => workers.get(at).ok_or_else(|| Mistake("the route names no worker".into())),
        Ok(None) => Err(Mistake(format!(
            "no worker has a route for {authority}{path}: the proxy answers 404; there is {}",
            names(workers)
        ))),
        Err(_) => Err(Mistake(format!(
            "{path} has dot segments, and routes of this host name paths: the proxy answers 400"
        ))),
    }
}

fn names(workers: &[Worker]) -> String {
    let names: Vec<_> = workers.iter().map(|worker| worker.policy.name.as_str()).collect();
    names.join(", ")
}

/// What became of an override, in the words of the access log.
fn override_word(overridden: Override) -> Option<&'static str> {
    match overridden {
        Override::Absent => None,
        Override::Version(_) => Some("applied"),
        Override::Ignored(problem) => Some(problem.as_str()),
    }
}

impl Answer<'_> {
    /// The answer for machines. `version_id` and `position` are null where a draw decides, `position` also where an
    /// override does; `to` is exclusive. A key that is not UTF-8 has U+FFFD in place of what is not.
    pub fn to_json(&self) -> serde_json::Value {
        let arc = |arc: &Arc| {
            let id = self.policy.deployment.version(arc.member).map(VersionId::as_str);
            serde_json::json!({ "version_id": id, "from": arc.from, "to": arc.to })
        };
        serde_json::json!({
            "worker": self.policy.name.as_str(),
            "version_id": self.version.map(VersionId::as_str),
            "reason": self.reason.as_str(),
            "key": self.key_text(),
            "position": self.position.map(Position::index),
            "override": override_word(self.overridden),
            "rules": [],
            "ring": self.policy.deployment.ring.arcs().iter().map(arc).collect::<Vec<_>>(),
        })
    }

    fn key_text(&self) -> Option<String> {
        self.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned())
    }
}
