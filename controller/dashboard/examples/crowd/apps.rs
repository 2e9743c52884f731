//! What the pages of an app ask for: releases, builds, config, domains, storage, jobs.

use crate::cluster::{BARE, FULL, app, domain, info, number_of, points, processes, report, usage, version};
use crate::lines::{build_log, log_of, logs};
use crate::text::{ARABIC, LONG_WORD, before, lines, now_ms, typed};
use axum::extract::{Path, Query};
use axum::routing::{MethodRouter, get};
use axum::{Json, Router};
use berth_model::AppName;
use berth_model::api::{BuildInfo, Domains, ReleaseInfo};
use berth_model::certs::{AcmeSettingsInfo, CertificateReport};
use berth_model::config_api::{ConfigDiff, ConfigEvent, Variable};
use berth_model::cron::CronInfo;
use berth_model::deploy::ChecksReport;
use berth_model::deploy::{DeployReport, ReleaseDiff};
use berth_model::logs::AppLogs;
use berth_model::metrics::AppMetrics;
use berth_model::network::AppNetworksInfo;
use berth_model::placing::VolumeInfo;
use berth_model::proxy_api::ProxyInfo;
use berth_model::run::RunInfo;
use berth_model::traffic::Traffic;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A route that answers what `make` gives for the app's number.
fn of<T, F>(make: F) -> MethodRouter
where
    T: Serialize + 'static,
    F: Fn(usize) -> T + Clone + Send + Sync + 'static,
{
    get(async move |Path(parts): Path<BTreeMap<String, String>>| {
        Json(make(parts.get("app").map_or(0, |name| number_of(name))))
    })
}

/// The same of JSON, which has to have the type's form.
fn json_of<T: Serialize + DeserializeOwned + 'static>(make: fn(usize) -> Value) -> MethodRouter {
    of(move |index| typed::<T>(make(index)))
}

pub(crate) fn router() -> Router {
    let at = |what: &str| format!("/v1/apps/{{app}}{what}");
    Router::new()
        .route(&at(""), of(info))
        .route(&at("/ps"), of(report))
        .route(&at("/traffic"), of(traffic))
        .route(&at("/metrics"), of(metrics))
        .route(
            &at("/releases"),
            get(async |Path(name): Path<AppName>, Query(asked): Query<BTreeMap<String, String>>| {
                let index = number_of(name.as_str());
                let limit = asked.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
                let newest = (1..=released(index)).rev().take(limit);
                Json(newest.map(|one| release(index, one)).collect::<Vec<_>>())
            }),
        )
        .route(
            &at("/releases/{version}"),
            get(async |Path((name, one)): Path<(AppName, String)>| {
                Json(release(number_of(name.as_str()), one.trim_start_matches('v').parse().unwrap_or(1)))
            }),
        )
        .route(&at("/release-diff"), json_of::<ReleaseDiff>(diff))
        .route(
            &at("/builds"),
            of(|index| {
                (0..if index == BARE { 0 } else { 100 }).map(|one| build(index, one)).collect::<Vec<_>>()
            }),
        )
        .route(
            &at("/builds/{build}"),
            get(async |Path((name, id)): Path<(AppName, String)>| {
                Json(build(number_of(name.as_str()), number_of(&id)))
            }),
        )
        .route(&at("/builds/{build}/log"), get(build_log))
        .route(
            &at("/log-settings"),
            json_of::<AppLogs>(|_| json!({ "max_mib": 1_048_576, "keep_hours": 87_600 })),
        )
        .route(&at("/deploy"), json_of::<DeployReport>(deploy))
        .route(
            &at("/config/variables"),
            get(async |Path(name): Path<AppName>, Query(asked): Query<BTreeMap<String, String>>| {
                Json(variables(number_of(name.as_str()), asked.contains_key("masked")))
            }),
        )
        .route(&at("/config/history"), of(history))
        .route(&at("/config/diff"), json_of::<ConfigDiff>(not_used))
        .route(&at("/domains"), json_of::<Domains>(domains))
        .route(&at("/certificate"), json_of::<CertificateReport>(certificate))
        .route(&at("/acme"), json_of::<AcmeSettingsInfo>(acme))
        .route(&at("/proxy"), json_of::<ProxyInfo>(proxy))
        .route(&at("/volumes"), json_of::<Vec<VolumeInfo>>(volumes))
        .route(&at("/cron"), json_of::<CronInfo>(cron))
        .route(
            &at("/runs"),
            of(|index| {
                (0..if index == BARE { 0 } else { 300 }).map(|one| run(index, one)).collect::<Vec<_>>()
            }),
        )
        .route(
            &at("/runs/{run}"),
            get(async |Path((name, id)): Path<(AppName, String)>| {
                Json(run(number_of(name.as_str()), number_of(&id)))
            }),
        )
        .route(
            &at("/runs/{run}/logs"),
            get(async |Path((name, _)): Path<(AppName, String)>| log_of(&name, 500, false)),
        )
        .route(&at("/logs"), get(logs))
        .route(&at("/checks"), json_of::<ChecksReport>(checks))
        .route(&at("/networks"), json_of::<AppNetworksInfo>(networks))
}

fn traffic(index: usize) -> Traffic {
    let name = app(index).to_string();
    Traffic {
        app: name,
        in_flight: 3,
        now: crate::cluster::point(index, 10),
        seconds: Vec::new(),
        minutes: Vec::new(),
    }
}

fn metrics(index: usize) -> AppMetrics {
    let (tens, minutes) = (points(index, 360, 10), points(index, 1440, 60));
    AppMetrics { app: app(index), now: usage(index).collect(), tens, minutes }
}

fn released(index: usize) -> usize {
    if index == BARE { 0 } else { version(index) }
}

fn release(index: usize, one: usize) -> ReleaseInfo {
    let failed = one % 11 == 5;
    let commands = processes(index).into_iter().map(|process| {
        let command = if process.is_web() {
            "gunicorn app:app".to_owned()
        } else {
            format!("python -m jobs --queue {process} --key {LONG_WORD} | tee -a /tmp/log")
        };
        (process, command)
    });
    let names: Vec<String> = (0..if index == FULL { 200 } else { 5 }).map(variable).collect();
    typed(json!({
        "version": one, "description": match one % 6 { 1 => format!("Deploy {ARABIC}"), 2 => format!("Config: set {LONG_WORD}"), _ => "Deploy 1a2b3c4".to_owned() },
        "by": if one % 7 == 3 { "somebody-with-a-name-as-long-as-names-of-tokens-may-be-0123456789" } else { "ada" },
        "created_ms": before(90 * 60 * (released(index) - one.min(released(index)))), "outcome": if failed { "failed" } else { "live" },
        "reason": failed.then(|| lines(30)), "current": one == released(index), "git_rev": "1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d7e8f9a0b",
        "image": format!("apps/{}@sha256:{}", app(index), "0123456789abcdef".repeat(4)), "config_names": names,
        "processes": commands.collect::<BTreeMap<_, _>>(),
    }))
}

fn diff(index: usize) -> Value {
    let line = |number: usize| match number % 4 {
        0 => json!({ "kind": "config", "name": variable(number), "before": "***", "after": "***" }),
        1 => {
            json!({ "kind": "process", "name": format!("queue-{number}"), "before": format!("python {LONG_WORD}"), "after": null })
        }
        2 => {
            json!({ "kind": "image", "name": "digest", "before": "0123456789abcdef".repeat(4), "after": "fedcba9876543210".repeat(4) })
        }
        _ => json!({ "kind": "config", "name": variable(number), "before": null, "after": ARABIC }),
    };
    json!({ "app": app(index), "from": 1, "to": 2, "changes": (0..if index == FULL { 80 } else { 2 }).map(line).collect::<Vec<_>>() })
}

pub(crate) fn build(index: usize, one: usize) -> BuildInfo {
    let status = match one {
        0 if index % 20 == 7 => "building",
        _ if one % 5 == 3 => "failed",
        _ if one % 17 == 8 => "canceled",
        _ => "succeeded",
    };
    let began = before(90 * 60 * one + 60);
    typed(json!({
        "id": format!("{}-{one}", 1_700_000_000_000_i64 + i64::try_from(one).unwrap_or(0)), "status": status, "source": if one % 6 == 2 { LONG_WORD } else { "main" },
        "git_rev": "1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6d7e8f9a0b", "by": "ada", "started_ms": began, "finished_ms": (status != "building").then_some(began + 71_000),
        "builder": "python", "image": null, "release": (status == "succeeded").then(|| released(index).saturating_sub(one).max(1)),
        "reason": (status == "failed").then(|| lines(40)),
    }))
}

fn deploy(index: usize) -> Value {
    let canary = json!({ "release": 299, "percent": 10, "containers": 3, "since_ms": before(600), "requests": 120_345, "errors": 96 });
    json!({
        "app": app(index), "strategy": "rolling", "canary_percent": 10, "rollback_window_secs": 0, "wait_to_retire_secs": 60, "parallel_schedule_count": 1,
        "volumes": "overlap", "release": if index == BARE { None } else { Some(released(index)) }, "kept": if index == FULL { 2 } else { 0 }, "kept_until_ms": now_ms() / 60_000 * 60_000 + 60_000,
        "auto_rollback": false, "canary": (index == FULL).then_some(canary), "under_way": (index == FULL).then_some("a rollback"),
    })
}

/// The name of a variable.
pub(crate) fn variable(number: usize) -> String {
    match number % 20 {
        19 => {
            format!("A_NAME_OF_A_VARIABLE_THAT_IS_SO_LONG_THAT_ONE_WONDERS_WHO_CAME_UP_WITH_IT_{number:03}")
        }
        _ => format!("SERVICE_{number:03}_URL"),
    }
}

fn variables(index: usize, masked: bool) -> Vec<Variable> {
    let count = match index {
        BARE => 0,
        FULL => 200,
        _ => 12,
    };
    let one = |number: usize| {
        let value = match number % 5 {
            0 => LONG_WORD.repeat(8),
            1 => lines(20),
            2 => ARABIC.to_owned(),
            _ => format!("https://service-{number}.internal/"),
        };
        let kind = match number % 10 {
            7 => "secret",
            9 => "file",
            _ => "plain",
        };
        let value = (!masked && kind == "plain").then_some(&value);
        typed(
            json!({ "name": variable(number), "kind": kind, "value": value, "bytes": 40, "global": number % 9 == 4 }),
        )
    };
    (0..count).map(one).collect()
}

fn history(index: usize) -> Vec<ConfigEvent> {
    let change = |number: usize| json!({ "name": variable(number), "kind": if number % 10 == 9 { "file" } else { "plain" }, "change": (["added", "changed", "removed"][number % 3]) });
    let one = |number: usize| {
        let changed = if number % 8 == 3 { 30 } else { 1 };
        typed(
            json!({ "at_ms": before(3600 * number), "by": "ada", "stored_only": number % 6 == 1, "changes": (number..number + changed).map(change).collect::<Vec<_>>() }),
        )
    };
    (0..if index == BARE { 0 } else { 200 }).map(one).collect()
}

fn not_used(index: usize) -> Value {
    let one = |number: usize| json!({ "name": variable(number), "kind": "plain", "change": "changed", "before": "***", "after": "***" });
    json!({ "from": "v300", "to": "now", "changes": (0..if index == FULL { 25 } else { 0 }).map(one).collect::<Vec<_>>() })
}

fn names(index: usize) -> Vec<String> {
    (1..if index == FULL { 41 } else { 1 }).map(domain).collect()
}

fn domains(index: usize) -> Value {
    let own = names(index);
    let effective: Vec<String> = own
        .iter()
        .cloned()
        .chain([format!("{}.example.com", app(index))])
        .filter(|name| name.len() < 254)
        .collect();
    json!({ "domains": own, "effective": effective, "default_enabled": true })
}

fn certificate(index: usize) -> Value {
    let names = names(index);
    let (covered, uncovered) = names.split_at(names.len() / 2);
    let kept = |number: usize| {
        json!({
            "id": format!("{number:016x}"), "app": app(index), "hostnames": covered.iter().skip(number * 5).take(5).collect::<Vec<_>>(), "issuer": "CN=R11, O=Let's Encrypt, C=US",
            "subject": "CN=x", "source": (["own", "acme", "generated", "on-demand"][number % 4]), "starts_ms": before(9_000_000), "verified": if number == 1 { "self signed" } else { "yes" },
            "expires_ms": now_ms() / 3_600_000 * 3_600_000 + 86_400_000 * (i64::try_from(number).unwrap_or(0) * 20 - 10),
        })
    };
    let order = |number: usize| {
        json!({
            "names": uncovered.iter().skip(number * 4).take(4).collect::<Vec<_>>(), "expires_ms": null, "next_ms": before(0) + 7_200_000, "failures": number * 3, "on_demand": false,
            "under_way": number == 0, "error": (number > 1).then(|| format!("urn:ietf:params:acme:error:dns: no A record found for {}; {LONG_WORD}", domain(9))),
        })
    };
    let skipped = json!([{ "domain": "*.example.org", "reason": "a wildcard needs the challenge dns-01" }]);
    json!({
        "app": app(index), "covered": covered, "uncovered": uncovered, "certificates": (0..covered.len() / 5).map(kept).collect::<Vec<_>>(),
        "acme": { "enabled": index == FULL, "server": "production", "orders": (0..uncovered.len() / 4).map(order).collect::<Vec<_>>(), "skipped": if index == FULL { skipped } else { json!([]) } },
    })
}

pub(crate) fn acme(_: usize) -> Value {
    let own = json!({ "ca_bundle": [], "dns_token": false });
    let mut effective = own.clone();
    effective["email"] = json!("somebody-with-a-long-name@a-company-with-a-long-name.example.com");
    effective["server"] = json!("https://acme-v02.api.letsencrypt.org/directory");
    json!({ "own": own, "effective": effective })
}

pub(crate) fn proxy(index: usize) -> Value {
    let many = if index == FULL { 12 } else { 0 };
    let path = |number: usize| json!({ "host": domain(number + 1), "prefix": format!("/a/path/that/goes/on/{number}/{LONG_WORD}"), "strip": number.is_multiple_of(2) });
    let redirect = |number: usize| json!({ "from": format!("old-{number}.example.org"), "to": domain(1), "status": 301 });
    json!({
        "values": { "read-timeout": "5m" }, "effective": { "read-timeout": "5m", "body-limit": "1m" }, "pages": if index == FULL { json!(["404", "503"]) } else { json!([]) },
        "paths": (0..many).map(path).collect::<Vec<_>>(), "redirects": (0..many).map(redirect).collect::<Vec<_>>(),
        "users": (0..many).map(|number| format!("user-{number}")).collect::<Vec<_>>(), "maintenance": index == FULL,
    })
}

fn volumes(index: usize) -> Value {
    let mounts = info(index).mounts;
    let one = |(number, mount): (usize, &berth_model::container::Mount)| json!({ "source": mount.source, "node": (["any", "node-01", "node-02"][number % 3]) });
    json!(mounts.iter().enumerate().map(one).collect::<Vec<_>>())
}

fn cron(index: usize) -> Value {
    let one = |number: usize| {
        json!({
            "id": format!("task{number}"), "command": if number % 5 == 2 { format!("python -m clean --key {LONG_WORD} && echo {ARABIC}") } else { format!("python -m jobs.task_{number}") },
            "schedule": (["*/5 * * * *", "0 3 * * 1-5", "@daily"][number % 3]), "concurrency": (["allow", "forbid", "replace"][number % 3]), "maintenance": false, "suspended": number % 7 == 3,
            "next_ms": before(0) + 3_600_000, "last": if number % 6 == 5 { Value::Null } else { json!(run(index, number * 3)) },
        })
    };
    json!({ "timezone": "Europe/Berlin", "timezone_from": "app", "ttl_secs": 86_400, "maintenance": null, "tasks": (0..if index == FULL { 40 } else { 0 }).map(one).collect::<Vec<_>>() })
}

fn run(index: usize, one: usize) -> RunInfo {
    let status = ["succeeded", "failed", "succeeded", "stopped", "missed", "lost", "succeeded"][one % 7];
    let is_live = one >= 298;
    let (kind, detached) =
        if one.is_multiple_of(3) { ("cron", true) } else { ("run", one.is_multiple_of(2)) };
    let began = before(600 * (300 - one.min(300)));
    let cause = json!({ "task": "task1", "due_ms": began, "times": one % 4 });
    typed(json!({
        "name": format!("{}.run-{one}", app(index)), "kind": kind, "detached": detached, "by": "ada", "release": released(index).max(1), "node": "node-01",
        "command": if one % 10 == 4 { format!("rails runner {LONG_WORD}") } else { format!("python -m jobs.task_{one}") }, "created_ms": began, "started_ms": began + 400,
        "ended_ms": (!is_live).then_some(began + 61_000), "status": if is_live { "running" } else { status }, "exit_code": if is_live { None } else { Some(one % 3) },
        "reason": (status == "lost").then_some("its machine did not come back"), "until_ms": now_ms() + 3_600_000, "cron": (kind == "cron").then_some(cause),
    }))
}

fn checks(index: usize) -> Value {
    let check = |number: usize| {
        json!({
            "name": format!("check-{number}"), "kind": (["startup", "readiness", "liveness"][number % 3]), "attempts": 3, "timeout_secs": 5, "wait_secs": 5, "initial_delay_secs": 0,
            "probe": { "type": "http", "path": format!("/health/{number}/{LONG_WORD}"), "headers": [] },
        })
    };
    let of: BTreeMap<String, Vec<Value>> = processes(index)
        .iter()
        .take(6)
        .map(|process| (process.to_string(), (0..6).map(check).collect()))
        .collect();
    json!({ "app": app(index), "checks": if index == FULL { json!(of) } else { json!({}) }, "disabled": "none", "skipped": "none", "wait_to_retire_secs": 60 })
}

fn networks(index: usize) -> Value {
    let names: Vec<String> = (0..if index == FULL { 9 } else { 0 }).map(crate::platform::network).collect();
    let reaches: Vec<AppName> = (0..if index == FULL { 60 } else { 0 }).map(app).collect();
    json!({ "app": app(index), "names": [format!("{}.internal", app(index))], "networks": { "attached": names }, "reaches": reaches })
}
