//! `ps:*`: how many of each process type run, and how they are.
//!
//! In: `web=2` words. Out: reports in Dokku's shape.

use super::not_here;
use crate::args::{command, report, switch};
use crate::context::{Context, none_left};
use crate::error::{CliError, Result};
use crate::report::Report;
use berth_model::api::{AppInfo, ProcessSelection, PsContainer, PsReport, Scale};
use berth_model::container::ContainerState;
use berth_model::release::Formation;
use berth_model::{AppName, ProcessType};
use clap::{ArgMatches, Command};
use http::Method;
use std::collections::BTreeMap;

pub(super) fn commands() -> Vec<Command> {
    vec![
        report("ps:report", "Show what runs", "[<app>] [--KEY]", &["ps hello", "ps:report hello --running"])
            .visible_alias("ps"),
        command(
            "ps:scale",
            "Show or set how many containers run",
            "[<app>] [TYPE=COUNT ...]",
            &["ps:scale hello", "ps:scale hello web=2 worker=1"],
        )
        .arg(switch("skip-deploy", "Only store; the next deploy takes it up")),
        command(
            "ps:restart",
            "Start new containers, then stop the old",
            "[<app>] [TYPE]",
            &["ps:restart hello", "ps:restart hello web"],
        )
        .alias("restart"),
        command(
            "ps:rebuild",
            "Build the deployed code once more, and deploy it",
            "[<app>]",
            &["ps:rebuild hello"],
        ),
        command("ps:stop", "Stop an app until ps:start", "[<app>] [TYPE]", &["ps:stop hello"]),
        command("ps:start", "Start a stopped app", "[<app>] [TYPE]", &["ps:start hello"]),
        command(
            "ps:set",
            "Set a property; without a value, reset it",
            "[<app>] procfile-path|idle-timeout [VALUE]",
            &["ps:set hello procfile-path deploy/Procfile", "ps:set hello idle-timeout 15m"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "ps:report" => show(context, matches).await,
        "ps:scale" => scale(context, matches).await,
        "ps:restart" => select(context, matches, "restart").await,
        "ps:rebuild" => {
            let app = context.only_app(matches).await?;
            context.act(Method::POST, &format!("/v1/apps/{app}/rebuild"), None::<&()>).await
        }
        "ps:stop" => select(context, matches, "stop").await,
        "ps:set" => {
            let words = crate::context::arguments(matches);
            // It is about processes, but the proxy's to keep.
            if words.iter().take(2).any(|word| word == "idle-timeout") {
                return super::proxy::set(context, matches, false).await;
            }
            super::builder::set(context, matches, "ps", &["procfile-path", "idle-timeout"]).await
        }
        "ps:start" => select(context, matches, "start").await,
        _ => Err(not_here(name)),
    }
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let (app, rest) = context.some_app(matches, false).await?;
    none_left(&rest)?;
    let apps = match app {
        Some(app) => vec![app],
        None => context.get::<Vec<AppInfo>>("/v1/apps").await?.into_iter().map(|app| app.name).collect(),
    };
    for app in apps {
        let ps: PsReport = context.get(&format!("/v1/apps/{app}/ps")).await?;
        if context.out.json && field.is_none() {
            context.out.json(&ps)?;
        } else {
            describe(&ps).show(context.out, field)?;
        }
    }
    Ok(())
}

fn describe(ps: &PsReport) -> Report {
    let is_running = |container: &&PsContainer| {
        matches!(container.status.as_ref().map(|status| &status.state), Some(ContainerState::Running { .. }))
    };
    let running = ps.containers.iter().filter(is_running).count();
    let wanted: u64 = ps.formation.0.values().map(|count| u64::from(*count)).sum();
    let some = match running {
        0 => "false",
        n if n as u64 >= wanted => "true",
        _ => "mixed",
    };
    let deployed = ps.status != "not deployed";
    let report = Report::new(ps.app.as_str(), "ps")
        .row("Deployed", deployed.to_string())
        .row("Processes", wanted.to_string())
        .row("Ps restart policy", &*ps.restart_policy)
        .row("Running", some)
        .row("Status", &*ps.status);
    ps.containers.iter().fold(report, |report, container| {
        report.row(&format!("Status {} {}", container.process, container.ordinal), status(container))
    })
}

fn status(container: &PsContainer) -> String {
    let state = match container.status.as_ref().map(|status| &status.state) {
        None => match &container.waiting {
            Some(reason) => format!("waiting: {reason}"),
            None => "waiting".to_owned(),
        },
        Some(ContainerState::Preparing) => "preparing".to_owned(),
        Some(ContainerState::Starting { .. }) => "starting".to_owned(),
        Some(ContainerState::Running { ready: true, .. }) => "running".to_owned(),
        Some(ContainerState::Running { ready: false, .. }) => "running, not ready".to_owned(),
        Some(ContainerState::Stopping) => "stopping".to_owned(),
        Some(ContainerState::BackingOff { exit, .. }) => format!("crashed with {}, restarts soon", exit.code),
        Some(ContainerState::Exited { exit }) if exit.oom_killed => "killed: out of memory".to_owned(),
        Some(ContainerState::Exited { exit }) => format!("exited with {}", exit.code),
        Some(ContainerState::Failed { reason }) => format!("failed: {reason}"),
    };
    let restarts = match container.status.as_ref().map_or(0, |status| status.restarts) {
        0 => String::new(),
        count => format!(", restarts: {count}"),
    };
    format!("{state} (CID: {}, {}{restarts})", container.id, container.release)
}

async fn scale(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    if rest.is_empty() {
        return show_scale(context, &app).await;
    }
    let wanted = rest.iter().map(|word| parse_count(word)).collect::<Result<BTreeMap<_, _>>>()?;
    let scale = Scale { formation: Formation(wanted), skip_deploy: matches.get_flag("skip-deploy") };
    let operation = context.begin(Method::POST, &format!("/v1/apps/{app}/scale"), Some(&scale)).await?;
    context.out.step(&format!("Scaling for {app}"))?;
    if !context.out.quiet && !context.out.json {
        table(context, &scale.formation)?;
    }
    operation.follow(None).await
}

/// `web=2`, as Dokku and Heroku write it.
fn parse_count(word: &str) -> Result<(ProcessType, u32)> {
    let wrong =
        || CliError::Misuse(format!("{word:?} is no TYPE=COUNT such as web=2, with a count from 0 to 1000"));
    let (process, count) = word.split_once('=').ok_or_else(wrong)?;
    let count = count.parse().ok().filter(|count| *count <= 1000).ok_or_else(wrong)?;
    Ok((ProcessType::parse(process)?, count))
}

async fn show_scale(context: &Context, app: &AppName) -> Result<()> {
    let ps: PsReport = context.get(&format!("/v1/apps/{app}/ps")).await?;
    if context.out.json {
        return context.out.json(&ps.formation);
    }
    context.out.step(&format!("Scaling for {app}"))?;
    if !context.out.quiet {
        return table(context, &ps.formation);
    }
    ps.formation.0.iter().try_for_each(|(process, count)| context.out.line(&format!("{process}: {count}")))
}

fn table(context: &Context, formation: &Formation) -> Result<()> {
    context.out.line("proctype: qty")?;
    context.out.line("--------: ---")?;
    formation.0.iter().try_for_each(|(process, count)| context.out.line(&format!("{process}: {count}")))
}

async fn select(context: &Context, matches: &ArgMatches, verb: &str) -> Result<()> {
    let (app, mut rest) = context.app(matches, true).await?;
    let process = if rest.is_empty() { None } else { Some(ProcessType::parse(&rest.remove(0))?) };
    none_left(&rest)?;
    context.act(Method::POST, &format!("/v1/apps/{app}/{verb}"), Some(&ProcessSelection { process })).await
}
