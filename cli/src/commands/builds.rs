//! `builds:*`: what was built when, what it said, and an end to one that is under way.
//!
//! In: a build's id, the end of it, or `current`. Out: a table, a report, a log as it was said.

use super::not_here;
use crate::args::{command, report, switch};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output::{table, time, warning};
use crate::report::Report;
use berth_model::AppName;
use berth_model::api::{BuildInfo, BuildStatus, Progress};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("builds", "List an app's builds, newest first", "[<app>]", &["builds hello"])
            .visible_alias("builds:list"),
        report("builds:info", "Show one build", "[<app>] [BUILD] [--KEY]", &["builds:info hello 1a2b3c4d"]),
        command(
            "builds:output",
            "Show what a build said, the newest by default",
            "[<app>] [BUILD] [-t]",
            &["builds:output hello", "builds:output hello 1a2b3c4d", "builds:output hello current -t"],
        )
        .arg(switch("tail", "Go on until it is over").short('t')),
        command(
            "builds:cancel",
            "Stop a build that is under way, the newest by default",
            "[<app>] [BUILD]",
            &["builds:cancel hello"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "builds" => list(context, matches).await,
        "builds:info" => info(context, matches).await,
        "builds:output" => output(context, matches).await,
        "builds:cancel" => cancel(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let builds: Vec<BuildInfo> = context.get(&format!("/v1/apps/{app}/builds")).await?;
    if context.out.json {
        return context.out.json(&builds);
    }
    context.out.header(&format!("{app} builds"))?;
    let row = |build: &BuildInfo| {
        let (status, took) = (build.status.as_str().to_owned(), took(build));
        let release = build.release.map_or_else(String::new, |release| release.to_string());
        vec![
            build.id.to_string(),
            status,
            build.source.clone(),
            time(build.started_ms),
            took,
            build.by.clone(),
            release,
        ]
    };
    let rows: Vec<_> = builds.iter().map(row).collect();
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

/// How long it took, in seconds.
fn took(build: &BuildInfo) -> String {
    let Some(finished) = build.finished_ms else { return "-".to_owned() };
    let tenths = (finished - build.started_ms).max(0) / 100;
    format!("{}.{}s", tenths / 10, tenths % 10)
}

/// The app, and the name of a build as part of a path.
async fn named(context: &Context, matches: &ArgMatches) -> Result<(AppName, String)> {
    let (app, rest) = context.app(matches, true).await?;
    let build = match &rest[..] {
        [] => "current".to_owned(),
        [build] => build.clone(),
        [_, more, ..] => return Err(CliError::Misuse(format!("{more:?} is one argument too many"))),
    };
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if build.is_empty() || build.len() > 64 || !build.bytes().all(allowed) {
        return Err(CliError::Misuse(format!(
            "{build:?} is no build; see them with: berth builds:list {app}"
        )));
    }
    Ok((app, build))
}

async fn info(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, build) = named(context, matches).await?;
    let build: BuildInfo = context.get(&format!("/v1/apps/{app}/builds/{build}")).await?;
    let field = matches.get_one::<String>("field").map(String::as_str);
    if context.out.json && field.is_none() {
        return context.out.json(&build);
    }
    Report::new(app.as_str(), "build")
        .row("Id", build.id.as_str())
        .row("Status", build.status.as_str())
        .row("Source", &*build.source)
        .row("Git rev", build.git_rev.as_deref().unwrap_or_default())
        .row("By", &*build.by)
        .row("Started", time(build.started_ms))
        .row("Finished", build.finished_ms.map(time).unwrap_or_default())
        .row("Took", took(&build))
        .row("Builder", build.builder.as_deref().unwrap_or_default())
        .row("Image", build.image.as_deref().unwrap_or_default())
        .row("Release", build.release.map_or_else(String::new, |release| release.to_string()))
        .row("Reason", build.reason.as_deref().unwrap_or_default())
        .show(context.out, field)
}

/// What it said, and how it went in its last line: to show a failure is no failure.
async fn output(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, build) = named(context, matches).await?;
    let follow = matches.get_flag("tail");
    show_log(context, &format!("/v1/apps/{app}/builds/{build}/log?follow={follow}")).await
}

/// The log of a build that is there.
pub(super) async fn show_log(context: &Context, path: &str) -> Result<()> {
    let mut lines = context.lines(path).await?;
    while let Some(event) = lines.next::<Progress>().await? {
        if let (Some(Err(error)), false) = (context.out.progress(&event)?, context.out.json) {
            warning(&error.to_string());
        }
    }
    Ok(())
}

async fn cancel(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, build) = named(context, matches).await?;
    let path = format!("/v1/apps/{app}/builds/{build}/cancel");
    let build: BuildInfo = context.json(Method::POST, &path, &()).await?;
    let what = if build.status == BuildStatus::Deploying { "the deploy of build" } else { "build" };
    context.out.step(&format!("Canceling {what} {} of {app}", build.id))
}
