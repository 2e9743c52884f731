//! Apps, config, domains, keys and tokens through the API's own door, bad input included.

mod common;

use berth_model::Digest;
use common::{Controller, app_name};
use http::StatusCode;
use serde_json::json;

#[tokio::test]
async fn an_app_is_made_seen_renamed_and_destroyed() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let info = controller.get("/v1/apps/hello").await.json();
    assert_eq!(info["urls"], json!(["http://hello.berth.test:8000"]));
    assert_eq!(info["status"], "not deployed");
    let again = controller.call("POST", "/v1/apps", Some(json!({"name": "hello"}))).await;
    assert_eq!((again.status, again.code().as_str()), (StatusCode::CONFLICT, "conflict"));

    let repository = controller.platform.options().repository_dir(&app_name("hello"));
    std::fs::create_dir_all(repository.join("objects")).expect("made");
    let renamed = controller.call("POST", "/v1/apps/hello/rename", Some(json!({"to": "world"}))).await;
    assert_eq!(renamed.end(), "done");
    assert_eq!(controller.get("/v1/apps/hello").await.code(), "app_not_found");
    assert!(!repository.exists());
    let repository = controller.platform.options().repository_dir(&app_name("world"));
    assert!(repository.join("objects").exists());

    let names = controller.get("/v1/apps").await.json();
    assert_eq!(names.as_array().map(Vec::len), Some(1));
    assert_eq!(controller.call("DELETE", "/v1/apps/world", None).await.end(), "done");
    assert!(!repository.exists());
    assert_eq!(controller.get("/v1/apps").await.json(), json!([]));
    assert_eq!(controller.call("DELETE", "/v1/apps/world", None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn bad_input_is_refused_with_its_reason_and_changes_nothing() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    for body in [
        json!({"name": "../x"}),
        json!({"name": "UPPER"}),
        json!({"name": "a".repeat(64)}),
        json!({"name": 7}),
        json!({}),
        json!([]),
        json!({"name": "x", "surprise": 1}),
        json!({"name": "api"}),
        json!({"name": "x.git"}),
    ] {
        let reply = controller.call("POST", "/v1/apps", Some(body.clone())).await;
        assert_eq!((reply.status, reply.code().as_str()), (StatusCode::BAD_REQUEST, "invalid"), "{body}");
    }
    let cases = [
        ("GET", "/v1/apps/UPPER", None, StatusCode::BAD_REQUEST),
        ("GET", "/v1/apps/%2e%2e", None, StatusCode::BAD_REQUEST),
        ("GET", "/v1/apps/hello/releases/x", None, StatusCode::BAD_REQUEST),
        ("GET", "/v1/apps/hello/releases/v1", None, StatusCode::NOT_FOUND),
        ("GET", "/v1/apps/hello/logs?lines=x", None, StatusCode::BAD_REQUEST),
        ("GET", "/v1/apps/hello/logs?lines=9999999", None, StatusCode::BAD_REQUEST),
        ("GET", "/v1/apps/hello/logs?colour=red", None, StatusCode::BAD_REQUEST),
        ("GET", "/v1/apps/hello/logs?process=a/b", None, StatusCode::BAD_REQUEST),
        ("GET", "/v1/apps/hello/logs", None, StatusCode::SERVICE_UNAVAILABLE),
        ("GET", "/v1/apps/hello/run", None, StatusCode::CONFLICT),
        ("GET", "/v1/apps/hello/enter", None, StatusCode::UPGRADE_REQUIRED),
        ("GET", "/v1/nothing", None, StatusCode::NOT_FOUND),
        ("GET", "/", None, StatusCode::NOT_FOUND),
        ("PUT", "/v1/apps", None, StatusCode::METHOD_NOT_ALLOWED),
        ("POST", "/v1/apps", None, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("PATCH", "/v1/apps/none", Some(json!({})), StatusCode::NOT_FOUND),
        ("PATCH", "/v1/apps/hello", Some(json!({"stopped": true})), StatusCode::BAD_REQUEST),
        ("PATCH", "/v1/apps/hello", Some(json!({"deploy_branch": "a b"})), StatusCode::BAD_REQUEST),
        (
            "PATCH",
            "/v1/apps/hello",
            Some(json!({"ports": [{"scheme": "tcp", "port": 0, "container_port": 1}]})),
            StatusCode::BAD_REQUEST,
        ),
        (
            "PATCH",
            "/v1/apps/hello",
            Some(json!({"ports": [{"scheme": "tcp", "port": 2222, "container_port": 1}]})),
            StatusCode::CONFLICT,
        ),
        ("POST", "/v1/apps/hello/scale", Some(json!({"formation": {"web": 1001}})), StatusCode::BAD_REQUEST),
        ("POST", "/v1/apps/hello/scale", Some(json!({"formation": {"web": -1}})), StatusCode::BAD_REQUEST),
        ("POST", "/v1/apps/hello/scale", Some(json!({"formation": {"a b": 1}})), StatusCode::BAD_REQUEST),
        ("POST", "/v1/apps/hello/scale", Some(json!({"formation": {"release": 1}})), StatusCode::BAD_REQUEST),
        ("POST", "/v1/apps/none/restart", None, StatusCode::NOT_FOUND),
        ("POST", "/v1/apps/hello/rollback", Some(json!({"to": 9})), StatusCode::NOT_FOUND),
        ("POST", "/v1/apps/hello/rename", Some(json!({"to": "-"})), StatusCode::BAD_REQUEST),
        ("POST", "/v1/stacks", None, StatusCode::BAD_REQUEST),
        ("POST", "/v1/stacks?name=../x", None, StatusCode::BAD_REQUEST),
        ("DELETE", "/v1/tokens/none", None, StatusCode::NOT_FOUND),
        ("DELETE", "/v1/ssh-keys/none", None, StatusCode::NOT_FOUND),
        ("POST", "/v1/tokens", Some(json!({"name": "a/b"})), StatusCode::BAD_REQUEST),
        (
            "POST",
            "/v1/ssh-keys",
            Some(json!({"name": "a", "public_key": "rubbish"})),
            StatusCode::BAD_REQUEST,
        ),
    ];
    for (method, path, body, status) in cases {
        let reply = controller.call(method, path, body).await;
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
        assert!(!reply.json()["message"].as_str().expect("a message").is_empty());
    }
    assert_eq!(controller.get("/v1/apps").await.json().as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_body_that_is_no_json_or_too_long_is_refused() {
    let controller = Controller::start().await;
    let local = berth_controller::api::local(&controller.platform);
    for (body, status) in
        [("{".to_owned(), StatusCode::BAD_REQUEST), ("x".repeat(5 << 20), StatusCode::PAYLOAD_TOO_LARGE)]
    {
        let request =
            http::Request::post("/v1/apps").header("content-type", "application/json; charset=utf-8");
        let reply = common::ask(&local, request.body(axum::body::Body::from(body)).expect("valid")).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, "invalid"));
    }
}

#[tokio::test]
async fn config_is_set_merged_replaced_and_refused() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let path = "/v1/apps/hello/config";
    let set = json!({"set": {"GREETING": "hi\nthere", "B": ""}});
    assert_eq!(controller.call("PATCH", path, Some(set)).await.end(), "done");
    assert_eq!(controller.get(path).await.json(), json!({"B": "", "GREETING": "hi\nthere"}));
    let global = json!({"set": {"GREETING": "global", "C": "3"}});
    assert_eq!(controller.call("PATCH", "/v1/config", Some(global)).await.end(), "done");
    assert_eq!(controller.get("/v1/config").await.json(), json!({"C": "3", "GREETING": "global"}));
    let merged = controller.platform.config_of(&app_name("hello")).await.expect("readable");
    let merged: Vec<_> = merged.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(merged, ["B=", "C=3", "GREETING=hi\nthere"]);

    for (body, says) in [
        (json!({"set": {"PORT": "80"}}), "Berth chooses the port"),
        (json!({"set": {"1X": "80"}}), "do not begin with a digit"),
        (json!({"set": {"X": "a\u{0}b"}}), "NUL"),
        (json!({"set": {"X": "a".repeat(200_000)}}), "bytes"),
        (json!({"set": {"X": "1"}, "unset": ["X"]}), "at once"),
        (json!({"put": {}}), "unknown field"),
    ] {
        let reply = controller.call("PATCH", path, Some(body)).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.text().contains(says), "{} should say {says}", reply.text());
    }
    let unset = json!({"unset": ["B", "NEVER_THERE"]});
    assert_eq!(controller.call("PATCH", path, Some(unset)).await.end(), "done");
    assert_eq!(controller.get(path).await.json(), json!({"GREETING": "hi\nthere"}));
    let replace = json!({"set": {"ONLY": "1"}, "replace": true, "no_restart": true});
    assert_eq!(controller.call("PATCH", path, Some(replace)).await.end(), "done");
    assert_eq!(controller.get(path).await.json(), json!({"ONLY": "1"}));
    let missing = controller.call("PATCH", "/v1/apps/none/config", Some(json!({"set": {"A": "1"}}))).await;
    assert_eq!(missing.code(), "app_not_found");
}

#[tokio::test]
async fn no_two_apps_answer_at_one_name() {
    let controller = Controller::start().await;
    controller.create("one").await;
    controller.create("two").await;
    let add = |domain: &str| Some(json!({"add": [domain]}));
    let added = controller.call("PATCH", "/v1/apps/one/domains", add("www.example.com")).await.json();
    assert_eq!(added["effective"], json!(["one.berth.test", "www.example.com"]));
    for taken in ["www.example.com", "one.berth.test"] {
        let reply = controller.call("PATCH", "/v1/apps/two/domains", add(taken)).await;
        assert_eq!(reply.status, StatusCode::CONFLICT, "{taken}");
        assert!(reply.text().contains("app one"), "{}", reply.text());
    }
    let create = controller.call("POST", "/v1/apps", Some(json!({"name": "www.example.com"}))).await;
    assert_eq!(create.status, StatusCode::CONFLICT, "a full name is a host too");
    let rename = controller.call("POST", "/v1/apps/two/rename", Some(json!({"to": "one"}))).await;
    assert_eq!(rename.end(), "failed");
    for bad in ["UPPER.example.com", "a b", "x:80", "http://x", ""] {
        let reply = controller.call("PATCH", "/v1/apps/two/domains", add(bad)).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let remove = Some(json!({"remove": ["not.there"]}));
    let reply = controller.call("PATCH", "/v1/apps/two/domains", remove).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    let off = controller.call("PATCH", "/v1/apps/one/domains", Some(json!({"default_enabled": false}))).await;
    assert_eq!(off.json()["effective"], json!(["www.example.com"]));
}

#[tokio::test]
async fn global_domains_name_every_app_and_must_not_collide() {
    let controller = Controller::start().await;
    controller.create("one").await;
    controller.create("two").await;
    let global = json!({"set": ["a.test", "b.test"]});
    let answer = controller.call("PATCH", "/v1/domains", Some(global)).await.json();
    assert_eq!(answer["domains"], json!(["a.test", "b.test"]));
    let one = controller.get("/v1/apps/one/domains").await.json();
    assert_eq!(one["effective"], json!(["one.a.test", "one.b.test"]));
    let claim = json!({"add": ["one.c.test"]});
    assert!(controller.call("PATCH", "/v1/apps/two/domains", Some(claim)).await.status.is_success());
    let collides = controller.call("PATCH", "/v1/domains", Some(json!({"add": ["c.test"]}))).await;
    assert_eq!(collides.status, StatusCode::CONFLICT, "{}", collides.text());
    for bad in [json!({"add": ["*.x.test"]}), json!({"default_enabled": true})] {
        assert_eq!(controller.call("PATCH", "/v1/domains", Some(bad)).await.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn two_at_once_cannot_take_one_domain() {
    let controller = Controller::start().await;
    let names: Vec<String> = (0..12).map(|number| format!("app{number}")).collect();
    for name in &names {
        controller.create(name).await;
    }
    let patch = berth_model::api::PatchDomains {
        add: vec![berth_model::HostPattern::parse("www.example.com").expect("valid")],
        ..Default::default()
    };
    let claims = names.iter().map(|name| {
        let (platform, patch, name) = (controller.platform.clone(), patch.clone(), app_name(name));
        tokio::spawn(async move { platform.patch_domains(&name, &patch).await.is_ok() })
    });
    let mut winners = 0;
    for claim in claims.collect::<Vec<_>>() {
        winners += usize::from(claim.await.expect("no panic"));
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn ports_belong_to_one_app() {
    let controller = Controller::start().await;
    controller.create("one").await;
    controller.create("two").await;
    let ports = Some(json!({"ports": [{"scheme": "tcp", "port": 7000, "container_port": 7}]}));
    assert_eq!(controller.call("PATCH", "/v1/apps/one", ports.clone()).await.end(), "done");
    assert_eq!(controller.call("PATCH", "/v1/apps/two", ports).await.status, StatusCode::CONFLICT);
    let branch = Some(json!({"deploy_branch": "trunk"}));
    assert_eq!(controller.call("PATCH", "/v1/apps/one", branch).await.end(), "done");
    let info = controller.get("/v1/apps/one").await.json();
    assert_eq!((&info["ports"][0]["container_port"], &info["deploy_branch"]), (&json!(7), &json!("trunk")));
}

#[tokio::test]
async fn ssh_keys_are_listed_by_fingerprint_and_are_there_once() {
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ me@here";
    let controller = Controller::start().await;
    let add = |name: &str, key: &str| Some(json!({"name": name, "public_key": key}));
    let added = controller.call("POST", "/v1/ssh-keys", add("alice", &format!("{KEY}\n"))).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text());
    assert!(added.json()["fingerprint"].as_str().expect("text").starts_with("SHA256:"));
    assert_eq!(controller.call("POST", "/v1/ssh-keys", add("bob", KEY)).await.status, StatusCode::CONFLICT);
    for bad in
        ["", "ssh-ed25519", &format!("{KEY}\n{KEY}"), "-----BEGIN OPENSSH PRIVATE KEY-----", "ssh-rsa AAAA"]
    {
        let reply = controller.call("POST", "/v1/ssh-keys", add("carol", bad)).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    assert_eq!(controller.get("/v1/ssh-keys").await.json().as_array().map(Vec::len), Some(1));
    let stored = controller.platform.ssh_keys().await.expect("readable");
    assert!(!stored[0].public_key.contains("me@here"), "the comment is nobody's business");
    assert_eq!(controller.call("DELETE", "/v1/ssh-keys/alice", None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(controller.get("/v1/ssh-keys").await.json(), json!([]));
}

#[tokio::test]
async fn releases_are_shown_without_values_and_newest_first() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    controller.pretend_deployed("hello", &[("SECRET", "s3cr3t")]).await;
    controller.pretend_deployed("hello", &[]).await;
    let list = controller.get("/v1/apps/hello/releases").await;
    assert!(!list.text().contains("s3cr3t"));
    let list = list.json();
    assert_eq!((&list[0]["version"], &list[0]["current"]), (&json!(2), &json!(true)));
    assert_eq!((&list[1]["version"], &list[1]["current"]), (&json!(1), &json!(false)));
    assert_eq!(list[1]["config_names"], json!(["SECRET"]));
    assert_eq!(list[1]["processes"], json!({"web": "python web.py"}));
    for version in ["v1", "1"] {
        let one = controller.get(&format!("/v1/apps/hello/releases/{version}")).await.json();
        assert_eq!(one["description"], "Deploy aaaaaaa");
    }
    assert_eq!(controller.get("/v1/apps/hello").await.json()["release"], json!(2));
}

#[tokio::test]
async fn scaling_before_the_first_deploy_only_stores() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let scale = json!({"formation": {"web": 3, "worker": 1}});
    let reply = controller.call("POST", "/v1/apps/hello/scale", Some(scale)).await;
    assert_eq!(reply.end(), "done", "{}", reply.text());
    let ps = controller.get("/v1/apps/hello/ps").await.json();
    assert_eq!(ps["formation"], json!({"web": 3, "worker": 1}));
    assert_eq!((&ps["restart_policy"], &ps["containers"]), (&json!("on-failure:10"), &json!([])));
    for verb in ["restart", "stop", "start", "rollback"] {
        let reply = controller.call("POST", &format!("/v1/apps/hello/{verb}"), None).await;
        assert_eq!(reply.status, StatusCode::OK, "{verb}");
        assert!(["done", "failed"].contains(&reply.end().as_str()), "{verb}: {}", reply.text());
    }
}

#[tokio::test]
async fn health_names_the_part_that_is_missing() {
    let controller = Controller::start().await;
    let reply = controller.get("/healthz").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let missing = reply.json()["missing"].to_string();
    assert!(
        missing.contains("agent:") && missing.contains("proxy:") && !missing.contains("store:"),
        "{missing}"
    );
    assert_eq!(controller.get("/v1/version").await.json()["api"], "v1");
    assert_eq!(controller.get("/v1/nodes").await.json(), json!([]));
}

#[tokio::test]
async fn health_is_ok_once_an_agent_and_a_proxy_report() {
    let controller = Controller::start().await;
    let nodes = berth_controller::nodes::router(controller.platform.clone());
    let observed = json!({"node": "n1", "generation": 0, "containers": {}, "capacity":
        {"cpus": 2, "memory_mib": 1024, "disk_free_mib": 1024, "disk_mib": 4096, "cgroup": "v2", "kernel": "6.1"},
        "stalls": {"io": {"some": {"avg10": 150, "avg60": 40, "avg300": 8}}}});
    let reply = common::ask(&nodes, common::request("POST", "/node/v1/n1/observed", Some(observed))).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    let table = common::ask(&nodes, common::request("GET", "/proxy/v1/routes", None)).await.json();
    let status = json!({"proxy": "n1", "revision": table["revision"], "draining": {}});
    common::ask(&nodes, common::request("POST", "/proxy/v1/status", Some(status))).await;
    let reply = controller.get("/healthz").await;
    assert_eq!((reply.status, reply.text().as_str()), (StatusCode::OK, "ok"));
    let node = controller.get("/v1/nodes").await.json()[0].clone();
    assert_eq!((&node["alive"], &node["capacity"]["disk_mib"]), (&json!(true), &json!(4096)));
    assert_eq!(node["stalls"], json!({"io": {"some": {"avg10": 150, "avg60": 40, "avg300": 8}}}));
    assert_eq!(node["reserved"], json!({"cpu_millis": 0, "memory_mib": 0, "memory_limits_mib": 0}));
}

#[tokio::test]
async fn an_image_says_its_layers_and_with_how_many_others_it_shares_each() {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let controller = Controller::start().await;
    let registry = berth_controller::registry::router(controller.platform.registry().clone());
    let send = async |method: &str, path: String, kind: &str, bytes: Vec<u8>| {
        let asked = http::Request::builder().method(method).uri(path).header("content-type", kind);
        let reply = common::ask(&registry, asked.body(bytes.into()).expect("a request")).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    };
    let blob = async |repository: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        send("POST", path, "application/octet-stream", bytes.to_vec()).await;
        let kind = "application/vnd.oci.image.layer.v1.tar";
        json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() })
    };
    let image = async |repository: &str, config: &str, layers: &[&str]| {
        let mut pushed = Vec::new();
        for layer in layers {
            pushed.push(blob(repository, layer.as_bytes()).await);
        }
        let config = blob(repository, config.as_bytes()).await;
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": pushed });
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        send("PUT", format!("/v2/{repository}/manifests/{digest}"), MANIFEST, bytes).await;
        digest.to_string()
    };
    let config = r#"{"created": "2026-03-04T05:06:07Z", "history": [{"created_by": "debootstrap"}, {"created_by": "COPY . /app"}]}"#;
    let one = image("apps/one", config, &["base", "own"]).await;
    assert_eq!(image("apps/same", config, &["base", "own"]).await, one);
    image("apps/two", "{}", &["base"]).await;
    image("apps/three", "{}", &["base", "more", "base"]).await;

    let wanted = json!({
        "digest": one, "repositories": ["apps/one", "apps/same"], "created_ms": 1_772_600_767_000_i64,
        "layers": [
            { "digest": Digest::of(b"base").to_string(), "bytes": 4, "shared_with": 2, "made_by": "debootstrap" },
            { "digest": Digest::of(b"own").to_string(), "bytes": 3, "shared_with": 0, "made_by": "COPY . /app" },
        ],
    });
    for part in [&one[..], &one[..19], &one[7..19]] {
        assert_eq!(controller.get(&format!("/v1/images/{part}")).await.json(), wanted, "{part}");
    }
    for (odd, status) in [
        ("sha256:000000000000", StatusCode::NOT_FOUND),
        ("sha256:00", StatusCode::BAD_REQUEST),
        ("sha256:", StatusCode::BAD_REQUEST),
        ("latest", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(controller.get(&format!("/v1/images/{odd}")).await.status, status, "{odd}");
    }
}

#[test]
fn the_checked_in_description_is_the_real_one() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let now = berth_controller::api::openapi();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &now).expect("docs/ is writable");
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == now,
        "docs/openapi.json is out of date; run: UPDATE_OPENAPI=1 cargo test -p berth-controller --test api_apps"
    );
}

#[tokio::test]
async fn whom_an_app_keeps_apart_from_follows_the_names() {
    let controller = Controller::start().await;
    for name in ["shop", "cache", "db"] {
        controller.create(name).await;
    }
    let set = async |app: &str, body: serde_json::Value| {
        controller.call("PATCH", &format!("/v1/apps/{app}/processes"), Some(body)).await
    };
    let settings = async |app: &str| controller.get(&format!("/v1/apps/{app}/ps")).await.json();
    for (whom, said) in [
        ("nobody", "there is no app nobody"),
        ("shop", "cannot keep apart from itself"),
        ("cache@rack", "after @ comes node or zone"),
    ] {
        let refused = set("shop", json!({"apart_from": whom})).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::BAD_REQUEST, "invalid"), "{whom}");
        assert!(refused.text().contains(said), "{}", refused.text());
    }
    // Nothing of a change is made if a part of it is refused.
    assert_ne!(set("shop", json!({"apart_from": "db", "spread": "wide"})).await.status, StatusCode::OK);
    assert_eq!(settings("shop").await["settings"]["apart_from"], json!(null));
    assert_eq!(set("shop", json!({"apart_from": "db,cache@zone"})).await.end(), "done");
    let own = json!({"process": "worker", "rather_apart_from": "shop:web"});
    assert_eq!(set("shop", own).await.end(), "done");
    assert_eq!(settings("shop").await["settings"]["apart_from"], "cache@zone,db");
    let cache = settings("cache").await;
    assert!(cache["remarks"].to_string().contains("shop keeps apart from it"), "{cache}");

    controller.call("POST", "/v1/apps/cache/rename", Some(json!({"to": "hot"}))).await.end();
    controller.call("POST", "/v1/apps/shop/rename", Some(json!({"to": "store"}))).await.end();
    let after = settings("store").await;
    assert_eq!(after["settings"]["apart_from"], "db,hot@zone");
    assert_eq!(after["settings"]["by_process"]["worker"]["rather-apart-from"], "store:web");
    controller.call("POST", "/v1/apps/store/clone", Some(json!({"to": "copy"}))).await.end();
    let copy = settings("copy").await;
    assert_eq!(copy["settings"]["apart_from"], "db,hot@zone");
    assert_eq!(copy["settings"]["by_process"]["worker"]["rather-apart-from"], "copy:web");

    controller.call("DELETE", "/v1/apps/db", None).await.end();
    assert_eq!(settings("store").await["settings"]["apart_from"], "hot@zone");
    controller.call("DELETE", "/v1/apps/hot", None).await.end();
    assert_eq!(settings("store").await["settings"]["apart_from"], json!(null));
    // Whoever takes the name later was never meant.
    controller.create("db").await;
    assert_eq!(settings("db").await["remarks"].as_array().map_or(0, Vec::len), 0);
    controller.call("DELETE", "/v1/apps/store", None).await.end();
    assert!(controller.platform.store().list("apart/store").await.expect("the store").is_empty());
}
