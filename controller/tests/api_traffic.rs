//! Traffic over the API: what proxies post comes back as figures and streams; the access log comes as lines.

mod common;

use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use berth_controller::{api, nodes};
use berth_model::route::TRAFFIC_PATH;
use berth_wire::{Client, Endpoint};
use common::{Controller, ask, request};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// As a proxy does it.
async fn report(controller: &Controller, app: &str) {
    let traffic = json!({ "answers": [0, 0, 20, 0, 3, 1], "received": 5, "sent": 240, "in_flight": 2,
        "latency": [[12, 20], [30, 4]] });
    let report = json!({ "proxy": "node-1", "span_ms": 1000, "apps": { app: traffic } });
    let reply =
        ask(&nodes::router(controller.platform.clone()), request("POST", TRAFFIC_PATH, Some(report))).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text());
}

fn client(controller: &Controller) -> Client {
    let socket = controller.platform.options().api_socket();
    let listener = berth_wire::bind_unix(&socket, 0o600).expect("bound");
    tokio::spawn(api::serve::unix(listener, api::local(&controller.platform), controller.stop.clone()));
    Client::new(Endpoint::Unix(socket))
}

#[tokio::test]
async fn what_proxies_tell_is_shown() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let none = controller.get("/v1/apps/hello/traffic").await.json();
    assert_eq!((&none["now"]["requests"], &none["minutes"]), (&json!(0), &json!([])));
    report(&controller, "hello").await;
    report(&controller, "hello").await;
    let shown = controller.get("/v1/apps/hello/traffic").await.json();
    let minutes = shown["minutes"].as_array().expect("minutes");
    let sum = |key: &str| minutes.iter().filter_map(|minute| minute[key].as_u64()).sum::<u64>();
    let classes =
        ["requests", "success", "client_error", "server_error", "none", "sent", "received"].map(sum);
    assert_eq!(classes, [48, 40, 6, 2, 0, 480, 10], "{shown}");
    assert_eq!(shown["in_flight"], 2);
    let all = controller.get("/v1/traffic").await.json();
    assert_eq!((all.as_array().map(Vec::len), &all[0]["app"]), (Some(1), &json!("hello")));
    assert_eq!(controller.get("/v1/apps/none/traffic").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn traffic_streams_as_lines_and_as_events() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let client = client(&controller);
    let mut lines =
        client.lines(Method::GET, "/v1/apps/hello/traffic/stream", None::<&()>).await.expect("an answer");
    for _ in 0..2 {
        let point: Value = lines.next().await.expect("a line").expect("one");
        assert_eq!(point["app"], "hello");
    }
    let mut asked = request("GET", "/v1/apps/hello/traffic/stream", None);
    asked.headers_mut().insert("accept", http::HeaderValue::from_static("text/event-stream"));
    let answer = tower::ServiceExt::oneshot(api::local(&controller.platform), asked).await.expect("answers");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let frame = answer.into_body().frame().await.expect("a frame").expect("no error");
    let text = String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text");
    assert!(text.starts_with("data: {") && text.ends_with("}\n\n"), "{text}");
}

/// An agent whose access log says what it was asked for.
fn serve_fake_agent(controller: &Controller) {
    async fn log(Query(query): Query<BTreeMap<String, String>>) -> String {
        format!("{}\n", json!(query))
    }
    let router = Router::new().route("/v1/access-log", get(log));
    controller.serve_agent(router);
}

#[tokio::test]
async fn the_access_log_is_what_the_agents_say() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    assert_eq!(controller.get("/v1/access-log").await.status, StatusCode::SERVICE_UNAVAILABLE);
    serve_fake_agent(&controller);
    let asked =
        |lines: &str, errors: &str, follow: &str| json!({"lines": lines, "errors": errors, "follow": follow});
    assert_eq!(controller.get("/v1/access-log").await.json(), asked("100", "false", "false"));
    let mut of_app = asked("2", "true", "false");
    of_app["app"] = json!("hello");
    assert_eq!(controller.get("/v1/apps/hello/access-log?errors=true&lines=2").await.json(), of_app);
    assert_eq!(controller.get("/v1/access-log?lines=0").await.text(), "");
    assert_eq!(controller.get("/v1/access-log?lines=10001").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(controller.get("/v1/apps/none/access-log").await.status, StatusCode::NOT_FOUND);
    let client = client(&controller);
    let answer = client.call(Method::GET, "/v1/access-log?lines=1&follow=true", None::<&()>);
    let body = answer.await.expect("an answer").into_body().collect().await.expect("whole").to_bytes();
    let line: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(line, asked("1", "false", "true"));
}
