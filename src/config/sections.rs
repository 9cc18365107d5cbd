//! The sections about the process itself: listeners, limits, log, admin.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use super::address::Address;
use super::fields::{Fields, Text, Walk};
use super::texts;
use super::{AccessTarget, Admin, Certificate, Listener, Log, Server, Spanned, TrustedProxies};
use crate::diag::{Diagnostic, Span, nearest, quoted};

/// `[server]`.
pub(super) fn server(walk: &mut Walk<'_>, fields: Option<&Fields<'_>>) -> Server {
    let threads = fields.and_then(|fields| fields.integer("threads"));
    Server {
        threads: threads.and_then(|threads| usize::try_from(threads).ok()).and_then(NonZeroUsize::new),
        state: fields.and_then(|fields| path(walk, fields, "state")),
    }
}

/// The duration of a key, if it is there and good.
pub(super) fn duration(
    walk: &mut Walk<'_>,
    fields: &Fields<'_>,
    name: &str,
    least: Duration,
) -> Option<Duration> {
    let text = fields.text(name)?;
    walk.parsed(&text, "a duration", fields.kind(name), |text| texts::duration(text, least))
}

/// `[log]`.
pub(super) fn log(walk: &mut Walk<'_>, fields: Option<&Fields<'_>>) -> Log {
    let Some(text) = fields.and_then(|fields| fields.text("access")) else {
        return Log { access: Spanned { value: AccessTarget::Off, span: 0..0 } };
    };
    let access = match text.value {
        "off" => Some(AccessTarget::Off),
        "stdout" => Some(AccessTarget::Stdout),
        _ => {
            warn_of_slip(walk, &text, "the path of a file", &["off", "stdout"]);
            walk.path(&text).map(|path| AccessTarget::File(path.value))
        }
    };
    Log { access: Spanned { value: access.unwrap_or_default(), span: text.span } }
}

/// Warns of a text that is taken as something free but looks like one of the words that have a meaning.
pub(super) fn warn_of_slip(walk: &mut Walk<'_>, text: &Text<'_>, taken_as: &str, words: &[&str]) {
    if let Some(word) = nearest(text.value, words.iter().copied()) {
        let title = format!("{} is taken as {taken_as}", quoted(text.value));
        let help = format!("did you mean `\"{word}\"`?");
        walk.report(Diagnostic::warning(title, text.span.clone()).help(help));
    }
}

/// Every `[[listener]]` whose address is good, and which addresses are taken by them.
pub(super) fn listeners(walk: &mut Walk<'_>, all: &[Fields<'_>]) -> (Vec<Listener>, Taken) {
    let mut taken = Taken::default();
    let mut listeners = Vec::new();
    for fields in all {
        if let Some(listener) = listener(walk, fields) {
            let Spanned { value, span } = &listener.address;
            if let Some(clash) = taken.add(value, span) {
                walk.conclude(clash.diagnostic(walk, value, span, "a listener"));
            }
            listeners.push(listener);
        }
    }
    (listeners, taken)
}

fn listener(walk: &mut Walk<'_>, fields: &Fields<'_>) -> Option<Listener> {
    let address = address(walk, fields);
    let tls = fields.tables("tls").iter().filter_map(|entry| certificate(walk, entry)).collect();
    let client_ca = path(walk, fields, "client_ca");
    let trusted_proxies = trusted_proxies(walk, fields);
    let health_path = fields.text("health_path");
    let health_path = health_path
        .and_then(|text| walk.parsed(&text, "a path", fields.kind("health_path"), texts::raw_path));
    listener_agrees(walk, fields);
    Some(Listener {
        address: address?,
        tls,
        client_ca,
        trusted_proxies,
        proxy_protocol: fields.boolean("proxy_protocol").unwrap_or(false),
        redirect_https: fields.word("redirect").is_some(),
        health_path,
    })
}

/// Keys of a listener that need or exclude each other.
fn listener_agrees(walk: &mut Walk<'_>, fields: &Fields<'_>) {
    if let (Some(span), false) = (fields.span_of("client_ca"), fields.has("tls")) {
        let mistake = Diagnostic::error("`client_ca` without `tls`", span);
        walk.conclude(
            mistake.label("client certificates come with TLS only").help("add `tls`, or remove `client_ca`"),
        );
    }
    if let (Some(span), Some(true)) = (fields.span_of("proxy_protocol"), fields.boolean("proxy_protocol"))
        && fields.span_of("trusted_proxies").is_none_or(|_| fields.texts("trusted_proxies").is_empty())
    {
        let mistake = Diagnostic::error("`proxy_protocol` without `trusted_proxies`", span)
            .label("nobody may connect: the header is believed from trusted proxies only")
            .help("name the load balancer's addresses in `trusted_proxies`");
        walk.conclude(mistake);
    }
    if let (Some(span), true) = (fields.span_of("redirect"), fields.has("tls")) {
        let mistake = Diagnostic::error("`redirect` together with `tls`", span)
            .label("this listener speaks https already: a redirect would lead back to it")
            .help("put `redirect` on a listener without `tls`");
        walk.conclude(mistake);
    }
}

fn address(walk: &mut Walk<'_>, fields: &Fields<'_>) -> Option<Spanned<Address>> {
    let text = fields.text("address")?;
    let folder = walk.folder();
    let value = walk.parsed(&text, "an address to listen on", fields.kind("address"), |text| {
        texts::address(text, folder)
    })?;
    Some(Spanned { value, span: text.span })
}

/// The path of a key, if it is there and good.
pub(super) fn path(
    walk: &mut Walk<'_>,
    fields: &Fields<'_>,
    name: &str,
) -> Option<Spanned<std::path::PathBuf>> {
    walk.path(&fields.text(name)?)
}

/// A certificate and its key; both must be there.
pub(super) fn certificate(walk: &mut Walk<'_>, fields: &Fields<'_>) -> Option<Certificate> {
    let (certificate, key) = (path(walk, fields, "certificate"), path(walk, fields, "key"));
    Some(Certificate { certificate: certificate?, key: key? })
}

fn trusted_proxies(walk: &mut Walk<'_>, fields: &Fields<'_>) -> TrustedProxies {
    let mut trusted = TrustedProxies::default();
    let kind = fields.kind("trusted_proxies");
    for text in fields.texts("trusted_proxies") {
        match text.value {
            "unix" => trusted.unix = true,
            _ => trusted.networks.extend(walk.parsed(&text, "an address or network", kind, texts::network)),
        }
    }
    trusted
}

/// `[admin]`; `None` where its address is bad.
pub(super) fn admin(walk: &mut Walk<'_>, fields: Option<&Fields<'_>>, taken: &mut Taken) -> Option<Admin> {
    let token_file = fields.and_then(|fields| path(walk, fields, "token_file"));
    let hosts = fields.map(|fields| hosts(walk, fields)).unwrap_or_default();
    let written = fields.filter(|fields| fields.has("address"));
    let address = match written {
        Some(fields) => address(walk, fields),
        None => Some(Spanned { value: Address::Tcp(DEFAULT_ADMIN), span: 0..0 }),
    };
    if let Some(address) = &address {
        admin_address_agrees(walk, address, written.is_some(), taken);
    }
    let has_token = fields.is_some_and(|fields| fields.has("token_file"));
    if let Some(address) = address.as_ref().filter(|address| !address.value.is_local() && !has_token) {
        let mistake =
            Diagnostic::error("the admin address can be reached from elsewhere", address.span.clone())
                .label("not a loopback address, and there is no `token_file`")
                .help("set `token_file`, or listen on a loopback address or a Unix socket");
        walk.conclude(mistake);
    }
    let word = fields.and_then(|fields| fields.word("metrics"));
    if let (Some("token"), false, Some(span)) = (word, has_token, fields.and_then(|f| f.span_of("metrics"))) {
        let mistake = Diagnostic::error("`metrics = \"token\"` without `token_file`", span);
        walk.conclude(
            mistake.label("there is no token to ask for").help("set `token_file`, or remove `metrics`"),
        );
    }
    let metrics_open = word.map_or(!has_token, |word| word == "open");
    Some(Admin { address: address?, configured: written.is_some(), token_file, hosts, metrics_open })
}

/// Where the admin address listens if the file does not say.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);

fn admin_address_agrees(walk: &mut Walk<'_>, address: &Spanned<Address>, written: bool, taken: &mut Taken) {
    let Some(clash) = taken.add(&address.value, &address.span) else {
        return;
    };
    walk.conclude(if written {
        clash.diagnostic(walk, &address.value, &address.span, "the admin address")
    } else {
        Diagnostic::warning("there will be no admin address", clash.other)
            .label(format!("this takes {}, where the admin address listens by default", address.value))
            .help("set `address` in `[admin]`")
    });
}

fn hosts(walk: &mut Walk<'_>, fields: &Fields<'_>) -> Vec<String> {
    let kind = fields.kind("hosts");
    let hosts = fields.texts("hosts");
    let parsed = hosts.iter().filter_map(|text| walk.parsed(text, "a host name", kind, texts::host));
    // As a `Host` header has them.
    parsed.map(|host| if host.contains(':') { format!("[{host}]") } else { host }).collect()
}

/// The addresses that are listened on, to find two that cannot both be.
#[derive(Debug, Default)]
pub(super) struct Taken {
    exact: HashMap<Address, Span>,
    /// The first address of each port and family.
    ports: HashMap<(u16, bool), Span>,
    /// The wildcard address of each port and family.
    wildcards: HashMap<(u16, bool), Span>,
}

/// Two addresses that cannot both be listened on.
#[derive(Debug)]
pub(super) struct Clash {
    /// Where the first one stands.
    other: Span,
    /// Whether they are the same, and not one within the other.
    same: bool,
}

impl Taken {
    /// Takes an address; says which one it clashes with. Port 0 clashes with nothing: the system chooses a free one.
    fn add(&mut self, address: &Address, span: &Span) -> Option<Clash> {
        let mut exact = address.clone();
        let mut overlapping = None;
        if let Address::Tcp(address) = &mut exact {
            address.set_ip(address.ip().to_canonical());
            if address.port() == 0 {
                return None;
            }
            let place = (address.port(), address.is_ipv4());
            overlapping = self.wildcards.get(&place).cloned();
            if address.ip().is_unspecified() {
                overlapping = overlapping.or_else(|| self.ports.get(&place).cloned());
                self.wildcards.entry(place).or_insert_with(|| span.clone());
            }
            self.ports.entry(place).or_insert_with(|| span.clone());
        }
        if let Some(other) = self.exact.get(&exact) {
            return Some(Clash { other: other.clone(), same: true });
        }
        self.exact.insert(exact, span.clone());
        overlapping.map(|other| Clash { other, same: false })
    }
}

impl Clash {
    fn diagnostic(&self, walk: &Walk<'_>, address: &Address, span: &Span, whose: &str) -> Diagnostic {
        let line = walk.line(&self.other);
        let label = if self.same {
            format!("the listener on line {line} has the same address")
        } else {
            format!(
                "overlaps with {} on line {line}",
                quoted(walk.written(&self.other).trim_matches(['"', '\'']))
            )
        };
        Diagnostic::error(format!("{whose} cannot have {}", quoted(&address.to_string())), span.clone())
            .label(label)
            .help("give each its own port")
    }
}
