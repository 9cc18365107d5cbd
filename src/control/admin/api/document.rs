//! The OpenAPI document, made of the very types and handlers that answer.

use std::sync::Arc;

use axum::extract::State as Shared;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{self, Components, SecurityRequirement};

use crate::control::admin::State;
use crate::control::admin::access::{Access, Authorised};
use crate::control::admin::api::{Answer, deployments, explain, plan, process, versions, workers};
use crate::control::admin::problem::Problem;

/// The name of the security scheme.
const TOKEN: &str = "token";

/// Every handler. Schemas are found by what these name; only problems are named nowhere but in extractors.
#[derive(OpenApi)]
#[openapi(
    info(title = "gradual", description = "The admin API of gradual, a reverse proxy that splits traffic between versions \
        of an application.", license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")),
    tags((name = "process", description = "The process itself."),
        (name = "workers", description = "The applications behind the proxy."),
        (name = "versions", description = "What can be deployed."),
        (name = "deployments", description = "Who gets which share of the traffic.")),
    components(schemas(Problem)),
    paths(
        process::healthz, process::readyz, process::metrics, openapi, process::status, process::reload,
        process::upgrade, explain::explain, workers::list_workers, workers::view_worker, versions::list_versions,
        versions::upload_version, versions::view_version, deployments::list_deployments, deployments::deploy,
        deployments::view_deployment, deployments::roll_back, plan::plan,
    ),
)]
struct Document;

/// This document
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "process", responses(
    (status = 200, description = "An OpenAPI 3.1 document.", body = serde_json::Value), Authorised))]
pub(super) async fn openapi(_: Authorised, Shared(state): Shared<Arc<State>>) -> Answer<openapi::OpenApi> {
    Answer(document(&state.access()))
}

/// The document, for who may do what.
fn document(access: &Access) -> openapi::OpenApi {
    let mut document = Document::openapi();
    document.servers = None;
    if access.has_token() {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let scheme = scheme.description(Some("The token in the file that `token_file` of [admin] names."));
        let components = document.components.get_or_insert_with(Components::default);
        components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme.build()));
        document.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
    }
    if access.metrics_are_open() {
        let metrics = document.paths.paths.get_mut("/metrics").and_then(|path| path.get.as_mut());
        if let Some(metrics) = metrics {
            metrics.security = Some(vec![SecurityRequirement::default()]);
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::control::admin::api::routes;

    #[test]
    fn every_route_is_in_the_document_and_nothing_else_is() {
        let routes: BTreeSet<_> = routes().into_iter().map(|(path, _)| path.to_owned()).collect();
        let document = document(&Access::default());
        let documented: BTreeSet<_> = document.paths.paths.keys().cloned().collect();
        assert!(routes.len() > 10);
        assert_eq!(documented, routes);
    }

    #[test]
    fn every_reference_has_its_schema() {
        let document = serde_json::to_value(document(&Access::default())).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        let mut references = 0;
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
            references += 1;
        }
        assert!(references > 30, "{references}");
        assert_eq!(document["openapi"], "3.1.0");
    }
}
