//! Who may do what on the admin address.
//!
//! A browser on this machine reaches loopback addresses for any page it shows. So every request must name a host that is
//! known to be ours (a page that rebinds its own name to 127.0.0.1 sends that name), and what changes anything must be
//! JSON from no foreign page.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use http::request::Parts;
use http::uri::{Authority, Uri};
use http::{HeaderMap, StatusCode};
use utoipa::IntoResponses;

use crate::control::admin::State;
use crate::control::admin::problem::{Problem, Responses, documented};
use crate::control::admin::token::Token;

/// The settings that decide.
#[derive(Debug, Default)]
pub(crate) struct Access {
    token: Option<Token>,
    hosts: Vec<String>,
    metrics_open: bool,
}

/// Proof that a request may see the status: only a request that passed the checks makes one.
#[derive(Debug)]
pub(crate) struct Authorised(());

/// Proof that a request may scrape metrics.
#[derive(Debug)]
pub(crate) struct MayScrape(());

/// Proof that a request may change something.
#[derive(Debug)]
pub(crate) struct MayWrite(());

impl IntoResponses for Authorised {
    fn responses() -> Responses {
        documented(&[
            (StatusCode::UNAUTHORIZED, "The token is missing, or is not that of `token_file`."),
            (StatusCode::FORBIDDEN, "There is no token, and the Host is none of ours."),
        ])
    }
}

impl IntoResponses for MayScrape {
    fn responses() -> Responses {
        Authorised::responses()
    }
}

impl IntoResponses for MayWrite {
    fn responses() -> Responses {
        documented(&[
            (StatusCode::UNAUTHORIZED, "The token is missing, or is not that of `token_file`."),
            (
                StatusCode::FORBIDDEN,
                "There is no token, and the Host is none of ours; or a foreign page asks.",
            ),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The Content-Type is not application/json."),
        ])
    }
}

impl FromRequestParts<Arc<State>> for Authorised {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        state.access().authorise(parts, true).map(|()| Self(()))
    }
}

impl FromRequestParts<Arc<State>> for MayScrape {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        let access = state.access();
        access.authorise(parts, !access.metrics_open).map(|()| Self(()))
    }
}

impl FromRequestParts<Arc<State>> for MayWrite {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        let access = state.access();
        access.authorise(parts, true)?;
        access.check_write(&parts.headers).map(|()| Self(()))
    }
}

impl Access {
    /// Settings of a file whose token has been read.
    pub(crate) fn new(token: Option<Token>, hosts: Vec<String>, metrics_open: bool) -> Self {
        Self { token, hosts, metrics_open }
    }

    /// Whether there is a token, which must be shown then.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether metrics may be scraped without it.
    pub(crate) fn metrics_are_open(&self) -> bool {
        self.metrics_open
    }

    /// Whether a request shows the token, or names this proxy as its host where none is needed.
    ///
    /// # Errors
    /// It may not go on.
    pub(crate) fn authorise(&self, parts: &Parts, token_needed: bool) -> Result<(), Problem> {
        let shown = single(&parts.headers, &AUTHORIZATION).and_then(bearer);
        let authentic = match (&self.token, shown) {
            (Some(token), Some(shown)) => token.is(shown),
            _ => false,
        };
        if authentic {
            return Ok(());
        }
        if token_needed && self.token.is_some() {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "token",
                "this needs the token of `token_file`",
            ));
        }
        if !self.is_ours(&parts.uri, &parts.headers) {
            let detail =
                "the request's Host is neither localhost, nor a loopback address, nor in `hosts` of [admin]";
            return Err(Problem::new(StatusCode::FORBIDDEN, "host", detail));
        }
        Ok(())
    }

    /// Whether the request names us: in its one Host field, and in its target where that is absolute.
    fn is_ours(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let host = single(headers, &HOST).and_then(authority);
        host.is_some_and(|host| self.knows(&host)) && uri.authority().is_none_or(|target| self.knows(target))
    }

    fn knows(&self, authority: &Authority) -> bool {
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let loopback = bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
        !authority.as_str().contains('@')
            && (loopback || host.eq_ignore_ascii_case("localhost") || self.is_listed(host))
    }

    fn is_listed(&self, host: &str) -> bool {
        self.hosts.iter().any(|listed| listed.eq_ignore_ascii_case(host))
    }

    /// A page can send a simple form to any address, but neither JSON nor a false Origin.
    fn check_write(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if !single(headers, &CONTENT_TYPE).is_some_and(is_json) {
            let detail = "this needs Content-Type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", detail));
        }
        self.check_origin(headers)
    }

    /// Whether a request comes from no page, or from one of this address.
    ///
    /// # Errors
    /// It comes from another one.
    pub(crate) fn check_origin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if headers.contains_key(ORIGIN) && !self.is_own_origin(headers) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "origin",
                "a page of another origin may not do this",
            ));
        }
        Ok(())
    }

    /// Whether the one Origin is where the request went, or a listed host.
    fn is_own_origin(&self, headers: &HeaderMap) -> bool {
        let origin = single(headers, &ORIGIN).and_then(|origin| std::str::from_utf8(origin).ok());
        let uri = origin.and_then(|origin| origin.parse::<Uri>().ok());
        let Some(origin) = uri.as_ref().and_then(Uri::authority) else { return false };
        let host = single(headers, &HOST).and_then(authority);
        let same = |host: Authority| host.as_str().eq_ignore_ascii_case(origin.as_str());
        !origin.as_str().contains('@') && (host.is_some_and(same) || self.is_listed(origin.host()))
    }
}

/// A field's value if there is exactly one.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first.as_bytes())
}

/// RFC 6750 section 2.1; the scheme's name in any case, as RFC 9110 section 11.1 has it.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token.trim_ascii())
}

fn authority(value: &[u8]) -> Option<Authority> {
    Authority::try_from(value).ok()
}

fn is_json(value: &[u8]) -> bool {
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knows(host: &str) -> bool {
        let access = Access::new(None, vec!["gradual.internal".to_owned()], false);
        authority(host.as_bytes()).is_some_and(|host| access.knows(&host))
    }

    #[test]
    fn localhost_loopback_addresses_and_listed_hosts_are_ours_on_any_port() {
        for ours in [
            "localhost",
            "LOCALHOST:9900",
            "127.0.0.1",
            "127.1.2.3:80",
            "[::1]:9900",
            "[::ffff:127.0.0.1]",
            "gradual.internal:8443",
            "Gradual.Internal",
        ] {
            assert!(knows(ours), "{ours}");
        }
    }

    #[test]
    fn names_that_only_look_like_ours_are_foreign() {
        for foreign in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "x@localhost",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "sub.gradual.internal",
            "2130706433",
        ] {
            assert!(!knows(foreign), "{foreign}");
        }
    }
}
