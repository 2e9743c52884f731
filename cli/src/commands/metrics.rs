//! `ps:top` and `metrics`: what containers use now, and what apps used lately.
//!
//! In: figures of the API. Out: tables.

use super::not_here;
use crate::args::{command, option, switch};
use crate::context::{Context, none_left};
use crate::error::Result;
use crate::output::table;
use berth_model::metrics::{AppMetrics, MetricPoint, Usage};
use clap::{ArgMatches, Command};
use std::time::Duration;

/// Between two tables; nodes report as often.
const REFRESH: Duration = Duration::from_secs(5);

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "ps:top",
            "Show CPU, memory, network and disk use of containers",
            "[<app>] [-t]",
            &["ps:top", "ps:top hello", "ps:top hello --format json"],
        )
        .visible_alias("top")
        .arg(switch("watch", "Show it again every 5 seconds").short('t').visible_alias("tail")),
        command(
            "metrics",
            "Show what an app used and got lately",
            "[<app>] [-n COUNT] [--hour]",
            &["metrics hello", "metrics hello -n 60", "metrics hello --hour --format json"],
        )
        .arg(
            option("num", "COUNT", "How many points back [default: 15]")
                .short('n')
                .value_parser(clap::value_parser!(u16).range(1..=1440)),
        )
        .arg(switch("hour", "Points of 10 seconds, of the last hour; else of a minute, of the last day")),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "ps:top" => top(context, matches).await,
        "metrics" => metrics(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn top(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.some_app(matches, false).await?;
    none_left(&rest)?;
    let path = app.map_or_else(|| "/v1/top".to_owned(), |app| format!("/v1/top?app={app}"));
    loop {
        let usages: Vec<Usage> = context.get(&path).await?;
        let watch = matches.get_flag("watch");
        if context.out.json {
            if !watch {
                return context.out.json(&usages);
            }
            context.out.json_line(&usages)?;
        } else {
            let titles = [
                "container",
                "cpu",
                "memory",
                "limit",
                "pids",
                "net in/s",
                "net out/s",
                "disk r/s",
                "disk w/s",
                "restarts",
                "node",
            ];
            let mut rows = vec![titles.map(str::to_owned).to_vec()];
            rows.extend(usages.iter().map(row));
            table(&rows).iter().try_for_each(|line| context.out.line(line))?;
            if !watch {
                return Ok(());
            }
            context.out.line("")?;
        }
        tokio::time::sleep(REFRESH).await;
    }
}

fn row(usage: &Usage) -> Vec<String> {
    let counters = &usage.counters;
    let disk = |rate: u64, known: Option<u64>| known.map_or("-".to_owned(), |_| size(rate));
    vec![
        format!("{}.{}.{}", usage.app, usage.process, usage.ordinal),
        percent(usage.cpu_millis),
        size(counters.memory_bytes),
        counters.memory_limit_bytes.map_or("-".to_owned(), size),
        counters.pids.to_string(),
        size(usage.net_in),
        size(usage.net_out),
        disk(usage.io_in, counters.io_read),
        disk(usage.io_out, counters.io_written),
        usage.restarts.to_string(),
        usage.node.to_string(),
    ]
}

async fn metrics(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let metrics: AppMetrics = context.get(&format!("/v1/apps/{app}/metrics")).await?;
    if context.out.json {
        return context.out.json(&metrics);
    }
    let hour = matches.get_flag("hour");
    let points = if hour { &metrics.tens } else { &metrics.minutes };
    let count = usize::from(matches.get_one::<u16>("num").copied().unwrap_or(15));
    let span = if hour { 10 } else { 60 };
    context.out.header(&format!("Metrics of {app}, {span} s a line"))?;
    if points.is_empty() {
        crate::output::say("There is nothing yet: the first minute has to pass, with a container that runs");
        return Ok(());
    }
    let titles = [
        "time",
        "running",
        "cpu",
        "memory",
        "net in/s",
        "net out/s",
        "req/s",
        "4xx",
        "5xx",
        "p50",
        "p95",
        "p99",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(points.iter().skip(points.len().saturating_sub(count)).map(|point| point_row(point, span)));
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

fn point_row(point: &MetricPoint, span: u64) -> Vec<String> {
    let latency =
        |us: Option<u64>| us.map_or("-".to_owned(), |us| format!("{}.{}ms", us / 1000, us % 1000 / 100));
    let tenths = point.requests * 10 / span;
    let time = jiff::Timestamp::from_second(point.at);
    vec![
        time.map_or("-".to_owned(), |time| time.strftime("%H:%M:%S").to_string()),
        point.containers.to_string(),
        percent(point.cpu_millis),
        size(point.memory_bytes),
        size(point.net_in),
        size(point.net_out),
        format!("{}.{}", tenths / 10, tenths % 10),
        point.client_error.to_string(),
        point.server_error.to_string(),
        latency(point.p50_us),
        latency(point.p95_us),
        latency(point.p99_us),
    ]
}

/// Of one CPU.
fn percent(millis: u64) -> String {
    format!("{}.{}%", millis / 10, millis % 10)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes}B"),
        1_024..1_048_576 => format!("{}K", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{}.{}M", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
        _ => format!("{}.{}G", bytes >> 30, (((bytes >> 10) & 0xf_ffff) * 10) >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!([size(7), size(2048), size(1_572_864), size(3 << 29)], ["7B", "2K", "1.5M", "1.5G"]);
        assert_eq!([percent(5), percent(1234)], ["0.5%", "123.4%"]);
    }
}
