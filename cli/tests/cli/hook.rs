//! Git's hook against a controller that is not there.

use crate::support::{Fake, program, run};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CALL: &str = "POST /hook/v1/pre-receive";

fn hook(fake: &Fake) -> Command {
    let mut command = Command::new(program());
    command.arg("git-hook").current_dir(fake.data()).env_remove("GIT_QUARANTINE_PATH");
    command.env("BERTH_INTERNAL_SOCK", fake.data().join("run/internal.sock")).env("BERTH_PUSH_ID", "push-1");
    command
        .env("GIT_OBJECT_DIRECTORY", "./objects/incoming")
        .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", "/repo/objects");
    command
}

fn line() -> String {
    format!("{} {} refs/heads/main\n", "0".repeat(40), "1".repeat(40))
}

#[test]
fn a_good_build_lets_the_push_in() {
    let fake = Fake::start();
    fake.lines(
        CALL,
        &[
            json!({"event": "step", "text": "Building hello"}),
            json!({"event": "detail", "text": "pip \u{1b}[32mok\u{1b}[0m \u{1b}[2J"}),
            json!({"event": "section", "text": "Application deployed:"}),
            json!({"event": "warning", "text": "no Procfile"}),
            json!({"event": "done"}),
        ],
    );
    let ran = run(hook(&fake), &line());
    insta::assert_snapshot!(ran.shown());
    let calls = fake.calls();
    let body: Value = serde_json::from_str(calls[0].strip_prefix(CALL).expect("that call")).expect("JSON");
    assert_eq!(body["push"], "push-1");
    assert_eq!(
        body["updates"],
        json!([{"old": "0".repeat(40), "new": "1".repeat(40), "ref": "refs/heads/main"}])
    );
    assert_eq!(body["object_dir"], fake.data().join("objects/incoming").display().to_string());
    assert_eq!(body["alternates"], "/repo/objects");
}

#[test]
fn a_bad_build_refuses_it() {
    let fake = Fake::start();
    fake.lines(
        CALL,
        &[json!({"event": "failed", "error": {"code": "app_not_found", "message": "the build failed"}})],
    );
    let ran = run(hook(&fake), &line());
    assert_eq!((ran.code, ran.err.as_str()), (1, " !     the build failed\n"));
    fake.lines(CALL, &[json!({"event": "step", "text": "Building"})]);
    assert_eq!(run(hook(&fake), &line()).code, 1, "a controller that dies refuses the push");
    fake.refuse(CALL, 404, "app_not_found", "no such app");
    assert_eq!(run(hook(&fake), &line()).code, 1, "git knows only 0 and 1");
    assert_eq!(run(hook(&fake), "nonsense\n").code, 1);
    let mut alone = hook(&fake);
    alone.env_remove("BERTH_INTERNAL_SOCK");
    assert_eq!(run(alone, &line()).code, 1);
}

#[test]
fn the_hook_ends_at_once_when_nobody_reads_its_output() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("s");
    // Takes the connection and never answers, as a silent build does.
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    let mut command = Command::new(program());
    command.arg("git-hook").env("BERTH_INTERNAL_SOCK", &socket).env("BERTH_PUSH_ID", "p");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let (connection, _) = listener.accept().expect("it connects");
    drop(child.stdout.take());
    let began = Instant::now();
    let status = loop {
        match child.try_wait().expect("ours") {
            Some(status) => break status,
            None => assert!(began.elapsed() < Duration::from_secs(10), "it still runs"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(1));
    drop(connection);
}
