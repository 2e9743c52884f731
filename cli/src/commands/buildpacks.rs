//! `buildpacks:*` and `stack:*`: which buildpacks build an app, and what they run on.
//!
//! In: buildpacks as `.buildpacks` has them. Out: a patch, a list, a report.

use super::not_here;
use crate::args::{command, option, report};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::report::Report;
use berth_model::AppName;
use berth_model::api::{AppInfo, PatchApp};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    let index = || option("index", "N", "The place in the list, from 1");
    vec![
        command(
            "buildpacks:add",
            "Add a buildpack for the next build",
            "[--index N] [<app>] BUILDPACK",
            &[
                "buildpacks:add hello https://github.com/owner/buildpack#v2",
                "buildpacks:add --index 1 hello ./buildpacks/mine",
                "buildpacks:add hello docker://ghcr.io/owner/buildpack:1",
            ],
        )
        .arg(index()),
        command(
            "buildpacks:clear",
            "Empty the list: Berth chooses again",
            "[<app>]",
            &["buildpacks:clear hello"],
        ),
        command("buildpacks:list", "List an app's buildpacks", "[<app>]", &["buildpacks:list hello"]),
        command(
            "buildpacks:remove",
            "Take a buildpack from the list",
            "[<app>] BUILDPACK",
            &["buildpacks:remove hello heroku/nodejs"],
        ),
        report(
            "buildpacks:report",
            "Show which buildpacks and stack build an app",
            "[<app>] [--KEY]",
            &["buildpacks:report hello"],
        ),
        command(
            "buildpacks:set",
            "Replace the buildpack at a place of the list",
            "[--index N] [<app>] BUILDPACK",
            &["buildpacks:set hello heroku/ruby", "buildpacks:set --index 2 hello heroku/nodejs"],
        )
        .arg(index()),
        command(
            "buildpacks:set-property",
            "Set a property for the next build; without a value, reset it",
            "[<app>] stack [VALUE]",
            &["buildpacks:set-property hello stack heroku-24"],
        ),
        command(
            "stack:set",
            "Choose what buildpacks run on: debian-12, heroku-24, an image, or RUN-IMAGE,BUILD-IMAGE",
            "[<app>] [STACK]",
            &["stack:set hello heroku-24", "stack:set hello debian:bookworm", "stack:set hello"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "buildpacks:add" => add(context, matches).await,
        "buildpacks:clear" => clear(context, matches).await,
        "buildpacks:list" => list(context, matches).await,
        "buildpacks:remove" => remove(context, matches).await,
        "buildpacks:report" => show(context, matches).await,
        "buildpacks:set" => set(context, matches).await,
        "buildpacks:set-property" => property(context, matches).await,
        "stack:set" => {
            let (app, rest) = context.app(matches, true).await?;
            let value = match rest.as_slice() {
                [] => String::new(),
                [one] => one.clone(),
                [run, build] => format!("{run},{build}"),
                _ => return Err(CliError::Misuse("write: stack:set <app> STACK".into())),
            };
            stack(context, &app, value).await
        }
        _ => Err(not_here(name)),
    }
}

async fn info(context: &Context, app: &AppName) -> Result<AppInfo> {
    context.get(&format!("/v1/apps/{app}")).await
}

async fn store(context: &Context, app: &AppName, buildpacks: Vec<String>) -> Result<()> {
    let patch = PatchApp { buildpacks: Some(buildpacks), ..PatchApp::default() };
    context.act(Method::PATCH, &format!("/v1/apps/{app}"), Some(&patch)).await
}

/// What Dokku makes of `owner/name`; anything else is as it is written.
fn address(text: &str) -> String {
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    match text.split_once('/') {
        Some((owner, name)) if word(owner) && word(name) => {
            format!("https://github.com/{owner}/heroku-buildpack-{name}.git")
        }
        _ => text.to_owned(),
    }
}

async fn one(context: &Context, matches: &ArgMatches) -> Result<(AppName, String)> {
    let (app, rest) = context.app(matches, true).await?;
    match rest.as_slice() {
        [buildpack] => Ok((app, address(buildpack))),
        _ => Err(CliError::Misuse(
            "give one buildpack: a URL, owner/name, or a directory such as ./buildpacks/mine".into(),
        )),
    }
}

/// The place that `--index` names, from 0.
fn index(matches: &ArgMatches) -> Result<Option<usize>> {
    let Some(text) = matches.get_one::<String>("index") else { return Ok(None) };
    match text.parse::<usize>() {
        Ok(index) if index > 0 => Ok(Some(index - 1)),
        _ => Err(CliError::Misuse(format!("--index {text} is no place in a list: they begin with 1"))),
    }
}

async fn add(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, buildpack) = one(context, matches).await?;
    let mut all = info(context, &app).await?.buildpacks;
    if all.contains(&buildpack) {
        return Err(CliError::Failed(format!("{buildpack} is in the list of {app} already")));
    }
    let at = index(matches)?.unwrap_or(all.len()).min(all.len());
    all.insert(at, buildpack);
    store(context, &app, all).await
}

async fn set(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, buildpack) = one(context, matches).await?;
    let mut all = info(context, &app).await?.buildpacks;
    let at = index(matches)?.unwrap_or(0);
    match all.get_mut(at) {
        Some(place) => *place = buildpack,
        None => all.push(buildpack),
    }
    store(context, &app, all).await
}

async fn remove(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, buildpack) = one(context, matches).await?;
    let mut all = info(context, &app).await?.buildpacks;
    let before = all.len();
    all.retain(|other| *other != buildpack);
    if all.len() == before {
        return Err(CliError::Failed(format!(
            "{buildpack} is not in the list of {app}; see: berth buildpacks:list {app}"
        )));
    }
    store(context, &app, all).await
}

async fn clear(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    if !rest.is_empty() {
        return Err(CliError::Misuse("write: buildpacks:clear <app>".into()));
    }
    store(context, &app, Vec::new()).await
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, _) = context.app(matches, true).await?;
    let all = info(context, &app).await?.buildpacks;
    if context.out.json {
        return context.out.json(&all);
    }
    context.out.step(&format!("{app} buildpack urls"))?;
    all.iter().try_for_each(|buildpack| context.out.line(&format!("       {buildpack}")))
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let apps = context.infos(matches).await?;
    let describe = |app: &AppInfo| {
        Report::new(app.name.as_str(), "buildpacks")
            .row("Buildpacks computed stack", app.stack.as_deref().unwrap_or("debian-12"))
            .row("Buildpacks list", app.buildpacks.join(","))
            .row("Buildpacks stack", app.stack.as_deref().unwrap_or_default())
    };
    let out = context.out.of(apps.len());
    apps.iter().try_for_each(|app| describe(app).show(out, field))
}

async fn property(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    match rest.as_slice() {
        [property] if property == "stack" => stack(context, &app, String::new()).await,
        [property, value] if property == "stack" => stack(context, &app, value.clone()).await,
        _ => Err(CliError::Misuse("write: buildpacks:set-property <app> stack [VALUE]".into())),
    }
}

async fn stack(context: &Context, app: &AppName, value: String) -> Result<()> {
    let said = match value.as_str() {
        "" => "Unsetting stack".to_owned(),
        value => format!("Setting stack to {value}"),
    };
    let patch = PatchApp { stack: Some(value), ..PatchApp::default() };
    context.act(Method::PATCH, &format!("/v1/apps/{app}"), Some(&patch)).await?;
    context.out.step(&said)
}
