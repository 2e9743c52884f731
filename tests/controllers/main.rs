//! Several controllers over a real etcd of three members: `cargo test -p berth-tests --test controllers [FILTER]`.
//!
//! What docs/cluster/control-plane.md promises when one of them dies, is stopped, or has the wrong files. Each test has an etcd
//! and controllers of its own; no agents, so no containers.

mod locked;
mod plant;

use anyhow::{Context, Result, ensure};
use berth_tests::until;
use nix::sys::signal::Signal;
use plant::{Controller, Etcd, apps, berth, call, create, files};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Three controllers of one platform; the first leads.
fn three(etcd: &Etcd, name: &str, dir: &std::path::Path, lease: u8) -> Result<Vec<Controller>> {
    let store = Some((etcd.url(name), files(dir)?));
    let mut first = Controller::new(store.clone())?;
    first.lease = lease;
    first.begin()?;
    first.until_it_leads()?;
    let mut all = vec![first];
    for _ in 0..2 {
        let mut next = Controller::new(store.clone())?;
        next.lease = lease;
        next.take_key(&all[0])?;
        next.begin()?;
        until(Duration::from_secs(60), "a controller that follows", || {
            ensure!(!next.leads()?, "it leads");
            Ok(())
        })
        .with_context(|| next.log())?;
        all.push(next);
    }
    ensure!(all[0].leads()?, "the first leads no more: {}", all[0].log());
    Ok(all)
}

/// Users that make apps through every door, one after the other.
struct Stream {
    stop: Arc<AtomicBool>,
    made: Arc<Mutex<Vec<(Instant, String)>>>,
    users: Vec<std::thread::JoinHandle<()>>,
}

impl Stream {
    fn start(doors: &[SocketAddr], token: &str) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let users = doors.iter().enumerate().map(|(user, door)| {
            let (stop, made, token, door) = (stop.clone(), made.clone(), token.to_owned(), *door);
            std::thread::spawn(move || {
                for number in 0_u32.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("u{user}-{number}");
                    match create(door, &token, &name) {
                        Ok(true) => made.lock().expect("no panic").push((Instant::now(), name)),
                        // Nobody there: not to ask ten thousand times a second.
                        Ok(false) | Err(_) => std::thread::sleep(Duration::from_millis(20)),
                    }
                }
            })
        });
        Self { users: users.collect(), stop, made }
    }

    fn count(&self) -> usize {
        self.made.lock().expect("no panic").len()
    }

    /// Waits until so many more are acknowledged.
    fn go_on(&self, more: usize, limit: Duration) -> Result<()> {
        let before = self.count();
        until(limit, "writes to be acknowledged", || {
            ensure!(self.count() >= before + more, "{} of {more} so far", self.count() - before);
            Ok(())
        })
    }

    fn end(self) -> Vec<(Instant, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.users.into_iter().for_each(|user| user.join().expect("no panic"));
        Arc::into_inner(self.made).expect("users have ended").into_inner().expect("no panic")
    }
}

fn note(text: &str) {
    // Into the log of the run, whether it passes or not.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[test]
fn kill_9_of_the_leader_under_writes_loses_nothing_and_another_leads_within_seconds() -> Result<()> {
    let (etcd, dir) = (Etcd::start()?, tempfile::tempdir()?);
    let mut all = three(&etcd, "killed", dir.path(), 5)?;
    let token = all[0].token("stream")?;
    let doors: Vec<_> = all.iter().map(|one| one.api).collect();
    let stream = Stream::start(&doors[1..], &token);
    stream.go_on(60, Duration::from_secs(60))?;
    let killed = Instant::now();
    all[0].process.as_mut().context("it runs")?.kill();
    stream.go_on(60, Duration::from_secs(60))?;
    let made = stream.end();
    let again = made.iter().map(|(at, _)| *at).filter(|at| *at > killed + Duration::from_millis(500)).min();
    let pause = again.context("writes went on")?.duration_since(killed);
    note(&format!("kill -9 of the leader: acknowledged again after {:.1} s", pause.as_secs_f64()));
    ensure!(pause < Duration::from_secs(15), "it took {pause:?}");
    all[0].begin()?;
    until(Duration::from_secs(60), "the killed one to follow", || {
        ensure!(!all[0].leads()?, "it leads");
        Ok(())
    })?;
    for door in &doors {
        let found = apps(*door, &token)?;
        let lost: Vec<_> = made.iter().filter(|(_, name)| !found.contains(name)).collect();
        ensure!(lost.is_empty(), "of {} acknowledged, lost: {lost:?}", made.len());
    }
    let leaders = all.iter().filter(|one| one.leads().unwrap_or(false)).count();
    ensure!(leaders == 1, "{leaders} lead");
    Ok(())
}

#[test]
fn a_member_of_etcd_that_dies_is_not_missed_and_without_most_of_them_it_is_said() -> Result<()> {
    let (mut etcd, dir) = (Etcd::start()?, tempfile::tempdir()?);
    let mut all = three(&etcd, "members", dir.path(), 5)?;
    let token = all[0].token("stream")?;
    let doors: Vec<_> = all.iter().map(|one| one.api).collect();
    let stream = Stream::start(&doors, &token);
    stream.go_on(40, Duration::from_secs(60))?;
    let (mut longest, mut revived) = (Duration::ZERO, 0);
    for index in 0..3 {
        let (begun, before) = (Instant::now(), stream.count());
        etcd.members[index] = None;
        until(Duration::from_secs(60), "writes to go on", || {
            revived += revive(&mut all)?;
            ensure!(stream.count() > before + 20);
            Ok(())
        })?;
        longest = longest.max(begun.elapsed());
        etcd.begin(index)?;
        stream.go_on(20, Duration::from_secs(60))?;
    }
    let seconds = longest.as_secs_f64();
    note(&format!(
        "kill -9 of a member of etcd: 20 more writes after {seconds:.1} s, {revived} leaders ended"
    ));
    etcd.members[0] = None;
    etcd.members[1] = None;
    until(Duration::from_secs(60), "an answer that says so", || {
        revive(&mut all)?;
        let begun = Instant::now();
        let reply = call(doors[1], &token, "POST", "/v1/apps", Some("{\"name\":\"never\"}"));
        ensure!(begun.elapsed() < Duration::from_secs(21), "bounded");
        let reply = reply?;
        ensure!(reply.status == 503, "{}: {}", reply.status, reply.text());
        let text = reply.text();
        ensure!(text.contains("no controller leads") || text.contains("does not answer"), "{text}");
        Ok(())
    })?;
    etcd.begin(0)?;
    etcd.begin(1)?;
    let before = stream.count();
    until(Duration::from_secs(60), "writes to go on by themselves", || {
        revive(&mut all)?;
        ensure!(stream.count() > before + 10);
        Ok(())
    })?;
    let made = stream.end();
    let found = until(Duration::from_secs(30), "a list", || apps(doors[2], &token))?;
    let lost: Vec<_> = made.iter().filter(|(_, name)| !found.contains(name)).collect();
    ensure!(lost.is_empty(), "of {} acknowledged, lost: {lost:?}", made.len());
    Ok(())
}

/// Starts those again that have ended by themselves; gives how many.
fn revive(all: &mut [Controller]) -> Result<usize> {
    all.iter_mut().try_fold(0, |count, one| Ok(count + usize::from(one.revive()?)))
}

#[test]
fn a_leader_that_was_stopped_for_longer_than_its_lease_writes_nothing_stale() -> Result<()> {
    let (etcd, dir) = (Etcd::start()?, tempfile::tempdir()?);
    let mut all = three(&etcd, "stopped", dir.path(), 10)?;
    let token = all[0].token("stream")?;
    ensure!(create(all[0].api, &token, "before")?, "acknowledged");
    let old = all[0].process.as_ref().context("it runs")?;
    old.signal(Signal::SIGSTOP)?;
    // Asked while it was stopped: the kernel takes the connection, and it reads this when it wakes.
    let asked: Vec<_> = (0..8)
        .map(|number| {
            let (to, token) = (all[0].api, token.clone());
            std::thread::spawn(move || create(to, &token, &format!("stale-{number}")))
        })
        .collect();
    until(Duration::from_secs(60), "another to lead", || {
        ensure!(all[1].leads()? || all[2].leads()?, "nobody leads");
        Ok(())
    })?;
    ensure!(create(all[2].api, &token, "after")?, "acknowledged by the new leader");
    let woken = Instant::now();
    all[0].process.as_ref().context("it runs")?.signal(Signal::SIGCONT)?;
    let code = all[0].process.as_mut().context("it runs")?.ended(Duration::from_secs(15))?;
    note(&format!("SIGCONT: the old leader ended after {:.2} s", woken.elapsed().as_secs_f64()));
    ensure!(code != 0, "it ends with an error");
    ensure!(all[0].log().contains("another may lead"), "{}", all[0].log());
    for one in asked {
        let answer = one.join().expect("no panic");
        ensure!(!answer.unwrap_or(false), "a stale leader acknowledged a write");
    }
    let found = apps(all[1].api, &token)?;
    ensure!(!found.iter().any(|name| name.starts_with("stale")), "{found:?}");
    ensure!(["before", "after"].iter().all(|name| found.iter().any(|one| one == name)), "{found:?}");
    Ok(())
}

#[test]
fn every_door_leads_to_the_leader_with_its_own_keys() -> Result<()> {
    let (etcd, dir) = (Etcd::start()?, tempfile::tempdir()?);
    let mut all = three(&etcd, "doors", dir.path(), 10)?;
    let token = all[0].token("doors")?;
    let host_key = |one: &Controller| -> Result<String> {
        let port = one.ssh.port().to_string();
        let scan = std::process::Command::new("ssh-keyscan")
            .args(["-T", "20", "-t", "ed25519", "-p", &port, "127.0.0.1"])
            .output()?;
        let text = String::from_utf8(scan.stdout)?;
        text.split_whitespace().last().map(str::to_owned).context("no host key")
    };
    let certificate = |one: &Controller| -> Result<String> {
        let shown = std::process::Command::new("openssl")
            .args(["s_client", "-connect", &one.api.to_string()])
            .stdin(std::process::Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let begin = text.find("-----BEGIN CERTIFICATE").context("no certificate")?;
        let end = text.find("-----END CERTIFICATE").context("no certificate")?;
        Ok(text[begin..end].to_owned())
    };
    let (key, shown) = (host_key(&all[0])?, certificate(&all[0])?);
    for one in &all[1..] {
        ensure!(host_key(one)? == key && certificate(one)? == shown, "a door of another house");
        let said = one.command(&["apps:list"]).expect_err("it follows").to_string();
        ensure!(said.contains("leads and this controller") && said.contains("ssh -p"), "{said}");
    }
    ensure!(all[2].command(&["controller:list"])?.contains("leads"), "it says who");
    // One that is told to end hands over at once.
    let begun = Instant::now();
    all[0].process.as_ref().context("it runs")?.signal(Signal::SIGTERM)?;
    ensure!(all[0].process.as_mut().context("it runs")?.ended(Duration::from_secs(20))? == 0);
    until(Duration::from_secs(20), "another to lead", || {
        ensure!(all[1].leads()? || all[2].leads()?, "nobody leads");
        Ok(())
    })?;
    note(&format!("SIGTERM of the leader: another led after {:.1} s", begun.elapsed().as_secs_f64()));
    for one in &all[1..] {
        ensure!(host_key(one)? == key && certificate(one)? == shown, "the next leader has other keys");
        ensure!(create(one.api, &token, &format!("via-{}", one.api.port()))?, "writes through every door");
    }
    Ok(())
}

#[test]
fn a_controller_with_another_key_or_other_files_does_not_lead() -> Result<()> {
    let (etcd, dir) = (Etcd::start()?, tempfile::tempdir()?);
    let (url, shared) = (etcd.url("unfit"), files(dir.path())?);
    let mut first = Controller::new(Some((url.clone(), shared.clone())))?;
    first.begin()?;
    first.until_it_leads()?;
    let mut keyless = Controller::new(Some((url.clone(), shared)))?;
    keyless.begin()?;
    ensure!(keyless.process.as_mut().context("it runs")?.ended(Duration::from_secs(20))? != 0);
    ensure!(keyless.log().contains("sealed with another key"), "{}", keyless.log());
    let elsewhere = tempfile::tempdir()?;
    let mut fileless = Controller::new(Some((url, files(elsewhere.path())?)))?;
    fileless.take_key(&first)?;
    fileless.begin()?;
    ensure!(fileless.process.as_mut().context("it runs")?.ended(Duration::from_secs(20))? != 0);
    ensure!(fileless.log().contains("mount the same one"), "{}", fileless.log());
    Ok(())
}

#[test]
fn a_platform_moves_to_etcd_and_back() -> Result<()> {
    let (etcd, dir) = (Etcd::start()?, tempfile::tempdir()?);
    let mut alone = Controller::new(None)?;
    alone.begin()?;
    let token = until(Duration::from_secs(60), "a controller", || alone.token("move"))?;
    for name in ["one", "two", "three"] {
        ensure!(create(alone.api, &token, name)?, "acknowledged");
    }
    alone.command(&["config:set", "one", "SECRET=kept"])?;
    let copy = |words: &[&str], data: &std::path::Path| -> Result<std::process::Output> {
        Ok(berth()?.arg("store:copy").arg("--data").arg(data).args(words).output()?)
    };
    let url = etcd.url("moved");
    let running = copy(&["--to", &url], alone.data.path())?;
    ensure!(!running.status.success(), "a running controller's store is not copied");
    alone.process.as_ref().context("it runs")?.signal(Signal::SIGTERM)?;
    alone.process.as_mut().context("it runs")?.ended(Duration::from_secs(20))?;
    let copied = copy(&["--to", &url], alone.data.path())?;
    ensure!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let twice = copy(&["--to", &url], alone.data.path())?;
    ensure!(String::from_utf8_lossy(&twice.stderr).contains("holds a platform already"), "{twice:?}");

    let mut over = Controller::new(Some((url.clone(), files(dir.path())?)))?;
    over.take_key(&alone)?;
    over.begin()?;
    over.until_it_leads()?;
    let mut found = apps(over.api, &token)?;
    found.sort();
    ensure!(found == ["one", "three", "two"], "{found:?}");
    ensure!(over.command(&["config:get", "one", "SECRET"])?.trim() == "kept", "the value is there");
    ensure!(create(over.api, &token, "four")?, "acknowledged");
    let back = Controller::new(None)?;
    back.take_key(&over)?;
    let led = copy(&["--from", &url], back.data.path())?;
    ensure!(String::from_utf8_lossy(&led.stderr).contains("stop every controller"), "{led:?}");
    over.process.as_ref().context("it runs")?.signal(Signal::SIGTERM)?;
    over.process.as_mut().context("it runs")?.ended(Duration::from_secs(20))?;
    let copied = copy(&["--from", &url], back.data.path())?;
    ensure!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let mut back = back;
    back.begin()?;
    let found = until(Duration::from_secs(60), "the controller", || apps(back.api, &token))?;
    ensure!(found.len() == 4, "{found:?}");
    ensure!(back.command(&["config:get", "one", "SECRET"])?.trim() == "kept", "the value is there");
    Ok(())
}
