//! The commands against an API that is not there: words, calls, exit codes.

use crate::support::Fake;
use serde_json::{Value, json};

fn app(name: &str) -> Value {
    json!({
        "name": name, "created_ms": 1_772_600_000_000_i64, "deploy_branch": "main", "release": 3, "git_rev": "1a2b3c4",
        "builder": "buildpack python", "urls": [format!("http://{name}.example.com")], "status": "running",
        "formation": {"web": 2, "worker": 0}, "stopped": false,
        "mounts": [{"source": "uploads", "target": "/app/uploads"}], "ports": [{"scheme": "tcp", "port": 5432, "container_port": 5432}], "limits": {},
    })
}

fn ps() -> Value {
    let container = |ordinal: u32, status: Value| {
        json!({"id": format!("hello.web.{ordinal}.abc"), "process": "web", "ordinal": ordinal, "release": 3,
            "node": "one", "status": status, "command": "argv", "waiting": null})
    };
    let status = |state: Value| json!({"state": state, "incarnation": 1, "restarts": 2, "address": "10.0.0.2", "published": [], "pid": 7, "static_root": null});
    json!({
        "app": "hello", "status": "degraded", "formation": {"web": 2}, "restart_policy": "on-failure:10",
        "containers": [
            container(1, status(json!({"state": "running", "since_ms": 0, "ready": true}))),
            container(2, status(json!({"state": "backing_off", "until_ms": 0,
                "exit": {"code": 1, "signal": null, "oom_killed": false, "at_ms": 0}}))),
        ],
    })
}

fn fake() -> Fake {
    let fake = Fake::start();
    fake.json("GET /v1/apps", json!([app("hello"), app("www.example.com")]))
        .json("GET /v1/apps/hello", app("hello"))
        .json("GET /v1/apps/hello/ps", ps())
        .json("GET /v1/apps/hello/config", json!({"A": "1", "LONG_NAME": "two words", "M": "a\nb 'c'"}))
        .json("GET /v1/config", json!({"G": "x"}))
        .lines("PATCH /v1/apps/hello", &[json!({"event": "done"})])
        .lines(
            "PATCH /v1/apps/hello/config",
            &[
                json!({"event": "step", "text": "Deploying hello v4"}),
                json!({"event": "warning", "text": "slow \u{1b}[2J disk"}),
                json!({"event": "done"}),
            ],
        );
    fake
}

#[test]
fn lists_and_reports_keep_their_shapes() {
    let fake = fake();
    fake.json("GET /v1/apps/hello/releases", json!([
        {"version": 3, "description": "Deploy 1a2b3c4", "by": "alice", "created_ms": 1_772_600_000_000_i64, "outcome": "live",
         "reason": null, "current": true, "git_rev": "1a2b3c4", "image": "apps/hello@sha256:00", "config_names": ["A"], "processes": {"web": "python app.py"}},
        {"version": 2, "description": "Set \u{1b}]0;x\u{7} config var", "by": "local", "created_ms": 1_772_500_000_000_i64, "outcome": "failed",
         "reason": "the check failed", "current": false, "git_rev": null, "image": "apps/hello@sha256:00", "config_names": [], "processes": {}},
    ]))
    .json("GET /v1/domains", json!({"default_enabled": true, "domains": ["example.com"], "effective": []}))
    .json("GET /v1/apps/hello/domains", json!({"default_enabled": true, "domains": ["www.hello.test"], "effective": ["hello.example.com", "www.hello.test"]}))
    .json("GET /v1/ssh-keys", json!([{"name": "alice", "fingerprint": "SHA256:abc", "algorithm": "ssh-ed25519", "created_ms": 0}]))
    .json("GET /v1/tokens", json!([{"name": "ci", "created_ms": 0, "last_used_ms": null}]))
    .json("GET /v1/nodes", json!([{"name": "one", "alive": true, "last_seen_ms": 0, "containers": 2,
        "capacity": {"cpus": 2, "memory_mib": 1024, "disk_free_mib": 10, "cgroup": "v2", "kernel": "6.1"}}]));
    let mut shown = String::new();
    for line in [
        "apps:list",
        "apps",
        "--quiet apps:list",
        "apps:info hello",
        "apps:report hello --app-status",
        "ps hello",
        "ps:report hello --running",
        "ps:report hello --nonsense",
        "ps:scale hello",
        "config hello",
        "config:get hello A",
        "config:get hello NONE",
        "config:keys hello",
        "config:export hello",
        "config:export hello --format envfile",
        "config:export --format shell hello",
        "config:export --format docker-args hello",
        "config:export --format json hello",
        "config --global",
        "releases hello",
        "releases:info hello",
        "domains hello",
        "urls hello",
        "url hello",
        "ports hello",
        "storage:list hello",
        "resource:limit hello",
        "git:report hello",
        "ssh-keys:list",
        "tokens:list",
        "node:list",
        "version",
    ] {
        let ran = fake.berth(&line.split(' ').collect::<Vec<_>>());
        shown.push_str(&format!("$ berth {line}\n{}\n", ran.shown()));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn an_operation_shows_its_progress_and_ends_as_it_did() {
    let fake = fake();
    let set = fake.berth(&["config:set", "hello", "A=2", "B=x=y"]);
    assert_eq!(
        set.out,
        "-----> Setting config vars\n       A:  2\n       B:  x=y\n-----> Restarting app hello\n-----> Deploying hello v4\n"
    );
    assert_eq!(set.err, " !     slow \\x1b[2J disk\n");
    assert_eq!(set.code, 0);
    assert_eq!(
        fake.calls(),
        [
            r#"PATCH /v1/apps/hello/config {"set":{"A":"2","B":"x=y"},"unset":[],"replace":false,"no_restart":false}"#
        ]
    );
    let quiet = fake.berth(&["--quiet", "config:set", "hello", "A=2"]);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", " !     slow \\x1b[2J disk\n"));
    let json = fake.berth(&["config:set", "hello", "A=2", "--format", "json"]);
    assert!(
        json.out.lines().all(|line| serde_json::from_str::<Value>(line).is_ok())
            && json.out.lines().count() == 3
    );
    let failed = json!({"event": "failed", "error": {"code": "failed", "message": "web.1 did not listen"}});
    fake.lines("POST /v1/apps/hello/restart", &[json!({"event": "step", "text": "Restarting"}), failed]);
    let failed = fake.berth(&["ps:restart", "hello"]);
    assert_eq!((failed.code, failed.err.as_str()), (1, " !     web.1 did not listen\n"));
    fake.lines("POST /v1/apps/hello/stop", &[json!({"event": "step", "text": "Stopping"})]);
    let broken = fake.berth(&["ps:stop", "hello"]);
    assert!(
        broken.code == 1 && broken.err.contains("the connection ended before the operation did"),
        "{broken:?}"
    );
}

#[test]
fn every_mutating_command_sends_what_it_says() {
    let fake = fake();
    let done = [json!({"event": "done"})];
    fake.json("POST /v1/apps", app("new")).json("POST /v1/apps/hello/rename", json!({}));
    for call in [
        "POST /v1/apps/hello/scale",
        "POST /v1/apps/hello/restart",
        "POST /v1/apps/hello/stop",
        "POST /v1/apps/hello/start",
        "POST /v1/apps/hello/rollback",
        "PATCH /v1/apps/hello/domains",
        "PATCH /v1/domains",
        "PATCH /v1/config",
        "DELETE /v1/apps/hello",
        "DELETE /v1/ssh-keys/alice",
        "DELETE /v1/tokens/ci",
    ] {
        fake.lines(call, &done);
    }
    fake.json("POST /v1/tokens", json!({"name": "ci", "token": "berth_x"}));
    let key =
        json!({"name": "alice", "fingerprint": "SHA256:abc", "algorithm": "ssh-ed25519", "created_ms": 0});
    fake.json("POST /v1/ssh-keys", key);
    let mut shown = String::new();
    for line in [
        "apps:create new",
        "create -a new",
        "apps:rename hello welcome",
        "--force apps:destroy hello",
        "apps:destroy hello --force",
        "apps:destroy --confirm hello",
        "config:set -a hello --no-restart A=1",
        "config:set hello --encoded A=dHdvIHdvcmRz",
        "config:set --global A=1",
        "config:unset hello A B",
        "config:clear hello",
        "ps:scale hello web=2 worker=0",
        "ps:restart hello web",
        "ps:stop hello",
        "ps:start hello",
        "rollback hello",
        "rollback hello v2 --keep-config",
        "domains:add hello WWW.example.com *.a.test",
        "domains:remove hello a.test",
        "domains:set hello a.test",
        "domains:clear hello",
        "domains:enable hello",
        "domains:disable hello",
        "domains:add-global a.test",
        "domains:remove-global a.test",
        "domains:set-global a.test",
        "git:set hello deploy-branch next",
        "git:set hello deploy-branch",
        "builder-dockerfile:set hello dockerfile-path docker/Dockerfile",
        "builder-dockerfile:set hello target",
        "storage:mount hello /srv/x:/x:ro",
        "storage:unmount hello uploads:/app/uploads",
        "ports:add hello tcp:6379:6379",
        "ports:add hello tls:5432:5432 --proxy-protocol v2",
        "ports:set hello grpc:80:9000 grpcs:443:9000",
        "ports:clear hello",
        "ports:remove hello tcp:5432",
        "resource:limit --memory 1g --cpu 0.5 --process-type web hello",
        "resource:limit-clear hello",
        "ssh-keys:remove alice",
        "tokens:create ci",
        "tokens:revoke ci",
    ] {
        let ran = fake.berth(&line.split(' ').collect::<Vec<_>>());
        let calls: Vec<String> = fake.calls().into_iter().filter(|call| !call.starts_with("GET ")).collect();
        shown.push_str(&format!("$ berth {line}\n{}\n", calls.join("\n")));
        assert_eq!(ran.code, 0, "{line}: {ran:?}");
    }
    let added = fake.berth_with(&["ssh-keys:add", "alice"], "ssh-ed25519 AAAA alice@example\n", &[]);
    shown.push_str(&format!("$ berth ssh-keys:add alice\n{}\n{}", fake.calls().join("\n"), added.shown()));
    insta::assert_snapshot!(shown);
}

#[test]
fn exit_codes_are_dokkus() {
    let fake = fake();
    fake.refuse("POST /v1/apps", 409, "conflict", "App hello exists already");
    for (line, code) in [
        ("apps:exists hello", 0),
        ("apps:exists nobody", 20),
        ("logs nobody", 20),
        ("config:set nobody A=b", 20),
        ("rollback nobody", 20),
        ("apps:create hello", 1),
        ("apps:create UPPER", 1),
        ("apps:create ../x", 1),
        ("apps:create", 2),
        ("apps:list x", 2),
        ("apps:list --no-such-flag", 2),
        ("apps:lst", 1),
        ("frobnicate", 1),
        ("config:set hello", 2),
        ("config:set hello novalue", 2),
        ("config:set hello 1BAD=x", 1),
        ("config:set hello --encoded A=%%", 2),
        ("config:get hello NONE", 1),
        ("ps:scale hello web=-1", 2),
        ("ps:scale hello web=1001", 2),
        ("ps:scale hello web", 2),
        ("rollback hello vx", 1),
        ("ports:add hello sctp:80:5000", 2),
        ("storage:mount hello x", 2),
        ("resource:limit --memory lots hello", 2),
        ("logs", 2),
        ("run hello", 2),
        ("ssh-keys:remove ../x", 2),
        ("completion tcsh", 2),
        ("help frobnicate", 1),
        ("help", 0),
        ("apps:help", 0),
        ("config:help", 0),
        ("help config:set", 0),
        ("--version", 0),
        ("git:set hello color red", 2),
        ("builder-dockerfile:set hello color red", 2),
        ("image:import only-a-name", 2),
        ("image:import ../x file.tar", 2),
        ("stack:import only-a-name", 2),
    ] {
        let ran = fake.berth(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.code, code, "{line}: {ran:?}");
        let silent = matches!(line, "config:get hello NONE");
        assert!(code == 0 || silent || ran.err.starts_with(" !     "), "{line}: {ran:?}");
        assert!(!ran.err.contains("panicked"), "{line}: {ran:?}");
    }
    let unknown = fake.berth(&["app:create", "x"]);
    assert_eq!(unknown.err, " !     app:create is not a berth command\n !     Did you mean apps:create?\n");
}

#[test]
fn destroying_asks_for_the_name() {
    let fake = fake();
    fake.lines("DELETE /v1/apps/hello", &[json!({"event": "done"})]);
    let wrong = fake.berth_with(&["apps:destroy", "hello"], "no\n", &[]);
    assert!(
        wrong.code == 1 && wrong.err.contains("To proceed, type \"hello\"") && wrong.err.contains("Aborted"),
        "{wrong:?}"
    );
    assert!(!fake.calls().iter().any(|call| call.starts_with("DELETE")));
    assert_eq!(fake.berth(&["apps:destroy", "hello"]).code, 1, "no answer is no");
    assert_eq!(fake.berth_with(&["apps:destroy", "hello"], "hello\n", &[]).code, 0);
    assert!(fake.calls().iter().any(|call| call.starts_with("DELETE")));
    assert_eq!(fake.berth(&["apps:destroy", "hello", "--confirm", "other"]).code, 1);
    assert_eq!(fake.berth(&["apps:destroy", "nobody"]).code, 20, "nobody is asked about what is not there");
}

#[test]
fn logs_cannot_control_the_terminal() {
    let fake = fake();
    let line = |at_us: i64, stream: &str, text: &str| json!({"at_us": at_us, "app": "hello", "process": "web", "ordinal": 1, "container": "hello.web.1.abc", "stream": stream, "text": text});
    let lines = [
        line(1_772_600_000_123_456, "stdout", "plain"),
        line(1_772_600_000_123_457, "stderr", "\u{1b}[31mred\u{1b}[0m \u{1b}[2J\u{1b}]0;title\u{7}\r"),
        line(1_772_600_000_123_458, "berth", "restarted"),
    ];
    fake.lines("GET /v1/apps/hello/logs?lines=5&follow=false&process=web", &lines);
    insta::assert_snapshot!(fake.berth(&["logs", "hello", "-n", "5", "-p", "web"]).shown());
    let quiet = fake.berth(&["-q", "logs", "hello", "-n", "5", "-p", "web.2"]);
    assert_eq!(quiet.out, "", "only web.2");
    let json = fake.berth(&["logs", "hello", "-n", "5", "-p", "web", "--format", "json"]);
    assert!(json.out.lines().count() == 3 && !json.out.contains('\u{1b}'), "{json:?}");
    fake.lines("GET /v1/apps/hello/logs?lines=100&follow=true", &lines);
    assert_eq!(fake.berth(&["logs", "-t", "hello"]).out.lines().count(), 3);
}

#[test]
fn config_comes_from_files_and_standard_input() {
    let fake = fake();
    std::fs::write(fake.data().join("env"), "A=1\nexport B='two words'\n").expect("ours");
    assert_eq!(fake.berth(&["config:import", "hello", "env", "--replace"]).code, 0);
    assert_eq!(
        fake.calls(),
        [
            r#"PATCH /v1/apps/hello/config {"set":{"A":"1","B":"two words"},"unset":[],"replace":true,"no_restart":false}"#
        ]
    );
    assert_eq!(fake.berth_with(&["config:import", "hello", "--format", "json"], r#"{"A":"1"}"#, &[]).code, 0);
    assert!(fake.calls()[0].contains(r#""set":{"A":"1"}"#));
    let wrong = fake.berth_with(&["config:import", "hello", "-"], "A=1\nnonsense\n", &[]);
    assert_eq!((wrong.code, wrong.err.as_str()), (1, " !     -: line 2 is no KEY=VALUE\n"));
    assert_eq!(fake.berth(&["config:import", "hello", "absent"]).code, 1);
    assert!(fake.calls().is_empty(), "nothing was sent");
}

#[test]
fn the_app_is_the_one_of_the_git_remote() {
    let fake = fake();
    let git = |arguments: &[&str]| {
        let status = std::process::Command::new("git").args(arguments).current_dir(fake.data()).status();
        assert!(status.expect("git is installed").success());
    };
    git(&["init", "-q"]);
    git(&["remote", "add", "paas", "ssh://paas@host:2222/hello"]);
    fake.lines("POST /v1/apps/hello/restart", &[json!({"event": "done"})]);
    assert_eq!(fake.berth(&["url"]).out, "http://hello.example.com\n");
    assert_eq!(fake.berth(&["config:get", "A"]).out, "1\n");
    fake.calls();
    assert_eq!(fake.berth(&["ps:restart", "web"]).code, 0);
    assert!(fake.calls().contains(&r#"POST /v1/apps/hello/restart {"process":"web"}"#.to_owned()));
    assert_eq!(
        fake.berth(&["config:get", "www.example.com", "A"]).code,
        2,
        "no such app: taken for two variables"
    );
    assert_eq!(fake.berth(&["url", "nobody"]).code, 20, "a named app is the one that is meant");
}

#[test]
fn no_berth_is_said_with_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = std::process::Command::new(crate::support::program());
    command.arg("--data").arg(directory.path()).arg("apps:list");
    let ran = crate::support::run(command, "");
    assert!(
        ran.code == 1 && ran.err.contains("Berth does not run here") && ran.err.contains("berth up"),
        "{ran:?}"
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let fake = fake();
    let line = json!({"at_us": 0, "app": "hello", "process": "web", "ordinal": 1, "container": "hello.web.1.abc", "stream": "stdout", "text": "x".repeat(1000)});
    fake.lines("GET /v1/apps/hello/logs?lines=100&follow=false", &vec![line; 1000]);
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "\"$0\" --data \"$1\" logs hello | head -n 1 | wc -l"])
        .arg(crate::support::program())
        .arg(fake.data());
    let ran = crate::support::run(command, "");
    assert_eq!((ran.out.trim(), ran.err.as_str()), ("1", ""));
}

#[test]
fn help_is_complete() {
    let fake = fake();
    let overview = fake.berth(&["help"]);
    assert_eq!(fake.berth(&[]).out, overview.out);
    assert_eq!(fake.berth(&["--help"]).out, overview.out);
    let mut shown = overview.out;
    for topic in ["apps", "config:set", "logs", "run", "ps:report", "up"] {
        shown.push_str(&format!("\n$ berth help {topic}\n{}", fake.berth(&["help", topic]).out));
    }
    insta::assert_snapshot!(shown);
}
