//! `git:*`: which branch deploys.
//!
//! In: a property and its value. Out: a patch, and a report.

use super::not_here;
use crate::args::{command, report};
use crate::context::{Context, none_left};
use crate::error::{CliError, Result};
use crate::report::Report;
use berth_model::api::{AppInfo, PatchApp};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        report(
            "git:report",
            "Show what is known of an app's repository",
            "[<app>] [--KEY]",
            &["git:report hello"],
        ),
        command(
            "git:set",
            "Set a property; without a value, reset it",
            "[<app>] deploy-branch [BRANCH]",
            &["git:set hello deploy-branch main", "git:set hello deploy-branch"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "git:report" => show(context, matches).await,
        "git:set" => set(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let (app, rest) = context.some_app(matches, false).await?;
    none_left(&rest)?;
    let apps: Vec<AppInfo> = match app {
        Some(app) => vec![context.get(&format!("/v1/apps/{app}")).await?],
        None => context.get("/v1/apps").await?,
    };
    let describe = |app: &AppInfo| {
        Report::new(app.name.as_str(), "git")
            .row("Git deploy branch", app.deploy_branch.as_deref().unwrap_or_default())
            .row("Git sha", app.git_rev.as_deref().unwrap_or_default())
            .row("Git rev env var", "GIT_REV")
    };
    apps.iter().try_for_each(|app| describe(app).show(context.out, field))
}

async fn set(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let branch = match &rest[..] {
        [property] if property == "deploy-branch" => String::new(),
        [property, branch] if property == "deploy-branch" => branch.clone(),
        [property, ..] if property != "deploy-branch" => {
            return Err(CliError::Misuse(format!(
                "{property:?} is no property of git; there is: deploy-branch"
            )));
        }
        _ => return Err(CliError::Misuse("write: git:set <app> deploy-branch BRANCH".into())),
    };
    let said = if branch.is_empty() {
        "Unsetting deploy-branch".to_owned()
    } else {
        format!("Setting deploy-branch to {branch}")
    };
    context
        .act(
            Method::PATCH,
            &format!("/v1/apps/{app}"),
            Some(&PatchApp { deploy_branch: Some(branch), ..PatchApp::default() }),
        )
        .await?;
    context.out.step(&said)
}
