//! What `config:*` prints: values in many formats, history, differences.
//!
//! In: the API's variables, of which secret ones come without a value. Out: text, JSON, or a tar archive.

use super::config::{Scope, one_line, scope, variables};
use super::envfile::{self, Format};
use crate::context::{Context, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, time, warning};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_model::config_api::{Change, ConfigDiff, ConfigEvent, MASK, ValueChange, Variable, VariableKind};
use berth_model::secrets::SECRETS_DIR;
use berth_model::{EnvName, ReleaseVersion};
use clap::ArgMatches;
use serde_json::Value;
use std::collections::BTreeMap;

async fn all(context: &Context, matches: &ArgMatches, masked: bool) -> Result<(Scope, Vec<Variable>)> {
    let scope = scope(context, matches, false).await?;
    none_left(&scope.rest)?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    if matches.try_get_one::<bool>("merged").ok().flatten() == Some(&true) {
        query.append_pair("merged", "true");
    }
    if masked {
        query.append_pair("masked", "true");
    }
    let query = query.finish();
    let query = if query.is_empty() { query } else { format!("?{query}") };
    let variables = variables(context, &scope, &query).await?;
    Ok((scope, variables))
}

/// What may be given out, as names and texts.
fn plain(variables: Vec<Variable>) -> BTreeMap<EnvName, String> {
    variables.into_iter().filter_map(|variable| Some((variable.name, variable.value?))).collect()
}

/// Says what is not among the data: a file made of it would lack it.
fn warn_of_hidden(context: &Context, variables: &[Variable]) {
    let hidden: Vec<_> =
        variables.iter().filter(|one| one.kind != VariableKind::Plain).map(|one| one.name.as_str()).collect();
    if !hidden.is_empty() && !context.out.quiet {
        warning(&format!("left out, for they are secret: {}", hidden.join(", ")));
    }
}

pub(super) async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let masked = matches.get_flag("masked");
    let (scope, variables) = all(context, matches, masked).await?;
    if context.out.json {
        let value = |one: &Variable| match (&one.value, one.kind) {
            (Some(value), _) => Value::from(value.as_str()),
            (None, VariableKind::Plain) => Value::from(MASK),
            (None, _) => Value::Null,
        };
        let object: serde_json::Map<String, Value> =
            variables.iter().map(|one| (one.name.to_string(), value(one))).collect();
        return context.out.json(&object);
    }
    context.out.header(&format!("{} env vars", scope.title))?;
    let row = |one: &Variable| vec![format!("{}:", one.name), shown(one)];
    let rows: Vec<_> = variables.iter().map(row).collect();
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

fn shown(variable: &Variable) -> String {
    match (&variable.value, variable.kind) {
        (Some(value), _) => one_line(value),
        (None, VariableKind::Plain) => MASK.to_owned(),
        (None, VariableKind::Secret) => format!("{MASK} (secret)"),
        (None, VariableKind::File) => {
            format!("{MASK} (file {SECRETS_DIR}/{}, {} bytes)", variable.name, variable.bytes)
        }
    }
}

pub(super) async fn get(context: &Context, matches: &ArgMatches) -> Result<()> {
    let scope = scope(context, matches, true).await?;
    let key = EnvName::parse(&exactly_one(scope.rest.clone(), "the variable's name")?)?;
    let variables = variables(context, &scope, "").await?;
    let Some(found) = variables.iter().find(|one| one.name == key) else {
        let names = variables.iter().map(|one| one.name.to_string());
        if let Some(near) = super::nearest(key.as_str(), names).filter(|_| !context.out.quiet) {
            warning(&format!("{key} is not set; did you mean {near}?"));
        }
        return Err(CliError::Exit(1)); // as Dokku: no words needed, the code says it
    };
    let value = found.value.as_ref().ok_or_else(|| {
        CliError::Failed(format!("{key} is secret: it is used, and never shown; set it anew if it was lost"))
    })?;
    let value = if matches.get_flag("encoded") { &STANDARD.encode(value) } else { value };
    if context.out.json {
        return context.out.json(value);
    }
    if matches.get_flag("quoted") {
        return context.out.value(&envfile::single_quoted(value));
    }
    context.out.value(value)
}

pub(super) async fn keys(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (scope, variables) = all(context, matches, true).await?;
    if context.out.json {
        return context.out.json(&variables.iter().map(|one| &one.name).collect::<Vec<_>>());
    }
    context.out.header(&format!("{} config variable keys", scope.title))?;
    variables.iter().try_for_each(|one| context.out.line(one.name.as_str()))
}

pub(super) async fn export(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (_, variables) = all(context, matches, false).await?;
    warn_of_hidden(context, &variables);
    let mut values = plain(variables);
    if matches.get_flag("encoded") {
        values.values_mut().for_each(|value| *value = STANDARD.encode(&*value));
    }
    let format = matches.get_one::<String>("format").map_or("exports", String::as_str);
    match Format::parse(format) {
        None => Err(CliError::Misuse(format!("{format:?} is no format: use {}", Format::NAMES.join(", ")))),
        Some(Format::Json) => context.out.json(&values),
        Some(Format::JsonList) => {
            let one = |(name, value)| serde_json::json!({"name": name, "value": value});
            context.out.json(&values.iter().map(one).collect::<Vec<_>>())
        }
        Some(format) => context.out.raw(envfile::print(format, &values).as_bytes()),
    }
}

pub(super) async fn bundle(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (_, variables) = all(context, matches, false).await?;
    warn_of_hidden(context, &variables);
    let values = plain(variables);
    if context.out.json {
        return context.out.json(&values);
    }
    let mut archive = tar::Builder::new(Vec::new());
    let failed = |error: std::io::Error| CliError::Failed(format!("cannot make the archive: {error}"));
    for (name, value) in &values {
        let mut header = tar::Header::new_gnu();
        header.set_size(value.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, name.as_str(), value.as_bytes()).map_err(failed)?;
    }
    context.out.raw(&archive.into_inner().map_err(failed)?)
}

pub(super) async fn history(context: &Context, matches: &ArgMatches) -> Result<()> {
    let scope = scope(context, matches, false).await?;
    none_left(&scope.rest)?;
    let events: Vec<ConfigEvent> = context.get(&format!("{}/history", scope.path)).await?;
    if context.out.json {
        return context.out.json(&events);
    }
    context.out.header(&format!("{} config history", scope.title))?;
    let row = |event: &ConfigEvent| {
        let what = |change: Change| {
            let names = event.changes.iter().filter(|one| one.change == change).map(|one| match one.kind {
                VariableKind::Plain => one.name.to_string(),
                VariableKind::Secret => format!("{} (secret)", one.name),
                VariableKind::File => format!("{} (file)", one.name),
            });
            let names: Vec<_> = names.collect();
            (!names.is_empty()).then(|| format!("{} {}", verb(change), names.join(", ")))
        };
        let whats = [Change::Added, Change::Changed, Change::Removed].into_iter().filter_map(what);
        let stored = if event.stored_only { " (stored only)" } else { "" };
        let whats = whats.collect::<Vec<_>>().join("; ");
        vec![time(event.at_ms), event.by.clone(), format!("{whats}{stored}")]
    };
    let rows: Vec<_> = events.iter().map(row).collect();
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

fn verb(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Changed => "changed",
        Change::Removed => "removed",
    }
}

pub(super) async fn diff(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    let names = ["from", "to"];
    none_left(rest.get(names.len()..).unwrap_or_default())?;
    for (name, word) in names.iter().zip(&rest) {
        let version: ReleaseVersion = word.parse()?;
        query.append_pair(name, &version.0.to_string());
    }
    if matches.get_flag("reveal") {
        query.append_pair("reveal", "true");
    }
    let diff: ConfigDiff = context.get(&format!("/v1/apps/{app}/config/diff?{}", query.finish())).await?;
    if context.out.json {
        return context.out.json(&diff);
    }
    context.out.header(&format!("{app} config from {} to {}", diff.from, diff.to))?;
    if diff.changes.is_empty() && !context.out.quiet {
        return context.out.line("nothing differs");
    }
    let value = |value: &Option<String>| value.as_deref().map_or(MASK.to_owned(), one_line);
    let line = |sign: char, change: &ValueChange, value: String| {
        let kind = match change.kind {
            VariableKind::Plain => "",
            VariableKind::Secret => " (secret)",
            VariableKind::File => " (file)",
        };
        context.out.line(&format!("{sign} {}={value}{kind}", change.name))
    };
    for change in &diff.changes {
        if change.change != Change::Added {
            line('-', change, value(&change.before))?;
        }
        if change.change != Change::Removed {
            line('+', change, value(&change.after))?;
        }
    }
    Ok(())
}
