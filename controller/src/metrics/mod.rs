//! What apps use, now and lately.
//!
//! In: [`Samples`] of the nodes every few seconds, [`TrafficReport`]s of the proxies. Out: [`Usage`] of each container,
//! [`MetricPoint`]s of each app: 10 s each for an hour in memory, 1 min each for a day in a SQLite file of their own; a page for
//! Prometheus ([`text`]). An app that neither runs nor is asked has no points and costs nothing.

mod minutes;
mod text;

pub(crate) use text::page;

use crate::Platform;
use crate::traffic::Histories;
use berth_model::metrics::{AppMetrics, MetricPoint, Sample, Samples, Usage};
use berth_model::traffic::{Latencies, TrafficReport};
use berth_model::{AppName, ContainerId, NodeName};
use minutes::Minutes;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Seconds of a point.
const SPAN: i64 = 10;
/// Points in memory: an hour.
const KEPT: usize = 360;
/// A node's samples are of no use after this long, in milliseconds.
const STALE_MS: i64 = 20_000;

/// All of it. One for the whole controller.
#[derive(Debug)]
pub struct Metrics {
    state: Mutex<State>,
    minutes: Arc<Minutes>,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<NodeName, Samples>,
    usage: BTreeMap<ContainerId, Usage>,
    points: BTreeMap<AppName, VecDeque<MetricPoint>>,
    counts: BTreeMap<AppName, Counts>,
    /// When an app last ran out of memory; milliseconds since the Unix epoch.
    out_of_memory: BTreeMap<AppName, i64>,
}

/// What proxies told of an app since the controller started.
#[derive(Clone, Debug, Default)]
struct Counts {
    answers: [u64; 6],
    received: u64,
    sent: u64,
    latencies: Latencies,
}

/// A disk of a node.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) node: NodeName,
    pub(crate) total: u64,
    pub(crate) free: u64,
}

impl Metrics {
    /// Opens or makes the file of the minutes; one that is damaged is begun anew. Blocks.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self { state: Mutex::default(), minutes: Arc::new(Minutes::open(path)?) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Figures are right after any panic, or as good as that.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a node's samples; gives the apps that ran out of memory since the last.
    pub fn take(&self, samples: Samples, now_ms: i64) -> Vec<AppName> {
        let mut guard = self.state();
        let state = &mut *guard;
        let before = state.nodes.remove(&samples.node);
        let mut out_of_memory = Vec::new();
        if let Some(before) = &before {
            for (app, count) in &samples.out_of_memory {
                if before.out_of_memory.get(app).copied().unwrap_or(0) < *count {
                    out_of_memory.push(app.clone());
                }
            }
        }
        state.usage.retain(|_, usage| usage.node != samples.node);
        for (id, sample) in &samples.containers {
            let earlier = before.as_ref().and_then(|before| {
                let same =
                    before.containers.get(id).filter(|earlier| earlier.incarnation == sample.incarnation)?;
                Some((same, samples.at_ms - before.at_ms))
            });
            if let Some((earlier, _)) = earlier
                && earlier.counters.oom_kills < sample.counters.oom_kills
                && !out_of_memory.contains(&sample.app)
            {
                out_of_memory.push(sample.app.clone());
            }
            state.usage.insert(id.clone(), usage(id, &samples.node, sample, earlier));
        }
        for app in &out_of_memory {
            state.out_of_memory.insert(app.clone(), now_ms);
        }
        state.nodes.insert(samples.node.clone(), samples);
        out_of_memory
    }

    /// Counts what a proxy told.
    pub fn count(&self, report: &TrafficReport) {
        let mut state = self.state();
        for (app, traffic) in &report.apps {
            let counts = state.counts.entry(app.clone()).or_default();
            for (own, more) in counts.answers.iter_mut().zip(traffic.answers) {
                *own = own.saturating_add(more);
            }
            counts.received = counts.received.saturating_add(traffic.received);
            counts.sent = counts.sent.saturating_add(traffic.sent);
            counts.latencies.add(&traffic.latency);
        }
    }

    /// What the containers of an app, or of all, use now.
    #[must_use]
    pub fn now(&self, app: Option<&AppName>, now_ms: i64) -> Vec<Usage> {
        let state = self.state();
        let fresh = |usage: &&Usage| {
            state.nodes.get(&usage.node).is_some_and(|samples| now_ms - samples.at_ms < STALE_MS)
        };
        let wanted = |usage: &&Usage| app.is_none_or(|app| usage.app == *app);
        let mut found: Vec<Usage> = state.usage.values().filter(wanted).filter(fresh).cloned().collect();
        found.sort_by(|a, b| (&a.app, &a.process, a.ordinal).cmp(&(&b.app, &b.process, b.ordinal)));
        found
    }

    /// All there is of an app.
    pub async fn of(&self, app: &AppName, now_ms: i64) -> AppMetrics {
        let tens = self.state().points.get(app).map(|points| points.iter().cloned().collect());
        let (minutes, name) = (self.minutes.clone(), app.clone());
        let read = tokio::task::spawn_blocking(move || minutes.of(&name)).await;
        AppMetrics {
            app: app.clone(),
            now: self.now(Some(app), now_ms),
            tens: tens.unwrap_or_default(),
            minutes: read.unwrap_or_default(),
        }
    }

    /// How drains do, by id and node.
    #[must_use]
    pub fn drains(&self) -> BTreeMap<String, BTreeMap<NodeName, berth_model::logs::DrainStatus>> {
        let mut all: BTreeMap<String, BTreeMap<NodeName, _>> = BTreeMap::new();
        for (node, samples) in &self.state().nodes {
            for (id, status) in &samples.drains {
                all.entry(id.clone()).or_default().insert(node.clone(), status.clone());
            }
        }
        all
    }

    /// The nodes' disks.
    pub(crate) fn disks(&self) -> Vec<Disk> {
        let state = self.state();
        let known = state.nodes.values().filter(|samples| samples.disk_total > 0);
        known
            .map(|samples| Disk {
                node: samples.node.clone(),
                total: samples.disk_total,
                free: samples.disk_free,
            })
            .collect()
    }

    /// Apps that ran out of memory after `since_ms`.
    pub(crate) fn out_of_memory(&self, since_ms: i64) -> Vec<AppName> {
        let state = self.state();
        state.out_of_memory.iter().filter(|(_, at)| **at > since_ms).map(|(app, _)| app.clone()).collect()
    }

    /// The app is gone; another of its name begins anew.
    pub fn forget(&self, app: &AppName) {
        let mut state = self.state();
        state.points.remove(app);
        state.counts.remove(app);
        state.out_of_memory.remove(app);
        drop(state);
        let (minutes, app) = (self.minutes.clone(), app.clone());
        tokio::task::spawn_blocking(move || minutes.forget(&app));
    }

    /// Makes the points that end at `now` (seconds).
    fn tick(&self, traffic: &Histories, now: i64) -> Vec<(AppName, MetricPoint)> {
        let mut points: BTreeMap<AppName, MetricPoint> = BTreeMap::new();
        for usage in self.now(None, now * 1000) {
            let point = points.entry(usage.app.clone()).or_default();
            point.containers += 1;
            point.cpu_millis += usage.cpu_millis;
            point.memory_bytes += usage.counters.memory_bytes;
            point.net_in += usage.net_in;
            point.net_out += usage.net_out;
            point.io_in += usage.io_in;
            point.io_out += usage.io_out;
        }
        for shown in traffic.all(now) {
            let Ok(app) = AppName::parse(&shown.app) else { continue };
            let got = shown.now;
            if got.requests == 0 {
                continue;
            }
            let point = points.entry(app).or_default();
            point.requests = got.requests;
            (point.success, point.redirect) = (got.success, got.redirect);
            (point.client_error, point.server_error) = (got.client_error, got.server_error + got.none);
            (point.p50_us, point.p95_us, point.p99_us) = (got.p50_us, got.p95_us, got.p99_us);
        }
        let at = now - SPAN;
        let mut state = self.state();
        for (app, point) in &mut points {
            point.at = at;
            let kept = state.points.entry(app.clone()).or_default();
            kept.push_back(point.clone());
        }
        state.points.retain(|_, kept| {
            while kept.len() > KEPT || kept.front().is_some_and(|first| first.at < now - 3600) {
                kept.pop_front();
            }
            !kept.is_empty()
        });
        // Minutes that have just ended.
        if now.rem_euclid(60) >= SPAN {
            return Vec::new();
        }
        let minute = now - now.rem_euclid(60) - 60;
        let whole = state.points.iter().filter_map(|(app, kept)| {
            let of_minute: Vec<&MetricPoint> =
                kept.iter().filter(|point| (minute..minute + 60).contains(&(point.at + SPAN / 2))).collect();
            Some((app.clone(), together(minute, &of_minute)?))
        });
        let mut whole: Vec<_> = whole.collect();
        drop(state);
        for (app, point) in &mut whole {
            // The proxies' own minute has percentiles of all its requests.
            if let Some(own) = traffic.of(app, now).minutes.iter().find(|own| own.at == minute) {
                (point.p50_us, point.p95_us, point.p99_us) = (own.p50_us, own.p95_us, own.p99_us);
            }
        }
        whole
    }
}

/// Several points as one.
fn together(at: i64, points: &[&MetricPoint]) -> Option<MetricPoint> {
    let count = u64::try_from(points.len()).ok().filter(|count| *count > 0)?;
    let sum = |of: fn(&MetricPoint) -> u64| points.iter().map(|point| of(point)).fold(0, u64::saturating_add);
    let mean = |of: fn(&MetricPoint) -> u64| sum(of) / count;
    let most = |of: fn(&MetricPoint) -> Option<u64>| points.iter().filter_map(|point| of(point)).max();
    Some(MetricPoint {
        at,
        containers: points.iter().map(|point| point.containers).max().unwrap_or(0),
        cpu_millis: mean(|point| point.cpu_millis),
        memory_bytes: points.iter().map(|point| point.memory_bytes).max().unwrap_or(0),
        net_in: mean(|point| point.net_in),
        net_out: mean(|point| point.net_out),
        io_in: mean(|point| point.io_in),
        io_out: mean(|point| point.io_out),
        requests: sum(|point| point.requests),
        success: sum(|point| point.success),
        redirect: sum(|point| point.redirect),
        client_error: sum(|point| point.client_error),
        server_error: sum(|point| point.server_error),
        p50_us: most(|point| point.p50_us),
        p95_us: most(|point| point.p95_us),
        p99_us: most(|point| point.p99_us),
    })
}

fn usage(id: &ContainerId, node: &NodeName, sample: &Sample, earlier: Option<(&Sample, i64)>) -> Usage {
    let rate = |now: u64, before: fn(&Sample) -> u64| {
        let Some((earlier, ms)) = earlier.filter(|(_, ms)| *ms > 0) else { return 0 };
        let ms = u128::try_from(ms).unwrap_or(1);
        u64::try_from(u128::from(now.saturating_sub(before(earlier))) * 1000 / ms).unwrap_or(u64::MAX)
    };
    let own = &sample.counters;
    Usage {
        app: sample.app.clone(),
        process: sample.process.clone(),
        ordinal: sample.ordinal,
        container: id.clone(),
        node: node.clone(),
        // Microseconds a second are millionths of a CPU.
        cpu_millis: rate(own.cpu_us, |sample| sample.counters.cpu_us) / 1000,
        net_in: rate(own.net_received, |sample| sample.counters.net_received),
        net_out: rate(own.net_sent, |sample| sample.counters.net_sent),
        io_in: rate(own.io_read.unwrap_or(0), |sample| sample.counters.io_read.unwrap_or(0)),
        io_out: rate(own.io_written.unwrap_or(0), |sample| sample.counters.io_written.unwrap_or(0)),
        counters: own.clone(),
        restarts: sample.incarnation.saturating_sub(1),
    }
}

/// Makes points until `stop`.
pub(crate) async fn run(platform: Platform, stop: CancellationToken) {
    loop {
        let now_ms = crate::platform::now_ms();
        let until = u64::try_from(SPAN * 1000 - now_ms.rem_euclid(SPAN * 1000)).unwrap_or(1000);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(until)) => {}
        }
        // To the nearest: the timer may be a little early.
        let now = (crate::platform::now_ms() + 500) / 1000;
        let whole = platform.metrics().tick(platform.traffic(), now);
        if !whole.is_empty() {
            let minutes = platform.metrics().minutes.clone();
            let _ = tokio::task::spawn_blocking(move || minutes.add(&whole, now)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::ProcessType;
    use berth_model::metrics::Counters;

    fn samples(at_ms: i64, incarnation: u32, cpu_us: u64, oom_kills: u64) -> Samples {
        let sample = Sample {
            app: AppName::parse("a").expect("valid"),
            process: ProcessType::web(),
            ordinal: 1,
            incarnation,
            counters: Counters {
                cpu_us,
                memory_bytes: 7,
                net_sent: cpu_us,
                oom_kills,
                ..Counters::default()
            },
        };
        Samples {
            node: NodeName::parse("n").expect("valid"),
            at_ms,
            containers: BTreeMap::from([(ContainerId::parse("a.web.1.x").expect("valid"), sample)]),
            drains: BTreeMap::new(),
            out_of_memory: BTreeMap::new(),
            disk_total: 100,
            disk_free: 50,
        }
    }

    #[tokio::test]
    async fn rates_come_of_two_samples_and_a_restart_begins_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let metrics = Metrics::open(&dir.path().join("metrics.db")).expect("opens");
        const T: i64 = 1_700_000_040_000;
        metrics.take(samples(T, 1, 1_000_000, 0), T);
        assert_eq!(metrics.now(None, T)[0].cpu_millis, 0);
        assert!(metrics.take(samples(T + 5000, 1, 3_500_000, 0), T + 5000).is_empty());
        let now = metrics.now(None, T + 5000);
        assert_eq!((now[0].cpu_millis, now[0].net_out), (500, 500_000));
        assert_eq!(metrics.take(samples(T + 10_000, 1, 3_500_000, 1), T + 10_000).len(), 1);
        assert_eq!(metrics.out_of_memory(T).len(), 1);
        metrics.take(samples(T + 15_000, 2, 10, 0), T + 15_000);
        let now = metrics.now(None, T + 15_000);
        assert_eq!((now[0].cpu_millis, now[0].restarts), (0, 1));
        assert!(metrics.now(None, T + 15_000 + STALE_MS).is_empty());
    }

    #[tokio::test]
    async fn minutes_outlive_the_controller() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("metrics.db");
        let app = AppName::parse("a").expect("valid");
        let now = crate::platform::now_ms() / 60_000 * 60;
        {
            let metrics = Metrics::open(&path).expect("opens");
            let traffic = Histories::default();
            for step in (-50..=0).step_by(10) {
                metrics.take(samples((now + step) * 1000, 1, 0, 0), 0);
                let whole = metrics.tick(&traffic, now + step);
                metrics.minutes.add(&whole, now);
            }
            assert_eq!(metrics.of(&app, now * 1000).await.tens.len(), 6);
        }
        let metrics = Metrics::open(&path).expect("opens again");
        let shown = metrics.of(&app, now * 1000).await;
        assert_eq!((shown.tens.len(), shown.minutes.len()), (0, 1), "{shown:?}");
        assert_eq!((shown.minutes[0].memory_bytes, shown.minutes[0].at), (7, now - 60));
        std::fs::write(&path, b"no database at all, but long enough to be looked at".repeat(50))
            .expect("written");
        drop(metrics);
        assert!(Metrics::open(&path).is_ok());
    }
}
