//! Which container is where: a square each, grouped by node, coloured by how its app is.

use super::by_zone;
use crate::show::tone;
use berth_model::api::{AppInfo, NodeInfo};
use berth_model::metrics::Usage;
use berth_model::placing::ZONE;
use maud::{Markup, html};
use std::collections::BTreeMap;

/// One a page; nothing in it changes while containers stay where they are, so an open page stays as it is.
pub(super) fn view(nodes: &[NodeInfo], top: &[Usage], apps: &[AppInfo]) -> Markup {
    let status: BTreeMap<&str, &str> =
        apps.iter().map(|app| (app.name.as_str(), app.status.as_str())).collect();
    let how = |usage: &Usage| status.get(usage.app.as_str()).copied().unwrap_or("gone");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_node: BTreeMap<&str, Vec<&Usage>> = BTreeMap::new();
    for usage in top {
        *counts.entry(how(usage)).or_default() += 1;
        by_node.entry(usage.node.as_str()).or_default().push(usage);
    }
    for own in by_node.values_mut() {
        own.sort_by(|a, b| (&a.app, &a.process, a.ordinal).cmp(&(&b.app, &b.process, b.ordinal)));
    }
    let nodes = by_zone(nodes);
    let zone = |node: &NodeInfo| node.labels.get(ZONE).cloned();
    html! {
        section aria-labelledby="map" {
            div.heading {
                h2 #map { "What runs where" }
                p.legend {
                    @for (word, count) in &counts { span { i.c data-tone=(tone(word)) {} " " (count) " " (word) } }
                }
            }
            @if top.is_empty() { p.dim { "No container runs." } }
            @else {
                a.skip-map href="#after-map" { "Skip the map" }
                div.map {
                    @for group in nodes.chunk_by(|a, b| zone(a) == zone(b)) {
                        @if let Some(name) = zone(group[0]) { h3.zone { "Zone " (name) } }
                        @for node in group {
                            @let own = by_node.get(node.name.as_str()).map(Vec::as_slice).unwrap_or_default();
                            div.machine {
                                a.machine-name href={ "/ui/nodes/" (node.name) } { (node.name) }
                                div.cells {
                                    @if own.is_empty() && node.containers == 0 { span.dim { "empty" } }
                                    @for usage in own { (cell(usage, how(usage))) }
                                    @if node.containers > own.len() { span.dim title="Static sites, and what starts or failed" { "+" (node.containers - own.len()) } }
                                }
                            }
                        }
                    }
                }
                p #after-map tabindex="-1" .hint { "Each square is a container with a process, in the colour of how its app is; it leads there. + counts those without: static sites have none, what starts has none yet." }
            }
        }
    }
}

/// Short on purpose: there may be thousands.
fn cell(usage: &Usage, how: &str) -> Markup {
    // What is well is not marked, for most are.
    let tone = Some(tone(how)).filter(|tone| *tone != "good");
    html! { a.c href={ "/ui/apps/" (usage.app) } data-tone=[tone] title={ (usage.app) " " (usage.process) "." (usage.ordinal) ": " (how) } {} }
}
