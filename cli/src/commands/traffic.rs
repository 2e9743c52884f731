//! `proxy:logs` and `proxy:stats`: who asks what of the apps, and how they answer.
//!
//! In: the access log's lines, live counts. Out: the lines as they are, with control characters written out; a table.

use super::not_here;
use crate::args::{command, option, switch};
use crate::context::{Context, none_left};
use crate::error::Result;
use crate::output::table;
use berth_model::traffic::{Traffic, TrafficNow, TrafficPoint};
use clap::{Arg, ArgMatches, Command};

/// Minutes shown of one app.
const MINUTES: usize = 10;

pub(super) fn commands() -> Vec<Command> {
    let count = || -> Arg {
        option("num", "COUNT", "How many lines back [default: 100]")
            .short('n')
            .value_parser(clap::value_parser!(u32).range(0..=10_000))
    };
    let tail = || switch("tail", "Go on showing new ones").short('t');
    vec![
        command(
            "proxy:logs",
            "Show the requests of an app, or of all, or follow them",
            "[<app>] [-t] [-n COUNT] [--errors]",
            &["proxy:logs hello", "proxy:logs hello -t", "proxy:logs --errors -n 500"],
        )
        .visible_aliases(["nginx:access-logs", "proxy:access-logs"])
        .args([
            tail(),
            count(),
            switch("errors", "Only those that failed: 5xx, no answer, or cut short"),
        ]),
        command(
            "proxy:error-logs",
            "The same, only requests that failed",
            "[<app>] [-t] [-n COUNT]",
            &["proxy:error-logs hello -t"],
        )
        .visible_alias("nginx:error-logs")
        .args([tail(), count()]),
        command(
            "proxy:stats",
            "Show requests a second, how they were answered, and how fast",
            "[<app>] [-t]",
            &["proxy:stats", "proxy:stats hello -t", "proxy:stats hello --format json"],
        )
        .arg(switch("tail", "Show the app's last second, every second").short('t')),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "proxy:logs" => logs(context, matches, matches.get_flag("errors")).await,
        "proxy:error-logs" => logs(context, matches, true).await,
        "proxy:stats" => stats(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn logs(context: &Context, matches: &ArgMatches, errors: bool) -> Result<()> {
    let (app, rest) = context.some_app(matches, false).await?;
    none_left(&rest)?;
    let count = matches.get_one::<u32>("num").copied().unwrap_or(100);
    let base = app.map_or_else(|| "/v1/access-log".to_owned(), |app| format!("/v1/apps/{app}/access-log"));
    let follow = matches.get_flag("tail");
    let mut bytes =
        context.download(&format!("{base}?lines={count}&follow={follow}&errors={errors}")).await?;
    let mut part = Vec::new();
    while let Some(more) = bytes.next().await? {
        part.extend_from_slice(&more);
        let Some(end) = part.iter().rposition(|b| *b == b'\n') else { continue };
        for line in part[..end].split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            context.out.line(&String::from_utf8_lossy(line))?;
        }
        part.drain(..=end);
    }
    Ok(())
}

async fn stats(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.some_app(matches, false).await?;
    none_left(&rest)?;
    let follow = matches.get_flag("tail");
    let Some(app) = app else {
        if follow {
            return Err(crate::error::CliError::Misuse(
                "which app? -t follows one: proxy:stats APP -t".into(),
            ));
        }
        let all: Vec<TrafficNow> = context.get("/v1/traffic").await?;
        if context.out.json {
            return context.out.json(&all);
        }
        context.out.header("Traffic of the last 10 seconds")?;
        let rows = all.iter().map(|one| row(&one.app, &one.now, Some(one.in_flight)));
        return show(context, "App", rows.collect());
    };
    if follow {
        return follow_one(context, app.as_str()).await;
    }
    let traffic: Traffic = context.get(&format!("/v1/apps/{app}/traffic")).await?;
    if context.out.json {
        return context.out.json(&traffic);
    }
    context.out.header(&format!("Traffic of {app}"))?;
    let mut rows = vec![row("last 10 s", &traffic.now, Some(traffic.in_flight))];
    rows.extend(
        traffic.minutes.iter().rev().take(MINUTES).map(|minute| row(&clock(minute.at), minute, None)),
    );
    show(context, "Time", rows)
}

async fn follow_one(context: &Context, app: &str) -> Result<()> {
    let mut points = context.lines(&format!("/v1/apps/{app}/traffic/stream")).await?;
    if !context.out.json && !context.out.quiet {
        context.out.line(&fixed(&titles("Time")))?;
    }
    while let Some(point) = points.next::<TrafficNow>().await? {
        if context.out.json {
            context.out.json_line(&point)?;
        } else {
            context.out.line(&fixed(&row(&clock(point.second.at), &point.second, Some(point.in_flight))))?;
        }
    }
    Ok(())
}

fn show(context: &Context, first: &str, rows: Vec<Vec<String>>) -> Result<()> {
    let mut all = vec![titles(first)];
    all.extend(rows);
    table(&all).iter().try_for_each(|line| context.out.line(line))
}

fn titles(first: &str) -> Vec<String> {
    [first, "req/s", "2xx", "3xx", "4xx", "5xx", "none", "p50", "p95", "p99", "in/s", "out/s", "open"]
        .map(str::to_owned)
        .to_vec()
}

/// Columns that keep their place from one line to the next.
fn fixed(cells: &[String]) -> String {
    let mut line = String::new();
    for (index, cell) in cells.iter().enumerate() {
        line.push_str(&if index == 0 { format!("{cell:<9}") } else { format!(" {cell:>9}") });
    }
    line
}

fn row(first: &str, point: &TrafficPoint, open: Option<u64>) -> Vec<String> {
    let seconds = u64::from(point.seconds.max(1));
    let percentile = |micros: Option<u64>| micros.map_or_else(|| "-".to_owned(), span);
    vec![
        first.to_owned(),
        rate(point.requests, seconds),
        point.success.to_string(),
        point.redirect.to_string(),
        point.client_error.to_string(),
        point.server_error.to_string(),
        (point.none + point.informational).to_string(),
        percentile(point.p50_us),
        percentile(point.p95_us),
        percentile(point.p99_us),
        size(point.received / seconds),
        size(point.sent / seconds),
        open.map_or_else(|| "-".to_owned(), |open| open.to_string()),
    ]
}

/// With one decimal below ten.
fn rate(count: u64, seconds: u64) -> String {
    let tenths = (count * 10 + seconds / 2) / seconds;
    if tenths < 100 { format!("{}.{}", tenths / 10, tenths % 10) } else { (tenths / 10).to_string() }
}

fn span(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros}us"),
        1_000..10_000 => format!("{}.{}ms", micros / 1_000, micros / 100 % 10),
        10_000..1_000_000 => format!("{}ms", micros / 1_000),
        _ => format!("{}.{}s", micros / 1_000_000, micros / 100_000 % 10),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes}B"),
        1_024..1_048_576 => format!("{}KiB", bytes / 1_024),
        _ => format!("{}.{}MiB", bytes / 1_048_576, bytes % 1_048_576 * 10 / 1_048_576),
    }
}

/// The time of day, in UTC as everywhere.
fn clock(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "-".to_owned(), |time| time.strftime("%H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!([rate(0, 10), rate(7, 10), rate(99, 10), rate(12345, 10)], ["0.0", "0.7", "9.9", "1234"]);
        assert_eq!([span(7), span(1_234), span(12_345), span(2_345_678)], ["7us", "1.2ms", "12ms", "2.3s"]);
        assert_eq!([size(7), size(2_048), size(1_572_864)], ["7B", "2KiB", "1.5MiB"]);
        assert_eq!(clock(0), "00:00:00");
    }
}
