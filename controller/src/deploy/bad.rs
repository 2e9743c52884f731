//! Releases that go bad after the switch: watched for a while, and taken back once.
//!
//! In: what nodes say of the containers of a release that is watched or on trial, and what the proxies counted of their answers.
//! Out: a reason, and then a rollback, or the end of a canary, in the name of `berth`. [`verdict`] is pure. A rollback is not
//! watched itself, unless it goes to a release whose own time was not up: it ends at one that has proven itself.

use super::plan::{AppPlan, Planned, Watch};
use super::rollout::Work;
use crate::Platform;
use crate::backup::RESTORED;
use crate::platform::{PlatformError, now_ms};
use berth_model::api::ApiError;
use berth_model::container::{ContainerState, ContainerStatus};
use berth_model::deploy::DeploySettings;
use berth_model::traffic::ContainerAnswers;
use berth_model::{AppName, ContainerId, ProcessType, ReleaseVersion};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often it is looked, where anything is watched.
const LOOK: Duration = Duration::from_secs(1);
/// Who does it, in releases.
pub const BERTH: &str = "berth";
/// Ends in a row, each within a minute of its start.
const EXITS: u32 = 3;
/// How long a container may be unready.
const UNREADY: Duration = Duration::from_secs(30);
/// Answers below which a share of errors says nothing.
const ENOUGH: u64 = 20;

/// One container as it is judged.
#[derive(Clone, Debug)]
struct Seen {
    process: ProcessType,
    ordinal: u32,
    status: Option<ContainerStatus>,
    unready_for: Duration,
}

/// What is wrong with one container, if it is its release's fault.
fn fault(seen: &Seen) -> Option<String> {
    let name = format!("{}.{}", seen.process, seen.ordinal);
    let status = seen.status.as_ref()?;
    match &status.state {
        // It may be the node's fault, or that of a registry that is away for a moment; it is tried again.
        ContainerState::Failed { reason } if seen.unready_for >= UNREADY => {
            Some(format!("{name} failed: {reason}"))
        }
        ContainerState::Exited { exit } if exit.code != 0 => {
            Some(format!("{name} exited with code {} and stays so", exit.code))
        }
        _ if status.restarts >= EXITS => Some(format!("{name} ended {} times in a row", status.restarts)),
        ContainerState::Running { ready: false, .. } if seen.unready_for >= UNREADY => {
            Some(format!("{name} was not ready for {} s", UNREADY.as_secs()))
        }
        _ => None,
    }
}

/// Why a release is bad: half of the containers of a type are, or too many of its answers are 5xx, and more than twice as
/// many as without it.
fn verdict(
    seen: &[Seen],
    answers: ContainerAnswers,
    without: u32,
    settings: &DeploySettings,
) -> Option<String> {
    let mut types: BTreeMap<&ProcessType, (usize, Vec<String>)> = BTreeMap::new();
    for one in seen {
        let (count, faults) = types.entry(&one.process).or_default();
        *count += 1;
        faults.extend(fault(one));
    }
    let of_type =
        types.into_values().find(|(count, faults)| !faults.is_empty() && faults.len() * 2 >= *count);
    if let Some((_, faults)) = of_type {
        return faults.into_iter().next();
    }
    let limit = settings.error_percent()?;
    if answers.requests < ENOUGH {
        return None;
    }
    let percent = answers.errors.saturating_mul(100) / answers.requests;
    let bad = percent >= u64::from(limit) && percent > u64::from(without).saturating_mul(2);
    bad.then(|| format!("{} of {} answers were errors (5xx)", answers.errors, answers.requests))
}

/// Watches nobody any more on a platform that was restored: what goes wrong on the new machine is no fault of a release that
/// served on the old one.
pub(super) async fn trust_restored(platform: &Platform) -> Result<(), ApiError> {
    if platform.store().get(RESTORED).await.map_err(PlatformError::from)?.is_none() {
        return Ok(());
    }
    for (app, plan) in platform.deploys().plans() {
        if plan.watch.is_some() {
            platform.deploys().step(platform, &app, AppPlan::unwatched).await?;
        }
    }
    Ok(platform.remove(RESTORED).await?)
}

/// Looks after releases until `stop`.
pub(super) async fn keep_watch(platform: Platform, stop: CancellationToken) {
    let mut unready: HashMap<ContainerId, Instant> = HashMap::new();
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let mut seen = BTreeSet::new();
        for (app, plan) in platform.deploys().plans() {
            if (plan.watch.is_none() && plan.canary.is_none()) || plan.operation.is_some() {
                continue;
            }
            if let Err(error) = look(&platform, &app, &plan, &mut unready, &mut seen).await {
                tracing::error!(%app, error = %error.message, "cannot take a bad release back");
            }
        }
        unready.retain(|id, _| seen.contains(id));
    }
}

async fn look(
    platform: &Platform,
    name: &AppName,
    plan: &AppPlan,
    unready: &mut HashMap<ContainerId, Instant>,
    all: &mut BTreeSet<ContainerId>,
) -> Result<(), ApiError> {
    let Some(app) = platform.app(name).await? else { return Ok(()) };
    if let Some(watch) = &plan.watch
        && (watch.until_ms <= now_ms() || !app.deploy.rolls_back() || app.stopped)
    {
        platform.deploys().step(platform, name, AppPlan::unwatched).await?;
    }
    if !app.deploy.rolls_back() {
        return Ok(());
    }
    let fleet = platform.deploys().fleet();
    let mut judged = |(id, planned): (&ContainerId, &Planned)| {
        all.insert(id.clone());
        let status = fleet.status(id);
        let unready_for = match status.as_ref().map(|status| &status.state) {
            Some(ContainerState::Running { ready: false, .. } | ContainerState::Failed { .. }) => {
                unready.entry(id.clone()).or_insert_with(Instant::now).elapsed()
            }
            // It starts again, which makes nothing well yet.
            Some(ContainerState::Preparing | ContainerState::Starting { .. }) => {
                unready.get(id).map_or(Duration::ZERO, Instant::elapsed)
            }
            _ => {
                unready.remove(id);
                Duration::ZERO
            }
        };
        let spec = &planned.spec;
        Seen { process: spec.process.clone(), ordinal: spec.ordinal, status, unready_for }
    };
    let now = now_ms() / 1000;
    let percent = |answers: ContainerAnswers| {
        let percent = answers.errors.saturating_mul(100).checked_div(answers.requests).unwrap_or(0);
        u32::try_from(percent).unwrap_or(100)
    };
    if let Some(canary) = plan.canary.clone() {
        let seen: Vec<_> = plan.on_trial().map(&mut judged).collect();
        let answers = platform.traffic().answers(plan.on_trial().map(|(id, _)| id), now);
        let others = platform.traffic().answers(plan.serving().map(|(id, _)| id), now);
        if let Some(reason) = verdict(&seen, answers, percent(others), &app.deploy) {
            tracing::warn!(app = %name, release = %canary.release, %reason, "the canary went bad; ending it");
            act(platform, name, Act::Abort(canary.release), reason);
        }
        return Ok(());
    }
    let Some(watch) = plan.watch.clone().filter(|watch| watch.until_ms > now_ms()) else { return Ok(()) };
    let of_it = || plan.serving().filter(|(_, planned)| planned.release() == watch.release);
    let seen: Vec<_> = of_it().map(&mut judged).collect();
    let answers = platform.traffic().answers(of_it().map(|(id, _)| id), now);
    if let Some(reason) = verdict(&seen, answers, watch.before_percent, &app.deploy) {
        tracing::warn!(app = %name, release = %watch.release, %reason, back_to = %watch.back_to, "went bad; rolling back");
        act(platform, name, Act::RollBack(watch), reason);
    }
    Ok(())
}

/// What is done about a bad release.
enum Act {
    Abort(ReleaseVersion),
    RollBack(Watch),
}

impl Act {
    /// In its turn. What it is about may have changed since it was judged.
    async fn run(self, work: &Work, reason: &str) -> Result<(), ApiError> {
        let deploys = work.platform.deploys();
        let plan = deploys.plan(&work.app);
        match self {
            Self::Abort(release) if plan.canary.as_ref().is_some_and(|one| one.release == release) => {
                work.abort(Some(reason)).await
            }
            Self::RollBack(watch) if plan.watch.as_ref().is_some_and(|one| one.release == watch.release) => {
                let done = work.withdraw(&watch, reason).await;
                // Whatever came of it, it is not tried again.
                deploys.step(&work.platform, &work.app, |plan| plan.unwatched_of(watch.release)).await?;
                done
            }
            Self::Abort(_) | Self::RollBack(_) => Ok(()),
        }
    }
}

/// Does it, unless somebody else changes the app just now: then it is judged again afterwards.
fn act(platform: &Platform, name: &AppName, what: Act, reason: String) {
    let Ok(turn) = platform.try_operation(name, "an automatic rollback") else { return };
    let (progress, _) = tokio::sync::mpsc::channel(1); // nobody listens
    let (app, cancel) = (name.clone(), CancellationToken::new());
    let work = Work { platform: platform.clone(), app, by: BERTH.to_owned(), progress, cancel };
    tokio::spawn(async move {
        let _turn = turn;
        if let Err(error) = what.run(&work, &reason).await {
            tracing::error!(app = %work.app, error = %error.message, "cannot take a bad release back");
        }
    });
}

#[cfg(test)]
#[path = "bad_tests.rs"]
mod tests;
