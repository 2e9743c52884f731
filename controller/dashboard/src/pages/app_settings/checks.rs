//! Health checks: what containers are checked with, which types are not, and how it goes now.

use super::super::forms::{choice, fact, fragment, needed};
use super::{act, back};
use crate::action::Fields;
use crate::page::{dialog, opener};
use crate::session::Visitor;
use crate::show::state;
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::check::Check;
use berth_model::deploy::{
    ALL_TYPES, CheckResult, ChecksMode, ChecksReport, PatchChecks, PatchDeploy, RunChecks,
};
use berth_model::{AppName, ProcessType};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

const MODES: [(&str, &str); 3] = [
    ("enable", "Check them"),
    ("skip", "Do not: new ones serve as soon as they run"),
    ("disable", "Do not, and stop old ones before new ones start"),
];

/// The section of the page.
pub(super) fn section(app: &AppName, report: &ChecksReport, types: &BTreeSet<ProcessType>) -> Markup {
    let mut options = vec![("", "all types")];
    options.extend(types.iter().map(|one| (one.as_str(), one.as_str())));
    let list = |text: &str| if text == ALL_TYPES { "all types".to_owned() } else { text.to_owned() };
    let action = format!("{}/checks", back(app));
    html! {
        section aria-labelledby="checks" {
            div.heading {
                h2 #checks { "Checks" }
                div.actions {
                    form.inline { button type="button" data-asks={ (action) "/run" } data-into="checks-now" data-sends { "Check now" } }
                    (opener("checks-mode", "Turn on or off", ""))
                    (opener("checks-retire", "Time to finish", ""))
                }
            }
            dl.facts {
                (fact("Not checked", &html! { (list(&report.skipped)) }))
                (fact("Not checked, old ones stop first", &html! { (list(&report.disabled)) }))
                (fact("Old ones may finish what they have in", &html! { (report.wait_to_retire_secs) " s" }))
            }
            div #checks-now data-keep role="status" {}
            @if report.checks.values().all(Vec::is_empty) { p.dim { "Nothing is checked. Checks come from " code { "app.json" } ", a " code { "CHECKS" } " file or the image." } }
            @else { (table(&report.checks)) }
            (dialog("checks-mode", "Checks of process types", &action, "Set", &html! {
                (choice("checks-process", "process", "Which", &options, ""))
                (choice("checks-how", "mode", "How", &MODES, "enable"))
                p.hint { "From the next deploy on." }
            }))
            (dialog("checks-retire", "Time to finish", &format!("{action}/retire"), "Set", &html! {
                (needed("checks-secs", "seconds", "Seconds", &report.wait_to_retire_secs.to_string(), "0 to 3600: how long old containers may go on with what they have in flight after a deploy."))
            }))
        }
    }
}

fn table(checks: &BTreeMap<ProcessType, Vec<Check>>) -> Markup {
    html! {
        div.wide.below { table.cards {
            thead { tr {
                th scope="col" { "Process type" } th scope="col" { "When" } th scope="col" { "Check" } th scope="col" { "What" }
                th.n scope="col" { "Tries" } th.n scope="col" { "Longest" } th.n scope="col" { "Between" }
            } }
            tbody { @for (process, all) in checks { @for check in all {
                tr {
                    th scope="row" { (process) }
                    td data-label="When" { (check.kind.as_str()) }
                    td data-label="Check" { (check.name) }
                    td data-label="What" { (check.probe) @if check.warn_only { span.dim { ", warns only" } } }
                    td.n data-label="Tries" { (check.attempts) }
                    td.n data-label="Longest" { (check.timeout_secs) " s" }
                    td.n data-label="Between" { (check.wait_secs) " s" }
                }
            } } }
        } }
    }
}

/// Turns checks of types on or off.
pub(super) async fn set(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let wanted = || -> Result<PatchChecks, Trouble> {
        let mode = match fields.text("mode") {
            "enable" => ChecksMode::Enable,
            "skip" => ChecksMode::Skip,
            "disable" => ChecksMode::Disable,
            other => return Err(Trouble::invalid(format!("{other:?} is no way to check"))),
        };
        let process = fields.some("process").map(|text| ProcessType::parse(&text)).transpose();
        let types = process.map_err(|error| Trouble::invalid(error.to_string()))?.into_iter().collect();
        Ok(PatchChecks { mode, types })
    };
    act(&visitor, &fields, (Method::PATCH, &format!("/v1/apps/{app}/checks")), wanted(), &back(&app)).await
}

/// Sets how long old containers may finish.
pub(super) async fn retire(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let values = BTreeMap::from([("wait-to-retire".to_owned(), fields.text("seconds").to_owned())]);
    let path = format!("/v1/apps/{app}/deploy");
    fields.act(&visitor, Method::PATCH, &path, Some(&PatchDeploy { values }), &back(&app)).await
}

/// Makes the checks once, now, and shows how they went, for the page's script.
pub(super) async fn run(visitor: Visitor, Path(app): Path<AppName>) -> Response {
    let path = format!("/v1/apps/{app}/checks/run");
    let went = visitor.api.json::<Vec<CheckResult>>(Method::POST, &path, Some(&RunChecks::default())).await;
    fragment(match went {
        Ok(all) if all.is_empty() => html! { p.dim { "Nothing runs that could be checked." } },
        Ok(all) => results(&all),
        Err(error) => html! { p.wrong { (Trouble::from(error).message()) } },
    })
}

fn results(all: &[CheckResult]) -> Markup {
    html! {
        h3 { "Just now" }
        ul.list { @for one in all { li {
            @match (&one.failure, one.warn_only) {
                (None, _) => (state("ok")),
                (Some(_), true) => (state("degraded")),
                (Some(_), false) => (state("failed")),
            }
            " " b { (one.container) } " " (one.check) @if let Some(why) = &one.failure { ": " (why) }
        } } }
    }
}
