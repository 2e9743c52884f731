//! What an app runs beside its processes: tasks by the clock, and commands that run once.

mod run;

use super::app::header;
use crate::Ui;
use crate::action::Fields;
use crate::page::{button, command, dialog, empty, opener};
use crate::session::Visitor;
use crate::show::{duration, moment, part, state};
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::http::Method;
use axum::response::Response;
use axum::routing::{get, post};
use berth_model::AppName;
use berth_model::cron::{CronInfo, CronTaskInfo, PatchCron, words};
use berth_model::run::{DEFAULT_TTL_SECS, DetachedRequest, RunInfo, RunKind};
use maud::{Markup, html};
use serde_json::json;
use std::collections::BTreeMap;

/// Runs that are shown of each list, the newest.
const SHOWN: usize = 50;
/// The longest a detached run may take: seconds, words.
const LIMITS: [(u32, &str); 5] = [
    (600, "10 minutes"),
    (3600, "1 hour"),
    (8 * 3600, "8 hours"),
    (DEFAULT_TTL_SECS, "1 day"),
    (7 * DEFAULT_TTL_SECS, "7 days"),
];

pub(crate) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/apps/{app}/jobs", get(list).post(begin))
        .route("/ui/apps/{app}/jobs/cron", post(set))
        .route("/ui/apps/{app}/jobs/cron/{task}/run", post(run_now))
        .route("/ui/apps/{app}/jobs/cron/{task}/rest", post(rest))
        .route("/ui/apps/{app}/jobs/forget", post(forget))
        .merge(run::router())
}

/// A command line as the API takes it. What only a shell understands is one word: the API gives that to one.
pub(super) fn argv_of(line: &str) -> Vec<String> {
    let whole = || vec![line.to_owned()];
    if line
        .contains(['|', '&', ';', '<', '>', '(', ')', '$', '`', '*', '?', '[', '{', '~', '#', '!', '=', '\n'])
    {
        return whole();
    }
    words(line).ok().filter(|words| !words.is_empty()).unwrap_or_else(whole)
}

/// The address of the page.
fn back(app: &AppName) -> String {
    format!("/ui/apps/{app}/jobs")
}

async fn list(visitor: Visitor, Path(app): Path<AppName>) -> Response {
    let title = format!("{app}: jobs");
    visitor.show_of(&title, app, view).await
}

async fn view(visitor: &Visitor, app: &AppName) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let ((info, head), cron, runs) = tokio::try_join!(
        header(visitor, app),
        async { Ok(api.get::<CronInfo>(&format!("/v1/apps/{app}/cron")).await?) },
        async { Ok(api.get::<Vec<RunInfo>>(&format!("/v1/apps/{app}/runs?all=true")).await?) },
    )?;
    Ok(html! { (head) (jobs(app, info.release.is_some(), &cron, &runs)) })
}

fn jobs(app: &AppName, is_deployed: bool, cron: &CronInfo, runs: &[RunInfo]) -> Markup {
    let (of_cron, once): (Vec<_>, Vec<_>) = runs.iter().rev().partition(|run| run.kind == RunKind::Cron);
    let can_forget = once.iter().any(|run| run.detached && run.kind == RunKind::Run && !run.is_live());
    html! {
        section aria-labelledby="cron" {
            div.heading {
                h2 #cron { "By the clock" }
                div.actions { (opener("cron-settings", "Settings", "")) }
            }
            @if let Some(by) = &cron.maintenance {
                p.notice { "No task runs: " @if by == "app" { "the whole app's cron rests (see Settings)." } @else { "cron rests on the whole platform." } }
            }
            @if cron.tasks.is_empty() { (no_tasks()) } @else { (tasks(app, cron)) }
        }
        @if !of_cron.is_empty() {
            section aria-labelledby="history" {
                div.heading { h2 #history { "Past runs of tasks" } }
                (table(app, "history", &of_cron, cron))
            }
        }
        section aria-labelledby="once" {
            div.heading {
                h2 #once { "Commands that run once" }
                div.actions {
                    @if can_forget { (opener("forget-runs", "Forget what ended", "")) }
                    @if is_deployed { (opener("begin-run", "Run a command", "primary")) }
                }
            }
            @if !is_deployed { (empty("Nothing was deployed yet, so there is nothing to run a command in.", &html! {})) }
            @else if once.is_empty() {
                (empty("Nothing ran lately: a migration, an import, whatever is done once.", &command(&format!("berth run:detached {app} COMMAND"))))
            } @else { (table(app, "once", &once, cron)) }
        }
        (begin_dialog(app))
        (settings_dialog(app, cron))
        (dialog("forget-runs", "Forget what ended", &format!("/ui/apps/{app}/jobs/forget"), "Forget", &html! {
            p { "Detached runs that are over leave this list, and what they wrote is removed." }
        }))
    }
}

fn no_tasks() -> Markup {
    let example = r#"{ "cron": [ { "command": "python clean.py", "schedule": "0 3 * * *" } ] }"#;
    empty(
        "No command runs by the clock. Tasks come with the code: put this in app.json, and push.",
        &html! { div.left { (command(example)) } },
    )
}

fn tasks(app: &AppName, cron: &CronInfo) -> Markup {
    html! {
        p.summary { "Times are in " b { (cron.timezone) } ". A run ends at the latest after " (duration(u64::from(cron.ttl_secs))) "." }
        div.wide { table.cards {
            thead { tr {
                th scope="col" { "Command" } th scope="col" { "Schedule" } th scope="col" { "Next" } th scope="col" { "Last run" }
                th scope="col" { "If it still runs" } th scope="col" { span.hidden { "Actions" } }
            } }
            tbody { @for task in &cron.tasks { (task_row(app, task)) } }
        } }
    }
}

fn task_row(app: &AppName, CronTaskInfo { task, suspended, next_ms, last }: &CronTaskInfo) -> Markup {
    let action = |what: &str| format!("/ui/apps/{app}/jobs/cron/{}/{what}", part(&task.id));
    html! {
        tr id={ "task-" (task.id) } {
            th.line scope="row" { code { (task.command) } }
            td.whole data-label="Schedule" { code { (task.schedule) } }
            td data-label="Next" { @match (suspended, next_ms) {
                (true, _) => (state("suspended")),
                (false, Some(at)) => (moment(*at)),
                (false, None) => "never",
            } }
            td data-label="Last run" { @match last {
                Some(run) => { (state(run.status.as_str())) " " a href={ "/ui/apps/" (app) "/runs/" (part(&run.name)) } { (moment(run.ended_ms.unwrap_or(run.created_ms))) } },
                None => span.dim { "none yet" },
            } }
            td data-label="If it still runs" { (match task.concurrency.as_str() {
                "forbid" => "left out",
                "replace" => "the old one is stopped",
                _ => "both run",
            }) }
            td.row-actions {
                (button(&action("run"), "Run now", "link", &[]))
                @if *suspended { (button(&action("rest"), "Resume", "link", &[("suspended", "false")])) }
                @else { (button(&action("rest"), "Suspend", "link", &[("suspended", "true")])) }
            }
        }
    }
}

/// Runs, the newest first.
fn table(app: &AppName, id: &str, runs: &[&RunInfo], cron: &CronInfo) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr {
                th scope="col" { "Command" } th scope="col" { "State" } th scope="col" { "When" } th.n scope="col" { "Took" }
                th scope="col" { "Asked for by" } th scope="col" { span.hidden { "Actions" } }
            } }
            tbody { @for run in runs.iter().take(SHOWN) { (row(app, id, run, cron)) } }
        } }
        @if runs.len() > SHOWN { p.hint { "The newest " (SHOWN) " of " (runs.len()) " that are kept. All of them: " code { "berth " (if id == "history" { "cron:history" } else { "run:list" }) " " (app) (if id == "history" { "" } else { " --all" }) } } }
    }
}

fn row(app: &AppName, id: &str, run: &RunInfo, cron: &CronInfo) -> Markup {
    let due = run.cron.as_ref().and_then(|cause| cause.due_ms);
    let zone = due.map(|_| cron.timezone.as_str());
    html! {
        tr id={ (id) "-" (run.name) } {
            th.line scope="row" {
                a href={ "/ui/apps/" (app) "/runs/" (part(&run.name)) } { code { (run.command) } }
                @if !matches!(run.kind, RunKind::Run | RunKind::Cron) { " " span.dim { (run.kind.as_str()) } }
            }
            td { (state(run.status.as_str())) (end_of(run)) }
            td data-label="When" title=[zone] { (moment(due.unwrap_or(run.created_ms))) }
            td.n data-label="Took" { (took(run).map_or_else(|| "–".to_owned(), duration)) }
            td data-label="By" { @if due.is_some() { "the clock" } @else { (run.by) } }
            td.row-actions { @if run.is_live() { (button(&run::stop_action(app, run), "Stop", "link bad", &[])) } }
        }
    }
}

/// Exit code and reason, where the state does not say it all.
fn end_of(run: &RunInfo) -> Markup {
    let times = run.cron.as_ref().map_or(1, |cause| cause.times);
    html! {
        @if let Some(code) = run.exit_code.filter(|code| *code != 0) { " " span.dim { "code " (code) } }
        @if let Some(reason) = &run.reason { " " span.dim { (reason) } }
        @if times > 1 { " " span.dim { (times) " times" } }
    }
}

/// How long it took, in seconds; of one that runs it is not said, for it changes all the time.
fn took(run: &RunInfo) -> Option<u64> {
    let (started, ended) = (run.started_ms?, run.ended_ms?);
    u64::try_from((ended - started) / 1000).ok()
}

fn begin_dialog(app: &AppName) -> Markup {
    dialog(
        "begin-run",
        "Run a command",
        &back(app),
        "Run",
        &html! {
            label for="run-command" { "Command" }
            input #run-command name="command" required maxlength="4096" autocomplete="off" spellcheck="false" autocapitalize="off";
            p.hint { "In a new container of the release that serves, with the app's variables. A line for the shell, or the name of a process type." }
            label for="run-limit" { "At the latest it ends after" }
            select #run-limit name="seconds" {
                @for (seconds, words) in LIMITS { option value=(seconds) selected[seconds == 3600] { (words) } }
            }
            p.hint { "To type into it, use the " a href={ "/ui/apps/" (app) "/terminal" } { "terminal" } "." }
        },
    )
}

fn settings_dialog(app: &AppName, cron: &CronInfo) -> Markup {
    let own_zone = (cron.timezone_from == "app").then_some(cron.timezone.as_str());
    dialog(
        "cron-settings",
        "Cron settings",
        &format!("/ui/apps/{app}/jobs/cron"),
        "Save",
        &html! {
            label for="cron-zone" { "Time zone" }
            input #cron-zone name="timezone" value=[own_zone] placeholder=(if own_zone.is_some() { "the platform's" } else { &cron.timezone }) autocomplete="off" spellcheck="false";
            p.hint { "A name such as Europe/Berlin; empty for the platform's." }
            label for="cron-limit" { "The longest a run may take, in seconds" }
            input #cron-limit name="seconds" type="number" min="1" max="2592000" value=(cron.ttl_secs);
            label.check { input type="checkbox" name="maintenance" checked[cron.maintenance.as_deref() == Some("app")]; "No task runs (maintenance)" }
        },
    )
}

async fn begin(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let body = fields.parsed::<u32>("seconds", "number of seconds").map(|seconds| DetachedRequest {
        argv: argv_of(fields.text("command")),
        ttl_secs: Some(seconds),
        ..DetachedRequest::default()
    });
    match body {
        Ok(body) => {
            fields
                .act(&visitor, Method::POST, &format!("/v1/apps/{app}/runs"), Some(&body), &back(&app))
                .await
        }
        Err(trouble) => fields.refuse(&trouble),
    }
}

async fn set(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    match settings(&fields) {
        Ok(body) => {
            fields
                .act(&visitor, Method::PATCH, &format!("/v1/apps/{app}/cron"), Some(&body), &back(&app))
                .await
        }
        Err(trouble) => fields.refuse(&trouble),
    }
}

fn settings(fields: &Fields) -> Result<PatchCron, Trouble> {
    let seconds = match fields.text("seconds") {
        "" => 0,
        _ => fields.parsed("seconds", "number of seconds")?,
    };
    Ok(PatchCron {
        maintenance: Some(fields.is_on("maintenance")),
        timezone: Some(fields.text("timezone").to_owned()),
        ttl_secs: Some(seconds),
        suspended: BTreeMap::new(),
    })
}

async fn run_now(visitor: Visitor, Path((app, task)): Path<(AppName, String)>, fields: Fields) -> Response {
    let path = format!("/v1/apps/{app}/cron/{}/run", part(&task));
    fields.act(&visitor, Method::POST, &path, Some(&json!({})), &back(&app)).await
}

async fn rest(visitor: Visitor, Path((app, task)): Path<(AppName, String)>, fields: Fields) -> Response {
    let suspended = BTreeMap::from([(task, fields.text("suspended") == "true")]);
    let body = PatchCron { suspended, ..PatchCron::default() };
    fields.act(&visitor, Method::PATCH, &format!("/v1/apps/{app}/cron"), Some(&body), &back(&app)).await
}

async fn forget(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    fields
        .act(&visitor, Method::POST, &format!("/v1/apps/{app}/runs/retire"), Some(&json!({})), &back(&app))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_word_where_a_shell_is_needed() {
        assert_eq!(argv_of("rake 'db seed' -v"), ["rake", "db seed", "-v"]);
        for line in ["a | b", "echo $X", "A=1 b", "ls 'x", ""] {
            assert_eq!(argv_of(line), [line]);
        }
    }
}
