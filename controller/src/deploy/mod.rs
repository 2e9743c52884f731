//! Deploys: taking an app from what runs to what is to run, without a moment in which nothing answers.
//!
//! In: a [`Change`] of one app. Out: new containers that are ready, routes that lead to them, old ones that are drained
//! and gone; or the reason why not, and everything as before.
//!
//! Every step is in the store before it is acted on (see [`plan`]): a controller that dies in the middle goes on or takes
//! it back when it starts again ([`start`]). One operation an app at a time; the next
//! one waits and is told so.

mod bad;
mod batches;
mod canary;
mod carry;
mod drain;
mod follow;
pub(crate) mod moving;
mod plan;
mod replace;
mod rollout;
mod sleep;
mod state;
pub(crate) mod task;
mod watching;

pub use bad::BERTH;
pub use drain::{drain, undo as undo_drain};
pub use plan::{AppPlan, Batch, Canary, Operation, Phase, Planned, Role, TrialEnd, Watch};
pub use sleep::wake;
pub use state::Deploys;

use crate::Platform;
use crate::errors::internal;
use crate::platform::now_ms;
use berth_model::api::ApiError;
use berth_model::check::Check;
use berth_model::cron::CronTask;
use berth_model::image::Image;
use berth_model::release::{Formation, Outcome};
use berth_model::{AppName, ProcessType, ReleaseVersion};
use rollout::Work;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

pub use crate::platform::ProgressSender;

/// What is to become different.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new image: a push.
    Image(Box<NewImage>),
    /// The config in the store has changed: a release of the same image with it.
    Config {
        /// Such as `Set GREETING config var`.
        description: String,
    },
    /// An older release comes back, as a new one.
    Rollback {
        /// Which; `None` is the live one before the current one.
        to: Option<ReleaseVersion>,
        /// With today's config instead of its own.
        keep_config: bool,
    },
    /// New containers of the current release instead of the running ones. Settings of the app that are part of a
    /// container (limits, mounts) take effect so.
    Restart {
        /// Only this type.
        process: Option<ProcessType>,
        /// Only this one of it.
        ordinal: Option<u32>,
    },
}

/// A built image on its way to being a release.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// What to run.
    pub image: Image,
    /// Its commit.
    pub git_rev: Option<String>,
    /// From `app.json` or `CHECKS`.
    pub checks: BTreeMap<ProcessType, Vec<Check>>,
    /// From `app.json`.
    pub formation: Formation,
    /// From `app.json`.
    pub cron: Vec<CronTask>,
    /// From `app.json`: how many of a type start at once.
    pub max_parallel: BTreeMap<ProcessType, u32>,
    /// Such as `Deploy 1a2b3c4`.
    pub description: String,
}

/// Loads what is to run, goes on with what was under way, and keeps routes and retiring containers until `stop`. Call it
/// once, before any listener of the internal API opens; it returns as soon as everything is loaded.
///
/// Errors: the store, or a value that cannot be read. Then nothing may be served: nodes would stop what they run.
pub async fn start(platform: &Platform, stop: &CancellationToken) -> Result<(), ApiError> {
    platform.deploys().load(platform, now_ms()).await?;
    bad::trust_restored(platform).await?;
    crate::placing::adopt_volumes(platform).await?;
    platform.deploys().fleet().expect(platform.nodes().await?.into_iter().map(|node| node.name));
    let runs = platform.runs().all().into_iter();
    platform.deploys().fleet().expect(runs.filter_map(|(_, run)| run.info.node));
    let mut interrupted = Vec::new();
    for app in platform.apps().await? {
        let plan = platform.deploys().plan(&app.name);
        let under_way = plan.operation.as_ref().map(|operation| operation.release);
        let on_trial = plan.canary.as_ref().map(|canary| canary.release);
        for release in platform.releases(&app.name).await? {
            if release.outcome == Outcome::Pending && ![under_way, on_trial].contains(&Some(release.version))
            {
                let reason = "Berth was restarted before it began; do it again".to_owned();
                platform.conclude_release(&app.name, release.version, &Outcome::Failed { reason }).await?;
            }
        }
        if under_way.is_none() {
            continue;
        }
        let (progress, _) = tokio::sync::mpsc::channel(1);
        let cancel = CancellationToken::new();
        let work = Work { platform: platform.clone(), app: app.name, by: String::new(), progress, cancel };
        // Its turn is taken before anyone else can ask for it: those who act by themselves begin below.
        let turn = platform.try_operation(&work.app, "the deploy that was interrupted")?;
        interrupted.push((work, turn));
    }
    tokio::spawn(crate::nodes::keep_looking(platform.clone(), stop.clone()));
    tokio::spawn(replace::keep_replacing(platform.clone(), stop.clone()));
    tokio::spawn(drain::keep_draining(platform.clone(), stop.clone()));
    tokio::spawn(follow::keep_routes(platform.clone(), stop.clone()));
    tokio::spawn(crate::networks::keep(platform.clone(), stop.clone()));
    tokio::spawn(follow::keep_retiring(platform.clone(), stop.clone()));
    tokio::spawn(sleep::keep_asleep(platform.clone(), stop.clone()));
    tokio::spawn(bad::keep_watch(platform.clone(), stop.clone()));
    for (work, turn) in interrupted {
        tokio::spawn(async move {
            let _turn = turn;
            if let Err(error) = work.resume().await {
                tracing::error!(app = %work.app, error = %error.message, "cannot go on with an interrupted operation");
            }
        });
    }
    Ok(())
}

/// Runs `work` to its end even if the caller goes away: only its token stops it.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(internal("the operation broke off", &error)),
    }
}

fn work(
    platform: &Platform,
    app: &AppName,
    by: &str,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Work {
    Work {
        platform: platform.clone(),
        app: app.clone(),
        by: by.to_owned(),
        progress: progress.clone(),
        cancel: cancel.clone(),
    }
}

/// Gives the proxies the routes of this moment and waits until those that are alive serve them, a few seconds at most.
pub async fn serve_routes(platform: &Platform) -> Result<(), ApiError> {
    if let Some(revision) = follow::publish_routes(platform).await? {
        watching::until_served(platform, revision).await;
    }
    Ok(())
}

/// Makes the change, once earlier operations on the app are done. Returns when the new containers serve; old ones drain on
/// in the background. The release that serves then is the answer: `v0` if the app has never been deployed and the change
/// only touches what it would run with.
///
/// `cancel` takes it back as long as the new containers do not serve. A caller that goes away stops nothing.
///
/// Errors: the app does not exist, the release task, a start or a check failed ([`berth_model::api::ErrorCode::Failed`]):
/// then what ran before still serves.
pub async fn deploy(
    platform: &Platform,
    app: &AppName,
    change: Change,
    by: &str,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Result<ReleaseVersion, ApiError> {
    let what = match &change {
        Change::Image(_) => "the deploy",
        Change::Config { .. } => "a config change",
        Change::Rollback { .. } => "a rollback",
        Change::Restart { .. } => "a restart",
    };
    let work = work(platform, app, by, progress, cancel);
    detached(async move { work.in_turn(what, async |work| work.deploy(change).await).await }).await
}

/// What is done about a release on trial.
#[derive(Clone, Debug)]
pub enum Trialling {
    /// It gets this share of the requests, in percent; without a release on trial, the next deploy is one. `None` takes
    /// that back.
    Share(Option<u8>),
    /// It serves alone.
    Promote,
    /// It goes.
    Abort,
}

/// Changes a release on trial.
///
/// Errors: there is none to promote or abort, or its further containers do not start: then it stays as it was.
pub async fn trial(
    platform: &Platform,
    app: &AppName,
    what: Trialling,
    by: &str,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    let work = work(platform, app, by, progress, &CancellationToken::new());
    let title = match what {
        Trialling::Share(_) => "a canary's change",
        Trialling::Promote => "a canary's promotion",
        Trialling::Abort => "a canary's end",
    };
    detached(async move {
        work.in_turn(title, async |work| match what {
            Trialling::Share(percent) => work.share(percent).await,
            Trialling::Promote => work.promote().await,
            Trialling::Abort => work.abort(None).await,
        })
        .await
    })
    .await
}

/// New counts; types that are absent stay as they are. With `skip_deploy` they are only stored, and hold from the next
/// deploy on.
pub async fn apply_formation(
    platform: &Platform,
    app: &AppName,
    counts: Formation,
    skip_deploy: bool,
    by: &str,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Result<(), ApiError> {
    let work = work(platform, app, by, progress, cancel);
    detached(async move { work.in_turn("scaling", async |work| work.scale(counts, skip_deploy).await).await })
        .await
}

/// Stops the app, or one process type of it, until [`start_app`] or a deploy of code. Returns when its containers are gone.
pub async fn stop_app(
    platform: &Platform,
    app: &AppName,
    process: Option<ProcessType>,
    by: &str,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Result<(), ApiError> {
    let work = work(platform, app, by, progress, cancel);
    detached(async move { work.in_turn("a stop", async |work| work.stop(process).await).await }).await
}

/// Starts whatever of the app is to run and does not; what was stopped stays so.
pub async fn restore_app(
    platform: &Platform,
    app: &AppName,
    by: &str,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    let work = work(platform, app, by, progress, &CancellationToken::new());
    detached(async move { work.in_turn("a restore", async |work| work.restore().await).await }).await
}

/// Starts whatever of the app, or of one process type of it, is to run and does not, also what was stopped.
pub async fn start_app(
    platform: &Platform,
    app: &AppName,
    process: Option<ProcessType>,
    by: &str,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Result<(), ApiError> {
    let work = work(platform, app, by, progress, cancel);
    detached(async move { work.in_turn("a start", async |work| work.start(process).await).await }).await
}
