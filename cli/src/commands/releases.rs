//! `releases` and `rollback`: what was deployed when, and the way back.
//!
//! In: `v12` or `12`. Out: a table, or one release whole.

use super::not_here;
use crate::args::{command, option, report, switch};
use crate::context::{Context, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, time};
use crate::report::Report;
use berth_model::api::{ReleaseInfo, Rollback};
use berth_model::deploy::{PromoteTo, ReleaseDiff};
use berth_model::{AppName, ReleaseVersion};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "releases",
            "List an app's releases, newest first",
            "[<app>]",
            &["releases hello", "releases hello -n 10"],
        )
        .visible_alias("releases:list")
        .arg(
            option("num", "COUNT", "The newest so many at most [default: all]")
                .short('n')
                .value_parser(clap::value_parser!(u32).range(1..)),
        ),
        report(
            "releases:info",
            "Show one release",
            "[<app>] [VERSION] [--KEY]",
            &["releases:info hello v12"],
        ),
        command(
            "releases:diff",
            "Show what differs between two releases; without versions, what the current one changed",
            "[<app>] [FROM] [TO]",
            &["releases:diff hello", "releases:diff hello v3 v5", "releases:diff hello v3 v5 --reveal"],
        )
        .arg(switch("reveal", "Show config values")),
        command(
            "promote",
            "Deploy what one app runs on another app, with the other app's config",
            "<app> TO",
            &["promote staging production"],
        )
        .visible_alias("pipelines:promote")
        .arg(option("to", "APP", "The other app").short('t')),
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
        "releases:diff" => diff(context, matches).await,
        "promote" => promote(context, matches).await,
        "rollback" => rollback(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let limit = matches.get_one::<u32>("num").map_or_else(String::new, |count| format!("?limit={count}"));
    let releases: Vec<ReleaseInfo> = context.get(&format!("/v1/apps/{app}/releases{limit}")).await?;
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

async fn diff(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let versions =
        rest.iter().map(|word| word.parse()).collect::<std::result::Result<Vec<ReleaseVersion>, _>>()?;
    let mut query = format!("reveal={}", matches.get_flag("reveal"));
    match versions[..] {
        [] => {}
        [from] => query.push_str(&format!("&from={}", from.0)),
        [from, to] => query.push_str(&format!("&from={}&to={}", from.0, to.0)),
        _ => return Err(CliError::Misuse("give two releases at most, such as v3 v5".into())),
    }
    let diff: ReleaseDiff = context.get(&format!("/v1/apps/{app}/release-diff?{query}")).await?;
    if context.out.json {
        return context.out.json(&diff);
    }
    context.out.header(&format!("{app} {} to {}", diff.from, diff.to))?;
    if diff.changes.is_empty() {
        return context.out.line("nothing differs");
    }
    for change in &diff.changes {
        let what = format!("{} {}", change.kind, change.name);
        let what = what.trim_end();
        if let Some(before) = &change.before {
            context.out.line(&format!("- {what}: {before}"))?;
        }
        if let Some(after) = &change.after {
            context.out.line(&format!("+ {what}: {after}"))?;
        }
    }
    Ok(())
}

async fn promote(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (from, rest) = context.app(matches, true).await?;
    let to = match matches.get_one::<String>("to") {
        Some(to) => {
            none_left(&rest)?;
            to.clone()
        }
        None => exactly_one(rest, "the app to deploy on")?,
    };
    let body = PromoteTo { to: AppName::parse(&to)? };
    context.act(Method::POST, &format!("/v1/apps/{from}/promote"), Some(&body)).await
}

async fn rollback(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let to = if rest.is_empty() { None } else { Some(exactly_one(rest, "the release")?.parse()?) };
    let body = Rollback { to, keep_config: matches.get_flag("keep-config") };
    context.act(Method::POST, &format!("/v1/apps/{app}/rollback"), Some(&body)).await
}
