//! How a new release takes the place of the old one, and how it is watched: from the next deploy on.

use super::super::forms::{choice, fact, line};
use super::{act, back};
use crate::action::Fields;
use crate::page::{dialog, opener};
use crate::session::Visitor;
use crate::show::duration;
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::AppName;
use berth_model::deploy::{DeployReport, PatchDeploy, Strategy, Volumes};
use maud::{Markup, html};
use std::collections::BTreeMap;

const STRATEGIES: [(&str, &str); 3] = [
    ("rolling", "Rolling: new ones serve when all are ready, in batches if app.json says so"),
    ("blue-green", "Blue/green: the same, and the old ones are kept for a quick way back"),
    ("canary", "Canary: new ones get a share of the requests until they are promoted"),
];
const ROLLBACKS: [(&str, &str); 2] =
    [("true", "It is taken back by itself"), ("false", "Nothing: it stays until somebody acts")];
const VOLUMES: [(&str, &str); 2] = [
    ("overlap", "Old and new containers have them side by side for a moment"),
    ("stop-first", "Old containers stop before new ones start"),
];

/// The fields of the form as `deploy:set` and `ps:set` call them, with what holds now.
fn values(report: &DeployReport) -> [(&'static str, String); 7] {
    let volumes = match report.volumes {
        Volumes::Overlap => "overlap",
        Volumes::StopFirst => "stop-first",
    };
    let ratio = report.rollback_error_percent.map_or("off".to_owned(), |percent| percent.to_string());
    [
        ("strategy", report.strategy.name().to_owned()),
        ("canary-percent", report.canary_percent.to_string()),
        ("parallel-schedule-count", report.parallel_schedule_count.to_string()),
        ("auto-rollback", report.auto_rollback.to_string()),
        ("rollback-window", report.rollback_window_secs.to_string()),
        ("rollback-error-ratio", ratio),
        ("volumes", volumes.to_owned()),
    ]
}

/// The section of the page.
pub(super) fn section(report: &DeployReport) -> Markup {
    let action = format!("{}/deploys", back(&report.app));
    html! {
        section aria-labelledby="deploys" {
            div.heading { h2 #deploys { "Deploys" } div.actions { (opener("deploys-how", "Change", "")) } }
            dl.facts {
                (fact("New releases", &html! { (strategy(report)) }))
                (fact("Process types that start at once", &html! { (report.parallel_schedule_count) }))
                (fact("A release that goes bad", &html! { (watched(report)) }))
                (fact("Volumes that are written to", &html! { @match report.volumes {
                    Volumes::Overlap => "old and new containers have them side by side for a moment",
                    Volumes::StopFirst => "old containers stop before new ones start",
                } }))
            }
            (dialog("deploys-how", "Deploys", &action, "Set", &fields(report)))
        }
    }
}

fn strategy(report: &DeployReport) -> String {
    match report.strategy {
        Strategy::Rolling => "rolling: they serve when all their containers are ready".to_owned(),
        Strategy::BlueGreen => "blue/green: the old containers are kept for a quick way back".to_owned(),
        Strategy::Canary => {
            format!("canaries with {} % of the requests, until they are promoted", report.canary_percent)
        }
    }
}

fn watched(report: &DeployReport) -> String {
    if !report.auto_rollback {
        return "stays: nobody looks".to_owned();
    }
    let window = duration(report.rollback_window_secs.into());
    match report.rollback_error_percent {
        Some(percent) => format!(
            "is taken back by itself within {window}: when containers end or {percent} % of the answers are errors"
        ),
        None => format!("is taken back by itself within {window}: when containers end"),
    }
}

fn fields(report: &DeployReport) -> Markup {
    let now: BTreeMap<&str, String> = values(report).into();
    let of = |key: &str| now.get(key).map_or("", String::as_str);
    html! {
        (choice("deploys-strategy", "strategy", "New releases", &STRATEGIES, of("strategy")))
        (line("deploys-canary", "canary-percent", "Share of a canary, in percent", of("canary-percent"), "1 to 99 of the requests."))
        (line("deploys-types", "parallel-schedule-count", "Process types that start at once", of("parallel-schedule-count"), "1 to 100; with 1, web goes first. How many containers of a type is max_parallel in app.json."))
        fieldset { legend { "A release that goes bad" }
            (choice("deploys-back", "auto-rollback", "What happens", &ROLLBACKS, of("auto-rollback")))
            (line("deploys-window", "rollback-window", "Watched for, in seconds", of("rollback-window"), "10s to 24h, such as 300 or 5m."))
            (line("deploys-errors", "rollback-error-ratio", "Share of errors, in percent", of("rollback-error-ratio"), "1 to 100 of the answers of a minute; off: only containers that end count."))
        }
        (choice("deploys-volumes", "volumes", "Volumes that are written to", &VOLUMES, of("volumes")))
        p.hint { "From the next deploy on." }
    }
}

/// What the form changes: what is as it was is not pinned down.
fn patch(report: &DeployReport, typed: impl Fn(&str) -> String) -> PatchDeploy {
    let typed = values(report).into_iter().map(|(key, now)| (key, now, typed(key)));
    let changed = typed.filter(|(_, now, typed)| now != typed);
    PatchDeploy { values: changed.map(|(key, _, typed)| (key.to_owned(), typed)).collect() }
}

/// Sets what was changed.
pub(super) async fn set(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let path = format!("/v1/apps/{app}/deploy");
    let report = visitor.api.get::<DeployReport>(&path).await.map_err(Trouble::from);
    match report.map(|report| patch(&report, |key| fields.text(key).to_owned())) {
        Ok(patch) if patch.values.is_empty() => fields.done(&back(&app)),
        wanted => act(&visitor, &fields, (Method::PATCH, &path), wanted, &back(&app)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_changed_is_sent() {
        let report = serde_json::json!({ "app": "shop", "strategy": "rolling", "canary_percent": 10, "next_canary": null,
            "auto_rollback": true, "rollback_window_secs": 300, "rollback_error_percent": null, "volumes": "overlap",
            "wait_to_retire_secs": 60, "parallel_schedule_count": 1, "under_way": null, "release": null, "canary": null,
            "watched_until_ms": null, "back_to": null, "kept": 0, "kept_until_ms": null });
        let report: DeployReport = serde_json::from_value(report).expect("a report");
        let now: BTreeMap<&str, String> = values(&report).into();
        assert_eq!(now["rollback-error-ratio"], "off");
        let sent = |changed: &[(&str, &str)]| {
            let changed: BTreeMap<_, _> = changed.iter().copied().collect();
            let typed = |key: &str| changed.get(key).map_or(now[key].clone(), |text| (*text).to_owned());
            patch(&report, typed).values
        };
        assert!(sent(&[]).is_empty());
        let wanted = [("strategy", "canary"), ("rollback-window", "")];
        assert_eq!(sent(&wanted), wanted.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
}
