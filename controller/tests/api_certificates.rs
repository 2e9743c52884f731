//! Certificates through the API's own door, and what the proxies are given.

mod common;

use common::{Controller, ask, request};
use http::StatusCode;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

/// A certificate that signs itself: (certificate, key).
fn certificate(names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = CertificateParams::new(names).expect("names").self_signed(&key).expect("signed");
    (made.pem(), key.serialize_pem())
}

fn body(pair: &(String, String)) -> Option<Value> {
    Some(json!({ "chain_pem": pair.0, "key_pem": pair.1 }))
}

/// What a proxy gets that has the table `after`.
async fn table(controller: &Controller, after: u64) -> Value {
    let proxies = berth_controller::nodes::router(controller.platform.clone());
    let path = format!("/proxy/v1/certificates?after={after}");
    ask(&proxies, request("GET", &path, None)).await.json()
}

#[tokio::test]
async fn a_certificate_is_kept_given_to_the_proxies_and_taken_away() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let pair = certificate(&["hello.berth.test", "strange.test"]);
    let added = controller.call("POST", "/v1/apps/hello/certificate", body(&pair)).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text());
    assert_eq!(added.json()["certificate"]["verified"], "self signed");
    assert!(!added.text().contains("PRIVATE"), "keys are not given back");
    let first = table(&controller, 0).await;
    assert_eq!(first["certificates"][0]["names"], json!(["hello.berth.test"]), "not for strange.test");
    assert_eq!(
        first["certificates"][0]["key_pem"].as_str().map(str::trim),
        Some(pair.1.replace('\r', "").trim())
    );
    let report = controller.get("/v1/apps/hello/certificate").await;
    assert_eq!(report.json()["covered"], json!(["hello.berth.test"]));
    assert!(!report.text().contains("PRIVATE"), "{}", report.text());
    // In place of it.
    let other = certificate(&["hello.berth.test"]);
    controller.call("POST", "/v1/apps/hello/certificate", body(&other)).await;
    let revision = first["revision"].as_u64().expect("a revision");
    let second = table(&controller, revision).await;
    assert!(second["revision"].as_u64().expect("a revision") > revision);
    assert_eq!(second["certificates"].as_array().map(Vec::len), Some(1));
    // Sealed at rest.
    let stored = controller.platform.store().list("certificates/").await.expect("a list");
    let clear =
        |part: &str| stored.iter().any(|entry| entry.value.windows(part.len()).any(|w| w == part.as_bytes()));
    assert!(!clear("PRIVATE") && !clear("hello.berth.test"));
    let removed = controller.call("DELETE", "/v1/apps/hello/certificate", None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    let last = table(&controller, second["revision"].as_u64().expect("a revision")).await;
    assert_eq!(last["certificates"], json!([]));
    let again = controller.call("DELETE", "/v1/apps/hello/certificate", None).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_and_changes_nothing() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let (one, other) = (certificate(&["hello.berth.test"]), certificate(&["hello.berth.test"]));
    for bad in [
        json!({ "chain_pem": one.0, "key_pem": other.1 }),
        json!({ "chain_pem": "", "key_pem": one.1 }),
        json!({ "chain_pem": one.0, "key_pem": "" }),
        json!({ "chain_pem": one.0 }),
        json!({ "chain_pem": "A".repeat(300_000), "key_pem": one.1 }),
    ] {
        let refused = controller.call("POST", "/v1/apps/hello/certificate", Some(bad)).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::BAD_REQUEST, "invalid"));
        assert!(
            !refused.text().contains("PRIVATE KEY-----\\n"),
            "a refusal shows no key: {}",
            refused.text()
        );
    }
    assert_eq!(controller.get("/v1/apps/hello/certificate").await.json()["certificates"], json!([]));
    let nobody = controller.call("POST", "/v1/apps/nobody/certificate", body(&one)).await;
    assert_eq!(nobody.code(), "app_not_found");
    let early = controller.call("POST", "/v1/apps/hello/acme/enable", None).await;
    assert_eq!(early.end(), "failed");
    assert!(early.text().contains("set an email address first"), "{}", early.text());
    assert_eq!(controller.get("/v1/apps/hello/certificate").await.json()["acme"]["enabled"], json!(false));
}

#[tokio::test]
async fn certificates_go_with_their_app() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let email = Some(json!({ "email": "ops@example.com" }));
    assert_eq!(controller.call("PATCH", "/v1/apps/hello/acme", email).await.status, StatusCode::OK);
    controller.call("POST", "/v1/apps/hello/certificate", body(&certificate(&["a.test"]))).await;
    assert_eq!(
        controller.call("POST", "/v1/apps/hello/rename", Some(json!({"to": "world"}))).await.end(),
        "done"
    );
    let report = controller.get("/v1/apps/world/certificate").await.json();
    assert_eq!(report["certificates"][0]["hostnames"], json!(["a.test"]), "sealed anew under its new name");
    assert_eq!(controller.get("/v1/apps/world/acme").await.json()["own"]["email"], "ops@example.com");
    controller.call("DELETE", "/v1/apps/world", None).await;
    for prefix in ["certificates/", "acme/"] {
        let left = controller.platform.store().list(prefix).await.expect("a list");
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn a_program_is_only_named_by_root_on_the_machine() {
    let controller = Controller::start().await;
    let program = || request("PATCH", "/v1/acme", Some(json!({ "dns_provider": "/bin/true" })));
    let local = berth_controller::api::local(&controller.platform);
    let mut for_another = program();
    for_another.headers_mut().insert("berth-as", "local".parse().expect("a value"));
    let refused = ask(&local, for_another).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "a key called local is not root");
    let token = controller.platform.create_token("local").await.expect("a token").token;
    let mut remote = program();
    remote.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a value"));
    let address = "127.0.0.1:1".parse().expect("an address");
    remote.extensions_mut().insert(berth_controller::api::Peer { address, encrypted: true });
    assert_eq!(ask(&controller.remote(), remote).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(ask(&local, program()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn names_that_nobody_allows_are_not_ordered() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let proxies = berth_controller::nodes::router(controller.platform.clone());
    let wanted = async |name: &str| {
        let body = Some(json!({ "name": name }));
        ask(&proxies, request("POST", "/proxy/v1/certificate-wanted", body)).await.status
    };
    assert_eq!(wanted("hello.berth.test").await, StatusCode::NOT_FOUND, "there is no ask URL");
    for odd in ["", "localhost", "*.berth.test", "../x", "a b.test", "elsewhere.test"] {
        assert_eq!(wanted(odd).await, StatusCode::NOT_FOUND, "{odd:?}");
    }
    let url = Some(json!({ "ask_url": "http://127.0.0.1:1/ask" }));
    controller.call("PATCH", "/v1/acme", url).await;
    controller.create("other").await;
    assert_eq!(wanted("other.berth.test").await, StatusCode::ACCEPTED);
    let mut statuses = Vec::new();
    for number in 0..200 {
        statuses.push(wanted(&format!("x{number}.elsewhere.test")).await);
    }
    assert_eq!(statuses.last(), Some(&StatusCode::TOO_MANY_REQUESTS), "a flood is bounded");
}
