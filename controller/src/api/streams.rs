//! Logs, `run` and `enter`: what passes between a caller and the agent.
//!
//! In: a query, or the first frame of an upgraded connection. Out: the agent's bytes as they come. Whichever side ends, ends
//! the other: a caller that goes away ends its one-off container.

use super::answer::{NDJSON, Refusal};
use super::extract::{Path, Query};
use super::oneoff;
use super::system::agent;
use crate::errors::{from_agent, internal, invalid, not_found};
use crate::platform::Platform;
use crate::secrets;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_model::api::{ApiError, EnterRequest, RunRequest};
use berth_model::container::LogLine;
use berth_model::{AppName, ContainerId, ProcessType};
use berth_wire::{Frame, Upgraded, read_frame, write_frame};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

const PROTOCOL: &str = "berth-stream";
/// How long a caller may take for its first frame.
const FIRST_FRAME: Duration = Duration::from_secs(10);
const MAX_LINES: u32 = 1_000_000;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new().routes(routes!(logs)).routes(routes!(run)).routes(routes!(enter))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LogQuery {
    /// Only this process type.
    #[param(value_type = Option<String>)]
    process: Option<ProcessType>,
    /// How many lines back. Default 100.
    lines: Option<u32>,
    /// Go on with new lines until the caller goes away.
    #[serde(default)]
    follow: bool,
}

/// What an app's containers write, oldest first, one JSON object a line.
#[utoipa::path(get, path = "/v1/apps/{app}/logs", tag = "processes", params(("app" = AppName, Path), LogQuery),
    responses((status = 200, body = LogLine, content_type = "application/x-ndjson")))]
async fn logs(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refusal> {
    let lines = query.lines.unwrap_or(100);
    if lines > MAX_LINES {
        return Err(invalid(format!("lines={lines} is too many: at most {MAX_LINES}")).into());
    }
    platform.existing_app(&name).await?;
    let mut path = format!("/v1/logs?app={name}&lines={lines}&follow={}", query.follow);
    if let Some(process) = &query.process {
        path.push_str(&format!("&process={process}"));
    }
    let answer = agent(&platform).call(Method::GET, &path, None::<&()>).await.map_err(from_agent)?;
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::new(answer.into_body())).into_response())
}

/// Runs a command in a container of its own. Upgrade to `berth-stream`; the first frame is a `RunRequest`.
#[utoipa::path(get, path = "/v1/apps/{app}/run", tag = "processes", params(("app" = AppName, Path)),
    responses((status = 101, description = "Frames follow; the first is the caller's `RunRequest`", body = RunRequest),
        (status = 426, description = "The request is no upgrade to berth-stream")))]
async fn run(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    request: Request,
) -> Result<Response, Refusal> {
    let app = platform.existing_app(&name).await?;
    if app.current.is_none() {
        return Err(not_deployed(&name).into());
    }
    upgrade(request, |mut caller| async move {
        let prepared = async {
            let request: RunRequest = first_frame(&mut caller).await?;
            let app = platform.existing_app(&name).await?;
            let release = platform.current_release(&app).await?.ok_or_else(|| not_deployed(&name))?;
            let bytes = secrets::random::<8>().map_err(|error| internal("a one-off container", &error))?;
            let number = 1 + u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
            let spec = oneoff::spec(&app, &release, &request, number, &hex::encode(bytes))?;
            let start = serde_json::json!({ "spec": spec, "tty": request.tty });
            connect(&platform, "/v1/run", &start).await
        };
        let agent = prepared.await;
        join(caller, agent).await;
    })
}

/// Runs a command in a running container. Upgrade to `berth-stream`; the first frame is an `EnterRequest`.
#[utoipa::path(get, path = "/v1/apps/{app}/enter", tag = "processes", params(("app" = AppName, Path)),
    responses((status = 101, description = "Frames follow; the first is the caller's `EnterRequest`", body = EnterRequest),
        (status = 426, description = "The request is no upgrade to berth-stream")))]
async fn enter(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    request: Request,
) -> Result<Response, Refusal> {
    platform.existing_app(&name).await?;
    upgrade(request, |mut caller| async move {
        let prepared = async {
            let request: EnterRequest = first_frame(&mut caller).await?;
            oneoff::check_argv(&request.argv)?;
            let container = running(&platform, &name, &request)?;
            let start = serde_json::json!({
                "container": container, "argv": request.argv, "tty": request.tty, "env": {}
            });
            connect(&platform, "/v1/exec", &start).await
        };
        let agent = prepared.await;
        join(caller, agent).await;
    })
}

fn not_deployed(app: &AppName) -> ApiError {
    crate::errors::conflict(format!("App {app} has not been deployed yet; push it first: git push paas main"))
}

/// The container that serves as `process.ordinal`.
fn running(platform: &Platform, app: &AppName, request: &EnterRequest) -> Result<ContainerId, ApiError> {
    let plan = platform.deploys().plan(app);
    let found = plan.serving().find(|(_, planned)| {
        planned.spec.process == request.process && planned.spec.ordinal == request.ordinal
    });
    found.map(|(id, _)| id.clone()).ok_or_else(|| {
        not_found(format!(
            "App {app} has no running {}.{}; see what runs with: berth ps:report {app}",
            request.process, request.ordinal
        ))
    })
}

fn upgrade<W, F>(mut request: Request, work: W) -> Result<Response, Refusal>
where
    W: FnOnce(Upgraded) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    if !asks_for_stream(request.headers()) {
        let error =
            invalid("this is a stream: send Connection: upgrade and Upgrade: berth-stream over HTTP/1.1");
        let refusal = Refusal::with_status(StatusCode::UPGRADE_REQUIRED, error);
        return Err(refusal.header(header::UPGRADE, HeaderValue::from_static(PROTOCOL)));
    }
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrading.await {
            Ok(upgraded) => work(TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "a caller left before its stream began"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

fn asks_for_stream(headers: &HeaderMap) -> bool {
    let names = |name: header::HeaderName, wanted: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    names(header::CONNECTION, "upgrade") && names(header::UPGRADE, PROTOCOL)
}

async fn first_frame<T: DeserializeOwned>(caller: &mut Upgraded) -> Result<T, ApiError> {
    match tokio::time::timeout(FIRST_FRAME, read_frame(caller)).await {
        Ok(Ok(Some(Frame::Start(bytes)))) => serde_json::from_slice(&bytes)
            .map_err(|error| invalid(format!("the first frame is not what is expected here: {error}"))),
        Ok(Ok(_)) => Err(invalid("the first frame must say what to run")),
        Ok(Err(error)) => Err(invalid(format!("the first frame cannot be read: {error}"))),
        Err(_) => Err(invalid("no first frame came within 10 s")),
    }
}

async fn connect(platform: &Platform, path: &str, start: &serde_json::Value) -> Result<Upgraded, ApiError> {
    let mut stream = agent(platform).upgrade(path).await.map_err(from_agent)?;
    let frame = Frame::Start(start.to_string().into_bytes());
    write_frame(&mut stream, &frame).await.map_err(|error| internal("the agent's stream", &error))?;
    Ok(stream)
}

/// Copies frames both ways until one side ends; then both do.
async fn join(caller: Upgraded, agent: Result<Upgraded, ApiError>) {
    let (mut from_caller, mut to_caller) = tokio::io::split(caller);
    match agent {
        Ok(agent) => {
            let (mut from_agent, mut to_agent) = tokio::io::split(agent);
            tokio::select! {
                // What the agent said last (the exit code) has been copied when this ends.
                _ = tokio::io::copy(&mut from_agent, &mut to_caller) => {}
                _ = tokio::io::copy(&mut from_caller, &mut to_agent) => {}
            }
        }
        Err(error) => {
            // A caller that left does not want to hear it.
            let _ = write_frame(&mut to_caller, &Frame::Failed(error.message)).await;
        }
    }
    let _ = to_caller.shutdown().await;
}
