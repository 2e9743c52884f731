//! `ps:inspect`: every container of an app in full.
//!
//! In: an app. Out: one report a container, or JSON.

use crate::context::Context;
use crate::error::Result;
use crate::report::Report;
use berth_model::container::{ContainerState, Limits, Protocol};
use berth_model::processes::ContainerInspect;
use clap::ArgMatches;

pub(super) async fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let all: Vec<ContainerInspect> = context.get(&format!("/v1/apps/{app}/inspect")).await?;
    if context.out.json {
        return context.out.json(&all);
    }
    all.iter().try_for_each(|one| describe(one).show(context.out, None))
}

fn state(state: &ContainerState) -> String {
    match state {
        ContainerState::Preparing => "preparing".to_owned(),
        ContainerState::Starting { .. } => "starting".to_owned(),
        ContainerState::Running { ready: true, .. } => "running".to_owned(),
        ContainerState::Running { ready: false, .. } => "running, not ready".to_owned(),
        ContainerState::Stopping => "stopping".to_owned(),
        ContainerState::BackingOff { exit, .. } => format!("exited with {}, starts again soon", exit.code),
        ContainerState::Exited { exit } => format!("exited with {}", exit.code),
        ContainerState::Failed { reason } => format!("failed: {reason}"),
    }
}

fn describe(one: &ContainerInspect) -> Report {
    let status = one.status.as_ref();
    let shown = |text: Option<String>| text.unwrap_or_default();
    let mounts = one.mounts.iter().map(|mount| {
        let flag = if mount.read_only { ":ro" } else { "" };
        format!("{}:{}{flag}", mount.source, mount.target)
    });
    let ports = status.map(|status| status.published.as_slice()).unwrap_or_default();
    let ports = ports.iter().map(|port| {
        let protocol = if port.protocol == Protocol::Udp { "udp" } else { "tcp" };
        format!("{protocol}:{}:{}", port.node_port.unwrap_or(0), port.container_port)
    });
    let report = Report::new(&format!("{} {}.{}", one.app, one.process, one.ordinal), "container")
        .row("Id", one.id.as_str())
        .row("Release", one.release.to_string())
        .row("Role", &*one.role)
        .row("Node", one.node.as_str())
        .row("State", status.map_or_else(|| "not reported yet".to_owned(), |status| state(&status.state)))
        .row("Waiting", one.waiting.as_deref().unwrap_or_default())
        .row("Ip", shown(status.and_then(|status| status.address).map(|address| address.to_string())))
        .row("Port", shown(one.port.map(|port| port.to_string())))
        .row("Published ports", ports.collect::<Vec<_>>().join(" "))
        .row("Pid", shown(status.and_then(|status| status.pid).map(|pid| pid.to_string())))
        .row("Restarts", status.map_or(0, |status| status.restarts).to_string())
        .row("Image", &*one.image)
        .row("Command", &*one.command)
        .row("Restart policy", &*one.restart_policy)
        .row("Stop signal", &*one.stop_signal)
        .row("Stop timeout seconds", one.stop_timeout_secs.to_string())
        .row("Mounts", mounts.collect::<Vec<_>>().join(" "))
        .row("Limits", limits(&one.limits));
    one.env.iter().fold(report, |report, (name, value)| report.row(&format!("Env {name}"), value.as_str()))
}

/// As `resource:limit` names them.
fn limits(limits: &Limits) -> String {
    let all = super::resource::shown(limits);
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
