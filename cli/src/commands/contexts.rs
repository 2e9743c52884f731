//! `context:*`: the clusters that commands can go to.
//!
//! In: names and addresses. Out: the user's own file of contexts. Nothing here speaks to a platform.

use super::not_here;
use crate::args::{command, option, report};
use crate::context::{Context, arguments, exactly_one, none_left};
use crate::contexts::{Cluster, Contexts};
use crate::error::{CliError, Result};
use crate::output::{say, table};
use crate::report::Report;
use crate::ssh;
use clap::{ArgMatches, Command};
use std::io::{IsTerminal, Read};

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "context:add",
            "Remember a cluster, and use it if it is the first",
            "NAME --host https://HOST|ssh://USER@HOST:PORT",
            &[
                "context:add prod --host https://berth.example.com",
                "context:add lab --host ssh://paas@lab.example.com:2222",
            ],
        )
        .arg(option(
            "token",
            "TOKEN",
            "A token of tokens:create; - reads it from stdin [env: BERTH_TOKEN, else asked]",
        ))
        .arg(option("ca", "FILE", "PEM file to trust instead of the system's [env: BERTH_CA]")),
        command("context:list", "List the clusters that are remembered", "", &["context:list"])
            .visible_alias("context"),
        command("context:use", "Send commands to another cluster from now on", "NAME", &["context:use prod"]),
        command("context:remove", "Forget a cluster", "NAME", &["context:remove lab"]),
        report(
            "context:show",
            "Show where commands go",
            "[NAME] [--KEY]",
            &["context:show", "context:show prod --address"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    if context.session {
        return Err(CliError::Misuse("contexts are kept where you type, not on the platform".into()));
    }
    let words = arguments(matches);
    match name {
        "context:add" => add(context, words, matches),
        "context:list" => {
            none_left(&words)?;
            list(context)
        }
        "context:use" => {
            let mut contexts = Contexts::load()?;
            let name = exactly_one(words, "the context's name")?;
            let host = contexts.get(&name)?.host.clone();
            contexts.current = Some(name.clone());
            contexts.save()?;
            context.out.step(&format!("Commands go to {name} at {host}"))
        }
        "context:remove" => {
            let mut contexts = Contexts::load()?;
            let name = exactly_one(words, "the context's name")?;
            contexts.get(&name)?;
            contexts.all.remove(&name);
            if contexts.current.as_ref() == Some(&name) {
                contexts.current = None;
            }
            contexts.save()?;
            context.out.step(&format!("Forgot {name}"))
        }
        "context:show" => show(context, words, matches),
        _ => Err(not_here(name)),
    }
}

fn add(context: &Context, words: Vec<String>, matches: &ArgMatches) -> Result<()> {
    let name = exactly_one(words, "the context's name")?;
    crate::context::holder_name(&name)?;
    let host = context.said_host().ok_or_else(|| {
        CliError::Misuse("where is it? Write --host https://HOST, or --host ssh://USER@HOST:PORT".into())
    })?;
    let mut contexts = Contexts::load()?;
    let over_ssh = ssh::Address::of_url(host).is_some();
    let token = if over_ssh { None } else { Some(token(matches)?) };
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let ca = matches.get_one::<String>("ca").cloned().or_else(|| variable("BERTH_CA"));
    let ca = ca.map(std::path::absolute).transpose();
    let ca = ca.map_err(|error| CliError::Misuse(format!("--ca is no path: {error}")))?;
    let cluster = Cluster { host: host.to_owned(), token, ca };
    if !over_ssh {
        crate::endpoint::Target::of(&cluster).client()?; // its address and token are looked at, nobody is asked
    }
    contexts.all.insert(name.clone(), cluster);
    let first = contexts.current.is_none();
    if first {
        contexts.current = Some(name.clone());
    }
    contexts.save()?;
    context.out.step(&format!("Remembered {name} at {host}"))?;
    if first {
        return context.out.detail("Commands go there from now on");
    }
    context.out.detail(&format!("berth context:use {name} sends commands there"))
}

/// `--token`, else `BERTH_TOKEN`, else asked for without echo.
fn token(matches: &ArgMatches) -> Result<String> {
    let failed = |error: std::io::Error| CliError::Failed(format!("cannot read the token: {error}"));
    let said = matches.get_one::<String>("token").cloned();
    let variable = std::env::var("BERTH_TOKEN").ok().filter(|token| !token.is_empty());
    let text = match said.or(variable) {
        Some(text) if text != "-" => text,
        None if std::io::stdin().is_terminal() => crate::prompt::hidden("Token: ").map_err(failed)?,
        _ => {
            let mut text = String::new();
            std::io::stdin().lock().take(4096).read_to_string(&mut text).map_err(failed)?;
            text
        }
    };
    let text = text.trim().to_owned();
    if text.is_empty() {
        let advice = "there is no token: make one there with `berth tokens:create NAME`, and send it on standard input";
        return Err(CliError::Misuse(advice.into()));
    }
    Ok(text)
}

fn list(context: &Context) -> Result<()> {
    let contexts = Contexts::load()?;
    let is_current = |name: &String| contexts.current.as_ref() == Some(name);
    if context.out.json {
        let one = |(name, cluster): (&String, &Cluster)| serde_json::json!({"name": name, "host": cluster.host, "current": is_current(name)});
        return context.out.json(&contexts.all.iter().map(one).collect::<Vec<_>>());
    }
    context.out.header("Contexts")?;
    let row = |(name, cluster): (&String, &Cluster)| {
        let mark = if is_current(name) { "*" } else { " " };
        vec![mark.to_owned(), name.clone(), cluster.host.clone()]
    };
    table(&contexts.all.iter().map(row).collect::<Vec<_>>())
        .iter()
        .try_for_each(|line| context.out.line(line))
}

fn show(context: &Context, mut words: Vec<String>, matches: &ArgMatches) -> Result<()> {
    let contexts = Contexts::load()?;
    let name = if words.is_empty() { contexts.current.clone() } else { Some(words.remove(0)) };
    none_left(&words)?;
    let field = matches.get_one::<String>("field").map(String::as_str);
    let Some(name) = name else {
        if field.is_none() && !context.out.quiet {
            say(
                "No context is in use: commands go to BERTH_HOST, to this machine, or where the git remote leads",
            );
        }
        let report = Report::new("no", "context").row("Address", "").row("Token", "").row("Ca", "");
        return report.row("Current", "false").show(context.out, field);
    };
    let cluster = contexts.get(&name)?;
    let token = if cluster.token.is_some() { berth_model::config_api::MASK } else { "" };
    let ca = cluster.ca.as_ref().map(|ca| ca.display().to_string()).unwrap_or_default();
    Report::new(&name, "context")
        .row("Address", &*cluster.host)
        .row("Token", token)
        .row("Ca", ca)
        .row("Current", (contexts.current.as_ref() == Some(&name)).to_string())
        .show(context.out, field)
}
