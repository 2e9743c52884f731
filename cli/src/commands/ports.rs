//! `ports:*`: raw TCP ports of the proxy that lead to an app's `web` containers.
//!
//! In: `tcp:HOST:CONTAINER`. Out: the app's new list of ports.

use super::not_here;
use crate::args::command;
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output::table;
use berth_model::api::{AppInfo, PatchApp};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("ports:list", "List an app's ports", "[<app>]", &["ports hello"])
            .visible_aliases(["ports", "ports:report"]),
        command(
            "ports:add",
            "Lead TCP ports of the proxy to an app",
            "[<app>] tcp:HOST:CONTAINER ...",
            &["ports:add hello tcp:5432:5432"],
        ),
        command(
            "ports:remove",
            "Close ports again",
            "[<app>] tcp:HOST[:CONTAINER] ...",
            &["ports:remove hello tcp:5432"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, name != "ports:list").await?;
    let path = format!("/v1/apps/{app}");
    let info: AppInfo = context.get(&path).await?;
    let mut ports = info.tcp_ports.clone();
    match name {
        "ports:list" => {
            crate::context::none_left(&rest)?;
            if context.out.json {
                return context.out.json(&ports);
            }
            context.out.header(&format!("Port mappings for {app}"))?;
            let row = |(host, container): &(u16, u16)| {
                vec!["tcp".to_owned(), host.to_string(), container.to_string()]
            };
            return table(&ports.iter().map(row).collect::<Vec<_>>())
                .iter()
                .try_for_each(|line| context.out.line(line));
        }
        "ports:add" => {
            for word in named(&rest)? {
                let (host, container) = parse(word)?;
                let container = container.ok_or_else(|| wrong(word))?;
                ports.retain(|(known, _)| *known != host);
                ports.push((host, container));
            }
        }
        "ports:remove" => {
            for word in named(&rest)? {
                let (host, container) = parse(word)?;
                let before = ports.len();
                ports.retain(|(h, c)| *h != host || container.is_some_and(|container| container != *c));
                if ports.len() == before {
                    return Err(CliError::Failed(format!(
                        "{app} has no port {word}; `ports:list` shows those it has"
                    )));
                }
            }
        }
        _ => return Err(not_here(name)),
    }
    let patch = PatchApp { tcp_ports: Some(ports), ..PatchApp::default() };
    context.act(Method::PATCH, &path, Some(&patch)).await
}

fn named(words: &[String]) -> Result<&[String]> {
    if words.is_empty() {
        Err(CliError::Misuse("no port is named: write tcp:HOST:CONTAINER".into()))
    } else {
        Ok(words)
    }
}

fn wrong(word: &str) -> CliError {
    CliError::Misuse(format!(
        "{word:?} is no port mapping: write tcp:HOST:CONTAINER with ports from 1 to 65535"
    ))
}

/// `tcp:5432:5432`, or `tcp:5432` where the container's port does not matter.
fn parse(word: &str) -> Result<(u16, Option<u16>)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| wrong(word));
    match word.split(':').collect::<Vec<_>>()[..] {
        ["tcp", host] => Ok((port(host)?, None)),
        ["tcp", host, container] => Ok((port(host)?, Some(port(container)?))),
        ["http" | "https", ..] => Err(CliError::Misuse(format!(
            "{word:?}: HTTP needs no mapping, the proxy leads an app's domains to its PORT; tcp:HOST:CONTAINER is for other protocols"
        ))),
        _ => Err(wrong(word)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_parsed_strictly() {
        assert_eq!(parse("tcp:5432:1").expect("valid"), (5432, Some(1)));
        assert_eq!(parse("tcp:5432").expect("valid"), (5432, None));
        for bad in ["5432", "tcp:0:1", "tcp:1:65536", "udp:1:1", "http:80:5000", "tcp:1:1:1", "", "tcp::"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
