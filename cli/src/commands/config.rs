//! `config:*`: environment variables of one app, or of all with `--global`.
//!
//! In: `KEY=VALUE` words or a file. Out: a patch; or the variables in one of five formats.

use super::envfile::{self, Format};
use super::not_here;
use crate::args::{command, option, switch};
use crate::context::{Context, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::table;
use base64::Engine;
use berth_model::EnvName;
use berth_model::api::{Config, PatchConfig};
use clap::{ArgMatches, Command};
use http::Method;
use std::collections::BTreeMap;
use std::io::Read;

pub(super) fn commands() -> Vec<Command> {
    let global = || switch("global", "The variables of all apps; an app's own win");
    let no_restart = || switch("no-restart", "Only store; the next deploy or restart takes it up");
    let examples = ["config:set hello GREETING=bonjour", "config:set -a hello A=1 B=2 --no-restart"];
    vec![
        command("config:show", "Show an app's variables", "[<app>|--global]", &["config hello"])
            .visible_alias("config")
            .arg(global()),
        command("config:get", "Print one variable", "[<app>|--global] KEY", &["config:get hello GREETING"])
            .arg(global())
            .arg(switch("quoted", "With single quotes, for a shell")),
        command("config:keys", "List the names", "[<app>|--global]", &["config:keys hello"]).arg(global()),
        command("config:set", "Set variables and restart", "[<app>|--global] KEY=VALUE ...", &examples)
            .arg(global())
            .arg(no_restart())
            .arg(switch("encoded", "The values are base64, for spaces and newlines")),
        command(
            "config:unset",
            "Remove variables and restart",
            "[<app>|--global] KEY ...",
            &["config:unset hello GREETING"],
        )
        .arg(global())
        .arg(no_restart()),
        command(
            "config:clear",
            "Remove all variables and restart",
            "[<app>|--global]",
            &["config:clear hello"],
        )
        .arg(global())
        .arg(no_restart()),
        command(
            "config:export",
            "Print all variables for another program",
            "[<app>|--global] [--format FORMAT]",
            &["config:export hello", "config:export --format envfile hello > .env"],
        )
        .arg(global())
        .arg(
            option("format", "FORMAT", "exports, envfile, json, shell or docker-args")
                .value_parser(Format::NAMES),
        ),
        command(
            "config:import",
            "Set variables from a file, or from standard input",
            "[<app>|--global] [FILE|-]",
            &["config:import hello .env", "config:import hello --format json - < vars.json"],
        )
        .arg(global())
        .arg(no_restart())
        .arg(switch("replace", "Remove all others"))
        .arg(option("format", "FORMAT", "envfile (default) or json").value_parser(["envfile", "json"])),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "config:show" => show(context, matches).await,
        "config:get" => get(context, matches).await,
        "config:keys" => keys(context, matches).await,
        "config:set" => set(context, matches).await,
        "config:unset" => unset(context, matches).await,
        "config:clear" => clear(context, matches).await,
        "config:export" => export(context, matches).await,
        "config:import" => import(context, matches).await,
        _ => Err(not_here(name)),
    }
}

/// Where the variables of all apps are.
const GLOBAL: &str = "/v1/config";

/// Whose variables: a path of the API, what to call it, and the other arguments.
struct Scope {
    path: String,
    title: String,
    rest: Vec<String>,
}

async fn scope(context: &Context, matches: &ArgMatches, takes_more: bool) -> Result<Scope> {
    if matches.get_flag("global") {
        let rest = crate::context::arguments(matches);
        return Ok(Scope { path: GLOBAL.into(), title: "global".into(), rest });
    }
    let (app, rest) = context.app(matches, takes_more).await?;
    Ok(Scope { path: format!("/v1/apps/{app}/config"), title: app.to_string(), rest })
}

async fn all(context: &Context, matches: &ArgMatches) -> Result<(Scope, BTreeMap<EnvName, String>)> {
    let scope = scope(context, matches, false).await?;
    none_left(&scope.rest)?;
    let Config(variables) = context.get(&scope.path).await?;
    Ok((scope, variables))
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (scope, variables) = all(context, matches).await?;
    if context.out.json {
        return context.out.json(&variables);
    }
    context.out.header(&format!("{} env vars", scope.title))?;
    let rows: Vec<_> =
        variables.iter().map(|(key, value)| vec![format!("{key}:"), one_line(value)]).collect();
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

/// A value of several lines on one, as `config:show` prints it.
fn one_line(value: &str) -> String {
    value.replace('\n', "\\n")
}

async fn get(context: &Context, matches: &ArgMatches) -> Result<()> {
    let scope = scope(context, matches, true).await?;
    let key = EnvName::parse(&exactly_one(scope.rest, "the variable's name")?)?;
    let Config(variables) = context.get(&scope.path).await?;
    let value = variables.get(&key).ok_or(CliError::Exit(1))?; // as Dokku: no words, the code says it
    if context.out.json {
        return context.out.json(value);
    }
    if matches.get_flag("quoted") {
        return context.out.value(&envfile::single_quoted(value));
    }
    context.out.value(value)
}

async fn keys(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (scope, variables) = all(context, matches).await?;
    if context.out.json {
        return context.out.json(&variables.keys().collect::<Vec<_>>());
    }
    context.out.header(&format!("{} config variable keys", scope.title))?;
    variables.keys().try_for_each(|key| context.out.line(key.as_str()))
}

async fn set(context: &Context, matches: &ArgMatches) -> Result<()> {
    let scope = scope(context, matches, true).await?;
    if scope.rest.is_empty() {
        return Err(CliError::Misuse("nothing to set: write KEY=VALUE".into()));
    }
    let pair = |word: &String| {
        let (key, value) = word.split_once('=').ok_or_else(|| {
            CliError::Misuse(format!(
                "{word:?} is no KEY=VALUE; a value with spaces wants quotes, or --encoded"
            ))
        })?;
        let key = EnvName::parse(key)?;
        let value = if matches.get_flag("encoded") { decoded(&key, value)? } else { value.to_owned() };
        Ok((key, value))
    };
    let set = scope.rest.iter().map(pair).collect::<Result<BTreeMap<_, _>>>()?;
    let patch = PatchConfig { set, no_restart: matches.get_flag("no-restart"), ..PatchConfig::default() };
    let shown: Vec<_> =
        patch.set.iter().map(|(key, value)| vec![format!("{key}:"), one_line(value)]).collect();
    change(context, &scope, &patch, "Setting config vars", &table(&shown)).await
}

/// Sends a patch, says what was accepted, and shows the restart if there is one.
async fn change(
    context: &Context,
    scope: &Scope,
    patch: &PatchConfig,
    said: &str,
    details: &[String],
) -> Result<()> {
    let operation = context.begin(Method::PATCH, &scope.path, Some(patch)).await?;
    context.out.step(said)?;
    details.iter().try_for_each(|line| context.out.detail(line))?;
    let restarting = match scope.path.as_str() {
        GLOBAL => "Restarting all apps".to_owned(),
        _ => format!("Restarting app {}", scope.title),
    };
    operation.follow(Some(&restarting)).await
}

fn decoded(key: &EnvName, value: &str) -> Result<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.trim());
    let bytes =
        bytes.map_err(|error| CliError::Misuse(format!("the value of {key} is no base64: {error}")))?;
    String::from_utf8(bytes).map_err(|_| CliError::Misuse(format!("the value of {key} is no UTF-8")))
}

async fn unset(context: &Context, matches: &ArgMatches) -> Result<()> {
    let scope = scope(context, matches, true).await?;
    if scope.rest.is_empty() {
        return Err(CliError::Misuse("nothing to remove: name the variables".into()));
    }
    let unset = scope.rest.iter().map(|key| Ok(EnvName::parse(key)?)).collect::<Result<Vec<_>>>()?;
    let shown: Vec<String> = unset.iter().map(ToString::to_string).collect();
    let patch = PatchConfig { unset, no_restart: matches.get_flag("no-restart"), ..PatchConfig::default() };
    change(context, &scope, &patch, "Unsetting config vars", &shown).await
}

async fn clear(context: &Context, matches: &ArgMatches) -> Result<()> {
    let scope = scope(context, matches, false).await?;
    none_left(&scope.rest)?;
    let patch =
        PatchConfig { replace: true, no_restart: matches.get_flag("no-restart"), ..PatchConfig::default() };
    change(context, &scope, &patch, "Clearing config vars", &[]).await
}

async fn export(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (_, variables) = all(context, matches).await?;
    let format = matches.get_one::<String>("format").map_or("exports", String::as_str);
    match Format::parse(format) {
        None => Err(CliError::Misuse(format!("{format:?} is no format: use {}", Format::NAMES.join(", ")))),
        Some(Format::Json) => context.out.json(&variables),
        Some(format) => context.out.raw(envfile::print(format, &variables).as_bytes()),
    }
}

async fn import(context: &Context, matches: &ArgMatches) -> Result<()> {
    let scope = scope(context, matches, true).await?;
    let file = match &scope.rest[..] {
        [] => "-",
        [file] => file,
        [_, more, ..] => return Err(CliError::Misuse(format!("{more:?} is one argument too many"))),
    };
    let text = read_input(context, file)?;
    let set = match matches.get_one::<String>("format").map(String::as_str) {
        Some("json") => serde_json::from_str(&text).map_err(|error| {
            CliError::Failed(format!("{file} is no JSON object of names and texts: {error}"))
        })?,
        _ => envfile::parse(&text).map_err(|error| CliError::Failed(format!("{file}: {error}")))?,
    };
    let replace = matches.get_flag("replace");
    let patch =
        PatchConfig { set, replace, no_restart: matches.get_flag("no-restart"), ..PatchConfig::default() };
    let names: Vec<String> = patch.set.keys().map(ToString::to_string).collect();
    change(context, &scope, &patch, "Setting config vars", &names).await
}

/// The text of a file or (`-`) of standard input; at most 4 MiB.
pub(super) fn read_input(context: &Context, file: &str) -> Result<String> {
    const LIMIT: u64 = 4 << 20;
    let failed = |error: std::io::Error| CliError::Failed(format!("cannot read {file}: {error}"));
    let mut text = String::new();
    if file == "-" {
        std::io::stdin().lock().take(LIMIT + 1).read_to_string(&mut text).map_err(failed)?;
    } else {
        context.may_read(file)?;
        std::fs::File::open(file)
            .map_err(failed)?
            .take(LIMIT + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
    }
    if text.len() as u64 > LIMIT {
        return Err(CliError::Failed(format!("{file} is longer than 4 MiB")));
    }
    Ok(text)
}
