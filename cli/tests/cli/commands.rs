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

fn variables() -> Value {
    let plain = |name: &str, value: &str| json!({"name": name, "kind": "plain", "value": value, "bytes": value.len(), "global": false});
    json!([
        plain("A", "1"),
        {"name": "KEY", "kind": "file", "value": null, "bytes": 12, "global": false},
        plain("LONG_NAME", "two words"),
        plain("M", "a\nb 'c'"),
        {"name": "TOKEN", "kind": "secret", "value": null, "bytes": 8, "global": false},
    ])
}

fn fake() -> Fake {
    let fake = Fake::start();
    fake.json("GET /v1/apps", json!([app("hello"), app("www.example.com")]))
        .json("GET /v1/apps/hello", app("hello"))
        .json("GET /v1/apps/hello/ps", ps())
        .json("GET /v1/apps/hello/config/variables", variables())
        .json("GET /v1/apps/hello/config/variables?masked=true", variables())
        .json(
            "GET /v1/config/variables",
            json!([{"name": "G", "kind": "plain", "value": "x", "bytes": 1, "global": true}]),
        )
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
        "capacity": {"cpus": 2, "memory_mib": 1024, "disk_free_mib": 10, "disk_mib": 90, "cgroup": "v2", "kernel": "6.1"},
        "stalls": {"cpu": {"some": {"avg10": 5579, "avg60": 40, "avg300": 0}}},
        "reserved": {"cpu_millis": 500, "memory_mib": 256, "memory_limits_mib": 1024}}]));
    fake.json("GET /v1/images/sha256:1a2b3c4d5e6f", json!({"digest": "sha256:1a2b3c4d5e6f70819", "repositories": ["apps/hello"],
        "created_ms": 1_772_600_000_000_i64, "layers": [
            {"digest": "sha256:00112233445566778899", "bytes": 20_000_000, "shared_with": 7, "made_by": "debootstrap"},
            {"digest": "sha256:99887766554433221100", "bytes": 300, "shared_with": 0}]}));
    fake.json("GET /v1/apps/hello/inspect", json!([{"id": "hello.web.1.abc", "app": "hello", "process": "web",
        "ordinal": 1, "release": 3, "node": "one", "role": "serving", "status": {"state": {"state": "running",
        "since_ms": 0, "ready": true}, "incarnation": 1, "restarts": 0, "address": "10.0.0.2", "published": [], "pid": 7,
        "static_root": null}, "image": "apps/hello@sha256:00", "command": "python app.py", "port": 5000, "published": [],
        "limits": {"memory_mib": 512, "cpu_millis": null, "cpu_weight": 100, "pids": 512, "disk_mib": 2048, "log_mib": 64,
        "open_files": 65536, "network": {"egress_kbit": 10000}}, "mounts": [], "env": {"PORT": "5000", "A": "<redacted>"},
        "restart_policy": "on-failure:10", "stop_signal": "SIGTERM", "stop_timeout_secs": 30}]));
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
        "config:export --format json-list hello",
        "config:export --format docker-args-keys hello",
        "config:export --format pack-keys hello",
        "config:export --format pretty hello",
        "config:export hello --format envfile --encoded",
        "config hello --format json",
        "config:get hello TOKEN",
        "config:get hello LONG_NAM",
        "config:get hello LONG_NAME --encoded",
        "config --global",
        "releases hello",
        "releases:info hello",
        "domains hello",
        "urls hello",
        "url hello",
        "ports hello",
        "storage:list hello",
        "resource:limit hello",
        "resource:reserve hello",
        "resource:report hello --web-limit-memory",
        "ps:inspect hello",
        "apps:locked hello",
        "git:report hello",
        "ssh-keys:list",
        "tokens:list",
        "node:list",
        "node:report",
        "images:layers sha256:1a2b3c4d5e6f",
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
        fake.calls()[1..],
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
        "DELETE /v1/sessions",
    ] {
        fake.lines(call, &done);
    }
    fake.json("POST /v1/tokens", json!({"name": "ci", "token": "berth_x"}));
    for call in ["PUT /v1/apps/hello/lock", "DELETE /v1/apps/hello/lock", "PUT /v1/apps/hello/ttl"] {
        fake.json(call, app("hello"));
    }
    fake.json("PUT /v1/autocreation", json!({"enabled": false}));
    for call in [
        "PATCH /v1/apps/hello/processes",
        "POST /v1/apps/hello/clone",
        "POST /v1/apps/hello/restore",
        "POST /v1/apps/www.example.com/restore",
        "POST /v1/apps/www.example.com/restart",
    ] {
        fake.lines(call, &[json!({"event": "done"})]);
    }
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
        "resource:limit --network 10 --io-write 2m --pids 64 hello",
        "resource:limit-clear hello",
        "resource:reserve --memory 128 --cpu 0.25 hello",
        "resource:reserve-clear --process-type web hello",
        "ps:set hello restart-policy always",
        "ps:set hello stop-signal SIGINT --process-type worker",
        "ps:set hello stop-timeout-seconds",
        "ps:restart hello web.2",
        "ps:stop hello web.1",
        "ps:stop hello worker",
        "ps:restart --all",
        "ps:restore",
        "apps:lock hello --reason moving",
        "apps:unlock hello",
        "apps:clone hello review --ttl 2h --skip-deploy",
        "apps:set hello ttl 90m",
        "apps:set hello ttl",
        "apps:set --global disable-autocreation true",
        "ssh-keys:remove alice",
        "tokens:create ci",
        "tokens:revoke ci",
        "dashboard:sign-out --all",
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
fn reports_on_several_apps_are_json_lines() {
    let fake = fake();
    fake.json("GET /v1/apps/www.example.com/ps", ps());
    for line in ["ps:report --format json", "git:report --format json", "builder:report --format json"] {
        let ran = fake.berth(&line.split(' ').collect::<Vec<_>>());
        let lines: Vec<_> = ran.out.lines().map(serde_json::from_str::<Value>).collect();
        assert!(ran.code == 0 && lines.len() == 2 && lines.iter().all(Result::is_ok), "{line}: {ran:?}");
    }
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
        ("resource:limit --network-egress fast hello", 2),
        ("resource:limit --cpu-weight 0 hello", 2),
        ("resource:reserve --memory none --cpu -1 hello", 2),
        ("resource:report nobody", 20),
        ("ps:set hello colour red", 2),
        ("ps:set hello procfile-path x --process-type web", 2),
        ("ps:set hello restart-policy a b", 2),
        ("ps:restart hello web.0", 2),
        ("ps:restart --all hello", 2),
        ("ps:inspect nobody", 20),
        ("ps:restore nobody", 20),
        ("apps:locked hello", 1),
        ("apps:locked nobody", 20),
        ("apps:lock nobody", 20),
        ("apps:clone hello", 2),
        ("apps:clone hello UPPER", 1),
        ("apps:clone hello x --ttl soon", 2),
        ("apps:set hello ttl never", 2),
        ("apps:set hello disable-autocreation true", 2),
        ("apps:set --global disable-autocreation perhaps", 2),
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
    let near = fake.berth(&["url", "helo"]);
    assert_eq!(near.err, " !     App does not exist\n       Did you mean hello?\n");
    assert_eq!(unknown.err, " !     app:create is not a berth command\n !     Did you mean apps:create?\n");
}

#[test]
fn destroying_asks_for_the_name() {
    let fake = fake();
    fake.lines("DELETE /v1/apps/hello", &[json!({"event": "done"})]);
    for typed in ["no\n", "hello\n", ""] {
        let piped = fake.berth_with(&["apps:destroy", "hello"], typed, &[]);
        assert!(piped.code == 1 && piped.err.contains("--confirm hello, or --force"), "{piped:?}");
    }
    assert!(!fake.calls().iter().any(|call| call.starts_with("DELETE")));
    let asked = |typed: &str| {
        // script(1) gives it a terminal.
        let line = format!(
            "{} --data {} apps:destroy hello",
            crate::support::program().display(),
            fake.data().display()
        );
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).current_dir(fake.data());
        crate::support::run(script, typed)
    };
    let wrong = asked("no\n");
    assert!(wrong.out.contains("To proceed, type \"hello\"") && wrong.out.contains("Aborted"), "{wrong:?}");
    assert!(!fake.calls().iter().any(|call| call.starts_with("DELETE")));
    let right = asked("hello\n");
    assert!(fake.calls().iter().any(|call| call.starts_with("DELETE")), "{right:?}");
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
fn secrets_are_read_from_files_and_standard_input_and_never_shown() {
    let fake = fake();
    std::fs::write(fake.data().join("key.pem"), [0, 255, b'x']).expect("ours");
    let file = fake.berth(&["config:set", "hello", "--file", "TLS_KEY=key.pem"]);
    assert!(file.code == 0 && file.out.contains("/run/secrets/TLS_KEY, 3 bytes"), "{file:?}");
    assert!(fake.calls()[1].contains(r#""files":{"TLS_KEY":"AP94"}"#));
    let piped = fake.berth_with(&["config:set", "hello", "--secret", "API_TOKEN"], "hunter2\n", &[]);
    assert!(piped.code == 0 && !piped.shown().contains("hunter2"), "{piped:?}");
    assert!(fake.calls()[1].contains(r#""set":{"API_TOKEN":"hunter2"}"#));
    let named = fake.berth(&["config:set", "hello", "--secret", "API_TOKEN=hunter2"]);
    assert!(named.code == 0 && !named.shown().contains("hunter2"), "{named:?}");
    fake.calls();
    for (line, code) in [
        (&["config:set", "hello", "--secret", "A", "B"][..], 2),
        (&["config:set", "hello", "--file", "A"], 2),
        (&["config:set", "hello", "--file", "A=absent"], 1),
        (&["config:set", "hello", "--file", "--encoded", "A=key.pem"], 2),
        (&["config:set", "hello", "A=1", "A=2"], 2),
        (&["config:set", "hello", "--encoded", "A=//8="], 2),
        (&["config:set", "--global", "-a", "hello", "A=1"], 2),
        (&["config:diff", "hello", "v1", "v2", "v3"], 2),
        (&["config:diff", "hello", "vx"], 1),
    ] {
        let ran = fake.berth_with(line, "", &[]);
        assert!(ran.code == code && ran.err.starts_with(" !     "), "{line:?}: {ran:?}");
    }
    assert!(!fake.calls().iter().any(|call| call.starts_with("PATCH")), "nothing was sent");
    let over_ssh = fake.session(&["config:set", "hello", "--file", "A=key.pem"], "");
    assert!(over_ssh.code == 2 && over_ssh.err.contains("standard input"), "{over_ssh:?}");
}

#[test]
fn config_history_and_differences_are_shown() {
    let fake = fake();
    let change = |name: &str, change: &str, kind: &str| json!({"name": name, "change": change, "kind": kind});
    fake.json("GET /v1/apps/hello/config/history", json!([
        {"at_ms": 1_772_600_000_000_i64, "by": "alice", "stored_only": true,
         "changes": [change("A", "added", "plain"), change("B", "removed", "file"), change("T", "added", "secret")]},
    ]));
    let value = |name: &str, change: &str, kind: &str, before: Value, after: Value| json!({"name": name, "change": change, "kind": kind, "before": before, "after": after});
    fake.json(
        "GET /v1/apps/hello/config/diff?from=3&to=5&reveal=true",
        json!({"from": "v3", "to": "v5", "changes": [
            value("A", "changed", "plain", json!("1"), json!("2\n3")),
            value("B", "removed", "plain", json!("x"), json!(null)),
            value("T", "added", "secret", json!(null), json!(null)),
        ]}),
    );
    fake.json("GET /v1/secrets", json!({"key": "0011", "since_ms": 0, "rotating": false, "file": "/x"}));
    fake.lines(
        "POST /v1/secrets/rotate",
        &[json!({"event": "step", "text": "Sealing"}), json!({"event": "done"})],
    );
    let shown = [
        "config:history hello",
        "config:diff hello v3 5 --reveal",
        "secrets:report --key",
        "secrets:rotate-key",
    ]
    .map(|line| format!("$ berth {line}\n{}", fake.berth(&line.split(' ').collect::<Vec<_>>()).shown()));
    insta::assert_snapshot!(shown.join("\n"));
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
