//! Backup and restore, rehearsed: a platform that is pushed to meanwhile, and one that starts from what was backed up.

use crate::apps::{push_server, server};
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Request, until};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] =
    &[("a_platform_is_backed_up_under_a_push_and_serves_the_same_when_restored", rehearsal)];

/// Answers with what is in the volume, which it writes to.
const NOTES: &str = r#"
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
if not os.path.exists("/notes/first"):
    open("/notes/first", "w").write("written once by " + os.environ["WHO"])
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        data = open("/notes/first").read().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
HTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn rehearsal(berth: &Berth) -> Result<()> {
    let (app, notes) = ("kept", "kept-notes");
    let repo = push_server(berth, app, "one", &[])?;
    berth.ok(&["config:set", app, "GREETING=goodbye"])?;
    berth.ok(&["domains:add", app, "kept.example.test"])?;
    // An app of its own: with a certificate, plain HTTP is led to TLS.
    berth.ok(&["apps:create", "kept-cert"])?;
    berth.ok(&["certs:generate", "kept-cert"])?;
    berth.ok(&["apps:create", notes])?;
    berth.ok(&["config:set", notes, "WHO=the first platform"])?;
    berth.ok(&["storage:mount", notes, "kept-notes-data:/notes"])?;
    let wrote = berth_tests::Repo::new(
        berth,
        notes,
        &[crate::apps::REQUIREMENTS, ("Procfile", "web: python notes.py\n"), ("notes.py", NOTES)],
    )?;
    wrote.push()?;
    berth.until_says(notes, "written once by the first platform")?;

    // Another version is pushed while it is backed up: either of the two is right, half of one is not.
    repo.write(&[("server.py", &server("two"))])?;
    repo.commit("Second version")?;
    let mut push = repo.command(&["push", "paas", "main"]);
    push.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut push = push.spawn()?;
    let dir = tempfile::TempDir::with_prefix("berth-backup-")?;
    let file = dir.path().join("whole.berth");
    let path = file.to_str().context("a path of text")?;
    let said = berth.ok(&["backup", path, "--volumes"])?;
    ensure!(said.all().contains("Wrote"), "{}", said.all());
    ensure!(push.wait()?.success(), "the push goes through");
    berth.until_says(app, "goodbye two")?;
    ensure!(std::fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "for its owner alone");
    let again = berth.berth(&["backup", path])?;
    ensure!(again.code != 0 && again.stderr.contains("is there already"), "{}", again.all());
    let releases = |berth: &Berth, app: &str| -> Result<Vec<serde_json::Value>> {
        let text = berth.ok(&["releases", app, "--format", "json"])?.stdout;
        Ok(serde_json::from_str::<serde_json::Value>(&text)?.as_array().cloned().unwrap_or_default())
    };
    let before = releases(berth, app)?;

    let second = Berth::restored(berth, &file)?;
    let says = until(Duration::from_secs(60), "the restored app to answer", || {
        let reply = second.get(app, "/")?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        Ok(reply.text())
    })?;
    ensure!(says == "goodbye one" || says == "goodbye two", "{says}");
    second.until_says(notes, "written once by the first platform")?;
    let domain = second.send(&Request::get("kept.example.test", "/"))?;
    ensure!(domain.status == 200 && domain.text().starts_with("goodbye"), "{}", domain.status);
    let certificate =
        |berth: &Berth| berth.ok(&["certs:show", "kept-cert", "crt"]).map(|output| output.stdout);
    ensure!(certificate(berth)? == certificate(&second)?, "the same certificate");
    let config = |berth: &Berth| berth.ok(&["config:show", app]).map(|output| output.stdout);
    ensure!(config(berth)? == config(&second)?, "the same config");
    // What was acknowledged before the backup is there; the push beside it came to an end, or never was.
    let after = releases(&second, app)?;
    let live: Vec<_> = before
        .iter()
        .filter(|release| after.iter().any(|one| one["version"] == release["version"]))
        .collect();
    ensure!(live.len() >= before.len() - 1 && after.len() <= before.len(), "{before:?}\n{after:?}");
    ensure!(!second.ok(&["events", app])?.stdout.is_empty(), "its history is there");
    // And it goes on.
    second
        .ok(&["releases:rollback", app])
        .with_context(|| format!("{:?}\n{after:?}", second.ok(&["events", app]).map(|said| said.stdout)))?;
    second.ok(&["ps:restart", notes])?;
    second.until_says(notes, "written once by the first platform")?;
    Ok(())
}
