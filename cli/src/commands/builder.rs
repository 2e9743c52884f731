//! `builder:*` and `app-json:*`: which builder, which directory and which files of a repository make the app.
//!
//! In: a property and its value. Out: a patch, and a report.

use super::not_here;
use crate::args::{command, report};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::report::Report;
use berth_model::api::{AppInfo, PatchApp};
use berth_model::build::DEFAULT_TIMEOUT_SECS;
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        report(
            "builder:report",
            "Show which builder is used, and where in the repository",
            "[<app>] [--KEY]",
            &["builder:report hello"],
        ),
        command(
            "builder:set",
            "Set a property for the next build; without a value, reset it",
            "[<app>] selected|build-dir|timeout [VALUE]",
            &[
                "builder:set hello selected python",
                "builder:set hello build-dir apps/web",
                "builder:set hello timeout 3600",
            ],
        ),
        report(
            "app-json:report",
            "Show which app.json is read",
            "[<app>] [--KEY]",
            &["app-json:report hello"],
        ),
        command(
            "app-json:set",
            "Set a property for the next build; without a value, reset it",
            "[<app>] appjson-path [PATH]",
            &["app-json:set hello appjson-path deploy/app.json"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "builder:report" | "app-json:report" => show(context, name, matches).await,
        "builder:set" => set(context, matches, "builder", &["selected", "build-dir", "timeout"]).await,
        "app-json:set" => set(context, matches, "app-json", &["appjson-path"]).await,
        _ => Err(not_here(name)),
    }
}

async fn show(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let apps = context.infos(matches).await?;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let describe = |app: &AppInfo| match name {
        "builder:report" => Report::new(app.name.as_str(), "builder")
            .row("Builder build dir", text(&app.build_dir))
            .row("Builder detected", text(&app.builder))
            .row("Builder selected", text(&app.builder_selected))
            .row("Builder timeout", app.build_timeout_secs.unwrap_or(DEFAULT_TIMEOUT_SECS).to_string()),
        _ => Report::new(app.name.as_str(), "app-json")
            .row("App json appjson path", text(&app.app_json_path))
            .row("App json computed appjson path", app.app_json_path.as_deref().unwrap_or("app.json")),
    };
    let out = context.out.of(apps.len());
    apps.iter().try_for_each(|app| describe(app).show(out, field))
}

/// Sets one of the properties of `family`; without a value, resets it.
pub(super) async fn set(
    context: &Context,
    matches: &ArgMatches,
    family: &str,
    properties: &[&str],
) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let (property, value) = match &rest[..] {
        [property] => (property.as_str(), String::new()),
        [property, value] => (property.as_str(), value.clone()),
        _ => {
            let usage = format!("write: {family}:set <app> {} VALUE", properties.join("|"));
            return Err(CliError::Misuse(usage));
        }
    };
    if !properties.contains(&property) {
        let known = properties.join(", ");
        return Err(CliError::Misuse(format!("{property:?} is no property of {family}; there are: {known}")));
    }
    let said = match value.as_str() {
        "" => format!("Unsetting {property}"),
        value => format!("Setting {property} to {value}"),
    };
    let mut patch = PatchApp::default();
    if property == "timeout" {
        let secs = if value.is_empty() { Some(0) } else { value.parse().ok().filter(|secs| *secs > 0) };
        let wrong =
            || CliError::Misuse(format!("{value:?} is no number of seconds: write, for instance, 3600"));
        patch.build_timeout_secs = Some(secs.ok_or_else(wrong)?);
        context.act(Method::PATCH, &format!("/v1/apps/{app}"), Some(&patch)).await?;
        return context.out.step(&said);
    }
    let field = match property {
        "selected" => &mut patch.builder,
        "build-dir" => &mut patch.build_dir,
        "procfile-path" => &mut patch.procfile_path,
        "appjson-path" => &mut patch.app_json_path,
        "dockerfile-path" => &mut patch.dockerfile_path,
        _ => &mut patch.dockerfile_target,
    };
    *field = Some(value);
    context.act(Method::PATCH, &format!("/v1/apps/{app}"), Some(&patch)).await?;
    context.out.step(&said)
}
