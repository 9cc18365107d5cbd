//! Tails of a worker: made over the API, read over a WebSocket.

mod filters;
mod socket;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;
use http::header::HOST;
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

use super::envelope::{ApiError, success};
use super::{Call, Visitor, body};
use crate::control::clock::rfc3339;
use crate::control::release;
use crate::export::tail::Subscription;

/// What the messages are, as the WebSocket calls it.
const PROTOCOL: &str = "trace-v1";
/// How long a tail lives.
const LIFETIME: Duration = Duration::from_secs(6 * 3600);
/// How long a tail waits for its reader.
const UNCLAIMED: Duration = Duration::from_secs(60);
/// How many connections to the admin address tails leave to others.
const SPARE: usize = 2;
/// The longest message that a reader may send, in bytes.
const LONGEST_WORD: usize = 4096;

/// The tails that were made here.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Arc<Mutex<HashMap<String, Session>>>);

#[derive(Debug)]
struct Session {
    worker: String,
    /// `None` once somebody reads it.
    tail: Option<Subscription>,
    expires: Instant,
    /// Its end ends the reader's connection.
    end: watch::Sender<()>,
}

/// A tail that somebody has come to read. Dropping it ends the tail.
struct Claimed {
    tail: Subscription,
    worker: String,
    expires: Instant,
    /// Changes, or closes, when the tail is deleted.
    end: watch::Receiver<()>,
    _entry: Entry,
}

/// A tail's place among the sessions, until it is dropped.
struct Entry {
    sessions: Arc<Mutex<HashMap<String, Session>>>,
    id: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.sessions).remove(&self.id);
    }
}

fn lock(sessions: &Mutex<HashMap<String, Session>>) -> MutexGuard<'_, HashMap<String, Session>> {
    // Every change is one insertion or removal.
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// A place for a tail, which is given up if nobody comes to read it. Must be called within a tokio runtime.
    fn open(&self, worker: &str, tail: Subscription) -> String {
        let id = Uuid::new_v4().simple().to_string();
        let session = Session {
            worker: worker.to_owned(),
            tail: Some(tail),
            expires: Instant::now() + LIFETIME,
            end: watch::Sender::new(()),
        };
        lock(&self.0).insert(id.clone(), session);
        let (sessions, own) = (Arc::downgrade(&self.0), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(UNCLAIMED).await;
            let Some(sessions) = sessions.upgrade() else { return };
            let mut sessions = lock(&sessions);
            if sessions.get(&own).is_some_and(|session| session.tail.is_some()) {
                sessions.remove(&own);
            }
        });
        id
    }

    fn claim(&self, id: &str) -> Result<Claimed, ApiError> {
        let mut sessions = lock(&self.0);
        let session = sessions.get_mut(id).ok_or_else(|| ApiError::no_such("tail"))?;
        let taken = || ApiError::conflict("somebody reads this tail already");
        let tail = session.tail.take().ok_or_else(taken)?;
        let (worker, expires, end) = (session.worker.clone(), session.expires, session.end.subscribe());
        let entry = Entry { sessions: Arc::clone(&self.0), id: id.to_owned() };
        Ok(Claimed { tail, worker, expires, end, _entry: entry })
    }

    /// Whether there was such a tail of the worker.
    fn close(&self, worker: &str, id: &str) -> bool {
        let mut sessions = lock(&self.0);
        let is_it = sessions.get(id).is_some_and(|session| session.worker == worker);
        is_it && sessions.remove(id).is_some()
    }
}

/// `POST …/tails`.
pub(super) async fn create(call: Call<'_>, worker: &str, body: Body) -> Result<Response, ApiError> {
    let wanted = body::json(body).await?;
    let config = call.config()?;
    let worker = release::worker(&config, Some(worker))?;
    let visitor = call.parts.extensions.get::<Visitor>().and_then(|visitor| visitor.address);
    let filter = filters::filter(&wanted, worker, visitor)?;
    let name = worker.policy.name.as_str();
    let tail = call.state.status.tails().subscribe(name, filter);
    let tail = tail.map_err(|error| ApiError::conflict(error.to_string()))?;
    let id = call.state.sessions.open(name, tail);
    let expires = rfc3339(SystemTime::now() + LIFETIME);
    Ok(success(&json!({ "id": id, "url": url(call, &id), "expires_at": expires })))
}

/// Where the tail is read: at the same place, as the client calls it.
fn url(call: Call<'_>, id: &str) -> String {
    let host = call.parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let forwarded = call.parts.headers.get("x-forwarded-proto");
    let https = forwarded.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"https"));
    format!("{}://{host}/client/v4/tails/{id}", if https { "wss" } else { "ws" })
}

/// `DELETE …/tails/{id}`.
pub(super) fn delete(call: Call<'_>, worker: &str, id: &str) -> Result<Response, ApiError> {
    if call.state.sessions.close(worker, id) {
        return Ok(success(&json!(null)));
    }
    Err(ApiError::no_such("tail"))
}

/// The WebSocket of a tail.
pub(super) async fn connect(call: Call<'_>, id: &str) -> Result<Response, ApiError> {
    let mut parts = call.parts.clone();
    // The connection keeps its place among all of them.
    let place = parts.extensions.get::<Visitor>().map(|visitor| Arc::clone(&visitor.place));
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, call.state).await;
    let refused = |error| ApiError::invalid(format!("a tail is read over a WebSocket: {error}"));
    let upgrade = upgrade.map_err(refused)?.protocols([PROTOCOL]);
    if upgrade.selected_protocol().is_none() {
        return Err(ApiError::invalid(format!(
            "a tail speaks `{PROTOCOL}`: ask for it in Sec-WebSocket-Protocol"
        )));
    }
    if place.as_ref().is_some_and(|place| place.semaphore().available_permits() < SPARE) {
        return Err(ApiError::conflict("the admin address has no place left for a tail: end one first"));
    }
    let claimed = call.state.sessions.claim(id)?;
    let status = Arc::clone(&call.state.status);
    // wrangler sends its one message unmasked, although RFC 6455 section 5.1 has clients mask all of them.
    let upgrade = upgrade
        .accept_unmasked_frames(true)
        .max_message_size(LONGEST_WORD)
        .max_frame_size(LONGEST_WORD)
        .read_buffer_size(LONGEST_WORD)
        .write_buffer_size(0);
    Ok(upgrade.on_upgrade(async move |socket| {
        socket::serve(socket, claimed, &status, &socket::PATIENCE).await;
        drop(place);
    }))
}
