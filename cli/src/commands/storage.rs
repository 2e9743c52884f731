//! `storage:*`: directories of the node, or named volumes, inside every container of an app.
//!
//! In: `SOURCE:TARGET[:ro]`. Out: the app's new list of mounts.

use super::not_here;
use crate::args::command;
use crate::context::{Context, exactly_one};
use crate::error::{CliError, Result};
use crate::output::table;
use berth_model::api::{AppInfo, PatchApp};
use berth_model::container::Mount;
use berth_model::placing::{SetVolume, VolumeInfo};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("storage:list", "List an app's mounts", "[<app>]", &["storage:list hello"])
            .visible_alias("storage:report"),
        command(
            "storage:mount",
            "Show a directory or volume inside an app",
            "[<app>] SOURCE:TARGET[:ro]",
            &["storage:mount hello uploads:/app/uploads", "storage:mount hello /srv/media:/media:ro"],
        ),
        command(
            "storage:unmount",
            "Take it away again; what is in it stays",
            "[<app>] SOURCE:TARGET",
            &["storage:unmount hello uploads:/app/uploads"],
        ),
        command(
            "storage:node",
            "Show which node has it, or say so; nothing is copied",
            "[<app>] [SOURCE NODE|any]",
            &["storage:node hello", "storage:node hello uploads node-2", "storage:node hello /srv/nfs any"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    if name == "storage:node" {
        return node(context, matches).await;
    }
    let (app, rest) = context.app(matches, name != "storage:list").await?;
    let path = format!("/v1/apps/{app}");
    let wanted = match name {
        "storage:list" => {
            crate::context::none_left(&rest)?;
            None
        }
        _ => Some(parse(&exactly_one(rest, "SOURCE:TARGET")?)?),
    };
    let info: AppInfo = context.get(&path).await?;
    let mut mounts = info.mounts;
    match (name, wanted) {
        ("storage:list", _) if context.out.json => return context.out.json(&mounts),
        ("storage:list", _) => {
            context.out.header(&format!("{app} volume bind-mounts"))?;
            return mounts.iter().try_for_each(|mount| context.out.line(&shown(mount)));
        }
        ("storage:mount", Some(mount)) => {
            if mounts.iter().any(|known| known.target == mount.target) {
                return Err(CliError::Failed(format!(
                    "{} is mounted already: storage:unmount it first",
                    mount.target
                )));
            }
            mounts.push(mount);
        }
        ("storage:unmount", Some(mount)) => {
            let before = mounts.len();
            mounts.retain(|known| known.source != mount.source || known.target != mount.target);
            if mounts.len() == before {
                return Err(CliError::Failed(format!(
                    "{app} has no such mount; `storage:list` shows those it has"
                )));
            }
        }
        _ => return Err(not_here(name)),
    }
    let patch = PatchApp { mounts: Some(mounts), ..PatchApp::default() };
    context.act(Method::PATCH, &path, Some(&patch)).await
}

async fn node(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let path = format!("/v1/apps/{app}/volumes");
    match &rest[..] {
        [] => {
            let all: Vec<VolumeInfo> = context.get(&path).await?;
            if context.out.json {
                return context.out.json(&all);
            }
            context.out.header(&format!("{app} volume nodes"))?;
            let row = |one: &VolumeInfo| {
                let node = one.node.clone().unwrap_or_else(|| "(on none yet)".to_owned());
                vec![one.source.clone(), node]
            };
            let rows = table(&all.iter().map(row).collect::<Vec<_>>());
            rows.iter().try_for_each(|line| context.out.line(line))
        }
        [source, node] => {
            let set = SetVolume { source: source.clone(), node: node.clone() };
            context.act(Method::PUT, &path, Some(&set)).await
        }
        _ => Err(CliError::Misuse("write: storage:node <app> [SOURCE NODE|any]".to_owned())),
    }
}

fn shown(mount: &Mount) -> String {
    format!("{}:{}{}", mount.source, mount.target, if mount.read_only { ":ro" } else { "" })
}

fn parse(word: &str) -> Result<Mount> {
    let wrong = || {
        CliError::Misuse(format!(
            "{word:?} is no mount: write SOURCE:TARGET or SOURCE:TARGET:ro, with an absolute directory or a volume's name as source"
        ))
    };
    let (source, target, read_only) = match word.split(':').collect::<Vec<_>>()[..] {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        _ => return Err(wrong()),
    };
    if source.is_empty() || !target.starts_with('/') || (source.contains('/') && !source.starts_with('/')) {
        return Err(wrong());
    }
    Ok(Mount { source: source.to_owned(), target: target.to_owned(), read_only })
}
