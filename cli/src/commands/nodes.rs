//! `controller:list`, `stack:import`, `image:import`, `cleanup`: controllers, the root file systems apps are built on, disk space.
//!
//! In: a tar file. Out: the stack's digest; what was freed.

use super::not_here;
use crate::args::command;
use crate::context::{Context, arguments, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, time};
use berth_model::ImageName;
use berth_model::api::{Cleaned, ControllerInfo};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "controller:list",
            "List the controllers, where there are several, and who leads",
            "",
            &["controller:list"],
        ),
        command(
            "stack:import",
            "Take over a root file system that apps are built on",
            "NAME FILE.tar",
            &["stack:import debian-12-run debian-12-run.tar"],
        ),
        command(
            "image:import",
            "Take over a root file system as a base image for Dockerfiles",
            "NAME:TAG FILE.tar",
            &["image:import debian:bookworm debian-12.tar"],
        ),
        command(
            "cleanup",
            "Remove images that nobody needs any more; done every hour anyway",
            "",
            &["cleanup"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let words = arguments(matches);
    match name {
        "controller:list" => {
            none_left(&words)?;
            controllers(context).await
        }
        "cleanup" => {
            none_left(&words)?;
            cleanup(context).await
        }
        "stack:import" => import_stack(context, &words).await,
        "image:import" => import_image(context, &words).await,
        _ => Err(not_here(name)),
    }
}

async fn controllers(context: &Context) -> Result<()> {
    let list: Vec<ControllerInfo> = context.get("/v1/controllers").await?;
    if context.out.json {
        return context.out.json(&list);
    }
    context.out.header("Controllers")?;
    if list.is_empty() {
        return context.out.line("One controller, with a store of its own");
    }
    let row = |one: &ControllerInfo| {
        vec![
            one.name.clone(),
            if one.leads { "leads" } else { "follows" }.to_owned(),
            format!("ssh port {}", one.ssh_port),
            format!("version {}", one.version),
            format!("since {}", time(one.since_ms)),
        ]
    };
    table(&list.iter().map(row).collect::<Vec<_>>()).iter().try_for_each(|line| context.out.line(line))
}

async fn cleanup(context: &Context) -> Result<()> {
    context.out.step("Removing unused images")?;
    let cleaned: Cleaned = context.json(Method::POST, "/v1/cleanup", &()).await?;
    if context.out.json {
        return context.out.json(&cleaned);
    }
    let Cleaned { images, blobs, bytes } = cleaned;
    let mib = bytes.div_ceil(1 << 20);
    context.out.detail(&format!("{images} images and {blobs} layers removed, {mib} MiB freed"))?;
    context.out.detail("Kept: what runs, what can be rolled back to, what was used within the last hour")
}

async fn import_stack(context: &Context, words: &[String]) -> Result<()> {
    let [name, file] = words else {
        return Err(CliError::Misuse("write: stack:import NAME FILE.tar (`-` is standard input)".into()));
    };
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(CliError::Misuse(format!("{name:?} is no stack's name: use a-z, 0-9, '.' and '-'")));
    }
    import(context, name, file, &format!("/v1/stacks?name={name}")).await
}

async fn import_image(context: &Context, words: &[String]) -> Result<()> {
    let [name, file] = words else {
        return Err(CliError::Misuse("write: image:import NAME:TAG FILE.tar (`-` is standard input)".into()));
    };
    let parsed = ImageName::parse(name).map_err(CliError::Misuse)?;
    // Everything a name may have can stand in a query as it is.
    import(context, &parsed.to_string(), file, &format!("/v1/images?name={parsed}")).await
}

async fn import(context: &Context, name: &str, file: &str, path: &str) -> Result<()> {
    context.out.step(&format!("Importing {name}"))?;
    let answer: serde_json::Value = context.upload(path, context.input(file).await?).await?;
    if context.out.json {
        return context.out.json(&answer);
    }
    match answer.get("digest").and_then(serde_json::Value::as_str) {
        Some(digest) => context.out.line(&format!("{name} {digest}")),
        None => Ok(()),
    }
}
