//! Runs a proxy alone from `DIR/proxy/table.json`: `serve DIR ADDRESS [THREADS [HTTPS_ADDRESS]]`. Metrics are at
//! `BERTH_METRICS` if that is set. For development and benchmarks; ends
//! at SIGTERM or SIGINT after draining.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let data = arguments.next().context("usage: serve DIR ADDRESS [THREADS [HTTPS_ADDRESS]]")?.into();
    let http = arguments.next().context("usage: serve DIR ADDRESS [THREADS [HTTPS_ADDRESS]]")?.parse()?;
    let threads = arguments.next().map(|text| text.parse()).transpose()?;
    let https = arguments.next().map(|text| text.parse()).transpose()?;
    let node = berth_model::NodeName::parse("local")?;
    let metrics = std::env::var("BERTH_METRICS").ok().map(|text| text.parse()).transpose()?;
    let access_log = berth_model::route::AccessLogFormat::default();
    let options =
        berth_proxy::Options { data, node, http, https, take_over: false, threads, metrics, access_log };
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = stop.clone();
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
            if let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            told.cancel();
        });
    });
    berth_proxy::run(options, stop)
}
