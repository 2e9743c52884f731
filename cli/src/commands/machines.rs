//! `node:*`: machines: which there are, how they are, what is wanted of them, who may become one.
//!
//! In: names, labels, amounts. Out: tables and reports; the line that makes a machine a node; what a machine finds wrong with itself.

use super::not_here;
use crate::args::{command, explained, option, report, switch};
use crate::context::{Context, arguments, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::{say, table, time};
use crate::report::Report;
use berth_model::NodeName;
use berth_model::amount::{Unit, seconds};
use berth_model::api::{CreateNodeToken, DrainNode, NodeInfo, NodeToken, SetNode};
use berth_model::cluster::{Finding, FindingState};
use berth_model::node::{Averages, Stall};
use clap::{ArgMatches, Command};
use http::Method;
use std::path::PathBuf;

/// The commands of this file.
const NAMES: [&str; 10] = [
    "node:list",
    "node:report",
    "node:token",
    "node:set",
    "node:cordon",
    "node:uncordon",
    "node:drain",
    "node:remove",
    "node:renew",
    "node:doctor",
];

pub(super) fn is_one(name: &str) -> bool {
    NAMES.contains(&name)
}

pub(super) fn commands() -> Vec<Command> {
    let token = command(
        "node:token",
        "Make a token and print the line that has a machine join with it",
        "[NODE] [--expires TIME]",
        &["node:token", "node:token --expires 1h", "node:token worker-3"],
    );
    let set = command(
        "node:set",
        "Label a machine, or say how much of it apps may reserve",
        "NODE [NAME=VALUE...] [--cpu CPUS] [--memory SIZE]",
        &["node:set worker-1 zone=a pool=batch", "node:set worker-1 pool=", "node:set worker-1 --memory 6g"],
    );
    vec![
        command("node:list", "List the machines", "", &["node:list"]).visible_alias("nodes"),
        report("node:report", "Show all that is known of a machine", "[NODE]", &[
            "node:report",
            "node:report worker-1 --node-subnet",
        ]),
        explained(
            token,
            "The line works once, for 15 minutes unless --expires says otherwise. With the name of a node the machine that \
             uses it takes that node's place: after a reinstallation, or when a certificate has expired.",
        )
        .arg(option("expires", "TIME", "For how long it is good: 90s, 15m, 2h, 7d [default: 15m]")),
        explained(set, "`zone` and `pool` mean something to placing; other labels are for apps to choose by. `NAME=` takes one away.")
            .arg(option("cpu", "CPUS", "CPUs that apps may reserve: 4, 500m; `none` for all it has"))
            .arg(option("memory", "SIZE", "Memory that apps may reserve: 6g; `none` for all it has")),
        command("node:cordon", "Give a machine no new containers", "NODE", &["node:cordon worker-1"]),
        command("node:uncordon", "Give a machine new containers again", "NODE", &["node:uncordon worker-1"]),
        explained(
            command("node:drain", "Start elsewhere all that runs on a machine, and give it nothing new", "NODE", &[
                "node:drain worker-1",
                "node:drain worker-1 --timeout 10m",
                "node:drain worker-1 --undo",
            ]),
            "One container of each process type of an app at a time: the new one serves before the old one goes, and no request \
             is lost. What writes to a volume stays, and is named. Ctrl-C stops watching, not the work; --undo does.",
        )
        .arg(switch("undo", "Let it take containers again; what was moved away stays where it is"))
        .arg(option("timeout", "TIME", "How long to wait until it is empty: 90s, 15m, 2h")),
        command("node:remove", "Lock a machine out, at once", "NODE", &[
            "node:remove worker-1",
            "node:remove worker-1 --force",
        ]),
        command("node:renew", "Have a machine renew its certificate now; done every 10 days anyway", "NODE", &[
            "node:renew worker-1",
        ]),
        explained(
            command("node:doctor", "See whether a machine can be a good node", "[NODE]", &[
                "node:doctor",
                "node:doctor worker-1",
            ]),
            "Without a name it looks at this machine, which need not have joined anything. Exits with 1 if something fails.",
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let words = arguments(matches);
    match name {
        "node:list" => {
            none_left(&words)?;
            list(context).await
        }
        "node:report" => show(context, words, matches).await,
        "node:token" => token(context, words, matches).await,
        "node:set" => set(context, words, matches).await,
        "node:cordon" => cordon(context, words, true).await,
        "node:uncordon" => cordon(context, words, false).await,
        "node:drain" => drain(context, words, matches).await,
        "node:remove" => {
            let node = NodeName::parse(&exactly_one(words, "the node's name")?)?;
            context.confirm(node.as_str(), "the node")?;
            let path = format!("/v1/nodes/{node}?force={}", context.force);
            context.act(Method::DELETE, &path, None::<&()>).await?;
            context.out.step(&format!("{node} is no node any more"))
        }
        "node:renew" => {
            let node = NodeName::parse(&exactly_one(words, "the node's name")?)?;
            context.act(Method::POST, &format!("/v1/nodes/{node}/renew"), None::<&()>).await?;
            context.out.step(&format!("{node} has a new certificate"))
        }
        "node:doctor" => doctor(context, words, matches).await,
        _ => Err(not_here(name)),
    }
}

/// Words for how a machine is.
fn state(node: &NodeInfo) -> String {
    let mut words = vec![match (node.alive, node.last_seen_ms) {
        (true, _) => "alive".to_owned(),
        (false, 0) => "never seen".to_owned(),
        (false, at) => format!("lost since {}", time(at)),
    }];
    let more = [
        (node.draining, "draining"),
        (node.cordoned, "cordoned"),
        (node.pressure.disk, "short of disk"),
        (node.pressure.memory, "short of memory"),
    ];
    words.extend(more.iter().filter(|(is, _)| *is).map(|(_, word)| (*word).to_owned()));
    words.join(", ")
}

async fn drain(context: &Context, words: Vec<String>, matches: &ArgMatches) -> Result<()> {
    let node = NodeName::parse(&exactly_one(words, "the node's name")?)?;
    let timeout = matches.get_one::<String>("timeout").map(|text| seconds(text)).transpose()?;
    let body = DrainNode { undo: matches.get_flag("undo"), timeout_secs: timeout };
    context.act(Method::POST, &format!("/v1/nodes/{node}/drain"), Some(&body)).await
}

fn labels(node: &NodeInfo) -> String {
    let pairs: Vec<String> = node.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}

/// How a machine speaks with how many others; empty for one that has none.
fn overlay(node: &NodeInfo) -> String {
    let ways = [
        (node.overlay.wireguard, "by wireguard"),
        (node.overlay.vxlan, "by vxlan, not encrypted"),
        (node.overlay.refused, "refused"),
    ];
    let some = ways.iter().filter(|(count, _)| *count > 0);
    some.map(|(count, way)| format!("{count} {way}")).collect::<Vec<_>>().join("; ")
}

/// For how much of the time something waited; empty where the kernel does not count it.
fn pressure(stall: Option<Stall>) -> String {
    let percent = |share: u16| format!("{}.{:02}%", share / 100, share % 100);
    let of = |Averages { avg10, avg60, avg300 }: Averages| {
        format!("{} of 10 s, {} of 60 s, {} of 300 s", percent(avg10), percent(avg60), percent(avg300))
    };
    stall.map(|stall| of(stall.some)).unwrap_or_default()
}

async fn list(context: &Context) -> Result<()> {
    let nodes: Vec<NodeInfo> = context.get("/v1/nodes").await?;
    if context.out.json {
        return context.out.json(&nodes);
    }
    context.out.header("Nodes")?;
    let row = |node: &NodeInfo| {
        let capacity = &node.capacity;
        vec![
            node.name.to_string(),
            state(node),
            format!("{} containers", node.containers),
            format!("{} CPUs", capacity.cpus),
            format!("{} MiB memory", capacity.memory_mib),
            format!("{} MiB disk free", capacity.disk_free_mib),
            format!("kernel {} cgroup {}", capacity.kernel, capacity.cgroup),
            match overlay(node) {
                alone if alone.is_empty() => String::new(),
                ways => format!("nodes: {ways}"),
            },
            labels(node),
        ]
    };
    let rows = table(&nodes.iter().map(row).collect::<Vec<_>>());
    rows.iter().try_for_each(|line| context.out.line(line.trim_end()))
}

async fn show(context: &Context, words: Vec<String>, matches: &ArgMatches) -> Result<()> {
    let nodes: Vec<NodeInfo> = match words.is_empty() {
        true => context.get("/v1/nodes").await?,
        false => {
            let node = NodeName::parse(&exactly_one(words, "the node's name")?)?;
            vec![context.get(&format!("/v1/nodes/{node}")).await?]
        }
    };
    let field = matches.get_one::<String>("field").map(String::as_str);
    for node in &nodes {
        if context.out.json && field.is_none() {
            context.out.json(node)?;
            continue;
        }
        let or_all = |offered: Option<u64>, unit: &str| {
            offered.map_or("all it has".to_owned(), |amount| format!("{amount} {unit}"))
        };
        let capacity = &node.capacity;
        let report = Report::new(node.name.as_str(), "node")
            .row("Node state", state(node))
            .row("Node containers", node.containers.to_string())
            .row("Node labels", labels(node))
            .row("Node cordoned", node.cordoned.to_string())
            .row("Node draining", node.draining.to_string())
            .row("Node address", node.address.map(|address| address.to_string()).unwrap_or_default())
            .row("Node subnet", node.subnet.clone().unwrap_or_default())
            .row("Node overlay", overlay(node))
            .row("Node overlay note", node.overlay_note.clone().unwrap_or_default())
            .row(
                "Node joined",
                match node.joined {
                    true => time(node.joined_ms),
                    false => "it is the controller's own machine".to_owned(),
                },
            )
            .row("Node offered cpu", or_all(node.offered.cpu_millis, "thousandths"))
            .row("Node offered memory", or_all(node.offered.memory_mib, "MiB"))
            .row("Node cpus", capacity.cpus.to_string())
            .row("Node memory", format!("{} MiB", capacity.memory_mib))
            .row("Node disk", format!("{} MiB", capacity.disk_mib))
            .row("Node disk free", format!("{} MiB", capacity.disk_free_mib))
            .row("Node reserved cpu", format!("{} thousandths", node.reserved.cpu_millis))
            .row("Node reserved memory", format!("{} MiB", node.reserved.memory_mib))
            .row("Node memory limits", format!("{} MiB", node.reserved.memory_limits_mib))
            .row("Node pressure cpu", pressure(node.stalls.cpu))
            .row("Node pressure memory", pressure(node.stalls.memory))
            .row("Node pressure io", pressure(node.stalls.io))
            .row("Node kernel", capacity.kernel.clone())
            .row("Node cgroup", capacity.cgroup.clone());
        let report = match &node.volumes_waiting {
            Some(waiting) => report.row("Node volumes waiting", waiting.clone()),
            None => report,
        };
        report.show(context.out, field)?;
    }
    Ok(())
}

async fn token(context: &Context, words: Vec<String>, matches: &ArgMatches) -> Result<()> {
    let node = match words.is_empty() {
        true => None,
        false => Some(NodeName::parse(&exactly_one(words, "the node's name")?)?),
    };
    let seconds = matches.get_one::<String>("expires").map(|text| seconds(text)).transpose()?;
    let body = CreateNodeToken { node: node.clone(), seconds };
    let made: NodeToken = context.json(Method::POST, "/v1/node-tokens", &body).await?;
    if context.out.json {
        return context.out.json(&made);
    }
    if !context.out.quiet {
        say(&format!("       Run this on the new machine; it works once, until {}:", time(made.expires_ms)));
    }
    let name = node.map(|node| format!(" --node {node}")).unwrap_or_default();
    context.out.line(&format!("berth agent join {} {}{name}", made.address, made.token))
}

async fn set(context: &Context, words: Vec<String>, matches: &ArgMatches) -> Result<()> {
    let Some((node, pairs)) = words.split_first() else {
        return Err(CliError::Misuse("write: node:set NODE NAME=VALUE, or --cpu or --memory".into()));
    };
    let node = NodeName::parse(node)?;
    let mut set = SetNode::default();
    for pair in pairs {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            CliError::Misuse(format!("{pair:?} is no label: write NAME=VALUE, or NAME= to take it away"))
        })?;
        set.labels.insert(name.to_owned(), Some(value.to_owned()).filter(|value| !value.is_empty()));
    }
    let given = |id: &str| matches.get_one::<String>(id);
    // In the API 0 is all that the machine has.
    set.cpu_millis = given("cpu").map(|text| Unit::Cpu.parse(text)).transpose()?.map(|cpu| cpu.unwrap_or(0));
    set.memory_mib =
        given("memory").map(|text| Unit::Mib.parse(text)).transpose()?.map(|mib| mib.unwrap_or(0));
    if set == SetNode::default() {
        return Err(CliError::Misuse("nothing to set: write NAME=VALUE, or --cpu or --memory".into()));
    }
    patch(context, &node, &set).await
}

async fn patch(context: &Context, node: &NodeName, set: &SetNode) -> Result<()> {
    let now: NodeInfo = context.json(Method::PATCH, &format!("/v1/nodes/{node}"), set).await?;
    if context.out.json {
        return context.out.json(&now);
    }
    context.out.step(&format!("{node} is {}", state(&now)))?;
    match labels(&now) {
        none if none.is_empty() => Ok(()),
        labels => context.out.detail(&format!("Labels: {labels}")),
    }
}

async fn cordon(context: &Context, words: Vec<String>, cordoned: bool) -> Result<()> {
    let node = NodeName::parse(&exactly_one(words, "the node's name")?)?;
    patch(context, &node, &SetNode { cordoned: Some(cordoned), ..SetNode::default() }).await
}

async fn doctor(context: &Context, words: Vec<String>, matches: &ArgMatches) -> Result<()> {
    let findings: Vec<Finding> = match words.is_empty() {
        false => {
            let node = NodeName::parse(&exactly_one(words, "the node's name")?)?;
            context.get(&format!("/v1/nodes/{node}/doctor")).await?
        }
        true if context.session => {
            return Err(CliError::Misuse("name the node: node:doctor NODE; see node:list".into()));
        }
        true => {
            let data = matches.try_get_one::<PathBuf>("data").ok().flatten().cloned();
            let data = data.unwrap_or_else(|| PathBuf::from(crate::endpoint::DEFAULT_DATA));
            berth_agent::cluster::doctor::examine_here(&data).await
        }
    };
    let failing = findings.iter().filter(|finding| finding.state == FindingState::Failing).count();
    if context.out.json {
        context.out.json(&findings)?;
    } else {
        let row = |finding: &Finding| {
            let state = match finding.state {
                FindingState::Fine => "ok",
                FindingState::Warning => "warning",
                FindingState::Failing => "FAILS",
            };
            vec![finding.check.clone(), state.to_owned(), finding.text.clone()]
        };
        let rows = table(&findings.iter().map(row).collect::<Vec<_>>());
        rows.iter().try_for_each(|line| context.out.line(line.trim_end()))?;
    }
    match failing {
        0 => Ok(()),
        1 => Err(CliError::Failed("one thing fails: Berth does not work here until it is changed".into())),
        more => Err(CliError::Failed(format!(
            "{more} things fail: Berth does not work here until they are changed"
        ))),
    }
}
