//! Changes of the file, for everything here that makes one: through [`crate::control::release`], and nothing else.

use std::sync::Arc;

use axum::response::Response;
use http::header::LOCATION;
use http::{HeaderValue, StatusCode};
use utoipa::IntoResponses;

use crate::config::Worker;
use crate::control::admin::State;
use crate::control::admin::api::{ended, running, worker};
use crate::control::admin::problem::{Problem, Responses, documented};
use crate::control::release::{self, Change, Done, Draft, Kind, Refusal, Request, Told, Who};
use crate::model::name::WorkerName;

/// How a change is to be made.
#[derive(Debug)]
pub(super) struct Way {
    /// Who makes it.
    pub(super) author: Option<String>,
    /// The deployment that the caller saw.
    pub(super) base: Option<String>,
    /// Whether only to say what would be done.
    pub(super) dry_run: bool,
}

/// A change that is to be made.
#[derive(Debug)]
pub(super) struct Changing {
    state: Arc<State>,
    request: Request,
    dry_run: bool,
}

/// A change that was made, or would be.
#[derive(Debug)]
pub(super) struct Changed {
    /// What was written.
    pub(super) draft: Draft,
    /// The generation that serves it; `None`: nothing was changed.
    pub(super) generation: Option<u64>,
    name: WorkerName,
}

/// What answers of changes have in common.
#[derive(Debug)]
pub(super) struct Writes;

impl IntoResponses for Writes {
    fn responses() -> Responses {
        documented(&[
            (StatusCode::NOT_FOUND, "There is no worker of this name."),
            (
                StatusCode::CONFLICT,
                "The state of things forbids it; `kind` says which, and `help` what to do.",
            ),
            (StatusCode::UNPROCESSABLE_ENTITY, "What is asked for cannot be; nothing was changed."),
            (StatusCode::INTERNAL_SERVER_ERROR, "The file could not be written; it is as it was."),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "Somebody else writes all the time, or the process is about to end.",
            ),
        ])
    }
}

impl Changing {
    /// A change of a running worker.
    pub(super) fn new(state: &Arc<State>, name: &str, change: Change, way: Way) -> Result<Self, Problem> {
        let Way { author, base, dry_run } = way;
        let config = running(state)?;
        let policy = &worker(&config, name)?.policy;
        let who = Who { author, source: "api" };
        let request = Request { worker: policy.name.clone(), change, who, base, seen: None, live: None };
        Ok(Self { state: Arc::clone(state), request, dry_run })
    }

    /// Makes the change, or only drafts it. Once begun, it is made even where nobody waits for the answer any more.
    pub(super) async fn done(self) -> Result<Changed, Problem> {
        let name = self.request.worker.clone();
        if self.dry_run {
            let draft = release::draft_here(Arc::clone(&self.state.status), self.request).await?;
            return Ok(Changed { draft, generation: None, name });
        }
        let done = self.performed().await??;
        match done.told {
            Told::Serves { generation } => {
                Ok(Changed { draft: done.draft, generation: Some(generation), name })
            }
            Told::NoProxy { why } | Told::Unknown { why } | Told::Refused { report: why } => {
                let detail = format!("the file has changed, and is not served yet: {why}");
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail))
            }
        }
    }
}

impl Changing {
    /// Makes the change in its turn. It keeps its place until it is done, even where nobody waits for it.
    async fn performed(self) -> Result<Result<Done, Refusal>, Problem> {
        let Ok(place) = Arc::clone(&self.state.changes).try_acquire_owned() else {
            let title = "too many changes are under way";
            return Ok(Err(Refusal::new(Kind::Busy, title).with_help("try again when they are done")));
        };
        let done = tokio::spawn(async move {
            let _place = place;
            release::perform_here(Arc::clone(&self.state.status), self.state.inbox.clone(), self.request)
                .await
        });
        done.await.map_err(|_| ended())
    }
}

impl Changed {
    /// Whether nothing was changed.
    pub(super) fn is_dry(&self) -> bool {
        self.generation.is_none()
    }

    /// The worker as the file says it now.
    pub(super) fn worker(&self) -> Result<&Worker, Problem> {
        worker(&self.draft.config, self.name.as_str())
    }

    /// The answer with its status and, where something was made, with where it is. A worker's name needs no
    /// percent-encoding, nor does an id that was made here.
    pub(super) fn answered(&self, list: &str, id: &str, mut answer: Response) -> Response {
        if !self.is_dry() {
            *answer.status_mut() = StatusCode::CREATED;
            let place = format!("/api/v1/workers/{}/{list}/{id}", self.name);
            if let Ok(place) = HeaderValue::try_from(place) {
                answer.headers_mut().insert(LOCATION, place);
            }
        }
        answer
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let problem = Self::new(refusal.status(), refusal.kind().as_str(), refusal.to_string());
        let problem = problem.help(refusal.help());
        match refusal.report() {
            Some(report) => problem.report(report),
            None => problem,
        }
    }
}
