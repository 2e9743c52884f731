//! `resource:*`: what containers may use, and what nodes keep for them, by process type.
//!
//! In: `512`, `1g`; `0.5`, `500m`; `10m` a second. Out: the limits of those process types, whole.

use super::not_here;
use crate::args::{command, option, report};
use crate::context::{Context, none_left};
use crate::error::{CliError, Result};
use crate::output::table;
use crate::report::Report;
use berth_model::ProcessType;
use berth_model::amount::Unit;
use berth_model::api::{AppInfo, PatchApp};
use berth_model::container::{EVERY_TYPE, Limits, Reserve};
use clap::{Arg, ArgMatches, Command};
use http::Method;
use std::collections::BTreeMap;

/// One thing that can be limited or reserved.
struct Setting {
    flag: &'static str,
    value: &'static str,
    help: &'static str,
    set: fn(&mut Limits, &str) -> Result<()>,
    show: fn(&Limits) -> String,
}

/// `setting(flag, VALUE, help, field of Limits, its unit, how it is shown)`.
macro_rules! setting {
    ($flag:literal, $value:literal, $help:literal, $($field:ident).+, $unit:ident, $show:expr) => {
        Setting {
            flag: $flag,
            value: $value,
            help: $help,
            set: |limits, text| {
                limits.$($field).+ = Unit::$unit.parse(text)?;
                Ok(())
            },
            show: |limits| $show(limits.$($field).+),
        }
    };
}

const LIMITS: &[Setting] = &[
    setting!(
        "cpu",
        "CPUS",
        "CPUs: 0.5, 2, or thousandths: 500m; `none` for no limit",
        cpu_millis,
        Cpu,
        millis
    ),
    Setting {
        flag: "cpu-weight",
        value: "WEIGHT",
        help: "Share of a busy CPU, 1 to 10000 [default: 100]",
        set: |limits, text| {
            limits.cpu_weight = weight(text)?;
            Ok(())
        },
        show: |limits| limits.cpu_weight.to_string(),
    },
    setting!("memory", "SIZE", "MiB, or with a unit: 512m, 1g; `none` for no limit", memory_mib, Mib, mib),
    setting!(
        "memory-swap",
        "SIZE",
        "Memory and swap together; `none` for no swap",
        memory_swap_mib,
        Mib,
        mib
    ),
    setting!("pids", "COUNT", "Processes and threads; `none` for no limit", pids, Count, number),
    setting!("disk", "SIZE", "What it may write to its own file system; MiB, or 2g", disk_mib, Mib, mib),
    setting!("io-read", "RATE", "Bytes a second from each disk: 512k, 10m, 1g", io.read_bps, Rate, rate),
    setting!("io-write", "RATE", "Bytes a second to each disk", io.write_bps, Rate, rate),
    setting!("io-read-iops", "COUNT", "Reads a second from each disk", io.read_iops, Count, number),
    setting!("io-write-iops", "COUNT", "Writes a second to each disk", io.write_iops, Count, number),
    setting!(
        "network-egress",
        "RATE",
        "Bits a second that leave: 10 (Mbit), 500k, 10m, 1g",
        network.egress_kbit,
        Kbit,
        kbit
    ),
    setting!("network-ingress", "RATE", "Bits a second that come", network.ingress_kbit, Kbit, kbit),
];

const RESERVES: &[Setting] = &[
    setting!("cpu", "CPUS", "CPUs that its node keeps for it: 0.5, 500m", reserve.cpu_millis, Cpu, millis),
    setting!("memory", "SIZE", "Memory that its node keeps for it: MiB, or 1g", reserve.memory_mib, Mib, mib),
    setting!(
        "disk",
        "SIZE",
        "Disk space that its node must have free for it: MiB, or 2g",
        reserve.disk_mib,
        Mib,
        mib
    ),
];

fn none_or(value: Option<u64>, show: impl FnOnce(u64) -> String) -> String {
    value.map_or_else(|| "none".to_owned(), show)
}

fn mib(value: Option<u64>) -> String {
    none_or(value, |mib| format!("{mib}m"))
}

fn millis(value: Option<u64>) -> String {
    none_or(value, |millis| format!("{millis}m"))
}

fn number(value: Option<u64>) -> String {
    none_or(value, |number| Unit::Count.text(number))
}

fn kbit(value: Option<u64>) -> String {
    none_or(value, |kbit| Unit::Kbit.text(kbit))
}

fn rate(value: Option<u64>) -> String {
    none_or(value, |bytes| Unit::Rate.text(bytes))
}

/// Every limit that there is, by its name.
pub(super) fn shown(limits: &Limits) -> Vec<(&'static str, String)> {
    let all = LIMITS.iter().map(|one| (one.flag, (one.show)(limits)));
    all.filter(|(_, value)| value != "none").collect()
}

fn weight(text: &str) -> Result<u64> {
    let weight = text.parse().ok().filter(|weight| (1..=10_000).contains(weight));
    weight.ok_or_else(|| CliError::Misuse(format!("{text:?} is no CPU weight: write 1 to 10000")))
}

pub(super) fn commands() -> Vec<Command> {
    let typed =
        || option("process-type", "TYPE", "Only this one, or `build` [default: every type of the app]");
    let flags = |settings: &'static [Setting]| -> Vec<Arg> {
        settings.iter().map(|one| option(one.flag, one.value, one.help)).collect()
    };
    vec![
        command(
            "resource:limit",
            "Show or set what containers may use",
            "[--memory MIB] [--cpu CPUS] [...] [--process-type TYPE] [<app>]",
            &[
                "resource:limit hello",
                "resource:limit --memory 256 hello",
                "resource:limit --memory 1g --cpu 0.5 --process-type worker hello",
                "resource:limit --network-egress 10m --io-write 20m hello",
                "resource:limit --memory 4g --process-type build hello",
            ],
        )
        .args(flags(LIMITS))
        .arg(option("network", "RATE", "Both --network-egress and --network-ingress"))
        .arg(typed()),
        command(
            "resource:limit-clear",
            "Go back to the default limits",
            "[--process-type TYPE] [<app>]",
            &["resource:limit-clear hello"],
        )
        .arg(typed()),
        command(
            "resource:reserve",
            "Show or set what nodes keep for containers",
            "[--memory MIB] [--cpu CPUS] [--process-type TYPE] [<app>]",
            &[
                "resource:reserve --memory 256 hello",
                "resource:reserve --cpu 0.5 --process-type worker hello",
            ],
        )
        .args(flags(RESERVES))
        .arg(typed()),
        command(
            "resource:reserve-clear",
            "Keep nothing any more",
            "[--process-type TYPE] [<app>]",
            &["resource:reserve-clear hello"],
        )
        .arg(typed()),
        report(
            "resource:report",
            "Show limits and reservations",
            "[<app>] [--KEY]",
            &["resource:report hello", "resource:report hello --web-limit-memory"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    if name == "resource:report" {
        return report_all(context, matches).await;
    }
    let (app, rest) = context.app(matches, false).await?;
    none_left(&rest)?;
    let path = format!("/v1/apps/{app}");
    let process =
        matches.get_one::<String>("process-type").map(|text| ProcessType::parse(text)).transpose()?;
    let settings = match name {
        "resource:limit" => LIMITS,
        "resource:reserve" => RESERVES,
        "resource:limit-clear" | "resource:reserve-clear" => &[],
        _ => return Err(not_here(name)),
    };
    let info: AppInfo = context.get(&path).await?;
    let mut wanted: Vec<(&Setting, &String)> = Vec::new();
    for setting in settings {
        let both = setting.flag.starts_with("network-") && name == "resource:limit";
        let both = both.then(|| matches.get_one::<String>("network")).flatten();
        wanted.extend(matches.get_one::<String>(setting.flag).or(both).map(|text| (setting, text)));
    }
    if !name.ends_with("-clear") && wanted.is_empty() {
        return show(context, &info, process.as_ref(), settings, name);
    }
    let mut patch = PatchApp::default();
    let mut set = BTreeMap::new();
    for kind in selected(&info, process.as_ref()) {
        let mut limits = of(&info, &kind);
        let standard = Limits::default_of(&kind);
        match name {
            "resource:limit-clear" => limits = Limits { reserve: limits.reserve, ..standard.clone() },
            "resource:reserve-clear" => limits.reserve = Reserve::default(),
            _ => {}
        }
        for (setting, text) in &wanted {
            (setting.set)(&mut limits, text)?;
        }
        if name.ends_with("-clear") && limits == standard {
            patch.clear_limits.push(kind);
        } else {
            set.insert(kind, limits);
        }
    }
    patch.limits = Some(set).filter(|set| !set.is_empty());
    context.act(Method::PATCH, &path, Some(&patch)).await
}

/// What holds for a type: its own, else what holds for every type, else the defaults.
fn of(info: &AppInfo, kind: &ProcessType) -> Limits {
    let every = info.limits.iter().find(|(name, _)| name.as_str() == EVERY_TYPE).map(|(_, limits)| limits);
    let own = info.limits.get(kind).or(every.filter(|_| kind.as_str() != "build"));
    own.cloned().unwrap_or_else(|| Limits::default_of(kind))
}

/// The types that are meant: the named one, or all that the app has and may come to have; builds only if they are named.
fn selected(info: &AppInfo, process: Option<&ProcessType>) -> Vec<ProcessType> {
    if let Some(process) = process {
        return vec![process.clone()];
    }
    let mut all: Vec<ProcessType> = info.formation.0.keys().chain(info.limits.keys()).cloned().collect();
    all.extend(ProcessType::parse(EVERY_TYPE).ok());
    all.retain(|kind| kind.as_str() != "build");
    all.sort();
    all.dedup();
    all
}

fn show(
    context: &Context,
    info: &AppInfo,
    process: Option<&ProcessType>,
    settings: &[Setting],
    name: &str,
) -> Result<()> {
    let all: BTreeMap<ProcessType, Limits> =
        selected(info, process).into_iter().map(|kind| (kind.clone(), of(info, &kind))).collect();
    if context.out.json {
        return match name {
            "resource:reserve" => {
                let kept: BTreeMap<_, Reserve> =
                    all.into_iter().map(|(kind, one)| (kind, one.reserve)).collect();
                context.out.json(&kept)
            }
            _ => context.out.json(&all),
        };
    }
    let what = if name == "resource:reserve" { "reservations" } else { "limits" };
    context.out.header(&format!("{} resource {what}", info.name))?;
    let row = |(kind, limits): (&ProcessType, &Limits)| {
        let values = settings.iter().map(|one| (one.flag, (one.show)(limits)));
        // Memory and CPU always; of the others what is limited.
        let shown = values.filter(|(flag, value)| matches!(*flag, "memory" | "cpu") || value != "none");
        let cells = shown.map(|(flag, value)| format!("{flag}={value}"));
        std::iter::once(format!("{kind}:")).chain(cells).collect::<Vec<_>>()
    };
    table(&all.iter().map(row).collect::<Vec<_>>()).iter().try_for_each(|line| context.out.line(line))
}

async fn report_all(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let apps = context.infos(matches).await?;
    if context.out.json && field.is_none() {
        let of_app = |info: &AppInfo| -> BTreeMap<ProcessType, Limits> {
            selected(info, None).into_iter().map(|kind| (kind.clone(), of(info, &kind))).collect()
        };
        let all: BTreeMap<_, _> = apps.iter().map(|info| (info.name.clone(), of_app(info))).collect();
        return context.out.json(&all);
    }
    apps.iter().try_for_each(|info| {
        let mut report = Report::new(info.name.as_str(), "resource");
        for kind in selected(info, None) {
            let limits = of(info, &kind);
            for (what, settings) in [("limit", LIMITS), ("reserve", RESERVES)] {
                for one in settings {
                    report = report.row(&format!("{kind} {what} {}", one.flag), (one.show)(&limits));
                }
            }
        }
        report.show(context.out, field)
    })
}
