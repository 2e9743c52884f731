//! The dashboard in front of a made-up platform of 200 apps, 50 nodes and 1,000 containers, for looking at pages with a lot of
//! data and for timing them: `cargo run -p berth-dashboard --example crowd -- LISTEN`. Figures change every second. Sign in
//! with any token.

#![expect(clippy::print_stdout, reason = "it says where it is")]

use axum::extract::{Path, Request};
use axum::middleware::{Next, from_fn};
use axum::routing::{get, post};
use axum::{Json, Router};
use berth_dashboard::{Api, Peer};
use berth_model::api::{
    AppInfo, CreatedSession, NodeInfo, PsContainer, PsReport, ReleaseInfo, SessionInfo, VersionInfo,
};
use berth_model::container::{ContainerState, ContainerStatus, Exit};
use berth_model::deploy::{CanaryInfo, DeployReport, Strategy, Volumes};
use berth_model::events::{EventInfo, EventResult};
use berth_model::metrics::{AppMetrics, Counters, MetricPoint, Usage};
use berth_model::node::{Capacity, Pressure};
use berth_model::release::Formation;
use berth_model::traffic::{Traffic, TrafficNow, TrafficPoint};
use berth_model::{AppName, ContainerId, NodeName, ProcessType, ReleaseVersion};
use berth_wire::{Client, Endpoint};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

const APPS: usize = 200;
const NODES: usize = 50;
/// Containers of an app.
const EACH: u32 = 5;

const WORDS: [&str; 10] =
    ["shop", "blog", "billing", "search", "mail", "login", "metrics", "images", "reports", "chat"];
const STATES: [&str; 20] = [
    "running",
    "running",
    "running",
    "running",
    "running",
    "running",
    "running",
    "deploying",
    "running",
    "running",
    "degraded",
    "running",
    "running",
    "stopped",
    "running",
    "running",
    "crashed",
    "running",
    "asleep",
    "running",
];

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A number that looks random, the same for the same input in the same second.
fn dice(of: usize, salt: u64) -> u64 {
    let second = u64::try_from(now_ms() / 1000).unwrap_or(0);
    let mut x = (of as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ second.wrapping_mul(salt | 1);
    x ^= x >> 31;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 29)
}

fn app(index: usize) -> AppName {
    AppName::parse(&format!("{}-{:03}", WORDS[index % WORDS.len()], index)).expect("a name")
}

fn node(index: usize) -> NodeName {
    NodeName::parse(&format!("node-{:02}", index % NODES)).expect("a name")
}

fn number_of(name: &AppName) -> usize {
    name.as_str().rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn state(index: usize) -> &'static str {
    STATES[index % STATES.len()]
}

fn formation() -> Formation {
    Formation([(ProcessType::web(), 4), (worker(), 1)].into())
}

fn worker() -> ProcessType {
    ProcessType::parse("worker").expect("a name")
}

fn info(index: usize) -> AppInfo {
    let name = app(index);
    let value = serde_json::json!({
        "name": name, "created_ms": now_ms() - 90_000_000, "deploy_branch": null, "release": index % 40 + 1,
        "git_rev": "1a2b3c4d5e6f", "builder": "python", "urls": [format!("http://{name}.example.com")],
        "status": state(index), "formation": formation(), "stopped": false, "mounts": [], "ports": [], "limits": {},
    });
    serde_json::from_value(value).expect("an app as the API shows it")
}

fn id(index: usize, ordinal: u32) -> ContainerId {
    ContainerId::parse(&format!("{}.web.{ordinal}.abc{index:03}", app(index))).expect("an id")
}

fn process(ordinal: u32) -> (ProcessType, u32) {
    if ordinal < EACH { (ProcessType::web(), ordinal) } else { (worker(), 1) }
}

fn usage(index: usize) -> impl Iterator<Item = Usage> {
    (1..=EACH).map(move |ordinal| {
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

fn point(index: usize, seconds: u32) -> TrafficPoint {
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

fn report(index: usize) -> PsReport {
    let one = |ordinal: u32| {
        let (process, number) = process(ordinal);
        let state = match state(index) {
            "crashed" => ContainerState::BackingOff {
                exit: Exit { code: 1, signal: None, oom_killed: false, at_ms: now_ms() },
                until_ms: now_ms() + 9000,
            },
            _ => ContainerState::Running { since_ms: 1_700_000_000_000, ready: true },
        };
        let status = ContainerStatus {
            state,
            incarnation: 1,
            restarts: 0,
            address: None,
            published: Vec::new(),
            pid: Some(1),
            static_root: None,
            static_rules: Default::default(),
            advice: None,
        };
        PsContainer {
            id: id(index, ordinal),
            process,
            ordinal: number,
            release: ReleaseVersion(3),
            node: Some(node(index * 7 + ordinal as usize)),
            status: Some(status),
            command: "gunicorn app:app".into(),
            waiting: None,
        }
    };
    PsReport {
        app: app(index),
        status: state(index).into(),
        formation: formation(),
        restart_policy: "on-failure:10".into(),
        settings: None,
        containers: (1..=EACH).map(one).collect(),
        remarks: Vec::new(),
    }
}

fn points(index: usize, count: i64, seconds: i64) -> Vec<MetricPoint> {
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
    (0..count).rev().map(one).collect()
}

fn nodes() -> Vec<NodeInfo> {
    let one = |index: usize| {
        let value = serde_json::json!({
            "name": node(index), "alive": index != 13, "last_seen_ms": now_ms(), "containers": APPS * EACH as usize / NODES,
            "capacity": Capacity { cpus: 8, memory_mib: 32_768, disk_free_mib: 90_000, cgroup: "v2".into(), kernel: "6.1.0-40-amd64".into() },
            "pressure": Pressure { disk: index == 21, memory: index == 34 }, "joined": true, "joined_ms": now_ms() - 900_000_000,
            "address": format!("10.0.0.{}", index + 1), "subnet": format!("10.208.{index}.0/24"),
            "labels": { "zone": format!("zone-{}", index % 3) }, "cordoned": index == 8, "draining": index == 8,
            "overlay": { "wireguard": NODES - 1 },
        });
        serde_json::from_value(value).expect("a node as the API shows it")
    };
    (0..NODES).map(one).collect()
}

fn events() -> String {
    let one = |seq: u64| EventInfo {
        seq,
        at_ms: now_ms() - i64::try_from(100 - seq).unwrap_or(0) * 60_000,
        app: Some(app(usize::try_from(seq).unwrap_or(0))),
        by: "ada".into(),
        from: "https 192.0.2.7".into(),
        kind: "ps.scale".into(),
        text: "scaled to web=4".into(),
        result: if seq.is_multiple_of(9) { EventResult::Failed } else { EventResult::Done },
        reason: seq.is_multiple_of(9).then(|| "no node has room".into()),
        took_ms: Some(900),
    };
    let line = |seq| serde_json::to_string(&one(seq)).unwrap_or_default() + "\n";
    (1..=100).map(line).collect()
}

fn release(index: usize) -> ReleaseInfo {
    let value = serde_json::json!({
        "version": index % 40 + 1, "description": "Deploy 1a2b3c4", "by": "ada", "created_ms": 1_700_000_000_000_i64, "outcome": "live",
        "reason": null, "current": true, "git_rev": "1a2b3c4d5e6f", "image": "apps/x@sha256:0", "config_names": [],
        "processes": { "web": "gunicorn app:app", "worker": "python work.py" },
    });
    serde_json::from_value(value).expect("a release as the API shows it")
}

fn deploy(name: AppName) -> DeployReport {
    let index = number_of(&name);
    let canary = (state(index) == "deploying").then(|| CanaryInfo {
        release: ReleaseVersion(index as u64 % 40 + 2),
        percent: 10,
        containers: 1,
        since_ms: now_ms() - 240_000,
        requests: 300,
        errors: 3,
    });
    DeployReport {
        app: name,
        strategy: Strategy::Rolling,
        canary_percent: 10,
        next_canary: None,
        auto_rollback: true,
        rollback_window_secs: 300,
        rollback_error_percent: Some(50),
        volumes: Volumes::Overlap,
        wait_to_retire_secs: 60,
        parallel_schedule_count: 1,
        under_way: None,
        release: Some(ReleaseVersion(index as u64 % 40 + 1)),
        canary,
        watched_until_ms: None,
        back_to: None,
        kept: 0,
        kept_until_ms: None,
    }
}

fn api() -> Router {
    let session = || SessionInfo {
        id: "0123456789abcdef".into(),
        by: "ada".into(),
        from: "http 127.0.0.1".into(),
        created_ms: 1_700_000_000_000,
        last_used_ms: 1_700_000_000_000,
        expires_ms: now_ms() + 9_000_000,
        current: true,
    };
    let created = move || async {
        Json(CreatedSession {
            session: "berths_x".into(),
            by: "ada".into(),
            expires_ms: now_ms() + 9_000_000,
        })
    };
    let version = VersionInfo { version: "0.1.0".into(), api: "v1".into(), ssh_port: 2222 };
    let of = |name: AppName| number_of(&name);
    let traffic = |index: usize| Traffic {
        app: app(index).to_string(),
        in_flight: 3,
        now: point(index, 10),
        seconds: Vec::new(),
        minutes: Vec::new(),
    };
    Router::new()
        .route("/v1/sessions", post(created).get(move || async move { Json(vec![session()]) }))
        .route("/v1/sessions/current", get(move || async move { Json(session()) }))
        .route("/v1/version", get(move || async move { Json(version.clone()) }))
        .route("/v1/apps", get(async || Json((0..APPS).map(info).collect::<Vec<_>>())))
        .route("/v1/top", get(async || Json((0..APPS).flat_map(usage).collect::<Vec<_>>())))
        .route(
            "/v1/traffic",
            get(async || {
                let one = |index| TrafficNow {
                    app: app(index).to_string(),
                    in_flight: 1,
                    second: point(index, 1),
                    now: point(index, 10),
                };
                Json((0..APPS).map(one).collect::<Vec<_>>())
            }),
        )
        .route("/v1/nodes", get(async || Json(nodes())))
        .route("/v1/controllers", get(async || Json(Vec::<()>::new())))
        .route("/v1/events", get(async || events()))
        .route("/v1/apps/{app}", get(move |Path(name): Path<AppName>| async move { Json(info(of(name))) }))
        .route(
            "/v1/apps/{app}/ps",
            get(move |Path(name): Path<AppName>| async move { Json(report(of(name))) }),
        )
        .route("/v1/apps/{app}/deploy", get(async |Path(name): Path<AppName>| Json(deploy(name))))
        .route(
            "/v1/apps/{app}/traffic",
            get(move |Path(name): Path<AppName>| async move { Json(traffic(of(name))) }),
        )
        .route(
            "/v1/apps/{app}/metrics",
            get(move |Path(name): Path<AppName>| async move {
                let index = of(name.clone());
                let (tens, minutes) = (points(index, 360, 10), points(index, 1440, 60));
                Json(AppMetrics { app: name, now: usage(index).collect(), tens, minutes })
            }),
        )
        .route(
            "/v1/apps/{app}/releases/{version}",
            get(move |Path((name, _)): Path<(AppName, String)>| async move { Json(release(of(name))) }),
        )
}

#[derive(Debug)]
struct Here(SocketAddr);

impl Api for Here {
    fn client(&self, _: Peer) -> Client {
        Client::new(Endpoint::Tcp { address: self.0.to_string() })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = std::env::args().nth(1).ok_or("usage: crowd LISTEN")?;
    let own = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = own.local_addr()?;
    tokio::spawn(async move { axum::serve(own, api()).await });
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let peer = async |mut request: Request, next: Next| {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        request.extensions_mut().insert(Peer { address, encrypted: false });
        next.run(request).await
    };
    let app = berth_dashboard::router(Arc::new(Here(address)), CancellationToken::new()).layer(from_fn(peer));
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
