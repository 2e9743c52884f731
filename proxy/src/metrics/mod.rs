//! Metrics for Prometheus: what the proxy counted since it started, in the text format or OpenMetrics.
//!
//! In: the counts of all threads, summed when somebody asks. Out: a page of families, each with a bounded number of
//! series: labels are apps that have a route, status codes with a name, and words of this program.

mod serve;
mod text;

pub(crate) use serve::serve;

use crate::access_log::Lost;
use crate::stats::Totals;
use crate::table::Target;
use crate::worker::{Shared, Worker};
use berth_model::traffic::Latencies;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use text::{Kind, Page};

/// Where the counts are.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) shared: Arc<Shared>,
    /// Weak: the log ends when the last worker is gone, whoever looks.
    pub(crate) workers: Vec<Weak<Worker>>,
    pub(crate) lost: Arc<Lost>,
    /// Seconds since the Unix epoch.
    pub(crate) started: u64,
}

/// Upper bounds of the histograms, in microseconds: some of those that are counted, so every count is exact.
const BOUNDS_US: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Name, help, and where a family's values are.
type Family<G> = (&'static str, &'static str, G);
type Counter = fn(&Totals) -> u64;
/// And their sum in microseconds.
type Durations = fn(&Totals) -> (&Latencies, u64);

/// The whole page; `open` in OpenMetrics 1.0.0, else in the text format 0.0.4.
pub(crate) fn render(source: &Source, open: bool) -> String {
    let mut page = Page::new(open);
    requests(source, &mut page);
    backends(source, &mut page);
    connections(source, &mut page);
    rest(source, &mut page);
    page.finish()
}

fn requests(source: &Source, page: &mut Page) {
    let table = source.shared.table.load_full();
    let apps: Vec<(&str, Totals)> =
        table.stats.iter().filter_map(|(app, stats)| Some((app.as_str(), stats.totals()?))).collect();
    page.family(
        "berth_proxy_requests",
        Kind::Counter,
        "Requests that ended, by app, status and whether the method is safe (GET, HEAD, OPTIONS).",
    );
    for (app, totals) in &apps {
        for (safe, code, count) in totals.answers() {
            let method = if safe { "safe" } else { "unsafe" };
            page.sample("_total", &[("app", app), ("code", &code), ("method", method)], count);
        }
    }
    let durations: [Family<Durations>; 2] = [
        (
            "berth_proxy_request_duration_seconds",
            "From the end of a request's head to the end of its answer.",
            |totals| (&totals.total, totals.total_us),
        ),
        (
            "berth_proxy_first_byte_seconds",
            "From the end of a request's head to the first byte of the app's answer.",
            |totals| (&totals.first, totals.first_us),
        ),
    ];
    for (name, help, get) in durations {
        page.family(name, Kind::Histogram, help);
        for (app, totals) in &apps {
            let (latencies, sum_us) = get(totals);
            page.histogram(app, latencies, &BOUNDS_US, sum_us);
        }
    }
    let counters: [Family<Counter>; 5] = [
        ("berth_proxy_received_bytes", "Bytes of request bodies, and from clients through tunnels.", |t| {
            t.received
        }),
        ("berth_proxy_sent_bytes", "Bytes of answers, and to clients through tunnels.", |t| t.sent),
        ("berth_proxy_aborted", "Answers that were cut short.", |t| t.aborted),
        ("berth_proxy_retries", "Further attempts after the first, of all requests.", |t| t.retries),
        ("berth_proxy_connect_failures", "Connections to containers that could not be made.", |t| {
            t.connect_failures
        }),
    ];
    for (name, help, get) in counters {
        page.family(name, Kind::Counter, help);
        for (app, totals) in &apps {
            page.sample("_total", &[("app", app)], get(totals));
        }
    }
    page.family("berth_proxy_in_flight", Kind::Gauge, "Requests and tunnels under way.");
    for (app, totals) in &apps {
        page.sample("", &[("app", app)], totals.in_flight());
    }
}

fn backends(source: &Source, page: &mut Page) {
    let table = source.shared.table.load_full();
    // Several hosts lead to the same containers: each counts once.
    let mut seen = HashMap::new();
    for route in table.routes() {
        if let Target::Backends(backends) = &route.target {
            for backend in backends {
                seen.insert(Arc::as_ptr(backend), (route.app.as_str(), backend));
            }
        }
    }
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (app, backend) in seen.values() {
        let (all, ejected) = counts.entry(app).or_default();
        *all += 1;
        *ejected += u64::from(backend.is_ejected());
    }
    page.family("berth_proxy_backends", Kind::Gauge, "Containers that requests are sent to.");
    for (app, (all, _)) in &counts {
        page.sample("", &[("app", app)], *all);
    }
    page.family(
        "berth_proxy_backends_ejected",
        Kind::Gauge,
        "Those of them that are passed over for a while: they refused connections or died under a request.",
    );
    for (app, (_, ejected)) in &counts {
        page.sample("", &[("app", app)], *ejected);
    }
}

fn connections(source: &Source, page: &mut Page) {
    let meters = &source.shared.meters;
    let workers = source.workers.iter().filter_map(Weak::upgrade);
    let (mut open, mut tunnels) = (0, 0);
    for (more, more_tunnels) in workers.map(|worker| worker.open()) {
        open += more as u64;
        tunnels += more_tunnels as u64;
    }
    page.family("berth_proxy_connections", Kind::Gauge, "Clients' connections that are open.");
    page.sample("", &[], open);
    page.family("berth_proxy_tunnels", Kind::Gauge, "Those of them that are WebSockets or raw TCP.");
    page.sample("", &[], tunnels);
    let sum = |get: fn(&crate::meter::Meter) -> u64| meters.iter().map(get).sum::<u64>();
    page.family("berth_proxy_accepted", Kind::Counter, "Clients' connections that were accepted.");
    page.sample("_total", &[], sum(|meter| meter.accepted.get()));
    page.family("berth_proxy_tls_handshakes", Kind::Counter, "TLS handshakes with clients.");
    for (result, count) in [
        ("full", sum(|meter| meter.tls_full.get())),
        ("resumed", sum(|meter| meter.tls_resumed.get())),
        ("failed", sum(|meter| meter.tls_failed.get())),
    ] {
        page.sample("_total", &[("result", result)], count);
    }
    page.family("berth_proxy_unknown_host", Kind::Counter, "Requests for a host that no app has.");
    page.sample("_total", &[], sum(|meter| meter.unknown_hosts.get()));
    let mut refusals: BTreeMap<(u16, &str), u64> = BTreeMap::new();
    for (key, count) in meters.iter().flat_map(crate::meter::Meter::refusals) {
        *refusals.entry(key).or_default() += count;
    }
    page.family(
        "berth_proxy_refused",
        Kind::Counter,
        "Requests that were refused before they were any app's.",
    );
    for ((status, reason), count) in refusals {
        let code = if status == 0 { "none".to_owned() } else { status.to_string() };
        page.sample("_total", &[("code", &code), ("reason", reason)], count);
    }
}

fn rest(source: &Source, page: &mut Page) {
    let table = source.shared.table.load_full();
    page.family("berth_proxy_routes_revision", Kind::Gauge, "Revision of the route table that is served.");
    page.sample("", &[], table.revision);
    page.family("berth_proxy_routes_age_seconds", Kind::Gauge, "How long it is served.");
    page.sample("", &[], source.shared.table_age().as_secs());
    page.family("berth_proxy_hosts", Kind::Gauge, "Host names that lead to an app.");
    page.sample("", &[], table.hosts() as u64);
    page.family(
        "berth_proxy_log_lines_dropped",
        Kind::Counter,
        "Access log lines that never reached the disk.",
    );
    page.sample("_total", &[], source.lost.lines());
    page.family("berth_proxy_threads", Kind::Gauge, "Threads that serve.");
    page.sample("", &[], source.shared.threads as u64);
    page.family("process_start_time_seconds", Kind::Gauge, "When the proxy started, since the Unix epoch.");
    page.sample("", &[], source.started);
    if let Some(bytes) = resident_bytes() {
        page.family("process_resident_memory_bytes", Kind::Gauge, "Memory the proxy holds.");
        page.sample("", &[], bytes);
    }
    page.info("berth_build", "Which Berth this is.", &[("version", env!("CARGO_PKG_VERSION"))]);
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::traffic::LATENCY_BOUNDS_US;

    #[test]
    fn every_bound_is_one_that_is_counted() {
        assert!(BOUNDS_US.iter().all(|bound| LATENCY_BOUNDS_US.contains(bound)));
    }
}
