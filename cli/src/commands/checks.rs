//! `checks:*`: how containers show that they may get traffic.
//!
//! In: process types. Out: reports, and how checks went.

use super::not_here;
use crate::args::{command, report};
use crate::context::{Context, none_left};
use crate::error::{CliError, Result};
use crate::output::table;
use crate::report::Report;
use berth_model::ProcessType;
use berth_model::check::Check;
use berth_model::deploy::{ALL_TYPES, CheckResult, ChecksMode, ChecksReport, PatchChecks, RunChecks};
use clap::{ArgMatches, Command};
use http::Method;
use std::collections::BTreeSet;

pub(super) fn commands() -> Vec<Command> {
    vec![
        report(
            "checks:report",
            "Show what containers are checked with",
            "[<app>] [--KEY]",
            &["checks:report hello"],
        )
        .visible_alias("checks"),
        command(
            "checks:set",
            "Set a property; without a value, reset it",
            "[<app>] wait-to-retire [SECONDS]",
            &["checks:set hello wait-to-retire 30"],
        ),
        command(
            "checks:enable",
            "Check process types again",
            "[<app>] [TYPE,TYPE ...]",
            &["checks:enable hello", "checks:enable hello web,worker"],
        ),
        command(
            "checks:disable",
            "Check nothing, and stop old containers before new ones start",
            "[<app>] [TYPE,TYPE ...]",
            &["checks:disable hello worker"],
        ),
        command(
            "checks:skip",
            "Check nothing: new containers serve as soon as they run",
            "[<app>] [TYPE,TYPE ...]",
            &["checks:skip hello worker"],
        ),
        command(
            "checks:run",
            "Make the checks of running containers once, now",
            "[<app>] [TYPE[.NUMBER]]",
            &["checks:run hello", "checks:run hello web.1"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "checks:report" => show(context, matches).await,
        "checks:set" => super::deploy::set(context, matches, &["wait-to-retire"]).await,
        "checks:enable" => switch(context, matches, ChecksMode::Enable).await,
        "checks:disable" => switch(context, matches, ChecksMode::Disable).await,
        "checks:skip" => switch(context, matches, ChecksMode::Skip).await,
        "checks:run" => now(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn switch(context: &Context, matches: &ArgMatches, mode: ChecksMode) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let words = rest.iter().flat_map(|word| word.split(',')).filter(|word| !word.is_empty());
    let mut types = BTreeSet::new();
    let mut all = rest.is_empty();
    for word in words {
        match word {
            ALL_TYPES => all = true,
            word => drop(types.insert(ProcessType::parse(word)?)),
        }
    }
    if all {
        types.clear();
    }
    let whose = match types.len() {
        0 => "all process types".to_owned(),
        _ => types.iter().map(ProcessType::as_str).collect::<Vec<_>>().join(", "),
    };
    let found: ChecksReport =
        context.json(Method::PATCH, &format!("/v1/apps/{app}/checks"), &PatchChecks { mode, types }).await?;
    if context.out.json {
        return context.out.json(&found);
    }
    let what = match mode {
        ChecksMode::Enable => "Enabling zero downtime and checks",
        ChecksMode::Disable => "Disabling zero downtime and checks",
        ChecksMode::Skip => "Skipping checks",
    };
    context.out.step(&format!("{what} for {app} ({whose}), from the next deploy on"))
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    for app in context.infos(matches).await? {
        let found: ChecksReport = context.get(&format!("/v1/apps/{}/checks", app.name)).await?;
        if context.out.json && field.is_none() {
            context.out.json(&found)?;
            continue;
        }
        let mut report = Report::new(app.name.as_str(), "checks")
            .row("Checks disabled list", &*found.disabled)
            .row("Checks skipped list", &*found.skipped)
            .row("Checks wait to retire", found.wait_to_retire_secs.to_string());
        for (process, checks) in &found.checks {
            for (index, check) in checks.iter().enumerate() {
                report = report.row(&format!("Checks {process} {}", index + 1), described(check));
            }
        }
        report.show(context.out, field)?;
    }
    Ok(())
}

/// One check in a line.
fn described(check: &Check) -> String {
    let warns = if check.warn_only { ", warns only" } else { "" };
    format!(
        "{} {:?}: {}; {} attempts of {} s, {} s apart{warns}",
        check.kind.as_str(),
        check.name,
        check.probe,
        check.attempts,
        check.timeout_secs,
        check.wait_secs
    )
}

/// `web` or `web.1`.
fn which(word: &str) -> Result<RunChecks> {
    let (process, ordinal) = match word.rsplit_once('.') {
        None => (word, None),
        Some((process, number)) => {
            let wrong = || CliError::Misuse(format!("{word:?} is no container such as web.1"));
            let number = number.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
            (process, Some(number))
        }
    };
    Ok(RunChecks { process: Some(ProcessType::parse(process)?), ordinal })
}

async fn now(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, mut rest) = context.app(matches, true).await?;
    let wanted = if rest.is_empty() { RunChecks::default() } else { which(&rest.remove(0))? };
    none_left(&rest)?;
    let results: Vec<CheckResult> =
        context.json(Method::POST, &format!("/v1/apps/{app}/checks/run"), &wanted).await?;
    let failed = results.iter().filter(|result| result.failure.is_some() && !result.warn_only).count();
    if context.out.json {
        context.out.json(&results)?;
    } else {
        context.out.header(&format!("{app} checks"))?;
        let row = |result: &CheckResult| {
            let how = match (&result.failure, result.warn_only) {
                (None, _) => "passed".to_owned(),
                (Some(reason), true) => format!("warning: {reason}"),
                (Some(reason), false) => format!("failed: {reason}"),
            };
            vec![result.container.to_string(), result.check.clone(), how]
        };
        let rows: Vec<_> = results.iter().map(row).collect();
        table(&rows).iter().try_for_each(|line| context.out.line(line))?;
    }
    match failed {
        0 => Ok(()),
        1 => Err(CliError::Failed("1 check failed".into())),
        count => Err(CliError::Failed(format!("{count} checks failed"))),
    }
}
