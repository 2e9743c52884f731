//! `network:*`: which apps reach each other.
//!
//! In: a network's name, an app. Out: the network made, shown, gone; the app on it or off it, without a restart.

use super::not_here;
use crate::args::{command, switch};
use crate::context::{Context, arguments, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::table;
use berth_model::AppName;
use berth_model::names::NetworkName;
use berth_model::network::{AppNetworksInfo, Attachment, CreateNetwork, NetworkInfo, PatchNetworks};
use clap::{ArgMatches, Command};
use http::Method;
use std::collections::{BTreeMap, BTreeSet};

/// The words of `network:set`.
const KINDS: [(&str, Attachment); 3] = [
    ("initial-network", Attachment::InitialNetwork),
    ("attach-post-create", Attachment::AttachPostCreate),
    ("attach-post-deploy", Attachment::AttachPostDeploy),
];

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("network:create", "Make a network", "NETWORK", &["network:create backend"]),
        command(
            "network:destroy",
            "Remove a network that no app is on",
            "NETWORK",
            &["network:destroy backend"],
        )
        .arg(switch("force", "Ask nothing; nothing is asked without it either")),
        command(
            "network:exists",
            "Tell by the exit code whether a network exists",
            "NETWORK",
            &["network:exists backend"],
        ),
        command("network:list", "List networks and the apps on them", "", &["network:list"]),
        command("network:info", "Show a network", "NETWORK", &["network:info backend"]),
        command(
            "network:attach",
            "Put an app on networks: apps on one reach each other",
            "[<app>] NETWORK...",
            &["network:attach hello backend"],
        ),
        command(
            "network:detach",
            "Take an app off networks",
            "[<app>] NETWORK...",
            &["network:detach hello backend"],
        ),
        command(
            "network:set",
            "Set an app's networks, in Dokku's words; none takes it off them",
            "[<app>] attach-post-create|attach-post-deploy|initial-network [NETWORK...]",
            &["network:set hello attach-post-deploy backend", "network:set hello attach-post-deploy"],
        ),
        command(
            "network:report",
            "Show an app's networks, its names there, and whom it reaches",
            "[<app>]",
            &["network:report hello"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "network:create" => create(context, matches).await,
        "network:destroy" => destroy(context, matches).await,
        "network:exists" => exists(context, matches).await,
        "network:list" => list(context, matches).await,
        "network:info" => info(context, matches).await,
        "network:attach" | "network:detach" | "network:set" => change(context, name, matches).await,
        "network:report" => report(context, matches).await,
        _ => Err(not_here(name)),
    }
}

fn named(matches: &ArgMatches) -> Result<NetworkName> {
    Ok(NetworkName::parse(&exactly_one(arguments(matches), "NETWORK")?)?)
}

/// Networks, one a word or several by commas.
fn several(words: &[String]) -> Result<BTreeSet<NetworkName>> {
    let names = words.iter().flat_map(|word| word.split(',')).map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| Ok(NetworkName::parse(name)?)).collect()
}

fn joined<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" ")
}

async fn create(context: &Context, matches: &ArgMatches) -> Result<()> {
    let name = named(matches)?;
    context.act(Method::POST, "/v1/networks", Some(&CreateNetwork { name: name.clone() })).await?;
    context.out.step(&format!("Network {name} created"))
}

async fn destroy(context: &Context, matches: &ArgMatches) -> Result<()> {
    let name = named(matches)?;
    context.act(Method::DELETE, &format!("/v1/networks/{name}"), None::<&()>).await?;
    context.out.step(&format!("Network {name} destroyed"))
}

async fn exists(context: &Context, matches: &ArgMatches) -> Result<()> {
    let name = named(matches)?;
    let all: Vec<NetworkInfo> = context.get("/v1/networks").await?;
    if all.iter().any(|network| network.name == name) {
        return context.out.line(&format!("Network {name} exists"));
    }
    Err(CliError::Failed(format!("Network {name} does not exist")))
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    none_left(&arguments(matches))?;
    let all: Vec<NetworkInfo> = context.get("/v1/networks").await?;
    if context.out.json {
        return context.out.json(&all);
    }
    context.out.header("Networks")?;
    let row = |network: &NetworkInfo| vec![network.name.to_string(), joined(&network.apps)];
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

async fn info(context: &Context, matches: &ArgMatches) -> Result<()> {
    let name = named(matches)?;
    let network: NetworkInfo = context.get(&format!("/v1/networks/{name}")).await?;
    if context.out.json {
        return context.out.json(&network);
    }
    context.out.header(&format!("{name} network information"))?;
    context.out.line(&format!("       Name: {name}"))?;
    context.out.line(&format!("       Apps: {}", joined(&network.apps)))
}

async fn change(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let patch = match (name, &rest[..]) {
        ("network:set", [kind, networks @ ..]) => {
            let known = KINDS.iter().find(|(word, _)| word == kind);
            let (_, kind) = known.ok_or_else(|| {
                let words = KINDS.map(|(word, _)| word).join(", ");
                CliError::Misuse(format!("{kind} cannot be set of a network here; what can: {words}"))
            })?;
            PatchNetworks { set: BTreeMap::from([(*kind, several(networks)?)]), ..PatchNetworks::default() }
        }
        ("network:attach", [_, ..]) => PatchNetworks { attach: several(&rest)?, ..PatchNetworks::default() },
        ("network:detach", [_, ..]) => PatchNetworks { detach: several(&rest)?, ..PatchNetworks::default() },
        _ => return Err(CliError::Misuse(format!("which network? See: berth help {name}"))),
    };
    let info: AppNetworksInfo =
        context.json(Method::PATCH, &format!("/v1/apps/{app}/networks"), &patch).await?;
    if context.out.json {
        return context.out.json(&info);
    }
    let networks = info.networks.all();
    match networks.is_empty() {
        true => context.out.step(&format!("{app} is on no network")),
        false => context.out.step(&format!("{app} is on {}", joined(&networks))),
    }
}

async fn report(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, false).await?;
    none_left(&rest)?;
    show(context, &app).await
}

async fn show(context: &Context, app: &AppName) -> Result<()> {
    let info: AppNetworksInfo = context.get(&format!("/v1/apps/{app}/networks")).await?;
    if context.out.json {
        return context.out.json(&info);
    }
    context.out.header(&format!("{app} network information"))?;
    let mut lines = vec![("Network attached:", joined(info.networks.of(Attachment::Attached)))];
    let labels = ["Network initial network:", "Network attach post create:", "Network attach post deploy:"];
    lines.extend(
        labels.into_iter().zip(KINDS).map(|(label, (_, kind))| (label, joined(info.networks.of(kind)))),
    );
    lines.push(("Network names:", joined(&info.names)));
    lines.push(("Network reaches:", joined(&info.reaches)));
    lines.iter().try_for_each(|(label, value)| context.out.line(&format!("       {label:<30} {value}")))
}
