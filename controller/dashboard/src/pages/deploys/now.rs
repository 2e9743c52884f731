//! What is going on with an app's deploys: builds and deploys under way, a release on trial, what is watched or kept.

use super::back;
use super::builds::{cancel, href, short};
use super::releases::Listed;
use crate::page::{button, dialog, opener};
use crate::show::{count, moment, percent, state};
use berth_model::AppName;
use berth_model::api::{BuildInfo, BuildStatus};
use berth_model::deploy::{CanaryInfo, DeployReport, Strategy};
use maud::{Markup, html};

pub(super) fn view(
    app: &AppName,
    deploy: &DeployReport,
    builds: &[BuildInfo],
    releases: &[Listed],
) -> Markup {
    let running: Vec<&BuildInfo> = builds.iter().filter(|build| build.status.is_running()).collect();
    // A build that deploys says itself what is under way.
    let operation = deploy
        .under_way
        .as_ref()
        .filter(|_| running.iter().all(|build| build.status != BuildStatus::Deploying));
    let is_quiet = running.is_empty() && operation.is_none() && deploy.canary.is_none();
    html! {
        div #under-way {
            @for build in &running { (under_way(app, build)) }
            @if let Some(what) = operation { div.now-item { (state("deploying")) span { (what) " is under way." } } }
            (standing(app, deploy))
            @if is_quiet {
                p.dim {
                    "Nothing is under way."
                    @if let Some(release) = deploy.release { " " (release) " serves." }
                }
            }
        }
        @if let (Some(until), Some(to)) = (deploy.watched_until_ms, deploy.back_to) {
            p.dim { "The release is watched; it is taken back to " (to) " by itself if it goes bad. The watch ends " (moment(until)) "." }
        }
        @if let Some(build) = failed_last(builds, releases) {
            div.wrong.reason {
                p { b { "The last build failed: " } (build.reason.as_deref().unwrap_or("no reason was kept")) }
                p { a href=(href(app, build)) { "What it said" } }
            }
        }
    }
}

/// What waits for a decision: a canary on trial, containers that are kept for the way back, a canary to come.
pub(in crate::pages) fn standing(app: &AppName, deploy: &DeployReport) -> Markup {
    let at = |what: &str| format!("{}/{what}", back(app));
    html! {
        @if let Some(canary) = &deploy.canary { (on_trial(app, canary)) }
        @if let (Some(until), 1..) = (deploy.kept_until_ms, deploy.kept) {
            div.now-item #kept {
                (state("ready"))
                span {
                    (count(deploy.kept as usize, "container", "containers")) " of the release before "
                    @if deploy.kept == 1 { "is" } @else { "are" } " kept running for a quick way back. That ends " (moment(until)) "."
                }
                span.actions { (opener("take-back", "Go back to it", "")) }
            }
            (dialog("take-back", "Go back to the release before", &at("rollback"), "Go back", &html! {
                p { "Its containers still run: they get the requests again, with the config of then. A new release says so." }
            }))
        }
        @if let Some(share) = deploy.next_canary {
            div.now-item #next-is-canary {
                (state("canary"))
                span { "The next deploy gets " b { (share) " %" } " of the requests, until it is promoted." }
                span.actions { (button(&at("share"), "Deploy all of it instead", "", &[])) }
            }
        }
    }
}

/// A button that makes the next deploy a canary, unless one is on trial, is to come, or each deploy is one.
pub(super) fn canary_next(app: &AppName, deploy: &DeployReport) -> Markup {
    html! {
        @if deploy.canary.is_none() && deploy.next_canary.is_none() && deploy.strategy != Strategy::Canary {
            (opener("canary-next", "Canary next", ""))
            (dialog("canary-next", "Try the next deploy", &format!("{}/share", back(app)), "Set", &html! {
                p { "The next push, config change or rollback gets a share of the requests only, until it is promoted or aborted." }
                label for="canary-percent" { "Percent of the requests" }
                input #canary-percent name="percent" type="number" min="1" max="99" required value=(deploy.canary_percent);
            }))
        }
    }
}

/// The newest build, if it failed and nothing was deployed since.
fn failed_last<'a>(builds: &'a [BuildInfo], releases: &[Listed]) -> Option<&'a BuildInfo> {
    let build = builds.first().filter(|build| build.status == BuildStatus::Failed)?;
    let ended = build.finished_ms.unwrap_or(build.started_ms);
    let newer = releases.iter().any(|release| release.outcome != "failed" && release.created_ms > ended);
    (!newer).then_some(build)
}

fn under_way(app: &AppName, build: &BuildInfo) -> Markup {
    html! {
        div.now-item id={ "now-" (build.id) } {
            (state(build.status.as_str()))
            span { "Build " a href=(href(app, build)) { (short(build)) } " of " code { (build.source) } " by " (build.by) ", begun " (moment(build.started_ms)) }
            span.actions { a.button href=(href(app, build)) { "Show its output" } (cancel(app, build)) }
        }
    }
}

fn on_trial(app: &AppName, canary: &CanaryInfo) -> Markup {
    let at = |what: &str| format!("{}/{what}", back(app));
    let release = canary.release;
    html! {
        div.now-item #canary {
            (state("canary"))
            span {
                a href={ "/ui/apps/" (app) "/releases/" (release.0) } { (release) } " is on trial with " b { (canary.percent) " %" } " of the requests, "
                (count(canary.containers as usize, "container", "containers")) ", since " (moment(canary.since_ms)) ". "
                "Last minute: " (canary.requests) " answers, "
                span class=(if canary.errors > 0 { "bad-words" } else { "" }) { (percent(canary.errors, canary.requests)) " failed" } "."
            }
            span.actions {
                (opener("promote", "Promote", "primary"))
                (opener("share", "Change its share", ""))
                (opener("abort", "Abort", ""))
            }
        }
        (dialog("promote", &format!("Promote {release}"), &at("promote"), "Promote", &html! {
            p { (release) " gets all requests, and the release that serves now ends." }
        }))
        (dialog("abort", &format!("Abort the trial of {release}"), &at("abort"), "Abort it", &html! {
            p { "Its containers end, and the release that serves now gets all requests again." }
        }))
        (dialog("share", &format!("Share of {release}"), &at("share"), "Change", &html! {
            label for="share-percent" { "Percent of the requests" }
            input #share-percent name="percent" type="number" min="1" max="99" required value=(canary.percent);
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::BuildId;

    fn build(status: BuildStatus, finished_ms: i64) -> BuildInfo {
        BuildInfo {
            id: BuildId::parse("1-a").expect("an id"),
            status,
            source: String::new(),
            git_rev: None,
            by: String::new(),
            started_ms: 1,
            finished_ms: Some(finished_ms),
            builder: None,
            image: None,
            release: None,
            reason: None,
        }
    }

    fn release(outcome: &str, created_ms: i64) -> Listed {
        let made = serde_json::json!({ "version": 1, "description": "", "by": "", "created_ms": created_ms, "outcome": outcome,
            "reason": null, "current": false, "git_rev": null, "image": "", "config_names": [], "processes": {} });
        serde_json::from_value(made).expect("a release")
    }

    #[test]
    fn a_failed_build_is_told_until_something_was_deployed_since() {
        let failed = [build(BuildStatus::Failed, 10)];
        assert!(failed_last(&failed, &[]).is_some());
        assert!(failed_last(&failed, &[release("live", 5)]).is_some());
        assert!(failed_last(&failed, &[release("failed", 11)]).is_some());
        assert!(failed_last(&failed, &[release("live", 11)]).is_none());
        assert!(failed_last(&[build(BuildStatus::Canceled, 10)], &[]).is_none());
    }
}
