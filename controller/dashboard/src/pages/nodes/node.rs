//! One machine: what it has, what runs there, and what is wanted of it.

use super::{MIB, Used, cpu_of, disk_of, memory_of, share, states, used, waits};
use crate::Ui;
use crate::action::Fields;
use crate::page::{button, command, danger, dialog, empty, opener};
use crate::session::Visitor;
use crate::show::{bytes, cpus, moment, tone};
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_model::NodeName;
use berth_model::amount::Unit;
use berth_model::api::{DrainNode, NodeInfo, SetNode};
use berth_model::cluster::{Finding, FindingState};
use berth_model::metrics::Usage;
use maud::{Markup, html};
use std::collections::BTreeMap;

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/nodes/{node}", get(page).post(set))
        .route("/ui/nodes/{node}/drain", post(drain))
        .route("/ui/nodes/{node}/renew", post(renew))
        .route("/ui/nodes/{node}/remove", post(remove))
        .route("/ui/nodes/{node}/doctor", get(doctor))
}

fn back(node: &NodeName) -> String {
    format!("/ui/nodes/{node}")
}

async fn page(visitor: Visitor, Path(node): Path<NodeName>) -> Response {
    let title = node.to_string();
    visitor.show_of(&title, node, view).await
}

async fn view(visitor: &Visitor, node: &NodeName) -> Result<Markup, Trouble> {
    let path = format!("/v1/nodes/{node}");
    let (info, mut top) =
        tokio::try_join!(visitor.api.get::<NodeInfo>(&path), visitor.api.get::<Vec<Usage>>("/v1/top"))?;
    top.retain(|usage| usage.node == *node);
    Ok(details(&info, &top))
}

fn details(node: &NodeInfo, top: &[Usage]) -> Markup {
    let used = used(top).get(node.name.as_str()).copied().unwrap_or_default();
    let base = back(&node.name);
    let cordon = |to: &str, words: &str| button(&base, words, "", &[("cordoned", to)]);
    html! {
        p.crumbs { a href="/ui/nodes" { "Nodes" } " /" }
        div.heading {
            h1 { (node.name) }
            (states(node))
            div.actions {
                a.button href={ (base) "/doctor" } { "Look for problems" }
                @if node.draining { (button(&format!("{base}/drain"), "Stop draining", "", &[("undo", "1")])) }
                @else {
                    @if node.cordoned { (cordon("false", "Uncordon")) } @else { (cordon("true", "Cordon")) }
                    (opener("drain-node", "Drain", ""))
                }
            }
        }
        @if !node.alive && node.last_seen_ms > 0 { p.notice { "It last reported " (moment(node.last_seen_ms)) ". What ran there is started on other nodes. Is the machine up, and does " code { "berth agent" } " run on it?" } }
        @if let Some(note) = &node.overlay_note { p.notice { "Network: " (note) } }
        @if let Some(waiting) = &node.volumes_waiting { p.notice { "Volumes of a restored backup: " (waiting) } }
        dl.figures {
            div { dt { "CPU" } dd.metered { (cpu_of(node, used)) } }
            div { dt { "Memory" } dd.metered { (memory_of(node, used)) } }
            div { dt { "Limits of memory, in all" } dd { (bytes(node.reserved.memory_limits_mib.saturating_mul(MIB))) } }
            div { dt { "Disk" } dd.metered { (disk_of(node)) } }
            div { dt { "Containers" } dd { (node.containers) } }
        }
        (containers(node, top, used))
        section aria-labelledby="labels" {
            div.heading { h2 #labels { "Labels" } div.actions { (opener("label-node", "Add a label", "")) } }
            @if node.labels.is_empty() { p.dim { "None. Apps choose nodes by labels; " code { "zone" } " says which nodes fail together, " code { "pool" } " keeps a node for some apps." } }
            @else { ul.labels { @for (name, value) in &node.labels {
                li { span.label { (name) "=" (value) } " " (button(&base, "Remove", "link bad", &[("label", name), ("value", "")])) }
            } } }
        }
        (facts(node))
        section aria-labelledby="end" {
            h2 #end { "Remove" }
            p { "A removed node is locked out at once. " @if node.alive { "Drain it first: as long as it has containers it is not removed." } @else { "As it is lost, that is done whatever is placed on it." } }
            (opener("remove-node", "Remove the node", "bad"))
        }
        (dialogs(node))
    }
}

fn containers(node: &NodeInfo, top: &[Usage], used: Used) -> Markup {
    let mut sorted: Vec<&Usage> = top.iter().collect();
    sorted.sort_by(|a, b| (&a.app, &a.process, a.ordinal).cmp(&(&b.app, &b.process, b.ordinal)));
    html! {
        section aria-labelledby="containers" {
            div.heading {
                h2 #containers { "Containers" }
                @if top.len() > 8 { div.actions { input type="search" data-filters="#here tbody tr" data-search placeholder="Search ( / )" aria-label="Search containers"; } }
            }
            @if used.running < node.containers { p.dim { (node.containers - used.running) " of " (node.containers) " have no process now: static sites, or they start, or failed; their apps say which." } }
            @if node.containers == 0 { (empty("Nothing runs here.", &html! {})) }
            @if !sorted.is_empty() { div.wide { table #here .cards {
                thead { tr {
                    th scope="col" { "App" } th scope="col" { "Container" } th.n scope="col" { "CPU" } th.n scope="col" { "Memory" } th.n scope="col" { "Of its limit" }
                    th.n scope="col" { "Network in" } th.n scope="col" { "Out" } th.n scope="col" { "Restarts" }
                } }
                tbody { @for one in sorted {
                    tr id={ "c-" (one.container) } data-text={ (one.app) " " (one.process) "." (one.ordinal) } {
                        th scope="row" { a href={ "/ui/apps/" (one.app) } { (one.app) } }
                        td { (one.process) "." (one.ordinal) }
                        td.n data-label="CPU" { (cpus(one.cpu_millis)) }
                        td.n data-label="Memory" { (bytes(one.counters.memory_bytes)) }
                        td.n data-label="Of" { @match one.counters.memory_limit_bytes { Some(limit) => (bytes(limit)), None => "–" } }
                        td.n data-label="In" { (bytes(one.net_in)) "/s" }
                        td.n data-label="Out" { (bytes(one.net_out)) "/s" }
                        td.n data-label="Restarts" { (one.restarts) }
                    }
                } }
            } } p.none hidden data-none-for="#here" { "No container here is called so." } }
        }
    }
}

fn facts(node: &NodeInfo) -> Markup {
    let offered = |amount: Option<String>| amount.unwrap_or_else(|| "all it has".to_owned());
    let ways = [
        (node.overlay.wireguard, "over WireGuard"),
        (node.overlay.vxlan, "over VXLAN, not encrypted"),
        (node.overlay.refused, "not at all"),
    ];
    let ways: Vec<String> =
        ways.iter().filter(|(count, _)| *count > 0).map(|(count, way)| format!("{count} {way}")).collect();
    let waited: Vec<String> =
        waits(node).into_iter().map(|(what, most)| format!("{what} {}", share(most))).collect();
    let capacity = &node.capacity;
    html! {
        section aria-labelledby="facts" {
            div.heading { h2 #facts { "Machine" } div.actions {
                (opener("offer-node", "What apps may reserve", ""))
                @if node.joined { (button(&format!("{}/renew", back(&node.name)), "Renew its certificate", "", &[])) }
            } }
            dl.facts {
                div { dt { "CPUs" } dd { (capacity.cpus) span.dim { ", apps may reserve " (offered(node.offered.cpu_millis.map(cpus))) } } }
                div { dt { "Memory" } dd { (bytes(capacity.memory_mib.saturating_mul(MIB))) span.dim { ", apps may reserve " (offered(node.offered.memory_mib.map(|mib| bytes(mib.saturating_mul(MIB))))) } } }
                div { dt { "Pressure" } dd { @if waited.is_empty() { "its kernel does not count it" } @else { (waited.join(", ")) span.dim { ": how much of the last minute something waited for it" } } } }
                div { dt { "Kernel" } dd { (capacity.kernel) span.dim { ", cgroup " (capacity.cgroup) } } }
                @if let Some(address) = node.address { div { dt { "Address" } dd { (address) } } }
                @if let Some(subnet) = &node.subnet { div { dt { "Addresses of containers" } dd { (subnet) } } }
                div { dt { "Other nodes" } dd { @if ways.is_empty() { "it speaks with none" } @else { (ways.join(", ")) } } }
                div { dt { "Joined" } dd { @if node.joined { (moment(node.joined_ms)) } @else { "it is the controller's own machine" } } }
            }
        }
    }
}

fn dialogs(node: &NodeInfo) -> Markup {
    let base = back(&node.name);
    let cpu = node.offered.cpu_millis.map(|millis| Unit::Cpu.text(millis));
    html! {
        (dialog("drain-node", "Drain", &format!("{base}/drain"), "Drain", &html! {
            p { "Everything that runs here is started elsewhere, one container of each process type at a time, without a lost request; nothing new comes here. It goes on when you leave, and can be undone." }
        }))
        (dialog("label-node", "Add a label", &base, "Add", &html! {
            label for="label-name" { "Name" }
            input #label-name name="label" required maxlength="63" list="label-names" autocomplete="off" spellcheck="false";
            datalist #label-names { option value="zone"; option value="pool"; }
            label for="label-value" { "Value" }
            input #label-value name="value" required maxlength="63" autocomplete="off" spellcheck="false";
            p.hint { "Letters, digits and inner . _ -. One that is there gets the new value." }
        }))
        (dialog("offer-node", "What apps may reserve", &base, "Save", &html! {
            input type="hidden" name="offer" value="1";
            label for="offer-cpu" { "CPUs" }
            input #offer-cpu name="cpu" type="number" min="0.01" step="0.001" value=[cpu] placeholder={ "all " (node.capacity.cpus) };
            label for="offer-memory" { "Memory, in MiB" }
            input #offer-memory name="memory" type="number" min="0" value=[node.offered.memory_mib] placeholder={ "all " (node.capacity.memory_mib) };
            p.hint { "Empty for all it has." }
        }))
        (danger("remove-node", "Remove the node", &format!("{base}/remove"), "Remove", node.name.as_str(),
            "It is locked out at once, and its containers are started elsewhere. To come back it has to join anew."))
    }
}

async fn set(visitor: Visitor, Path(node): Path<NodeName>, fields: Fields) -> Response {
    match wanted(&fields) {
        Ok(body) => {
            fields.act(&visitor, Method::PATCH, &format!("/v1/nodes/{node}"), Some(&body), &back(&node)).await
        }
        Err(trouble) => fields.refuse(&trouble),
    }
}

fn wanted(fields: &Fields) -> Result<SetNode, Trouble> {
    let mut set = SetNode::default();
    if let Some(label) = fields.some("label") {
        set.labels = BTreeMap::from([(label, fields.some("value"))]);
    }
    if let Some(cordoned) = fields.some("cordoned") {
        set.cordoned = Some(cordoned == "true");
    }
    if fields.is_on("offer") {
        // In the API 0 is all that the machine has.
        let cpu = fields.some("cpu").map_or(Ok(None), |text| Unit::Cpu.parse(&text));
        set.cpu_millis = Some(cpu.map_err(|error| Trouble::invalid(error.to_string()))?.unwrap_or(0));
        set.memory_mib =
            Some(if fields.is_on("memory") { fields.parsed("memory", "number of MiB")? } else { 0 });
    }
    Ok(set)
}

async fn drain(visitor: Visitor, Path(node): Path<NodeName>, fields: Fields) -> Response {
    let body = DrainNode { undo: fields.is_on("undo"), timeout_secs: None };
    fields.act(&visitor, Method::POST, &format!("/v1/nodes/{node}/drain"), Some(&body), &back(&node)).await
}

async fn renew(visitor: Visitor, Path(node): Path<NodeName>, fields: Fields) -> Response {
    fields.act(&visitor, Method::POST, &format!("/v1/nodes/{node}/renew"), None::<&()>, &back(&node)).await
}

async fn remove(visitor: Visitor, Path(node): Path<NodeName>, fields: Fields) -> Response {
    if let Err(trouble) = fields.must_name(node.as_str()) {
        return fields.refuse(&trouble);
    }
    // Only a lost machine is removed with its containers: from one that is there they can be moved first.
    let path = format!("/v1/nodes/{node}");
    match visitor.api.get::<NodeInfo>(&path).await {
        Ok(info) => {
            let path = format!("{path}?force={}", !info.alive);
            fields.act(&visitor, Method::DELETE, &path, None::<&()>, "/ui/nodes").await
        }
        Err(error) => fields.refuse(&error.into()),
    }
}

async fn doctor(visitor: Visitor, Path(node): Path<NodeName>) -> Response {
    let title = format!("{node}: problems");
    let found =
        visitor.api.get::<Vec<Finding>>(&format!("/v1/nodes/{node}/doctor")).await.map_err(Trouble::from);
    if found == Err(Trouble::SignedOut) {
        return Trouble::SignedOut.into_response();
    }
    visitor.show_once(&title, &findings(&node, &found))
}

fn findings(node: &NodeName, found: &Result<Vec<Finding>, Trouble>) -> Markup {
    let rank = |finding: &Finding| match finding.state {
        FindingState::Failing => 0,
        FindingState::Warning => 1,
        FindingState::Fine => 2,
    };
    let mut sorted: Vec<&Finding> = found.iter().flatten().collect();
    sorted.sort_by_key(|finding| rank(finding));
    let words = |finding: &Finding| match finding.state {
        FindingState::Failing => ("fails", tone("failed")),
        FindingState::Warning => ("warning", tone("degraded")),
        FindingState::Fine => ("ok", tone("ok")),
    };
    html! {
        p.crumbs { a href="/ui/nodes" { "Nodes" } " / " a href=(back(node)) { (node) } " /" }
        div.heading { h1 { "What " (node) " finds wrong with itself" } div.actions { a.button href={ (back(node)) "/doctor" } { "Look again" } } }
        @match found {
            Err(trouble) => { p.wrong { (trouble.message()) } p { "On the machine itself:" } (command("berth node:doctor")) }
            Ok(_) => {
                div.wide { table.cards {
                    thead { tr { th scope="col" { "Looked at" } th scope="col" { "State" } th scope="col" { "Found" } } }
                    tbody { @for finding in &sorted {
                        @let (word, tone) = words(finding);
                        tr { th scope="row" { (finding.check) } td { span.state data-tone=(tone) { (word) } } td.finding { (finding.text) } }
                    } }
                } }
            }
        }
    }
}
