//! Events: what callers change is recorded with who, from where and how it went.

mod common;

use berth_controller::api;
use berth_model::events::{EventInfo, EventResult};
use common::{Controller, ask, from_peer, request, with_auth};
use http::StatusCode;
use serde_json::json;

async fn events(controller: &Controller, query: &str) -> Vec<EventInfo> {
    let reply = controller.get(&format!("/v1/events?{query}")).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    reply.text().lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

/// Waits until there are `count`: what goes on after its answer is recorded when it is over.
async fn until(controller: &Controller, query: &str, count: usize) -> Vec<EventInfo> {
    let mut newest = controller.platform.events().newest();
    loop {
        let found = events(controller, query).await;
        if found.len() >= count {
            return found;
        }
        let more = tokio::time::timeout(std::time::Duration::from_secs(10), newest.changed()).await;
        more.unwrap_or_else(|_| panic!("only {found:?}")).expect("the events go on");
    }
}

#[tokio::test]
async fn every_change_is_recorded_and_no_value_is() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let body = json!({"set": {"PASSWORD": "hunter2"}});
    controller.call("PATCH", "/v1/apps/hello/config", Some(body)).await;
    controller.get("/v1/apps/hello/config").await;
    controller.call("PATCH", "/v1/apps/hello/config", Some(json!({"nonsense": 1}))).await;
    controller.call("POST", "/v1/apps", Some(json!({"name": "hello"}))).await;
    let found = until(&controller, "app=hello", 3).await;
    let said: Vec<_> = found.iter().map(|e| (e.kind.as_str(), e.text.as_str(), e.result)).collect();
    assert_eq!(
        said[..2],
        [
            ("apps.create", "created app hello", EventResult::Done),
            ("config.set", "set PASSWORD", EventResult::Done),
        ]
    );
    assert_eq!((said.len(), said[2].0, said[2].2), (3, "apps.create", EventResult::Failed));
    assert!(found.iter().all(|event| (event.by.as_str(), event.from.as_str()) == ("local", "socket")));
    assert!(!controller.get("/v1/events").await.text().contains("hunter2"));
    assert_eq!(events(&controller, "app=other").await, []);
    assert_eq!(events(&controller, "kind=config&lines=1").await.len(), 1);
    assert_eq!(events(&controller, "until=1").await, []);
    assert_eq!(controller.get("/v1/events?lines=99999").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(controller.get("/v1/events?app=No").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn who_and_from_where_are_said() {
    let controller = Controller::start().await;
    let token = controller.call("POST", "/v1/tokens", Some(json!({"name": "ci"}))).await.json();
    let token = token["token"].as_str().expect("a token").to_owned();
    let call = request("POST", "/v1/apps", Some(json!({"name": "over-https"})));
    let call = with_auth(from_peer(call, "192.0.2.7:5000", true), &format!("Bearer {token}"));
    assert_eq!(ask(&controller.remote(), call).await.status, StatusCode::CREATED);
    let mut call = request("POST", "/v1/apps", Some(json!({"name": "over-ssh"})));
    call.headers_mut().insert("berth-as", "alice".parse().expect("a value"));
    call.headers_mut().insert("berth-from", "2001:db8::1".parse().expect("a value"));
    assert_eq!(ask(&api::local(&controller.platform), call).await.status, StatusCode::CREATED);
    let found = until(&controller, "kind=apps", 2).await;
    let who: Vec<_> = found.iter().map(|e| (e.by.as_str(), e.from.as_str())).collect();
    assert_eq!(who, [("ci", "https 192.0.2.7"), ("alice", "ssh 2001:db8::1")]);
    let all = controller.get("/v1/events").await.text();
    assert!(all.contains("made token ci") && !all.contains(&token), "{all}");
}

#[tokio::test]
async fn a_follower_sees_what_comes() {
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    let controller = Controller::start().await;
    controller.create("one").await;
    until(&controller, "", 1).await;
    let router = api::local(&controller.platform);
    let response =
        router.oneshot(request("GET", "/v1/events?follow=true&lines=1", None)).await.expect("answers");
    let mut body = response.into_body();
    let mut text = String::new();
    for name in ["two", "three"] {
        controller.create(name).await;
        while !text.contains(&format!("created app {name}")) {
            let frame = tokio::time::timeout(std::time::Duration::from_secs(10), body.frame()).await;
            let frame = frame.expect("in time").expect("goes on").expect("whole");
            text.push_str(&String::from_utf8_lossy(&frame.into_data().expect("data")));
        }
    }
    assert!(text.contains("created app one") && text.lines().count() == 3, "{text}");
}
