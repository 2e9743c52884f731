//! The apps, the machines, the containers on them, and what they do: figures change every second.
//!
//! App [`FULL`] has as much of everything as there may be, with names as long as they may be; app [`BARE`] has nothing.

use crate::text::{ARABIC, LONG_WORD, now_ms};
use berth_model::api::{AppInfo, NodeInfo, PsContainer, PsReport};
use berth_model::container::{ContainerState, ContainerStatus, Exit};
use berth_model::metrics::{Counters, MetricPoint, Usage};
use berth_model::node::{Capacity, Pressure};
use berth_model::release::Formation;
use berth_model::traffic::TrafficPoint;
use berth_model::{AppName, ContainerId, NodeName, ProcessType, ReleaseVersion};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Mutex;

pub(crate) const APPS: usize = 200;
pub(crate) const NODES: usize = 50;
/// Containers of an app.
const EACH: u32 = 5;
/// The app with a lot of everything.
pub(crate) const FULL: usize = 199;
/// The app that was never deployed.
pub(crate) const BARE: usize = 198;
/// Process types of [`FULL`].
const TYPES: u32 = 30;

const WORDS: [&str; 10] =
    ["shop", "blog", "billing", "search", "mail", "login", "metrics", "images", "reports", "chat"];

pub(crate) fn state(index: usize) -> &'static str {
    match index % 20 {
        _ if index == BARE => "not deployed",
        7 => "deploying",
        10 => "degraded",
        13 => "stopped",
        16 => "crashed",
        18 => "asleep",
        _ => "running",
    }
}

/// A number that looks random, the same for the same input in the same second.
fn dice(of: usize, salt: u64) -> u64 {
    let second = u64::try_from(now_ms() / 1000).unwrap_or(0);
    let mut x = (of as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ second.wrapping_mul(salt | 1);
    x ^= x >> 31;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 29)
}

pub(crate) fn app(index: usize) -> AppName {
    let name = match index {
        FULL => format!("an-app-whose-name-is-as-long-as-the-names-of-apps-may-be-at-{FULL}"),
        _ => format!("{}-{index:03}", WORDS[index % WORDS.len()]),
    };
    AppName::parse(&name).expect("a name")
}

pub(crate) fn node(index: usize) -> NodeName {
    let name = match index % NODES {
        49 => "a-machine-whose-name-is-as-long-as-the-names-of-machines-may-49".to_owned(),
        index => format!("node-{index:02}"),
    };
    NodeName::parse(&name).expect("a name")
}

/// Which app, or which node.
pub(crate) fn number_of(name: &str) -> usize {
    name.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

pub(crate) fn processes(index: usize) -> Vec<ProcessType> {
    let more = if index == FULL { TYPES - 2 } else { 0 };
    let names = ["web".to_owned(), "worker".to_owned()].into_iter();
    let names = names.chain((0..more).map(|number| format!("queue-{number:02}-of-everything-else")));
    names.map(|name| ProcessType::parse(&name).expect("a name")).collect()
}

fn formation(index: usize) -> Formation {
    if index == BARE {
        return Formation::default();
    }
    let counts = [4, 1].into_iter().chain((2..).map(|number| number % 2));
    Formation(processes(index).into_iter().zip(counts).collect())
}

pub(crate) fn info(index: usize) -> AppInfo {
    let name = app(index);
    let (is_full, is_bare) = (index == FULL, index == BARE);
    let urls = (0..if is_full { 40 } else { 1 }).map(|number| match number {
        0 => format!("http://{name}.example.com"),
        _ => format!("https://{}", domain(number)),
    });
    let mounts = (0..if is_full { 50 } else { 0 }).map(|number: usize| {
        let source = if number.is_multiple_of(3) { format!("/srv/media/{number}/{LONG_WORD}") } else { format!("volume-{number}") };
        json!({ "source": source, "target": format!("/app/data/{number:02}/{}", if number.is_multiple_of(7) { LONG_WORD } else { "files" }), "read_only": number.is_multiple_of(4) })
    });
    let lock = json!({ "by": "ada", "at_ms": now_ms() - 900_000, "reason": format!("until the migration is done; {ARABIC}; {LONG_WORD}") });
    let value = json!({
        "name": name, "created_ms": 1_700_000_000_000_i64, "deploy_branch": null, "release": if is_bare { None } else { Some(version(index)) },
        "git_rev": "1a2b3c4d5e6f", "builder": "python", "urls": urls.collect::<Vec<_>>(), "life": is_full.then(|| json!({ "lock": lock })),
        "status": state(index), "formation": formation(index), "stopped": state(index) == "stopped", "mounts": mounts.collect::<Vec<_>>(),
        "ports": [], "limits": {},
    });
    serde_json::from_value(value).expect("an app as the API shows it")
}

/// The release that serves.
pub(crate) fn version(index: usize) -> usize {
    if index == FULL { 300 } else { index % 40 + 1 }
}

/// A domain of [`FULL`].
pub(crate) fn domain(number: usize) -> String {
    match number % 10 {
        9 => format!(
            "{}.{}.{number}.example.org",
            "a-label-of-sixty-three-letters-".repeat(2) + "x",
            "another-long-label"
        ),
        _ => format!("www-{number}.example.org"),
    }
}

fn id(index: usize, ordinal: u32) -> ContainerId {
    let (process, number) = process(ordinal);
    ContainerId::parse(&format!("{}.{process}.{number}.abc{index:03}", app(index))).expect("an id")
}

fn process(ordinal: u32) -> (ProcessType, u32) {
    if ordinal < EACH {
        (ProcessType::web(), ordinal)
    } else {
        (ProcessType::parse("worker").expect("a name"), 1)
    }
}

pub(crate) fn usage(index: usize) -> impl Iterator<Item = Usage> {
    (1..=if index == BARE { 0 } else { EACH }).map(move |ordinal| {
        let salt = u64::from(ordinal);
        let (process, number) = process(ordinal);
        Usage {
            app: app(index),
            process,
            ordinal: number,
            container: id(index, ordinal),
            node: node(index * 7 + ordinal as usize),
            cpu_millis: dice(index, salt) % 700,
            net_in: dice(index, salt + 9) % 90_000,
            net_out: dice(index, salt + 19) % 900_000,
            io_in: 0,
            io_out: 0,
            counters: Counters {
                cpu_us: 1,
                memory_bytes: 40_000_000 + dice(index, salt + 3) % 200_000_000,
                memory_limit_bytes: Some(512 << 20),
                pids: 9,
                ..Counters::default()
            },
            restarts: u32::try_from(index % 3).unwrap_or(0),
        }
    })
}

pub(crate) fn point(index: usize, seconds: u32) -> TrafficPoint {
    let requests = dice(index, 77) % 4000;
    let failed = if index.is_multiple_of(10) { requests / 50 } else { 0 };
    TrafficPoint {
        seconds,
        requests,
        success: requests - failed,
        server_error: failed,
        p50_us: Some(2_000 + dice(index, 5) % 9_000),
        p95_us: Some(20_000 + dice(index, 6) % 90_000),
        p99_us: Some(90_000 + dice(index, 7) % 900_000),
        ..TrafficPoint::default()
    }
}

/// A container that is there, and one that should be.
fn container(index: usize, ordinal: u32) -> PsContainer {
    let (process, number) = process(ordinal);
    let state = match state(index) {
        "crashed" => ContainerState::BackingOff {
            exit: Exit { code: 1, signal: None, oom_killed: false, at_ms: now_ms() },
            until_ms: now_ms() + 9000,
        },
        _ => ContainerState::Running { since_ms: 1_700_000_000_000, ready: true },
    };
    PsContainer {
        id: id(index, ordinal),
        process,
        ordinal: number,
        release: ReleaseVersion(3),
        node: Some(node(index * 7 + ordinal as usize)),
        status: Some(status(state)),
        command: "gunicorn app:app".into(),
        waiting: None,
    }
}

fn status(state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        state,
        incarnation: 1,
        restarts: 0,
        address: None,
        published: Vec::new(),
        pid: Some(1),
        static_root: None,
        static_rules: Default::default(),
        advice: None,
    }
}

/// What is not well in [`FULL`]: each in another way.
fn odd(process: &ProcessType, number: usize) -> PsContainer {
    let reason = format!("cannot start: the program is not there\n{LONG_WORD}\nis {ARABIC} the right one?");
    let states = [
        None,
        Some(ContainerState::Failed { reason }),
        Some(ContainerState::Starting { since_ms: now_ms() - 4000 }),
        Some(ContainerState::Exited {
            exit: Exit { code: 137, signal: Some(9), oom_killed: true, at_ms: 1 },
        }),
        Some(ContainerState::Running { since_ms: 1_700_000_000_000, ready: false }),
        Some(ContainerState::Stopping),
    ];
    let state = states[number % states.len()].clone();
    let id = format!("{}.{process}.1.abc{FULL}", app(FULL));
    PsContainer {
        id: ContainerId::parse(&id).expect("an id"),
        process: process.clone(),
        ordinal: 1,
        release: ReleaseVersion(300),
        node: state.as_ref().map(|_| node(number)),
        waiting: state
            .is_none()
            .then(|| "no node has 64 GiB of memory left for it; the largest has 31 GiB".to_owned()),
        status: state.map(status),
        command: "python".into(),
    }
}

pub(crate) fn report(index: usize) -> PsReport {
    let own = (1..=if index == BARE { 0 } else { EACH }).map(|ordinal| container(index, ordinal));
    let types = processes(index);
    let rest = types.iter().enumerate().skip(2).filter(|(number, _)| number % 2 == 1);
    let rest = rest.map(|(number, process)| odd(process, number / 2));
    let remark = || format!("web has no check; what listens is taken for well: see {LONG_WORD}");
    PsReport {
        app: app(index),
        status: state(index).into(),
        formation: formation(index),
        restart_policy: "on-failure:10".into(),
        settings: None,
        containers: own.chain(rest).collect(),
        remarks: if index == FULL { vec![remark()] } else { Vec::new() },
    }
}

pub(crate) fn points(index: usize, count: i64, seconds: i64) -> Vec<MetricPoint> {
    let end = now_ms() / 1000 / seconds * seconds;
    let one = |back: i64| {
        let salt = u64::try_from(back).unwrap_or(0) + 1;
        let requests = 900 + dice(index, salt) % 300;
        MetricPoint {
            at: end - back * seconds,
            containers: EACH,
            cpu_millis: 300 + dice(index, salt + 1) % 200,
            memory_bytes: 300_000_000 + dice(index, salt + 2) % 40_000_000,
            net_in: 90_000,
            net_out: 300_000,
            requests,
            success: requests - 9,
            client_error: 9,
            p50_us: Some(4_000),
            p95_us: Some(30_000 + dice(index, salt + 3) % 9_000),
            p99_us: Some(90_000 + dice(index, salt + 4) % 90_000),
            ..MetricPoint::default()
        }
    };
    (0..if index == BARE { 0 } else { count }).rev().map(one).collect()
}

/// Nodes that are drained.
pub(crate) static DRAINED: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

pub(crate) fn machine(index: usize) -> NodeInfo {
    let is_drained = index == 8 || DRAINED.lock().expect("nobody panics with it").contains(&index);
    let mut labels = json!({ "zone": format!("zone-{}", index % 3) });
    if index % NODES == 49 {
        labels["owner"] = Value::from("the-team-with-the-longest-name-of-all-teams-that-there-are");
    }
    let waits = (index == 49).then(|| format!("3 of 12 are not there yet: {LONG_WORD}"));
    let note =
        (index == 49).then_some("the kernel has no WireGuard; packets go over VXLAN, which is not encrypted");
    let value = json!({
        "name": node(index), "alive": index != 13, "last_seen_ms": now_ms() / 60_000 * 60_000, "containers": APPS * EACH as usize / NODES,
        "capacity": Capacity { cpus: 8, memory_mib: 32_768, disk_free_mib: 90_000, disk_mib: 240_000, cgroup: "v2".into(), kernel: "6.1.0-40-amd64".into() },
        "pressure": Pressure { disk: index == 21, memory: index == 34 }, "joined": true, "joined_ms": 1_700_000_000_000_i64,
        "address": format!("10.0.0.{}", index + 1), "subnet": format!("10.208.{index}.0/24"), "overlay_note": note, "volumes_waiting": waits,
        "labels": labels, "cordoned": is_drained, "draining": is_drained, "overlay": { "wireguard": NODES - 1 },
        "reserved": { "cpu_millis": 2500, "memory_mib": 6144, "memory_limits_mib": 20_480 },
        "stalls": { "cpu": { "some": { "avg10": 1200, "avg60": index * 97, "avg300": 300 } }, "memory": { "some": { "avg10": 0, "avg60": 0, "avg300": 0 } },
            "io": { "some": { "avg10": 30, "avg60": 210, "avg300": 90 } } },
    });
    serde_json::from_value(value).expect("a node as the API shows it")
}
