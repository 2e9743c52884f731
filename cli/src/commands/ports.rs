//! `ports:*`: ports of the proxy that lead to an app's `web` containers.
//!
//! In: `SCHEME:PORT:CONTAINER-PORT`, as in Dokku. Out: the app's new list of ports.

use super::not_here;
use crate::args::{command, option};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output::table;
use berth_model::api::{AppInfo, PatchApp};
use berth_model::ports::{NoPortMapping, PortMapping, ProxyProtocol, parse};
use clap::{ArgMatches, Command};
use http::Method;

const USAGE: &str = "[<app>] SCHEME:PORT:CONTAINER-PORT ...";

pub(super) fn commands() -> Vec<Command> {
    let proxy_protocol = || {
        option("proxy-protocol", "VERSION", "Tell the app who its client is: v1 or v2 (tcp and tls)")
            .value_parser(["v1", "v2"])
    };
    vec![
        command("ports:list", "List an app's ports", "[<app>]", &["ports hello"])
            .visible_aliases(["ports", "ports:report"]),
        command(
            "ports:add",
            "Lead ports of the proxy to an app (http, https, grpc, grpcs, tcp, tls, udp)",
            USAGE,
            &[
                "ports:add hello http:8080:5000",
                "ports:add hello grpcs:443:9000",
                "ports:add hello tcp:5432:5432 --proxy-protocol v2",
                "ports:add hello udp:6001:6001",
            ],
        )
        .arg(proxy_protocol()),
        command(
            "ports:set",
            "The same, and no others",
            USAGE,
            &["ports:set hello grpc:80:9000 grpcs:443:9000"],
        )
        .arg(proxy_protocol()),
        command(
            "ports:remove",
            "Close ports again",
            "[<app>] SCHEME:PORT[:CONTAINER-PORT] ...",
            &["ports:remove hello tcp:5432"],
        ),
        command("ports:clear", "Close all ports of an app", "[<app>]", &["ports:clear hello"]),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let takes_more = !matches!(name, "ports:list" | "ports:clear");
    let (app, rest) = context.app(matches, takes_more).await?;
    let path = format!("/v1/apps/{app}");
    let info: AppInfo = context.get(&path).await?;
    let mut ports = info.ports.clone();
    match name {
        "ports:list" => {
            crate::context::none_left(&rest)?;
            if context.out.json {
                return context.out.json(&ports);
            }
            context.out.header(&format!("Port mappings for {app}"))?;
            return table(&ports.iter().map(row).collect::<Vec<_>>())
                .iter()
                .try_for_each(|line| context.out.line(line));
        }
        "ports:add" | "ports:set" => {
            if name == "ports:set" {
                ports.clear();
            }
            let proxy_protocol = match matches.get_one::<String>("proxy-protocol").map(String::as_str) {
                Some("v1") => Some(ProxyProtocol::V1),
                Some(_) => Some(ProxyProtocol::V2),
                None => None,
            };
            for word in named(&rest)? {
                let mapping = PortMapping { proxy_protocol, ..word.parse().map_err(|error| wrong(&error))? };
                if let Some(problem) = mapping.problem() {
                    return Err(CliError::Misuse(problem));
                }
                ports.retain(|known| !replaces(&mapping, known));
                ports.push(mapping);
            }
        }
        "ports:remove" => {
            for word in named(&rest)? {
                let (scheme, port, container) = parse(word).map_err(|error| wrong(&error))?;
                let before = ports.len();
                ports.retain(|known| {
                    known.scheme != scheme
                        || known.port != port
                        || container.is_some_and(|container| container != known.container_port)
                });
                if ports.len() == before {
                    return Err(CliError::Failed(format!(
                        "{app} has no port {word}; `ports:list` shows those it has"
                    )));
                }
            }
        }
        "ports:clear" => {
            crate::context::none_left(&rest)?;
            ports.clear();
        }
        _ => return Err(not_here(name)),
    }
    let patch = PatchApp { ports: Some(ports), ..PatchApp::default() };
    context.act(Method::PATCH, &path, Some(&patch)).await
}

fn row(mapping: &PortMapping) -> Vec<String> {
    let mut row = vec![
        mapping.scheme.as_str().to_owned(),
        mapping.port.to_string(),
        mapping.container_port.to_string(),
    ];
    row.extend(mapping.proxy_protocol.map(|version| match version {
        ProxyProtocol::V1 => "proxy-protocol v1".to_owned(),
        ProxyProtocol::V2 => "proxy-protocol v2".to_owned(),
    }));
    row
}

/// What a port leads to is said anew: by the same kind of port, or for the main listeners by any.
fn replaces(new: &PortMapping, known: &PortMapping) -> bool {
    let udp = |mapping: &PortMapping| mapping.scheme.as_str() == "udp";
    new.port == known.port && udp(new) == udp(known)
}

fn named(words: &[String]) -> Result<&[String]> {
    if words.is_empty() {
        Err(CliError::Misuse("no port is named: write SCHEME:PORT:CONTAINER-PORT".into()))
    } else {
        Ok(words)
    }
}

fn wrong(error: &NoPortMapping) -> CliError {
    CliError::Misuse(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_said_anew_by_the_same_transport() {
        let mapping = |word: &str| word.parse::<PortMapping>().expect("valid");
        assert!(replaces(&mapping("tcp:53:1"), &mapping("tls:53:2")));
        assert!(!replaces(&mapping("tcp:53:1"), &mapping("udp:53:2")));
        assert!(!replaces(&mapping("tcp:53:1"), &mapping("tcp:54:1")));
    }
}
