//! A worker's versions, as Cloudflare shows them.

use axum::response::Response;
use serde_json::{Value, json};

use super::Call;
use super::deployments::past;
use super::envelope::{ApiError, Page, page};
use super::times::Moment;
use crate::config::{Version, Worker};
use crate::control::release::{self, Kind, Refusal};
use crate::diag::visible;

/// What made a version: the file does not say who wrote it there.
const SOURCE: &str = "gradual";

/// `GET …/versions`: those that can be deployed, newest first; all of them in one page where only these are asked for.
pub(super) fn list(call: Call<'_>, worker: &str) -> Result<Response, ApiError> {
    let config = call.config()?;
    let worker = release::worker(&config, Some(worker))?;
    let is_deployable = call.parameter("deployable") == Some("true");
    let wanted = |name: &str, default: usize| match call.parameter(name).map(str::parse) {
        None => Ok(default),
        Some(Ok(number @ 1..=1000)) => Ok(number),
        Some(_) => Err(ApiError::invalid(format!("`{name}` is a number from 1 to 1000"))),
    };
    let (number, per_page) = (wanted("page", 1)?, wanted("per_page", 10)?);
    let versions = if is_deployable { release::deployable(worker) } else { &worker.versions };
    let (number, per_page) = if is_deployable { (1, versions.len().max(1)) } else { (number, per_page) };
    let all = shown(worker);
    let newest = all.into_iter().rev().take(versions.len());
    let items: Vec<_> = newest.skip((number - 1) * per_page).take(per_page).collect();
    let info = Page { page: number, per_page, count: items.len(), total: versions.len() };
    Ok(page(&json!({ "items": items }), info))
}

/// `GET …/versions/{id}`. A version that served once and is not in the file any more is shown as far as it is known: wrangler asks
/// for each version of each deployment that it lists.
pub(super) async fn view(call: Call<'_>, worker: &str, id: &str) -> Result<Response, ApiError> {
    let config = call.config()?;
    let worker = release::worker(&config, Some(worker))?;
    let place = worker.versions.iter().position(|version| version.metadata.id.as_str() == id);
    if let Some(version) = place.and_then(|place| shown(worker).into_iter().nth(place)) {
        return Ok(super::envelope::success(&version));
    }
    if let Some(version) = past(call, worker).await.into_iter().find_map(|one| one.gone(id)) {
        return Ok(super::envelope::success(&version));
    }
    // wrangler goes on with the id as it was typed: a shorter one would lead it astray.
    let refusal = match release::version(worker, id) {
        Ok(version) => {
            let title = format!("there is no version {id} of worker {}", worker.policy.name);
            let help = format!("did you mean `{}`? wrangler needs the whole id", version.metadata.id);
            Refusal::new(Kind::UnknownVersion, title).with_help(help)
        }
        Err(refusal) => refusal,
    };
    Err(refusal.into())
}

/// All versions of a worker, in their order.
fn shown(worker: &Worker) -> Vec<Value> {
    let mut latest = None;
    let moments = worker.versions.iter().map(|version| {
        // wrangler sorts by this. One that does not say when it was made came after the one before it.
        let said = version.metadata.created_on.as_deref().and_then(Moment::parse);
        let moment = said.unwrap_or_else(|| latest.map_or(Moment::default(), Moment::after));
        latest = Some(moment);
        moment
    });
    let moments: Vec<_> = moments.collect();
    let numbered = worker.versions.iter().zip(moments).zip(1..);
    numbered.map(|((version, moment), number)| one(version, moment, number)).collect()
}

fn one(version: &Version, created: Moment, number: usize) -> Value {
    let metadata = &version.metadata;
    let mut annotations = json!({});
    if let Some(tag) = &metadata.tag {
        annotations["workers/tag"] = tag.as_str().into();
    }
    if let Some(message) = &metadata.message {
        // It ends on a terminal.
        annotations["workers/message"] = visible(message).into();
    }
    let alone = version.upstreams.len() == 1;
    // wrangler prints texts that are bound to a version: where it runs is one.
    let upstreams = version.upstreams.iter().zip(1..).map(|(upstream, place)| {
        let name = if alone { "UPSTREAM".to_owned() } else { format!("UPSTREAM_{place}") };
        json!({ "type": "plain_text", "name": name, "text": upstream.value.to_string() })
    });
    let migration = metadata
        .migration
        .as_ref()
        .map(|migration| json!({ "type": "plain_text", "name": "MIGRATION", "text": migration.as_str() }));
    let bindings: Vec<_> = upstreams.chain(migration).collect();
    described(metadata.id.as_str(), created, number, &annotations, &bindings)
}

/// A version of which only the id is left.
pub(super) fn gone(id: &str, deployed: Moment) -> Value {
    described(id, deployed, 0, &json!({ "workers/message": "no longer in the file" }), &[])
}

fn described(id: &str, created: Moment, number: usize, annotations: &Value, bindings: &[Value]) -> Value {
    let created = created.to_string();
    json!({
        "id": id,
        "number": number,
        "metadata": {
            "created_on": created,
            "modified_on": created,
            "source": SOURCE,
            "author_id": "",
            "author_email": "",
            "hasPreview": false,
        },
        "annotations": annotations,
        "resources": {
            "bindings": bindings,
            "script": { "etag": id, "handlers": ["fetch"], "last_deployed_from": SOURCE },
            "script_runtime": { "usage_model": "standard" },
        },
    })
}
