//! What differs between two releases.
//!
//! In: two releases. Out: lines, in the order they are shown. Pure. Config values are masked unless they are asked for.

use crate::platform::kind_in;
use berth_model::check::{Check, Probe};
use berth_model::config_api::VariableKind;
use berth_model::deploy::{DiffLine, MASKED};
use berth_model::image::Process;
use berth_model::release::Release;
use berth_model::secrets::{SecretBytes, Secrets};
use berth_model::{EnvName, ProcessType};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

/// Everything that differs from `from` to `to`. With `reveal`, config values are shown if they [`may_show`].
#[must_use]
pub fn diff(from: &Release, to: &Release, reveal: Option<&Secrets>) -> Vec<DiffLine> {
    let mut lines = Vec::new();
    let mut one = |kind: &str, before: Option<String>, after: Option<String>| {
        if before != after {
            lines.push(DiffLine { kind: kind.to_owned(), name: String::new(), before, after });
        }
    };
    let image = |release: &Release| Some(release.image.reference.digest.to_string());
    one("image", image(from), image(to));
    one("commit", from.git_rev.clone(), to.git_rev.clone());
    one("builder", Some(from.image.builder.clone()), Some(to.image.builder.clone()));
    // Compared as they are, shown as they may be.
    let shown = |name: &EnvName, value: &String| match may_show(name, [&from.secrets, &to.secrets], reveal) {
        true => value.clone(),
        false => MASKED.to_owned(),
    };
    lines.extend(each("config", &from.config, &to.config, shown));
    let bytes = |_: &EnvName, _: &SecretBytes| MASKED.to_owned();
    lines.extend(each("secret-file", &from.secrets.files, &to.secrets.files, bytes));
    let command = |_: &ProcessType, run: &Process| command(run);
    lines.extend(each("process", &from.image.processes, &to.image.processes, command));
    lines.extend(each("formation", &from.formation.0, &to.formation.0, |_, count| count.to_string()));
    lines.extend(each("max-parallel", &from.max_parallel, &to.max_parallel, |_, count| count.to_string()));
    let checks =
        |_: &ProcessType, checks: &Vec<Check>| checks.iter().map(described).collect::<Vec<_>>().join("; ");
    lines.extend(each("checks", &from.checks, &to.checks, checks));
    lines
}

/// Whether the values of a name are shown where two configs are compared: only if that is asked for (`reveal` has the secrets of
/// now), and the name is neither secret now nor was it in one of the two.
#[must_use]
pub fn may_show(name: &EnvName, compared: [&Secrets; 2], reveal: Option<&Secrets>) -> bool {
    let is_plain = |secrets: &Secrets| kind_in(secrets, name) == VariableKind::Plain;
    reveal.is_some_and(is_plain) && compared.into_iter().all(is_plain)
}

fn each<K: Ord + Display, V: PartialEq>(
    kind: &str,
    from: &BTreeMap<K, V>,
    to: &BTreeMap<K, V>,
    show: impl Fn(&K, &V) -> String,
) -> Vec<DiffLine> {
    let names: BTreeSet<&K> = from.keys().chain(to.keys()).collect();
    let line = |key: &K| {
        let (before, after) = (from.get(key), to.get(key));
        (before != after).then(|| DiffLine {
            kind: kind.to_owned(),
            before: before.map(|value| show(key, value)),
            after: after.map(|value| show(key, value)),
            name: key.to_string(),
        })
    };
    names.into_iter().filter_map(line).collect()
}

/// What a process runs, as its Procfile has it.
#[must_use]
pub fn command(process: &Process) -> String {
    match process {
        Process::Static(_) => "static".to_owned(),
        Process::Command { argv } => match argv.as_slice() {
            [shell, flag, line] if shell == "/bin/bash" && flag == "-c" => line.clone(),
            argv => argv.join(" "),
        },
    }
}

/// One check in a line.
#[must_use]
pub fn described(check: &Check) -> String {
    let content = match &check.probe {
        Probe::Http { content: Some(text), .. } => format!(" with {text:?}"),
        _ => String::new(),
    };
    let warns = if check.warn_only { ", warns only" } else { "" };
    format!(
        "{} {}: {}{content}, {} attempts of {} s, {} s apart{warns}",
        check.kind.as_str(),
        check.name,
        check.probe,
        check.attempts,
        check.timeout_secs,
        check.wait_secs
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::tests::{app, image};
    use crate::release::{Parts, release};

    fn made(config: &[(&str, &str)], web: u32) -> Release {
        let config = config
            .iter()
            .map(|(name, value)| (berth_model::EnvName::parse(name).expect("valid"), (*value).to_owned()));
        let formation = BTreeMap::from([(berth_model::ProcessType::web(), web)]);
        let parts = Parts {
            image: image(&["web"]),
            config: config.collect(),
            secrets: Default::default(),
            cron: Vec::new(),
            checks: BTreeMap::new(),
            formation: berth_model::release::Formation(formation),
            max_parallel: BTreeMap::new(),
            git_rev: None,
            now_ms: 0,
            by: "me".into(),
            description: String::new(),
        };
        release(&app(), parts)
    }

    #[test]
    fn config_is_masked_unless_asked_for() {
        let (from, to) = (
            made(&[("A", "1"), ("B", "x"), ("C", "same")], 1),
            made(&[("A", "2"), ("D", "y"), ("C", "same")], 2),
        );
        let told = |reveal: Option<&Secrets>| {
            let lines = diff(&from, &to, reveal).into_iter();
            lines
                .map(|line| format!("{} {} {:?} {:?}", line.kind, line.name, line.before, line.after))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            told(None),
            [
                "config A Some(\"***\") Some(\"***\")",
                "config B Some(\"***\") None",
                "config D None Some(\"***\")",
                "formation web Some(\"1\") Some(\"2\")"
            ]
        );
        let now = Secrets::default();
        let shown = told(Some(&now));
        assert!(shown[0].contains("\"1\"") && shown[0].contains("\"2\""));
        let now = Secrets { write_only: [EnvName::parse("A").expect("valid")].into(), ..now };
        let hidden = told(Some(&now));
        assert!(hidden[0].contains("***") && !hidden[0].contains("\"1\""), "it is secret by now: {hidden:?}");
        assert_eq!(hidden[1], shown[1]);
        assert!(diff(&from, &from, Some(&now)).is_empty());
    }
}
