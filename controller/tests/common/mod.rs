//! A controller without agents: its state in a directory of its own, its API without a listener, or with one.

#![allow(dead_code, reason = "each test file uses a part of it")]

use axum::Router;
use axum::body::Body;
use berth_controller::api::{self, Peer};
use berth_controller::{Options, Platform, deploy};
use berth_model::digest::Digest;
use berth_model::image::{Image, ImageRef, Process};
use berth_model::node::{Capacity, Observed, Pressure, Stalls};
use berth_model::release::{Outcome, Release};
use berth_model::{AppName, EnvName, HostPattern, NodeName, ProcessType};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) fn options(data: &std::path::Path) -> Options {
    Options {
        data: data.to_owned(),
        domain: HostPattern::parse("berth.test").expect("valid"),
        api: "127.0.0.1:8080".parse().expect("an address"),
        ssh: "127.0.0.1:2222".parse().expect("an address"),
        http: "127.0.0.1:8000".parse().expect("an address"),
        https: None,
        cluster: "127.0.0.1:0".parse().expect("an address"),
        berth_exe: "/usr/bin/berth".into(),
        several: None,
    }
}

pub(crate) fn app_name(name: &str) -> AppName {
    AppName::parse(name).expect("a valid name")
}

pub(crate) fn env_name(name: &str) -> EnvName {
    EnvName::parse(name).expect("a valid name")
}

pub(crate) struct Controller {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) platform: Platform,
    pub(crate) stop: CancellationToken,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An answer: status, headers, body.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// The `event` of the last line.
    pub(crate) fn end(&self) -> String {
        let lines = self.lines();
        lines.last().expect("at least one line")["event"].as_str().expect("an event").to_owned()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().expect("an error has a code").to_owned()
    }
}

pub(crate) async fn ask(router: &Router, request: Request<Body>) -> Reply {
    let response = router.clone().oneshot(request).await.expect("routers do not fail");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("the body comes whole").to_bytes().to_vec();
    Reply { status: parts.status, headers: parts.headers, body }
}

pub(crate) fn request(method: &str, path: &str, body: Option<Value>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    match body {
        None => request.body(Body::empty()),
        Some(body) => request.header("content-type", "application/json").body(Body::from(body.to_string())),
    }
    .expect("a valid request")
}

impl Controller {
    pub(crate) async fn start() -> Self {
        Self::on(tempfile::tempdir().expect("a temporary directory")).await
    }

    pub(crate) async fn on(dir: tempfile::TempDir) -> Self {
        let platform = Platform::open(options(dir.path())).expect("the state opens");
        let stop = CancellationToken::new();
        deploy::start(&platform, &stop).await.expect("the deploys load");
        Self { dir, platform, stop }
    }

    /// Has this as the API of the agent of `n1`, which has reported once.
    pub(crate) fn serve_agent(&self, router: Router) {
        let socket = self.platform.options().agent_socket();
        let listener = berth_wire::bind_unix(&socket, 0o600).expect("bound");
        tokio::spawn(api::serve::unix(listener, router, self.stop.clone()));
        let report = Observed {
            node: NodeName::parse("n1").expect("valid"),
            generation: 0,
            containers: BTreeMap::new(),
            capacity: Capacity::default(),
            pressure: Pressure::default(),
            stalls: Stalls::default(),
            network: None,
        };
        self.platform.deploys().fleet().observe(report, 0);
    }

    /// As the local admin.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        ask(&api::local(&self.platform), request(method, path, body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, None).await
    }

    /// Over TCP from `peer`.
    pub(crate) fn remote(&self) -> Router {
        api::remote(&self.platform, Router::new())
    }

    pub(crate) async fn create(&self, name: &str) {
        let reply = self.call("POST", "/v1/apps", Some(serde_json::json!({ "name": name }))).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    }

    /// Gives the app a live release without running anything.
    pub(crate) async fn pretend_deployed(&self, name: &str, config: &[(&str, &str)]) -> Release {
        let app = app_name(name);
        let argv = ["/bin/bash", "-c", "python web.py"].map(str::to_owned).to_vec();
        let release = self.platform.add_release(&app, |app, version| Release {
            app: app.name.clone(),
            version,
            image: Image {
                reference: ImageRef {
                    repository: format!("apps/{}", app.name),
                    digest: Digest::of(b"image"),
                },
                builder: "python".to_owned(),
                processes: BTreeMap::from([(ProcessType::web(), Process::Command { argv: argv.clone() })]),
                exposed_ports: Vec::new(),
                healthcheck: None,
            },
            config: config.iter().map(|(name, value)| (env_name(name), (*value).to_owned())).collect(),
            secrets: Default::default(),
            checks: BTreeMap::new(),
            cron: Vec::new(),
            formation: Default::default(),
            max_parallel: BTreeMap::new(),
            git_rev: Some("a".repeat(40)),
            created_ms: 1,
            by: "alice".to_owned(),
            description: "Deploy aaaaaaa".to_owned(),
            outcome: Outcome::Pending,
        });
        let release = release.await.expect("a release is added");
        let live = self.platform.conclude_release(&app, release.version, &Outcome::Live).await;
        live.expect("it goes live");
        release
    }
}

pub(crate) fn from_peer(mut request: Request<Body>, address: &str, encrypted: bool) -> Request<Body> {
    request.extensions_mut().insert(Peer { address: address.parse().expect("an address"), encrypted });
    request
}

pub(crate) fn with_auth(mut request: Request<Body>, value: &str) -> Request<Body> {
    request.headers_mut().insert("authorization", value.parse().expect("a header value"));
    request
}
