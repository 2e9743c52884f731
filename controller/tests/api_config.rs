//! Config vars through the API: kinds, masks, history, differences; what is on the disk; a new key.

mod common;

use common::{Controller, app_name, env_name};
use serde_json::json;

const SECRET: &str = "correct-horse-battery-staple";

#[tokio::test]
async fn a_secret_is_set_and_never_shown() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let path = "/v1/apps/hello/config";
    let set = json!({"set": {"TOKEN": SECRET}, "secret": true});
    assert_eq!(controller.call("PATCH", path, Some(set)).await.end(), "done");
    let file = json!({"set": {"PLAIN": "1"}, "files": {"KEY": "AP94"}});
    assert_eq!(controller.call("PATCH", path, Some(file)).await.end(), "done");
    let again = json!({"set": {"TOKEN": format!("{SECRET}2")}});
    assert_eq!(controller.call("PATCH", path, Some(again)).await.end(), "done");

    assert_eq!(controller.get(path).await.json(), json!({"PLAIN": "1"}));
    assert_eq!(controller.get(&format!("{path}?masked=true")).await.json(), json!({"PLAIN": "********"}));
    let variables = controller.get(&format!("{path}/variables")).await;
    assert!(!variables.text().contains("battery"), "{}", variables.text());
    let kinds: Vec<_> =
        variables.json().as_array().expect("a list").iter().map(|one| one["kind"].clone()).collect();
    assert_eq!(kinds, ["file", "plain", "secret"]);
    let history = controller.get(&format!("{path}/history")).await;
    assert!(!history.text().contains("battery"), "{}", history.text());
    assert_eq!(
        history.json()[0]["changes"][0],
        json!({"name": "TOKEN", "change": "changed", "kind": "secret"})
    );
    assert_eq!(history.json().as_array().expect("a list").len(), 3);
    let (config, secrets) =
        controller.platform.config_and_secrets_of(&app_name("hello")).await.expect("opens");
    assert_eq!(config[&env_name("TOKEN")], format!("{SECRET}2"));
    assert_eq!(secrets.files[&env_name("KEY")].0, [0, 255, b'x']);
}

#[tokio::test]
async fn secrets_follow_an_app_to_its_new_name_and_die_with_it() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let set = json!({"set": {"TOKEN": SECRET}, "secret": true, "files": {"KEY": "AP94"}});
    controller.call("PATCH", "/v1/apps/hello/config", Some(set)).await;
    let rename = controller.call("POST", "/v1/apps/hello/rename", Some(json!({"to": "other"}))).await;
    assert!(rename.status.is_success(), "{}", rename.text());
    let kinds = controller.get("/v1/apps/other/config/variables").await.json();
    assert_eq!((&kinds[0]["kind"], &kinds[1]["kind"]), (&json!("file"), &json!("secret")));
    assert_eq!(
        controller.get("/v1/apps/other/config/history").await.json().as_array().map(Vec::len),
        Some(1)
    );
    controller.call("DELETE", "/v1/apps/other", None).await;
    controller.create("other").await;
    assert_eq!(controller.get("/v1/apps/other/config/history").await.json(), json!([]));
    assert_eq!(controller.get("/v1/apps/other/config/variables").await.json(), json!([]));
}

#[tokio::test]
async fn a_difference_tells_names_and_reveals_what_is_plain() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let none = controller.get("/v1/apps/hello/config/diff").await;
    assert!(none.status == 400 && none.text().contains("has not been deployed"), "{}", none.text());
    controller.pretend_deployed("hello", &[("A", "1"), ("GONE", "x")]).await;
    let set = json!({"set": {"A": "2"}, "no_restart": true});
    controller.call("PATCH", "/v1/apps/hello/config", Some(set)).await;
    let set = json!({"set": {"S": SECRET}, "secret": true, "no_restart": true});
    controller.call("PATCH", "/v1/apps/hello/config", Some(set)).await;
    let diff = controller.get("/v1/apps/hello/config/diff?reveal=true").await;
    assert!(!diff.text().contains("battery"), "{}", diff.text());
    assert_eq!(
        diff.json()["changes"][0],
        json!({"name": "A", "change": "changed", "kind": "plain", "before": "1", "after": "2"})
    );
    assert_eq!((&diff.json()["from"], &diff.json()["to"]), (&json!("v1"), &json!("now")));
    let masked = controller.get("/v1/apps/hello/config/diff").await.json();
    assert_eq!(masked["changes"][0]["before"], json!(null));
    assert_eq!(controller.get("/v1/apps/hello/config/diff?to=99").await.status, 404);
}

#[tokio::test]
async fn what_no_environment_can_hold_is_refused_with_advice() {
    let controller = Controller::start().await;
    controller.create("hello").await;
    let big = "x".repeat(121 * 1024);
    for (body, advice) in [
        (json!({"set": {"A": "a\u{0}b"}}), "--file"),
        (json!({"set": {"PORT": "80"}}), "ports:report"),
        (json!({"files": {"PORT": "AA=="}}), "ports:report"),
        (json!({"set": {"A": big}}), "--file"),
        (json!({"set": {"A": "1"}, "files": {"A": "AA=="}}), "at once"),
        (json!({"set": {"A": "1"}, "unset": ["A"]}), "at once"),
        (json!({"files": {"A": "no base64!"}}), "base64"),
        (json!({"set": {"1A": "x"}}), "digit"),
    ] {
        let refused = controller.call("PATCH", "/v1/apps/hello/config", Some(body)).await;
        assert!(refused.status == 400 && refused.text().contains(advice), "{}", refused.text());
    }
    assert_eq!(controller.get("/v1/apps/hello/config/history").await.json(), json!([]));
}

/// Everything below `dir` that has `needle` in it.
fn files_with(dir: &std::path::Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if path.is_file() {
            let bytes = std::fs::read(&path).expect("readable");
            if bytes.windows(needle.len()).any(|window| window == needle) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// Sets a bit of everything that is sealed.
async fn fill(controller: &Controller) {
    controller.create("hello").await;
    let path = "/v1/apps/hello/config";
    controller.call("PATCH", path, Some(json!({"set": {"A": SECRET}, "no_restart": true}))).await;
    let secret =
        json!({"set": {"TOKEN": SECRET}, "files": {"KEY": "AP94"}, "secret": true, "no_restart": true});
    controller.call("PATCH", path, Some(secret)).await;
    controller.call("PATCH", "/v1/config", Some(json!({"set": {"G": SECRET}, "no_restart": true}))).await;
    controller.pretend_deployed("hello", &[("A", SECRET), ("B", "2")]).await;
}

async fn check(controller: &Controller) {
    let app = app_name("hello");
    let config = controller.platform.config_of(&app).await.expect("config opens");
    for name in ["A", "TOKEN", "G"] {
        assert_eq!(config[&env_name(name)], SECRET, "{name}");
    }
    let releases = controller.platform.releases(&app).await.expect("releases open");
    assert_eq!(releases[0].config[&env_name("A")], SECRET);
    assert_eq!(files_with(controller.dir.path(), SECRET.as_bytes()), Vec::<String>::new());
}

async fn reopened(controller: Controller) -> Controller {
    let Controller { dir, .. } = &controller;
    // The old one is still about, as a process that hangs would be: the database bears two.
    let copy = tempfile::tempdir().expect("a directory");
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", dir.path().display()))
        .arg(copy.path())
        .status();
    assert!(status.expect("cp runs").success());
    drop(controller);
    Controller::on(copy).await
}

#[tokio::test]
async fn a_new_key_opens_everything_and_the_old_one_is_gone() {
    let controller = Controller::start().await;
    fill(&controller).await;
    check(&controller).await;
    let key = controller.dir.path().join("controller/config.key");
    let old = std::fs::read(&key).expect("there");
    let before = controller.get("/v1/secrets").await.json();
    let rotated = controller.call("POST", "/v1/secrets/rotate", None).await;
    assert_eq!(rotated.end(), "done", "{}", rotated.text());
    let after = controller.get("/v1/secrets").await.json();
    assert!(before["key"] != after["key"] && after["rotating"] == json!(false), "{before} {after}");
    check(&controller).await;
    assert_eq!(files_with(controller.dir.path(), &old), Vec::<String>::new());
    let controller = reopened(controller).await;
    check(&controller).await;
    // With the old key nothing opens any more.
    std::fs::write(controller.dir.path().join("controller/config.key"), &old).expect("written");
    let platform = berth_controller::Platform::open(common::options(controller.dir.path())).expect("opens");
    assert!(platform.config_of(&app_name("hello")).await.is_err());
    assert!(platform.releases(&app_name("hello")).await.is_err());
}

#[tokio::test]
async fn a_rotation_that_was_cut_short_goes_on() {
    let controller = Controller::start().await;
    fill(&controller).await;
    // As a kill -9 leaves it just after the new key was written: both are there, everything is still the old one's.
    let key = controller.dir.path().join("controller/config.key");
    let old = std::fs::read(&key).expect("there");
    std::fs::write(&key, [vec![7; 32], old.clone()].concat()).expect("written");
    let controller = reopened(controller).await;
    assert_eq!(controller.get("/v1/secrets").await.json()["rotating"], json!(true));
    check(&controller).await;
    let more = json!({"set": {"LATE": "x"}, "no_restart": true});
    controller.call("PATCH", "/v1/apps/hello/config", Some(more)).await;
    // Once more, now with values of both keys.
    let controller = reopened(controller).await;
    controller.platform.resume_rotation().await.expect("goes on");
    assert_eq!(
        std::fs::read(controller.dir.path().join("controller/config.key")).expect("there"),
        vec![7; 32]
    );
    let controller = reopened(controller).await;
    check(&controller).await;
    controller.platform.resume_rotation().await.expect("has nothing to do");
}

#[tokio::test]
async fn values_that_are_written_while_the_key_changes_are_not_lost() {
    let controller = Controller::start().await;
    fill(&controller).await;
    let app = app_name("hello");
    let writing = async {
        for number in 0..40 {
            let patch = serde_json::from_value(json!({"set": {"N": number.to_string()}})).expect("a patch");
            controller.platform.patch_config(Some(&app), &patch, "test").await.expect("acknowledged");
        }
    };
    let rotating = async {
        for _ in 0..5 {
            assert_eq!(controller.call("POST", "/v1/secrets/rotate", None).await.end(), "done");
        }
    };
    tokio::join!(writing, rotating);
    let controller = reopened(controller).await;
    check(&controller).await;
    assert_eq!(controller.platform.config_of(&app).await.expect("opens")[&env_name("N")], "39");
}
