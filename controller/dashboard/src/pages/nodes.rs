//! The machines: how they are, what they have left, and which container is where.

mod join;
mod map;
mod node;

use crate::Ui;
use crate::page::{empty, heading, opener};
use crate::session::Visitor;
use crate::show::{self, bytes, cpus, moment, state};
use crate::trouble::Trouble;
use axum::Router;
use axum::response::Response;
use axum::routing::get;
use berth_model::api::{AppInfo, ControllerInfo, NodeInfo};
use berth_model::metrics::Usage;
use berth_model::node::Capacity;
use berth_model::placing::ZONE;
use maud::{Markup, html};
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;

pub(crate) fn router() -> Router<Ui> {
    Router::new().route("/ui/nodes", get(list)).merge(join::router()).merge(node::router())
}

/// What the containers of a node use.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    running: usize,
    cpu_millis: u64,
    memory_bytes: u64,
}

fn used(top: &[Usage]) -> BTreeMap<&str, Used> {
    let mut by_node: BTreeMap<&str, Used> = BTreeMap::new();
    for usage in top {
        let used = by_node.entry(usage.node.as_str()).or_default();
        used.running += 1;
        used.cpu_millis += usage.cpu_millis;
        used.memory_bytes += usage.counters.memory_bytes;
    }
    by_node
}

async fn list(visitor: Visitor) -> Response {
    visitor
        .show("Nodes", async |visitor| {
            let api = &visitor.api;
            let (nodes, top, apps, controllers) = tokio::try_join!(
                api.get::<Vec<NodeInfo>>("/v1/nodes"),
                api.get::<Vec<Usage>>("/v1/top"),
                api.get::<Vec<AppInfo>>("/v1/apps"),
                api.get::<Vec<ControllerInfo>>("/v1/controllers"),
            )
            .map_err(Trouble::from)?;
            Ok(view(&nodes, &top, &apps, &controllers))
        })
        .await
}

fn view(nodes: &[NodeInfo], top: &[Usage], apps: &[AppInfo], controllers: &[ControllerInfo]) -> Markup {
    let used = used(top);
    let ill = nodes.iter().filter(|node| !node.alive || node.pressure.disk || node.pressure.memory).count();
    html! {
        (heading("Nodes", &html! {
            @if nodes.len() > 1 {
                input type="search" data-filters="#nodes tbody tr" data-search placeholder="Search ( / )" aria-label="Search nodes";
                a.button href="/ui/nodes/-/rebalance" { "Rebalance" }
            }
            (opener("join-node", "Add a node", "primary"))
        }))
        @if nodes.is_empty() {
            (empty("No machine runs containers yet. The controller's own does as soon as its agent runs.", &crate::page::command("berth agent")))
        } @else {
            p.summary {
                (show::count(nodes.len(), "node", "nodes")) " · " (show::count(top.len(), "container runs", "containers run")) " · "
                @if ill == 0 { span.state data-tone="good" { "all well" } } @else { span.state data-tone="bad" { (show::count(ill, "node is", "nodes are")) " not well" } }
                @if nodes.len() > 8 { " · " a href="#map" { "What runs where" } }
            }
            (table(nodes, &used))
            p.none hidden data-none-for="#nodes" { "No node has this in its name, zone or labels." }
            (map::view(nodes, top, apps))
        }
        @if !controllers.is_empty() { (controllers_of(controllers)) }
        (join::ask())
    }
}

/// How a node is, in words: the worst first.
fn words(node: &NodeInfo) -> Vec<&'static str> {
    let all = [
        (!node.alive && node.last_seen_ms > 0, "lost"),
        (!node.alive && node.last_seen_ms == 0, "never seen"),
        (node.draining, "draining"),
        (node.cordoned && !node.draining, "cordoned"),
        (node.alive && !node.cordoned && !node.draining, "alive"),
    ];
    all.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect()
}

fn states(node: &NodeInfo) -> Markup {
    html! {
        @for word in words(node) { (state(word)) " " }
        @if node.pressure.memory { span.state data-tone="bad" { "short of memory" } " " }
        @if node.pressure.disk { span.state data-tone="bad" { "short of disk" } " " }
    }
}

/// A bar with what it says beside it.
fn bar(of: &str, part: u64, whole: u64) -> Markup {
    html! { meter aria-label=(of) min="0" max=(whole.max(1)) value=(part.min(whole)) high=(whole / 10 * 9) {} }
}

fn cpu_of(node: &NodeInfo, used: Used) -> Markup {
    let whole = u64::from(node.capacity.cpus) * 1000;
    html! {
        (bar("CPU", used.cpu_millis, whole)) span.n { (cpus(used.cpu_millis)) span.dim { " of " (node.capacity.cpus) } }
        @if node.reserved.cpu_millis > 0 { span.under { (cpus(node.reserved.cpu_millis)) " reserved" } }
    }
}

fn memory_of(node: &NodeInfo, used: Used) -> Markup {
    let whole = node.capacity.memory_mib.saturating_mul(MIB);
    html! {
        (bar("Memory", used.memory_bytes, whole)) span.n { (bytes(used.memory_bytes)) span.dim { " of " (bytes(whole)) } }
        @if node.reserved.memory_mib > 0 { span.under { (bytes(node.reserved.memory_mib.saturating_mul(MIB))) " reserved" } }
    }
}

fn disk_of(node: &NodeInfo) -> Markup {
    let Capacity { disk_mib, disk_free_mib, .. } = node.capacity;
    let free = bytes(disk_free_mib.saturating_mul(MIB));
    html! {
        @if disk_mib > 0 {
            (bar("Disk", disk_mib.saturating_sub(disk_free_mib), disk_mib))
            span.n { (free) span.dim { " free" } }
            span.under { "of " (bytes(disk_mib.saturating_mul(MIB))) }
        } @else { span.n { (free) span.dim { " free" } } }
    }
}

/// What something waited for, and for how much of the last minute, in hundredths of a percent.
fn waits(node: &NodeInfo) -> Vec<(&'static str, u16)> {
    let stalls = &node.stalls;
    let all = [("CPU", stalls.cpu), ("memory", stalls.memory), ("disks", stalls.io)];
    all.into_iter().filter_map(|(what, stall)| Some((what, stall?.some.avg60))).collect()
}

fn share(hundredths: u16) -> String {
    show::percent(hundredths.into(), 10_000)
}

/// The most of them.
fn pressure_of(node: &NodeInfo) -> Markup {
    match waits(node).into_iter().max_by_key(|(_, share)| *share) {
        Some((what, most)) => html! { (share(most)) @if most > 0 { span.under { "for " (what) } } },
        None => html! { span.dim title="Its kernel does not count it" { "–" } },
    }
}

fn table(nodes: &[NodeInfo], used: &BTreeMap<&str, Used>) -> Markup {
    html! {
        div.wide { table #nodes .cards {
            thead { tr {
                th scope="col" { "Node" } th scope="col" { "State" } th.n scope="col" { "Containers" }
                th scope="col" { "CPU" } th scope="col" { "Memory" } th scope="col" { "Disk" }
                th.n scope="col" title="For how much of the last minute something waited" { "Pressure" } th scope="col" { "Address" }
            } }
            tbody { @for node in by_zone(nodes) { (row(node, used.get(node.name.as_str()).copied().unwrap_or_default())) } }
        } }
    }
}

/// By zone, then by name.
fn by_zone(nodes: &[NodeInfo]) -> Vec<&NodeInfo> {
    let mut sorted: Vec<&NodeInfo> = nodes.iter().collect();
    sorted.sort_by(|a, b| (a.labels.get(ZONE), &a.name).cmp(&(b.labels.get(ZONE), &b.name)));
    sorted
}

fn row(node: &NodeInfo, used: Used) -> Markup {
    let labels: Vec<String> = node.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    html! {
        tr id={ "node-" (node.name) } data-text={ (node.name) " " (labels.join(" ")) " " (words(node).join(" ")) } {
            th scope="row" {
                a href={ "/ui/nodes/" (node.name) } { (node.name) }
                @if !labels.is_empty() { span.under title=(labels.join(" ")) { (labels.join(" ")) } }
            }
            td {
                (states(node))
                @if !node.alive && node.last_seen_ms > 0 { span.under { "seen " (moment(node.last_seen_ms)) } }
                @if let Some(note) = &node.overlay_note { span.under title=(note) { "network: " (note) } }
            }
            td.n data-label="Containers" { (node.containers) @if used.running < node.containers { span.under { (used.running) " with a process" } } }
            td.metered data-label="CPU" { (cpu_of(node, used)) }
            td.metered data-label="Memory" { (memory_of(node, used)) }
            td.metered data-label="Disk" { (disk_of(node)) }
            td.n data-label="Pressure" { (pressure_of(node)) }
            td data-label="Address" {
                @match node.address { Some(address) => (address), None => span.dim { "–" } }
            }
        }
    }
}

fn controllers_of(controllers: &[ControllerInfo]) -> Markup {
    html! {
        section aria-labelledby="controllers" {
            div.heading { h2 #controllers { "Controllers" } }
            div.wide { table.cards {
                thead { tr { th scope="col" { "Controller" } th scope="col" { "Role" } th.n scope="col" { "SSH port" } th scope="col" { "Version" } th scope="col" { "There since" } } }
                tbody { @for one in controllers {
                    tr {
                        th scope="row" { (one.name) }
                        td { (state(if one.leads { "leads" } else { "follows" })) }
                        td.n data-label="SSH port" { (one.ssh_port) }
                        td data-label="Version" { (one.version) }
                        td data-label="Since" { (moment(one.since_ms)) }
                    }
                } }
            } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::node::{Averages, Reserved, Stall, Stalls};
    use serde_json::json;

    /// Many nodes and containers, made up.
    fn cluster(nodes: usize, containers: usize) -> (Vec<NodeInfo>, Vec<Usage>, Vec<AppInfo>) {
        let node = |n: usize| {
            json!({ "name": format!("worker-{n:02}"), "alive": n != 7, "last_seen_ms": 1_790_000_000_000_i64, "containers": containers / nodes + usize::from(n == 7) * 3,
                "capacity": { "cpus": 16, "memory_mib": 65536, "disk_free_mib": 400_000 + n * 1000, "cgroup": "v2", "kernel": "6.12.38-amd64" },
                "address": format!("192.0.2.{n}"), "subnet": format!("10.208.{n}.0/20"), "joined": n > 0, "cordoned": n == 9, "draining": n == 11,
                "pressure": { "disk": n == 13, "memory": false }, "labels": { "zone": format!("eu-{}", n % 3), "pool": "web" },
                "overlay": { "wireguard": nodes - 1, "vxlan": 0, "refused": 0 } })
        };
        let usage = |c: usize| {
            json!({ "app": format!("shop-frontend-{}", c % 83), "process": if c.is_multiple_of(3) { "worker" } else { "web" }, "ordinal": c / 83 + 1,
                "container": format!("shop-frontend-{}.web.{}.k7x2m9", c % 83, c / 83 + 1), "node": format!("worker-{:02}", c % nodes), "cpu_millis": c * 7 % 900,
                "net_in": 0, "net_out": 0, "io_in": 0, "io_out": 0, "restarts": 0,
                "counters": { "cpu_us": 0, "memory_bytes": (c as u64 * 77 % 800) << 20, "memory_limit_bytes": 1_u64 << 30, "pids": 3, "oom_kills": 0, "net_received": 0, "net_sent": 0 } })
        };
        let app = |a: usize| {
            let status = match a {
                5 | 40 => "crashed",
                17 => "degraded",
                23 => "deploying",
                _ => "running",
            };
            json!({ "name": format!("shop-frontend-{a}"), "created_ms": 0, "deploy_branch": null, "release": 1, "git_rev": null, "builder": null, "urls": [],
                "status": status, "formation": {}, "stopped": false, "mounts": [], "ports": [], "limits": {} })
        };
        let made = |values: Vec<serde_json::Value>| serde_json::Value::Array(values);
        (
            serde_json::from_value(made((0..nodes).map(node).collect())).expect("nodes"),
            serde_json::from_value(made((0..containers).map(usage).collect())).expect("usage"),
            serde_json::from_value(made((0..83).map(app).collect())).expect("apps"),
        )
    }

    #[test]
    fn fifty_nodes_with_a_thousand_containers_stay_a_small_page() {
        let (nodes, top, apps) = cluster(50, 1000);
        let page = view(&nodes, &top, &apps, &[]).into_string();
        assert!(page.len() < 600_000, "{} bytes", page.len());
        assert_eq!(page.matches("<a class=\"c\"").count(), 1000);
        for word in ["lost", "cordoned", "draining", "short of disk", "50 nodes", "1000 containers run"] {
            assert!(page.contains(word), "{word}");
        }
        // For looking at it: BERTH_PAGE=FILE cargo test -p berth-dashboard fifty_nodes
        if let Ok(path) = std::env::var("BERTH_PAGE") {
            std::fs::write(path, page).expect("written");
        }
    }

    #[test]
    fn several_controllers_are_named_with_the_one_that_leads() {
        let one = |name: &str, leads: bool| ControllerInfo {
            name: name.into(),
            host: "192.0.2.1".into(),
            api_port: 8080,
            ssh_port: 2222,
            leads,
            version: "0.1.0".into(),
            since_ms: 1,
        };
        let text = view(&[], &[], &[], &[one("a:8080", true), one("b:8080", false)]).into_string();
        assert!(text.contains("a:8080") && text.contains("leads") && text.contains("follows"), "{text}");
        assert!(text.contains("No machine runs containers yet"));
        assert!(!view(&[], &[], &[], &[]).into_string().contains("Controllers"));
    }

    #[test]
    fn a_nodes_disk_promises_and_pressure_are_shown_where_they_are_known() {
        let (mut nodes, ..) = cluster(1, 0);
        let mut node = nodes.remove(0);
        let shown = |node: &NodeInfo| row(node, Used::default()).into_string();
        assert!(
            !shown(&node).contains("reserved") && !shown(&node).contains("of 1.0 TiB"),
            "{}",
            shown(&node)
        );
        node.capacity.disk_mib = 1 << 20;
        node.reserved = Reserved { cpu_millis: 1500, memory_mib: 2048, memory_limits_mib: 9000 };
        let of = |avg60| Some(Stall { some: Averages { avg10: 0, avg60, avg300: 0 }, full: None });
        node.stalls = Stalls { cpu: of(40), memory: None, io: of(1250) };
        let text = shown(&node);
        for words in ["1.50 reserved", "2.0 GiB reserved", "of 1.0 TiB", "12 %", "for disks"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        node.stalls = Stalls { cpu: of(0), ..Stalls::default() };
        assert!(shown(&node).contains("0 %") && !shown(&node).contains("for CPU"));
    }

    #[test]
    fn a_node_is_called_what_matters_most() {
        let (mut nodes, ..) = cluster(1, 0);
        let mut node = nodes.remove(0);
        assert_eq!(words(&node), ["alive"]);
        node.cordoned = true;
        assert_eq!(words(&node), ["cordoned"]);
        node.draining = true;
        node.alive = false;
        assert_eq!(words(&node), ["lost", "draining"]);
    }
}
