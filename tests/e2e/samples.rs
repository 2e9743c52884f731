//! Every sample of `tests/samples` that this version can build is pushed and must answer as its `expect.json` says.

use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Repo, Request, until};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("sample_python_flask", |berth| sample(berth, "python-flask")),
    ("sample_python_worker", |berth| sample(berth, "python-worker")),
    ("sample_node_express", |berth| sample(berth, "node-express")),
    ("sample_static_site", |berth| sample(berth, "static-site")),
    ("sample_multi_port_tcp", |berth| sample(berth, "multi-port-tcp")),
    ("sample_go_nomodules", |berth| sample(berth, "go-nomodules")),
    ("sample_rust_tiny_http", rust_sample),
    ("sample_php_composer", |berth| sample(berth, "php-composer")),
    ("sample_ruby_bundler", |berth| sample(berth, "ruby-bundler")),
    ("sample_ruby_rack", |berth| sample(berth, "ruby-rack")),
    ("sample_java_main", |berth| sample(berth, "java-main")),
    ("a_change_of_rust_compiles_only_what_it_touches", rust_changes),
    ("go_builds_vendored_modules_and_every_command", go_commands),
    ("samples_of_other_builders_are_refused_with_advice", refused),
];

/// Port of the proxy for the sample that speaks TCP; below the range that `connect` takes from.
const TCP_PORT: u16 = 17_000;

#[derive(Deserialize)]
struct Expect {
    #[serde(default)]
    processes: Vec<String>,
    #[serde(flatten)]
    first: Wanted,
    #[serde(default)]
    requests: Vec<Wanted>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    tcp: Vec<TcpExchange>,
    #[serde(default)]
    logs: BTreeMap<String, String>,
    release: Option<ReleasePhase>,
    #[serde(default)]
    scale: BTreeMap<String, u32>,
    on_stop: Option<OnStop>,
    #[serde(default)]
    variants: Vec<Variant>,
}

#[derive(Deserialize)]
struct Wanted {
    method: Option<String>,
    path: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    status: Option<u16>,
    #[serde(default)]
    status_in: Vec<u16>,
    body_contains: Option<String>,
    body_not_contains: Option<String>,
    #[serde(default)]
    header_contains: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct TcpExchange {
    container_port: u16,
    send: String,
    expect: String,
}

#[derive(Deserialize)]
struct ReleasePhase {
    log_contains: String,
}

#[derive(Deserialize)]
struct OnStop {
    log_contains: String,
}

#[derive(Deserialize)]
struct Variant {
    name: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    volumes: Vec<String>,
    body_contains: Option<String>,
    deploy: Option<String>,
    log_contains: Option<String>,
}

pub(crate) fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").join(name)
}

fn check(berth: &Berth, app: &str, wanted: &Wanted) -> Result<()> {
    let path = wanted.path.as_deref().unwrap_or("/");
    let host = berth.host(app);
    let request = Request {
        method: wanted.method.as_deref().unwrap_or("GET"),
        headers: wanted.headers.clone().into_iter().collect(),
        body: wanted.body.clone().map(String::into_bytes),
        ..Request::get(&host, path)
    };
    let reply = berth.send(&request)?;
    let text = reply.text();
    let context = || format!("{} {path} of {app}: {} {text}", request.method, reply.status);
    ensure!(wanted.status.is_none_or(|status| status == reply.status), "{}", context());
    ensure!(wanted.status_in.is_empty() || wanted.status_in.contains(&reply.status), "{}", context());
    ensure!(wanted.body_contains.as_ref().is_none_or(|part| text.contains(part)), "{}", context());
    ensure!(wanted.body_not_contains.as_ref().is_none_or(|part| !text.contains(part)), "{}", context());
    for (name, part) in &wanted.header_contains {
        let value = reply.headers.get(&name.to_ascii_lowercase()).map_or("", String::as_str);
        ensure!(value.contains(part), "{name}: {value:?} lacks {part:?}; {}", context());
    }
    Ok(())
}

pub(crate) fn sample(berth: &Berth, name: &str) -> Result<()> {
    let text = std::fs::read_to_string(directory(name).join("expect.json"))?;
    let expect: Expect = serde_json::from_str(&text).with_context(|| format!("expect.json of {name}"))?;
    berth.ok(&["apps:create", name])?;
    for (key, value) in &expect.env {
        berth.ok(&["config:set", name, &format!("{key}={value}")])?;
    }
    if let Some(port) = expect.tcp.first() {
        berth.ok(&["ports:add", name, &format!("tcp:{}:{}", TCP_PORT, port.container_port)])?;
    }
    let repo = Repo::of_directory(berth, name, &directory(name))?;
    let pushed = repo.push()?.all();
    ensure!(pushed.contains("-----> ") && pushed.contains("=====> Application deployed:"), "{pushed}");
    if let Some(release) = &expect.release {
        ensure!(pushed.contains(&release.log_contains), "no {:?} in {pushed}", release.log_contains);
    }
    let scale: Vec<_> = expect.scale.iter().map(|(process, count)| format!("{process}={count}")).collect();
    if !scale.is_empty() {
        let mut command = vec!["ps:scale", name];
        command.extend(scale.iter().map(String::as_str));
        berth.ok(&command)?;
    }
    check(berth, name, &expect.first)?;
    for wanted in &expect.requests {
        check(berth, name, wanted)?;
    }
    for exchange in &expect.tcp {
        let address = (berth.http.ip(), TCP_PORT);
        let mut stream = until(Duration::from_secs(10), "the TCP port", || {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok(stream)
        })?;
        stream.write_all(exchange.send.as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        ensure!(line == exchange.expect, "{:?} was answered with {line:?}", exchange.send);
    }
    let release = berth.ok(&["releases:info", name, "--format", "json"])?.stdout;
    for process in &expect.processes {
        ensure!(release.contains(&format!("\"{process}\"")), "no process {process} in {release}");
    }
    for (process, line) in &expect.logs {
        until(Duration::from_secs(10), "a line in the log", || {
            let logs = berth.ok(&["logs", name, "-p", process, "-n", "50"])?.stdout;
            ensure!(logs.contains(line), "no {line:?} in {logs}");
            Ok(())
        })?;
    }
    if let Some(stop) = &expect.on_stop {
        berth.ok(&["ps:stop", name])?;
        until(Duration::from_secs(20), "the last words in the log", || {
            let logs = berth.ok(&["logs", name, "-n", "50"])?.stdout;
            ensure!(logs.contains(&stop.log_contains), "no {:?} in {logs}", stop.log_contains);
            Ok(())
        })?;
        ensure!(berth.get(name, "/")?.status == 502, "a stopped app answers 502");
        berth.ok(&["ps:start", name])?;
        check(berth, name, &expect.first)?;
    }
    for variant in &expect.variants {
        self::variant(berth, name, &repo, variant).with_context(|| format!("variant {}", variant.name))?;
    }
    Ok(())
}

fn variant(berth: &Berth, app: &str, repo: &Repo, variant: &Variant) -> Result<()> {
    for volume in &variant.volumes {
        berth.ok(&["storage:mount", app, &format!("{app}-data:{volume}")])?;
    }
    let pairs: Vec<_> = variant.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut set = vec!["config:set", "--no-restart", app];
    set.extend(pairs.iter().map(String::as_str));
    berth.ok(&set)?;
    let before = berth.get(app, "/")?;
    repo.commit(&format!("Variant {}", variant.name))?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    let fails = variant.deploy.as_deref() == Some("fail");
    ensure!((pushed.code != 0) == fails, "{}", pushed.all());
    if let Some(line) = &variant.log_contains {
        ensure!(pushed.all().contains(line), "no {line:?} in {}", pushed.all());
    }
    let after = berth.get(app, "/")?;
    if fails {
        ensure!(
            (before.status, before.text()) == (after.status, after.text()),
            "the old release keeps serving"
        );
    }
    if let Some(part) = &variant.body_contains {
        ensure!(after.text().contains(part), "no {part:?} in {}", after.text());
    }
    let mut unset = vec!["config:unset", "--no-restart", app];
    unset.extend(variant.env.keys().map(String::as_str));
    berth.ok(&unset)?;
    Ok(())
}

fn refused(berth: &Berth) -> Result<()> {
    let elixir = Repo::new(berth, "elixir", &[("mix.exs", "defmodule Shop.MixProject do\nend\n")])?;
    let pushed = elixir.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0, "it was accepted: {}", pushed.all());
    ensure!(pushed.all().contains("Elixir"), "{}", pushed.all());
    ensure!(pushed.all().contains("[remote rejected]"), "{}", pushed.all());
    Ok(())
}

/// Where Rust toolchains come from; not every network lets a test machine there.
fn rust_can_be_had() -> Result<bool> {
    let url = "https://static.rust-lang.org/rustup/release-stable.toml";
    let asked =
        std::process::Command::new("curl").args(["-sf", "-m", "20", "-o", "/dev/null", url]).status()?;
    Ok(asked.success())
}

fn rust_sample(berth: &Berth) -> Result<()> {
    if rust_can_be_had()? {
        return sample(berth, "rust-tiny-http");
    }
    // Then the push must be refused with what to do about it.
    let repo = Repo::of_directory(berth, "rust-tiny-http", &directory("rust-tiny-http"))?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0 && pushed.all().contains("RUSTUP_DIST_SERVER"), "{}", pushed.all());
    Ok(())
}

fn rust_changes(berth: &Berth) -> Result<()> {
    if !rust_can_be_had()? {
        return Ok(()); // `rust_sample` looks at what happens then
    }
    let (app, directory) = ("rust-changes", directory("rust-tiny-http"));
    let repo = Repo::of_directory(berth, app, &directory)?;
    let first = repo.push()?.all();
    ensure!(first.contains("Compiling tiny_http"), "{first}");
    let source = std::fs::read_to_string(directory.join("src/main.rs"))?;
    let changed = source.replace("hello from", "greetings from");
    // There and nearly back: an old file must not pass for the one that was compiled last.
    let back = format!("{source}// Again.\n");
    for (text, word) in [(&changed, "greetings from"), (&back, "hello from")] {
        let pushed = repo.change(&[("src/main.rs", text)])?.all();
        ensure!(pushed.contains("Compiling rust-tiny-http"), "{pushed}");
        ensure!(!pushed.contains("Compiling tiny_http") && !pushed.contains("Installing Rust"), "{pushed}");
        let page = berth.get(app, "/")?.text();
        ensure!(page.contains(word), "{page}");
    }
    let broken = changed.replace("fn main", "fn mian");
    repo.write(&[("src/main.rs", &broken)])?;
    repo.commit("Broken")?;
    let refused = repo.git(&["push", "paas", "main"])?;
    ensure!(refused.code != 0 && refused.all().contains("cargo build failed"), "{}", refused.all());
    let pushed = repo.change(&[("src/main.rs", &format!("{changed}// Mended.\n"))])?.all();
    ensure!(pushed.contains("Compiling rust-tiny-http"), "{pushed}");
    ensure!(berth.get(app, "/")?.text().contains("greetings from"), "{pushed}");
    let files = berth.ok(&["run", app, "--", "find", "/app", "/layers", "-type", "f"])?.stdout;
    ensure!(files.contains("/app/target/release/rust-tiny-http"), "{files}");
    ensure!(!files.contains("main.rs") && !files.contains("rustc"), "no source and no compiler: {files}");
    Ok(())
}

fn go_commands(berth: &Berth) -> Result<()> {
    const WEB: &str = r#"package main

import (
	"fmt"
	"net/http"
	"os"

	"example.com/words"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, words.Hello) })
	panic(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
"#;
    let app = "go-commands";
    let repo = Repo::new(
        berth,
        app,
        &[
            ("go.mod", "module example.com/shop/v2\n\ngo 1.26\n\nrequire example.com/words v1.0.0\n"),
            ("go.sum", ""),
            ("vendor/modules.txt", "# example.com/words v1.0.0\n## explicit; go 1.26\nexample.com/words\n"),
            ("vendor/example.com/words/words.go", "package words\n\nconst Hello = \"hello from vendor\"\n"),
            ("cmd/web/main.go", WEB),
            ("cmd/worker/main.go", "package main\n\nfunc main() { println(\"worked\") }\n"),
            ("page.tmpl", "kept"),
        ],
    )?;
    let pushed = repo.push()?.all();
    ensure!(pushed.contains("Installing Go 1.26") && pushed.contains("go.mod (go)"), "{pushed}");
    ensure!(berth.get(app, "/")?.text().contains("hello from vendor"), "{pushed}");
    let release = berth.ok(&["releases:info", app, "--format", "json"])?.stdout;
    ensure!(release.contains("\"worker\""), "{release}");
    let files = berth.ok(&["run", app, "--", "find", "/app", "/layers", "-type", "f"])?.stdout;
    let mut files: Vec<_> = files.lines().map(str::trim).filter(|line| line.starts_with('/')).collect();
    files.sort_unstable();
    ensure!(files == ["/app/bin/web", "/app/bin/worker", "/app/page.tmpl"], "{files:?}");
    Ok(())
}
