//! Users that keep asking while something happens.

use crate::http::{self, Request};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Requests under way in the background.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    report: Arc<Mutex<LoadReport>>,
}

/// How the requests went.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Answered with the expected status.
    pub answered: u64,
    /// Each that was not: when (since the start), and why.
    pub failures: Vec<(Duration, String)>,
    /// The longest time between two answers of one user.
    pub longest_gap: Duration,
    /// Bodies seen, each once, in the order of their first sight (at most 32).
    pub bodies: Vec<String>,
}

impl Load {
    /// `users` threads, each with a keep-alive connection, ask for `/` of `host` about every 4 ms until
    /// [`Load::finish`]. A user whose connection was closed between two requests opens another, as browsers do.
    #[must_use]
    pub fn start(to: SocketAddr, host: &str, users: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(LoadReport::default()));
        let threads = (0..users)
            .map(|_| {
                let (stop, report, host) = (stop.clone(), report.clone(), host.to_owned());
                std::thread::spawn(move || user(to, &host, &stop, &report))
            })
            .collect();
        Self { stop, threads, report }
    }

    /// How many were answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.report.lock().map_or(0, |report| report.answered)
    }

    /// Ends the load and tells how it went.
    #[must_use]
    pub fn finish(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A panicking user thread has a failure of its own to show.
            if thread.join().is_err()
                && let Ok(mut report) = self.report.lock()
            {
                report.failures.push((Duration::ZERO, "a user thread panicked".into()));
            }
        }
        self.report.lock().map(|report| report.clone()).unwrap_or_default()
    }
}

fn user(to: SocketAddr, host: &str, stop: &AtomicBool, report: &Mutex<LoadReport>) {
    let begun = Instant::now();
    let mut connection = None;
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let reused = connection.is_some();
        let outcome = (|| {
            let mut stream = match connection.take() {
                Some(stream) => stream,
                None => http::connect(to, Duration::from_secs(20))?,
            };
            let reply = http::exchange(&mut stream, &Request::get(host, "/"))?;
            if reply.headers.get("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
                connection = Some(stream);
            }
            anyhow::Ok(reply)
        })();
        // RFC 9112 §9.3.1: a client repeats an idempotent request when its idle connection was closed under it.
        if reused && outcome.is_err() {
            continue;
        }
        let Ok(mut report) = report.lock() else { return };
        match outcome {
            Ok(reply) if reply.status == 200 => {
                report.answered += 1;
                let body = reply.text();
                if report.bodies.len() < 32 && !report.bodies.contains(&body) {
                    report.bodies.push(body);
                }
            }
            Ok(reply) => {
                let text: String = reply.text().chars().take(80).collect();
                report.failures.push((begun.elapsed(), format!("{} {text}", reply.status)));
            }
            Err(error) => report.failures.push((begun.elapsed(), format!("{error:#}"))),
        }
        report.longest_gap = report.longest_gap.max(last.elapsed());
        drop(report);
        last = Instant::now();
        std::thread::sleep(Duration::from_millis(4)); // the users' pace, not a wait for anything
    }
}
