//! `ps:*`: how many of each process type run, and how they are.
//!
//! In: `web=2` words. Out: reports in Dokku's shape.

use super::{inspect, not_here};
use crate::args::{command, option, report, switch};
use crate::context::{Context, none_left};
use crate::error::{CliError, Result};
use crate::output::table as table_of;
use crate::report::Report;
use berth_model::api::{AppInfo, ProcessSelection, PsContainer, PsReport, Scale};
use berth_model::container::ContainerState;
use berth_model::placing::{MoveInfo, Rebalance};
use berth_model::processes::PatchProcesses;
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
        .aliases(["scale", "dyno:scale"])
        .arg(switch("skip-deploy", "Only store; the next deploy takes it up")),
        command(
            "ps:restart",
            "Start new containers, then stop the old",
            "[<app>|--all] [TYPE|TYPE.N]",
            &["ps:restart hello", "ps:restart hello web", "ps:restart hello web.1", "ps:restart --all"],
        )
        .aliases(["restart", "dyno:restart"])
        .arg(switch("all", "Every deployed app")),
        command(
            "ps:rebuild",
            "Build the deployed code once more, and deploy it",
            "[<app>|--all]",
            &["ps:rebuild hello", "ps:rebuild --all"],
        )
        .arg(switch("all", "Every deployed app")),
        command(
            "ps:stop",
            "Stop an app, or one type, until ps:start",
            "[<app>|--all] [TYPE]",
            &["ps:stop hello", "ps:stop hello worker"],
        )
        .aliases(["ps:kill", "dyno:stop", "dyno:kill"])
        .arg(switch("all", "Every deployed app")),
        command(
            "ps:start",
            "Start what was stopped",
            "[<app>|--all] [TYPE]",
            &["ps:start hello", "ps:start hello worker"],
        )
        .arg(switch("all", "Every deployed app")),
        command(
            "ps:restore",
            "Start what should run and does not",
            "[<app>]",
            &["ps:restore", "ps:restore hello"],
        ),
        command(
            "ps:inspect",
            "Show every container in full, without secrets",
            "[<app>]",
            &["ps:inspect hello", "ps:inspect hello --format json"],
        ),
        command(
            "ps:set",
            "Set a property; without a value, reset it",
            "[<app>] restart-policy|stop-signal|stop-timeout-seconds|procfile-path|idle-timeout|parallel-schedule-count|\
             node-labels|pool|spread|apart-from|rather-apart-from [VALUE]",
            &[
                "ps:set hello restart-policy on-failure:20",
                "ps:set hello stop-signal SIGINT --process-type worker",
                "ps:set hello stop-timeout-seconds 60",
                "ps:set hello procfile-path deploy/Procfile",
                "ps:set hello idle-timeout 15m",
                "ps:set hello node-labels 'disk=ssd,zone=eu|us'",
                "ps:set hello spread distinct-nodes --process-type web",
                "ps:set hello apart-from cache,shop:worker,replica@zone",
            ],
        )
        .arg(option(
            "process-type",
            "TYPE",
            "Only this process type (restart-policy, stop-…, node-labels, pool, spread and …apart-from only)",
        )),
        command(
            "ps:rebalance",
            "Move the few containers that would better run on other nodes",
            "[<app>|--all]",
            &["ps:rebalance --all --dry-run", "ps:rebalance hello", "node:rebalance --most 5"],
        )
        .alias("node:rebalance")
        .arg(switch("all", "Of every app"))
        .arg(switch("dry-run", "Only say which, and why"))
        .arg(option("most", "COUNT", "At most so many [default: 20]")),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "ps:report" => show(context, matches).await,
        "ps:scale" => scale(context, matches).await,
        "ps:restart" => select(context, matches, "restart").await,
        "ps:rebuild" if matches.get_flag("all") => everywhere(context, matches, "rebuild").await,
        "ps:rebuild" => {
            let app = context.only_app(matches).await?;
            context.act(Method::POST, &format!("/v1/apps/{app}/rebuild"), None::<&()>).await
        }
        "ps:restore" => restore(context, matches).await,
        "ps:inspect" => inspect::run(context, matches).await,
        "ps:stop" => select(context, matches, "stop").await,
        "ps:set" => {
            let words = crate::context::arguments(matches);
            if words.iter().take(2).any(|word| word == "parallel-schedule-count") {
                return super::deploy::set(context, matches, &["parallel-schedule-count"]).await;
            }
            // It is about processes, but the proxy's to keep.
            if words.iter().take(2).any(|word| word == "idle-timeout") {
                return super::proxy::set(context, matches, false).await;
            }
            if words.iter().take(2).any(|word| OURS.contains(&word.as_str())) {
                return set(context, matches).await;
            }
            if matches.get_one::<String>("process-type").is_some() {
                return Err(CliError::Misuse(format!("--process-type goes with {}", OURS.join(", "))));
            }
            super::builder::set(context, matches, "ps", PROPERTIES).await
        }
        "ps:start" => select(context, matches, "start").await,
        "ps:rebalance" => rebalance(context, matches).await,
        _ => Err(not_here(name)),
    }
}

/// Properties of how processes live.
const OURS: &[&str] = &[
    "restart-policy",
    "stop-signal",
    "stop-timeout-seconds",
    "node-labels",
    "pool",
    "spread",
    "apart-from",
    "rather-apart-from",
];
const PROPERTIES: &[&str] = &[
    "restart-policy",
    "stop-signal",
    "stop-timeout-seconds",
    "procfile-path",
    "idle-timeout",
    "parallel-schedule-count",
    "node-labels",
    "pool",
    "spread",
    "apart-from",
    "rather-apart-from",
];

async fn set(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let (property, value) = match &rest[..] {
        [property] => (property, String::new()),
        [property, value] => (property, value.clone()),
        _ => {
            let usage = format!("write: ps:set <app> {} [VALUE]", OURS.join("|"));
            return Err(CliError::Misuse(usage));
        }
    };
    let process = matches.get_one::<String>("process-type");
    let process = process.map(|text| ProcessType::parse(text)).transpose()?;
    let mut patch = PatchProcesses { process, ..PatchProcesses::default() };
    let field = match property.as_str() {
        "restart-policy" => &mut patch.restart_policy,
        "stop-signal" => &mut patch.stop_signal,
        "stop-timeout-seconds" => &mut patch.stop_timeout_secs,
        "node-labels" => &mut patch.node_labels,
        "pool" => &mut patch.pool,
        "spread" => &mut patch.spread,
        "apart-from" => &mut patch.apart_from,
        "rather-apart-from" => &mut patch.rather_apart_from,
        other => {
            let known = PROPERTIES.join(", ");
            return Err(CliError::Misuse(format!("{other:?} is no property of ps; there are: {known}")));
        }
    };
    *field = Some(value);
    context.act(Method::PATCH, &format!("/v1/apps/{app}/processes"), Some(&patch)).await
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let apps = context.app_names(matches).await?;
    let out = context.out.of(apps.len());
    for app in apps {
        let ps: PsReport = context.get(&format!("/v1/apps/{app}/ps")).await?;
        if out.json && field.is_none() {
            out.json(&ps)?;
        } else {
            describe(&ps).show(out, field)?;
        }
    }
    Ok(())
}

fn describe(ps: &PsReport) -> Report {
    let is_running = |container: &&PsContainer| {
        matches!(container.status.as_ref().map(|status| &status.state), Some(ContainerState::Running { .. }))
    };
    let running = ps.containers.iter().filter(is_running).count();
    let stopped = |process: &ProcessType| {
        ps.settings.as_ref().is_some_and(|settings| settings.stopped.contains(process))
    };
    let wanted = ps.formation.0.iter().filter(|(process, _)| !stopped(process));
    let wanted: u64 = wanted.map(|(_, count)| u64::from(*count)).sum();
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
    let report = match &ps.settings {
        None => report,
        Some(settings) => {
            let signal = settings.stop_signal.as_deref().unwrap_or("SIGTERM");
            let report = report
                .row("Ps can scale", settings.can_scale.to_string())
                .row("Ps stop signal", signal)
                .row("Ps stop timeout seconds", settings.stop_timeout_secs.to_string());
            let placing = [
                ("Ps node labels", &settings.node_labels),
                ("Ps pool", &settings.pool),
                ("Ps spread", &settings.spread),
                ("Ps apart from", &settings.apart_from),
                ("Ps rather apart from", &settings.rather_apart_from),
            ];
            let set = placing.into_iter().filter_map(|(label, value)| Some((label, value.as_deref()?)));
            let report = set.fold(report, |report, (label, value)| report.row(label, value));
            let own = settings.by_process.iter().flat_map(|(process, values)| {
                values
                    .iter()
                    .map(move |(key, value)| (format!("Ps {process} {}", key.replace('-', " ")), value))
            });
            let report = own.fold(report, |report, (label, value)| report.row(&label, value.as_str()));
            let stopped: Vec<_> = settings.stopped.iter().map(ProcessType::as_str).collect();
            report.row("Ps stopped types", stopped.join(" "))
        }
    };
    let report = ps.remarks.iter().fold(report, |report, remark| report.row("Remark", &**remark));
    ps.containers.iter().fold(report, |report, container| {
        report.row(&format!("Status {} {}", container.process, container.ordinal), status(container))
    })
}

pub(super) fn status(container: &PsContainer) -> String {
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
    let role = container.waiting.as_ref().filter(|_| container.status.is_some());
    let role = role.map_or_else(String::new, |role| format!(", {role}"));
    format!("{state} (CID: {}, {}{restarts}{role})", container.id, container.release)
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
    if matches.get_flag("all") {
        return everywhere(context, matches, verb).await;
    }
    let (app, mut rest) = context.app(matches, true).await?;
    let (process, ordinal) = match rest.is_empty() {
        true => (None, None),
        false => one_or_all(&rest.remove(0))?,
    };
    none_left(&rest)?;
    // Heroku's `ps:stop web.1` ends one of several, in whose place another starts.
    let verb = if ordinal.is_some() && verb == "stop" { "restart" } else { verb };
    let selection = ProcessSelection { process, ordinal };
    context.act(Method::POST, &format!("/v1/apps/{app}/{verb}"), Some(&selection)).await
}

/// `web`, or `web.1`.
fn one_or_all(word: &str) -> Result<(Option<ProcessType>, Option<u32>)> {
    match word.split_once('.') {
        None => Ok((Some(ProcessType::parse(word)?), None)),
        Some((process, number)) => {
            let number = number.parse().ok().filter(|number| (1..=1000).contains(number));
            let wrong = || {
                CliError::Misuse(format!("{word:?} is neither a process type nor one of it such as web.1"))
            };
            Ok((Some(ProcessType::parse(process)?), Some(number.ok_or_else(wrong)?)))
        }
    }
}

/// Does it to every app that is deployed, one after the other; those that fail do not keep back the others.
async fn everywhere(context: &Context, matches: &ArgMatches, verb: &str) -> Result<()> {
    if let Some(word) = crate::context::arguments(matches).first() {
        return Err(CliError::Misuse(format!("--all means every app: leave {word:?} out")));
    }
    let apps: Vec<AppInfo> = context.get("/v1/apps").await?;
    let deployed = apps.into_iter().filter(|app| app.release.is_some()).map(|app| app.name);
    each(context, deployed, verb).await
}

async fn restore(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.some_app(matches, false).await?;
    none_left(&rest)?;
    match app {
        Some(app) => context.act(Method::POST, &format!("/v1/apps/{app}/restore"), None::<&()>).await,
        None => everywhere(context, matches, "restore").await,
    }
}

async fn rebalance(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = match matches.get_flag("all") {
        true => {
            none_left(&crate::context::arguments(matches))?;
            None
        }
        false => {
            let (app, rest) = context.some_app(matches, false).await?;
            none_left(&rest)?;
            app
        }
    };
    let most = matches.get_one::<String>("most").map(|text| {
        let count = text.parse().ok().filter(|count| (1..=1000).contains(count));
        count.ok_or_else(|| CliError::Misuse(format!("--most {text:?} is no number from 1 to 1000")))
    });
    let most: Option<usize> = most.transpose()?;
    if !matches.get_flag("dry-run") {
        return context.act(Method::POST, "/v1/rebalance", Some(&Rebalance { app, most })).await;
    }
    let app = app.map(|app| format!("&app={app}")).unwrap_or_default();
    let most = most.unwrap_or(20);
    let moves: Vec<MoveInfo> = context.get(&format!("/v1/rebalance?most={most}{app}")).await?;
    if context.out.json {
        return context.out.json(&moves);
    }
    if moves.is_empty() {
        return context.out.step("Everything is where it should be");
    }
    let row = |MoveInfo { app, process, ordinal, from, to, why }: &MoveInfo| {
        vec![format!("{app} {process}.{ordinal}"), from.to_string(), format!("-> {to}"), why.clone()]
    };
    let rows = table_of(&moves.iter().map(row).collect::<Vec<_>>());
    rows.iter().try_for_each(|line| context.out.line(line))
}

async fn each(context: &Context, apps: impl Iterator<Item = AppName>, verb: &str) -> Result<()> {
    let mut failed: Vec<String> = Vec::new();
    for app in apps {
        context.out.step(&format!("{app}: {verb}"))?;
        let selection = ProcessSelection { process: None, ordinal: None };
        let path = format!("/v1/apps/{app}/{verb}");
        let done = match verb {
            "rebuild" | "restore" => context.act(Method::POST, &path, None::<&()>).await,
            _ => context.act(Method::POST, &path, Some(&selection)).await,
        };
        if let Err(error) = done {
            crate::output::warning(&format!("{app}: {error}"));
            failed.push(app.to_string());
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(CliError::Failed(format!("{verb} failed for {}", failed.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_or_one_of_it() {
        let web = ProcessType::web();
        assert_eq!(one_or_all("web").expect("valid"), (Some(web.clone()), None));
        assert_eq!(one_or_all("web.2").expect("valid"), (Some(web), Some(2)));
        for bad in ["web.0", "web.", "web.x", ".1", "web.1.2", "web.1001", ""] {
            assert!(one_or_all(bad).is_err(), "{bad}");
        }
    }
}
