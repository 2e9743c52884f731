//! Deploys: nothing is lost while versions change, and a bad version never serves.

use crate::apps::{REQUIREMENTS, WEB, push_server, server};
use crate::samples::directory;
use anyhow::{Result, ensure};
use berth_tests::{Berth, Repo, until, websocket_echo};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("deploys_under_load_fail_no_request", under_load),
    ("deploy_of_a_crashing_app_fails_and_shows_its_output", crashing),
    ("deploy_of_an_app_that_no_worker_can_load_fails", no_worker),
    ("deploy_with_a_failing_check_fails", failing_check),
    ("deploy_waits_for_a_slow_start", slow_start),
    ("deploy_says_when_an_app_listens_elsewhere", elsewhere),
    ("a_crashed_process_is_started_again", restarted),
    ("a_crash_loop_backs_off_and_is_reported", crash_loop),
    ("a_process_out_of_memory_is_killed_and_reported", out_of_memory),
    ("websockets_pass", websockets),
    ("a_dependency_change_and_a_source_change_make_only_their_layers", layers),
];

/// gunicorn listens before its workers load the app: a port that accepts connections is not enough.
fn no_worker(berth: &Berth) -> Result<()> {
    let repo = Repo::of_directory(berth, "no-worker", &directory("python-flask"))?;
    repo.push()?;
    let before = berth.get("no-worker", "/")?.text();
    let source = std::fs::read_to_string(repo.path().join("app.py"))?;
    repo.write(&[("app.py", &format!("import no_such_module_anywhere\n{source}"))])?;
    repo.commit("Does not load")?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0, "{}", pushed.all());
    ensure!(pushed.all().contains("No module named 'no_such_module_anywhere'"), "{}", pushed.all());
    ensure!(berth.get("no-worker", "/")?.text() == before, "the old version serves");
    Ok(())
}

fn elsewhere(berth: &Berth) -> Result<()> {
    let local = server("one").replace("0.0.0.0", "127.0.0.1");
    let config = ("app.json", r#"{"env": {"DOKKU_DEFAULT_CHECKS_WAIT": "2"}}"#);
    let repo = Repo::new(
        berth,
        "local-only",
        &[REQUIREMENTS, config, ("Procfile", WEB), ("server.py", local.as_str())],
    )?;
    let pushed = repo.push()?.all();
    ensure!(pushed.contains("listens on 127.0.0.1 only"), "{pushed}");
    let other = server("one").replace(r#"int(os.environ["PORT"])"#, "3456");
    let pushed = repo.change(&[("server.py", &other)])?.all();
    ensure!(pushed.contains("listens on port 3456, not on $PORT (5000)"), "{pushed}");
    ensure!(
        berth.ok(&["logs", "local-only"])?.stdout.contains("listens on port 3456"),
        "the log says so too"
    );
    let right = repo.change(&[("server.py", &server("two"))])?.all();
    ensure!(!right.contains("listens on") && right.contains("web.1 is ready"), "{right}");
    Ok(())
}

fn under_load(berth: &Berth) -> Result<()> {
    let app = "loaded";
    let repo = push_server(berth, app, "one", &[])?;
    let load = berth.load(app, 4);
    repo.change(&[("server.py", &server("two"))])?;
    berth.ok(&["config:set", app, "GREETING=hi"])?;
    berth.ok(&["ps:scale", app, "web=2"])?;
    berth.ok(&["ps:restart", app])?;
    berth.ok(&["rollback", app, "v1"])?;
    berth.ok(&["ps:scale", app, "web=1"])?;
    let answered = load.answered();
    until(Duration::from_secs(10), "more answers", || {
        ensure!(load.answered() > answered + 100, "no more");
        Ok(())
    })?;
    let report = load.finish();
    ensure!(
        report.failures.is_empty(),
        "{} of {}: {:?}",
        report.failures.len(),
        report.answered,
        report.failures.first()
    );
    for body in ["hello one", "hello two", "hi two"] {
        ensure!(report.bodies.iter().any(|seen| seen == body), "no {body:?} in {:?}", report.bodies);
    }
    Ok(())
}

fn crashing(berth: &Berth) -> Result<()> {
    let app = "crashing";
    let repo = push_server(berth, app, "one", &[])?;
    let load = berth.load(app, 2);
    repo.write(&[(
        "server.py",
        "print('about to fail: missing setting FOO', flush=True)\nraise SystemExit(3)\n",
    )])?;
    repo.commit("Crash")?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0, "{}", pushed.all());
    ensure!(pushed.all().contains("about to fail: missing setting FOO"), "{}", pushed.all());
    ensure!(pushed.all().contains("=====> Start of"), "{}", pushed.all());
    let report = load.finish();
    ensure!(report.failures.is_empty() && report.bodies == ["hello one"], "{report:?}");
    let releases = berth.ok(&["releases", app])?.stdout;
    ensure!(releases.contains("failed"), "{releases}");
    Ok(())
}

fn failing_check(berth: &Berth) -> Result<()> {
    let app = "unhealthy";
    let repo = push_server(berth, app, "one", &[])?;
    let checks = r#"{"healthchecks": {"web": [{"type": "startup", "name": "ready", "path": "/", "content": "two", "attempts": 2, "wait": 1, "timeout": 2}]}}"#;
    repo.write(&[("app.json", checks)])?;
    repo.commit("Check that cannot pass")?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0, "{}", pushed.all());
    ensure!(berth.get(app, "/")?.text() == "hello one", "the old version serves");
    repo.change(&[("server.py", &server("two"))])?;
    ensure!(berth.get(app, "/")?.text() == "hello two", "and now the check passes");
    let repo = Repo::new(
        berth,
        app,
        &[
            REQUIREMENTS,
            ("Procfile", WEB),
            ("server.py", &server("three")),
            ("CHECKS", "ATTEMPTS=1\nWAIT=1\n/ no-such-text\n"),
        ],
    )?;
    let pushed = repo.git(&["push", "-f", "paas", "main"])?;
    ensure!(pushed.code != 0 && pushed.all().contains("no-such-text"), "CHECKS is read: {}", pushed.all());
    Ok(())
}

fn slow_start(berth: &Berth) -> Result<()> {
    let app = "slow-start";
    let slow = |version: &str| format!("import time\ntime.sleep(3)\n{}", server(version));
    let repo = push_server(berth, app, "one", &[("server.py", &slow("one"))])?;
    ensure!(berth.get(app, "/")?.text() == "hello one", "the push waited");
    let load = berth.load(app, 2);
    repo.change(&[("server.py", &slow("two"))])?;
    ensure!(berth.get(app, "/")?.text() == "hello two", "the push waited again");
    let report = load.finish();
    ensure!(report.failures.is_empty(), "{:?}", report.failures);
    Ok(())
}

fn restarted(berth: &Berth) -> Result<()> {
    let app = "restarted";
    push_server(berth, app, "one", &[])?;
    let before = berth.pids(app)?;
    let _ = berth.get(app, "/crash");
    let after = until(Duration::from_secs(10), "another process", || {
        ensure!(berth.get(app, "/")?.status == 200, "not yet");
        berth.pids(app)
    })?;
    ensure!(before != after, "{before:?}");
    Ok(())
}

fn crash_loop(berth: &Berth) -> Result<()> {
    let app = "crash-loop";
    let worker = "import sys, time\ntime.sleep(11 if not sys.argv[1:] else 0)\nsys.exit(5)\n";
    push_server(
        berth,
        app,
        "one",
        &[("Procfile", "web: python server.py\nworker: python worker.py now\n"), ("worker.py", worker)],
    )?;
    let scaled = berth.berth(&["ps:scale", app, "worker=1"])?;
    ensure!(scaled.code != 0, "a worker that exits at once does not start: {}", scaled.all());
    ensure!(berth.get(app, "/")?.status == 200, "web is not touched");
    Ok(())
}

fn out_of_memory(berth: &Berth) -> Result<()> {
    let app = "hungry";
    push_server(berth, app, "one", &[])?;
    let eat = "x = bytearray(2_000_000_000)\nprint(len(x))";
    let run = berth.berth(&["run", app, "python", "-c", eat])?;
    ensure!(run.code == 137 || run.all().contains("MemoryError"), "{run:?}");
    ensure!(berth.get(app, "/")?.status == 200, "web is not touched");
    Ok(())
}

fn websockets(berth: &Berth) -> Result<()> {
    let app = "sockets";
    let source = r#"
import asyncio, base64, hashlib, os
async def serve(reader, writer):
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    if "upgrade: websocket" not in head:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain")
        await writer.drain(); writer.close(); return
    key = [l for l in head.split("\r\n") if l.startswith("sec-websocket-key:")][0]
    raw = KEYS.get(key.split(":", 1)[1].strip())
    accept = base64.b64encode(hashlib.sha1(raw + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: " + accept + b"\r\n\r\n")
    while True:
        head = await reader.readexactly(2)
        size = head[1] & 0x7f
        mask = await reader.readexactly(4)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(size)))
        writer.write(bytes([0x81, size]) + data)
        await writer.drain()
KEYS = {"dghlihnhbxbszsbub25jzq==": b"dGhlIHNhbXBsZSBub25jZQ=="}
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", int(os.environ["PORT"]))
    await server.serve_forever()
asyncio.run(main())
"#;
    push_server(berth, app, "-", &[("server.py", source)])?;
    ensure!(berth.get(app, "/")?.text() == "plain", "plain requests");
    let echoed = websocket_echo(berth.http, &berth.host(app), "/", "over the socket")?;
    ensure!(echoed == "over the socket", "{echoed}");
    Ok(())
}

fn layers(berth: &Berth) -> Result<()> {
    let app = "layered";
    let repo = push_server(berth, app, "one", &[("requirements.txt", "bottle==0.13.4\n")])?;
    let blobs = || -> Result<u64> {
        let output = std::process::Command::new("du")
            .arg("-sb")
            .arg(berth.data_dir().join("controller/registry"))
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or("0").parse()?)
    };
    let before = blobs()?;
    let pushed = repo.change(&[("server.py", &server("two"))])?.all();
    ensure!(!pushed.contains("Installing"), "dependencies are not installed again: {pushed}");
    let grown = blobs()? - before;
    ensure!(grown < 200_000, "a source change stored {grown} bytes");
    Ok(())
}
