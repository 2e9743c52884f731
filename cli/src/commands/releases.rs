//! `releases` and `rollback`: what was deployed when, and the way back.
//!
//! In: `v12` or `12`. Out: a table, or one release whole.

use super::not_here;
use crate::args::{command, report, switch};
use crate::context::{Context, exactly_one};
use crate::error::{CliError, Result};
use crate::output::{table, time};
use crate::report::Report;
use berth_model::ReleaseVersion;
use berth_model::api::{ReleaseInfo, Rollback};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("releases", "List an app's releases, newest first", "[<app>]", &["releases hello"])
            .visible_alias("releases:list"),
        report(
            "releases:info",
            "Show one release",
            "[<app>] [VERSION] [--KEY]",
            &["releases:info hello v12"],
        ),
        command(
            "rollback",
            "Bring back an earlier release, the last good one by default",
            "[<app>] [VERSION]",
            &["rollback hello", "rollback hello v12"],
        )
        .visible_alias("releases:rollback")
        .arg(switch("keep-config", "Bring back the image only, with today's config")),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "releases" => list(context, matches).await,
        "releases:info" => info(context, matches).await,
        "rollback" => rollback(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let releases: Vec<ReleaseInfo> = context.get(&format!("/v1/apps/{app}/releases")).await?;
    if context.out.json {
        return context.out.json(&releases);
    }
    context.out.header(&format!("{app} releases"))?;
    let row = |release: &ReleaseInfo| {
        let outcome = if release.current { "current".to_owned() } else { release.outcome.clone() };
        vec![
            release.version.to_string(),
            outcome,
            time(release.created_ms),
            release.by.clone(),
            release.description.clone(),
        ]
    };
    let rows: Vec<_> = releases.iter().map(row).collect();
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

async fn info(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let release: ReleaseInfo = if rest.is_empty() {
        let all: Vec<ReleaseInfo> = context.get(&format!("/v1/apps/{app}/releases")).await?;
        let current = all.into_iter().find(|release| release.current);
        current.ok_or_else(|| {
            CliError::Failed(format!("{app} has no current release: nothing was deployed yet"))
        })?
    } else {
        let version: ReleaseVersion = exactly_one(rest, "the release")?.parse()?;
        context.get(&format!("/v1/apps/{app}/releases/{}", version.0)).await?
    };
    let field = matches.get_one::<String>("field").map(String::as_str);
    if context.out.json && field.is_none() {
        return context.out.json(&release);
    }
    let names: Vec<&str> = release.config_names.iter().map(AsRef::as_ref).collect();
    let report = Report::new(app.as_str(), "release")
        .row("Version", release.version.to_string())
        .row("Description", &*release.description)
        .row("By", &*release.by)
        .row("When", time(release.created_ms))
        .row("Outcome", &*release.outcome)
        .row("Reason", release.reason.as_deref().unwrap_or_default())
        .row("Current", release.current.to_string())
        .row("Git rev", release.git_rev.as_deref().unwrap_or_default())
        .row("Image", &*release.image)
        .row("Config names", names.join(" "));
    let processes = release.processes.iter();
    processes
        .fold(report, |report, (kind, line)| report.row(&format!("Process {kind}"), &**line))
        .show(context.out, field)
}

async fn rollback(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let to = if rest.is_empty() { None } else { Some(exactly_one(rest, "the release")?.parse()?) };
    let body = Rollback { to, keep_config: matches.get_flag("keep-config") };
    context.act(Method::POST, &format!("/v1/apps/{app}/rollback"), Some(&body)).await
}
