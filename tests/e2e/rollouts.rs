//! How a release takes the place of another: canaries, blue/green, batches, checks, volumes, ways back.

use crate::apps::{REQUIREMENTS, WEB, push_server, server};
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, LoadReport, Repo, Role, until};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("rollout_of_a_canary_is_raised_promoted_and_aborted", canary),
    ("rollout_blue_green_goes_back_at_once", blue_green),
    ("rollout_that_exits_again_and_again_is_taken_back_once", exits),
    ("rollout_goes_back_as_far_as_to_one_that_has_proven_itself", proven),
    ("rollout_that_answers_errors_is_taken_back", errors),
    ("rollout_in_batches_is_taken_back_when_a_later_one_fails", by_batches),
    ("rollout_stops_first_where_that_was_asked_for", stop_first),
    ("rollout_checks_take_out_bring_back_and_restart", watched),
    ("rollout_of_another_apps_release_keeps_its_own_config", promoted),
    ("rollout_commands_refuse_bad_input", bad_input),
];

pub(crate) const ROUGH: &[(&str, crate::RoughScenario)] =
    &[("rollout_goes_on_when_the_controller_is_killed", killed)];

/// A server that does as it is told: `POST /unready`, `/ready`, `/sick`; `GET /health`, `/alive`.
fn moody(version: &str) -> String {
    let told = r#"
STATE = {"ready": True, "alive": True}
class Moody(Handler):
    def do_GET(self):
        if self.path in ("/health", "/alive"):
            well = STATE["ready" if self.path == "/health" else "alive"]
            self.send_response(200 if well else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()
    def do_POST(self):
        if self.path in ("/unready", "/ready"):
            STATE["ready"] = self.path == "/ready"
        if self.path == "/sick":
            STATE["alive"] = False
        super().do_POST()

server = Server(("0.0.0.0", int(os.environ["PORT"])), Moody)
"#;
    server(version).replace("\nserver = Server((\"0.0.0.0\", int(os.environ[\"PORT\"])), Handler)\n", told)
}

fn well(report: &LoadReport) -> Result<()> {
    let (failed, all) = (report.failures.len(), report.answered);
    ensure!(report.failures.is_empty(), "{failed} of {all}: {:?}", report.failures.first());
    ensure!(report.answered > 0, "nothing was asked");
    Ok(())
}

/// How often each body came in so many requests.
fn bodies(berth: &Berth, app: &str, requests: u32) -> Result<BTreeMap<String, u32>> {
    let mut seen = BTreeMap::new();
    for _ in 0..requests {
        *seen.entry(berth.get(app, "/")?.text()).or_default() += 1;
    }
    Ok(seen)
}

fn releases(berth: &Berth, app: &str) -> Result<Vec<serde_json::Value>> {
    let json = berth.ok(&["releases", app, "--format", "json"])?.stdout;
    Ok(serde_json::from_str(&json)?)
}

/// Waits until the newest release is this one, and serves; gives all of them.
fn until_live(berth: &Berth, app: &str, version: u64, limit: Duration) -> Result<Vec<serde_json::Value>> {
    until(limit, &format!("v{version} of {app} to serve"), || {
        let listed = releases(berth, app)?;
        ensure!(listed[0]["version"] == version && listed[0]["outcome"] == "live", "{listed:?}");
        Ok(listed)
    })
}

fn canary(berth: &Berth) -> Result<()> {
    let app = "trial";
    let repo = push_server(berth, app, "one", &[])?;
    berth.ok(&["ps:scale", app, "web=2"])?;
    let said = berth.ok(&["deploy:canary", app, "20"])?.all();
    ensure!(said.contains("next deploy") && said.contains("20 %"), "{said}");
    let load = berth.load(app, 3);
    let pushed = repo.change(&[("server.py", &server("two"))])?.all();
    ensure!(pushed.contains("canary with 20 %") && pushed.contains("deploy:promote trial"), "{pushed}");
    let seen = bodies(berth, app, 400)?;
    let share = seen.get("hello two").copied().unwrap_or(0);
    ensure!((40..=130).contains(&share), "20 % of 400: {seen:?}");
    let listed = releases(berth, app)?;
    ensure!(listed[0]["outcome"] == "canary" && listed[1]["current"] == true, "{listed:?}");
    let report = berth.ok(&["deploy:report", app])?.stdout;
    ensure!(report.contains("v2 with 20 %"), "{report}");
    let ps = berth.ok(&["ps:report", app])?.stdout;
    ensure!(ps.contains("v2 is a canary") && ps.contains("canary, 20 % of the requests"), "{ps}");
    // What is new while it is on trial is tried there too, with the same share.
    berth.ok(&["config:set", app, "GREETING=hi"])?;
    let seen = bodies(berth, app, 200)?;
    ensure!(seen.contains_key("hello one") && seen.contains_key("hi two") && seen.len() == 2, "{seen:?}");
    // 90 % of two containers are two: another one starts before the share grows.
    berth.ok(&["deploy:canary", app, "90"])?;
    let seen = bodies(berth, app, 200)?;
    let share = seen.get("hi two").copied().unwrap_or(0);
    ensure!((150..200).contains(&share), "90 % of 200: {seen:?}");
    let on_trial = berth.containers(app)?.iter().filter(|one| one["release"] == 3).count();
    ensure!(on_trial == 2, "{on_trial} containers for 90 %");
    let promoted = berth.ok(&["deploy:promote", app])?.all();
    ensure!(promoted.contains("v3 serves all requests"), "{promoted}");
    let seen = bodies(berth, app, 50)?;
    ensure!(seen.len() == 1 && seen.contains_key("hi two"), "{seen:?}");
    ensure!(berth.berth(&["deploy:promote", app])?.code != 0, "nothing is on trial any more");
    // One that is not wanted goes, by its name or by going back.
    for end in [&["deploy:abort", app][..], &["rollback", app]] {
        berth.ok(&["deploy:canary", app, "30"])?;
        repo.change(&[("server.py", &server("three"))])?;
        ensure!(bodies(berth, app, 100)?.contains_key("hi three"), "it is on trial");
        berth.ok(end)?;
        let seen = bodies(berth, app, 50)?;
        ensure!(seen.len() == 1 && seen.contains_key("hi two"), "{end:?}: {seen:?}");
        repo.change(&[("server.py", &server("two"))])?;
    }
    well(&load.finish())?;
    let outcomes: Vec<_> = releases(berth, app)?.iter().map(|one| one["outcome"].clone()).collect();
    ensure!(outcomes.iter().filter(|outcome| *outcome == "failed").count() == 3, "{outcomes:?}");
    Ok(())
}

fn blue_green(berth: &Berth) -> Result<()> {
    let app = "blue-green";
    let repo = push_server(berth, app, "one", &[])?;
    berth.ok(&["ps:scale", app, "web=2"])?;
    berth.ok(&["deploy:set", app, "strategy", "blue-green"])?;
    let blue: BTreeSet<i32> = berth.pids(app)?.into_iter().collect();
    let load = berth.load(app, 3);
    repo.change(&[("server.py", &server("two"))])?;
    ensure!(bodies(berth, app, 20)?.keys().eq(["hello two"]), "all at once");
    let kept = berth.ok(&["deploy:report", app, "--kept-for-rollback"])?.stdout;
    ensure!(kept.starts_with("2 containers"), "{kept}");
    let begun = Instant::now();
    berth.ok(&["rollback", app])?;
    let took = begun.elapsed();
    ensure!(bodies(berth, app, 20)?.keys().eq(["hello one"]), "and back");
    let serving: BTreeSet<i32> = berth
        .containers(app)?
        .iter()
        .filter(|one| one["release"] == 3)
        .filter_map(|one| i32::try_from(one["status"]["pid"].as_i64()?).ok())
        .collect();
    ensure!(serving == blue, "the same processes: {blue:?} {serving:?}");
    ensure!(took < Duration::from_secs(3), "{took:?}");
    well(&load.finish())
}

fn exits(berth: &Berth) -> Result<()> {
    let app = "goes-bad";
    let repo = push_server(berth, app, "one", &[])?;
    berth.ok(&["config:set", app, "--no-restart", "KEPT=yes"])?;
    // It passes its checks, and ends soon afterwards, again and again.
    let bad = server("two").replace(
        "server.serve_forever()",
        "import threading\nthreading.Timer(1.5, lambda: os._exit(7)).start()\nserver.serve_forever()",
    );
    repo.change(&[("server.py", &bad)])?;
    let watched = berth.ok(&["deploy:report", app, "--watched"])?.stdout;
    ensure!(watched.contains("goes back to v1"), "{watched}");
    let listed = until_live(berth, app, 3, Duration::from_secs(60))?;
    ensure!(listed[0]["by"] == "berth" && listed[1]["outcome"] == "rolled back", "{listed:?}");
    let why = listed[0]["description"].as_str().context("a text")?;
    ensure!(why.contains("Rollback to v1: v2 went bad, web.1 ended 3 times in a row"), "{why}");
    ensure!(berth.get(app, "/")?.text() == "hello one", "the old version serves");
    let ps = berth.ok(&["ps:report", app])?.stdout;
    ensure!(ps.contains("Remark:") && ps.contains("v2 went bad"), "{ps}");
    // It is not watched itself, and the way back from it leads nowhere bad.
    let watched = berth.ok(&["deploy:report", app, "--watched"])?.stdout;
    ensure!(watched.trim().is_empty(), "{watched}");
    let back = berth.berth(&["rollback", app])?;
    ensure!(back.code != 0, "v2 is passed over, and v1 is what runs: {}", back.all());
    Ok(())
}

fn proven(berth: &Berth) -> Result<()> {
    let app = "goes-further";
    let repo = push_server(berth, app, "one", &[])?;
    berth.ok(&["storage:mount", app, "goes-further-data:/data"])?;
    // Well until it is told, long after its checks.
    let bad = server("two").replace(
        "server.serve_forever()",
        "import threading, time\n\
         def told():\n    while not os.path.exists('/data/end'):\n        time.sleep(0.1)\n    time.sleep(1)\n    os._exit(7)\n\
         threading.Thread(target=told, daemon=True).start()\nserver.serve_forever()",
    );
    repo.change(&[("server.py", &bad)])?;
    berth.ok(&["config:set", app, "NOTE=three"])?;
    let watched = berth.ok(&["deploy:report", app, "--watched"])?.stdout;
    ensure!(watched.contains("goes back to v2"), "{watched}");
    berth.ok(&["enter", app, "web.1", "touch", "/data/end"])?;
    let listed = until_live(berth, app, 5, Duration::from_secs(90))?;
    let said = |n: usize| listed[n]["description"].as_str().unwrap_or_default().to_owned();
    ensure!(said(1).contains("Rollback to v2: v3 went bad"), "{listed:?}");
    ensure!(said(0).contains("Rollback to v1: v4 went bad"), "{listed:?}");
    ensure!(berth.get(app, "/")?.text() == "hello one", "the one that has proven itself serves");
    let watched = berth.ok(&["deploy:report", app, "--watched"])?.stdout;
    ensure!(watched.trim().is_empty(), "it is not watched: {watched}");
    Ok(())
}

fn errors(berth: &Berth) -> Result<()> {
    let app = "answers-errors";
    let repo = push_server(berth, app, "one", &[])?;
    let bad = server("two").replace("status, body = 200,", "status, body = 500,");
    // Whoever does not want it says so.
    berth.ok(&["deploy:set", app, "auto-rollback", "false"])?;
    repo.change(&[("server.py", &bad)])?;
    for _ in 0..60 {
        ensure!(berth.get(app, "/")?.status == 500, "it serves");
    }
    ensure!(berth.ok(&["deploy:report", app, "--watched"])?.stdout.trim().is_empty(), "nobody watches");
    berth.ok(&["rollback", app])?;
    berth.ok(&["deploy:set", app, "auto-rollback", "true"])?;
    berth.ok(&["deploy:set", app, "rollback-error-ratio", "20%"])?;
    for _ in 0..200 {
        ensure!(berth.get(app, "/")?.status == 200, "well before");
    }
    repo.write(&[("server.py", &format!("{bad}\n# again"))])?;
    repo.commit("Bad again")?;
    repo.push()?;
    until(Duration::from_secs(60), "the rollback", || {
        let reply = berth.get(app, "/")?;
        ensure!(reply.status == 200, "{}", reply.status);
        Ok(())
    })?;
    let listed = releases(berth, app)?;
    let why = listed[0]["description"].as_str().context("a text")?;
    ensure!(listed[0]["by"] == "berth" && why.contains("answers were errors (5xx)"), "{listed:?}");
    // The same on trial ends the trial.
    berth.ok(&["deploy:canary", app, "50"])?;
    repo.write(&[("server.py", &format!("{bad}\n# on trial"))])?;
    repo.commit("Bad on trial")?;
    repo.push()?;
    until(Duration::from_secs(60), "the end of the canary", || {
        for _ in 0..50 {
            berth.get(app, "/")?;
        }
        let listed = releases(berth, app)?;
        ensure!(listed[0]["outcome"] == "failed", "{listed:?}");
        Ok(())
    })?;
    ensure!(bodies(berth, app, 30)?.keys().eq(["hello one"]), "and the other serves");
    Ok(())
}

const WITH_WORKER: &str = "web: python server.py\nworker: python worker.py\n";
const WORKER: &str = "import time\nprint('working', flush=True)\ntime.sleep(10000)\n";

fn by_batches(berth: &Berth) -> Result<()> {
    let app = "batched";
    let formation = r#"{"formation": {"web": {"quantity": 3, "max_parallel": 1}, "worker": {"quantity": 1}},
        "healthchecks": {"worker": [{"type": "startup", "name": "up", "uptime": 1}]}}"#;
    let repo = push_server(
        berth,
        app,
        "one",
        &[("Procfile", WITH_WORKER), ("app.json", formation), ("worker.py", WORKER)],
    )?;
    berth.ok(&["checks:set", app, "wait-to-retire", "5"])?;
    let load = berth.load(app, 3);
    let most = std::thread::scope(|scope| -> Result<usize> {
        let pushing = scope.spawn(|| repo.change(&[("server.py", &server("two"))]));
        let mut most = 0;
        while !pushing.is_finished() {
            let web = berth.containers(app)?.iter().filter(|one| one["process"] == "web").count();
            most = most.max(web);
        }
        pushing.join().map_err(|_| anyhow::anyhow!("the push panicked"))??;
        Ok(most)
    })?;
    ensure!(most <= 4, "three and one at most: {most}");
    ensure!(bodies(berth, app, 30)?.keys().eq(["hello two"]), "all are new");
    // web is replaced before the worker fails: what served comes back.
    repo.write(&[("server.py", &server("three")), ("worker.py", "raise SystemExit('no worker today')\n")])?;
    repo.commit("A worker that fails")?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0 && pushed.all().contains("no worker today"), "{}", pushed.all());
    ensure!(bodies(berth, app, 30)?.keys().eq(["hello two"]), "the old version serves");
    let wanted = |berth: &Berth| -> Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        for one in berth.containers(app)? {
            ensure!(one["release"] == 2, "{one}");
            *counts.entry(one["process"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        Ok(counts)
    };
    until(Duration::from_secs(20), "the formation of before", || {
        let counts = wanted(berth)?;
        ensure!(counts.get("web") == Some(&3) && counts.get("worker") == Some(&1), "{counts:?}");
        Ok(())
    })?;
    let report = load.finish();
    well(&report)?;
    ensure!(report.bodies.iter().any(|body| body == "hello three"), "it was on its way: {:?}", report.bodies);
    Ok(())
}

fn stop_first(berth: &Berth) -> Result<()> {
    let app = "alone";
    let repo = push_server(berth, app, "one", &[])?;
    berth.ok(&["storage:mount", app, "alone-data:/data"])?;
    let pushed = repo.change(&[("server.py", &server("two"))])?.all();
    ensure!(pushed.contains("/data is written to by old and new containers"), "{pushed}");
    berth.ok(&["deploy:set", app, "volumes", "stop-first"])?;
    let load = berth.load(app, 3);
    let pushed = std::thread::scope(|scope| -> Result<String> {
        let pushing = scope.spawn(|| repo.change(&[("server.py", &server("three"))]));
        while !pushing.is_finished() {
            let ran = berth.containers(app)?;
            let ran = ran.iter().filter(|one| one["status"]["state"]["state"] == "running").count();
            ensure!(ran <= 1, "two at once");
        }
        Ok(pushing.join().map_err(|_| anyhow::anyhow!("the push panicked"))??.all())
    })?;
    ensure!(pushed.contains("Stopping the old web before the new web starts"), "{pushed}");
    // One that does not start: the old one comes back.
    repo.write(&[("server.py", "raise SystemExit('not today')\n")])?;
    repo.commit("Does not start")?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0 && pushed.all().contains("Bringing back"), "{}", pushed.all());
    ensure!(berth.get(app, "/")?.text() == "hello three", "it is back");
    well(&load.finish())?;
    let refused = berth.ok(&["deploy:canary", app, "10"])?.code;
    ensure!(refused == 0, "said for the next deploy");
    let pushed = repo.change(&[("server.py", &server("four"))])?.all();
    ensure!(pushed.contains("no canary: its old containers stop"), "{pushed}");
    Ok(())
}

fn watched(berth: &Berth) -> Result<()> {
    let app = "moody";
    let checks = r#"{"healthchecks": {"web": [
        {"type": "startup", "name": "starts", "listening": true, "attempts": 5, "wait": 1},
        {"type": "startup", "name": "lasts", "uptime": 1},
        {"type": "startup", "name": "nags", "path": "/no-such-thing", "content": "never there", "warn": true, "attempts": 1, "onFailure": {"command": ["true"]}},
        {"type": "readiness", "name": "takes requests", "path": "/health", "wait": 1, "attempts": 1, "timeout": 2},
        {"type": "liveness", "name": "lives", "path": "/alive", "wait": 1, "attempts": 2, "timeout": 2},
        {"type": "liveness", "name": "has python", "command": ["python", "-c", "pass"], "wait": 5}
    ]}}"#;
    push_server(berth, app, "-", &[("server.py", &moody("one")), ("app.json", checks)])?;
    berth.ok(&["ps:scale", app, "web=2"])?;
    let logs = berth.ok(&["logs", app, "-n", "500"])?.stdout;
    ensure!(logs.contains("warning: check \"nags\" failed"), "{logs}");
    let ran = berth.berth(&["checks:run", app, "web.1"])?;
    ensure!(
        ran.code == 0 && ran.stdout.contains("takes requests") && ran.stdout.contains("passed"),
        "{}",
        ran.all()
    );
    ensure!(ran.stdout.contains("warning: check") || ran.stdout.contains("warning:"), "{}", ran.all());
    let report = berth.ok(&["checks:report", app])?.stdout;
    ensure!(report.contains("readiness \"takes requests\": GET /health"), "{report}");
    // Whoever answers `POST /unready` leaves the rotation, and the other serves on.
    let send = |path: &str| -> Result<()> {
        let host = berth.host(app);
        let request = berth_tests::Request { method: "POST", ..berth_tests::Request::get(&host, path) };
        ensure!(berth.send(&request)?.status == 200, "{path}");
        Ok(())
    };
    let unready = |wanted: usize| {
        until(Duration::from_secs(20), &format!("{wanted} unready"), || {
            let all = berth.containers(app)?;
            let found = all.iter().filter(|one| one["status"]["state"]["ready"] == false).count();
            ensure!(found == wanted, "{found}");
            Ok(())
        })
    };
    send("/unready")?;
    unready(1)?;
    let load = berth.load(app, 2);
    let failing = berth.berth(&["checks:run", app])?;
    ensure!(failing.code == 1 && failing.all().contains("1 check failed"), "{}", failing.all());
    let who = |berth: &Berth| -> Result<BTreeSet<String>> {
        (0..40).map(|_| Ok(berth.get(app, "/who")?.text())).collect()
    };
    ensure!(who(berth)?.len() == 1, "one of two serves");
    // Both would be unready then: it is brought back from within instead.
    let container = berth.containers(app)?.into_iter().find(|one| one["status"]["state"]["ready"] == false);
    let container = container.context("one is unready")?;
    let name = format!("{}.{}", container["process"].as_str().unwrap_or("web"), container["ordinal"]);
    let ask = "import os,urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:'+os.environ['PORT']+'/ready', data=b'x'))";
    let entered = berth.berth(&["enter", app, &name, "python", "-c", ask])?;
    ensure!(entered.code == 0, "{}", entered.all());
    unready(0)?;
    until(Duration::from_secs(10), "both to serve", || {
        ensure!(who(berth)?.len() == 2, "one");
        Ok(())
    })?;
    // Whoever is sick is started again.
    let before: BTreeSet<i32> = berth.pids(app)?.into_iter().collect();
    send("/sick")?;
    until(Duration::from_secs(40), "another process in its place", || {
        let after: BTreeSet<i32> = berth.pids(app)?.into_iter().collect();
        ensure!(after.len() == 2 && after.intersection(&before).count() == 1, "{before:?} {after:?}");
        Ok(())
    })?;
    unready(0)?;
    well(&load.finish())?;
    // Types whose checks are skipped serve as soon as they run.
    let skipped = berth.ok(&["checks:skip", app, "web"])?.all();
    ensure!(skipped.contains("Skipping checks for moody (web)"), "{skipped}");
    ensure!(berth.ok(&["checks:report", app, "--checks-skipped-list"])?.stdout == "web\n", "it is listed");
    berth.ok(&["checks:disable", app])?;
    ensure!(berth.ok(&["checks:report", app, "--checks-disabled-list"])?.stdout == "_all_\n", "all");
    let refused = berth.berth(&["checks:enable", app, "web"])?;
    ensure!(refused.code != 0 && refused.all().contains("every process type"), "{}", refused.all());
    berth.ok(&["checks:enable", app])?;
    ensure!(berth.ok(&["checks:report", app, "--checks-disabled-list"])?.stdout == "none\n", "none");
    Ok(())
}

fn promoted(berth: &Berth) -> Result<()> {
    let (from, to) = ("staging-app", "production-app");
    let repo = push_server(berth, from, "one", &[])?;
    berth.ok(&["config:set", from, "GREETING=staging"])?;
    berth.ok(&["apps:create", to])?;
    berth.ok(&["config:set", to, "GREETING=production"])?;
    let said = berth.ok(&["promote", from, to])?.all();
    ensure!(said.contains("Promoting staging-app v2"), "{said}");
    ensure!(berth.get(to, "/")?.text() == "production one", "the image with the app's own config");
    repo.change(&[("server.py", &server("two"))])?;
    ensure!(berth.get(to, "/")?.text() == "production one", "nothing happens by itself");
    let load = berth.load(to, 2);
    berth.ok(&["pipelines:promote", "-a", from, "--to", to])?;
    ensure!(berth.get(to, "/")?.text() == "production two", "again");
    well(&load.finish())?;
    let digest = |app: &str| -> Result<String> {
        let image = releases(berth, app)?[0]["image"].as_str().context("an image")?.to_owned();
        Ok(image.rsplit('@').next().unwrap_or_default().to_owned())
    };
    ensure!(digest(from)? == digest(to)?, "the same bytes");
    let diff = berth.ok(&["releases:diff", to])?.stdout;
    ensure!(diff.contains("- image: sha256:") && diff.contains("+ image: sha256:"), "{diff}");
    berth.ok(&["config:set", to, "SECRET=hunter2", "GREETING=prod"])?;
    let diff = berth.ok(&["releases:diff", to])?.stdout;
    ensure!(diff.contains("+ config SECRET: ***") && !diff.contains("hunter2"), "{diff}");
    let diff = berth.ok(&["releases:diff", to, "v2", "v3", "--reveal"])?.stdout;
    ensure!(
        diff.contains("- config GREETING: production") && diff.contains("+ config SECRET: hunter2"),
        "{diff}"
    );
    // Config comes back with its release, and is then the app's again; or stays, if that is said.
    berth.ok(&["rollback", to, "v2"])?;
    ensure!(berth.get(to, "/")?.text() == "production two", "config and all");
    ensure!(berth.berth(&["config:get", to, "SECRET"])?.code == 1, "it is not the app's any more");
    ensure!(berth.ok(&["config:get", to, "GREETING"])?.stdout == "production\n", "and this is as it was");
    berth.ok(&["rollback", to, "v1", "--keep-config"])?;
    ensure!(berth.get(to, "/")?.text() == "production one", "the image alone");
    Ok(())
}

fn bad_input(berth: &Berth) -> Result<()> {
    let app = "refuses-bad-deploys";
    berth.ok(&["apps:create", app])?;
    for (line, code, told) in [
        (&["deploy:report", "nobody-there"][..], 20, "does not exist"),
        (&["deploy:canary", app], 2, "share"),
        (&["deploy:canary", app, "0"], 2, "from 1 to 99"),
        (&["deploy:canary", app, "lots"], 2, "from 1 to 99"),
        (&["deploy:canary", app, "10", "20"], 2, ""),
        (&["deploy:canary", "nobody-there", "10"], 20, "does not exist"),
        (&["deploy:promote", app], 1, "no canary"),
        (&["deploy:abort", app], 1, "no canary"),
        (&["deploy:set", app], 2, "strategy"),
        (&["deploy:set", app, "strategy", "yolo"], 1, "rolling, blue-green, canary"),
        (&["deploy:set", app, "colour", "red"], 2, "no property"),
        (&["deploy:set", app, "rollback-window", "1s"], 1, "10s to 24h"),
        (&["deploy:report", app, "--nonsense"], 2, "valid flags"),
        (&["checks:set", app, "wait-to-retire", "-1"], 2, ""),
        (&["checks:set", app, "wait-to-retire", "soon"], 1, "0 to 3600"),
        (&["checks:skip", app, "no such type"], 1, ""),
        (&["checks:run", app, "web.0"], 2, "web.1"),
        (&["checks:run", app], 1, "runs"),
        (&["releases:diff", app], 1, "not been deployed"),
        (&["releases:diff", app, "v1", "v2", "v3"], 2, "two"),
        (&["releases:diff", app, "first"], 1, ""),
        (&["promote", app], 2, "app to deploy on"),
        (&["promote", app, app], 1, "itself"),
        (&["promote", app, "nobody-there"], 20, "does not exist"),
        (&["ps:set", app, "parallel-schedule-count", "0"], 1, "1 to 100"),
        (&["rollback", app], 1, "not been deployed"),
    ] {
        let output = berth.berth(line)?;
        ensure!(output.code == code || (code != 20 && output.code != 0), "{line:?}: {}", output.code);
        ensure!(output.all().contains(told), "{line:?}: {}", output.all());
    }
    let over_ssh = berth.over_ssh(&["deploy:report", app, "--strategy"])?;
    ensure!(over_ssh.code == 0 && over_ssh.stdout.trim() == "rolling", "{}", over_ssh.all());
    Ok(())
}

fn killed(berth: &mut Berth) -> Result<()> {
    let app = "survives";
    let slow = |version: &str| format!("import time\ntime.sleep(1.5)\n{}", server(version));
    let formation = r#"{"formation": {"web": {"quantity": 3, "max_parallel": 1}}}"#;
    let repo = Repo::new(
        berth,
        app,
        &[REQUIREMENTS, ("Procfile", WEB), ("server.py", &slow("one")), ("app.json", formation)],
    )?;
    repo.push()?;
    berth.ok(&["checks:set", app, "wait-to-retire", "3"])?;
    let load = berth.load(app, 2);
    // In the middle of the batches of a config change, which goes on.
    for after in [500_u64, 2500, 4500] {
        let greeting = format!("GREETING=g{after}");
        let mut setting = berth.command(&["config:set", app, &greeting])?;
        let mut child =
            setting.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(after)); // anywhere in it
        berth.kill(Role::Controller)?;
        child.wait()?;
        berth.until_ready()?;
        until(Duration::from_secs(60), "the change to be made or taken back", || {
            let report = berth.ok(&["deploy:report", app, "--under-way"])?.stdout;
            ensure!(report.trim().is_empty(), "{report}");
            let seen = bodies(berth, app, 12)?;
            ensure!(seen.len() == 1, "{seen:?}");
            Ok(())
        })?;
    }
    // On trial it stays on trial.
    berth.ok(&["deploy:canary", app, "30"])?;
    repo.change(&[("server.py", &slow("two"))])?;
    berth.kill(Role::Controller)?;
    berth.until_ready()?;
    let seen = bodies(berth, app, 150)?;
    ensure!(seen.len() == 2, "{seen:?}");
    let listed = releases(berth, app)?;
    ensure!(listed[0]["outcome"] == "canary", "{listed:?}");
    // A push in its batches is taken back: its pusher saw it fail.
    berth.ok(&["deploy:promote", app])?;
    let two: Vec<_> = bodies(berth, app, 12)?.into_keys().collect();
    repo.write(&[("server.py", &slow("three"))])?;
    repo.commit("Three")?;
    let mut pushing = repo.command(&["push", "paas", "main"]);
    let mut child =
        pushing.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
    until(Duration::from_secs(60), "a first batch to serve", || {
        ensure!(bodies(berth, app, 12)?.keys().any(|body| body.ends_with("three")), "not yet");
        Ok(())
    })?;
    berth.kill(Role::Controller)?;
    child.wait()?;
    berth.until_ready()?;
    until(Duration::from_secs(60), "what served to be back", || {
        let seen = bodies(berth, app, 12)?;
        ensure!(seen.keys().eq(&two), "{seen:?}");
        let report = berth.ok(&["deploy:report", app, "--under-way"])?.stdout;
        ensure!(report.trim().is_empty(), "{report}");
        Ok(())
    })?;
    well(&load.finish())
}
