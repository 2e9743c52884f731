//! Where containers run: moves to better places, and the nodes of volumes.

use super::answer::{Refusal, progress};
use super::caller::Caller;
use super::extract::{Json, OptionalJson, Path, Query};
use crate::deploy::moving;
use crate::errors::invalid;
use crate::placing;
use crate::platform::{Platform, say};
use crate::schedule::{Move, Volume};
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json as Answer};
use berth_model::api::{ApiError, Progress};
use berth_model::placing::{MoveInfo, Rebalance, SetVolume, VolumeInfo};
use berth_model::{AppName, NodeName};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Moves at once, unless it is said otherwise, and at most.
const MOVES: (usize, usize) = (20, 1000);
/// What stands for "the same on every node".
const ANY: &str = "any";

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new().routes(routes!(moves, rebalance)).routes(routes!(volumes, set_volume))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Which {
    /// Only this app's.
    app: Option<AppName>,
    /// How many at most: 1 to 1000. 20 if it is not said.
    most: Option<usize>,
}

async fn planned(
    platform: &Platform,
    app: Option<&AppName>,
    most: Option<usize>,
) -> Result<Vec<Move>, ApiError> {
    if let Some(app) = app {
        platform.existing_app(app).await?;
    }
    let most = most.unwrap_or(MOVES.0);
    if !(1..=MOVES.1).contains(&most) {
        return Err(invalid(format!("{most} moves are not possible: 1 to {}", MOVES.1)));
    }
    placing::moves(platform, app, most).await
}

/// Which few containers would better run on another node, and why.
#[utoipa::path(get, path = "/v1/rebalance", tag = "processes", params(Which),
    responses((status = 200, body = Vec<MoveInfo>)))]
async fn moves(
    State(platform): State<Platform>,
    Query(Which { app, most }): Query<Which>,
) -> Result<Answer<Vec<MoveInfo>>, Refusal> {
    let info = |Move { app, process, ordinal, from, to, why, .. }: Move| MoveInfo {
        app,
        process,
        ordinal,
        from,
        to,
        why: why.to_string(),
    };
    Ok(Answer(planned(&platform, app.as_ref(), most).await?.into_iter().map(info).collect()))
}

/// Moves them, without a moment in which nothing answers.
#[utoipa::path(post, path = "/v1/rebalance", tag = "processes", request_body = Rebalance,
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn rebalance(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    OptionalJson(Rebalance { app, most }): OptionalJson<Rebalance>,
) -> Result<Response, Refusal> {
    let moves = planned(&platform, app.as_ref(), most).await?;
    Ok(progress(move |lines| async move {
        if moves.is_empty() {
            let text = "Everything is where it should be".to_owned();
            say(&lines, Progress::Step { text }).await;
            return Ok(());
        }
        moving::carry_out(&platform, moves, &by, &lines).await
    }))
}

/// On which node each directory and volume of an app is. What mounts it runs there.
#[utoipa::path(get, path = "/v1/apps/{app}/volumes", tag = "apps", params(("app" = AppName, Path)),
    responses((status = 200, body = Vec<VolumeInfo>), (status = 404, description = "There is no such app")))]
async fn volumes(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<Vec<VolumeInfo>>, Refusal> {
    let app = platform.existing_app(&name).await?;
    let pins = platform.pins().await?;
    let info = |source: &String| VolumeInfo {
        source: source.clone(),
        node: pins
            .get(&Volume::of(&name, source))
            .map(|node| node.as_ref().map_or_else(|| ANY.to_owned(), ToString::to_string)),
    };
    Ok(Answer(app.mounts.iter().map(|mount| info(&mount.source)).collect()))
}

/// Says where a directory or volume of an app is from now on. Nothing is copied, and what runs stays until it is restarted.
#[utoipa::path(put, path = "/v1/apps/{app}/volumes", tag = "apps", params(("app" = AppName, Path)),
    request_body = SetVolume, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn set_volume(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Json(SetVolume { source, node }): Json<SetVolume>,
) -> Result<Response, Refusal> {
    let app = platform.existing_app(&name).await?;
    if !app.mounts.iter().any(|mount| mount.source == source) {
        let shown: String = source.chars().take(80).collect();
        return Err(invalid(format!("{name} mounts no {shown:?}; see: berth storage:list {name}")).into());
    }
    let volume = Volume::of(&name, &source);
    let to = match node.as_str() {
        ANY => None,
        text => {
            let node = NodeName::parse(text).map_err(|error| invalid(error.to_string()))?;
            let known = platform.node(&node).await?.is_some()
                || platform.deploys().fleet().nodes().iter().any(|view| view.name == node);
            if !known {
                return Err(
                    invalid(format!("there is no node {node}; see them with: berth node:list")).into()
                );
            }
            Some(node)
        }
    };
    platform.repin(&volume, to).await?;
    Ok(progress(move |lines| async move {
        let whereto = if node == ANY { "every node, the same".to_owned() } else { node };
        let text = format!("The {volume} of {name} is on {whereto} from now on");
        say(&lines, Progress::Step { text }).await;
        let text = format!(
            "Nothing was copied; containers that start from now on run there: berth ps:restart {name}"
        );
        say(&lines, Progress::Detail { text }).await;
        Ok(())
    }))
}
