//! `apps:*`: what users push to.
//!
//! In: names. Out: [`AppInfo`]s as lists and reports.

use super::not_here;
use crate::args::{command, option, report};
use crate::context::{Context, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::{say, time};
use crate::report::Report;
use berth_model::AppName;
use berth_model::api::{AppInfo, CreateApp, RenameApp, VersionInfo};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("apps:create", "Create an app", "<app>", &["apps:create hello"]),
        command(
            "create",
            "Create an app, with an invented name if none is given",
            "[<app>]",
            &["create", "create hello"],
        ),
        command("apps:list", "List apps", "", &["apps:list", "--quiet apps:list"]).visible_alias("apps"),
        command(
            "apps:destroy",
            "Destroy an app with everything it has",
            "[--force] <app>",
            &["apps:destroy hello", "--force apps:destroy hello"],
        )
        .visible_alias("destroy")
        .arg(option("confirm", "APP", "Its name, in place of typing it")),
        command(
            "apps:exists",
            "Tell by the exit code whether an app exists",
            "<app>",
            &["apps:exists hello"],
        ),
        command(
            "apps:rename",
            "Give an app another name",
            "<app> <new name>",
            &["apps:rename hello welcome"],
        ),
        report(
            "apps:info",
            "Show what an app is",
            "[<app>] [--KEY]",
            &["apps:info hello", "apps:report hello --app-status"],
        )
        .visible_aliases(["apps:report", "info"]),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "apps:create" => create(context, matches, false).await,
        "create" => create(context, matches, true).await,
        "apps:list" => list(context, matches).await,
        "apps:destroy" => destroy(context, matches).await,
        "apps:exists" => exists(context, matches).await,
        "apps:rename" => rename(context, matches).await,
        "apps:info" => info(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn create(context: &Context, matches: &ArgMatches, may_invent: bool) -> Result<()> {
    let mut named = crate::context::arguments(matches);
    named.extend(matches.get_one::<String>("app").cloned());
    let name = match named.len() {
        0 if may_invent => invented_name()?,
        _ => AppName::parse(&exactly_one(named, "the app's name")?)?,
    };
    let info: AppInfo = context.json(Method::POST, "/v1/apps", &CreateApp { name }).await?;
    if context.out.json {
        return context.out.json(&info);
    }
    context.out.step(&format!("Creating {}...", info.name))?;
    if !context.out.quiet
        && !context.session
        && let Ok(version) = context.get::<VersionInfo>("/v1/version").await
    {
        say(&format!(
            "       Push to it: git remote add paas ssh://paas@<this host>:{}/{} && git push paas main",
            version.ssh_port, info.name
        ));
    }
    if context.out.quiet { context.out.line(info.name.as_str()) } else { Ok(()) }
}

/// A name nobody had to think of: `brave-harbor-4821`.
fn invented_name() -> Result<AppName> {
    const HOW: [&str; 8] = ["brave", "calm", "eager", "quiet", "rapid", "sunny", "tidal", "wide"];
    const WHAT: [&str; 8] = ["anchor", "buoy", "canal", "dock", "ferry", "harbor", "pier", "quay"];
    let mut random = [0_u8; 4];
    getrandom::fill(&mut random)
        .map_err(|error| CliError::Failed(format!("the system gives no random numbers: {error}")))?;
    let number = u16::from_be_bytes([random[2], random[3]]) % 10_000;
    let (how, what) = (HOW[usize::from(random[0] % 8)], WHAT[usize::from(random[1] % 8)]);
    Ok(AppName::parse(&format!("{how}-{what}-{number:04}"))?)
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    none_left(&crate::context::arguments(matches))?;
    let apps: Vec<AppInfo> = context.get("/v1/apps").await?;
    if context.out.json {
        return context.out.json(&apps);
    }
    context.out.header("My Apps")?;
    if apps.is_empty() && !context.out.quiet {
        say(" !     You haven't deployed any applications yet");
    }
    apps.iter().try_for_each(|app| context.out.line(app.name.as_str()))
}

async fn destroy(context: &Context, matches: &ArgMatches) -> Result<()> {
    let confirmed = matches.get_one::<String>("confirm");
    let app = match (crate::context::arguments(matches).is_empty(), confirmed) {
        // Heroku: `apps:destroy --confirm app` names it only once.
        (true, Some(name)) if matches.get_one::<String>("app").is_none() => AppName::parse(name)?,
        _ => context.only_app(matches).await?,
    };
    let info: AppInfo = context.get(&format!("/v1/apps/{app}")).await?; // refused before anybody is asked to type
    match confirmed {
        Some(name) if name == info.name.as_str() => {}
        Some(_) => return Err(CliError::Failed("Confirmation did not match. Aborted.".into())),
        None => context.confirm(
            app.as_str(),
            &format!("This command will destroy {app} with its releases, logs and repository."),
        )?,
    }
    context.act(Method::DELETE, &format!("/v1/apps/{app}"), None::<&()>).await
}

async fn exists(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let found = context.exists(&app).await?;
    if context.out.json {
        context.out.json(&found)?;
        return if found { Ok(()) } else { Err(CliError::Exit(20)) };
    }
    if found { Ok(()) } else { Err(CliError::NoApp(format!("App {app} does not exist"))) }
}

async fn rename(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let to = AppName::parse(&exactly_one(rest, "the new name")?)?;
    context.act(Method::POST, &format!("/v1/apps/{app}/rename"), Some(&RenameApp { to })).await
}

async fn info(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let apps = context.infos(matches).await?;
    if context.out.json && field.is_none() {
        return match &apps[..] {
            [one] => context.out.json(one),
            many => context.out.json(&many),
        };
    }
    apps.iter().try_for_each(|app| describe(app).show(context.out, field))
}

fn describe(app: &AppInfo) -> Report {
    let formation: Vec<String> =
        app.formation.0.iter().map(|(kind, count)| format!("{kind}={count}")).collect();
    Report::new(app.name.as_str(), "app")
        .row("App created at", time(app.created_ms))
        .row("App status", &*app.status)
        .row("App release", app.release.map(|version| version.to_string()).unwrap_or_default())
        .row("App git rev", app.git_rev.as_deref().unwrap_or_default())
        .row("App deploy branch", app.deploy_branch.as_deref().unwrap_or_default())
        .row("App builder", app.builder.as_deref().unwrap_or_default())
        .row("App formation", formation.join(" "))
        .row("App urls", app.urls.join(" "))
}
