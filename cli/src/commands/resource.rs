//! `resource:*`: limits of memory and CPU, by process type.
//!
//! In: `512`, `512m`, `1g`; `0.5`, `500m`. Out: the limits of those process types, whole.

use super::not_here;
use crate::args::{command, option};
use crate::context::{Context, none_left};
use crate::error::{CliError, Result};
use crate::output::table;
use berth_model::ProcessType;
use berth_model::api::{AppInfo, PatchApp};
use berth_model::container::Limits;
use clap::{ArgMatches, Command};
use http::Method;
use std::collections::BTreeMap;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "resource:limit",
            "Show or set limits",
            "[--memory MIB] [--cpu CPUS] [--process-type TYPE] [<app>]",
            &[
                "resource:limit hello",
                "resource:limit --memory 256 hello",
                "resource:limit --memory 1g --cpu 0.5 --process-type worker hello",
                "resource:limit --memory 4g --process-type build hello",
            ],
        )
        .visible_alias("resource:report")
        .arg(option("memory", "SIZE", "MiB, or with a unit: 512m, 1g; `none` for no limit"))
        .arg(option("cpu", "CPUS", "CPUs: 0.5, 2, or thousandths: 500m; `none` for no limit"))
        .arg(option("process-type", "TYPE", "Only this one, or `build` [default: all the app has]")),
        command(
            "resource:limit-clear",
            "Go back to the defaults",
            "[--process-type TYPE] [<app>]",
            &["resource:limit-clear hello"],
        )
        .arg(option("process-type", "TYPE", "Only this one [default: all the app has]")),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, false).await?;
    none_left(&rest)?;
    let path = format!("/v1/apps/{app}");
    let process =
        matches.get_one::<String>("process-type").map(|text| ProcessType::parse(text)).transpose()?;
    let (memory, cpu) = match name {
        "resource:limit" => (
            matches.get_one::<String>("memory").map(|text| memory_mib(text)).transpose()?,
            matches.get_one::<String>("cpu").map(|text| cpu_millis(text)).transpose()?,
        ),
        "resource:limit-clear" => (None, None),
        _ => return Err(not_here(name)),
    };
    let info: AppInfo = context.get(&path).await?;
    if name == "resource:limit" && memory.is_none() && cpu.is_none() {
        return show(context, &info, process.as_ref());
    }
    let limits: BTreeMap<ProcessType, Limits> = selected(&info, process.as_ref())
        .into_iter()
        .map(|kind| {
            let mut limits = match name {
                "resource:limit" => {
                    info.limits.get(&kind).cloned().unwrap_or_else(|| Limits::default_of(&kind))
                }
                _ => Limits::default_of(&kind),
            };
            if let Some(memory) = memory {
                limits.memory_mib = memory;
            }
            if let Some(cpu) = cpu {
                limits.cpu_millis = cpu;
            }
            (kind, limits)
        })
        .collect();
    let patch = PatchApp { limits: Some(limits), ..PatchApp::default() };
    context.act(Method::PATCH, &path, Some(&patch)).await
}

/// The types that are meant: the named one, or all that the app has, and `web` when it has none yet.
fn selected(info: &AppInfo, process: Option<&ProcessType>) -> Vec<ProcessType> {
    if let Some(process) = process {
        return vec![process.clone()];
    }
    let mut all: Vec<ProcessType> = info.formation.0.keys().chain(info.limits.keys()).cloned().collect();
    all.sort();
    all.dedup();
    if all.is_empty() { vec![ProcessType::web()] } else { all }
}

fn show(context: &Context, info: &AppInfo, process: Option<&ProcessType>) -> Result<()> {
    let of = |kind: &ProcessType| info.limits.get(kind).cloned().unwrap_or_else(|| Limits::default_of(kind));
    let all: BTreeMap<ProcessType, Limits> =
        selected(info, process).into_iter().map(|k| (k.clone(), of(&k))).collect();
    if context.out.json {
        return context.out.json(&all);
    }
    context.out.header(&format!("{} resource limits", info.name))?;
    let row = |(kind, limits): (&ProcessType, &Limits)| {
        let memory = limits.memory_mib.map_or("none".to_owned(), |mib| format!("{mib}m"));
        let cpu = limits.cpu_millis.map_or("none".to_owned(), |millis| format!("{millis}m"));
        vec![format!("{kind}:"), format!("memory={memory}"), format!("cpu={cpu}")]
    };
    table(&all.iter().map(row).collect::<Vec<_>>()).iter().try_for_each(|line| context.out.line(line))
}

fn memory_mib(text: &str) -> Result<Option<u64>> {
    if text == "none" {
        return Ok(None);
    }
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &lower[digits.len()..] {
        "" | "m" | "mb" | "mi" | "mib" => Some(1),
        "g" | "gb" | "gi" | "gib" => Some(1024),
        _ => None,
    };
    let mib = factor
        .and_then(|factor: u64| digits.parse::<u64>().ok()?.checked_mul(factor))
        .filter(|mib| *mib >= 4);
    mib.map(Some).ok_or_else(|| {
        CliError::Misuse(format!("{text:?} is no amount of memory: write 256, 256m or 1g (at least 4)"))
    })
}

fn cpu_millis(text: &str) -> Result<Option<u64>> {
    let wrong =
        || CliError::Misuse(format!("{text:?} is no number of CPUs: write 2, 0.5 or 500m (at least 10m)"));
    if text == "none" {
        return Ok(None);
    }
    let millis = match text.strip_suffix('m') {
        Some(millis) => millis.parse::<u64>().map_err(|_| wrong())?,
        None => {
            let (whole, part) = text.split_once('.').unwrap_or((text, ""));
            if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(wrong());
            }
            let thousandths: u64 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
            let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
            whole.checked_mul(1000).and_then(|whole| whole.checked_add(thousandths)).ok_or_else(wrong)?
        }
    };
    if millis < 10 { Err(wrong()) } else { Ok(Some(millis)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_as_people_write_them() {
        for (text, mib) in [("256", 256), ("256m", 256), ("1g", 1024), ("2GiB", 2048)] {
            assert_eq!(memory_mib(text).expect("valid"), Some(mib), "{text}");
        }
        for (text, millis) in [("1", 1000), ("0.5", 500), (".25", 250), ("500m", 500), ("1.125", 1125)] {
            assert_eq!(cpu_millis(text).expect("valid"), Some(millis), "{text}");
        }
        assert_eq!(memory_mib("none").expect("valid"), None);
        for bad in ["", "x", "-1", "1t", "0", "99999999999999999999", "1.5g"] {
            assert!(memory_mib(bad).is_err(), "{bad}");
        }
        for bad in ["", "x", "-1", "1.2345", "0", "9m", ".", "99999999999999999999"] {
            assert!(cpu_millis(bad).is_err(), "{bad}");
        }
    }
}
