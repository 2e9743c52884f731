//! `run:*`: one-off containers that run or ran, what they wrote, and an end to them.
//!
//! In: a name such as `run.1234`. Out: a table, lines, an end.

use super::not_here;
use crate::args::{command, option, switch};
use crate::context::{Context, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, time};
use berth_model::AppName;
use berth_model::run::RunInfo;
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("run:list", "List an app's one-off containers", "[<app>] [--all]", &["run:list hello"])
            .arg(switch("all", "Those that ended, too")),
        command(
            "run:logs",
            "Show what a detached one-off container wrote",
            "[<app>] CONTAINER [-t] [-n COUNT]",
            &["run:logs hello run.1234", "run:logs hello run.1234 -t"],
        )
        .arg(switch("tail", "Go on until it ends").short('t'))
        .arg(lines_option()),
        command(
            "run:stop",
            "End a one-off container, or all of an app",
            "[<app>] CONTAINER | --all",
            &["run:stop hello run.1234", "run:stop hello --all"],
        )
        .arg(switch("all", "All of them but the tasks of deploys")),
        command("run:retire", "Forget what ended, and its output", "[<app>]", &["run:retire hello"]),
    ]
}

pub(super) fn lines_option() -> clap::Arg {
    option("num", "COUNT", "How many lines back [default: 1000]")
        .short('n')
        .value_parser(clap::value_parser!(u32).range(0..=1_000_000))
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "run:list" => list(context, matches).await,
        "run:logs" => {
            let (app, rest) = context.app(matches, true).await?;
            let run = run_name(&app, &exactly_one(rest, "the container's name, such as run.1234,")?)?;
            logs(context, matches, &app, &run).await
        }
        "run:stop" => stop(context, matches).await,
        "run:retire" => {
            let app = context.only_app(matches).await?;
            let count: usize =
                context.json(Method::POST, &format!("/v1/apps/{app}/runs/retire"), &()).await?;
            context.out.step(&format!("Forgot {count} one-off containers of {app} that had ended"))
        }
        _ => Err(not_here(name)),
    }
}

/// A run's name as part of a path.
pub(super) fn run_name(app: &AppName, text: &str) -> Result<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if !text.is_empty() && text.len() <= 160 && text.bytes().all(allowed) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    let shown: String = text.chars().take(80).collect();
    Err(CliError::Misuse(format!(
        "{shown:?} is no one-off container; see them with: berth run:list {app} --all"
    )))
}

/// How long it took or has taken, in seconds.
pub(super) fn took(run: &RunInfo) -> String {
    let (Some(started), ended) = (run.started_ms, run.ended_ms) else { return "-".to_owned() };
    let ended = ended.unwrap_or_else(|| jiff::Timestamp::now().as_millisecond());
    let tenths = (ended - started).max(0) / 100;
    format!("{}.{}s", tenths / 10, tenths % 10)
}

pub(super) fn code(run: &RunInfo) -> String {
    run.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string())
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let runs: Vec<RunInfo> =
        context.get(&format!("/v1/apps/{app}/runs?all={}", matches.get_flag("all"))).await?;
    if context.out.json {
        return context.out.json(&runs);
    }
    context.out.header(&format!("{app} one-off containers"))?;
    let row = |run: &RunInfo| {
        vec![
            run.name.clone(),
            run.status.as_str().to_owned(),
            code(run),
            time(run.created_ms),
            took(run),
            run.by.clone(),
            run.command.clone(),
        ]
    };
    let rows: Vec<_> = runs.iter().map(row).collect();
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

/// Shows lines as `logs` does.
pub(super) async fn logs(context: &Context, matches: &ArgMatches, app: &AppName, run: &str) -> Result<()> {
    let count = matches.get_one::<u32>("num").copied().unwrap_or(1000);
    let follow = matches.get_flag("tail");
    let path = format!("/v1/apps/{app}/runs/{run}/logs?lines={count}&follow={follow}");
    super::logs::lines(context, &path).await
}

async fn stop(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let names = if matches.get_flag("all") {
        none_left(&rest)?;
        let runs: Vec<RunInfo> = context.get(&format!("/v1/apps/{app}/runs")).await?;
        use berth_model::run::RunKind::{Cron, Run};
        runs.into_iter().filter(|run| matches!(run.kind, Run | Cron)).map(|run| run.name).collect()
    } else {
        vec![run_name(&app, &exactly_one(rest, "the container's name, such as run.1234, or --all,")?)?]
    };
    let mut stopped: Vec<RunInfo> = Vec::new();
    for name in names {
        context.out.step(&format!("Stopping {name}"))?;
        let path = format!("/v1/apps/{app}/runs/{name}/stop");
        match context.json(Method::POST, &path, &()).await {
            Ok(run) => stopped.push(run),
            // It ended by itself since it was listed.
            Err(_) if matches.get_flag("all") && !still_runs(context, &app, &name).await? => {}
            Err(error) => return Err(error),
        }
    }
    if context.out.json { context.out.json(&stopped) } else { Ok(()) }
}

async fn still_runs(context: &Context, app: &AppName, name: &str) -> Result<bool> {
    let runs: Vec<RunInfo> = context.get(&format!("/v1/apps/{app}/runs")).await?;
    Ok(runs.iter().any(|run| run.name == name))
}
