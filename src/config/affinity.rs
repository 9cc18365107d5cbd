//! `[worker.affinity]`: the cookie that keeps a client without a key of its own on one version.

use super::fields::{Fields, Walk};
use super::texts::Problem;
use crate::diag::{Diagnostic, quoted};
use crate::model::affinity::{looks_like_a_session, wants_https};

/// The affinity cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Its name: 1 to 64 characters that RFC 6265 allows.
    pub cookie: String,
    /// Whether upstreams see it.
    pub forward: bool,
}

/// The cookie, where the section names one. `https` says whether any request can come over https.
pub(super) fn affinity(walk: &mut Walk<'_>, fields: Option<&Fields<'_>>, https: bool) -> Option<Affinity> {
    let fields = fields?;
    let forward = fields.boolean("cookie_forward");
    let Some(text) = fields.text("cookie") else {
        if let Some(span) = fields.span_of("cookie_forward").filter(|_| !fields.has("cookie")) {
            let mistake = Diagnostic::error("`cookie_forward` without `cookie`", span);
            walk.conclude(
                mistake
                    .label("there is no cookie to forward")
                    .help("set `cookie`, or remove `cookie_forward`"),
            );
        }
        return None;
    };
    let cookie = walk.parsed(&text, "the name of a cookie", fields.kind("cookie"), name)?;
    if looks_like_a_session(&cookie) {
        let title = format!("{} looks like a cookie that the application itself sets", quoted(&cookie));
        walk.report(
            Diagnostic::warning(title, text.span.clone())
                .label("whoever has no such cookie is given one by the proxy")
                .help(
                    "choose a name of its own, such as \"version-key\"; to follow the application's cookie, use a rule",
                ),
        );
    }
    if wants_https(&cookie) && !https {
        let title = format!("browsers take a cookie named {} over https alone", quoted(&cookie));
        walk.conclude(
            Diagnostic::warning(title, text.span)
                .label("no listener has `tls` or `trusted_proxies`, so nobody is given it")
                .help("list the proxy that speaks https in `trusted_proxies`, or choose a name without this prefix"),
        );
    }
    Some(Affinity { cookie, forward: forward.unwrap_or(true) })
}

/// A cookie's name: a token of RFC 9110 section 5.6.2.
fn name(text: &str) -> Result<String, Problem> {
    const MOST: usize = 64;
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if let Some((at, found)) = text.char_indices().find(|(_, c)| !token(*c)) {
        let problem = Problem::new(format!("{found:?} is not allowed in the name of a cookie"));
        return Err(Problem { at: Some(at..at + found.len_utf8()), ..problem });
    }
    match text.len() {
        0 => Err(Problem::new("it is empty")),
        1..=MOST => Ok(text.to_owned()),
        _ => Err(Problem::new(format!("it has more than {MOST} characters"))),
    }
}
