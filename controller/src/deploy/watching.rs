//! Waiting for what nodes and proxies report, and showing what a container said.
//!
//! In: containers, a revision. Out: when they are ready or why they will not be; when every proxy serves it.

use crate::Platform;
use crate::deploy::state::cancelled;
use crate::errors::unavailable;
use crate::platform::{ProgressSender, say};
use berth_model::api::{ApiError, Progress};
use berth_model::container::{ContainerSpec, ContainerState, Exit, LogLine};
use berth_model::image::Process;
use berth_model::{AppName, ContainerId};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest time for fetching an image, starting and all checks together. Checks have shorter limits of their own.
const START_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How long nodes may take to fetch the files of a static site; those that have them not by then answer 503 until they do.
const COPIES_LIMIT: Duration = Duration::from_secs(60);
/// How long proxies are waited for. Requests are answered meanwhile, by the old containers.
const ROUTES_LIMIT: Duration = Duration::from_secs(10);
/// How much of a failed container's output is shown.
const OUTPUT_LINES: u32 = 100;

/// Why new containers do not serve.
#[derive(Debug)]
pub(super) enum StartFailure {
    /// One of them failed.
    Container(Box<ContainerSpec>, String),
    /// Something else.
    Other(ApiError),
}

/// Waits until all that the operation has made are ready; says so of those that are not in `said` yet. Those whose node is
/// lost meanwhile are started elsewhere, and waited for there.
pub(super) async fn until_ready(
    platform: &Platform,
    app: &AppName,
    said: &mut BTreeSet<ContainerId>,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Result<(), StartFailure> {
    let fleet = platform.deploys().fleet();
    let mut changes = fleet.changes();
    let limit = tokio::time::sleep(START_LIMIT);
    let copies = tokio::time::sleep(COPIES_LIMIT);
    tokio::pin!(limit, copies);
    loop {
        changes.mark_unchanged();
        let mut waiting = None;
        let plan = platform.deploys().plan(app);
        for (_, planned) in plan.new_ones() {
            let spec = &planned.spec;
            let name = format!("{}.{}", spec.process, spec.ordinal);
            if fleet.is_lost(&planned.node) {
                if let Some(why) = platform.deploys().waits(&spec.id) {
                    let reason = format!("node {} was lost before {name} was ready: {why}", planned.node);
                    return Err(StartFailure::Other(unavailable(reason)));
                }
                waiting = waiting.or(Some(spec));
                continue;
            }
            let status = fleet.status(&spec.id);
            let advice = status.as_ref().and_then(|status| status.advice.clone());
            match judge(status.map(|status| status.state)) {
                Verdict::Ready
                    if matches!(spec.run, Process::Static(_))
                        && !copies.is_elapsed()
                        && !fleet.is_ready_everywhere(&spec.id) =>
                {
                    waiting = waiting.or(Some(spec));
                }
                Verdict::Ready => {
                    if said.insert(spec.id.clone()) {
                        let text = if advice.is_some() { "runs" } else { "is ready" };
                        say(progress, Progress::Detail { text: format!("{name} {text}") }).await;
                        if let Some(advice) = advice {
                            say(progress, Progress::Warning { text: format!("{name}: {advice}") }).await;
                        }
                    }
                }
                Verdict::Waiting => waiting = waiting.or(Some(spec)),
                Verdict::Failed(reason) => {
                    return Err(StartFailure::Container(Box::new(spec.clone()), format!("{name} {reason}")));
                }
            }
        }
        let Some(waiting) = waiting else { return Ok(()) };
        tokio::select! {
            _ = changes.changed() => {}
            () = cancel.cancelled() => return Err(StartFailure::Other(cancelled())),
            () = &mut copies, if !copies.is_elapsed() => {}
            () = &mut limit => {
                let minutes = START_LIMIT.as_secs() / 60;
                let reason = format!(
                    "{}.{} was not ready within {minutes} minutes", waiting.process, waiting.ordinal);
                return Err(StartFailure::Container(Box::new(waiting.clone()), reason));
            }
        }
    }
}

enum Verdict {
    Ready,
    Waiting,
    Failed(String),
}

/// An exit before the container was ready fails the deploy at once: what ran before still serves, and the reason is shown
/// while it is fresh.
fn judge(state: Option<ContainerState>) -> Verdict {
    match state {
        None | Some(ContainerState::Preparing | ContainerState::Starting { .. }) => Verdict::Waiting,
        Some(ContainerState::Running { ready: true, .. }) => Verdict::Ready,
        Some(ContainerState::Running { ready: false, .. } | ContainerState::Stopping) => Verdict::Waiting,
        Some(ContainerState::BackingOff { exit, .. } | ContainerState::Exited { exit }) => {
            Verdict::Failed(describe(&exit))
        }
        Some(ContainerState::Failed { reason }) => Verdict::Failed(format!("did not start: {reason}")),
    }
}

fn describe(exit: &Exit) -> String {
    if exit.oom_killed {
        return "ran out of memory and was killed; give it more with: berth resource:limit".to_owned();
    }
    match (exit.signal, exit.code) {
        (Some(signal), _) => format!("was killed by signal {signal} before it was ready"),
        (None, code) => format!("exited with code {code} before it was ready"),
    }
}

/// Waits until every proxy serves `revision`. A proxy that does not answer is not waited for long: it takes the routes
/// when it comes back, and the old containers serve until then. Gives whether all serve it.
pub(super) async fn until_served(platform: &Platform, revision: u64) -> bool {
    let fleet = platform.deploys().fleet();
    let mut changes = fleet.changes();
    let wait = async {
        loop {
            changes.mark_unchanged();
            if fleet.is_served(revision) == Some(true) {
                return true;
            }
            if changes.changed().await.is_err() {
                return false;
            }
        }
    };
    tokio::time::timeout(ROUTES_LIMIT, wait).await.unwrap_or(false)
}

/// Waits until no node has these containers any more, at most `limit`.
pub(super) async fn until_gone(platform: &Platform, gone: &BTreeSet<ContainerId>, limit: Duration) -> bool {
    let fleet = platform.deploys().fleet();
    let mut changes = fleet.changes();
    let wait = async {
        loop {
            changes.mark_unchanged();
            if gone.iter().all(|id| fleet.is_gone(id)) || changes.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(limit, wait).await.is_ok()
}

/// Shows the last output of a container, between two lines that say whose it is.
pub(super) async fn show_output(platform: &Platform, spec: &ContainerSpec, progress: &ProgressSender) {
    let whose = format!("{} container output ({}.{})", spec.app, spec.process, spec.ordinal);
    say(progress, Progress::Section { text: format!("Start of {whose}") }).await;
    let fetch = async {
        let path =
            format!("/v1/logs?app={}&container={}&lines={OUTPUT_LINES}&follow=false", spec.app, spec.id);
        let mut lines = platform.agent_with(&spec.id).lines(http::Method::GET, &path, None::<&()>).await?;
        while let Some(line) = lines.next::<LogLine>().await? {
            say(progress, Progress::Detail { text: line.text }).await;
        }
        Ok::<(), berth_wire::WireError>(())
    };
    match tokio::time::timeout(Duration::from_secs(10), fetch).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            say(progress, Progress::Warning { text: format!("its output cannot be read: {error}") }).await;
        }
        Err(_) => say(progress, Progress::Warning { text: "its output came too slowly".to_owned() }).await,
    }
    say(progress, Progress::Section { text: format!("End of {whose}") }).await;
}
