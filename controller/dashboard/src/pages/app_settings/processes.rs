//! How processes are restarted and stopped, and where they run: for all process types, and for single ones.

use super::super::forms::{hidden, line, set_or};
use super::{act, back};
use crate::action::Fields;
use crate::page::{dialog, opener};
use crate::session::Visitor;
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::api::{AppInfo, PsReport};
use berth_model::processes::{PatchProcesses, ProcessSettings};
use berth_model::{AppName, ProcessType};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

/// What can be set, as `ps:set` calls it, in words, and how it is written.
const KEYS: [(&str, &str, &str); 8] = [
    ("restart-policy", "Restarted after an exit", "on-failure:10, always, unless-stopped or no"),
    ("stop-signal", "Signal to stop with", "SIGTERM, SIGINT, SIGQUIT; empty: the image's own, else SIGTERM"),
    ("stop-timeout-seconds", "Seconds until it is killed", "0 to 3600; 30 is usual"),
    ("pool", "Pool of nodes", "empty: nodes of no pool"),
    ("node-labels", "Labels its nodes have", "disk=ssd,zone=eu|us"),
    ("spread", "How far apart", "even, distinct-nodes, distinct-zones or none"),
    ("apart-from", "Never beside", "cache,shop:worker,replica@zone"),
    ("rather-apart-from", "Rather not beside", "the same, where there is another place"),
];
/// How many of them are of the end and the start; the others are of places.
const OF_LIFE: usize = 3;

type Values = BTreeMap<String, String>;

/// What was set, for all types or for one.
fn values(ps: &PsReport, process: Option<&ProcessType>) -> Values {
    let none = ProcessSettings::default();
    let settings = ps.settings.as_ref().unwrap_or(&none);
    if let Some(process) = process {
        return settings.by_process.get(process).cloned().unwrap_or_default();
    }
    let pairs = [
        ("restart-policy", Some(ps.restart_policy.clone())),
        ("stop-signal", settings.stop_signal.clone()),
        ("stop-timeout-seconds", Some(settings.stop_timeout_secs.to_string())),
        ("pool", settings.pool.clone()),
        ("node-labels", settings.node_labels.clone()),
        ("spread", settings.spread.clone()),
        ("apart-from", settings.apart_from.clone()),
        ("rather-apart-from", settings.rather_apart_from.clone()),
    ];
    pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// The section of the page.
pub(super) fn section(info: &AppInfo, ps: &PsReport, types: &BTreeSet<ProcessType>) -> Markup {
    let own: BTreeSet<&ProcessType> =
        ps.settings.iter().flat_map(|settings| settings.by_process.keys()).chain(types).collect();
    let rows: Vec<Option<&ProcessType>> = std::iter::once(None).chain(own.into_iter().map(Some)).collect();
    html! {
        section aria-labelledby="processes" {
            div.heading { h2 #processes { "Processes" } }
            div.wide { table.cards {
                thead { tr {
                    th scope="col" { "Process type" } th scope="col" { "Restarted" } th scope="col" { "Signal" } th.n scope="col" { "Killed after" }
                    th scope="col" { "Where it runs" } th scope="col" { span.hidden { "Actions" } }
                } }
                tbody { @for process in &rows { (row(ps, *process)) } }
            } }
            p.hint { "Containers that start from then on have it." }
            @for process in &rows { (settings_dialog(info, ps, *process)) }
        }
    }
}

fn id(process: Option<&ProcessType>) -> String {
    // No process type begins with a hyphen, so none is taken for all of them.
    process.map_or_else(|| "process--all".to_owned(), |process| format!("process-of-{process}"))
}

fn called(process: Option<&ProcessType>) -> String {
    process.map_or_else(|| "all types".to_owned(), ToString::to_string)
}

fn row(ps: &PsReport, process: Option<&ProcessType>) -> Markup {
    let values = values(ps, process);
    let of = |key: &str| values.get(key).map(String::as_str);
    let otherwise = if process.is_some() { "as all" } else { "the image's" };
    let places: Vec<String> = KEYS[OF_LIFE..]
        .iter()
        .filter_map(|(key, words, _)| Some(format!("{}: {}", words.to_lowercase(), of(key)?)))
        .collect();
    html! {
        tr {
            th scope="row" { (called(process)) }
            td data-label="Restarted" { (set_or(of("restart-policy"), otherwise)) }
            td data-label="Signal" { (set_or(of("stop-signal"), otherwise)) }
            td.n data-label="Killed after" { @match of("stop-timeout-seconds") { Some(secs) => { (secs) " s" }, None => span.dim { (otherwise) } } }
            td data-label="Where it runs" { @if places.is_empty() { span.dim { @if process.is_some() { "as all" } @else { "anywhere" } } } @else { (places.join("; ")) } }
            td.row-actions { (opener(&id(process), "Edit", "link")) }
        }
    }
}

fn settings_dialog(info: &AppInfo, ps: &PsReport, process: Option<&ProcessType>) -> Markup {
    let (id, values) = (id(process), values(ps, process));
    let all = |keys: &[(&str, &str, &str)]| {
        html! { @for (key, words, hint) in keys {
            (line(&format!("{id}-{key}"), key, words, values.get(*key).map_or("", String::as_str), hint))
        } }
    };
    let fields = html! {
        @if let Some(process) = process { (hidden("process", process.as_str())) p.hint { "Empty: as for all types." } }
        (all(&KEYS[..OF_LIFE]))
        fieldset { legend { "Where it runs" } (all(&KEYS[OF_LIFE..])) }
    };
    dialog(
        &id,
        &format!("Processes: {}", called(process)),
        &format!("{}/processes", back(&info.name)),
        "Set",
        &fields,
    )
}

/// What the form changes of `now`: the rest is left as it is.
fn patch(process: Option<ProcessType>, now: &Values, typed: impl Fn(&str) -> String) -> PatchProcesses {
    let changed = |key: &str| Some(typed(key)).filter(|text| now.get(key).map_or("", String::as_str) != text);
    PatchProcesses {
        restart_policy: changed("restart-policy"),
        stop_signal: changed("stop-signal"),
        stop_timeout_secs: changed("stop-timeout-seconds"),
        pool: changed("pool"),
        node_labels: changed("node-labels"),
        spread: changed("spread"),
        apart_from: changed("apart-from"),
        rather_apart_from: changed("rather-apart-from"),
        process,
    }
}

/// Sets what was changed.
pub(super) async fn set(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let path = format!("/v1/apps/{app}");
    let wanted = async || -> Result<PatchProcesses, Trouble> {
        let process = fields.some("process").map(|text| ProcessType::parse(&text)).transpose();
        let process = process.map_err(|error| Trouble::invalid(error.to_string()))?;
        let ps = visitor.api.get::<PsReport>(&format!("{path}/ps")).await?;
        let now = values(&ps, process.as_ref());
        Ok(patch(process, &now, |key| fields.text(key).to_owned()))
    };
    match wanted().await {
        Ok(patch) if patch.is_empty() => fields.done(&back(&app)),
        wanted => {
            act(&visitor, &fields, (Method::PATCH, &format!("{path}/processes")), wanted, &back(&app)).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_changed_is_sent() {
        let now: Values =
            [("restart-policy", "always"), ("pool", "gpu")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let typed = |pairs: &[(&str, &str)]| {
            let pairs: Values = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            patch(None, &now, move |key| pairs.get(key).cloned().unwrap_or_default())
        };
        assert!(typed(&[("restart-policy", "always"), ("pool", "gpu")]).is_empty());
        let wanted = PatchProcesses {
            pool: Some(String::new()),
            spread: Some("none".to_owned()),
            ..PatchProcesses::default()
        };
        assert_eq!(typed(&[("restart-policy", "always"), ("spread", "none")]), wanted);
    }
}
