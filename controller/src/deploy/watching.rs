//! Waiting for what nodes and proxies report, and showing what a container said.
//!
//! In: containers, a revision. Out: when they are ready or why they will not be; when every proxy serves it.

use crate::Platform;
use crate::deploy::state::cancelled;
use crate::platform::{ProgressSender, say};
use berth_model::api::{ApiError, Progress};
use berth_model::container::{ContainerSpec, ContainerState, Exit, LogLine};
use berth_wire::{Client, Endpoint};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest time for fetching an image, starting and all checks together. Checks have shorter limits of their own.
const START_LIMIT: Duration = Duration::from_secs(15 * 60);
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

/// Waits until all are ready.
pub(super) async fn until_ready(
    platform: &Platform,
    specs: &[ContainerSpec],
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Result<(), StartFailure> {
    let fleet = platform.deploys().fleet();
    let mut changes = fleet.changes();
    let mut ready = BTreeSet::new();
    let limit = tokio::time::sleep(START_LIMIT);
    tokio::pin!(limit);
    loop {
        changes.mark_unchanged();
        let mut waiting = None;
        for spec in specs {
            let status = fleet.status(&spec.id);
            let advice = status.as_ref().and_then(|status| status.advice.clone());
            match judge(status.map(|status| status.state)) {
                Verdict::Ready => {
                    if ready.insert(&spec.id) {
                        let name = format!("{}.{}", spec.process, spec.ordinal);
                        let text = if advice.is_some() { "runs" } else { "is ready" };
                        say(progress, Progress::Detail { text: format!("{name} {text}") }).await;
                        if let Some(advice) = advice {
                            say(progress, Progress::Warning { text: format!("{name}: {advice}") }).await;
                        }
                    }
                }
                Verdict::Waiting => waiting = waiting.or(Some(spec)),
                Verdict::Failed(reason) => {
                    let reason = format!("{}.{} {reason}", spec.process, spec.ordinal);
                    return Err(StartFailure::Container(Box::new(spec.clone()), reason));
                }
            }
        }
        let Some(waiting) = waiting else { return Ok(()) };
        tokio::select! {
            _ = changes.changed() => {}
            () = cancel.cancelled() => return Err(StartFailure::Other(cancelled())),
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
pub(super) async fn until_gone(
    platform: &Platform,
    gone: &BTreeSet<berth_model::ContainerId>,
    limit: Duration,
) -> bool {
    let fleet = platform.deploys().fleet();
    let mut changes = fleet.changes();
    let wait = async {
        loop {
            changes.mark_unchanged();
            if gone.iter().all(|id| fleet.status(id).is_none()) || changes.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(limit, wait).await.is_ok()
}

/// The agent of this machine.
pub(super) fn agent(platform: &Platform) -> Client {
    Client::new(Endpoint::Unix(platform.options().agent_socket()))
}

/// Shows the last output of a container, between two lines that say whose it is.
pub(super) async fn show_output(platform: &Platform, spec: &ContainerSpec, progress: &ProgressSender) {
    let whose = format!("{} container output ({}.{})", spec.app, spec.process, spec.ordinal);
    say(progress, Progress::Section { text: format!("Start of {whose}") }).await;
    let fetch = async {
        let path =
            format!("/v1/logs?app={}&container={}&lines={OUTPUT_LINES}&follow=false", spec.app, spec.id);
        let mut lines = agent(platform).lines(http::Method::GET, &path, None::<&()>).await?;
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
