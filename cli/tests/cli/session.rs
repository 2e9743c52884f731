//! Commands over SSH: the same words, but nothing on the server's own disk, and nobody else's identity.

use crate::support::Fake;
use serde_json::json;

#[test]
fn a_session_acts_as_the_key_that_was_used() {
    let fake = Fake::start();
    fake.json("GET /v1/apps", json!([]));
    assert_eq!(fake.session(&["apps:list"], "").code, 0);
    assert_eq!(fake.calls(), ["GET /v1/apps as alice"]);
    let nobody = fake.berth(&["--ssh-session", "apps:list"]);
    assert_eq!(nobody.code, 1, "{nobody:?}");
    assert!(fake.calls().is_empty());
}

#[test]
fn a_session_reaches_no_role_no_file_and_no_other_host() {
    let fake = Fake::start();
    std::fs::write(fake.data().join("secret"), "A=secret\n").expect("ours");
    let secret = fake.data().join("secret").display().to_string();
    for line in [
        &["up"][..],
        &["agent"],
        &["controller"],
        &["proxy"],
        &["git-hook"],
        &["--data", "/tmp", "apps:list"],
        &["--host", "https://example.com", "apps:list"],
        &["apps:list", "--data=/tmp"],
        &["--ssh-session", "apps:list"],
        &["config:import", "hello", &secret],
        &["ssh-keys:add", "eve", &secret],
        &["stack:import", "x", &secret],
        &["apps:list;id"],
    ] {
        let ran = fake.session(line, "");
        assert!(ran.code != 0 && ran.code != 20, "{line:?}: {ran:?}");
        assert!(!ran.shown().contains("A=secret"), "{line:?}: {ran:?}");
    }
    assert!(fake.calls().is_empty(), "nothing was sent");
}

#[test]
fn a_session_takes_input_instead_of_files() {
    let fake = Fake::start();
    fake.lines("PATCH /v1/apps/hello/config", &[json!({"event": "done"})]);
    assert_eq!(fake.session(&["config:import", "hello", "-"], "A=1\n").code, 0);
    let key =
        json!({"name": "bob", "fingerprint": "SHA256:abc", "algorithm": "ssh-ed25519", "created_ms": 0});
    fake.json("POST /v1/ssh-keys", key);
    assert_eq!(fake.session(&["ssh-keys:add", "bob"], "ssh-ed25519 AAAA\n").code, 0);
    assert_eq!(fake.calls().len(), 2);
}

#[test]
fn a_session_does_not_look_at_the_servers_git_remotes() {
    let fake = Fake::start();
    let git = |arguments: &[&str]| {
        let status = std::process::Command::new("git").args(arguments).current_dir(fake.data()).status();
        assert!(status.expect("git is installed").success());
    };
    git(&["init", "-q"]);
    git(&["remote", "add", "paas", "paas@host:hello"]);
    assert_eq!(fake.session(&["url"], "").code, 2);
}
