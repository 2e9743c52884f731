//! `logs`: what an app's containers write, and Berth's remarks about them.
//!
//! In: a stream of [`LogLine`]s. Out: `2026-03-04T05:06:07.000000Z app[web.1]: text`, control characters written out.

use crate::args::{command, option, switch};
use crate::context::{Context, none_left};
use crate::error::Result;
use berth_model::container::{LogLine, LogStream};
use clap::{ArgMatches, Command};

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "logs",
            "Show its last lines, or follow it",
            "[<app>] [-t] [-n COUNT] [-p TYPE]",
            &["logs hello", "logs hello -t", "logs hello -n 500 -p worker"],
        )
        .arg(switch("tail", "Go on showing new lines").short('t'))
        .arg(
            option("num", "COUNT", "How many lines back [default: 100]")
                .short('n')
                .value_parser(clap::value_parser!(u32).range(0..=1_000_000)),
        )
        .arg(
            option("ps", "TYPE", "Only this process type, or container as in web.1")
                .short('p')
                .visible_alias("process"),
        ),
    ]
}

pub(super) async fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, false).await?;
    none_left(&rest)?;
    let count = matches.get_one::<u32>("num").copied().unwrap_or(100);
    let mut path = format!("/v1/apps/{app}/logs?lines={count}&follow={}", matches.get_flag("tail"));
    let mut ordinal = None;
    if let Some(selected) = matches.get_one::<String>("ps") {
        let (process, number) = super::run::container_name(selected)?;
        path.push_str(&format!("&process={process}"));
        ordinal = number;
    }
    let mut lines = context.lines(&path).await?;
    while let Some(line) = lines.next::<LogLine>().await? {
        if ordinal.is_some_and(|ordinal| ordinal != line.ordinal) {
            continue;
        }
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

fn shown(line: &LogLine) -> String {
    let time = jiff::Timestamp::from_microsecond(line.at_us);
    let time =
        time.map_or_else(|_| "-".to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
    let source = if line.stream == LogStream::Berth { "berth" } else { "app" };
    format!("{time} {source}[{}.{}]: {}", line.process, line.ordinal, line.text)
}
