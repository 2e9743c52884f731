//! Git over HTTP: `/<app>.git/…`, git's "smart" protocol.
//!
//! In: requests whose caller is known already. Out: what `git receive-pack` and `git upload-pack --stateless-rpc` say, as
//! they say it.

use super::process::Group;
use super::push::{self, Pushes, Ticket};
use super::repository::{self, Service};
use crate::Platform;
use crate::api::{Caller, Origin};
use crate::errors::{internal, invalid};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_model::api::{ApiError, ErrorCode};
use flate2::read::GzDecoder;
use futures_util::TryStreamExt;
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio_util::io::{StreamReader, SyncIoBridge};

/// Longest request of a fetch, unpacked: its wants and haves.
const LARGEST_FETCH: u64 = 64 << 20;
/// Longest push, unpacked; git's own limit is a little lower and says so more kindly.
const LARGEST_PUSH: u64 = (2 << 30) + (16 << 20);

/// The routes of git over HTTP.
pub fn router(platform: Platform, pushes: Pushes) -> Router {
    Router::new()
        .route("/{repository}/info/refs", get(refs))
        .route("/{repository}/git-receive-pack", post(receive_pack))
        .route("/{repository}/git-upload-pack", post(upload_pack))
        .with_state((platform, pushes))
}

type Shared = State<(Platform, Pushes)>;

/// A refusal as git shows it: `remote: text`.
struct Refusal(ApiError);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            ErrorCode::AppNotFound | ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        };
        (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{}\n", self.0.message))
            .into_response()
    }
}

#[derive(Debug, Deserialize)]
struct RefsQuery {
    service: Option<String>,
}

/// The app that a path such as `hello.git` names, made if the service is a push.
async fn open(platform: &Platform, path: &str, service: Service) -> Result<berth_model::AppName, Refusal> {
    let app = repository::app_of(path).map_err(|error| invalid(error.message))?;
    match service {
        Service::Receive => push::open(platform, &app).await?,
        Service::Upload => {
            platform.existing_app(&app).await.map_err(ApiError::from)?;
            push::open(platform, &app).await?;
        }
    }
    Ok(app)
}

async fn refs(
    State((platform, pushes)): Shared,
    Path(path): Path<String>,
    Query(RefsQuery { service }): Query<RefsQuery>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let service = service.as_deref().and_then(Service::parse);
    let service = service.ok_or_else(|| {
        invalid("only git's smart protocol is spoken here; a git of the last ten years does so by itself")
    })?;
    let app = open(&platform, &path, service).await?;
    let ticket = pushes.begin(&app, &caller.0, "")?;
    let flags = ["--stateless-rpc", "--advertise-refs"];
    let mut command = repository::serving(&platform, &app, service, &flags, Some(ticket.id()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut group = Group::spawn(command).map_err(|error| no_git(&error))?;
    let mut stdout = group.child().and_then(|child| child.stdout.take()).ok_or_else(no_pipe)?;
    let line = format!("# service=git-{}\n", service.name());
    let mut body = format!("{:04x}{line}0000", line.len() + 4).into_bytes();
    stdout.read_to_end(&mut body).await.map_err(|error| internal("git broke off", &error))?;
    let code = group.wait().await.map_err(|error| internal("git broke off", &error))?;
    if code != 0 {
        let error = io::Error::other(format!("exit code {code}"));
        return Err(
            internal(&format!("git {} did not list the refs of {app}", service.name()), &error).into()
        );
    }
    Ok(answer(service, "advertisement", Body::from(body)))
}

async fn receive_pack(
    State(shared): Shared,
    Path(path): Path<String>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    rpc(shared, &path, Service::Receive, &caller, request).await
}

async fn upload_pack(
    State(shared): Shared,
    Path(path): Path<String>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Refusal> {
    rpc(shared, &path, Service::Upload, &caller, request).await
}

async fn rpc(
    (platform, pushes): (Platform, Pushes),
    path: &str,
    service: Service,
    caller: &Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let content_type = format!("application/x-git-{}-request", service.name());
    if request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_none_or(|value| value.as_bytes() != content_type.as_bytes())
    {
        return Err(invalid(format!("the request's Content-Type must be {content_type}")).into());
    }
    let packed = match request.headers().get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => false,
        Some(b"gzip" | b"x-gzip") => true,
        Some(_) => return Err(invalid("the request's Content-Encoding must be gzip or nothing").into()),
    };
    let app = open(&platform, path, service).await?;
    let from = request.extensions().get::<Origin>().map(|origin| origin.0.clone()).unwrap_or_default();
    let ticket = pushes.begin(&app, &caller.0, &from)?;
    let mut command = repository::serving(&platform, &app, service, &["--stateless-rpc"], Some(ticket.id()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let stay = pushes.enter(platform.options().repository_dir(&app));
    let mut group = Group::spawn(command).map_err(|error| no_git(&error))?;
    group.keep(stay);
    let child = group.child().ok_or_else(no_pipe)?;
    let stdin = child.stdin.take().ok_or_else(no_pipe)?;
    let stdout = child.stdout.take().ok_or_else(no_pipe)?;
    let limit = if service == Service::Receive { LARGEST_PUSH } else { LARGEST_FETCH };
    tokio::spawn(feed(request.into_body(), packed, limit, stdin));
    Ok(answer(service, "result", Body::from_stream(output(stdout, group, ticket))))
}

/// What the process writes. The process lives as long as somebody listens: a client that goes away ends it, and with it the
/// hook and the build.
fn output(
    stdout: ChildStdout,
    group: Group,
    ticket: Ticket,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures_util::stream::try_unfold((stdout, group, ticket), |(mut stdout, mut group, ticket)| async move {
        let mut chunk = Vec::with_capacity(32 * 1024);
        if stdout.read_buf(&mut chunk).await? == 0 {
            let code = group.wait().await?;
            if code != 0 {
                tracing::debug!(code, "git ended with an error");
            }
            return Ok(None);
        }
        Ok(Some((Bytes::from(chunk), (stdout, group, ticket))))
    })
}

/// Gives the request's body to the process, unpacked, up to `limit` bytes; then its input ends, whole or not, and git judges
/// what it got.
async fn feed(body: Body, packed: bool, limit: u64, mut stdin: ChildStdin) {
    let reader = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    let result = if packed {
        let work = move || {
            let mut from = GzDecoder::new(SyncIoBridge::new(Box::pin(reader))).take(limit);
            let mut to = SyncIoBridge::new(stdin);
            io::copy(&mut from, &mut to).and_then(|_| to.flush())
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    } else {
        let copied = tokio::io::copy(&mut Box::pin(reader.take(limit)), &mut stdin).await;
        match copied {
            Ok(_) => stdin.shutdown().await,
            Err(error) => Err(error),
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a git request's body broke off");
    }
}

fn answer(service: Service, what: &str, body: Body) -> Response {
    let content_type = format!("application/x-git-{}-{what}", service.name());
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache".to_owned())];
    (headers, body).into_response()
}

fn no_git(error: &io::Error) -> ApiError {
    internal("cannot start git; is it installed?", error)
}

fn no_pipe() -> ApiError {
    internal("git was started without pipes", &io::Error::other("no pipe"))
}
