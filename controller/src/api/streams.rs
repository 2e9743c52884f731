//! Logs, `run` and `enter`: what passes between a caller and the agent.
//!
//! In: a query, or the first frame of an upgraded connection. Out: the agent's bytes as they come. Whichever side ends, ends
//! the other: a caller that goes away ends its one-off container.

use super::answer::{NDJSON, Refusal};
use super::caller::Caller;
use super::extract::{Path, Query};
use super::runs::ended_by;
use crate::errors::{from_agent, internal, invalid, not_found};
use crate::nodes::logs;
use crate::platform::Platform;
use crate::runs::{self, Order};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_model::api::{ApiError, EnterRequest, RunRequest};
use berth_model::container::LogLine;
use berth_model::image::Process;
use berth_model::{AppName, ContainerId, ProcessType};
use berth_wire::{Client, Frame, Upgraded, read_frame, write_frame};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

const PROTOCOL: &str = "berth-stream";
/// How long a caller may take for its first frame.
const FIRST_FRAME: Duration = Duration::from_secs(10);
/// How long a caller that does not read may hold up the end of what it watches.
const LAST_FRAME: Duration = Duration::from_secs(10);
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
    /// Only this one of them: the `1` of `web.1`.
    ordinal: Option<u32>,
    /// Only from then on; milliseconds since the Unix epoch.
    since: Option<i64>,
    /// Only until then; milliseconds since the Unix epoch.
    until: Option<i64>,
    /// Only lines that this regular expression matches, up to 1000 bytes; `(?i)` at its front ignores case.
    grep: Option<String>,
    /// How many lines back, of those that are wanted. Default 100.
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
    if query.follow && query.until.is_some() {
        return Err(invalid("follow=true goes on; until= ends before that: use one of them").into());
    }
    let follow = query.follow;
    let ask = Arc::new(move |lines, since, follow| agent_path(&name, &query, lines, since, follow));
    Ok(lines_of(logs::read(&platform, ask, lines, follow).await?))
}

/// One JSON object a line, as they come.
pub(super) fn lines_of(lines: mpsc::Receiver<LogLine>) -> Response {
    let body = futures_util::stream::unfold(lines, |mut lines| async move {
        let mut text = serde_json::to_vec(&lines.recv().await?).unwrap_or_default();
        text.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(text)), lines))
    });
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response()
}

/// What an agent is asked for it.
fn agent_path(app: &AppName, query: &LogQuery, lines: u32, since: Option<i64>, follow: bool) -> String {
    let since = since.max(query.since);
    let mut asked = form_urlencoded::Serializer::new(String::new());
    asked.append_pair("app", app.as_str()).append_pair("lines", &lines.to_string());
    asked.append_pair("follow", if follow { "true" } else { "false" });
    let text = |number: Option<i64>| number.map(|number| number.to_string());
    for (key, value) in [
        ("process", query.process.as_ref().map(ToString::to_string)),
        ("ordinal", query.ordinal.map(|number| number.to_string())),
        ("since", text(since)),
        ("until", text(query.until)),
        ("grep", query.grep.clone()),
    ] {
        if let Some(value) = value {
            asked.append_pair(key, &value);
        }
    }
    format!("/v1/logs?{}", asked.finish())
}

/// Runs a command in a container of its own. Upgrade to `berth-stream`; the first frame is a `RunRequest`.
#[utoipa::path(get, path = "/v1/apps/{app}/run", tag = "runs", params(("app" = AppName, Path)),
    responses((status = 101, description = "Frames follow; the first is the caller's `RunRequest`", body = RunRequest),
        (status = 426, description = "The request is no upgrade to berth-stream")))]
async fn run(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
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
            let order = Order {
                env: request.env,
                limits_of: request.process_type,
                ttl_secs: request.ttl_secs,
                ..Order::typed(request.argv, &by)
            };
            let spec = runs::attached_spec(&platform, &name, &order).await?;
            // Known before it runs, so that many at once are bounded.
            platform.until_a_node_reports().await;
            let attached = runs::attach(&platform, &spec, &order, &CancellationToken::new()).await?;
            let start = serde_json::json!({ "spec": spec, "tty": request.tty });
            let agent = connect(&platform.agent_of(attached.node()), "/v1/run", &start).await?;
            Ok::<_, ApiError>((agent, attached))
        };
        match prepared.await {
            Ok((agent, attached)) => {
                let ended = async {
                    tokio::select! {
                        () = attached.cancel.cancelled() => attached.stopped(),
                        why = attached.over() => Some(why),
                    }
                };
                join(caller, Ok(agent), async { Some(ended_by(attached.name(), ended.await)) }).await;
            }
            Err(error) => join(caller, Err(error), std::future::pending()).await,
        }
    })
}

/// Runs a command in a running container. Upgrade to `berth-stream`; the first frame is an `EnterRequest`.
#[utoipa::path(get, path = "/v1/apps/{app}/enter", tag = "runs", params(("app" = AppName, Path)),
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
            if !request.argv.is_empty() {
                runs::check_argv(&request.argv)?;
            }
            let container = running(&platform, &name, &request)?;
            let start = serde_json::json!({
                "container": container, "argv": request.argv, "tty": request.tty, "env": {}
            });
            connect(&platform.agent_with(&container), "/v1/exec", &start).await
        };
        let agent = prepared.await;
        join(caller, agent, std::future::pending()).await;
    })
}

fn not_deployed(app: &AppName) -> ApiError {
    crate::errors::conflict(format!("App {app} has not been deployed yet; push it first: git push paas main"))
}

/// The container that was named: one that serves, or a detached one-off.
fn running(platform: &Platform, app: &AppName, request: &EnterRequest) -> Result<ContainerId, ApiError> {
    let plan = platform.deploys().plan(app);
    let named = |id: &ContainerId, process: &ProcessType, ordinal: u32| match &request.container {
        Some(wanted) => {
            id.as_str() == wanted || (wanted.len() >= 6 && id.as_str().ends_with(&format!(".{wanted}")))
        }
        None => *process == request.process && ordinal == request.ordinal,
    };
    let mut serving = plan.serving();
    let found = serving.find(|(id, planned)| named(id, &planned.spec.process, planned.spec.ordinal));
    if let Some((id, planned)) = found {
        if matches!(planned.spec.run, Process::Static(_)) {
            return Err(invalid(format!(
                "{}.{} is a static site: nothing runs in it",
                planned.spec.process, planned.spec.ordinal
            )));
        }
        return Ok(id.clone());
    }
    let (process, ordinal) = (&request.process, request.ordinal);
    let what = request.container.clone().unwrap_or_else(|| format!("{process}.{ordinal}"));
    let run = platform.runs().of(app).into_iter().find(|run| run.is_called(app, &what));
    match run.map(|run| (run.detached, run.container)) {
        Some((true, Some(id))) => Ok(id),
        Some((false, _)) => Err(invalid(format!("{what} belongs to its caller and cannot be entered"))),
        _ => {
            let shown: String = what.chars().take(200).collect();
            Err(not_found(format!(
                "App {app} has no running {shown}; see what runs with: berth ps:report {app}, berth run:list {app}"
            )))
        }
    }
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

async fn connect(agent: &Client, path: &str, start: &serde_json::Value) -> Result<Upgraded, ApiError> {
    let mut stream = agent.upgrade(path).await.map_err(from_agent)?;
    let frame = Frame::Start(start.to_string().into_bytes());
    write_frame(&mut stream, &frame).await.map_err(|error| internal("the agent's stream", &error))?;
    Ok(stream)
}

/// Passes frames both ways until one side ends; then both do. `ended`: what is said to the caller when it is ended from outside.
async fn join(
    caller: Upgraded,
    agent: Result<Upgraded, ApiError>,
    ended: impl Future<Output = Option<ApiError>>,
) {
    let (mut from_caller, mut to_caller) = tokio::io::split(caller);
    let why = match agent {
        Ok(agent) => {
            let (mut from_agent, mut to_agent) = tokio::io::split(agent);
            tokio::select! {
                // What the agent said last (the exit code) has been passed on when this ends.
                why = pass_on(&mut from_agent, &mut to_caller, ended) => why,
                _ = tokio::io::copy(&mut from_caller, &mut to_agent) => None,
            }
        }
        Err(error) => Some(error),
    };
    if let Some(error) = why {
        // A caller that left does not want to hear it.
        let _ = write_frame(&mut to_caller, &Frame::Failed(error.message)).await;
    }
    let _ = to_caller.shutdown().await;
}

/// Passes whole frames on, so that another can follow when it is ended in between.
async fn pass_on(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    ended: impl Future<Output = Option<ApiError>>,
) -> Option<ApiError> {
    tokio::pin!(ended);
    loop {
        // `read_frame` is not cancel-safe, but after the end nothing is read any more.
        let frame = tokio::select! {
            why = &mut ended => return why,
            frame = read_frame(from) => frame.ok().flatten()?,
        };
        let writing = write_frame(to, &frame);
        tokio::pin!(writing);
        tokio::select! {
            written = &mut writing => written.ok()?,
            why = &mut ended => {
                return tokio::time::timeout(LAST_FRAME, writing).await.ok()?.ok().and(why);
            }
        }
    }
}
