//! Clients of every host's proxy at once, that keep asking while something happens.
//!
//! In: proxies, a host name, how many users, and for how long at most. Out: how many requests were sent, which replica
//! answered, from which proxy, and each that was lost: when, where and why. A request is lost if it is not answered with
//! 200 within [`PATIENCE`]. Bounded: each user asks at most [`MOST`] times and stops by itself after [`LONGEST`].

use super::switch::Switch;
use crate::http::{self, Request};
use crate::until;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long answers are waited for.
const SOON: Duration = Duration::from_secs(60);
/// Requests of one user.
const MOST: u64 = 100_000;
/// Life of one user.
const LONGEST: Duration = Duration::from_secs(300);
/// Losses that are described; more are counted.
const DESCRIBED: usize = 2_000;

/// When one replica answered.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// For the first time.
    pub first: Instant,
    /// For the last time.
    pub last: Instant,
    /// How often.
    pub times: u64,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct SwarmReport {
    /// Requests sent, by proxy.
    pub sent: BTreeMap<SocketAddr, u64>,
    /// Requests that were answered with 200.
    pub answered: u64,
    /// The same by who answered: the body.
    pub by: BTreeMap<String, Answer>,
    /// Requests that were not: when they were sent, to which proxy, why (at most 2,000 of them).
    pub lost: Vec<(Instant, SocketAddr, String)>,
    /// How many those were.
    pub lost_count: u64,
    /// The longest that an answered request took.
    pub slowest: Duration,
}

impl SwarmReport {
    /// Losses of requests sent at `since` or later, of those that are described.
    #[must_use]
    pub fn lost_since(&self, since: Instant) -> usize {
        self.lost.iter().filter(|(sent, _, _)| *sent >= since).count()
    }

    /// Losses in one line: how many, of what kind, and how long ago the first and the last of a kind were sent.
    #[must_use]
    pub fn losses(&self) -> String {
        let mut kinds: BTreeMap<String, (usize, Instant, Instant)> = BTreeMap::new();
        for (at, proxy, why) in &self.lost {
            let kind = kinds.entry(format!("{}: {why}", proxy.ip())).or_insert((0, *at, *at));
            *kind = (kind.0 + 1, kind.1, *at);
        }
        let mut text = format!("{} of {} lost", self.lost_count, self.sent.values().sum::<u64>());
        for (kind, (times, first, last)) in kinds {
            let ago = |at: Instant| at.elapsed().as_secs_f64();
            text.push_str(&format!("; {times} × {kind} ({:.1} to {:.1} s ago)", ago(first), ago(last)));
        }
        text
    }

    /// Who answered at `since` or later for the first time.
    #[must_use]
    pub fn newcomers(&self, since: Instant) -> Vec<(&str, Instant)> {
        let new = self.by.iter().filter(|(_, answer)| answer.first >= since);
        new.map(|(who, answer)| (who.as_str(), answer.first)).collect()
    }
}

/// The clients, at work.
pub struct Swarm {
    stop: Arc<AtomicBool>,
    users: Vec<JoinHandle<()>>,
    report: Arc<Mutex<SwarmReport>>,
}

impl Swarm {
    /// `users` clients at the switch for each proxy, each with a connection that it keeps, ask for `/` of `host_name`
    /// once every `pace`.
    pub fn start(
        switch: &Arc<Switch>,
        proxies: &[SocketAddr],
        host_name: &str,
        users: usize,
        pace: Duration,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(SwarmReport::default()));
        let each = proxies.iter().flat_map(|proxy| std::iter::repeat_n(*proxy, users.min(16)));
        let users = each.map(|proxy| {
            let (switch, stop, report) = (switch.clone(), stop.clone(), report.clone());
            let host_name = host_name.to_owned();
            std::thread::spawn(move || {
                if let Err(error) = switch.enter() {
                    lose(&report, Instant::now(), proxy, format!("{error:#}"));
                    return;
                }
                user(proxy, &host_name, pace, &stop, &report);
            })
        });
        let users = users.collect();
        Self { stop, users, report }
    }

    /// What is known so far.
    #[must_use]
    pub fn so_far(&self) -> SwarmReport {
        self.report.lock().map(|report| report.clone()).unwrap_or_default()
    }

    /// Waits until so many replicas have answered.
    pub fn until_from(&self, replicas: usize) -> Result<()> {
        until(SOON, "each replica to answer", || {
            let report = self.so_far();
            ensure!(report.by.len() == replicas, "{:?} of {replicas}; {}", report.by.keys(), report.losses());
            Ok(())
        })
    }

    /// Waits for so many more answers.
    pub fn until_more(&self, answers: u64) -> Result<()> {
        let before = self.so_far().answered;
        until(SOON, "more answers", || {
            let report = self.so_far();
            ensure!(
                report.answered >= before + answers,
                "{} since; {}",
                report.answered - before,
                report.losses()
            );
            Ok(())
        })
    }

    /// Ends it.
    #[must_use]
    pub fn finish(mut self) -> SwarmReport {
        self.end();
        self.so_far()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for user in self.users.drain(..) {
            let _ = user.join(); // one that panicked was not counted as answered
        }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.end();
    }
}

fn lose(report: &Mutex<SwarmReport>, sent: Instant, proxy: SocketAddr, why: String) {
    let Ok(mut report) = report.lock() else { return };
    report.lost_count += 1;
    if report.lost.len() < DESCRIBED {
        report.lost.push((sent, proxy, why));
    }
}

fn user(proxy: SocketAddr, host_name: &str, pace: Duration, stop: &AtomicBool, report: &Mutex<SwarmReport>) {
    let begun = Instant::now();
    let (mut kept, mut sent) = (None, 0);
    while !stop.load(Ordering::Relaxed) && sent < MOST && begun.elapsed() < LONGEST {
        let asked = Instant::now();
        let reused = kept.is_some();
        let outcome = (|| -> Result<_> {
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => http::connect(proxy, PATIENCE)?,
            };
            let reply = http::exchange(&mut stream, &Request::get(host_name, "/"))?;
            if reply.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
                kept = Some(stream);
            }
            Ok(reply)
        })();
        // RFC 9112 §9.3.1: a client repeats an idempotent request when its idle connection was closed under it. One that
        // was kept waiting is lost all the same.
        if reused && outcome.is_err() && asked.elapsed() < PATIENCE / 2 {
            continue;
        }
        sent += 1;
        let took = asked.elapsed();
        {
            let Ok(mut report) = report.lock() else { return };
            *report.sent.entry(proxy).or_default() += 1;
            if let Ok(reply) = &outcome
                && reply.status == 200
                && took <= PATIENCE
            {
                report.answered += 1;
                report.slowest = report.slowest.max(took);
                let now = Instant::now();
                let who = report.by.entry(reply.text()).or_insert(Answer { first: now, last: now, times: 0 });
                (who.last, who.times) = (now, who.times + 1);
            }
        }
        match outcome {
            Ok(reply) if reply.status == 200 && took <= PATIENCE => {}
            Ok(reply) => {
                let text: String = reply.text().chars().take(80).collect();
                lose(report, asked, proxy, format!("{} {text}", reply.status));
            }
            Err(error) => lose(report, asked, proxy, format!("{error:#}")),
        }
        std::thread::sleep(pace.saturating_sub(took)); // the users' pace, not a wait for anything
    }
}
