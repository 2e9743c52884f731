//! Changes of config vars: one, or a file of them; and the one value that is asked for.

use super::super::forms::{fragment, unix};
use super::{Scope, done};
use crate::action::Fields;
use crate::session::Visitor;
use crate::trouble::Trouble;
use axum::extract::RawPathParams;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_model::api::{Config, PatchConfig};
use berth_model::config_api::{Change, Variable, VariableKind};
use berth_model::secrets::SecretBytes;
use berth_model::{EnvName, envfile};
use maud::{Markup, html};
use std::collections::BTreeMap;

fn name_of(fields: &Fields) -> Result<EnvName, Trouble> {
    EnvName::parse(fields.text("name")).map_err(|error| Trouble::invalid(error.to_string()))
}

/// One value, for the page's script: plain text, and only what may be shown.
pub(super) async fn value(visitor: Visitor, scope: Scope, params: RawPathParams) -> Response {
    let name = params.iter().find(|(key, _)| *key == "name").map_or("", |(_, name)| name);
    let found = visitor.api.get::<Config>(&scope.api()).await;
    let (status, text) = match found.map_err(Trouble::from) {
        Ok(Config(mut all)) => match EnvName::parse(name).ok().and_then(|name| all.remove(&name)) {
            Some(value) => (StatusCode::OK, value),
            None => (StatusCode::NOT_FOUND, format!("{name} has no value that may be shown")),
        },
        Err(trouble) => (trouble.status(), trouble.message().to_owned()),
    };
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// Sets one.
pub(super) async fn set(visitor: Visitor, scope: Scope, fields: Fields) -> Response {
    let name = match name_of(&fields) {
        Ok(name) => name,
        Err(trouble) => return fields.refuse(&trouble),
    };
    let value = unix(fields.raw("value"));
    let mut patch = PatchConfig { no_restart: fields.is_on("no_restart"), ..PatchConfig::default() };
    match fields.text("kind") {
        "file" => drop(patch.files.insert(name, SecretBytes(value.into_bytes()))),
        kind => {
            patch.secret = kind == "secret" || fields.is_on("secret");
            patch.set.insert(name, value);
        }
    }
    fields.act(&visitor, Method::PATCH, &scope.api(), Some(&patch), &scope.page()).await
}

/// Removes one.
pub(super) async fn remove(visitor: Visitor, scope: Scope, fields: Fields) -> Response {
    let name = match name_of(&fields) {
        Ok(name) => name,
        Err(trouble) => return fields.refuse(&trouble),
    };
    let no_restart = fields.is_on("no_restart");
    let patch = PatchConfig { unset: vec![name], no_restart, ..PatchConfig::default() };
    fields.act(&visitor, Method::PATCH, &scope.api(), Some(&patch), &scope.page()).await
}

/// What was pasted, read; or all that is wrong with it.
fn pasted(fields: &Fields) -> Result<BTreeMap<EnvName, String>, String> {
    let variables = envfile::parse(&unix(fields.raw("text"))).map_err(|mistakes| mistakes.to_string())?;
    if variables.is_empty() && !fields.is_on("replace") {
        return Err("there is no KEY=VALUE line in it".to_owned());
    }
    Ok(variables)
}

/// Sets all that was pasted, or nothing.
pub(super) async fn import(visitor: Visitor, scope: Scope, fields: Fields) -> Response {
    let set = match pasted(&fields) {
        Ok(set) => set,
        Err(mistakes) => {
            let text = format!("nothing was changed:\n{mistakes}");
            return fields.refuse(&Trouble::invalid(text));
        }
    };
    let patch = PatchConfig {
        set,
        replace: fields.is_on("replace"),
        no_restart: fields.is_on("no_restart"),
        secret: fields.is_on("secret"),
        ..PatchConfig::default()
    };
    fields.act(&visitor, Method::PATCH, &scope.api(), Some(&patch), &scope.page()).await
}

/// Says what that would do, for the page's script: names, never values.
pub(super) async fn check(visitor: Visitor, scope: Scope, fields: Fields) -> Response {
    let set = match pasted(&fields) {
        Ok(set) => set,
        Err(mistakes) => {
            return fragment(html! { ul.mistakes { @for one in mistakes.lines() { li { (one) } } } });
        }
    };
    match visitor.api.get::<Vec<Variable>>(&format!("{}/variables", scope.api())).await {
        Ok(now) => fragment(plan(&now, &set, fields.is_on("replace"), fields.is_on("secret"))),
        Err(error) => fragment(html! { p.mistakes { (Trouble::from(error).message()) } }),
    }
}

/// What setting `set` does to `now`, by name. A value that is never shown may be the same: it counts as changed.
fn changes<'a>(
    now: &'a [Variable],
    set: &'a BTreeMap<EnvName, String>,
    replace: bool,
    secret: bool,
) -> Vec<(&'a EnvName, Change)> {
    let known: BTreeMap<&EnvName, &Variable> = now.iter().map(|one| (&one.name, one)).collect();
    let mut changes: Vec<(&EnvName, Change)> = set
        .iter()
        .filter_map(|(name, value)| match known.get(name) {
            None => Some((name, Change::Added)),
            Some(one) if one.kind == VariableKind::Plain && !secret && one.value.as_ref() == Some(value) => {
                None
            }
            Some(_) => Some((name, Change::Changed)),
        })
        .collect();
    if replace {
        let gone = now.iter().map(|one| &one.name).filter(|name| !set.contains_key(*name));
        changes.extend(gone.map(|name| (name, Change::Removed)));
    }
    changes.sort_by_key(|(name, _)| *name);
    changes
}

fn plan(now: &[Variable], set: &BTreeMap<EnvName, String>, replace: bool, secret: bool) -> Markup {
    let changes = changes(now, set, replace, secret);
    let same = set.keys().filter(|name| !changes.iter().any(|(changed, _)| changed == name)).count();
    html! {
        @if changes.is_empty() { p { "Nothing would change." } }
        @else {
            ul.plan { @for (name, change) in &changes { @let (word, tone) = done(*change); li { span.change data-tone=(tone) { (word) " " code { (name) } } } } }
            @if same > 0 { p.dim { (crate::show::count(same, "other stays", "others stay")) " as they are." } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_says_what_becomes_of_each_name() {
        let name = |text: &str| EnvName::parse(text).expect("a name");
        let now: Vec<Variable> = [("A", "1"), ("B", "2"), ("C", "3"), ("S", "")]
            .map(|(key, value)| Variable {
                name: name(key),
                kind: if key == "S" { VariableKind::Secret } else { VariableKind::Plain },
                value: (key != "S").then(|| value.to_owned()),
                bytes: 1,
                global: false,
            })
            .to_vec();
        let set: BTreeMap<EnvName, String> = [("A", "1"), ("B", "new"), ("D", "4"), ("S", "x")]
            .map(|(key, value)| (name(key), value.to_owned()))
            .into();
        let told = |replace: bool, secret: bool| -> Vec<String> {
            changes(&now, &set, replace, secret)
                .iter()
                .map(|(name, change)| format!("{name} {change:?}"))
                .collect()
        };
        assert_eq!(told(false, false), ["B Changed", "D Added", "S Changed"]);
        assert_eq!(told(true, true), ["A Changed", "B Changed", "C Removed", "D Added", "S Changed"]);
        let text = plan(&now, &set, true, false).into_string();
        assert!(!text.contains("new"), "{text}");
    }
}
