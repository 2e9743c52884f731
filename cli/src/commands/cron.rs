//! `cron:*`: commands run by the clock: when, whether, what became of them.
//!
//! In: a task's id, a run's name, a setting. Out: tables, a report, the output and exit code of a run.

use super::runs::{code, lines_option, logs, run_name, took};
use super::{not_here, runs};
use crate::args::{command, option, report, switch};
use crate::context::{Context, arguments, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, time, warning};
use crate::report::Report;
use berth_model::AppName;
use berth_model::container::{LogLine, LogStream};
use berth_model::cron::{CronInfo, CronTaskInfo, GlobalCron, PatchCron};
use berth_model::run::{RunInfo, RunStatus};
use clap::{ArgMatches, Command};
use http::Method;
use std::collections::BTreeMap;
use std::io::Write;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("cron:list", "List an app's tasks and when they run next", "[<app>]", &["cron:list hello"])
            .visible_alias("cron"),
        report("cron:report", "Show an app's cron settings", "[<app>] [--KEY]", &["cron:report hello"]),
        command(
            "cron:run",
            "Run a task now; its exit code is the command's",
            "[<app>] ID [--detach]",
            &["cron:run hello 1a2b3c4d", "cron:run hello 1a2b3c4d --detach"],
        )
        .arg(switch("detach", "Do not wait; print the run's name only")),
        command("cron:suspend", "Let a task rest", "[<app>] ID", &["cron:suspend hello 1a2b3c4d"]),
        command("cron:resume", "Let a task run again", "[<app>] ID", &["cron:resume hello 1a2b3c4d"]),
        command(
            "cron:set",
            "Set maintenance, timezone or ttl-seconds; without a value, reset it",
            "[<app>|--global] KEY [VALUE]",
            &[
                "cron:set hello maintenance true",
                "cron:set hello timezone Europe/Berlin",
                "cron:set --global timezone",
            ],
        )
        .arg(switch("global", "For all apps")),
        command(
            "cron:history",
            "List runs of an app's tasks, newest last",
            "[<app>] [ID] [-n COUNT]",
            &["cron:history hello", "cron:history hello 1a2b3c4d"],
        )
        .arg(
            option("num", "COUNT", "At most so many [default: 50]")
                .short('n')
                .value_parser(clap::value_parser!(u32).range(1..=10_000)),
        ),
        command(
            "cron:logs",
            "Show what a run wrote: by its name, or the newest of a task",
            "[<app>] [RUN|ID] [-t] [-n COUNT]",
            &["cron:logs hello", "cron:logs hello cron.1234", "cron:logs hello 1a2b3c4d -t"],
        )
        .arg(switch("tail", "Go on until it ends").short('t'))
        .arg(lines_option()),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "cron:list" => list(context, matches).await,
        "cron:report" => show(context, matches).await,
        "cron:run" => run_now(context, matches).await,
        "cron:suspend" => rest(context, matches, true).await,
        "cron:resume" => rest(context, matches, false).await,
        "cron:set" => set(context, matches).await,
        "cron:history" => history(context, matches).await,
        "cron:logs" => of_run(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn info(context: &Context, app: &AppName) -> Result<CronInfo> {
    context.get(&format!("/v1/apps/{app}/cron")).await
}

fn next(task: &CronTaskInfo) -> String {
    match (task.suspended, task.next_ms) {
        (true, _) => "suspended".to_owned(),
        (false, Some(ms)) => time(ms),
        (false, None) => "never".to_owned(),
    }
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let info = info(context, &app).await?;
    if context.out.json {
        return context.out.json(&info.tasks);
    }
    context.out.header(&format!("{app} cron tasks"))?;
    let row = |task: &CronTaskInfo| {
        let last = task.last.as_ref().map_or("-", |run| run.status.as_str());
        vec![
            task.task.id.clone(),
            task.task.schedule.clone(),
            next(task),
            task.task.concurrency.as_str().to_owned(),
            last.to_owned(),
            task.task.command.clone(),
        ]
    };
    let rows: Vec<_> = info.tasks.iter().map(row).collect();
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let info = info(context, &app).await?;
    let field = matches.get_one::<String>("field").map(String::as_str);
    if context.out.json && field.is_none() {
        return context.out.json(&info);
    }
    let resting = info.tasks.iter().filter(|task| task.suspended).count();
    let next = info.tasks.iter().filter_map(|task| task.next_ms).min();
    Report::new(app.as_str(), "cron")
        .row(
            "Cron maintenance",
            info.maintenance.as_deref().map_or("false".to_owned(), |by| format!("true ({by})")),
        )
        .row("Cron timezone", format!("{} ({})", info.timezone, info.timezone_from))
        .row("Cron ttl seconds", info.ttl_secs.to_string())
        .row("Cron task count", info.tasks.len().to_string())
        .row("Cron suspended count", resting.to_string())
        .row("Cron next", next.map(time).unwrap_or_default())
        .show(context.out, field)
}

/// The app, and the id of a task as part of a path.
async fn task(context: &Context, matches: &ArgMatches) -> Result<(AppName, String)> {
    let (app, rest) = context.app(matches, true).await?;
    let id = exactly_one(rest, &format!("the task's id (see berth cron:list {app})"))?;
    Ok((app.clone(), task_id(&app, &id)?))
}

fn task_id(app: &AppName, id: &str) -> Result<String> {
    if !id.is_empty() && id.len() <= 32 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Ok(id.to_owned());
    }
    let shown: String = id.chars().take(80).collect();
    Err(CliError::Misuse(format!("{shown:?} is no cron task; see them with: berth cron:list {app}")))
}

async fn run_now(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, id) = task(context, matches).await?;
    let run: RunInfo = context.json(Method::POST, &format!("/v1/apps/{app}/cron/{id}/run"), &()).await?;
    if matches.get_flag("detach") {
        return if context.out.json { context.out.json(&run) } else { context.out.line(&run.name) };
    }
    let name = &run.name;
    let mut lines =
        context.lines(&format!("/v1/apps/{app}/runs/{name}/logs?lines=100000&follow=true")).await?;
    while let Some(line) = lines.next::<LogLine>().await? {
        let text = format!("{}\n", line.text);
        match line.stream {
            LogStream::Stdout => context.out.raw(text.as_bytes())?,
            LogStream::Stderr => {
                let _ = std::io::stderr().lock().write_all(text.as_bytes());
            }
            LogStream::Berth => {}
        }
    }
    let run: RunInfo = context.get(&format!("/v1/apps/{app}/runs/{name}")).await?;
    if run.is_live() {
        return Err(CliError::Failed(format!(
            "its output broke off, but it runs on: berth cron:logs {app} {name} -t"
        )));
    }
    if let Some(reason) = &run.reason {
        warning(&format!("{name} {}: {reason}", run.status.as_str()));
    }
    match run.exit_code {
        Some(0) => Ok(()),
        Some(code) => Err(CliError::Exit(u8::try_from(code & 0xff).unwrap_or(1).max(1))),
        None => Err(CliError::Exit(1)),
    }
}

async fn rest(context: &Context, matches: &ArgMatches, suspended: bool) -> Result<()> {
    let (app, id) = task(context, matches).await?;
    let patch = PatchCron { suspended: BTreeMap::from([(id.clone(), suspended)]), ..PatchCron::default() };
    let info: CronInfo = context.json(Method::PATCH, &format!("/v1/apps/{app}/cron"), &patch).await?;
    if context.out.json {
        return context.out.json(&info);
    }
    context
        .out
        .step(&format!("{} cron task {id} of {app}", if suspended { "Suspended" } else { "Resumed" }))?;
    match &info.maintenance {
        Some(by) if !suspended => {
            let whose = if by == "app" { app.to_string() } else { "--global".to_owned() };
            warning(&format!("cron rests all the same: berth cron:set {whose} maintenance false"));
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn set(context: &Context, matches: &ArgMatches) -> Result<()> {
    let global = matches.get_flag("global");
    let (app, rest) = if global {
        if context.named_app().is_some() {
            return Err(CliError::Misuse("name an app or give --global, not both".into()));
        }
        (None, arguments(matches))
    } else {
        let (app, rest) = context.app(matches, true).await?;
        (Some(app), rest)
    };
    let (key, value) = match &rest[..] {
        [] => return Err(CliError::Misuse("what is to be set? maintenance, timezone or ttl-seconds".into())),
        [key] => (key.as_str(), ""),
        [key, value] => (key.as_str(), value.as_str()),
        [_, _, more, ..] => return Err(CliError::Misuse(format!("{more:?} is one argument too many"))),
    };
    let patch = setting(key, value)?;
    let (whose, path) = match &app {
        Some(app) => (app.to_string(), format!("/v1/apps/{app}/cron")),
        None => ("all apps".to_owned(), "/v1/cron".to_owned()),
    };
    if app.is_some() {
        let info: CronInfo = context.json(Method::PATCH, &path, &patch).await?;
        if context.out.json {
            return context.out.json(&info);
        }
    } else {
        let info: GlobalCron = context.json(Method::PATCH, &path, &patch).await?;
        if context.out.json {
            return context.out.json(&info);
        }
    }
    let how = if value.is_empty() { format!("Unsetting {key}") } else { format!("Setting {key} to {value}") };
    context.out.step(&format!("{how} for cron of {whose}"))
}

fn setting(key: &str, value: &str) -> Result<PatchCron> {
    let mut patch = PatchCron::default();
    match key {
        "maintenance" => {
            patch.maintenance = Some(match value {
                "true" | "on" | "yes" | "1" => true,
                "false" | "off" | "no" | "0" | "" => false,
                _ => return Err(CliError::Misuse(format!("maintenance is true or false, not {value:?}"))),
            });
        }
        "timezone" => patch.timezone = Some(value.to_owned()),
        "ttl-seconds" => {
            let secs = if value.is_empty() { Some(0) } else { value.parse().ok().filter(|secs| *secs > 0) };
            patch.ttl_secs = Some(secs.ok_or_else(|| {
                CliError::Misuse(format!("ttl-seconds is a number of seconds from 1, not {value:?}"))
            })?);
        }
        "mailto" | "mailfrom" => {
            return Err(CliError::Misuse(format!(
                "{key} means nothing here: Berth sends no mail, it keeps the output of each run; see berth cron:history"
            )));
        }
        _ => {
            let shown: String = key.chars().take(80).collect();
            return Err(CliError::Misuse(format!(
                "cron has no setting {shown:?}; it has maintenance, timezone and ttl-seconds"
            )));
        }
    }
    Ok(patch)
}

async fn runs_of(context: &Context, app: &AppName, task: Option<&str>) -> Result<Vec<RunInfo>> {
    let query = task.map(|task| format!("?task={task}")).unwrap_or_default();
    context.get(&format!("/v1/apps/{app}/cron/history{query}")).await
}

async fn history(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let id = match &rest[..] {
        [] => None,
        [id] => Some(task_id(&app, id)?),
        more => return none_left(&more[1..]),
    };
    let mut runs = runs_of(context, &app, id.as_deref()).await?;
    let most = matches.get_one::<u32>("num").copied().unwrap_or(50);
    runs.drain(..runs.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX)));
    if context.out.json {
        return context.out.json(&runs);
    }
    context.out.header(&format!("{app} cron history"))?;
    let row = |run: &RunInfo| {
        let cause = run.cron.as_ref();
        let due = cause.and_then(|cause| cause.due_ms);
        vec![
            run.name.clone(),
            cause.map_or_else(String::new, |cause| cause.task.clone()),
            run.status.as_str().to_owned(),
            code(run),
            time(due.unwrap_or(run.created_ms)),
            took(run),
            if due.is_some() { "schedule".to_owned() } else { run.by.clone() },
            run.reason.clone().unwrap_or_else(|| run.command.clone()),
        ]
    };
    let rows: Vec<_> = runs.iter().map(row).collect();
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

async fn of_run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let named = match &rest[..] {
        [] => None,
        [name] => Some(run_name(&app, name)?),
        more => return none_left(&more[1..]),
    };
    if let Some(name) = named.as_ref().filter(|name| name.contains('.')) {
        return logs(context, matches, &app, name).await;
    }
    let ran = |run: &&RunInfo| !matches!(run.status, RunStatus::Skipped | RunStatus::Missed);
    let runs = runs_of(context, &app, named.as_deref()).await?;
    let Some(newest) = runs.iter().rev().find(ran) else {
        let what = named.map_or_else(|| "no cron task".to_owned(), |id| format!("no cron task {id}"));
        return Err(CliError::Failed(format!(
            "{what} of {app} has run yet; see them with: berth cron:list {app}"
        )));
    };
    runs::logs(context, matches, &app, &newest.name).await
}
