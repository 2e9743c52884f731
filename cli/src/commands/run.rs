//! `run` and `enter`: a command in an app's surroundings, its output and exit code passed through.
//!
//! In: a command line. Out: a terminal stream; the process exits as the command did.

use super::{not_here, terminal};
use crate::args::{option, switch, wrapping};
use crate::context::Context;
use crate::error::{CliError, Result};
use berth_model::api::{EnterRequest, RunRequest};
use berth_model::{EnvName, ProcessType};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::BTreeMap;

/// What `enter` runs unless told otherwise: the best shell the image has.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash || exec sh"];

pub(super) fn commands() -> Vec<Command> {
    let no_tty = || switch("no-tty", "No terminal, even if there is one here").short('T');
    vec![
        wrapping(
            "run",
            "Run a command in a new container of an app",
            "[<app>] [-e KEY=VALUE] COMMAND [ARGUMENT ...]",
            &[
                "run hello bash",
                "run hello python manage.py migrate",
                "run -e DEBUG=1 hello env",
                "run --app hello -- ls -l",
            ],
        )
        .arg(no_tty())
        .arg(
            Arg::new("env")
                .long("env")
                .short('e')
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .help("A variable for this run only"),
        ),
        wrapping(
            "enter",
            "Run a command, or a shell, in a running container",
            "[<app>] [TYPE.NUMBER] [COMMAND ...]",
            &["enter hello", "enter hello web.1", "enter hello worker.2 ps aux"],
        )
        .visible_alias("ps:exec")
        .arg(no_tty())
        .arg(option("container", "TYPE.NUMBER", "Which container, as in web.1").visible_alias("dyno")),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let tty = if matches.get_flag("no-tty") { None } else { terminal::size() };
    match name {
        "run" => {
            let argv = without_dashes(rest);
            if argv.is_empty() {
                return Err(CliError::Misuse(format!(
                    "no command is given: write `berth run {app} COMMAND`"
                )));
            }
            let request = RunRequest { argv, tty, env: variables(matches)? };
            terminal::run(context, &format!("/v1/apps/{app}/run"), &request, tty.is_some()).await
        }
        "enter" => {
            let (process, ordinal, argv) = entered(matches, rest)?;
            let request = EnterRequest { process, ordinal, argv, tty };
            terminal::run(context, &format!("/v1/apps/{app}/enter"), &request, tty.is_some()).await
        }
        _ => Err(not_here(name)),
    }
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
fn entered(matches: &ArgMatches, rest: Vec<String>) -> Result<(ProcessType, u32, Vec<String>)> {
    let mut words = rest;
    let named = match matches.get_one::<String>("container") {
        Some(name) => Some(name.clone()),
        None if words.is_empty() || words[0] == "--" => None,
        None => Some(words.remove(0)),
    };
    let (process, ordinal) = match named {
        Some(name) => container_name(&name)?,
        None => (ProcessType::web(), None),
    };
    let words = without_dashes(words);
    let argv = if words.is_empty() { SHELL.map(str::to_owned).to_vec() } else { words };
    Ok((process, ordinal.unwrap_or(1), argv))
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
