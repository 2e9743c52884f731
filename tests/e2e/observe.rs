//! Seeing: events, logs that are searched and outlive their containers, drains, metrics, alerts.

use crate::apps::push_server;
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, until};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("observing_events", events),
    ("observing_logs", logs),
    ("observing_drains", drains),
    ("observing_metrics", metrics),
    ("observing_alerts", alerts),
];

const PATIENCE: Duration = Duration::from_secs(30);

fn events(berth: &Berth) -> Result<()> {
    let app = "event-app";
    push_server(berth, app, "one", &[])?;
    berth.ok(&["config:set", "--no-restart", app, "PASSWORD=hunter2"])?;
    let ssh = berth.over_ssh(&["ps:scale", app, "web=2"])?;
    ensure!(ssh.code == 0, "{}", ssh.all());
    let shown = until(PATIENCE, "the events", || {
        let shown = berth.ok(&["events", app])?.stdout;
        ensure!(shown.contains("scaled web=2"), "{shown}");
        Ok(shown)
    })?;
    ensure!(shown.contains("tester from ssh 127.0.0.1: pushed main ("), "{shown}");
    ensure!(shown.contains("tester from ssh 127.0.0.1: scaled web=2"), "{shown}");
    ensure!(shown.contains("local from socket: set PASSWORD"), "{shown}");
    ensure!(shown.contains("release v1 serves: Deploy "), "{shown}");
    ensure!(!shown.contains("hunter2"), "{shown}");
    let json = berth.ok(&["events", app, "--kind", "config", "-n", "1", "--format", "json"])?.stdout;
    let event: serde_json::Value = serde_json::from_str(json.trim())?;
    ensure!(event["kind"] == "config.set" && event["result"] == "done", "{event}");
    for bad in [&["events", "--since", "yesterday"][..], &["events", "No_App!"], &["events", "a", "b"]] {
        ensure!(berth.berth(bad)?.code != 0, "{bad:?}");
    }
    Ok(())
}

fn logs(berth: &Berth) -> Result<()> {
    let app = "search-app";
    let repo = push_server(berth, app, "one", &[])?;
    for path in ["/needle-1", "/hay", "/Needle-2"] {
        berth.get(app, path)?;
    }
    let search = |words: &[&str]| -> Result<String> {
        let mut line = vec!["logs", app];
        line.extend(words);
        Ok(berth.ok(&line)?.stdout)
    };
    until(PATIENCE, "the lines", || {
        let found = search(&["--grep", "needle-[0-9]", "-i"])?;
        ensure!(found.lines().count() == 2, "{found}");
        Ok(())
    })?;
    // A new release, and a crash: what the containers before wrote is still there.
    repo.change(&[("server.py", &crate::apps::server("two"))])?;
    berth.until_says(app, "hello two")?;
    let _ = berth.get(app, "/crash");
    berth.until_says(app, "hello two")?;
    let found = search(&["--grep", "needle-1"])?;
    ensure!(found.lines().count() == 1, "{found}");
    let all = search(&["--since", "10m", "-q"])?;
    ensure!(all.contains("serving one") && all.contains("serving two"), "{all}");
    ensure!(search(&["--until", "1h"])?.is_empty(), "nothing is that old");
    ensure!(search(&["-p", "web.7"])?.is_empty(), "there is no such container");
    let json = search(&["-n", "1", "--grep", "needle", "--format", "json"])?;
    ensure!(json.contains("\"stream\":\"stdout\"") || json.contains("\"stream\":\"stderr\""), "{json}");
    for bad in [
        &["logs", app, "--grep", "("][..],
        &["logs", app, "-t", "--until", "1m"],
        &["logs", app, "--since", "1m", "--until", "1h"],
        &["logs", app, "-i"],
        &["logs", "no-such-app"],
        &["logs:set", app, "max-size", "1q"],
        &["logs:set", app, "vector-sink", "console://"],
        &["logs:set", app],
    ] {
        let refused = berth.berth(bad)?;
        ensure!(refused.code != 0, "{bad:?}: {}", refused.all());
    }
    let hint = berth.berth(&["logs:set", app, "vector-sink", "x"])?.all();
    ensure!(hint.contains("drains:add"), "{hint}");
    berth.ok(&["logs:set", app, "max-size", "2m"])?;
    berth.ok(&["logs:set", app, "retention", "30d"])?;
    ensure!(berth.ok(&["logs:report", app, "--logs-max-size"])?.stdout == "2m\n", "it was set");
    ensure!(berth.ok(&["logs:report", app, "--logs-retention"])?.stdout == "30d\n", "it was set");
    repo.write(&[("server.py", "raise SystemExit('broken on purpose')\n")])?;
    repo.commit("broken")?;
    ensure!(repo.push().is_err(), "it cannot be deployed");
    let failed = berth.ok(&["logs:failed", app])?.all();
    ensure!(failed.contains("broken on purpose"), "{failed}");
    Ok(())
}

/// What a receiver got.
type Got = Arc<Mutex<Vec<u8>>>;

fn text(got: &Got) -> String {
    String::from_utf8_lossy(&got.lock().expect("nobody panicked")).into_owned()
}

fn keep(got: &Got, bytes: &[u8]) {
    got.lock().expect("nobody panicked").extend_from_slice(bytes);
}

/// Answers every request with 200 and keeps them; the first `refused` ones with 503.
fn http_sink(mut refused: usize) -> Result<(u16, Got)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (port, got) = (listener.local_addr()?.port(), Got::default());
    let kept = got.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = if refused > 0 { "503 Service Unavailable" } else { "200 OK" };
            let mut sink = Got::default();
            let took = take_request(stream, answer, if refused > 0 { &mut sink } else { &kept });
            refused = refused.saturating_sub(usize::from(took.is_ok()));
        }
    });
    Ok((port, got))
}

fn take_request(mut stream: TcpStream, answer: &str, got: &Got) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut bytes, mut chunk) = (Vec::new(), [0; 65536]);
    loop {
        let count = stream.read(&mut chunk)?;
        ensure!(count > 0, "cut short");
        bytes.extend_from_slice(&chunk[..count]);
        let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
        let length =
            text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        if bytes.len() >= head + 4 + length.unwrap_or(0) {
            break;
        }
    }
    keep(got, &bytes);
    write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    Ok(())
}

fn drains(berth: &Berth) -> Result<()> {
    let app = "drain-app";
    push_server(berth, app, "one", &[])?;
    berth.get(app, "/before-the-drains")?;
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    udp.set_read_timeout(Some(Duration::from_millis(200)))?;
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let tcp_port = tcp.local_addr()?.port();
    let streamed = Got::default();
    let kept = streamed.clone();
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let kept = kept.clone();
            std::thread::spawn(move || {
                let mut chunk = [0; 65536];
                while let Ok(count @ 1..) = stream.read(&mut chunk) {
                    keep(&kept, &chunk[..count]);
                }
            });
        }
    });
    let (json_port, json) = http_sink(2)?;
    let (otlp_port, otlp) = http_sink(0)?;
    let mut ids = Vec::new();
    for url in [
        format!("syslog+udp://127.0.0.1:{}", udp.local_addr()?.port()),
        format!("syslog+tcp://127.0.0.1:{tcp_port}"),
        format!("http://me:s3cret@127.0.0.1:{json_port}/in?token=s3cret"),
        format!("otlp+http://127.0.0.1:{otlp_port}"),
    ] {
        let added = berth.ok(&["drains:add", app, &url, "--format", "json"])?.stdout;
        ensure!(!added.contains("s3cret"), "{added}");
        let added: serde_json::Value = serde_json::from_str(&added)?;
        ids.push(added["id"].as_str().context("an id")?.to_owned());
    }
    let list = until(PATIENCE, "the node to know the drains", || {
        let list = berth.ok(&["drains:list", app, "--format", "json"])?.stdout;
        let parsed: serde_json::Value = serde_json::from_str(&list)?;
        let known = parsed
            .as_array()
            .context("a list")?
            .iter()
            .filter(|d| d["nodes"].as_object().is_some_and(|n| !n.is_empty()));
        ensure!(known.count() == 4, "{list}");
        Ok(list)
    })?;
    ensure!(!list.contains("s3cret"), "{list}");
    berth.get(app, "/for-the-drains")?;
    let datagram = until(PATIENCE, "the datagram", || {
        let mut bytes = [0; 4096];
        loop {
            let (count, _) = udp.recv_from(&mut bytes)?;
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            ensure!(!text.contains("before-the-drains"), "{text}");
            if text.contains("/for-the-drains") {
                return Ok(text);
            }
        }
    })?;
    ensure!(datagram.starts_with('<') && datagram.contains(" drain-app web.1 - - "), "{datagram}");
    until(PATIENCE, "the stream", || {
        let text = text(&streamed);
        ensure!(text.contains("/for-the-drains"), "{text}");
        let (length, rest) = text.split_once(' ').context("a length")?;
        let message = rest.get(..length.parse::<usize>()?).context("a whole message")?;
        ensure!(message.starts_with('<'), "{text}");
        Ok(())
    })?;
    until(PATIENCE, "the JSON lines, after two refusals", || {
        let text = text(&json);
        ensure!(text.contains("/for-the-drains") && text.contains("POST /in?token=s3cret"), "{text}");
        ensure!(text.contains("authorization: Basic bWU6czNjcmV0"), "{text}");
        Ok(())
    })?;
    until(PATIENCE, "OTLP", || {
        let text = text(&otlp);
        ensure!(
            text.contains("POST /v1/logs")
                && text.contains("resourceLogs")
                && text.contains("/for-the-drains"),
            "{text}"
        );
        Ok(())
    })?;
    ensure!(
        berth.berth(&["drains:add", app, &format!("syslog+tcp://127.0.0.1:{tcp_port}")])?.code != 0,
        "it is there"
    );
    for bad in [
        &["drains:add", app, "ftp://x"][..],
        &["drains:add", app],
        &["drains:add", "no-such-app", "syslog://127.0.0.1"],
        &["drains:add", "--global", "syslog://127.0.0.1", "more"],
        &["drains:remove", "ffffffff"],
        &["drains:remove", "../x"],
    ] {
        ensure!(berth.berth(bad)?.code != 0, "{bad:?}");
    }
    for id in &ids {
        berth.ok(&["drains:remove", id])?;
    }
    ensure!(berth.ok(&["drains:list", app])?.stdout.is_empty(), "all are gone");
    Ok(())
}

fn metrics(berth: &Berth) -> Result<()> {
    let app = "metric-app";
    push_server(berth, app, "one", &[])?;
    until(PATIENCE, "the container to be measured", || {
        berth.get(app, "/")?;
        let top = berth.ok(&["ps:top", app, "--format", "json"])?.stdout;
        let top: serde_json::Value = serde_json::from_str(&top)?;
        let counters = &top[0]["counters"];
        ensure!(counters["memory_bytes"].as_u64() > Some(1 << 20), "{top}");
        ensure!(
            counters["cpu_us"].as_u64() > Some(1000) && counters["net_received"].as_u64() > Some(100),
            "{top}"
        );
        Ok(())
    })?;
    let top = berth.ok(&["ps:top", app])?.stdout;
    ensure!(top.contains("metric-app.web.1"), "{top}");
    until(PATIENCE, "a point of the history", || {
        let shown = berth.ok(&["metrics", app, "--format", "json"])?.stdout;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let points = shown["tens"].as_array().context("points")?;
        ensure!(points.iter().any(|point| point["memory_bytes"].as_u64() > Some(1 << 20)), "{shown}");
        Ok(())
    })?;
    let token = berth.ok(&["tokens:create", "prometheus", "--format", "json"])?.stdout;
    let token: serde_json::Value = serde_json::from_str(&token)?;
    let bearer = format!("Bearer {}", token["token"].as_str().context("a token")?);
    let open = berth.send_api(&berth_tests::Request::get("localhost", "/metrics"))?;
    ensure!(open.status == 401, "{} {}", open.status, open.text());
    until(PATIENCE, "the page for Prometheus", || {
        let page = berth.send_api(&berth_tests::Request {
            headers: vec![("authorization".to_owned(), bearer.clone())],
            ..berth_tests::Request::get("localhost", "/metrics")
        })?;
        for line in [
            "berth_container_memory_bytes{app=\"metric-app\",process=\"web\",ordinal=\"1\"",
            "berth_app_requests_total{app=\"metric-app\",status=\"2xx\"}",
            "berth_app_containers{app=\"metric-app\",state=\"running\"} 1",
            "berth_node_up{",
        ] {
            ensure!(page.text().contains(line), "{line} is missing in {}", page.text());
        }
        Ok(())
    })?;
    ensure!(berth.berth(&["ps:top", "no-such-app"])?.code == 20, "no such app");
    ensure!(berth.berth(&["metrics", app, "-n", "0"])?.code != 0, "no points");
    Ok(())
}

fn alerts(berth: &Berth) -> Result<()> {
    let app = "alert-app";
    let repo = push_server(berth, app, "one", &[])?;
    let (port, got) = http_sink(0)?;
    let url = format!("http://127.0.0.1:{port}/hook/abcdefabcdefabcdefabcdef");
    let added = berth.ok(&[
        "alerts:add",
        &url,
        "--app",
        app,
        "--on",
        "deploy-failed",
        "--secret",
        "k3y",
        "--format",
        "json",
    ])?;
    let added: serde_json::Value = serde_json::from_str(&added.stdout)?;
    ensure!(added["url"] == format!("http://127.0.0.1:{port}/hook/***"), "{added}");
    let id = added["id"].as_str().context("an id")?.to_owned();
    berth.ok(&["alerts:test", &id])?;
    ensure!(
        text(&got).contains("\"status\":\"test\"") && text(&got).contains("berth-signature: sha256="),
        "{}",
        text(&got)
    );
    repo.write(&[("server.py", "raise SystemExit('broken')\n")])?;
    repo.commit("broken")?;
    ensure!(repo.push().is_err(), "it cannot be deployed");
    until(PATIENCE, "the webhook to be told", || {
        ensure!(text(&got).contains("\"status\":\"firing\""), "{}", text(&got));
        Ok(())
    })?;
    let list = berth.ok(&["alerts:list"])?.stdout;
    ensure!(list.contains(&id) && !list.contains("abcdefabcdef") && list.contains("alert-app: "), "{list}");
    repo.write(&[("server.py", &crate::apps::server("two"))])?;
    repo.commit("mended")?;
    repo.push()?;
    until(PATIENCE, "the webhook to be told that it is over", || {
        ensure!(text(&got).contains("\"status\":\"resolved\""), "{}", text(&got));
        Ok(())
    })?;
    ensure!(text(&got).matches("\"status\":\"firing\"").count() == 1, "once: {}", text(&got));
    for bad in [
        &["alerts:add", "syslog://x"][..],
        &["alerts:add"],
        &["alerts:add", &url, "--on", "rain"],
        &["alerts:add", &url, "--app", "no-such-app"],
        &["alerts:remove", "ffffffff"],
        &["alerts:test", "ffffffff"],
    ] {
        ensure!(berth.berth(bad)?.code != 0, "{bad:?}");
    }
    berth.ok(&["alerts:remove", &id])?;
    Ok(())
}
