//! Classic Heroku buildpacks: what `bin/release` says.
//!
//! In: a small YAML document. Out: default process types and config vars (Heroku, “Buildpack API”: `bin/release`).

use std::collections::BTreeMap;

/// Largest document.
const MAX_LINES: usize = 2000;

/// What the last buildpack says of how the app runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// `default_process_types`: used where the Procfile has no line.
    pub processes: BTreeMap<String, String>,
    /// `config_vars`: used where the user set none.
    pub config: BTreeMap<String, String>,
    /// `addons`: named in the log, for nothing makes them here.
    pub addons: Vec<String>,
}

/// Reads the document: two levels of keys, texts plain, in quotes or over several lines (`|`, `>`). That is what
/// buildpacks write; anchors, flow maps and such are an error.
pub fn parse(text: &str) -> Result<Release, String> {
    let mut release = Release::default();
    let mut section = String::new();
    let lines: Vec<&str> = text.lines().take(MAX_LINES).collect();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        at += 1;
        let trimmed = line.trim();
        if trimmed.is_empty()
            || trimmed.starts_with('#')
            || matches!(trimmed, "---" | "..." | "{}" | "--- {}")
        {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let wrong = |why: &str| {
            format!("bin/release, line {at}: {why}: {}", trimmed.chars().take(80).collect::<String>())
        };
        if let Some(item) = trimmed.strip_prefix("- ").or_else(|| (trimmed == "-").then_some("")) {
            if section == "addons" {
                release.addons.push(scalar(item).map_err(wrong)?);
                continue;
            }
            return Err(wrong("a list is not expected here"));
        }
        let Some((key, value)) = split(trimmed) else { return Err(wrong("this is not `name: value`")) };
        let key = scalar(key).map_err(wrong)?;
        if indent == 0 {
            let value = without_comment(value.trim());
            if !matches!(value, "" | "{}" | "[]" | "null" | "~") {
                return Err(wrong("names and values are expected on lines of their own, indented"));
            }
            section = key;
            continue;
        }
        let value = match value.trim() {
            block @ ("|" | "|-" | ">" | ">-" | "|+" | ">+") => {
                let mut parts = Vec::new();
                while let Some(next) = lines.get(at) {
                    let deeper = next.len() - next.trim_start().len() > indent;
                    if !deeper && !next.trim().is_empty() {
                        break;
                    }
                    parts.push(next.trim());
                    at += 1;
                }
                parts.join(if block.starts_with('|') { "\n" } else { " " }).trim().to_owned()
            }
            plain => scalar(plain).map_err(wrong)?,
        };
        match section.as_str() {
            "default_process_types" => drop(release.processes.insert(key, value)),
            "config_vars" => drop(release.config.insert(key, value)),
            "addons" => release.addons.push(value),
            _ => {}
        }
    }
    Ok(release)
}

/// Key and value of a line; the key may be in quotes.
fn split(line: &str) -> Option<(&str, &str)> {
    if let Some(quote) = line.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        let end = line[1..].find(quote)? + 2;
        return Some((&line[..end], line[end..].trim_start().strip_prefix(':')?));
    }
    let at = line
        .match_indices(':')
        .find(|(at, _)| line[at + 1..].is_empty() || line[at + 1..].starts_with([' ', '\t']))?;
    Some((&line[..at.0], &line[at.0 + 1..]))
}

fn without_comment(text: &str) -> &str {
    if text.starts_with('#') {
        return "";
    }
    text.find(" #").map_or(text, |at| text[..at].trim_end())
}

fn scalar(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('\'') {
        let end = rest.rfind('\'').ok_or("a quote is not closed")?;
        return Ok(rest[..end].replace("''", "'"));
    }
    if let Some(rest) = text.strip_prefix('"') {
        let end = rest.rfind('"').ok_or("a quote is not closed")?;
        let mut out = String::new();
        let mut chars = rest[..end].chars();
        while let Some(c) = chars.next() {
            match (c, c == '\\') {
                (_, true) => match chars.next() {
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some(other) => out.push(other),
                    None => return Err("a backslash ends the text"),
                },
                (c, false) => out.push(c),
            }
        }
        return Ok(out);
    }
    if text.starts_with(['{', '[', '&', '*', '!']) {
        return Err("this kind of YAML is not read");
    }
    Ok(without_comment(text).to_owned())
}
