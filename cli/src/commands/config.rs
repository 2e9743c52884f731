//! `config:*`: environment variables of one app, or of all with `--global`.
//!
//! In: `KEY=VALUE` words or a file. Out: a patch; or the variables in one of several formats. What is secret, and files,
//! are never among them: the platform does not give them out.

use super::config_show;
use super::envfile::Format;
use super::not_here;
use crate::args::{command, option, switch};
use crate::context::{Context, arguments, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, warning};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_model::api::PatchConfig;
use berth_model::config_api::{MASK, Variable, VariableKind};
use berth_model::secrets::{SECRETS_DIR, SecretBytes};
use berth_model::{EnvName, envfile};
use clap::{ArgMatches, Command};
use http::Method;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};

pub(super) fn commands() -> Vec<Command> {
    let global = || switch("global", "The variables of all apps; an app's own win");
    let merged = || switch("merged", "With the variables of all apps below the app's own");
    let no_restart = || switch("no-restart", "Only store; the next deploy or restart takes it up");
    let encoded = || switch("encoded", "The values are base64, for spaces and newlines");
    vec![
        command(
            "config:show",
            "Show an app's variables",
            "[<app>|--global]",
            &["config:show hello", "config:show hello --masked"],
        )
        .visible_alias("config")
        .arg(global())
        .arg(merged())
        .arg(switch("masked", "Asterisks in place of values")),
        command("config:get", "Print one variable", "[<app>|--global] KEY", &["config:get hello GREETING"])
            .arg(global())
            .arg(switch("quoted", "With single quotes, for a shell"))
            .arg(switch("encoded", "As base64")),
        command("config:keys", "List the names", "[<app>|--global]", &["config:keys hello"])
            .arg(global())
            .arg(merged()),
        command(
            "config:set",
            "Set variables and restart",
            "[<app>|--global] KEY=VALUE ...",
            &[
                "config:set hello GREETING=bonjour",
                "config:set -a hello A=1 B=2 --no-restart",
                "config:set hello --secret API_TOKEN",
                "config:set hello --file TLS_KEY=./key.pem",
            ],
        )
        .arg(global())
        .arg(no_restart())
        .arg(encoded())
        .arg(switch(
            "secret",
            "Never shown again, only used. A KEY without a value is asked for, or read from stdin",
        ))
        .arg(
            switch("file", "Each VALUE is a file (- for stdin), which containers see as /run/secrets/KEY")
                .conflicts_with("encoded"),
        ),
        command(
            "config:unset",
            "Remove variables and restart",
            "[<app>|--global] KEY ...",
            &["config:unset hello GREETING"],
        )
        .visible_alias("config:remove")
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
            &["config:export hello", "config:export --format envfile hello"],
        )
        .arg(global())
        .arg(merged())
        .arg(switch("encoded", "Values as base64"))
        .arg(option("format", "FORMAT", "How they are written").value_parser(Format::NAMES)),
        command(
            "config:import",
            "Set variables from a file, or from standard input",
            "[<app>|--global] [FILE|-]",
            &["config:import hello .env", "config:import hello --format json - < vars.json"],
        )
        .arg(global())
        .arg(no_restart())
        .arg(encoded())
        .arg(switch("secret", "Never shown again, only used"))
        .arg(switch("replace", "Remove all others"))
        .arg(
            option("format", "FORMAT", "envfile (default), exports or json")
                .value_parser(["envfile", "exports", "json"]),
        ),
        command(
            "config:bundle",
            "Print all variables as a tar archive, one file a variable",
            "[<app>|--global]",
            &["config:bundle hello > hello.tar"],
        )
        .arg(global())
        .arg(merged()),
        command(
            "config:history",
            "Show who changed which variables, and when",
            "[<app>|--global]",
            &["config:history hello"],
        )
        .arg(global()),
        command(
            "config:diff",
            "Show how the variables of two releases differ, or of one and now",
            "[<app>] [VERSION] [VERSION]",
            &["config:diff hello", "config:diff hello v3 v5", "config:diff hello v3 --reveal"],
        )
        .arg(switch("reveal", "Show values, but for secret ones")),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "config:set" => set(context, matches).await,
        "config:unset" => unset(context, matches).await,
        "config:clear" => clear(context, matches).await,
        "config:import" => import(context, matches).await,
        "config:show" => config_show::show(context, matches).await,
        "config:get" => config_show::get(context, matches).await,
        "config:keys" => config_show::keys(context, matches).await,
        "config:export" => config_show::export(context, matches).await,
        "config:bundle" => config_show::bundle(context, matches).await,
        "config:history" => config_show::history(context, matches).await,
        "config:diff" => config_show::diff(context, matches).await,
        _ => Err(not_here(name)),
    }
}

/// Where the variables of all apps are.
const GLOBAL: &str = "/v1/config";

/// Whose variables: a path of the API, what to call it, and the other arguments.
pub(super) struct Scope {
    pub(super) path: String,
    pub(super) title: String,
    pub(super) rest: Vec<String>,
}

pub(super) async fn scope(context: &Context, matches: &ArgMatches, takes_more: bool) -> Result<Scope> {
    if matches.get_flag("global") {
        if let Some(app) = context.named_app() {
            return Err(CliError::Misuse(format!("--global and --app {app} exclude each other")));
        }
        return Ok(Scope { path: GLOBAL.into(), title: "global".into(), rest: arguments(matches) });
    }
    let (app, rest) = context.app(matches, takes_more).await?;
    Ok(Scope { path: format!("/v1/apps/{app}/config"), title: app.to_string(), rest })
}

/// The variables of a scope.
pub(super) async fn variables(context: &Context, scope: &Scope, query: &str) -> Result<Vec<Variable>> {
    context.get(&format!("{}/variables{query}", scope.path)).await
}

/// A value of several lines on one, as `config:show` prints it.
pub(super) fn one_line(value: &str) -> String {
    value.replace('\n', "\\n")
}

/// What names stand for now; empty when that cannot be told, for the change itself will say why.
async fn kinds(context: &Context, scope: &Scope) -> BTreeMap<EnvName, VariableKind> {
    let known = variables(context, scope, "?masked=true").await.unwrap_or_default();
    known.into_iter().map(|variable| (variable.name, variable.kind)).collect()
}

async fn set(context: &Context, matches: &ArgMatches) -> Result<()> {
    let scope = scope(context, matches, true).await?;
    if scope.rest.is_empty() {
        return Err(CliError::Misuse("nothing to set: write KEY=VALUE".into()));
    }
    let (secret, encoded) = (matches.get_flag("secret"), matches.get_flag("encoded"));
    let mut patch =
        PatchConfig { no_restart: matches.get_flag("no-restart"), secret, ..PatchConfig::default() };
    let mut asked = false;
    for word in &scope.rest {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (EnvName::parse(key)?, Some(value)),
            None if secret && !matches.get_flag("file") => (EnvName::parse(word)?, None),
            None => {
                return Err(CliError::Misuse(format!(
                    "{word:?} is no KEY=VALUE; a value with spaces wants quotes, or --encoded"
                )));
            }
        };
        if patch.set.contains_key(&key) || patch.files.contains_key(&key) {
            return Err(CliError::Misuse(format!("{key} is there twice; say it once")));
        }
        if matches.get_flag("file") {
            patch.files.insert(key, SecretBytes(file_bytes(context, value.unwrap_or_default())?));
            continue;
        }
        let value = match value {
            Some(value) => value.to_owned(),
            None if asked && !std::io::stdin().is_terminal() => {
                return Err(CliError::Misuse("only one value can be read from standard input".into()));
            }
            None => {
                asked = true;
                asked_for(&key)?
            }
        };
        let value = if encoded { decoded(&key, &value)? } else { value };
        patch.set.insert(key, value);
    }
    let kinds = kinds(context, &scope).await;
    let shown = |(key, value): (&EnvName, &String)| {
        let hidden = secret || kinds.get(key).is_some_and(|kind| *kind != VariableKind::Plain);
        vec![format!("{key}:"), if hidden { MASK.to_owned() } else { one_line(value) }]
    };
    let mut rows: Vec<_> = patch.set.iter().map(shown).collect();
    rows.extend(patch.files.iter().map(|(key, bytes)| {
        vec![format!("{key}:"), format!("{SECRETS_DIR}/{key}, {} bytes", bytes.0.len())]
    }));
    change(context, &scope, &patch, "Setting config vars", &table(&rows)).await
}

/// A value that nobody is to see: asked for on a terminal without echo, else all of standard input but for one line break.
fn asked_for(key: &EnvName) -> Result<String> {
    let failed = |error: std::io::Error| CliError::Failed(format!("cannot read the value of {key}: {error}"));
    if std::io::stdin().is_terminal() {
        return crate::prompt::hidden(&format!("{key}: ")).map_err(failed);
    }
    let mut text = String::new();
    std::io::stdin().lock().take(1 << 20).read_to_string(&mut text).map_err(failed)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    if text.is_empty() {
        return Err(CliError::Misuse(format!(
            "{key} has no value: write {key}=VALUE, or send the value on standard input"
        )));
    }
    Ok(text.to_owned())
}

fn file_bytes(context: &Context, path: &str) -> Result<Vec<u8>> {
    const LIMIT: u64 = 1 << 20;
    let failed = |error: std::io::Error| CliError::Failed(format!("cannot read {path}: {error}"));
    let mut bytes = Vec::new();
    if path == "-" {
        std::io::stdin().lock().take(LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        context.may_read(path)?;
        std::fs::File::open(path).map_err(failed)?.take(LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > LIMIT {
        return Err(CliError::Failed(format!(
            "{path} is longer than 1 MiB: put it in a volume (storage:mount)"
        )));
    }
    Ok(bytes)
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
    let bytes = STANDARD.decode(value.trim());
    let bytes =
        bytes.map_err(|error| CliError::Misuse(format!("the value of {key} is no base64: {error}")))?;
    String::from_utf8(bytes).map_err(|_| {
        CliError::Misuse(format!(
            "the value of {key} is no UTF-8 text, which variables are: make it a file (config:set --file {key}=PATH)"
        ))
    })
}

async fn unset(context: &Context, matches: &ArgMatches) -> Result<()> {
    let scope = scope(context, matches, true).await?;
    if scope.rest.is_empty() {
        return Err(CliError::Misuse("nothing to remove: name the variables".into()));
    }
    let unset = scope.rest.iter().map(|key| Ok(EnvName::parse(key)?)).collect::<Result<Vec<_>>>()?;
    let known = kinds(context, &scope).await;
    for key in unset.iter().filter(|key| !known.is_empty() && !known.contains_key(*key)) {
        let near = super::nearest(key.as_str(), known.keys().map(ToString::to_string));
        let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        warning(&format!("{key} is not set{near}"));
    }
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

async fn import(context: &Context, matches: &ArgMatches) -> Result<()> {
    let scope = scope(context, matches, true).await?;
    let file = match &scope.rest[..] {
        [] => "-",
        [file] => file,
        [_, more, ..] => return Err(CliError::Misuse(format!("{more:?} is one argument too many"))),
    };
    let text = read_input(context, file)?;
    let mut set: BTreeMap<EnvName, String> = match matches.get_one::<String>("format").map(String::as_str) {
        Some("json") => serde_json::from_str(&text).map_err(|error| {
            CliError::Failed(format!("{file} is no JSON object of names and texts: {error}"))
        })?,
        _ => envfile::parse(&text).map_err(|error| CliError::Failed(format!("{file}: {error}")))?,
    };
    if matches.get_flag("encoded") {
        set = set
            .into_iter()
            .map(|(key, value)| Ok((key.clone(), decoded(&key, &value)?)))
            .collect::<Result<_>>()?;
    }
    // What Berth itself sets, and Dokku and Heroku export, is none of the app's config.
    for own in ["PORT", "DYNO", "GIT_REV"] {
        if EnvName::parse(own).is_ok_and(|own| set.remove(&own).is_some()) {
            warning(&format!("{own} is left out: Berth sets it itself"));
        }
    }
    let (replace, secret) = (matches.get_flag("replace"), matches.get_flag("secret"));
    let no_restart = matches.get_flag("no-restart");
    let patch = PatchConfig { set, replace, no_restart, secret, ..PatchConfig::default() };
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
