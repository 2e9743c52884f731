//! `apps:*`: what users push to.
//!
//! In: names. Out: [`AppInfo`]s as lists and reports.

use super::not_here;
use crate::args::{command, option, report, switch};
use crate::context::{Context, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::{say, time};
use crate::report::Report;
use berth_model::AppName;
use berth_model::amount::seconds;
use berth_model::api::{AppInfo, CreateApp, RenameApp, VersionInfo};
use berth_model::processes::{Autocreation, CloneApp, LockApp, SetTtl};
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
        .visible_alias("destroy"),
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
        command(
            "apps:clone",
            "Make a new app like another, with the same image",
            "<app> <new name> [--skip-deploy] [--ignore-existing] [--ttl TIME]",
            &["apps:clone hello hello-staging", "apps:clone --ttl 2h hello hello-pr-7"],
        )
        .arg(switch("skip-deploy", "Start nothing before ps:start"))
        .arg(switch("ignore-existing", "It is no error that the new app is there already"))
        .arg(option("ttl", "TIME", "Destroy it after this time: 30m, 2h, 7d")),
        command(
            "apps:lock",
            "Refuse deploys of an app",
            "[--reason TEXT] [<app>]",
            &["apps:lock hello", "apps:lock --reason 'database moves' hello"],
        )
        .arg(option("reason", "TEXT", "What for; whoever is refused reads it")),
        command("apps:unlock", "Let an app be deployed again", "[<app>]", &["apps:unlock hello"]),
        command(
            "apps:locked",
            "Tell by the exit code whether an app is locked",
            "[<app>]",
            &["apps:locked hello"],
        ),
        command(
            "apps:set",
            "Set a property; without a value, reset it",
            "[<app>] ttl [TIME] | --global disable-autocreation [true|false]",
            &["apps:set hello ttl 2h", "apps:set --global disable-autocreation true"],
        )
        .arg(switch("global", "A property of the platform")),
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
        "apps:clone" => clone(context, matches).await,
        "apps:lock" => lock(context, matches).await,
        "apps:unlock" => unlock(context, matches).await,
        "apps:locked" => locked(context, matches).await,
        "apps:set" => set(context, matches).await,
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
        0 if may_invent => AppName::parse(&invented_name()?)?,
        _ => AppName::parse(&exactly_one(named, "the app's name")?)?,
    };
    let info: AppInfo = context.json(Method::POST, "/v1/apps", &CreateApp { name }).await?;
    if context.out.json {
        return context.out.json(&info);
    }
    context.out.step(&format!("Creating {}...", info.name))?;
    if !context.session
        && let Ok(version) = context.get::<VersionInfo>("/v1/version").await
        && !context.remember(&info.name, version.ssh_port)?
        && !context.out.quiet
    {
        say(&format!(
            "       Push to it: git remote add paas ssh://paas@<this host>:{}/{} && git push paas main",
            version.ssh_port, info.name
        ));
    }
    if context.out.quiet { context.out.line(info.name.as_str()) } else { Ok(()) }
}

/// A name nobody had to think of: `brave-harbor-4821`.
pub(crate) fn invented_name() -> Result<String> {
    const HOW: [&str; 8] = ["brave", "calm", "eager", "quiet", "rapid", "sunny", "tidal", "wide"];
    const WHAT: [&str; 8] = ["anchor", "buoy", "canal", "dock", "ferry", "harbor", "pier", "quay"];
    let mut random = [0_u8; 4];
    getrandom::fill(&mut random)
        .map_err(|error| CliError::Failed(format!("the system gives no random numbers: {error}")))?;
    let number = u16::from_be_bytes([random[2], random[3]]) % 10_000;
    let (how, what) = (HOW[usize::from(random[0] % 8)], WHAT[usize::from(random[1] % 8)]);
    Ok(format!("{how}-{what}-{number:04}"))
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
    context.confirm(
        info.name.as_str(),
        &format!("This command will destroy {app} with its releases, logs and repository.{}", kept(&info)),
    )?;
    context.act(Method::DELETE, &format!("/v1/apps/{app}"), None::<&()>).await?;
    if !context.session {
        crate::remote::forget(&app);
    }
    Ok(())
}

/// What outlives the app.
fn kept(info: &AppInfo) -> String {
    let volumes: std::collections::BTreeSet<_> =
        info.mounts.iter().map(|mount| mount.source.as_str()).collect();
    match volumes.is_empty() {
        true => String::new(),
        false => format!(" Its data stays: {}.", volumes.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

async fn clone(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let to = AppName::parse(&exactly_one(rest, "the new app's name")?)?;
    let ttl_secs = matches.get_one::<String>("ttl").map(|text| seconds(text)).transpose()?;
    let wanted = CloneApp {
        to,
        skip_deploy: matches.get_flag("skip-deploy"),
        ignore_existing: matches.get_flag("ignore-existing"),
        ttl_secs,
    };
    context.act(Method::POST, &format!("/v1/apps/{app}/clone"), Some(&wanted)).await
}

async fn lock(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let wanted = LockApp { reason: matches.get_one::<String>("reason").cloned() };
    let info: AppInfo = context.json(Method::PUT, &format!("/v1/apps/{app}/lock"), &wanted).await?;
    if context.out.json {
        return context.out.json(&info.life);
    }
    context.out.step("Deploy lock created")
}

async fn unlock(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    context.begin(Method::DELETE, &format!("/v1/apps/{app}/lock"), None::<&()>).await?.follow(None).await?;
    context.out.step("Deploy lock removed")
}

async fn locked(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let info: AppInfo = context.get(&format!("/v1/apps/{app}")).await?;
    let lock = info.life.and_then(|life| life.lock);
    if context.out.json {
        context.out.json(&lock)?;
        return if lock.is_some() { Ok(()) } else { Err(CliError::Exit(1)) };
    }
    match lock {
        None => Err(CliError::Failed("Deploy lock does not exist".into())),
        Some(lock) => {
            let reason = lock.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            context.out.step("Deploy lock exists")?;
            context.out.detail(&format!("by {} since {}{reason}", lock.by, time(lock.at_ms)))
        }
    }
}

async fn set(context: &Context, matches: &ArgMatches) -> Result<()> {
    if matches.get_flag("global") {
        return set_global(context, &crate::context::arguments(matches)).await;
    }
    let (app, rest) = context.app(matches, true).await?;
    let value = match &rest[..] {
        [key] if key == "ttl" => None,
        [key, value] if key == "ttl" => Some(value.as_str()).filter(|value| !value.is_empty()),
        [key, ..] if key == "disable-autocreation" => {
            return Err(CliError::Misuse(format!("{key} is for the platform: apps:set --global {key} true")));
        }
        _ => return Err(CliError::Misuse("write: apps:set <app> ttl [TIME]".into())),
    };
    let wanted = SetTtl { seconds: value.map(seconds).transpose()? };
    let info: AppInfo = context.json(Method::PUT, &format!("/v1/apps/{app}/ttl"), &wanted).await?;
    if context.out.json {
        return context.out.json(&info.life);
    }
    match info.life.and_then(|life| life.destroy_at_ms) {
        Some(at_ms) => context.out.step(&format!("{app} will be destroyed at {}", time(at_ms))),
        None => context.out.step(&format!("{app} stays until it is destroyed")),
    }
}

async fn set_global(context: &Context, words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let enabled = match &words[..] {
        ["disable-autocreation", "true"] => false,
        ["disable-autocreation"] | ["disable-autocreation", "" | "false"] => true,
        _ => {
            let usage = "write: apps:set --global disable-autocreation [true|false]";
            return Err(CliError::Misuse(usage.into()));
        }
    };
    let set: Autocreation = context.json(Method::PUT, "/v1/autocreation", &Autocreation { enabled }).await?;
    if context.out.json {
        return context.out.json(&set);
    }
    context.out.step(match set.enabled {
        true => "A push to an app that does not exist makes it",
        false => "A push to an app that does not exist is refused",
    })
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
    let out = context.out.of(apps.len());
    apps.iter().try_for_each(|app| describe(app).show(out, field))
}

fn describe(app: &AppInfo) -> Report {
    let formation: Vec<String> =
        app.formation.0.iter().map(|(kind, count)| format!("{kind}={count}")).collect();
    let life = app.life.clone().unwrap_or_default();
    Report::new(app.name.as_str(), "app")
        .row("App created at", time(app.created_ms))
        .row("App status", &*app.status)
        .row("App release", app.release.map(|version| version.to_string()).unwrap_or_default())
        .row("App git rev", app.git_rev.as_deref().unwrap_or_default())
        .row("App deploy branch", app.deploy_branch.as_deref().unwrap_or_default())
        .row("App builder", app.builder.as_deref().unwrap_or_default())
        .row("App formation", formation.join(" "))
        .row("App urls", app.urls.join(" "))
        .row("App locked", life.lock.is_some().to_string())
        .row("App locked by", life.lock.as_ref().map_or("", |lock| lock.by.as_str()))
        .row("App lock reason", life.lock.as_ref().and_then(|lock| lock.reason.clone()).unwrap_or_default())
        .row("App cloned from", life.cloned_from.as_ref().map_or("", AppName::as_str))
        .row("App destroyed at", life.destroy_at_ms.map(time).unwrap_or_default())
}
