//! What may die without anyone noticing: every process of Berth, at any moment.

use crate::apps::{push_server, server};
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Census, Role, until};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::io::Read;
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[(&str, crate::RoughScenario)] = &[
    ("killing_each_process_under_load_loses_no_container_and_no_request", kill_each),
    ("berth_up_may_stop_and_start_while_apps_serve", up_again),
    ("an_upgrade_of_every_process_under_load_loses_no_request", upgrade),
    ("killing_at_random_points_during_deploys_keeps_every_promise", random_kills),
    ("deploy_and_destroy_cycles_leak_nothing", cycles),
    ("cleanup_removes_what_nobody_needs_and_nothing_else", cleanup),
];

fn kill_each(berth: &mut Berth) -> Result<()> {
    let app = "steady";
    let repo = push_server(berth, app, "one", &[])?;
    berth.ok(&["ps:scale", app, "web=2"])?;
    let pids = berth.pids(app)?;
    for role in [Role::Controller, Role::Agent, Role::Proxy, Role::Shims] {
        let load = berth.load(app, 3);
        until(Duration::from_secs(10), "load", || {
            ensure!(load.answered() > 50, "none yet");
            Ok(())
        })?;
        berth.kill(role)?;
        berth.until_ready()?;
        let answered = load.answered();
        until(Duration::from_secs(10), "answers after the kill", || {
            ensure!(load.answered() > answered + 50, "no more");
            Ok(())
        })?;
        let report = load.finish();
        // A killed proxy takes the requests it held with it (at most one a user); nothing else may fail.
        let allowed = if role == Role::Proxy { 3 } else { 0 };
        ensure!(report.failures.len() <= allowed, "{role:?}: {:?}", report.failures);
        let now = until(Duration::from_secs(10), "the agent's report", || {
            let now = berth.pids(app)?;
            ensure!(now.len() == 2, "{now:?}");
            Ok(now)
        })?;
        ensure!(pids == now, "{role:?}: containers were lost: {pids:?} then {now:?}");
    }
    repo.change(&[("server.py", &server("two"))])?;
    ensure!(berth.get(app, "/")?.text() == "hello two", "and deploys go on");
    Ok(())
}

fn up_again(berth: &mut Berth) -> Result<()> {
    let app = "patient";
    push_server(berth, app, "one", &[])?;
    let pids = berth.pids(app)?;
    berth.down()?;
    for pid in &pids {
        kill(Pid::from_raw(*pid), None).context("the app must run while Berth is down")?;
    }
    berth.up()?;
    berth.until_says(app, "hello one")?;
    ensure!(berth.pids(app)? == pids, "the same processes");
    berth.kill(Role::Up)?;
    berth.up()?;
    berth.until_says(app, "hello one")?;
    ensure!(berth.pids(app)? == pids, "the same processes after kill -9 of berth up");
    Ok(())
}

fn upgrade(berth: &mut Berth) -> Result<()> {
    let app = "renewed";
    let repo = push_server(berth, app, "one", &[])?;
    berth.ok(&["ps:scale", app, "web=2"])?;
    let pids = berth.pids(app)?;
    for _ in 0..2 {
        let load = berth.load(app, 4);
        let answers = |more: u64| {
            let before = load.answered();
            until(Duration::from_secs(10), "answers", || {
                ensure!(load.answered() > before + more, "none yet");
                Ok(())
            })
        };
        answers(50)?;
        berth.renew()?;
        answers(200)?;
        let report = load.finish();
        ensure!(report.failures.is_empty(), "{:?}", report.failures);
        ensure!(report.longest_gap < Duration::from_secs(1), "a user waited {:?}", report.longest_gap);
        ensure!(berth.pids(app)? == pids, "the same containers");
    }
    let load = berth.load(app, 2);
    repo.change(&[("server.py", &server("two"))])?;
    ensure!(berth.get(app, "/")?.text() == "hello two", "and deploys go on");
    let report = load.finish();
    ensure!(report.failures.is_empty(), "{:?}", report.failures);
    Ok(())
}

/// A small generator (xorshift64*), so that a failing run can be repeated with `BERTH_TEST_SEED`.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn random_kills(berth: &mut Berth) -> Result<()> {
    let app = "rattled";
    let seed = number("BERTH_TEST_SEED", u64::from(std::process::id()) | 1);
    let mut random = Random(seed);
    let repo = push_server(berth, app, "0", &[])?;
    for round in 1..=number("BERTH_TEST_KILLS", 8) {
        let version = round.to_string();
        repo.write(&[("server.py", &server(&version))])?;
        repo.commit(&version)?;
        let push = repo
            .command(&["push", "-f", "paas", "main"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        let after = Duration::from_millis(random.below(1500));
        let role =
            [Role::Controller, Role::Agent, Role::Proxy, Role::Shims][usize::try_from(random.below(4))?];
        let begun = Instant::now();
        until(Duration::from_secs(5), "the moment", || {
            ensure!(begun.elapsed() >= after, "not yet");
            Ok(())
        })?;
        berth.kill(role)?;
        let output = push.wait_with_output()?;
        let context = format!(
            "seed {seed}, round {round}: {role:?} killed after {after:?}; push: {} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        berth.until_ready().with_context(|| context.clone())?;
        let text = until(Duration::from_secs(30), "old or new version to answer", || {
            let reply = berth.get(app, "/")?;
            ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
            Ok(reply.text())
        })
        .with_context(|| context.clone())?;
        if output.status.success() {
            ensure!(
                text == format!("hello {version}"),
                "an acknowledged push is not served: {text}; {context}"
            );
        }
        // What was interrupted is finished or undone: exactly one container serves, none is left over.
        until(Duration::from_secs(90), "one container", || {
            let containers = berth.containers(app)?;
            ensure!(containers.len() == 1, "{containers:?}");
            Ok(())
        })
        .with_context(|| context.clone())?;
        let releases = berth.ok(&["releases", app, "--format", "json"])?.stdout;
        ensure!(!releases.contains("\"pending\""), "{context}\n{releases}");
    }
    repo.change(&[("server.py", &server("last"))])?;
    berth.until_says(app, "hello last")?;
    Ok(())
}

fn cycles(berth: &mut Berth) -> Result<()> {
    // One before counting: things made once (bridge, table, cgroup root) are no leak.
    let cycle = |berth: &Berth| -> Result<()> {
        let _repo = push_server(berth, "cycle", "one", &[])?;
        ensure!(berth.get("cycle", "/")?.status == 200, "it answers");
        berth.ok(&["apps:destroy", "cycle", "--force"])?;
        Ok(())
    };
    cycle(berth)?;
    let settled = |berth: &Berth, before: &Census| {
        until(Duration::from_secs(60), "everything to be given back", || {
            let extra = Census::take(berth)?.beyond(before);
            ensure!(extra.is_empty(), "{extra}");
            Ok(())
        })
    };
    let before = until(Duration::from_secs(60), "the first cycle to be over", || {
        let census = Census::take(berth)?;
        ensure!(!census.containers.iter().any(|name| name.starts_with("cycle.")), "{:?}", census.containers);
        Ok(census)
    })?;
    for _ in 0..number("BERTH_TEST_CYCLES", 20) {
        cycle(berth)?;
    }
    settled(berth, &before)
}

fn cleanup(berth: &mut Berth) -> Result<()> {
    let registry = berth.data_dir().join("controller/registry");
    let size = || -> Result<u64> {
        let output = std::process::Command::new("du").args(["-sk"]).arg(&registry).output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text.split_whitespace().next().context("du says nothing")?.parse()?)
    };
    let stays = push_server(berth, "stays", "one", &[])?;
    stays.change(&[("server.py", &server("two"))])?;
    let before = size()?;
    let goes = push_server(berth, "goes", "one", &[])?;
    // Not compressible, so that it can be seen to go.
    let mut noise = std::fs::File::open("/dev/urandom")?.take(8_000_000);
    std::io::copy(&mut noise, &mut std::fs::File::create(goes.path().join("noise.bin"))?)?;
    goes.commit("noise")?;
    goes.push()?;
    ensure!(size()? > before + 4000, "the image is in the registry");
    berth.ok(&["apps:destroy", "goes", "--force"])?;
    let young = berth.ok(&["cleanup", "--format", "json"])?.stdout;
    ensure!(young.contains("\"bytes\": 0") || young.contains("\"bytes\":0"), "what is young stays: {young}");
    // Two hours later.
    let aged = std::process::Command::new("find")
        .arg(&registry)
        .args(["-exec", "touch", "-h", "-d", "2 hours ago", "{}", "+"])
        .status()?;
    ensure!(aged.success(), "find failed");
    let said = berth.ok(&["cleanup"])?.stdout;
    ensure!(said.contains("MiB freed") && !said.contains(" 0 MiB freed"), "{said}");
    ensure!(size()? < before + 2000, "its layers are gone");
    ensure!(berth.get("stays", "/")?.text() == "hello two", "others run on");
    berth.ok(&["rollback", "stays"])?;
    ensure!(berth.get("stays", "/")?.text() == "hello one", "and can be rolled back");
    stays.change(&[("server.py", &server("three"))])?;
    berth.until_says("stays", "hello three")?;
    Ok(())
}
