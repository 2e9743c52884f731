//! `run` and `enter`: a command in an app's surroundings, its output and exit code passed through.
//!
//! In: a command line. Out: a terminal stream; the process exits as the command did.

use super::terminal;
use crate::args::{option, switch, wrapping};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output::warning;
use berth_model::api::{EnterRequest, RunRequest};
use berth_model::run::{DetachedRequest, MAX_TTL_SECS, RunInfo};
use berth_model::{EnvName, ProcessType};
use clap::{Arg, ArgAction, ArgMatches, Command};
use http::Method;
use std::collections::BTreeMap;

pub(super) fn commands() -> Vec<Command> {
    let run = wrapping(
        "run",
        "Run a command in a new container of an app",
        "[<app>] [-e KEY=VALUE] COMMAND [ARGUMENT ...]",
        &[
            "run hello bash",
            "run hello python manage.py migrate",
            "run -e DEBUG=1 hello env",
            "run --app hello -- ls -l",
        ],
    );
    let detached = wrapping(
        "run:detached",
        "Run a command in a new container that belongs to nobody; print its name",
        "[<app>] [-e KEY=VALUE] [--ttl-seconds N] COMMAND [ARGUMENT ...]",
        &["run:detached hello python import.py", "run:detached --ttl-seconds 3600 hello worker"],
    );
    let mut commands = vec![run_options(tty_options(run)), run_options(detached)];
    commands.extend(super::runs::commands());
    let enter = wrapping(
        "enter",
        "Run a command, or a shell, in a running container",
        "[<app>] [TYPE.NUMBER] [COMMAND ...]",
        &["enter hello", "enter hello web.1", "enter hello worker.2 ps aux", "enter hello run.1234"],
    )
    .visible_alias("ps:exec")
    .arg(option("container", "TYPE.NUMBER", "Which container, as in web.1").visible_alias("dyno"))
    .arg(option("container-id", "ID", "Which container, by its id or the end of it"));
    commands.push(tty_options(enter));
    commands
}

fn tty_options(command: Command) -> Command {
    command
        .arg(switch("no-tty", "No terminal, even if there is one here").short('T'))
        .arg(switch("force-tty", "A terminal, even if there is none here").conflicts_with("no-tty"))
}

fn run_options(command: Command) -> Command {
    let taken = |name| switch(name, "Taken for Dokku's and Heroku's sake: it is always so").hide(true);
    command
        .arg(
            Arg::new("env")
                .long("env")
                .short('e')
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .help("A variable for this run only"),
        )
        .arg(
            option("process-type", "TYPE", "Use the limits of this process type [default: run]")
                .visible_alias("type"),
        )
        .arg(
            option("ttl-seconds", "SECONDS", "The longest it may run [default: 86400]")
                .value_parser(clap::value_parser!(u32).range(1..=i64::from(MAX_TTL_SECS))),
        )
        .arg(option("size", "SIZE", "Heroku's sizes: taken and left out, see resource:limit").short('s'))
        .arg(taken("rm"))
        .arg(taken("no-notify"))
        .arg(taken("exit-code").short('x'))
}

/// The size of the terminal that the command gets, if it gets one.
fn wanted_terminal(matches: &ArgMatches) -> Option<(u16, u16)> {
    match (matches.get_flag("no-tty"), matches.get_flag("force-tty")) {
        (true, _) => None,
        (false, true) => Some(terminal::size().unwrap_or(terminal::USUAL)),
        (false, false) => terminal::size(),
    }
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    if !matches!(name, "run" | "run:detached" | "enter") {
        return super::runs::run(context, name, matches).await;
    }
    let (app, rest) = context.app(matches, true).await?;
    if name == "enter" {
        let tty = wanted_terminal(matches);
        let request = entered(matches, rest, tty)?;
        return terminal::run(context, &format!("/v1/apps/{app}/enter"), &request, tty.is_some()).await;
    }
    let argv = without_dashes(rest);
    if argv.is_empty() {
        return Err(CliError::Misuse(format!("no command is given: write `berth {name} {app} COMMAND`")));
    }
    if let Some(size) = matches.get_one::<String>("size") {
        warning(&format!("--size {size} is left out: Berth has no sizes; see berth resource:limit"));
    }
    let process_type = matches.get_one::<String>("process-type").map(|text| ProcessType::parse(text));
    let process_type = process_type.transpose()?;
    let ttl_secs = matches.get_one::<u32>("ttl-seconds").copied();
    let env = variables(matches)?;
    if name == "run" {
        let tty = wanted_terminal(matches);
        let request = RunRequest { argv, tty, env, process_type, ttl_secs };
        return terminal::run(context, &format!("/v1/apps/{app}/run"), &request, tty.is_some()).await;
    }
    let request = DetachedRequest { argv, env, process_type, ttl_secs };
    let run: RunInfo = context.json(Method::POST, &format!("/v1/apps/{app}/runs"), &request).await?;
    if context.out.json { context.out.json(&run) } else { context.out.line(&run.name) }
}

fn without_dashes(mut words: Vec<String>) -> Vec<String> {
    if words.first().is_some_and(|word| word == "--") {
        words.remove(0);
    }
    words
}

fn variables(matches: &ArgMatches) -> Result<BTreeMap<EnvName, String>> {
    let pairs = matches.get_many::<String>("env").into_iter().flatten();
    let pair = |word: &String| {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| CliError::Misuse(format!("--env {word:?} is no KEY=VALUE")))?;
        Ok((EnvName::parse(key)?, value.to_owned()))
    };
    pairs.map(pair).collect()
}

/// Which container, and what in it: `enter app`, `enter app web`, `enter app web.2 ls -l`, `enter --container web.2 app ls`.
fn entered(matches: &ArgMatches, rest: Vec<String>, tty: Option<(u16, u16)>) -> Result<EnterRequest> {
    let mut words = rest;
    let mut container = matches.get_one::<String>("container-id").cloned();
    let mut by_name = matches.get_one::<String>("container").cloned();
    // Behind the app, where Dokku's users write them.
    for (option, into) in [("--container-id", &mut container), ("--container", &mut by_name)] {
        let Some(first) = words.first() else { break };
        if let Some(value) = first.strip_prefix(option).and_then(|rest| rest.strip_prefix('=')) {
            *into = Some(value.to_owned());
            words.remove(0);
        } else if first == option {
            words.remove(0);
            if words.is_empty() {
                return Err(CliError::Misuse(format!("{option} needs a value")));
            }
            *into = Some(words.remove(0));
        }
    }
    let named = match by_name {
        Some(name) => Some(name),
        None if container.is_some() || words.is_empty() || words[0] == "--" => None,
        None => Some(words.remove(0)),
    };
    let (process, ordinal) = match named {
        Some(name) => container_name(&name)?,
        None => (ProcessType::web(), None),
    };
    Ok(EnterRequest { process, ordinal: ordinal.unwrap_or(1), container, argv: without_dashes(words), tty })
}

/// `web` or `web.2`.
pub(super) fn container_name(text: &str) -> Result<(ProcessType, Option<u32>)> {
    match text.rsplit_once('.') {
        None => Ok((ProcessType::parse(text)?, None)),
        Some((process, ordinal)) => {
            let ordinal = ordinal.parse().ok().filter(|ordinal| *ordinal > 0);
            let ordinal = ordinal.ok_or_else(|| {
                CliError::Misuse(format!("{text:?} is no container: write a type and a number, as in web.1"))
            })?;
            Ok((ProcessType::parse(process)?, Some(ordinal)))
        }
    }
}
