//! Filters of a tail, as wrangler sends them.

use std::net::IpAddr;

use http::HeaderName;
use serde::Deserialize;

use crate::config::Worker;
use crate::control::cloudflare::envelope::ApiError;
use crate::control::release;
use crate::diag::quoted;
use crate::export::access::Outcome;
use crate::export::tail::{Condition, Filter};

/// The most filters of a tail, and the most values of one.
const MOST: usize = 32;

/// What is asked for.
#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    filters: Vec<One>,
}

/// One filter: an object of one member.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum One {
    SamplingRate(f64),
    Outcome(Vec<String>),
    Method(Vec<String>),
    Header {
        key: String,
        query: Option<String>,
    },
    ClientIp(Vec<String>),
    Query(String),
    #[serde(rename = "scriptVersion")]
    ScriptVersion(String),
}

/// The filter of a tail of a worker. `visitor`: who asks, and calls himself `self`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn filter(wanted: &Wanted, worker: &Worker, visitor: Option<IpAddr>) -> Result<Filter, ApiError> {
    if wanted.filters.len() > MOST {
        return Err(ApiError::invalid(format!("a tail has at most {MOST} filters")));
    }
    let conditions = wanted.filters.iter().map(|one| one.condition(worker, visitor));
    conditions.collect::<Result<_, _>>().map(Filter::new)
}

impl One {
    fn condition(&self, worker: &Worker, visitor: Option<IpAddr>) -> Result<Condition, ApiError> {
        if let Self::Outcome(values) | Self::Method(values) | Self::ClientIp(values) = self
            && values.len() > MOST
        {
            return Err(ApiError::invalid(format!("a filter has at most {MOST} values")));
        }
        Ok(match self {
            Self::SamplingRate(rate) if *rate > 0.0 && *rate <= 1.0 => Condition::Sampling(*rate),
            Self::SamplingRate(rate) => {
                return Err(ApiError::invalid(format!(
                    "{rate} is no sampling rate: use a number above 0, and 1 at the most"
                )));
            }
            Self::Outcome(words) => Condition::Outcome(outcomes(words)?),
            Self::Method(methods) => Condition::Method(methods.clone()),
            Self::Header { key, query } => {
                let name = HeaderName::from_bytes(key.as_bytes());
                let name =
                    name.map_err(|_| ApiError::invalid(format!("{} is no name of a header", quoted(key))))?;
                Condition::Header(name, query.clone().filter(|text| !text.is_empty()))
            }
            Self::ClientIp(addresses) => {
                let addresses = addresses.iter().map(|address| client(address, visitor));
                Condition::Client(addresses.collect::<Result<_, _>>()?)
            }
            Self::Query(text) => Condition::Text(text.clone()),
            Self::ScriptVersion(id) => {
                let version = release::version(worker, id)?;
                Condition::Version(version.metadata.id.as_str().to_owned())
            }
        })
    }
}

/// What Cloudflare knows besides does not happen here.
fn outcomes(words: &[String]) -> Result<Vec<Outcome>, ApiError> {
    let mut outcomes = Vec::new();
    for word in words {
        match word.as_str() {
            "ok" => outcomes.push(Outcome::Ok),
            "canceled" => outcomes.push(Outcome::Canceled),
            "exception" => outcomes.push(Outcome::Exception),
            "exceededCpu" | "exceededMemory" | "unknown" => {}
            _ => {
                return Err(ApiError::invalid(format!(
                    "{} is no outcome: use ok, canceled or exception",
                    quoted(word)
                )));
            }
        }
    }
    Ok(outcomes)
}

fn client(address: &str, visitor: Option<IpAddr>) -> Result<IpAddr, ApiError> {
    let found = if address == "self" { visitor } else { address.parse().ok() };
    found.ok_or_else(|| ApiError::invalid(format!("{} is no IP address that is known here", quoted(address))))
}
