//! `domains:*`: host names that lead to an app, and those that every app's name goes before.
//!
//! In: host names. Out: patches, and a report.

use super::not_here;
use crate::args::{command, report};
use crate::context::{Context, none_left};
use crate::error::{CliError, Result};
use crate::report::Report;
use berth_model::HostPattern;
use berth_model::api::{Domains, PatchDomains};
use berth_model::proxy_api::PatchProxy;
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        report(
            "domains:report",
            "Show the host names of an app",
            "[<app>|--global] [--KEY]",
            &["domains hello"],
        )
        .visible_alias("domains")
        .arg(crate::args::switch("global", "Those of the platform")),
        command(
            "domains:add",
            "Add host names",
            "[<app>] DOMAIN ...",
            &["domains:add hello www.example.com"],
        ),
        command(
            "domains:remove",
            "Take host names away",
            "[<app>] DOMAIN ...",
            &["domains:remove hello www.example.com"],
        ),
        command(
            "domains:set",
            "Replace all host names",
            "[<app>] DOMAIN ...",
            &["domains:set hello example.com www.example.com"],
        ),
        command("domains:clear", "Take all own host names away", "[<app>]", &["domains:clear hello"]),
        command("domains:enable", "Answer at APP.<global domain>", "[<app>]", &["domains:enable hello"]),
        command(
            "domains:disable",
            "Do not answer at APP.<global domain>",
            "[<app>]",
            &["domains:disable hello"],
        ),
        command(
            "domains:add-global",
            "Add global domains",
            "DOMAIN ...",
            &["domains:add-global example.com"],
        ),
        command(
            "domains:remove-global",
            "Take global domains away",
            "DOMAIN ...",
            &["domains:remove-global example.com"],
        ),
        command(
            "domains:set-global",
            "Replace the global domains",
            "DOMAIN ...",
            &["domains:set-global example.com"],
        ),
        command("domains:clear-global", "Take all global domains away", "", &["domains:clear-global"]),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    if name == "domains:report" {
        return show(context, matches).await;
    }
    if let Some(verb) = name.strip_prefix("domains:").and_then(|rest| rest.strip_suffix("-global")) {
        let words = crate::context::arguments(matches);
        context.act(Method::PATCH, "/v1/domains", Some(&patch(name, verb, &words)?)).await?;
        return context.out.step(&said(verb, &words, "the global domains"));
    }
    let verb = name.strip_prefix("domains:").unwrap_or(name);
    let takes_more = matches!(verb, "add" | "remove" | "set");
    // A domain is a valid app name too: in a working tree, `domains:add www.example.com` is about the tree's app unless
    // there is an app of that name.
    let (app, rest) = context.app(matches, takes_more).await?;
    // `domains:add hello example.com/api` means a part of a host.
    if matches!(verb, "add" | "remove") && rest.iter().any(|word| word.trim_end_matches('/').contains('/')) {
        let paths = rest.iter().map(|word| super::proxy::path_of(word, false)).collect::<Result<Vec<_>>>()?;
        let change = match verb {
            "add" => PatchProxy { add_paths: paths, ..PatchProxy::default() },
            _ => PatchProxy { remove_paths: paths, ..PatchProxy::default() },
        };
        super::proxy::patch(context, &app, &change).await?;
        return context.out.step(&said(verb, &rest, app.as_str()));
    }
    context.act(Method::PATCH, &format!("/v1/apps/{app}/domains"), Some(&patch(name, verb, &rest)?)).await?;
    context.out.step(&said(verb, &rest, app.as_str()))
}

/// What was done, as Dokku says it.
fn said(verb: &str, words: &[String], whose: &str) -> String {
    let names = words.join(" ");
    match verb {
        "add" => format!("Added {names} to {whose}"),
        "remove" => format!("Removed {names} from {whose}"),
        "set" => format!("Set {names} for {whose}"),
        "enable" => format!("Enabled the default domain of {whose}"),
        "disable" => format!("Disabled the default domain of {whose}"),
        _ => format!("Cleared the domains of {whose}"),
    }
}

fn patch(name: &str, verb: &str, words: &[String]) -> Result<PatchDomains> {
    let domains = || {
        if words.is_empty() {
            return Err(CliError::Misuse("no domain is named".into()));
        }
        words
            .iter()
            .map(|word| Ok(HostPattern::parse(&word.to_ascii_lowercase())?))
            .collect::<Result<Vec<_>>>()
    };
    let patch = match verb {
        "add" => PatchDomains { add: domains()?, ..PatchDomains::default() },
        "remove" => PatchDomains { remove: domains()?, ..PatchDomains::default() },
        "set" => PatchDomains { set: Some(domains()?), ..PatchDomains::default() },
        "clear" | "enable" | "disable" => {
            none_left(words)?;
            match verb {
                "clear" => PatchDomains { set: Some(Vec::new()), ..PatchDomains::default() },
                _ => PatchDomains { default_enabled: Some(verb == "enable"), ..PatchDomains::default() },
            }
        }
        _ => return Err(not_here(name)),
    };
    Ok(patch)
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let global: Domains = context.get("/v1/domains").await?;
    if matches.get_flag("global") {
        none_left(&crate::context::arguments(matches))?;
        if context.out.json && field.is_none() {
            return context.out.json(&global);
        }
        return global_rows(Report::new("Global", "domains"), &global).show(context.out, field);
    }
    let apps = context.app_names(matches).await?;
    let out = context.out.of(apps.len());
    for app in apps {
        let domains: Domains = context.get(&format!("/v1/apps/{app}/domains")).await?;
        if out.json && field.is_none() {
            out.json(&domains)?;
            continue;
        }
        let report = Report::new(app.as_str(), "domains")
            .row("Domains app enabled", domains.default_enabled.to_string())
            .row("Domains app vhosts", joined(&domains.domains))
            .row("Domains effective vhosts", joined(&domains.effective));
        global_rows(report, &global).show(out, field)?;
    }
    Ok(())
}

fn global_rows(report: Report, global: &Domains) -> Report {
    report
        .row("Domains global enabled", (!global.domains.is_empty()).to_string())
        .row("Domains global vhosts", joined(&global.domains))
}

fn joined(domains: &[HostPattern]) -> String {
    domains.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(" ")
}
