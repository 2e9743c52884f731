//! A page for Prometheus, in its text format 0.0.4.
//!
//! In: what is known now. Out: families of `berth_…`; labels are names that Berth has checked, so nothing has to be escaped but
//! what a node calls itself.

use super::Metrics;
use crate::platform::{Platform, now_ms};
use berth_model::metrics::Usage;
use berth_model::traffic::LATENCY_BOUNDS_US;
use std::fmt::Write;

/// Upper bounds of the histogram, in microseconds: some of those that are counted, so every count is exact.
const BOUNDS_US: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
    }

    fn bare(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name} {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Microseconds as seconds.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// The whole page.
pub(crate) async fn page(platform: &Platform) -> String {
    let metrics = platform.metrics();
    let mut page = Page(String::new());
    containers(&mut page, &metrics.now(None, now_ms()));
    requests(&mut page, metrics);
    apps(&mut page, platform).await;
    nodes(&mut page, platform);
    page.family(
        "berth_drain_lines_total",
        "counter",
        "Lines of logs that a drain sent or left out since its node's agent started.",
    );
    for (id, nodes) in metrics.drains() {
        for (node, status) in nodes {
            for (result, count) in [("sent", status.sent), ("dropped", status.dropped)] {
                let labels =
                    format!("drain=\"{id}\",node=\"{}\",result=\"{result}\"", escaped(node.as_str()));
                page.value("berth_drain_lines_total", &labels, count);
            }
        }
    }
    page.family("berth_events_total", "counter", "Events recorded.");
    page.bare("berth_events_total", *platform.events().newest().borrow());
    page.family("berth_build_info", "gauge", "Which Berth this is.");
    page.value("berth_build_info", &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1);
    page.0
}

fn containers(page: &mut Page, usages: &[Usage]) {
    type Family = (&'static str, &'static str, &'static str, fn(&Usage) -> Option<String>);
    let families: [Family; 11] = [
        ("berth_container_cpu_seconds_total", "counter", "CPU time used.", |u| {
            Some(seconds(u.counters.cpu_us))
        }),
        ("berth_container_memory_bytes", "gauge", "Memory in use, without reclaimable cache.", |u| {
            Some(u.counters.memory_bytes.to_string())
        }),
        ("berth_container_memory_limit_bytes", "gauge", "Memory limit.", |u| {
            u.counters.memory_limit_bytes.map(|limit| limit.to_string())
        }),
        ("berth_container_pids", "gauge", "Processes and threads.", |u| Some(u.counters.pids.to_string())),
        ("berth_container_oom_kills_total", "counter", "Processes killed for want of memory.", |u| {
            Some(u.counters.oom_kills.to_string())
        }),
        ("berth_container_network_receive_bytes_total", "counter", "Bytes received.", |u| {
            Some(u.counters.net_received.to_string())
        }),
        ("berth_container_network_transmit_bytes_total", "counter", "Bytes sent.", |u| {
            Some(u.counters.net_sent.to_string())
        }),
        ("berth_container_io_read_bytes_total", "counter", "Bytes read from disks.", |u| {
            u.counters.io_read.map(|bytes| bytes.to_string())
        }),
        ("berth_container_io_written_bytes_total", "counter", "Bytes written to disks.", |u| {
            u.counters.io_written.map(|bytes| bytes.to_string())
        }),
        ("berth_container_restarts", "gauge", "Starts again after the first.", |u| {
            Some(u.restarts.to_string())
        }),
        ("berth_container_up", "gauge", "A container that runs.", |_| Some("1".to_owned())),
    ];
    for (name, kind, help, of) in families {
        page.family(name, kind, help);
        for usage in usages {
            let Some(value) = of(usage) else { continue };
            let labels = format!(
                "app=\"{}\",process=\"{}\",ordinal=\"{}\",container=\"{}\",node=\"{}\"",
                usage.app,
                usage.process,
                usage.ordinal,
                usage.container,
                escaped(usage.node.as_str())
            );
            page.value(name, &labels, value);
        }
    }
}

fn requests(page: &mut Page, metrics: &Metrics) {
    let counts = metrics.state().counts.clone();
    page.family(
        "berth_app_requests_total",
        "counter",
        "Requests that ended, by the first digit of their status; `none` had no answer.",
    );
    for (app, counts) in &counts {
        for (class, count) in ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(counts.answers) {
            page.value("berth_app_requests_total", &format!("app=\"{app}\",status=\"{class}\""), count);
        }
    }
    page.family("berth_app_received_bytes_total", "counter", "Bytes of request bodies and tunnels.");
    for (app, counts) in &counts {
        page.value("berth_app_received_bytes_total", &format!("app=\"{app}\""), counts.received);
    }
    page.family("berth_app_sent_bytes_total", "counter", "Bytes of answers and tunnels.");
    for (app, counts) in &counts {
        page.value("berth_app_sent_bytes_total", &format!("app=\"{app}\""), counts.sent);
    }
    page.family("berth_app_request_latency_seconds_bucket", "counter", "Requests that took at most so long.");
    for (app, counts) in &counts {
        let mut sum = 0;
        let mut bounds = BOUNDS_US.iter().peekable();
        for (bucket, held) in counts.latencies.0.iter().enumerate() {
            sum += held;
            let upper = LATENCY_BOUNDS_US.get(bucket);
            if let (Some(upper), Some(bound)) = (upper, bounds.peek())
                && upper == *bound
            {
                let labels = format!(
                    "app=\"{app}\",le=\"{}\"",
                    seconds(*upper).trim_end_matches('0').trim_end_matches('.')
                );
                page.value("berth_app_request_latency_seconds_bucket", &labels, sum);
                bounds.next();
            }
        }
        page.value("berth_app_request_latency_seconds_bucket", &format!("app=\"{app}\",le=\"+Inf\""), sum);
    }
}

async fn apps(page: &mut Page, platform: &Platform) {
    let Ok(apps) = platform.apps().await else { return };
    page.family("berth_app_containers", "gauge", "Containers that are to serve, and those that do.");
    for app in &apps {
        let plan = platform.deploys().plan(&app.name);
        let wanted = plan.serving().count();
        let running = plan.serving().filter(|(id, _)| {
            let status = platform.deploys().fleet().status(id);
            status.is_some_and(|s| matches!(s.state, berth_model::container::ContainerState::Running { .. }))
        });
        let running = running.count();
        for (state, count) in [("wanted", wanted), ("running", running)] {
            page.value("berth_app_containers", &format!("app=\"{}\",state=\"{state}\"", app.name), count);
        }
    }
    page.family("berth_app_release", "gauge", "The number of the release that serves.");
    for app in &apps {
        if let Some(version) = app.current {
            page.value("berth_app_release", &format!("app=\"{}\"", app.name), version.0);
        }
    }
}

fn nodes(page: &mut Page, platform: &Platform) {
    page.family("berth_node_up", "gauge", "Whether a node reported lately.");
    for node in platform.deploys().fleet().nodes() {
        let labels = format!("node=\"{}\"", escaped(node.name.as_str()));
        page.value("berth_node_up", &labels, u8::from(node.alive));
    }
    page.family("berth_node_disk_bytes", "gauge", "Space of the file system of a node's data directory.");
    for disk in platform.metrics().disks() {
        for (state, bytes) in [("total", disk.total), ("free", disk.free)] {
            let labels = format!("node=\"{}\",state=\"{state}\"", escaped(disk.node.as_str()));
            page.value("berth_node_disk_bytes", &labels, bytes);
        }
    }
}
