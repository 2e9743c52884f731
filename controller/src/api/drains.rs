//! Emptying a machine, and taking that back.

use super::answer::{Refusal, progress};
use super::extract::{OptionalJson, Path};
use crate::deploy;
use crate::errors::invalid;
use crate::platform::{Platform, say};
use axum::extract::State;
use axum::response::Response;
use berth_model::NodeName;
use berth_model::api::{DrainNode, Progress};
use std::time::Duration;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Longest time that can be waited for: a day, in seconds.
const LONGEST_SECS: u64 = 86_400;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new().routes(routes!(drain))
}

/// Starts everything that runs on a machine elsewhere, without a lost request, and keeps new containers away from it; or
/// lets it take containers again. Goes on when the caller goes away.
#[utoipa::path(post, path = "/v1/nodes/{node}/drain", tag = "nodes", params(("node" = String, Path)),
    request_body = DrainNode, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn drain(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
    OptionalJson(DrainNode { undo, timeout_secs }): OptionalJson<DrainNode>,
) -> Result<Response, Refusal> {
    if timeout_secs.is_some_and(|secs| !(1..=LONGEST_SECS).contains(&secs)) {
        return Err(invalid(format!("the timeout may be 1 to {LONGEST_SECS} s")).into());
    }
    Ok(progress(move |lines| async move {
        if undo {
            deploy::undo_drain(&platform, &node).await?;
            let text = format!("{node} takes containers again; what was moved away stays where it is");
            say(&lines, Progress::Step { text }).await;
            return Ok(());
        }
        deploy::drain(&platform, &node, timeout_secs.map(Duration::from_secs), &lines).await
    }))
}
