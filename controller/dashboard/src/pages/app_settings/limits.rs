//! What containers may use, and what nodes keep for them, by process type.

use super::super::forms::{hidden, line, needed};
use super::{act, back};
use crate::action::Fields;
use crate::page::{button, dialog, opener};
use crate::session::Visitor;
use crate::show::{bytes, cpus};
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::amount::Unit;
use berth_model::api::{AppInfo, PatchApp};
use berth_model::container::{EVERY_TYPE, Limits};
use berth_model::{AppName, ProcessType};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

/// One field of the form.
struct Setting {
    name: &'static str,
    words: &'static str,
    hint: &'static str,
    unit: Unit,
    get: fn(&Limits) -> Option<u64>,
    set: fn(&mut Limits, Option<u64>),
}

macro_rules! setting {
    ($name:literal, $words:literal, $hint:literal, $unit:ident, $($field:ident).+) => {
        Setting {
            name: $name,
            words: $words,
            hint: $hint,
            unit: Unit::$unit,
            get: |limits| limits.$($field).+,
            set: |limits, value| limits.$($field).+ = value,
        }
    };
}

const MAIN: &[Setting] = &[
    setting!("memory", "Memory", "512m, 1g", Mib, memory_mib),
    setting!("swap", "Memory and swap together", "empty: no swap", Mib, memory_swap_mib),
    setting!("cpu", "CPUs", "0.5, 2; empty: as many as are idle", Cpu, cpu_millis),
    Setting {
        name: "weight",
        words: "Share of a busy CPU",
        hint: "1 to 10000, 100 is usual",
        unit: Unit::Count,
        get: |limits| Some(limits.cpu_weight),
        set: |limits, value| limits.cpu_weight = value.unwrap_or(Limits::default().cpu_weight),
    },
    setting!("pids", "Processes and threads", "", Count, pids),
    setting!("disk", "Disk", "of its own file system: 2g", Mib, disk_mib),
];

const SPEEDS: &[Setting] = &[
    setting!("io_read", "Read from a disk, a second", "10m", Rate, io.read_bps),
    setting!("io_write", "Write to a disk, a second", "10m", Rate, io.write_bps),
    setting!("io_read_iops", "Reads a second", "", Count, io.read_iops),
    setting!("io_write_iops", "Writes a second", "", Count, io.write_iops),
    setting!("egress", "Network out, bits a second", "10m", Kbit, network.egress_kbit),
    setting!("ingress", "Network in, bits a second", "10m", Kbit, network.ingress_kbit),
];

const RESERVES: &[Setting] = &[
    setting!("reserve_memory", "Memory", "256m", Mib, reserve.memory_mib),
    setting!("reserve_cpu", "CPUs", "0.5", Cpu, reserve.cpu_millis),
    setting!("reserve_disk", "Disk free when placed", "2g", Mib, reserve.disk_mib),
];

fn of<'a>(info: &'a AppInfo, name: &str) -> Option<&'a Limits> {
    info.limits.iter().find(|(own, _)| own.as_str() == name).map(|(_, limits)| limits)
}

/// What holds for a type, and from where: its own, those of every type, the defaults.
fn effective(info: &AppInfo, kind: &ProcessType) -> (Limits, &'static str) {
    let every = of(info, EVERY_TYPE).filter(|_| kind.as_str() != "build");
    match (info.limits.get(kind), every) {
        (Some(own), _) => (own.clone(), "own"),
        (None, Some(every)) => (every.clone(), "every type's"),
        (None, None) => (Limits::default_of(kind), "default"),
    }
}

/// As people call it.
fn called(kind: &ProcessType) -> String {
    match kind.as_str() {
        EVERY_TYPE => "every other type".to_owned(),
        "build" => "builds".to_owned(),
        name => name.to_owned(),
    }
}

/// The section of the page.
pub(super) fn section(info: &AppInfo, types: &BTreeSet<ProcessType>) -> Markup {
    let special = [EVERY_TYPE, "build"].into_iter().filter_map(|name| ProcessType::parse(name).ok());
    let kinds: BTreeSet<ProcessType> = types.iter().chain(info.limits.keys()).cloned().collect();
    let usual = kinds.into_iter().filter(|kind| !matches!(kind.as_str(), EVERY_TYPE | "build"));
    let kinds: Vec<ProcessType> = usual.chain(special).collect();
    html! {
        section aria-labelledby="limits" {
            div.heading { h2 #limits { "Limits" } div.actions { (opener("limits-another", "Another type", "")) } }
            div.wide { table.cards {
                thead { tr {
                    th scope="col" { "Process type" } th.n scope="col" { "Memory" } th.n scope="col" { "CPUs" } th.n scope="col" { "Processes" }
                    th.n scope="col" { "Disk" } th scope="col" { "Kept on its node" } th scope="col" { "From" } th scope="col" { span.hidden { "Actions" } }
                } }
                tbody { @for kind in &kinds { (row(info, kind)) } }
            } }
            p.hint { "What runs and gets other limits is replaced at once, without a moment in which nothing answers." }
            @for kind in &kinds {
                @let (limits, _) = effective(info, kind);
                (dialog(&format!("limits-of-{kind}"), &format!("Limits: {}", called(kind)), &format!("{}/limits", back(&info.name)), "Set",
                    &html! { (hidden("process", kind.as_str())) (fields(&format!("limits-{kind}"), &limits)) }))
            }
            (dialog("limits-another", "Limits of another type", &format!("{}/limits", back(&info.name)), "Set",
                &html! { (needed("limits-process", "process", "Process type", "", "")) (fields("limits-new", &Limits::default())) }))
        }
    }
}

fn row(info: &AppInfo, kind: &ProcessType) -> Markup {
    let (limits, from) = effective(info, kind);
    let mib = |value: Option<u64>| {
        value.map_or_else(|| "no limit".to_owned(), |mib| bytes(mib.saturating_mul(1 << 20)))
    };
    let reserve = &limits.reserve;
    let kept: Vec<String> = [
        reserve.memory_mib.map(|mib| bytes(mib.saturating_mul(1 << 20))),
        reserve.cpu_millis.map(|millis| format!("{} CPUs", cpus(millis))),
        reserve.disk_mib.map(|mib| format!("{} of disk", bytes(mib.saturating_mul(1 << 20)))),
    ]
    .into_iter()
    .flatten()
    .collect();
    let speeds = SPEEDS.iter().filter(|one| (one.get)(&limits).is_some()).count();
    html! {
        tr id={ "limit-" (kind) } {
            th scope="row" { (called(kind)) }
            td.n data-label="Memory" { (mib(limits.memory_mib)) }
            td.n data-label="CPUs" { (limits.cpu_millis.map_or_else(|| "no limit".to_owned(), cpus)) }
            td.n data-label="Processes" { (limits.pids.map_or_else(|| "no limit".to_owned(), |pids| pids.to_string())) }
            td.n data-label="Disk" { (mib(limits.disk_mib)) }
            td data-label="Kept on its node" { @if kept.is_empty() { span.dim { "nothing" } } @else { (kept.join(", ")) } }
            td data-label="From" { (from) @if speeds > 0 { span.dim { ", with " (crate::show::count(speeds, "limit of speed", "limits of speed")) } } }
            td.row-actions {
                (opener(&format!("limits-of-{kind}"), "Edit", "link"))
                @if info.limits.contains_key(kind) { (button(&format!("{}/limits/reset", back(&info.name)), "Reset", "link", &[("process", kind.as_str())])) }
            }
        }
    }
}

fn fields(id: &str, limits: &Limits) -> Markup {
    let all = |settings: &[Setting]| {
        html! { div.two { @for one in settings { div { (line(&format!("{id}-{}", one.name), one.name, one.words, &(one.get)(limits).map_or_else(String::new, |value| one.unit.text(value)), one.hint)) } } } }
    };
    html! {
        p.hint { "Empty is no limit." }
        (all(MAIN))
        fieldset { legend { "Kept for it on its node" } (all(RESERVES)) }
        details { summary { "Speed of disks and network" } (all(SPEEDS)) }
    }
}

/// The limits that the form says, over those that hold.
fn read(fields: &Fields, mut limits: Limits) -> Result<Limits, Trouble> {
    for one in MAIN.iter().chain(RESERVES).chain(SPEEDS) {
        let value = match fields.text(one.name).trim() {
            "" => None,
            text => {
                one.unit.parse(text).map_err(|error| Trouble::invalid(format!("{}: {error}", one.words)))?
            }
        };
        (one.set)(&mut limits, value);
    }
    Ok(limits)
}

fn process(fields: &Fields) -> Result<ProcessType, Trouble> {
    ProcessType::parse(fields.text("process")).map_err(|error| Trouble::invalid(error.to_string()))
}

/// Sets all limits of one type.
pub(super) async fn set(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let path = format!("/v1/apps/{app}");
    let wanted = async || -> Result<PatchApp, Trouble> {
        let kind = process(&fields)?;
        let info = visitor.api.get::<AppInfo>(&path).await?;
        let limits = read(&fields, effective(&info, &kind).0)?;
        Ok(PatchApp { limits: Some(BTreeMap::from([(kind, limits)])), ..PatchApp::default() })
    };
    act(&visitor, &fields, (Method::PATCH, &path), wanted().await, &back(&app)).await
}

/// Goes back to what holds for every type.
pub(super) async fn reset(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let wanted = process(&fields).map(|kind| PatchApp { clear_limits: vec![kind], ..PatchApp::default() });
    act(&visitor, &fields, (Method::PATCH, &format!("/v1/apps/{app}")), wanted, &back(&app)).await
}
