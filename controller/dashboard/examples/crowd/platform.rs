//! What the pages of the platform ask for: who did what, images, networks, access, settings.

use crate::apps::{acme, proxy, variable};
use crate::cluster::{
    APPS, BARE, DRAINED, FULL, NODES, app, domain, info, machine, node, number_of, point, usage,
};
use crate::text::{ARABIC, LONG_WORD, before, lines, now_ms, typed};
use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use berth_model::alerts::AlertInfo;
use berth_model::api::{
    ControllerInfo, CreatedSession, Domains, DrainNode, ImageDetail, ImageInfo, Progress, RegistryInfo,
    SessionInfo, SshKeyInfo, TokenInfo, VersionInfo,
};
use berth_model::certs::{AcmeApp, AcmeSettingsInfo, CertificateInfo};
use berth_model::cluster::Finding;
use berth_model::config_api::{ConfigEvent, SecretsInfo, Variable};
use berth_model::cron::GlobalCron;
use berth_model::events::EventInfo;
use berth_model::logs::DrainInfo;
use berth_model::network::NetworkInfo;
use berth_model::placing::MoveInfo;
use berth_model::processes::Autocreation;
use berth_model::proxy_api::ProxyInfo;
use berth_model::traffic::TrafficNow;
use berth_model::{AppName, NodeName};
use futures_util::stream::unfold;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Events that are kept.
const EVENTS: u64 = 5000;

/// A route that answers what `make` gives, which has to have the type's form.
fn one<T: Serialize + DeserializeOwned + 'static>(make: fn() -> Value) -> MethodRouter {
    get(async move || Json(typed::<T>(make())))
}

/// The same of a list with so many.
fn list<T: Serialize + DeserializeOwned + 'static>(count: usize, make: fn(usize) -> Value) -> MethodRouter {
    get(async move || Json((0..count).map(|number| typed::<T>(make(number))).collect::<Vec<_>>()))
}

pub(crate) fn router() -> Router {
    Router::new()
        .route("/v1/sessions", post(async || Json(typed::<CreatedSession>(json!({ "session": "berths_x", "by": "ada", "expires_ms": now_ms() + 9_000_000 })))).merge(list::<SessionInfo>(40, session)))
        .route("/v1/sessions/current", one::<SessionInfo>(|| session(0)))
        .route("/v1/version", one::<VersionInfo>(|| json!({ "version": "0.1.0", "api": "v1", "ssh_port": 2222 })))
        .route("/v1/apps", get(async || Json((0..APPS).map(info).collect::<Vec<_>>())))
        .route("/v1/top", get(async || Json((0..APPS).flat_map(usage).collect::<Vec<_>>())))
        .route("/v1/traffic", get(async || Json((0..APPS).map(traffic).collect::<Vec<_>>())))
        .route("/v1/nodes", get(async || Json((0..NODES).map(machine).collect::<Vec<_>>())))
        .route("/v1/nodes/{node}", get(async |Path(name): Path<NodeName>| Json(machine(number_of(name.as_str())))))
        .route("/v1/nodes/{node}/drain", post(drain))
        .route("/v1/nodes/{node}/doctor", list::<Finding>(30, finding))
        .route("/v1/rebalance", list::<MoveInfo>(50, movement))
        .route("/v1/controllers", list::<ControllerInfo>(3, controller))
        .route("/v1/events", get(events))
        .route("/v1/images", list::<ImageInfo>(400, image))
        .route("/v1/images/{digest}", one::<ImageDetail>(layers))
        .route("/v1/networks", list::<NetworkInfo>(30, |number| {
            let on: Vec<_> = (0..if number == 0 { APPS - 2 } else { number % 7 }).map(|index| app(index * 3 % APPS)).collect();
            json!({ "name": network(number), "created_ms": before(86_400 * number), "apps": on })
        }))
        .route("/v1/ssh-keys", list::<SshKeyInfo>(60, |number| json!({
            "name": person(number), "algorithm": "ssh-ed25519", "created_ms": before(86_400 * number), "fingerprint": format!("SHA256:{}{number:04}", "AbCdEfGhIjKlM".repeat(3)),
        })))
        .route("/v1/tokens", list::<TokenInfo>(60, |number| json!({ "name": person(number), "created_ms": before(86_400 * number), "last_used_ms": (number % 3 > 0).then(|| before(number * 60)) })))
        .route("/v1/config/variables", list::<Variable>(60, |number| json!({ "name": variable(number * 9 + 4), "kind": "plain", "bytes": 40, "global": true })))
        .route("/v1/config/history", list::<ConfigEvent>(20, |number| json!({ "at_ms": before(number * 3600), "by": "ada", "stored_only": false, "changes": [{ "name": variable(number * 9 + 4), "change": "added", "kind": "plain" }] })))
        .route("/v1/autocreation", one::<Autocreation>(|| json!({ "enabled": true })))
        .route("/v1/cron", one::<GlobalCron>(|| json!({ "maintenance": false, "timezone": "America/Argentina/ComodRivadavia" })))
        .route("/v1/domains", one::<Domains>(|| json!({ "default_enabled": true, "domains": (1..20).map(domain).collect::<Vec<_>>(), "effective": [] })))
        .route("/v1/acme", one::<AcmeSettingsInfo>(|| acme(0)))
        .route("/v1/acme/apps", list::<AcmeApp>(40, |number| {
            let order = json!({ "names": [domain(number), domain(9)], "failures": number % 3, "on_demand": false, "under_way": false, "error": (number % 3 > 0).then(|| format!("no A record; {LONG_WORD}")), "expires_ms": null, "next_ms": before(0) + 900_000 });
            json!({ "app": app(number), "acme": { "enabled": true, "orders": [order], "server": "production", "skipped": [] } })
        }))
        .route("/v1/certificates", list::<CertificateInfo>(40, |number| json!({
            "id": format!("{number:016x}"), "app": null, "hostnames": [domain(number), domain(number + 8)], "issuer": "CN=R11, O=Let's Encrypt, C=US", "subject": "CN=x", "source": "own",
            "starts_ms": before(9_000_000), "expires_ms": before(0) + 86_400_000 * (i64::try_from(number).unwrap_or(0) - 3), "verified": "yes",
        })))
        .route("/v1/proxy", one::<ProxyInfo>(|| proxy(0)))
        .route("/v1/drains", list::<DrainInfo>(20, |number| {
            let nodes: BTreeMap<NodeName, Value> = (0..number % 4).map(|index| (node(index + 47), json!({ "dropped": index, "sent": 120_000, "last_sent_ms": before(60), "error": (index == 2).then(|| format!("cannot reach {LONG_WORD}: refused")) }))).collect();
            json!({ "id": format!("{number:08x}"), "app": (number.is_multiple_of(2)).then(|| app(FULL)), "url": format!("syslog+tls://logs.example.com:6514/{LONG_WORD}"), "nodes": nodes })
        }))
        .route("/v1/alerts", list::<AlertInfo>(20, |number| json!({
            "id": format!("{number:08x}"), "app": (number.is_multiple_of(2)).then(|| app(FULL)), "url": "https://hooks.example.com/services/…", "on": ["deploy-failed", "app-down", "disk-full"], "signed": number.is_multiple_of(3),
            "firing": (0..number % 4).map(|one| format!("{} is down: {ARABIC} {LONG_WORD}", app(one))).collect::<Vec<_>>(), "last_sent_ms": before(60), "error": (number % 5 == 1).then_some("the answer was 500"),
        })))
        .route("/v1/registries", list::<RegistryInfo>(30, |number| json!({ "server": format!("registry-{number}.a-company-with-a-long-name.example.com:5000"), "user": person(number), "app": (number.is_multiple_of(2)).then(|| app(FULL)) })))
        .route("/v1/secrets", one::<SecretsInfo>(|| json!({ "key": "0123456789abcdef", "file": "/var/lib/berth/controller/secrets.key", "rotating": false, "since_ms": before(86_400) })))
}

fn person(number: usize) -> String {
    if number % 9 == 5 {
        format!("somebody-with-a-name-as-long-as-names-of-keys-may-be-{number:011}")
    } else {
        format!("person-{number}")
    }
}

fn session(number: usize) -> Value {
    json!({
        "id": format!("{number:016x}"), "by": if number == 0 { "ada".to_owned() } else { person(number) }, "from": if number % 4 == 3 { "https 2001:db8:1234:5678:9abc:def0:1234:5678" } else { "http 127.0.0.1" },
        "created_ms": before(86_400 * number), "last_used_ms": before(60 * number), "expires_ms": before(0) + 900_000_000, "current": number == 0,
    })
}

fn traffic(index: usize) -> TrafficNow {
    let point = |seconds| if index == BARE { Default::default() } else { point(index, seconds) };
    TrafficNow { app: app(index).to_string(), in_flight: 1, second: point(1), now: point(10) }
}

pub(crate) fn network(number: usize) -> String {
    if number % 10 == 7 {
        format!("a-network-whose-name-is-as-long-as-the-names-of-networks-may-be-{number}")
            .chars()
            .take(63)
            .collect()
    } else {
        format!("backend-{number}")
    }
}

fn finding(number: usize) -> Value {
    let text = match number % 6 {
        1 => lines(3),
        3 => LONG_WORD.to_owned(),
        _ => "as it should be".to_owned(),
    };
    json!({ "check": format!("part {number} of the machine"), "state": (["fine", "warning", "failing"][number % 3]), "text": text })
}

fn movement(number: usize) -> Value {
    json!({ "app": app(if number.is_multiple_of(10) { FULL } else { number }), "process": "web", "ordinal": number % 4 + 1, "from": node(number), "to": node(number + 49), "why": "its node has more of the app than the others" })
}

fn controller(number: usize) -> Value {
    json!({ "name": format!("10.0.0.{}:8080", number + 1), "host": format!("10.0.0.{}", number + 1), "api_port": 8080, "ssh_port": 2222, "leads": number == 1, "version": "0.1.0", "since_ms": before(86_400) })
}

fn image(number: usize) -> Value {
    let of = app(if number % 50 == 3 { FULL } else { number % APPS });
    let releases: Vec<String> = (0..number % 9).map(|one| format!("{of} v{}", one + 1)).collect();
    let tags: Vec<String> = (0..number % 12)
        .map(|one| format!("tag-{one}-{}", if one == 7 { LONG_WORD } else { "of-a-build" }))
        .collect();
    json!({
        "repository": if number % 40 == 39 { format!("stacks/base-{number}") } else { format!("apps/{of}") }, "digest": format!("sha256:{number:08x}{}", "0123456789abcdef".repeat(3) + "01234567"),
        "tags": tags, "releases": releases, "bytes": 40_000_000 + number * 77_777_777 % 900_000_000, "created_ms": before(number * 3600),
    })
}

fn layers() -> Value {
    let step = |number: usize| match number % 9 {
        0 => LONG_WORD.to_owned(),
        1 => lines(6),
        _ => "RUN apt-get install --yes imagemagick".to_owned(),
    };
    let layer = |number: usize| {
        json!({ "digest": format!("sha256:{number:064x}"), "bytes": 1_000 << (number % 20), "shared_with": number % 400,
            "made_by": (!number.is_multiple_of(4)).then(|| step(number)) })
    };
    json!({ "digest": format!("sha256:{:064x}", 7), "repositories": [format!("apps/{}", app(FULL)), "stacks/base"], "created_ms": before(99_000),
        "layers": (0..120).map(layer).collect::<Vec<_>>() })
}

fn event(seq: u64) -> EventInfo {
    let index = usize::try_from(seq).unwrap_or(0);
    let failed = seq.is_multiple_of(9);
    let text = match seq % 13 {
        4 => ARABIC.to_owned(),
        8 => format!("set {LONG_WORD}"),
        _ => "scaled to web=4".to_owned(),
    };
    typed(json!({
        "seq": seq, "at_ms": before((usize::try_from(EVENTS).unwrap_or(0) - index) * 60), "app": (!seq.is_multiple_of(7)).then(|| app(if seq % 10 == 3 { FULL } else { index % APPS })),
        "by": if seq % 8 == 3 { person(5) } else { "ada".to_owned() }, "from": if seq % 8 == 3 { "https 2001:db8:1234:5678:9abc:def0:1234:5678" } else { "https 192.0.2.7" },
        "kind": "ps.scale", "text": text, "result": if failed { "failed" } else { "done" }, "reason": failed.then(|| if seq.is_multiple_of(18) { lines(12) } else { "no node has room".to_owned() }), "took_ms": 900,
    }))
}

/// Has a container go every so often, and says so.
async fn drain(Path(name): Path<NodeName>, Json(asked): Json<DrainNode>) -> Response {
    let index = number_of(name.as_str());
    {
        let mut drained = DRAINED.lock().expect("nobody panics with it");
        if asked.undo {
            drained.remove(&index)
        } else {
            drained.insert(index)
        };
    }
    let said = match asked.undo {
        true => vec![Progress::Step {
            text: format!("{name} takes containers again; what was moved away stays where it is"),
        }],
        false => (0..22)
            .map(|count| match count {
                0 => Progress::Step {
                    text: format!("Emptying {name}; to take it back: berth node:drain {name} --undo"),
                },
                21 => Progress::Section {
                    text: format!(
                        "{name} is empty, and gets nothing new until: berth node:drain {name} --undo"
                    ),
                },
                _ => Progress::Detail { text: format!("web.{count} of {} has gone", app(count)) },
            })
            .collect(),
    };
    let ticks = tokio::time::interval(std::time::Duration::from_millis(50));
    let lines = unfold((said.into_iter().chain([Progress::Done]), ticks), async |(mut said, mut ticks)| {
        ticks.tick().await;
        let line = serde_json::to_string(&said.next()?).unwrap_or_default() + "\n";
        Some((Ok::<_, Infallible>(line), (said, ticks)))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// The newest that are asked for, oldest first, a line each.
async fn events(Query(asked): Query<BTreeMap<String, String>>) -> String {
    let number = |name: &str, default| asked.get(name).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (before, count) = (number("before", u64::MAX), usize::try_from(number("lines", 100)).unwrap_or(100));
    let is_asked = |event: &EventInfo| {
        let is = |name: &str, own: &str| asked.get(name).is_none_or(|wanted| wanted == own);
        event.seq < before
            && is("app", event.app.as_ref().map_or("", AppName::as_str))
            && is("by", &event.by)
            && is("result", event.result.as_str())
            && asked.get("kind").is_none_or(|kind| event.kind.starts_with(kind.as_str()))
    };
    let mut newest: Vec<EventInfo> = (1..=EVENTS).rev().map(event).filter(is_asked).take(count).collect();
    newest.reverse();
    newest.iter().map(|one| serde_json::to_string(one).unwrap_or_default() + "\n").collect()
}
