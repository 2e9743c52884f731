//! `drains:*`: logs sent somewhere else.
//!
//! In: an app or `--global`, an address. Out: drains with how they do; secrets of addresses are never shown.

use super::not_here;
use crate::args::{command, switch};
use crate::context::{Context, arguments, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, time};
use berth_model::AppName;
use berth_model::logs::{AddDrain, DrainInfo};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "drains:add",
            "Send an app's lines there from now on, or all apps'",
            "[<app>|--global] URL",
            &[
                "drains:add hello syslog+tls://logs.example.com:6514",
                "drains:add hello https://user:password@logs.example.com/in",
                "drains:add --global otlp+https://collector.example.com",
            ],
        )
        .arg(switch("global", "All apps' lines")),
        command("drains:list", "Show where lines go, and how that goes", "[<app>]", &["drains:list"])
            .visible_alias("drains"),
        command("drains:remove", "Send nothing there any more", "[<app>] ID", &["drains:remove 1a2b3c4d"]),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "drains:add" => add(context, matches).await,
        "drains:list" => list(context, matches).await,
        "drains:remove" => remove(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn add(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = if matches.get_flag("global") {
        if context.named_app().is_some() {
            return Err(CliError::Misuse("--global is for all apps, --app for one: use one of them".into()));
        }
        (None, arguments(matches))
    } else {
        let (app, rest) = context.app(matches, true).await?;
        (Some(app), rest)
    };
    let url = exactly_one(rest, "the address")?;
    let drain: DrainInfo = context.json(Method::POST, "/v1/drains", &AddDrain { app, url }).await?;
    if context.out.json {
        return context.out.json(&drain);
    }
    let whose = drain.app.as_ref().map_or("all apps".to_owned(), ToString::to_string);
    context
        .out
        .step(&format!("Sending the lines of {whose} to {} from now on (drain {})", drain.url, drain.id))
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut rest = arguments(matches);
    let app = match context.named_app() {
        Some(app) => Some(AppName::parse(app)?),
        None if rest.is_empty() => None,
        None => Some(AppName::parse(&rest.remove(0))?),
    };
    none_left(&rest)?;
    if let Some(app) = &app
        && !context.exists(app).await?
    {
        return Err(CliError::NoApp(format!("App {app} does not exist")));
    }
    let mut drains: Vec<DrainInfo> = context.get("/v1/drains").await?;
    drains.retain(|drain| app.is_none() || drain.app.is_none() || drain.app == app);
    if context.out.json {
        return context.out.json(&drains);
    }
    context.out.header("Drains")?;
    let mut rows = Vec::new();
    for drain in &drains {
        let whose = drain.app.as_ref().map_or("--global".to_owned(), ToString::to_string);
        let (mut sent, mut dropped, mut last, mut error) = (0, 0, None, String::new());
        for (node, status) in &drain.nodes {
            sent += status.sent;
            dropped += status.dropped;
            last = last.max(status.last_sent_ms);
            if let Some(text) = &status.error {
                error = format!("{node}: {text}");
            }
        }
        let last = last.map_or("-".to_owned(), time);
        rows.push(vec![
            drain.id.clone(),
            whose,
            drain.url.clone(),
            format!("{sent} sent"),
            format!("{dropped} dropped"),
            last,
            error,
        ]);
    }
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

async fn remove(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut rest = arguments(matches);
    // `drains:remove APP ID`, as Heroku has it, means the same.
    if rest.len() == 2 {
        AppName::parse(&rest.remove(0))?;
    }
    let id = super::alerts::id(&exactly_one(rest, "the drain's id")?, "drains:list")?;
    context.act(Method::DELETE, &format!("/v1/drains/{id}"), None::<&()>).await?;
    context.out.step(&format!("Removed drain {id}"))
}
