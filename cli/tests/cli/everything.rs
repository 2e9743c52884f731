//! Every command there is: its examples work as they are written, and with `--format json` it prints JSON or nothing.
//!
//! The platform that is not there answers what `docs/openapi.json` says it may: the smallest value of each answer's schema.

use crate::support::Fake;
use serde_json::{Map, Value, json};

/// Commands whose examples end in programs of others, streams without an end, or files that are not there.
const APART: [&str; 8] = ["run", "enter", "completion", "man", "help", "up", "proxy", "agent"];

fn openapi() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("it is checked in")).expect("JSON")
}

/// A small value of a schema.
fn example(api: &Value, schema: &Value, depth: u32) -> Value {
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.trim_start_matches('#');
        return example(api, api.pointer(pointer).expect("references lead somewhere"), depth + 1);
    }
    if depth > 12 {
        return Value::Null;
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(first) = schema[key]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["type"] == "null").or_else(|| all.first()))
        {
            return example(api, first, depth + 1);
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let mut whole = Map::new();
        for part in parts {
            if let Value::Object(fields) = example(api, part, depth + 1) {
                whole.extend(fields);
            }
        }
        return Value::Object(whole);
    }
    if let Some(first) = schema["enum"].as_array().and_then(|all| all.first()) {
        return first.clone();
    }
    let kinds = match &schema["type"] {
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    };
    if kinds.contains(&json!("null")) {
        return Value::Null;
    }
    match kinds[0].as_str() {
        Some("integer") => json!(schema["minimum"].as_i64().unwrap_or(1)),
        Some("number") => json!(1.0),
        Some("boolean") => json!(false),
        Some("array") => json!([]),
        Some("string") => json!("hello"),
        _ => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let fields = schema["properties"].as_object().into_iter().flatten();
            let wanted = fields.filter(|(name, _)| required.contains(&json!(name)));
            Value::Object(wanted.map(|(name, of)| (name.clone(), example(api, of, depth + 1))).collect())
        }
    }
}

/// What is answered to `METHOD path?query`, whatever the names in the path are.
fn answer(api: &Value, call: &str) -> Option<(String, String)> {
    let (method, rest) = call.split_once(' ')?;
    let path = rest.split('?').next()?;
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |pattern: &str| {
        let wanted: Vec<&str> = pattern.split('/').collect();
        wanted.len() == parts.len()
            && wanted.iter().zip(&parts).all(|(wanted, part)| wanted.starts_with('{') || wanted == part)
    };
    let paths = api["paths"].as_object()?;
    // A path that is spelled out goes before one with names in it.
    let mut found: Vec<_> = paths.iter().filter(|(pattern, _)| fits(pattern)).collect();
    found.sort_by_key(|(pattern, _)| pattern.matches('{').count());
    let operation = &found.first()?.1[method.to_lowercase()];
    let responses = operation["responses"].as_object()?;
    let (_, good) = responses.iter().find(|(status, _)| status.starts_with('2'))?;
    let Some((kind, content)) = good["content"].as_object().and_then(|content| content.iter().next()) else {
        return Some(("application/json".to_owned(), String::new()));
    };
    let body = match kind.as_str() {
        "application/x-ndjson" if path.contains("/logs") || method == "GET" => String::new(),
        "application/x-ndjson" => {
            "{\"event\":\"step\",\"text\":\"working\"}\n{\"event\":\"done\"}\n".to_owned()
        }
        "application/json" => example(api, &content["schema"], 0).to_string(),
        _ => String::new(),
    };
    Some((kind.clone(), body))
}

/// Every command with its examples, as `berth help COMMAND` has them.
fn commands(fake: &Fake) -> Vec<(String, Vec<String>)> {
    let overview = fake.berth(&["help"]).out;
    let names = overview.lines().take_while(|line| !line.starts_with("Running Berth"));
    let names = names.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    let examples = |name: &str| {
        let help = fake.berth(&["help", name]).out;
        let lines = help.lines().filter_map(|line| line.strip_prefix("  berth ").map(str::to_owned));
        lines.collect::<Vec<_>>()
    };
    names.map(|name| (name.to_owned(), examples(name))).collect()
}

/// A command line as a shell splits it, without what it pipes to.
fn words(line: &str) -> Option<Vec<String>> {
    let line =
        line.split(" | ").next()?.split(" > ").next()?.split(" >> ").next()?.split(" < ").next()?.trim();
    let output =
        std::process::Command::new("sh").args(["-c", &format!("printf '%s\\n' {line}")]).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.lines().map(str::to_owned).collect())
}

#[test]
fn every_example_is_a_line_that_the_command_understands_and_json_is_json() {
    let api = openapi();
    let fake = Fake::start();
    fake.otherwise(move |call| answer(&api, call));
    let mut wrong = Vec::new();
    let mut tried = 0;
    for (name, examples) in commands(&fake) {
        if examples.is_empty() {
            wrong.push(format!("{name} has no example"));
        }
        if APART.contains(&name.as_str()) {
            continue;
        }
        for line in examples {
            let Some(mut words) = words(&line) else { continue };
            let files =
                line.contains('<') || words.iter().any(|word| word.contains(".tar") || word.contains('/'));
            let ran = fake.berth_with(&words.iter().map(String::as_str).collect::<Vec<_>>(), "hello\n", &[]);
            // A file of the example need not be here; anything else must be understood.
            // Which keys a report has depends on what the platform answers.
            let unknown_key = ran.err.contains("Invalid flag passed");
            if ran.code == 2 && !files && !unknown_key {
                wrong.push(format!("berth {line}: {}", ran.err.trim()));
                continue;
            }
            if line.contains("--format") || words.contains(&"-t".to_owned()) {
                continue;
            }
            // Behind another program's command line it would be that program's.
            let at = if name.starts_with("run") { 0 } else { words.len() };
            words.splice(at..at, ["--format", "json"].map(str::to_owned));
            let ran = fake.berth_with(&words.iter().map(String::as_str).collect::<Vec<_>>(), "hello\n", &[]);
            tried += 1;
            let whole = serde_json::from_str::<Value>(&ran.out).is_ok();
            let each = ran.out.lines().all(|line| serde_json::from_str::<Value>(line).is_ok());
            if !whole && !each && !name.starts_with("config:bundle") {
                let shown: String = ran.out.chars().take(300).collect();
                wrong.push(format!("berth {line} --format json: {} {shown:?} {}", ran.code, ran.err.trim()));
            }
            if ran.err.contains("panicked") {
                wrong.push(format!("berth {line}: {}", ran.err));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 100, "only {tried} lines were tried");
}
