//! Processes, limits, locks and clones, as their users see them.

use crate::apps::{REQUIREMENTS, push_server, server};
use crate::{RoughScenario, Scenario};
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Repo, Role, until};
use serde_json::Value;
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("processes_of_one_type_are_stopped_started_and_set_by_themselves", one_type),
    ("processes_what_died_for_good_comes_back_with_a_restore", restored),
    ("processes_app_json_scales_and_nobody_else", scaled_by_code),
    ("processes_limits_hold_and_reservations_are_promises", limits),
    ("processes_a_locked_app_takes_no_deploys", locked),
    ("processes_a_clone_has_all_but_names_and_data", cloned),
];

/// They change what others rely on, or kill.
pub(crate) const ROUGH: &[(&str, RoughScenario)] = &[
    ("processes_a_review_app_ends_by_itself_whatever_is_restarted", ended),
    ("processes_pushes_make_no_apps_if_so_set", no_autocreation),
];

const PROCFILE: &str = "web: python server.py\nworker: python worker.py\n";
const WORKER: &str = r#"
import signal, sys, time

def told(number, frame):
    print(f"told {signal.Signals(number).name}", flush=True)
    sys.exit(0)

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, told)
print("working", flush=True)
while True:
    time.sleep(1)
"#;

fn push(berth: &Berth, app: &str) -> Result<Repo> {
    push_server(berth, app, "one", &[("Procfile", PROCFILE), ("worker.py", WORKER)])
}

/// `ps:inspect` as JSON.
fn inspect(berth: &Berth, app: &str) -> Result<Vec<Value>> {
    let shown = berth.ok(&["ps:inspect", app, "--format", "json"])?.stdout;
    Ok(serde_json::from_str(&shown)?)
}

/// Process ids of the containers of a type that serve, by ordinal.
fn pids(berth: &Berth, app: &str, process: &str) -> Result<Vec<u64>> {
    let all = inspect(berth, app)?;
    let of_type = all.iter().filter(|one| one["process"] == process && one["role"] == "serving");
    Ok(of_type.filter_map(|one| one["status"]["pid"].as_u64()).collect())
}

fn one_type(berth: &Berth) -> Result<()> {
    let app = "types-app";
    push(berth, app)?;
    berth.ok(&["ps:scale", app, "worker=2"])?;
    let web = pids(berth, app, "web")?;
    let before = pids(berth, app, "worker")?;
    ensure!(web.len() == 1 && before.len() == 2, "{web:?} {before:?}");

    berth.ok(&["ps:restart", app, "worker.2"])?;
    let after = pids(berth, app, "worker")?;
    ensure!(after[0] == before[0] && after[1] != before[1], "only the second is new: {before:?} {after:?}");
    let none = berth.berth(&["ps:restart", app, "worker.3"])?;
    ensure!(none.code == 1 && none.stderr.contains("worker=2"), "{}", none.all());

    berth.ok(&["ps:stop", app, "worker"])?;
    ensure!(pids(berth, app, "worker")?.is_empty(), "stopped");
    ensure!(berth.get(app, "/")?.status == 200, "web serves on");
    berth.ok(&["config:set", app, "SECRET_WORD=swordfish"])?;
    ensure!(pids(berth, app, "worker")?.is_empty(), "a restart of the rest does not start it");
    let report = berth.ok(&["ps:report", app, "--ps-stopped-types"])?.stdout;
    ensure!(report.trim() == "worker", "{report}");
    berth.ok(&["ps:start", app, "worker"])?;
    ensure!(pids(berth, app, "worker")?.len() == 2, "both are back");
    let unknown = berth.berth(&["ps:stop", app, "nosuch"])?;
    ensure!(unknown.code == 1 && unknown.stderr.contains("web, worker"), "{}", unknown.all());

    berth.ok(&["ps:set", app, "stop-signal", "SIGINT", "--process-type", "worker"])?;
    let set = berth.over_ssh(&["ps:set", app, "stop-timeout-seconds", "7"])?.success()?;
    ensure!(set.stdout.contains("ps:restart"), "it says when it holds: {}", set.all());
    berth.ok(&["ps:restart", app, "worker"])?;
    berth.ok(&["ps:stop", app, "worker"])?;
    until(Duration::from_secs(10), "the signal in the log", || {
        let logs = berth.ok(&["logs", app, "-p", "worker", "-n", "50"])?.stdout;
        ensure!(logs.contains("told SIGINT"), "{logs}");
        Ok(())
    })?;
    for bad in
        [["stop-signal", "SIGKILLER"], ["restart-policy", "sometimes"], ["stop-timeout-seconds", "soon"]]
    {
        let refused = berth.berth(&["ps:set", app, bad[0], bad[1]])?;
        ensure!(refused.code == 1 && refused.stderr.contains(bad[1]), "{bad:?}: {}", refused.all());
    }

    let shown = berth.ok(&["ps:inspect", app, "--format", "json"])?.stdout;
    ensure!(!shown.contains("swordfish") && shown.contains("<redacted>"), "no secrets: {shown}");
    let one = &inspect(berth, app)?[0];
    ensure!(one["node"].is_string() && one["status"]["address"].is_string(), "{one}");
    ensure!(one["stop_timeout_secs"] == 30, "it started before that was set: {one}");
    ensure!(one["env"]["DYNO"] == "web.1" && one["limits"]["memory_mib"] == 512, "{one}");
    let text = berth.over_ssh(&["ps:inspect", app])?.success()?.stdout;
    ensure!(text.contains("Node:") && !text.contains("swordfish"), "{text}");
    Ok(())
}

fn restored(berth: &Berth) -> Result<()> {
    let app = "restored-app";
    push(berth, app)?;
    berth.ok(&["ps:set", app, "restart-policy", "no", "--process-type", "worker"])?;
    berth.ok(&["ps:scale", app, "worker=1"])?;
    let before = berth.pids(app)?;
    berth.ok(&["ps:restore", app])?;
    ensure!(berth.pids(app)? == before, "nothing was to be done");
    let worker = pids(berth, app, "worker")?;
    let worker = i32::try_from(*worker.first().context("a worker")?)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), nix::sys::signal::Signal::SIGKILL)?;
    until(Duration::from_secs(10), "it to be known", || {
        let all = inspect(berth, app)?;
        let worker = all.iter().find(|one| one["process"] == "worker").context("no worker")?;
        ensure!(worker["status"]["state"]["state"] == "exited", "{worker}");
        Ok(())
    })?;
    berth.ok(&["ps:restore"])?; // of every app: the others' are as they should be
    ensure!(pids(berth, app, "worker")?.len() == 1, "it is back");
    berth.ok(&["ps:stop", app])?;
    berth.ok(&["ps:restore", app])?;
    ensure!(berth.pids(app)?.is_empty(), "what was stopped stays so");
    Ok(())
}

fn scaled_by_code(berth: &Berth) -> Result<()> {
    let app = "formation-app";
    let rules = r#"{"formation": {"web": {"quantity": 2}, "worker": {"quantity": 1}}}"#;
    let files = [("Procfile", PROCFILE), ("worker.py", WORKER), ("app.json", rules)];
    let repo = push_server(berth, app, "one", &files)?;
    ensure!(
        pids(berth, app, "web")?.len() == 2 && pids(berth, app, "worker")?.len() == 1,
        "as app.json says"
    );
    let refused = berth.berth(&["ps:scale", app, "web=3"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("app.json"), "{}", refused.all());
    ensure!(berth.ok(&["ps:report", app, "--ps-can-scale"])?.stdout.trim() == "false", "it is said");
    repo.change(&[("app.json", "{}")])?;
    berth.ok(&["ps:scale", app, "web=1"])?;
    ensure!(pids(berth, app, "web")?.len() == 1 && pids(berth, app, "worker")?.len() == 1, "free again");
    Ok(())
}

fn limits(berth: &Berth) -> Result<()> {
    let app = "limits-app";
    push_server(berth, app, "one", &[])?;
    let fetch = || -> Result<Duration> {
        let begun = Instant::now();
        ensure!(berth.get(app, "/big")?.body.len() == 1_000_000, "all of it");
        Ok(begun.elapsed())
    };
    let free = fetch()?;
    berth.ok(&["resource:limit", "--network-egress", "4m", "--memory", "64", "--pids", "40", app])?;
    let held = fetch()?;
    // 1 MB at 4 Mbit/s is 2 s.
    ensure!((1700..2800).contains(&held.as_millis()), "{held:?}, {free:?} before");
    let report = berth.ok(&["resource:report", app])?.stdout;
    ensure!(report.contains("web limit network-egress:") && report.contains("4m"), "{report}");
    let hog = berth.berth(&["run", app, "python", "-c", "x = 'x' * 200_000_000"])?;
    ensure!(hog.code == 137, "one-off commands have the app's limits: {} {}", hog.code, hog.all());

    let much = berth.berth(&["resource:reserve", "--memory", "64", "--cpu", "9999", app])?;
    ensure!(much.code == 1 && much.stderr.contains("has that much unreserved"), "{}", much.all());
    let kept = berth.ok(&["resource:report", app, "--web-reserve-cpu"])?.stdout;
    ensure!(kept.trim() == "none", "a refused reservation is none: {kept}");
    ensure!(berth.get(app, "/")?.status == 200, "it serves on");
    berth.ok(&["resource:reserve", "--memory", "64", "--cpu", "0.01", app])?;
    ensure!(inspect(berth, app)?[0]["limits"]["reserve"]["memory_mib"] == 64, "reserved");
    let above = berth.over_ssh(&["resource:reserve", "--memory", "65", app])?;
    ensure!(above.code == 1 && above.stderr.contains("more than the limit"), "{}", above.all());
    berth.ok(&["resource:reserve-clear", app])?;
    berth.ok(&["resource:limit-clear", app])?;
    ensure!(fetch()? < Duration::from_secs(1), "free again");
    Ok(())
}

fn locked(berth: &Berth) -> Result<()> {
    let app = "locked-app";
    let repo = push_server(berth, app, "one", &[])?;
    ensure!(berth.berth(&["apps:locked", app])?.code == 1, "not yet");
    berth.over_ssh(&["apps:lock", app, "--reason", "database-moves"])?.success()?;
    ensure!(berth.ok(&["apps:locked", app])?.all().contains("tester"), "who locked it");
    repo.write(&[("server.py", &server("two"))])?;
    repo.commit("two")?;
    let refused = repo.git(&["push", &berth.remote(app), "HEAD:main"])?;
    ensure!(refused.code != 0, "{}", refused.all());
    for word in ["locked", "by tester", "database-moves", "apps:unlock"] {
        ensure!(refused.all().contains(word), "{word} is not in: {}", refused.all());
    }
    for refused in [&["ps:rebuild", app][..], &["rollback", app, "v1"]] {
        let refused = berth.berth(refused)?;
        ensure!(refused.code == 1 && refused.stderr.contains("locked"), "{}", refused.all());
    }
    ensure!(berth.get(app, "/")?.text() == "hello one", "nothing was deployed");
    berth.ok(&["ps:restart", app])?;
    berth.ok(&["apps:unlock", app])?;
    ensure!(berth.berth(&["apps:locked", app])?.code == 1, "open again");
    repo.push()?;
    ensure!(berth.get(app, "/")?.text() == "hello two", "deployed");
    Ok(())
}

/// The digest of an app's newest release, and what it says of itself.
fn newest(berth: &Berth, app: &str) -> Result<(String, Value)> {
    let list: Value = serde_json::from_str(&berth.ok(&["releases", app, "--format", "json"])?.stdout)?;
    let image = list[0]["image"].as_str().context("a release")?;
    let digest = image.split_once('@').context("a digest")?.1;
    Ok((digest.to_owned(), list[0].clone()))
}

fn cloned(berth: &Berth) -> Result<()> {
    let (app, copy) = ("clone-origin", "clone-copy");
    push(berth, app)?;
    berth.ok(&["config:set", app, "GREETING=hi"])?;
    berth.ok(&["domains:add", app, "www.clone.example.test"])?;
    berth.ok(&["storage:mount", app, "clone-data:/data"])?;
    berth.ok(&["resource:limit", "--memory", "300", app])?;
    berth.ok(&["ps:scale", app, "worker=1"])?;
    let made = berth.ok(&["apps:clone", app, copy])?;
    ensure!(made.stdout.contains("clone-copy.clone-data"), "what it does without: {}", made.all());
    ensure!(berth.get(copy, "/")?.text() == "hi one", "config and code");
    let ((digest, _), (same, release)) = (newest(berth, app)?, newest(berth, copy)?);
    ensure!(digest == same && release["version"] == 1, "{release}");
    ensure!(
        release["description"].as_str().is_some_and(|text| text.contains("Clone of clone-origin")),
        "{release}"
    );
    ensure!(pids(berth, copy, "worker")?.len() == 1, "the formation");
    let one = &inspect(berth, copy)?[0];
    ensure!(one["limits"]["memory_mib"] == 300, "{one}");
    ensure!(one["mounts"][0]["source"] == "clone-copy.clone-data", "a volume of its own: {one}");
    let domains = berth.ok(&["domains:report", copy])?.stdout;
    ensure!(!domains.contains("www.clone"), "{domains}");
    berth.ok(&["ps:rebuild", copy])?;
    ensure!(berth.get(copy, "/")?.text() == "hi one", "its code is its own");
    let taken = berth.berth(&["apps:clone", app, copy])?;
    ensure!(taken.code == 1 && taken.stderr.contains("exists"), "{}", taken.all());
    berth.ok(&["apps:clone", "--ignore-existing", app, copy])?;
    // The original goes; the clone's image is its own.
    let gone = berth.ok(&["--force", "apps:destroy", app])?;
    ensure!(gone.stdout.contains("clone-data"), "what stays is said: {}", gone.all());
    berth.ok(&["cleanup"])?;
    berth.ok(&["ps:restart", copy])?;
    ensure!(berth.get(copy, "/")?.text() == "hi one", "it needs nothing of the original");

    let later = "clone-later";
    berth.over_ssh(&["apps:clone", "--skip-deploy", copy, later])?.success()?;
    ensure!(berth.pids(later)?.is_empty(), "not started");
    berth.ok(&["ps:start", later])?;
    ensure!(berth.get(later, "/")?.text() == "hi one", "started");
    Ok(())
}

fn ended(berth: &mut Berth) -> Result<()> {
    let app = "review-origin";
    push_server(berth, app, "one", &[REQUIREMENTS])?;
    for clone in ["review-1", "review-2"] {
        berth.ok(&["apps:clone", "--ttl", "1h", app, clone])?;
    }
    ensure!(berth.get("review-1", "/")?.status == 200, "it serves");
    berth.ok(&["apps:set", "review-1", "ttl", "10s"])?;
    berth.kill(Role::Controller)?;
    berth.until_ready()?;
    until(Duration::from_secs(40), "it to be destroyed", || {
        ensure!(berth.berth(&["apps:exists", "review-1"])?.code == 20, "there it is");
        Ok(())
    })?;
    until(Duration::from_secs(20), "its route to be gone", || {
        ensure!(berth.get("review-1", "/").is_err(), "somebody answers");
        Ok(())
    })?;
    until(Duration::from_secs(20), "it to be told", || {
        let events = berth.ok(&["events", "--app", "review-1"])?.stdout;
        ensure!(events.contains("its time to live is over"), "{events}");
        Ok(())
    })?;
    ensure!(berth.get("review-2", "/")?.status == 200, "the other has an hour");
    berth.ok(&["apps:set", "review-2", "ttl"])?;
    let end = berth.ok(&["apps:report", "review-2", "--app-destroyed-at"])?.stdout;
    ensure!(end.trim().is_empty(), "{end}");
    for app in [app, "review-2"] {
        berth.ok(&["--force", "apps:destroy", app])?;
    }
    Ok(())
}

fn no_autocreation(berth: &mut Berth) -> Result<()> {
    berth.ok(&["apps:set", "--global", "disable-autocreation", "true"])?;
    let refused = push_server(berth, "uncreated", "one", &[]).err().context("the push went through")?;
    let text = format!("{refused:#}");
    ensure!(text.contains("does not exist") && text.contains("apps:create"), "{text}");
    berth.ok(&["apps:set", "--global", "disable-autocreation"])?;
    push_server(berth, "uncreated", "one", &[])?;
    berth.ok(&["--force", "apps:destroy", "uncreated"])?;
    Ok(())
}
