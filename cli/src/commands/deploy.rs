//! `deploy:*`: how new releases take the place of old ones, and canaries.
//!
//! In: properties, percentages. Out: reports, progress.

use super::not_here;
use crate::args::{command, report, switch};
use crate::context::{Context, exactly_one};
use crate::error::{CliError, Result};
use crate::output::time;
use crate::report::Report;
use berth_model::api::AppInfo;
use berth_model::deploy::{DEPLOY_KEYS, DeployReport, PatchDeploy, SetCanary, Volumes, canary_percent};
use clap::{ArgMatches, Command};
use http::Method;
use std::collections::BTreeMap;

pub(super) fn commands() -> Vec<Command> {
    vec![
        report(
            "deploy:report",
            "Show how an app is deployed, and what is under way",
            "[<app>] [--KEY]",
            &["deploy:report hello", "deploy:report hello --canary"],
        ),
        command(
            "deploy:set",
            "Set a property; without a value, reset it",
            "[<app>] PROPERTY [VALUE]",
            &[
                "deploy:set hello strategy blue-green",
                "deploy:set hello strategy canary",
                "deploy:set hello canary-percent 5",
                "deploy:set hello auto-rollback false",
                "deploy:set hello rollback-window 10m",
                "deploy:set hello rollback-error-ratio 5%",
                "deploy:set hello volumes stop-first",
            ],
        ),
        command(
            "deploy:canary",
            "Try the next deploy with some of the requests, or change the share of one on trial",
            "[<app>] PERCENT",
            &["deploy:canary hello 10", "deploy:canary hello 50", "deploy:canary hello --clear"],
        )
        .arg(switch("clear", "Take back what was said for the next deploy")),
        command("deploy:promote", "Give the canary all requests", "[<app>]", &["deploy:promote hello"]),
        command("deploy:abort", "End the canary", "[<app>]", &["deploy:abort hello"]),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "deploy:report" => show(context, matches).await,
        "deploy:set" => set(context, matches, &DEPLOY_KEYS).await,
        "deploy:canary" => canary(context, matches).await,
        "deploy:promote" | "deploy:abort" => {
            let app = context.only_app(matches).await?;
            let verb = name.trim_start_matches("deploy:");
            context.act(Method::POST, &format!("/v1/apps/{app}/deploy/{verb}"), None::<&()>).await
        }
        _ => Err(not_here(name)),
    }
}

async fn canary(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let percent = match matches.get_flag("clear") {
        true if rest.is_empty() => None,
        true => return Err(CliError::Misuse("--clear takes no share".into())),
        false => {
            Some(canary_percent(&exactly_one(rest, "the share, such as 10")?).map_err(CliError::Misuse)?)
        }
    };
    let path = format!("/v1/apps/{app}/deploy/canary");
    context.act(Method::POST, &path, Some(&SetCanary { percent })).await
}

/// Sets one of the properties; without a value, resets it.
pub(super) async fn set(context: &Context, matches: &ArgMatches, properties: &[&str]) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let (property, value) = match &rest[..] {
        [property] => (property.clone(), String::new()),
        [property, value] => (property.clone(), value.clone()),
        _ => {
            let known = properties.join("|");
            return Err(CliError::Misuse(format!("write an app, a property ({known}) and its value")));
        }
    };
    if !properties.contains(&property.as_str()) {
        let known = properties.join(", ");
        return Err(CliError::Misuse(format!("{property:?} is no property here; there are: {known}")));
    }
    let said = match value.as_str() {
        "" => format!("Unsetting {property}"),
        value => format!("Setting {property} to {value}"),
    };
    let values = BTreeMap::from([(property, value)]);
    let changed: DeployReport =
        context.json(Method::PATCH, &format!("/v1/apps/{app}/deploy"), &PatchDeploy { values }).await?;
    if context.out.json {
        return context.out.json(&changed);
    }
    context.out.step(&said)
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let apps: Vec<AppInfo> = context.infos(matches).await?;
    for app in apps {
        let found: DeployReport = context.get(&format!("/v1/apps/{}/deploy", app.name)).await?;
        if context.out.json && field.is_none() {
            context.out.json(&found)?;
        } else {
            describe(&found).show(context.out, field)?;
        }
    }
    Ok(())
}

fn containers(count: u32) -> String {
    if count == 1 { "1 container".to_owned() } else { format!("{count} containers") }
}

fn describe(found: &DeployReport) -> Report {
    let volumes = match found.volumes {
        Volumes::Overlap => "overlap",
        Volumes::StopFirst => "stop-first",
    };
    let ratio = found.rollback_error_percent.map_or_else(|| "off".to_owned(), |n| format!("{n}%"));
    let canary = found.canary.as_ref().map_or_else(String::new, |canary| {
        format!(
            "{} with {} % of the requests, {}, since {}; last minute: {} requests, {} errors",
            canary.release,
            canary.percent,
            containers(canary.containers),
            time(canary.since_ms),
            canary.requests,
            canary.errors
        )
    });
    let watched = match (found.watched_until_ms, found.back_to) {
        (Some(until), Some(back_to)) => format!("until {}; goes back to {back_to}", time(until)),
        _ => String::new(),
    };
    let kept = match found.kept_until_ms {
        Some(until) => format!("{} until {}", containers(found.kept), time(until)),
        None => String::new(),
    };
    Report::new(found.app.as_str(), "deploy")
        .row("Strategy", found.strategy.name())
        .row("Canary percent", found.canary_percent.to_string())
        .row("Next canary", found.next_canary.map_or_else(String::new, |n| n.to_string()))
        .row("Auto rollback", found.auto_rollback.to_string())
        .row("Rollback window", format!("{}s", found.rollback_window_secs))
        .row("Rollback error ratio", ratio)
        .row("Volumes", volumes)
        .row("Wait to retire", found.wait_to_retire_secs.to_string())
        .row("Parallel schedule count", found.parallel_schedule_count.to_string())
        .row("Under way", found.under_way.clone().unwrap_or_default())
        .row("Release", found.release.map_or_else(String::new, |release| release.to_string()))
        .row("Canary", canary)
        .row("Watched", watched)
        .row("Kept for rollback", kept)
}
