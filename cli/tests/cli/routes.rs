//! Where commands go: contexts, the environment, SSH with a stand-in for `ssh` that says what it was told.

use crate::support::{Fake, Ran, program, run};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// `berth` without `--data`, with an `ssh` that prints its words, in an empty directory.
fn berth(fake: &Fake, words: &[&str], input: &str, environment: &[(&str, &str)]) -> Ran {
    let bin = fake.data().join("bin");
    if !bin.exists() {
        std::fs::create_dir(&bin).expect("ours");
        let ssh = bin.join("ssh");
        let script = "#!/bin/sh\nfor word; do last=$word; done\necho \"$*\" >> \"$SSH_SAID\"\ncase $last in\n\
                      *fail*) exit 20 ;;\n*unreachable*) exit 255 ;;\n*import*) cat ;;\nesac\n";
        std::fs::write(&ssh, script).expect("ours");
        std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).expect("ours");
    }
    let work = fake.data().join("work");
    std::fs::create_dir_all(&work).expect("ours");
    let mut command = Command::new(program());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    command.args(words).current_dir(work).env("PATH", path).env("HOME", fake.data());
    for name in [
        "BERTH_HOST",
        "BERTH_TOKEN",
        "BERTH_CONTEXT",
        "BERTH_CA",
        "DOKKU_HOST",
        "DOKKU_PORT",
        "XDG_CONFIG_HOME",
    ] {
        command.env_remove(name);
    }
    command.env("SSH_SAID", fake.data().join("said")).envs(environment.iter().copied());
    run(command, input)
}

/// What `ssh` was told since the last time.
fn said(fake: &Fake) -> String {
    let path = fake.data().join("said");
    let said = std::fs::read_to_string(&path).unwrap_or_default();
    let _ = std::fs::remove_file(path);
    said
}

fn git(fake: &Fake, arguments: &[&str]) -> String {
    let output = Command::new("git").args(arguments).current_dir(fake.data().join("work")).output();
    String::from_utf8(output.expect("git is installed").stdout).expect("text")
}

#[test]
fn dokkus_client_variables_lead_over_ssh() {
    let fake = Fake::start();
    let there = [("DOKKU_HOST", "host.example.com"), ("DOKKU_PORT", "3022")];
    let list = berth(&fake, &["apps:list", "--quiet"], "", &there);
    assert_eq!(list.code, 0, "{list:?}");
    assert_eq!(said(&fake), "-o LogLevel=ERROR -p 3022 -- dokku@host.example.com apps:list --quiet\n");
    let quoted = berth(&fake, &["config:set", "hello", "A=it's two words; id"], "", &there);
    assert_eq!(quoted.code, 0);
    assert!(said(&fake).contains("it'"), "the words arrive as they are");
    assert_eq!(berth(&fake, &["apps:exists", "fail"], "", &there).code, 20, "the exit code is the command's");
    let gone = berth(&fake, &["apps:exists", "unreachable"], "", &there);
    assert!(gone.code == 1 && gone.err.contains("no answer from dokku@host.example.com"), "{gone:?}");
    for (name, value) in [("DOKKU_HOST", "-oProxyCommand=id"), ("DOKKU_HOST", "a b")] {
        assert_eq!(berth(&fake, &["apps:list"], "", &[(name, value)]).code, 2, "{value}");
    }
    assert_eq!(berth(&fake, &["apps:list"], "", &[there[0], ("DOKKU_PORT", "x")]).code, 2);
    // What needs no platform stays here.
    said(&fake);
    assert_eq!(berth(&fake, &["help"], "", &there).code, 0);
    assert_eq!(berth(&fake, &["version"], "", &there).code, 0);
    assert_eq!(said(&fake), "");
}

#[test]
fn a_working_tree_gets_and_loses_its_remote() {
    let fake = Fake::start();
    let there = [("DOKKU_HOST", "host.example.com")];
    berth(&fake, &["help"], "", &[]);
    git(&fake, &["init", "-q"]);
    let created = berth(&fake, &["create"], "", &there);
    assert_eq!(created.code, 0, "{created:?}");
    let line = said(&fake);
    let name = line.trim().rsplit(' ').next().expect("a word").to_owned();
    assert_eq!(
        git(&fake, &["remote", "get-url", "paas"]).trim(),
        format!("ssh://dokku@host.example.com:22/{name}")
    );
    // From now on the remote says which app, and where.
    berth(&fake, &["ps:restart", "web"], "", &[]);
    let line = said(&fake);
    if !std::path::Path::new("/var/lib/berth/run/api.sock").exists() {
        assert_eq!(
            line,
            format!(
                "-o LogLevel=ERROR -p 22 -- dokku@host.example.com --inferred-app {name} ps:restart web\n"
            )
        );
    }
    std::fs::write(fake.data().join("work/.env"), "A=1\n").expect("ours");
    let import = berth(&fake, &["config:import", &name, ".env"], "", &there);
    assert_eq!(import.out, "A=1\n", "a file of this machine goes in by standard input");
    assert!(said(&fake).ends_with(&format!("config:import {name} -\n")));
    assert_eq!(berth(&fake, &["apps:destroy", &name, "--force"], "", &there).code, 0);
    assert_eq!(git(&fake, &["remote"]), "");
    git(&fake, &["config", "dokku.remote", "production"]);
    berth(&fake, &["apps:create", "mine"], "", &there);
    assert_eq!(git(&fake, &["remote"]), "production\n");
}

#[test]
fn contexts_are_added_used_shown_and_removed() {
    let fake = Fake::start();
    let ran = |words: &str, input: &str| berth(&fake, &words.split(' ').collect::<Vec<_>>(), input, &[]);
    let file = fake.data().join(".config/berth/contexts.toml");
    assert_eq!(ran("context:add prod --host https://berth.example.com --token -", "berth_sesame\n").code, 0);
    assert_eq!(std::fs::metadata(&file).expect("made").permissions().mode() & 0o777, 0o600);
    assert_eq!(ran("context:add lab --host ssh://paas@lab.example.com:2222", "").code, 0);
    assert_eq!(
        ran("context:list", "").out,
        "   lab   ssh://paas@lab.example.com:2222\n*  prod  https://berth.example.com\n"
    );
    let shown = ran("context:show", "");
    assert!(shown.out.contains("https://berth.example.com") && !shown.out.contains("sesame"), "{shown:?}");
    assert_eq!(ran("context:show lab --address", "").out, "ssh://paas@lab.example.com:2222\n");
    assert_eq!(ran("context:show lab --current", "").out, "false\n");
    assert_eq!(ran("context:use lab", "").code, 0);
    assert_eq!(ran("apps:list", "").code, 0);
    assert_eq!(said(&fake), "-o LogLevel=ERROR -p 2222 -- paas@lab.example.com apps:list\n");
    assert_eq!(
        berth(&fake, &["--context", "lab", "apps:list"], "", &[("BERTH_HOST", "https://x.invalid")]).code,
        0
    );
    assert_eq!(said(&fake), "-o LogLevel=ERROR -p 2222 -- paas@lab.example.com apps:list\n");
    let wrong = ran("--context pord apps:list", "");
    assert!(wrong.code == 2 && wrong.err.contains("did you mean prod?"), "{wrong:?}");
    assert_eq!(berth(&fake, &["apps:list"], "", &[("BERTH_CONTEXT", "nosuch")]).code, 2);
    for (words, input) in [
        ("context:add", ""),
        ("context:add x", ""),
        ("context:add ../x --host https://a.example.com", "t\n"),
        ("context:add x --host http://a.example.com", "t\n"),
        ("context:add x --host a.example.com", "t\n"),
        ("context:add x --host https://a.example.com", ""),
        ("context:use nosuch", ""),
        ("context:remove nosuch", ""),
        ("context:remove", ""),
    ] {
        let refused = ran(words, input);
        assert!(refused.code == 2 && refused.err.starts_with(" !     "), "{words}: {refused:?}");
    }
    assert_eq!(ran("context:remove lab", "").code, 0);
    assert_eq!(ran("context:list --format json", "").out.matches("prod").count(), 1);
    assert_eq!(fake.session(&["context:list"], "").code, 2, "a session has none");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let open = ran("context:list", "");
    assert!(open.code == 1 && open.err.contains("chmod 600"), "{open:?}");
}

#[test]
fn a_session_takes_the_app_that_the_other_side_inferred() {
    let fake = Fake::start();
    fake.lines("POST /v1/apps/hello/restart", &[json!({"event": "done"})]);
    assert_eq!(fake.session(&["--inferred-app", "hello", "ps:restart", "web"], "").code, 0);
    assert!(fake.calls().contains(&r#"POST /v1/apps/hello/restart as alice {"process":"web"}"#.to_owned()));
}
