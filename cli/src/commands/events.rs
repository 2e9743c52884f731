//! `events`: who changed what, from where, and how it went.
//!
//! In: a stream of [`EventInfo`]s. Out: `2026-03-04T05:06:07Z hello alice ssh 192.0.2.1: scaled web=2`.

use super::when;
use crate::args::{command, option, switch};
use crate::context::{Context, none_left};
use crate::error::{CliError, Result};
use crate::output::time;
use berth_model::AppName;
use berth_model::events::{EventInfo, EventResult};
use clap::{ArgMatches, Command};

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "events",
            "Show what was changed, or follow it",
            "[<app>] [-t] [-n COUNT] [--kind KIND] [--by NAME] [--result RESULT] [--since TIME]",
            &[
                "events",
                "events -t",
                "events hello -n 20",
                "events --kind config --since 2d",
                "events --by ada --result failed",
                "events --format json",
            ],
        )
        .visible_alias("events:list")
        .args([
            switch("tail", "Go on showing new ones").short('t'),
            option("num", "COUNT", "How many back [default: 100]")
                .short('n')
                .value_parser(clap::value_parser!(u32).range(0..=10_000)),
            option("kind", "KIND", "Only of this kind, such as config.set, or family, such as config"),
            option("by", "NAME", "Only of this token or SSH key, or of local or berth"),
            option("result", "RESULT", "Only what ended so: done, failed or interrupted")
                .value_parser(EventResult::ALL.map(EventResult::as_str)),
            when::since(),
            when::until(),
        ]),
    ]
}

pub(super) async fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    // Not what a git remote names: events are the platform's unless an app is asked for.
    let mut rest = crate::context::arguments(matches);
    let app = match context.named_app() {
        Some(app) => Some(AppName::parse(app)?),
        None if rest.is_empty() => None,
        None => Some(AppName::parse(&rest.remove(0))?),
    };
    none_left(&rest)?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    let count = matches.get_one::<u32>("num").copied().unwrap_or(100);
    query.append_pair("lines", &count.to_string());
    query.append_pair("follow", if matches.get_flag("tail") { "true" } else { "false" });
    if let Some(app) = &app {
        query.append_pair("app", app.as_str());
    }
    for name in ["kind", "by", "result"] {
        if let Some(value) = matches.get_one::<String>(name) {
            query.append_pair(name, value);
        }
    }
    for name in ["since", "until"] {
        if let Some(ms) = when::asked(matches, name)? {
            query.append_pair(name, &ms.to_string());
        }
    }
    let path = format!("/v1/events?{}", query.finish());
    let mut lines = context.lines(&path).await?;
    let mut any = false;
    while let Some(event) = lines.next::<EventInfo>().await? {
        any = true;
        if context.out.json {
            context.out.json_line(&event)?;
        } else {
            context.out.line(&shown(&event))?;
        }
    }
    // An app that is gone has events; one that never was has none.
    match app {
        Some(app) if !any && !context.exists(&app).await? => {
            Err(CliError::NoApp(format!("App {app} does not exist, and there are no events of it")))
        }
        _ => Ok(()),
    }
}

fn shown(event: &EventInfo) -> String {
    let app = event.app.as_ref().map_or("-", AppName::as_str);
    let from = if event.from.is_empty() { String::new() } else { format!(" from {}", event.from) };
    let mut line = format!("{} {app} {}{from}: {}", time(event.at_ms), event.by, event.text);
    if let Some(ms) = event.took_ms.filter(|ms| *ms >= 1000) {
        line.push_str(&format!(" ({}.{} s)", ms / 1000, ms % 1000 / 100));
    }
    if event.result != EventResult::Done {
        line.push_str(&format!(" [{}", event.result.as_str()));
        if let Some(reason) = &event.reason {
            line.push_str(&format!(": {reason}"));
        }
        line.push(']');
    }
    line
}
