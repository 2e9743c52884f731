//! `app.json`: what an app says about itself besides its code.
//!
//! In: the text of `app.json`. Out: formation, health checks, variables, scripts and cron as Heroku and Dokku write them,
//! or what is wrong and at which place of the document. Unknown fields are ignored: other platforms have their own.

use crate::check::{Check, CheckKind, Probe};
use crate::cron::{self, Concurrency, CronTask, MAX_COMMAND, MAX_TASKS, Schedule};
use crate::{EnvName, ProcessType};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What Berth takes from an `app.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppJson {
    /// `name`: for people.
    pub name: Option<String>,
    /// `formation`, by process type.
    pub formation: BTreeMap<ProcessType, ProcessFormation>,
    /// `healthchecks`, by process type.
    pub healthchecks: BTreeMap<ProcessType, Vec<Check>>,
    /// `env`, by variable.
    pub env: BTreeMap<EnvName, EnvSpec>,
    /// `scripts`.
    pub scripts: Scripts,
    /// `cron`, in the order of the file.
    pub cron: Vec<CronTask>,
    /// `buildpacks[].url`, in the order of the file.
    pub buildpacks: Vec<String>,
}

/// How many of one process type, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFormation {
    /// Containers; `None` leaves what is set.
    pub quantity: Option<u32>,
    /// How many are replaced at once in a deploy.
    pub max_parallel: Option<u32>,
    /// `service.exposed`.
    pub exposed: Option<bool>,
}

/// A variable the app wants. Applied at the first deploy only, unless `sync`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvSpec {
    /// For people.
    pub description: Option<String>,
    /// Where its value comes from.
    pub value: EnvValue,
    /// Whether a deploy without a value for it must fail. Default true.
    pub required: bool,
    /// Whether every deploy sets it to `value` again.
    pub sync: bool,
}

/// Where the value of a variable comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// This text.
    Literal(String),
    /// `"generator": "secret"`: 64 random hexadecimal digits, made once.
    Secret,
    /// Only the user knows it.
    Unset,
}

/// Commands around a deploy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scripts {
    /// `scripts.dokku.predeploy`: runs in the new image, and what it changes is kept in the image.
    pub predeploy: Option<String>,
    /// `scripts.dokku.postdeploy`: runs after every deploy.
    pub postdeploy: Option<String>,
    /// `scripts.postdeploy`: runs after the first deploy only.
    pub first_postdeploy: Option<String>,
}

/// What is wrong with an `app.json`, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppJsonError {
    /// It is no JSON.
    #[error("app.json, line {line}, column {column}: it is not valid JSON ({reason})")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What the parser expected.
        reason: String,
    },
    /// A value is not what belongs there.
    #[error("app.json, {path}: {reason}")]
    Field {
        /// Place in the document, such as `healthchecks.web[0].attempts`.
        path: String,
        /// What was found, and what to write instead.
        reason: String,
    },
}

/// Parses an `app.json`.
pub fn parse(text: &str) -> Result<AppJson, AppJsonError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document: Value = serde_json::from_str(text).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default().to_owned();
        AppJsonError::Syntax { line: error.line(), column: error.column(), reason }
    })?;
    let root = Place { value: &document, path: String::new() };
    let fields = root.object()?;
    Ok(AppJson {
        name: fields.text("name")?,
        formation: by_process(&fields, "formation", formation)?,
        healthchecks: by_process(&fields, "healthchecks", healthchecks)?,
        env: env(&fields)?,
        scripts: scripts(&fields)?,
        cron: crons(&fields)?,
        buildpacks: fields.list("buildpacks")?.iter().map(buildpack).collect::<Result<_, _>>()?,
    })
}

/// A value of the document and the way to it.
struct Place<'a> {
    value: &'a Value,
    path: String,
}

/// An object of the document.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Place<'a> {
    fn refuse<T>(&self, reason: impl Into<String>) -> Result<T, AppJsonError> {
        let path = if self.path.is_empty() { "the document".to_owned() } else { self.path.clone() };
        Err(AppJsonError::Field { path, reason: reason.into() })
    }

    fn expected<T>(&self, what: &str) -> Result<T, AppJsonError> {
        let found = match self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(found) => found.to_string(),
            Value::Number(found) => found.to_string(),
            Value::String(found) => crate::procfile::excerpt(found),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        };
        self.refuse(format!("found {found}, expected {what}"))
    }

    fn object(&self) -> Result<Fields<'a>, AppJsonError> {
        match self.value {
            Value::Object(map) => Ok(Fields { map, path: self.path.clone() }),
            _ => self.expected("an object"),
        }
    }

    fn items(&self) -> Result<Vec<Place<'a>>, AppJsonError> {
        let Value::Array(items) = self.value else { return self.expected("a list") };
        let place = |(index, value)| Place { value, path: format!("{}[{index}]", self.path) };
        Ok(items.iter().enumerate().map(place).collect())
    }

    fn text(&self) -> Result<String, AppJsonError> {
        match self.value {
            Value::String(text) if text.contains('\0') => self.refuse("it has a NUL character; remove it"),
            Value::String(text) => Ok(text.clone()),
            _ => self.expected("a string"),
        }
    }

    fn number(&self, from: u32, to: u32) -> Result<u32, AppJsonError> {
        match self.value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (from..=to).contains(&number) => Ok(number),
            _ => self.expected(&format!("a whole number from {from} to {to}")),
        }
    }

    fn bool(&self) -> Result<bool, AppJsonError> {
        self.value.as_bool().map_or_else(|| self.expected("true or false"), Ok)
    }
}

impl<'a> Fields<'a> {
    /// A field that is there and not null.
    fn get(&self, name: &str) -> Option<Place<'a>> {
        let value = self.map.get(name).filter(|value| !value.is_null())?;
        Some(self.place(name, value))
    }

    fn place(&self, name: &str, value: &'a Value) -> Place<'a> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Place { value, path }
    }

    fn each(&self) -> impl Iterator<Item = (&'a str, Place<'a>)> {
        self.map.iter().map(|(name, value)| (name.as_str(), self.place(name, value)))
    }

    fn object(&self, name: &str) -> Result<Option<Fields<'a>>, AppJsonError> {
        self.get(name).map(|place| place.object()).transpose()
    }

    fn list(&self, name: &str) -> Result<Vec<Place<'a>>, AppJsonError> {
        self.get(name).map_or(Ok(Vec::new()), |place| place.items())
    }

    fn text(&self, name: &str) -> Result<Option<String>, AppJsonError> {
        self.get(name).map(|place| place.text()).transpose()
    }

    fn number(&self, name: &str, from: u32, to: u32) -> Result<Option<u32>, AppJsonError> {
        self.get(name).map(|place| place.number(from, to)).transpose()
    }

    fn bool(&self, name: &str) -> Result<Option<bool>, AppJsonError> {
        self.get(name).map(|place| place.bool()).transpose()
    }
}

fn by_process<T>(
    root: &Fields<'_>,
    name: &str,
    read: fn(&ProcessType, &Place<'_>) -> Result<T, AppJsonError>,
) -> Result<BTreeMap<ProcessType, T>, AppJsonError> {
    let Some(fields) = root.object(name)? else { return Ok(BTreeMap::new()) };
    fields
        .each()
        .map(|(name, place)| match ProcessType::parse(name) {
            Ok(process) => read(&process, &place).map(|value| (process, value)),
            Err(error) => place.refuse(error.to_string()),
        })
        .collect()
}

fn formation(_: &ProcessType, place: &Place<'_>) -> Result<ProcessFormation, AppJsonError> {
    let fields = place.object()?;
    Ok(ProcessFormation {
        quantity: fields.number("quantity", 0, 1000)?,
        max_parallel: fields.number("max_parallel", 1, 1000)?,
        exposed: fields.object("service")?.map(|service| service.bool("exposed")).transpose()?.flatten(),
    })
}

fn healthchecks(process: &ProcessType, place: &Place<'_>) -> Result<Vec<Check>, AppJsonError> {
    place.items()?.iter().enumerate().map(|(index, place)| healthcheck(process, index, place)).collect()
}

/// One entry of `healthchecks.<process>`, with Dokku's defaults.
fn healthcheck(process: &ProcessType, index: usize, place: &Place<'_>) -> Result<Check, AppJsonError> {
    const DAY: u32 = 86_400;
    let fields = place.object()?;
    let kind = match fields.get("type") {
        None => return place.refuse("it has no type; use \"startup\", \"readiness\" or \"liveness\""),
        Some(kind) => match kind.text()?.as_str() {
            "startup" => CheckKind::Startup,
            "readiness" => CheckKind::Readiness,
            "liveness" => CheckKind::Liveness,
            _ => return kind.expected("\"startup\", \"readiness\" or \"liveness\""),
        },
    };
    let name = match fields.text("name")? {
        Some(name) if !name.is_empty() => name,
        _ => format!("{process}-{index}"),
    };
    Ok(Check {
        name,
        kind,
        probe: probe(place, &fields)?,
        attempts: fields.number("attempts", 1, 10_000)?.unwrap_or(3),
        timeout_secs: fields.number("timeout", 1, DAY)?.unwrap_or(5),
        wait_secs: fields.number("wait", 0, DAY)?.unwrap_or(5),
        initial_delay_secs: fields.number("initialDelay", 0, DAY)?.unwrap_or(0),
        warn_only: fields.bool("warn")?.unwrap_or(false),
    })
}

/// What a health check looks at: exactly one of `command`, `listening`, `uptime`, or HTTP.
fn probe(place: &Place<'_>, fields: &Fields<'_>) -> Result<Probe, AppJsonError> {
    let port = match fields.number("port", 1, 65_535)? {
        Some(port) => u16::try_from(port).ok(),
        None => None,
    };
    let listening = fields.bool("listening")?.unwrap_or(false);
    let uptime = fields.number("uptime", 0, 86_400)?.filter(|seconds| *seconds > 0);
    let path = fields.text("path")?.filter(|path| !path.is_empty());
    let command = fields.get("command");
    let kinds = [
        ("command", command.is_some()),
        ("listening", listening),
        ("path", path.is_some()),
        ("uptime", uptime.is_some()),
    ];
    let given: Vec<&str> = kinds.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    if given.len() > 1 {
        return place.refuse(format!("it has {}; keep one of them", given.join(" and ")));
    }
    if let Some(command) = command {
        let argv = match command.value {
            Value::String(_) => vec!["/bin/sh".to_owned(), "-c".to_owned(), command.text()?],
            _ => command.items()?.iter().map(Place::text).collect::<Result<Vec<_>, _>>()?,
        };
        if argv.first().is_none_or(String::is_empty) {
            return command.refuse("it is empty; write the program and its arguments");
        }
        return Ok(Probe::Command { argv });
    }
    if listening {
        return Ok(Probe::Listening { port });
    }
    if let Some(seconds) = uptime {
        return Ok(Probe::Uptime { seconds });
    }
    if let Some(scheme) = fields.get("scheme")
        && !matches!(scheme.text()?.as_str(), "http" | "")
    {
        return scheme.expected("\"http\" (containers are asked by plain HTTP)");
    }
    let path = path.unwrap_or_else(|| "/".to_owned());
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Place { value: &Value::String(path), path: format!("{}.path", place.path) }
            .expected("a URL path without blanks and with other characters percent-encoded");
    }
    let headers = fields.list("httpHeaders")?.iter().map(header).collect::<Result<_, _>>()?;
    let content = fields.text("content")?.filter(|content| !content.is_empty());
    Ok(Probe::Http { path, port, content, headers })
}

fn header(place: &Place<'_>) -> Result<(String, String), AppJsonError> {
    let fields = place.object()?;
    let (Some(name), Some(value)) = (fields.text("name")?, fields.text("value")?) else {
        return place.refuse("it needs a name and a value");
    };
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        return place.refuse(format!("{} is no header name", crate::procfile::excerpt(&name)));
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return place.refuse("its value has control characters; remove them");
    }
    Ok((name, value))
}

fn env(root: &Fields<'_>) -> Result<BTreeMap<EnvName, EnvSpec>, AppJsonError> {
    let Some(fields) = root.object("env")? else { return Ok(BTreeMap::new()) };
    fields
        .each()
        .map(|(name, place)| match EnvName::parse(name) {
            Ok(name) => env_spec(&place).map(|spec| (name, spec)),
            Err(error) => place.refuse(error.to_string()),
        })
        .collect()
}

fn env_spec(place: &Place<'_>) -> Result<EnvSpec, AppJsonError> {
    let Value::Object(_) = place.value else {
        let value = EnvValue::Literal(scalar(place)?);
        return Ok(EnvSpec { description: None, value, required: true, sync: false });
    };
    let fields = place.object()?;
    let value = match (fields.get("generator"), fields.get("value")) {
        (_, Some(value)) => EnvValue::Literal(scalar(&value)?),
        (Some(generator), None) if generator.text()? == "secret" => EnvValue::Secret,
        (Some(generator), None) => return generator.expected("\"secret\""),
        (None, None) => EnvValue::Unset,
    };
    Ok(EnvSpec {
        description: fields.text("description")?,
        value,
        required: fields.bool("required")?.unwrap_or(true),
        sync: fields.bool("sync")?.unwrap_or(false),
    })
}

/// Text, or a number or truth value as it would be typed.
fn scalar(place: &Place<'_>) -> Result<String, AppJsonError> {
    match place.value {
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        _ => place.text(),
    }
}

fn scripts(root: &Fields<'_>) -> Result<Scripts, AppJsonError> {
    let Some(fields) = root.object("scripts")? else { return Ok(Scripts::default()) };
    let script =
        |fields: &Fields<'_>, name| fields.text(name).map(|text| text.filter(|text| !text.trim().is_empty()));
    let first_postdeploy = match fields.get("postdeploy") {
        // Heroku also allows {"command": …, "size": …}.
        Some(Place { value: Value::Object(map), path }) => script(&Fields { map, path }, "command")?,
        _ => script(&fields, "postdeploy")?,
    };
    let Some(dokku) = fields.object("dokku")? else {
        return Ok(Scripts { first_postdeploy, ..Scripts::default() });
    };
    Ok(Scripts {
        predeploy: script(&dokku, "predeploy")?,
        postdeploy: script(&dokku, "postdeploy")?,
        first_postdeploy,
    })
}

fn buildpack(place: &Place<'_>) -> Result<String, AppJsonError> {
    match place.value {
        Value::String(_) => place.text(),
        _ => match place.object()?.text("url")? {
            Some(url) => Ok(url),
            None => place.refuse("it has no url"),
        },
    }
}

fn crons(root: &Fields<'_>) -> Result<Vec<CronTask>, AppJsonError> {
    let mut tasks: Vec<CronTask> = Vec::new();
    for place in root.list("cron")? {
        if tasks.len() == MAX_TASKS {
            return place
                .refuse(format!("there are more than {MAX_TASKS} tasks; let one of them run several"));
        }
        let mut task = cron_task(&place)?;
        let same = |one: &&CronTask| one.command == task.command && one.schedule == task.schedule;
        task.id = cron::task_id(&task.command, &task.schedule, tasks.iter().filter(same).count());
        tasks.push(task);
    }
    Ok(tasks)
}

fn cron_task(place: &Place<'_>) -> Result<CronTask, AppJsonError> {
    let fields = place.object()?;
    let (Some(command), Some(schedule)) = (fields.get("command"), fields.get("schedule")) else {
        return place.refuse("it needs a command and a schedule");
    };
    let text = command.text()?;
    if text.len() > MAX_COMMAND {
        return command
            .refuse(format!("it is longer than {MAX_COMMAND} bytes; put it into a script of the app"));
    }
    if let Some(operator) = shell_operator(&text) {
        return command.refuse(format!(
            "{operator:?} is a shell operator, and no shell runs cron commands; put them into a script, or use bash -c '…'"
        ));
    }
    if let Err(reason) = cron::words(&text) {
        return command.refuse(reason);
    }
    let when = schedule.text()?;
    if let Err(reason) = Schedule::parse(&when) {
        return schedule.refuse(reason);
    }
    let concurrency = match fields.get("concurrency_policy") {
        None => Concurrency::Allow,
        Some(policy) => match policy.text()?.as_str() {
            "allow" | "" => Concurrency::Allow,
            "forbid" => Concurrency::Forbid,
            "replace" => Concurrency::Replace,
            _ => return policy.expected("\"allow\", \"forbid\" or \"replace\""),
        },
    };
    let maintenance = fields.bool("maintenance")?.unwrap_or(false);
    Ok(CronTask { id: String::new(), command: text, schedule: when, concurrency, maintenance })
}

/// The first shell operator outside quotes.
fn shell_operator(command: &str) -> Option<char> {
    let mut quote = None;
    let mut escaped = false;
    for c in command.chars() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '&' | '|' | ';' | '<' | '>' | '\n') => return Some(c),
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(text: &str) -> String {
        parse(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn everything_of_dokkus_documentation_is_read() {
        let app = parse(
            r#"{
            "name": "hello", "description": "x", "keywords": ["a"], "repository": "https://x", "logo": "l", "addons": [{"plan": "p"}],
            "stack": "heroku-24", "environments": {"test": {}}, "success_url": "/", "image": "heroku/python",
            "buildpacks": [{"url": "heroku/python"}, {"url": "https://github.com/x/y"}],
            "env": {"A": "b", "N": 3, "SECRET": {"description": "d", "generator": "secret"}, "OPTIONAL": {"required": false},
                "SYNCED": {"value": "v", "sync": true}},
            "formation": {"web": {"quantity": 2, "max_parallel": 1, "autoscaling": {"min_quantity": 1}, "service": {"exposed": true}}},
            "healthchecks": {"web": [
                {"type": "startup", "name": "home", "path": "/health", "port": 8000, "content": "ok", "attempts": 2, "timeout": 3,
                 "wait": 4, "initialDelay": 1, "warn": true, "httpHeaders": [{"name": "X-A", "value": "b"}]},
                {"type": "liveness", "command": ["true", "x"]},
                {"type": "readiness", "listening": true},
                {"type": "startup", "uptime": 7},
                {"type": "startup"}
            ], "worker": []},
            "scripts": {"postdeploy": {"command": "seed"}, "dokku": {"predeploy": "touch /app/x", "postdeploy": "curl x"}},
            "cron": [{"command": "python 'a;b' x", "schedule": "*/5 1-3,7 * jan mon-fri"},
                {"command": "bash -c 'a && b'", "schedule": "@daily", "concurrency_policy": "forbid", "maintenance": true}]
        }"#,
        )
        .expect("valid");
        insta::assert_debug_snapshot!(app);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        insta::assert_snapshot!(refusal("{\n \"a\": ]}"), @"app.json, line 2, column 7: it is not valid JSON (expected value)");
        insta::assert_snapshot!(refusal("[]"), @"app.json, the document: found a list, expected an object");
        insta::assert_snapshot!(refusal(r#"{"formation": {"web": {"quantity": -1}}}"#), @"app.json, formation.web.quantity: found -1, expected a whole number from 0 to 1000");
        insta::assert_snapshot!(refusal(r#"{"formation": {"a b": {}}}"#), @r#"app.json, formation.a b: process type "a b" is not valid: use letters, digits, - and _, and do not begin with -"#);
        insta::assert_snapshot!(refusal(r#"{"healthchecks": {"web": [{}, {"type": "startup"}]}}"#), @r#"app.json, healthchecks.web[0]: it has no type; use "startup", "readiness" or "liveness""#);
        insta::assert_snapshot!(refusal(r#"{"healthchecks": {"web": [{"type": "startup", "attempts": "3"}]}}"#), @r#"app.json, healthchecks.web[0].attempts: found "3", expected a whole number from 1 to 10000"#);
        insta::assert_snapshot!(refusal(r#"{"healthchecks": {"web": [{"type": "startup", "path": "/", "uptime": 1}]}}"#), @"app.json, healthchecks.web[0]: it has path and uptime; keep one of them");
        insta::assert_snapshot!(refusal(r#"{"healthchecks": {"web": [{"type": "startup", "path": "/a b"}]}}"#), @r#"app.json, healthchecks.web[0].path: found "/a b", expected a URL path without blanks and with other characters percent-encoded"#);
        insta::assert_snapshot!(refusal(r#"{"env": {"1A": "x"}}"#), @r#"app.json, env.1A: variable name "1A" is not valid: use letters, digits and _, and do not begin with a digit"#);
        insta::assert_snapshot!(refusal(r#"{"env": {"A": {"generator": "uuid"}}}"#), @r#"app.json, env.A.generator: found "uuid", expected "secret""#);
        insta::assert_snapshot!(refusal(r#"{"cron": [{"command": "a && b", "schedule": "@daily"}]}"#), @r#"app.json, cron[0].command: '&' is a shell operator, and no shell runs cron commands; put them into a script, or use bash -c '…'"#);
        insta::assert_snapshot!(refusal(r#"{"cron": [{"command": "a", "schedule": "0 * * * * *"}]}"#), @r#"app.json, cron[0].schedule: "0 * * * * *" has 6 fields; five are needed: minute, hour, day of month, month, day of week (no seconds)"#);
        insta::assert_snapshot!(refusal(r#"{"cron": [{"command": "a", "schedule": "0 24 * * *"}]}"#), @r#"app.json, cron[0].schedule: "24" is no hour; use 0 to 23, *, ranges and steps such as */5"#);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(|n| serde_json::json!(n)),
            "[ -~é]{0,6}".prop_map(Value::String),
            Just(serde_json::json!("startup")),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            let keys = "(env|formation|healthchecks|cron|scripts|dokku|web|type|path|command|schedule|quantity|A|value|url|port)";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::vec((keys, inner), 0..5).prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in any::<String>(), document in json()) {
            let _ = parse(&text);
            let _ = parse(&document.to_string());
        }
    }
}
