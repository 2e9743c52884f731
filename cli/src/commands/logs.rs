//! `logs`, `logs:failed`, `logs:set`, `logs:report`: what an app's containers write, and how much of it is kept.
//!
//! In: a stream of [`LogLine`]s. Out: `2026-03-04T05:06:07.000000Z app[web.1]: text`, control characters written out.

use super::{not_here, when};
use crate::args::{command, option, report, switch};
use crate::context::{Context, none_left};
use crate::error::{CliError, Result};
use crate::report::Report;
use berth_model::api::{BuildInfo, BuildStatus, ReleaseInfo};
use berth_model::container::{LogLine, LogStream};
use berth_model::logs::{AppLogs, PatchLogs};
use clap::{ArgMatches, Command};
use http::Method;

/// Lines that are asked for when a time was said and no count.
const ALL: u32 = 100_000;

pub(super) fn commands() -> Vec<Command> {
    let count = || {
        option("num", "COUNT", "How many lines back [default: 100; all with --since]")
            .short('n')
            .value_parser(clap::value_parser!(u32).range(0..=1_000_000))
    };
    vec![
        command(
            "logs",
            "Show its last lines, or follow it",
            "[<app>] [-t] [-n COUNT] [-p TYPE] [--since TIME] [--until TIME] [--grep RE]",
            &[
                "logs hello",
                "logs hello -t",
                "logs hello -n 500 -p worker",
                "logs hello --since 10m --grep 'timeout|refused'",
                "logs hello --since 2026-03-04T05:00 --until 2026-03-04T06:00 --format json",
            ],
        )
        .arg(switch("tail", "Go on showing new lines, over deploys, restarts and scaling").short('t'))
        .arg(count())
        .arg(
            option("ps", "TYPE", "Only this process type, or container as in web.1")
                .short('p')
                .visible_alias("process"),
        )
        .args([when::since(), when::until()])
        .arg(option("grep", "RE", "Only lines that this regular expression matches; found on the node"))
        .arg(switch("ignore-case", "Letters match whatever their case").short('i')),
        command("logs:failed", "Show what the last failed deploy said", "[<app>]", &["logs:failed hello"]),
        command(
            "logs:set",
            "Set how much is kept; without a value, reset it",
            "[<app>] max-size|retention [VALUE]",
            &["logs:set hello max-size 256m", "logs:set hello retention 30d", "logs:set hello max-size"],
        ),
        report("logs:report", "Show how much is kept", "[<app>] [--KEY]", &["logs:report hello"]),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "logs" => show(context, matches).await,
        "logs:failed" => failed(context, matches).await,
        "logs:set" => set(context, matches).await,
        "logs:report" => settings(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, false).await?;
    none_left(&rest)?;
    let since = when::asked(matches, "since")?;
    let until = when::asked(matches, "until")?;
    let follow = matches.get_flag("tail");
    if follow && until.is_some() {
        return Err(CliError::Misuse("-t goes on, --until ends before that: use one of them".into()));
    }
    if since.zip(until).is_some_and(|(since, until)| since > until) {
        return Err(CliError::Misuse("--since is after --until: nothing lies between".into()));
    }
    let default = if since.is_some() { ALL } else { 100 };
    let count = matches.get_one::<u32>("num").copied().unwrap_or(default);
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("lines", &count.to_string());
    query.append_pair("follow", if follow { "true" } else { "false" });
    if let Some(selected) = matches.get_one::<String>("ps") {
        let (process, ordinal) = super::run::container_name(selected)?;
        query.append_pair("process", process.as_str());
        if let Some(ordinal) = ordinal {
            query.append_pair("ordinal", &ordinal.to_string());
        }
    }
    for (name, ms) in [("since", since), ("until", until)] {
        if let Some(ms) = ms {
            query.append_pair(name, &ms.to_string());
        }
    }
    if let Some(pattern) = matches.get_one::<String>("grep") {
        let front = if matches.get_flag("ignore-case") { "(?i)" } else { "" };
        query.append_pair("grep", &format!("{front}{pattern}"));
    } else if matches.get_flag("ignore-case") {
        return Err(CliError::Misuse("-i goes with --grep".into()));
    }
    lines(context, &format!("/v1/apps/{app}/logs?{}", query.finish())).await
}

/// Shows what is at `path`, line by line.
pub(super) async fn lines(context: &Context, path: &str) -> Result<()> {
    let mut lines = context.lines(path).await?;
    while let Some(line) = lines.next::<LogLine>().await? {
        if context.out.json {
            context.out.json_line(&line)?;
        } else if context.out.quiet {
            context.out.line(&line.text)?;
        } else {
            context.out.line(&shown(&line))?;
        }
    }
    Ok(())
}

pub(super) fn shown(line: &LogLine) -> String {
    let time = jiff::Timestamp::from_microsecond(line.at_us);
    let time =
        time.map_or_else(|_| "-".to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
    let source = if line.stream == LogStream::Berth { "berth" } else { "app" };
    format!("{time} {source}[{}.{}]: {}", line.process, line.ordinal, line.text)
}

/// A build that failed has a log with all it said, the deploy's part included; a release that failed without a build (new
/// config, a rollback) has its reason, and what its containers wrote.
async fn failed(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let builds: Vec<BuildInfo> = context.get(&format!("/v1/apps/{app}/builds")).await?;
    let releases: Vec<ReleaseInfo> = context.get(&format!("/v1/apps/{app}/releases")).await?;
    let build = builds.iter().find(|build| build.status == BuildStatus::Failed);
    let release = releases.iter().find(|release| release.outcome == "failed");
    let newer = |build: &BuildInfo| {
        let ended = build.finished_ms.unwrap_or(build.started_ms);
        release.is_none_or(|release| release.created_ms <= ended)
    };
    if let Some(build) = build.filter(|build| newer(build)) {
        let when = crate::output::time(build.started_ms);
        context.out.header(&format!("Build {} of {app} failed at {when}, by {}", build.id, build.by))?;
        let log = format!("/v1/apps/{app}/builds/{}/log", build.id);
        return super::builds::show_log(context, &log).await;
    }
    let Some(release) = release else {
        crate::output::say(&format!("No deploy of {app} failed, as far back as is kept"));
        return Ok(());
    };
    if context.out.json {
        return context.out.json(release);
    }
    let when = crate::output::time(release.created_ms);
    context
        .out
        .header(&format!("Release {} of {app} failed at {when}: {}", release.version, release.description))?;
    context.out.line(release.reason.as_deref().unwrap_or("no reason was kept"))?;
    let (since, until) = (release.created_ms, release.created_ms + 600_000);
    lines(context, &format!("/v1/apps/{app}/logs?lines=1000&follow=false&since={since}&until={until}")).await
}

async fn set(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let mut rest = rest.into_iter();
    let (key, value) = (rest.next(), rest.next().unwrap_or_default());
    none_left(&rest.collect::<Vec<_>>())?;
    let wrong = |text: &str| CliError::Misuse(text.to_owned());
    let patch = match key.as_deref() {
        Some("max-size") if value.is_empty() => PatchLogs { max_mib: Some(0), ..PatchLogs::default() },
        Some("max-size") => {
            let mib = size_mib(&value).ok_or_else(|| {
                wrong("max-size is the largest log of one container: write 64m or 2g, at least 1m")
            })?;
            PatchLogs { max_mib: Some(mib), ..PatchLogs::default() }
        }
        Some("retention") if value.is_empty() => PatchLogs { keep_hours: Some(0), ..PatchLogs::default() },
        Some("retention") => {
            let hours = when::span_ms(&value).map(|ms| ms / 3_600_000).filter(|hours| *hours >= 1);
            let hours = hours.and_then(|hours| u32::try_from(hours).ok()).ok_or_else(|| {
                wrong(
                    "retention is how long lines of containers that are gone are kept: write 12h, 30d or 8w",
                )
            })?;
            PatchLogs { keep_hours: Some(hours), ..PatchLogs::default() }
        }
        Some("vector-sink" | "vector-image" | "vector-networks") => {
            return Err(wrong(&format!(
                "Berth sends logs itself, without Vector: berth drains:add {app} syslog+tls://HOST:6514 (or https://, otlp+https://)"
            )));
        }
        Some(other) => {
            return Err(wrong(&format!("{other:?} cannot be set: there are max-size and retention")));
        }
        None => return Err(wrong("what is to be set? max-size or retention")),
    };
    let _: AppLogs = context.json(Method::PATCH, &format!("/v1/apps/{app}/log-settings"), &patch).await?;
    let key = key.unwrap_or_default();
    let value = if value.is_empty() { "its default".to_owned() } else { value };
    context.out.step(&format!("Set {key} of {app}'s log to {value}"))?;
    if key == "max-size" {
        context.out.detail("it holds for containers from their next start on")?;
    }
    Ok(())
}

async fn settings(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let logs: AppLogs = context.get(&format!("/v1/apps/{app}/log-settings")).await?;
    Report::new(app.as_str(), "logs")
        .row("Logs max size", format!("{}m", logs.max_mib()))
        .row("Logs retention", hours(logs.keep_hours()))
        .show(context.out, matches.get_one::<String>("field").map(String::as_str))
}

fn hours(hours: u32) -> String {
    if hours.is_multiple_of(24) { format!("{}d", hours / 24) } else { format!("{hours}h") }
}

/// `64m`, `2g`, `64MiB`; a number alone is bytes, as Docker has it.
fn size_mib(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let mib = match text.get(digits..)?.to_ascii_lowercase().as_str() {
        "m" | "mb" | "mib" => number,
        "g" | "gb" | "gib" => number.checked_mul(1024)?,
        "k" | "kb" | "kib" => number / 1024,
        "" | "b" => number >> 20,
        _ => return None,
    };
    (mib >= 1).then_some(mib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_as_docker_has_them() {
        let sizes = ["64m", "2g", "10485760", "2048k", "1MiB"].map(size_mib);
        assert_eq!(sizes, [Some(64), Some(2048), Some(10), Some(2), Some(1)]);
        for bad in ["", "m", "0m", "10", "1x", "-1m", "99999999999999999999g", "18446744073709551615g"] {
            assert_eq!(size_mib(bad), None, "{bad}");
        }
        assert_eq!([hours(168), hours(5)], ["7d", "5h"]);
    }
}
