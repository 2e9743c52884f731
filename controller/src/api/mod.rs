//! The public API: `/v1`, the same for the CLI, SSH commands and the dashboard.
//!
//! In: HTTP requests on `api.sock` (the local admin) and over TCP (with a token). Out: JSON, lines of progress, streams, each
//! checked into model types first and answered by the functions of other modules: nothing is decided here.

mod access;
mod answer;
mod apps;
mod backup;
mod builds;
mod caller;
mod certificates;
mod config;
mod cron;
mod dashboard;
mod deploys;
mod drains;
mod events;
mod extract;
mod images;
mod life;
mod networks;
mod nodes;
mod observe;
mod placing;
mod processes;
mod proxy;
mod recorded;
mod registries;
mod report;
mod runs;
mod sentence;
pub mod serve;
mod settings;
mod sources;
mod streams;
mod system;
mod traffic;

pub use answer::status_of;
pub use caller::{Caller, Origin, Peer};
pub(crate) use report::app_status;

use crate::platform::Platform;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;

/// Longest JSON body: all config vars of an app, escaped.
const LARGEST_BODY: usize = 4 << 20;

#[derive(OpenApi)]
#[openapi(
    info(title = "Berth", version = "v1", description = "The API of a Berth platform. On the machine itself it is at \
        `DIR/run/api.sock` without a token; over TCP it wants a token, and TLS unless from the machine itself."),
    components(schemas(berth_model::api::ApiError, berth_model::api::RunRequest, berth_model::api::EnterRequest)),
    security(("token" = []), ("basic" = []))
)]
struct Description;

fn parts() -> (Router<Platform>, utoipa::openapi::OpenApi) {
    let (router, mut openapi) = OpenApiRouter::with_openapi(Description::openapi())
        .merge(system::router())
        .merge(nodes::router())
        .merge(apps::router())
        .merge(config::router())
        .merge(settings::router())
        .merge(processes::router())
        .merge(backup::router())
        .merge(placing::router())
        .merge(life::router())
        .merge(deploys::router())
        .merge(drains::router())
        .merge(proxy::router())
        .merge(sources::router())
        .merge(builds::router())
        .merge(registries::router())
        .merge(networks::router())
        .merge(certificates::router())
        .merge(images::router())
        .merge(streams::router())
        .merge(runs::router())
        .merge(cron::router())
        .merge(traffic::router())
        .merge(access::router())
        .merge(events::router())
        .merge(observe::router())
        .split_for_parts();
    describe_errors_and_access(&mut openapi);
    (router, openapi)
}

/// What holds for every operation is said once, here.
fn describe_errors_and_access(openapi: &mut utoipa::openapi::OpenApi) {
    if let Some(components) = &mut openapi.components {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let basic = SecurityScheme::Http(Http::new(HttpAuthScheme::Basic));
        components.security_schemes.insert("token".to_owned(), bearer);
        components.security_schemes.insert("basic".to_owned(), basic);
    }
    let error = Ref::from_schema_name("ApiError");
    let content = ContentBuilder::new().schema(Some(error)).build();
    let response = ResponseBuilder::new()
        .description("What went wrong, to what, and what to do next")
        .content("application/json", content)
        .build();
    for item in openapi.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            responses.insert("default".to_owned(), RefOr::T(response.clone()));
        }
    }
}

/// The API's description, as `docs/openapi.json` has it.
#[must_use]
pub fn openapi() -> String {
    let mut text = parts().1.to_pretty_json().expect("the description has no failing serializers");
    text.push('\n');
    text
}

fn router(platform: &Platform) -> Router {
    let (router, openapi) = parts();
    let json: Arc<str> = openapi.to_json().expect("the description has no failing serializers").into();
    let described = get(move || {
        let json = json.clone();
        async move { ([(http::header::CONTENT_TYPE, "application/json")], json.to_string()).into_response() }
    });
    router
        .with_state(platform.clone())
        .route("/openapi.json", described)
        .fallback(extract::no_such_path)
        .method_not_allowed_fallback(extract::no_such_method)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(from_fn_with_state(platform.clone(), recorded::record))
}

/// For `api.sock`: whoever can open it is the admin.
pub fn local(platform: &Platform) -> Router {
    router(platform).layer(from_fn(caller::local))
}

/// For TCP: wants a token, and TLS unless the peer is on this machine. `git` are the routes of git over HTTP; they find the
/// [`Caller`] in the request's extensions. The registry is there too, for `podman`, `docker` and `skopeo`: any user name, a
/// token as the password. The listener must set a [`Peer`].
pub fn remote(platform: &Platform, git: Router) -> Router {
    let gate = caller::Gate { platform: platform.clone(), failures: Arc::default() };
    let registry = crate::registry::router(platform.registry().clone())
        .layer(from_fn_with_state(platform.clone(), caller::guard_images));
    router(platform).merge(git).merge(registry).layer(from_fn_with_state(gate, caller::remote))
}

/// The dashboard in front of `api`, which it calls as its visitors would.
pub fn with_dashboard(api: Router, stop: &CancellationToken) -> Router {
    let loopback = dashboard::Loopback::new(api.clone(), stop.clone());
    berth_dashboard::router(Arc::new(loopback), stop.clone()).layer(from_fn(dashboard::tell_peer)).merge(api)
}
