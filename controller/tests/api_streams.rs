//! Listeners, streams and the controller's whole life, over real sockets; the agent is one that only answers.

mod common;

use axum::Router;
use axum::extract::{Query, Request};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use berth_controller::deploy::{AppPlan, Planned, Role};
use berth_controller::{api, tls};
use berth_model::api::{ErrorCode, Progress, VersionInfo};
use berth_model::container::LogLine;
use berth_model::{ContainerId, NodeName, ProcessType};
use berth_wire::{Client, Endpoint, Frame, WireError, read_frame, write_frame};
use common::{Controller, app_name};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Serves the local API; gives a client of it.
fn serve_local(controller: &Controller) -> Client {
    let socket = controller.platform.options().api_socket();
    let listener = berth_wire::bind_unix(&socket, 0o600).expect("bound");
    tokio::spawn(api::serve::unix(listener, api::local(&controller.platform), controller.stop.clone()));
    Client::new(Endpoint::Unix(socket))
}

/// An agent that says what it was asked, and answers every stream by its first frame, what is typed, and exit code 7.
fn serve_fake_agent(controller: &Controller) {
    async fn stream(mut request: Request) -> impl IntoResponse {
        let upgrading = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrading.await.expect("upgraded"));
            let Ok(Some(Frame::Start(start))) = read_frame(&mut stream).await else {
                panic!("no first frame")
            };
            write_frame(&mut stream, &Frame::Stdout(start)).await.expect("written");
            while let Ok(Some(frame)) = read_frame(&mut stream).await {
                match frame {
                    Frame::Stdin(bytes) => {
                        write_frame(&mut stream, &Frame::Stderr(bytes)).await.expect("written");
                    }
                    Frame::StdinEnd => break,
                    other => panic!("unexpected {other:?}"),
                }
            }
            write_frame(&mut stream, &Frame::Exit(7)).await.expect("written");
        });
        (
            StatusCode::SWITCHING_PROTOCOLS,
            [(header::CONNECTION, "upgrade"), (header::UPGRADE, "berth-stream")],
        )
    }
    async fn logs(Query(query): Query<HashMap<String, String>>) -> String {
        let query: BTreeMap<_, _> = query.into_iter().collect();
        let line = json!({"at_us": 1, "app": "hello", "process": "web", "ordinal": 1, "container": "hello.web.1.x",
            "stream": "stdout", "text": json!(query).to_string()});
        format!("{line}\n")
    }
    let router = Router::new()
        .route("/v1/run", get(stream))
        .route("/v1/exec", get(stream))
        .route("/v1/logs", get(logs));
    controller.serve_agent(router);
}

async fn talk(client: &Client, path: &str, request: Value) -> Vec<Frame> {
    let mut stream = client.upgrade(path).await.expect("upgraded");
    write_frame(&mut stream, &Frame::Start(request.to_string().into_bytes())).await.expect("written");
    write_frame(&mut stream, &Frame::Stdin(b"typed".to_vec())).await.expect("written");
    write_frame(&mut stream, &Frame::StdinEnd).await.expect("written");
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = read_frame(&mut stream).await {
        frames.push(frame);
    }
    frames
}

fn said(frames: &[Frame]) -> Value {
    let [Frame::Stdout(start), Frame::Stderr(typed), Frame::Exit(7)] = frames else { panic!("{frames:?}") };
    assert_eq!(typed, b"typed");
    serde_json::from_slice(start).expect("JSON")
}

#[tokio::test]
async fn run_makes_a_container_of_the_current_release_and_passes_frames_both_ways() {
    let controller = Controller::start().await;
    let client = serve_local(&controller);
    controller.create("hello").await;
    let undeployed = client.upgrade("/v1/apps/hello/run").await.expect_err("not deployed");
    assert!(matches!(undeployed, WireError::Refused { status: StatusCode::CONFLICT, .. }), "{undeployed}");
    controller.pretend_deployed("hello", &[("GREETING", "hi")]).await;

    let request = json!({"argv": ["web", "x y"], "tty": [24, 80], "env": {"EXTRA": "1"}});
    let without_agent = talk(&client, "/v1/apps/hello/run", request.clone()).await;
    let [Frame::Failed(text)] = &without_agent[..] else { panic!("{without_agent:?}") };
    assert!(text.contains("agent"), "{text}");

    serve_fake_agent(&controller);
    let start = said(&talk(&client, "/v1/apps/hello/run", request).await);
    let spec = &start["spec"];
    assert_eq!(start["tty"], json!([24, 80]));
    assert_eq!(spec["run"]["argv"], json!(["/bin/bash", "-c", "python web.py 'x y'"]));
    let env = &spec["env"];
    assert_eq!([&env["GREETING"], &env["EXTRA"], &env["PORT"]], [&json!("hi"), &json!("1"), &json!("5000")]);
    assert_eq!(env["DYNO"], json!(format!("run.{}", spec["ordinal"])));
    assert!(spec["id"].as_str().expect("text").starts_with("hello.run."));

    for bad in [json!({"argv": []}), json!({"argv": ["x"], "surprise": 1}), json!("x")] {
        let frames = talk(&client, "/v1/apps/hello/run", bad.clone()).await;
        assert!(matches!(frames[..], [Frame::Failed(_)]), "{bad}: {frames:?}");
    }
}

#[tokio::test]
async fn enter_finds_the_container_that_serves() {
    let controller = Controller::start().await;
    let client = serve_local(&controller);
    serve_fake_agent(&controller);
    controller.create("hello").await;
    let release = controller.pretend_deployed("hello", &[]).await;
    let app = controller.platform.existing_app(&app_name("hello")).await.expect("there");
    let run = release.image.processes[&ProcessType::web()].clone();
    let spec =
        berth_controller::release::one_off(&app, &release, &ProcessType::web(), run, "k7").expect("a spec");
    let planned = Planned {
        node: NodeName::parse("n1").expect("valid"),
        spec: spec.clone(),
        role: Role::Serving,
        stands_for: None,
    };
    let containers: BTreeMap<ContainerId, Planned> = BTreeMap::from([(spec.id.clone(), planned)]);
    let deploys = controller.platform.deploys();
    let step =
        deploys.step(&controller.platform, &app.name, |_| AppPlan { containers, ..AppPlan::default() }).await;
    step.expect("planned");

    let request = |ordinal: u32| json!({"process": "web", "ordinal": ordinal, "argv": ["sh"], "tty": null});
    let start = said(&talk(&client, "/v1/apps/hello/enter", request(1)).await);
    assert_eq!(start["container"], json!(spec.id));
    let frames = talk(&client, "/v1/apps/hello/enter", request(2)).await;
    let [Frame::Failed(text)] = &frames[..] else { panic!("{frames:?}") };
    assert!(text.contains("no running web.2"), "{text}");
    let ps = controller.get("/v1/apps/hello/ps").await.json();
    assert_eq!(ps["containers"][0]["command"], json!("python web.py"));
    assert_eq!(ps["status"], json!("crashed"), "nothing was reported of it");
}

#[tokio::test]
async fn logs_are_the_agents_with_what_was_asked() {
    let controller = Controller::start().await;
    let client = serve_local(&controller);
    serve_fake_agent(&controller);
    controller.create("hello").await;
    let mut lines = client
        .lines(http::Method::GET, "/v1/apps/hello/logs?process=web&lines=5&follow=true", None::<&()>)
        .await
        .expect("an answer");
    let asked: LogLine = lines.next().await.expect("a line").expect("one");
    let asked: Value = serde_json::from_str(&asked.text).expect("JSON");
    assert_eq!(asked, json!({"app": "hello", "process": "web", "lines": "5", "follow": "false"}));
    let missing = client.get::<Value>("/v1/apps/none/logs").await.expect_err("no such app");
    assert!(matches!(missing, WireError::Refused { body, .. } if body.code == ErrorCode::AppNotFound));
}

#[tokio::test]
async fn an_operation_goes_on_when_its_caller_leaves() {
    let controller = Controller::start().await;
    let client = serve_local(&controller);
    controller.create("hello").await;
    let (progress, _lines) = tokio::sync::mpsc::channel(1);
    let turn = controller.platform.operation(&app_name("hello"), "a deploy by alice", &progress).await;
    let mut lines =
        client.lines(http::Method::DELETE, "/v1/apps/hello", None::<&()>).await.expect("an answer");
    let first: Progress = lines.next().await.expect("a line").expect("one");
    let Progress::Step { text } = &first else { panic!("{first:?}") };
    assert!(text.contains("a deploy by alice"), "{text}");
    drop(lines);
    let mut gone = controller.platform.store().watch("apps/hello");
    drop(turn);
    gone.changed().await;
    assert_eq!(controller.platform.app(&app_name("hello")).await.expect("readable"), None);
}

#[tokio::test]
async fn one_port_speaks_tls_and_plain_and_survives_rubbish() {
    let controller = Controller::start().await;
    let made = controller.platform.create_token("ci").await.expect("made");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound").to_string();
    let config = tls::server_config(controller.platform.options()).expect("made");
    tokio::spawn(api::serve::tcp(listener, config, controller.remote(), controller.stop.clone()));

    let dir = controller.platform.options().tls_dir();
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(dir.join(name)).expect("there").permissions().mode() & 0o777
    };
    assert_eq!(mode("key.pem"), 0o600);
    let certificate = CertificateDer::from_pem_file(dir.join("cert.pem")).expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).expect("an anchor");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();

    // Whatever comes first on one connection harms no other.
    for rubbish in [&b"\x16\x03\x01\xff\xff rubbish"[..], b"\0\0\0\0", b"GET", b""] {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connected");
        stream.write_all(rubbish).await.expect("written");
    }
    let endpoints =
        [Endpoint::Tls { address: address.clone(), config: Arc::new(client) }, Endpoint::Tcp { address }];
    for endpoint in endpoints {
        let anonymous = Client::new(endpoint);
        let refused = anonymous.get::<VersionInfo>("/v1/version").await.expect_err("no token");
        assert!(matches!(refused, WireError::Refused { status: StatusCode::UNAUTHORIZED, .. }), "{refused}");
        let known = anonymous.with_header(header::AUTHORIZATION, &format!("Bearer {}", made.token));
        let version: VersionInfo = known.expect("a header").get("/v1/version").await.expect("let in");
        assert_eq!(version.api, "v1");
    }

    let again = tls::server_config(controller.platform.options()).expect("loaded");
    drop(again);
    assert_eq!(CertificateDer::from_pem_file(dir.join("cert.pem")).expect("still there"), certificate);
    std::fs::remove_file(dir.join("key.pem")).expect("removed");
    let half = tls::server_config(controller.platform.options()).expect_err("half a pair");
    assert!(half.to_string().contains("key.pem is not"), "{half}");
}

async fn until_it_answers(client: &Client) -> VersionInfo {
    loop {
        if let Ok(version) = client.get::<VersionInfo>("/v1/version").await {
            return version;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_controller_runs_alone_stops_when_told_and_finds_everything_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let any = "127.0.0.1:0".parse().expect("an address");
    let options =
        berth_controller::Options { api: any, ssh: any, ..common::options(&dir.path().join("new/data")) };
    let client = Client::new(Endpoint::Unix(options.api_socket()));
    for round in 0..2 {
        let stop = CancellationToken::new();
        let running = tokio::spawn(berth_controller::run(options.clone(), stop.clone()));
        until_it_answers(&client).await;
        let second = berth_controller::run(options.clone(), CancellationToken::new()).await;
        let text = format!("{:#}", second.expect_err("the lock is held"));
        assert!(text.contains("another controller already runs"), "{text}");
        if round == 0 {
            let body = json!({"name": "hello"});
            let made: Value = client.json(http::Method::POST, "/v1/apps", Some(&body)).await.expect("made");
            assert_eq!(made["name"], "hello");
        }
        let apps: Value = client.get("/v1/apps").await.expect("listed");
        assert_eq!(apps[0]["name"], "hello");
        stop.cancel();
        running.await.expect("no panic").expect("a tidy end");
    }
}
