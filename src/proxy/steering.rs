//! Steering: what besides the two headers decides where a worker's requests go. Rules edit the request, an object has one
//! version, an asset's page may name another, and a cookie is the key of clients that have no other. A worker that configures
//! none of it has no [`Steering`], and its requests take the shorter way in `proxy::admission`.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use uuid::Uuid;

use super::admission::{remove_refused, settle};
use super::assets::Assets;
use super::handler::Client;
use super::head::{self, Seen};
use super::objects::{self, Held, Obstacle};
use super::overrides;
use super::record::{Meter, is_asset};
use super::snapshot::WorkerState;
use crate::config::{self, Affinity, TrustedProxies, Worker};
use crate::model::affinity;
use crate::model::assets::DEPLOYMENT_HEADER;
use crate::model::decision::{Origin, Ruled, Sent};
use crate::model::forwarded;
use crate::model::head::{KEY_HEADER, Lines, Uniform, trim_ows};
use crate::model::overrides::OVERRIDES_HEADER;
use crate::model::ring::Member;
use crate::rules::{Expression, Facts, Outcome, Rules};

/// What a worker's requests are steered by.
pub(super) struct Steering {
    /// Of this shard alone: regular expressions keep caches.
    rules: Rules,
    affinity: Option<Affinity>,
    /// Names the object of a request.
    object: Option<Expression>,
    /// `None` where no path is an asset.
    pub(super) assets: Option<Assets>,
}

/// What a steered request remembers until its answer.
#[derive(Debug, Default)]
pub(super) struct Steered {
    /// The request's number, where a rule may have seen it.
    pub(super) ray: Option<u64>,
    /// The id that was made for its client, and whether it may only be sent back over https.
    made: Option<(HeaderValue, bool)>,
    /// The version that was chosen for an asset.
    pub(super) asset: Option<Member>,
    /// Whether the client sent credentials, whatever rules made of them.
    pub(super) authorized: bool,
    /// Whether the sender may not send the override that it sent.
    denied: bool,
}

/// A request on its way to a version, as steering sees it.
pub(super) struct Request<'a> {
    pub(super) client: &'a Client,
    pub(super) seen: &'a Seen,
    /// The host that it is for.
    pub(super) host: Option<&'a HeaderValue>,
    /// Whether it came through a trusted proxy.
    pub(super) trusted: bool,
    pub(super) https: bool,
    pub(super) trusted_proxies: &'a TrustedProxies,
}

impl Steering {
    /// `None` where the worker configures nothing of it.
    pub(super) fn build(worker: &Worker, assets: Option<Assets>) -> Option<Box<Self>> {
        let object = worker.objects.as_ref().map(|objects| objects.key.clone());
        if worker.rules.is_empty() && worker.affinity.is_none() && object.is_none() && assets.is_none() {
            return None;
        }
        Some(Box::new(Self {
            rules: worker.rules.clone(),
            affinity: worker.affinity.clone(),
            object,
            assets,
        }))
    }
}

/// Chooses a version for a request of a worker with steering, and notes it. The head is edited as rules say, and carries the
/// key that counts.
///
/// # Errors
/// Its object is not free: no version is noted, and no rule has edited the head.
pub(super) fn select(request: &Request<'_>, meter: &mut Meter, parts: &mut Parts) -> Result<(), Obstacle> {
    let snapshot = Rc::clone(&meter.snapshot);
    let Some(worker) = meter.worker.and_then(|index| snapshot.workers.get(index)) else { return Ok(()) };
    let Some(steering) = &worker.steering else { return Ok(()) };
    let mut steered = meter.steered.take().unwrap_or_default();
    gate(request, worker, &mut steered, &mut parts.headers);
    let Looked { edits, object } = look(request, steering, &mut steered, parts);
    // The cookie as it came, too, and who can receive it: a rule that removes a header must not take the key away.
    let cookie = steering.affinity.as_ref().and_then(|cookie| affinity::find(&parts.headers, &cookie.cookie));
    let cookie = cookie.and_then(|value| HeaderValue::from_bytes(value).ok());
    if let (Some(objects), Some(name)) = (worker.objects(), &object) {
        match objects::acquire(objects, name) {
            Ok(permit) => meter.held = Some(Held::new(permit, &request.client.shard)),
            Err(obstacle) => {
                meter.steered = Some(steered);
                return Err(obstacle);
            }
        }
    }
    let assets = worker.assets().filter(|assets| assets.matches(parts.uri.path()));
    let kept = |cookie: &Affinity| affinity::is_kept(&cookie.cookie, request.https);
    let receives = steering.affinity.as_ref().is_some_and(kept) && assets.is_none() && can_receive(parts);
    let mut pin = assets.and_then(|assets| pinned(assets, parts));
    let repins = edits.iter().any(|(name, _)| name == DEPLOYMENT_HEADER);
    let ruled = edit(request, worker, edits, &mut parts.headers);
    if repins {
        pin = assets.and_then(|assets| pinned(assets, parts));
    }
    let headers = &parts.headers;
    meter.is_asset |= assets.is_some();
    let overrides = headers.joined(OVERRIDES_HEADER);
    let key = headers.joined(KEY_HEADER);
    let made = (cookie.is_none() && receives).then(make_id);
    let sent = Sent {
        object: object.as_deref(),
        key: key.as_deref(),
        overrides: overrides.as_deref(),
        ruled,
        denied: steered.denied,
        trusted: request.trusted,
        secret: overrides.as_deref().and_then(|_| worker.secret()),
        pinned: pin,
        cookie: cookie.as_ref().map(HeaderValue::as_bytes),
        made: made.as_ref().map(HeaderValue::as_bytes),
        draw: request.client.shard.draw(),
    };
    let selection = worker.policy().select(&sent);
    let decision = settle(worker, &selection, sent.draw);
    meter.overridden = selection.overridden;
    meter.chose(decision.member.index(), decision.reason);
    steered.asset = assets.map(|_| decision.member);
    let origin = selection.origin;
    let from_cookie = cookie.filter(|_| origin == Origin::Cookie);
    let made = made.filter(|_| origin == Origin::Made);
    if let Some(key) = from_cookie.or_else(|| made.clone()) {
        parts.headers.insert(head::KEY, key);
    }
    steered.made = made.map(|made| (made, request.https));
    meter.steered = Some(steered);
    forward(worker, steering, ruled, &mut parts.headers);
    Ok(())
}

/// What the sender may not send goes before any rule sees it: a header that chooses a version, and names that only this proxy
/// may use.
fn gate(request: &Request<'_>, worker: &WorkerState, steered: &mut Steered, headers: &mut HeaderMap) {
    let refused = (request.seen.overrides > 0).then(|| headers.joined(OVERRIDES_HEADER)).flatten();
    // A request that had to wait for its object has been here before.
    steered.denied |= refused.is_some_and(|field| worker.policy().denies(&field, request.trusted));
    steered.authorized |= headers.contains_key(header::AUTHORIZATION);
    remove_refused(headers, request.seen, worker, request.trusted);
    if request.seen.has_ours() {
        head::remove_ours(headers);
    }
}

/// The version that the page of an asset came from, where the request says so.
fn pinned(assets: &config::Assets, parts: &Parts) -> Option<Member> {
    let header = parts.headers.get(DEPLOYMENT_HEADER).map(HeaderValue::as_bytes);
    assets.pinned(parts.method.as_str(), header, parts.uri.query())
}

/// What only this proxy needed of the head does not go on.
fn forward(worker: &WorkerState, steering: &Steering, ruled: Ruled, headers: &mut HeaderMap) {
    if worker.secret().is_some() && !ruled.overrides && headers.contains_key(head::OVERRIDES) {
        overrides::cut_tokens(headers, worker.name());
    }
    if let Some(cookie) = steering.affinity.as_ref().filter(|cookie| !cookie.forward) {
        remove_cookie(headers, &cookie.cookie);
    }
}

/// What rules and the name of the object say of a request.
#[derive(Default)]
struct Looked {
    edits: Vec<(HeaderName, Outcome)>,
    /// The name of the object, not empty; `None` where the request is for none.
    object: Option<Box<[u8]>>,
}

/// Runs the worker's rules on the request as it came, and names its object. Edits nothing yet.
fn look(request: &Request<'_>, steering: &Steering, steered: &mut Steered, parts: &Parts) -> Looked {
    let mut looked = Looked::default();
    if steering.rules.is_empty() && steering.object.is_none() {
        return looked;
    }
    let shard = &request.client.shard;
    let host = request.host.and_then(|host| host.to_str().ok()).unwrap_or("");
    let lines = Uniform::new(&parts.headers, parts.version, host);
    let facts = facts(request, parts, &lines);
    steered.ray = Some(facts.ray);
    let mut scratch = shard.scratch();
    steering.rules.run(&facts, &mut scratch, &mut |_, name, outcome| {
        looked.edits.push((name.clone(), outcome));
    });
    let name = steering.object.as_ref().and_then(|object| object.value(&facts, &mut scratch));
    looked.object = name.filter(|name| !name.is_empty()).map(Into::into);
    looked
}

/// Edits a head as rules say. Says which headers that choose a version they have set.
fn edit(
    request: &Request<'_>,
    worker: &WorkerState,
    edits: Vec<(HeaderName, Outcome)>,
    headers: &mut HeaderMap,
) -> Ruled {
    let mut ruled = Ruled::default();
    if request.seen.is_nominating() && !edits.is_empty() {
        // What a client calls hop-by-hop is what it sent itself, and not what a rule is about to set.
        head::remove_nominated(headers);
    }
    for (name, outcome) in edits {
        if outcome == Outcome::Dropped {
            worker.series.rule_value_dropped();
        }
        outcome.apply(name, headers, &mut ruled);
    }
    ruled
}

/// What rules may see of a request.
fn facts<'a>(request: &Request<'a>, parts: &'a Parts, lines: &'a Uniform<'a>) -> Facts<'a> {
    let shard = &request.client.shard;
    Facts {
        method: parts.method.as_str(),
        version: parts.version,
        https: request.https,
        authority: lines.host(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        lines,
        client: believed_address(request, &parts.headers),
        time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        seed: [shard.draw(), shard.draw()],
        ray: shard.draw(),
    }
}

/// The client's address: the connection's; through trusted proxies, the last one in `X-Forwarded-For` that is not theirs.
fn believed_address(request: &Request<'_>, headers: &HeaderMap) -> Option<IpAddr> {
    let peer = request.client.address.map(|address| address.ip().to_canonical());
    if !request.trusted {
        return peer;
    }
    forwarded::believed_address(peer, headers, |address| request.trusted_proxies.include(address))
}

/// Whether the request asks for a page, so that its client can receive the cookie.
fn can_receive(parts: &Parts) -> bool {
    affinity::can_receive(parts.method.as_str(), &parts.headers) && !is_asset(parts.uri.path())
}

/// A key for a client that has none.
fn make_id() -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let id = Uuid::new_v4().hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(id).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// Takes one cookie out of every `Cookie` line.
fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    if affinity::count(headers, name) == 0 {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for line in lines {
        match affinity::without(line.as_bytes(), name) {
            None => {
                headers.append(header::COOKIE, line);
            }
            Some(rest) if rest.is_empty() => {}
            Some(rest) => {
                if let Ok(rest) = HeaderValue::from_bytes(&rest) {
                    headers.append(header::COOKIE, rest);
                }
            }
        }
    }
}

/// Gives the client its id as a cookie, where the answer may carry it.
pub(super) fn give_cookie(
    status: StatusCode,
    headers: &mut HeaderMap,
    worker: &WorkerState,
    steered: &Steered,
) {
    let Some((id, https)) = &steered.made else { return };
    let Some(cookie) = worker.steering.as_ref().and_then(|steering| steering.affinity.as_ref()) else {
        return;
    };
    if !affinity::may_set(status, headers, &cookie.cookie) {
        return;
    }
    let secure = if *https { "; Secure" } else { "" };
    let id = id.to_str().unwrap_or_default();
    let text = format!("{}={id}; Path=/; HttpOnly{secure}; SameSite=Lax; Max-Age=31536000", cookie.cookie);
    let Ok(line) = HeaderValue::from_str(&text) else { return };
    headers.append(header::SET_COOKIE, line);
    if !affinity::is_private(headers) {
        add_to_list(headers, header::CACHE_CONTROL, "private");
    }
    if !affinity::varies_by_cookie(headers) {
        add_to_list(headers, header::VARY, "Cookie");
    }
}

/// Adds an element to a list-valued field of an answer, in the line that is there.
fn add_to_list(headers: &mut HeaderMap, name: HeaderName, element: &'static str) {
    let lines: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    let mut list = lines.join(&b", "[..]);
    if !trim_ows(&list).is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    headers
        .insert(name, HeaderValue::from_bytes(&list).unwrap_or_else(|_| HeaderValue::from_static(element)));
}
