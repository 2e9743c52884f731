//! Where a command typed at a shell goes.
//!
//! In: flags, environment, contexts, the git remote. Out: an API, or an SSH address where the platform's own CLI carries the
//! command out. What is said nearest to the command wins: `--data`, `--host`, `--context`; then `BERTH_CONTEXT`, `BERTH_HOST`,
//! `DOKKU_HOST`; then the context in use; then the platform of this machine; then where the git remote leads.

use crate::commands;
use crate::contexts::{Cluster, Contexts};
use crate::endpoint::{DEFAULT_DATA, Target};
use crate::error::{CliError, Result};
use crate::output::Output;
use crate::remote;
use crate::ssh::Address;
use berth_model::AppName;
use clap::ArgMatches;
use std::fs::File;
use std::path::{Path, PathBuf};

/// How a command gets to its platform.
pub(crate) enum Way {
    /// Calls of the API.
    Api(Target),
    /// The words as they are.
    Ssh(Address),
}

/// Commands that need no platform.
pub(crate) fn stays_here(name: &str) -> bool {
    matches!(name, "help" | "version" | "completion" | "man") || name.starts_with("context:")
}

/// The way for a command with these flags.
pub(crate) fn choose(matches: &ArgMatches) -> Result<Way> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let said = |id: &str| matches.try_get_one::<String>(id).ok().flatten().cloned();
    let token = || variable("BERTH_TOKEN");
    let ca = || variable("BERTH_CA").map(PathBuf::from);
    let host = |host: String| {
        Address::of_url(&host).map(Way::Ssh).unwrap_or_else(|| {
            Way::Api(Target { host: Some(host), token: token(), ca: ca(), ..Target::default() })
        })
    };
    if let Some(data) = matches.try_get_one::<PathBuf>("data").ok().flatten() {
        return Ok(Way::Api(Target { data: Some(data.clone()), ..Target::default() }));
    }
    if let Some(said) = said("host") {
        return Ok(host(said));
    }
    if let Some(name) = said("context") {
        return Ok(of(Contexts::load()?.get(&name)?));
    }
    if let Some(name) = variable("BERTH_CONTEXT") {
        return Ok(of(Contexts::load()?.get(&name)?));
    }
    if let Some(said) = variable("BERTH_HOST") {
        return Ok(host(said));
    }
    if let Some(said) = variable("DOKKU_HOST") {
        return dokku_host(&said, variable("DOKKU_PORT").as_deref()).map(Way::Ssh);
    }
    let contexts = Contexts::load()?;
    if let Some(name) = &contexts.current {
        return Ok(of(contexts.get(name)?));
    }
    let here = Way::Api(Target { token: token(), ca: ca(), ..Target::default() });
    if Path::new(DEFAULT_DATA).join("run/api.sock").exists() {
        return Ok(here);
    }
    Ok(remote::platform_of_working_tree().map_or(here, Way::Ssh))
}

fn of(cluster: &Cluster) -> Way {
    Address::of_url(&cluster.host).map(Way::Ssh).unwrap_or_else(|| Way::Api(Target::of(cluster)))
}

/// As Dokku's own client has it: a host name, and port 22 unless `DOKKU_PORT` says otherwise.
fn dokku_host(host: &str, port: Option<&str>) -> Result<Address> {
    let port = match port {
        None => 22,
        Some(text) => text.parse().map_err(|_| {
            CliError::Misuse(format!("DOKKU_PORT is {text:?}, which is no port from 1 to 65535"))
        })?,
    };
    let parsed = Address::parse(host, port).map(|address| match host.contains('@') || host.contains("://") {
        true => address,
        false => Address { user: "dokku".to_owned(), port, ..address },
    });
    parsed.ok_or_else(|| CliError::Misuse(format!("DOKKU_HOST is {host:?}, which is no host name")))
}

/// Sends a command over SSH; then the working tree here gets or loses its remote.
pub(crate) fn over_ssh(address: &Address, name: &str, matches: &ArgMatches, typed: &[String]) -> Result<()> {
    let mut words = without_own_flags(typed, matches);
    let mut positional = crate::context::arguments(matches);
    let named = matches.try_get_one::<String>("app").ok().flatten().cloned();
    let makes = matches!(name, "create" | "apps:create");
    if name == "create" && positional.is_empty() && named.is_none() {
        let invented = commands::invented_name()?;
        words.push(invented.clone());
        positional.push(invented);
    }
    // A file is of this machine, and a command there may read none.
    let mut input = None;
    if matches!(name, "config:import" | "ssh-keys:add")
        && let Some(path) = positional.last().filter(|path| path.as_str() != "-")
        && let Some(word) = words.iter_mut().rev().find(|word| *word == path)
        && let Ok(file) = File::open(path)
    {
        input = Some(file);
        "-".clone_into(word);
    }
    let inferred = remote::app_of_working_tree().filter(|_| !makes);
    address.run(&words, inferred.as_ref().map(AppName::as_str), input)?;
    let app = named.or_else(|| positional.first().cloned()).and_then(|app| AppName::parse(&app).ok());
    let app = app.or(inferred);
    match (name, app) {
        ("create" | "apps:create", Some(app)) => {
            let out = Output::new(matches.get_flag("quiet"), false);
            remote::remember(address, &app, out).map(drop)
        }
        ("apps:destroy", Some(app)) => {
            remote::forget(&app);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What was typed without what only this side understands.
fn without_own_flags(typed: &[String], matches: &ArgMatches) -> Vec<String> {
    let mut words: Vec<String> = typed.iter().skip(1).cloned().collect();
    for id in ["host", "context"] {
        let said = matches.try_get_one::<String>(id).ok().flatten();
        let Some(value) = said else { continue };
        let (flag, both) = (format!("--{id}"), format!("--{id}={value}"));
        if let Some(at) = words.iter().position(|word| *word == both) {
            words.remove(at);
        } else if let Some(at) = words.windows(2).position(|pair| pair[0] == flag && pair[1] == *value) {
            words.drain(at..at + 2);
        }
    }
    words
}
