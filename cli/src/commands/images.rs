//! `images*`: what Berth's own registry holds, what an image is made of, and a way out for it.
//!
//! In: an app, a digest, a release. Out: tables; an archive on standard output.

use super::not_here;
use crate::args::{command, option};
use crate::context::{Context, arguments, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, time};
use berth_model::api::{ImageDetail, ImageInfo, ImageLayer};
use clap::{ArgMatches, Command};
use std::io::IsTerminal;
use tokio::io::AsyncWriteExt;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "images:list",
            "List the images of an app, or of Berth's whole registry",
            "[<app>]",
            &["images", "images hello --format json"],
        )
        .visible_alias("images"),
        command(
            "images:layers",
            "Show an image's layers, and with how many other images it shares each",
            "DIGEST",
            &["images:layers sha256:1a2b3c4d5e6f"],
        ),
        command(
            "images:export",
            "Write a release's image as an archive for docker load, podman load or git:load-image",
            "[<app>] [--release vN]  > ARCHIVE.tar",
            &["images:export hello > hello.tar", "images:export hello --release v3 | zstd > hello.tar.zst"],
        )
        .arg(option("release", "vN", "Which release; else the current one")),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "images:list" => list(context, matches).await,
        "images:layers" => layers(context, matches).await,
        "images:export" => export(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.some_app(matches, false).await?;
    none_left(&rest)?;
    let query = app.as_ref().map_or(String::new(), |app| format!("?app={app}"));
    let images: Vec<ImageInfo> = context.get(&format!("/v1/images{query}")).await?;
    if context.out.json {
        return context.out.json(&images);
    }
    context.out.header("Images")?;
    let row = |image: &ImageInfo| {
        let digest: String = image.digest.chars().take(19).collect();
        let used: Vec<&str> = image.tags.iter().chain(&image.releases).map(String::as_str).collect();
        let used = if used.is_empty() { "-".to_owned() } else { used.join(", ") };
        let mib = image.bytes.div_ceil(1 << 20);
        vec![image.repository.clone(), digest, format!("{mib} MiB"), time(image.created_ms), used]
    };
    table(&images.iter().map(row).collect::<Vec<_>>()).iter().try_for_each(|line| context.out.line(line))
}

async fn layers(context: &Context, matches: &ArgMatches) -> Result<()> {
    let digest = exactly_one(arguments(matches), "the image's digest, as images:list shows it")?;
    if !digest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b':') {
        return Err(CliError::Misuse(format!("{digest:?} is no digest; see them with: berth images")));
    }
    let image: ImageDetail = context.get(&format!("/v1/images/{digest}")).await?;
    if context.out.json {
        return context.out.json(&image);
    }
    let made = image.created_ms.map(|at| format!(", made {}", time(at))).unwrap_or_default();
    context.out.header(&format!("{} in {}{made}", image.digest, image.repositories.join(", ")))?;
    let row = |layer: &ImageLayer| {
        let shared = match layer.shared_with {
            0 => "only here".to_owned(),
            1 => "in 1 other".to_owned(),
            others => format!("in {others} others"),
        };
        let size = format!("{} KiB", layer.bytes.div_ceil(1 << 10));
        vec![layer.digest.chars().take(19).collect(), size, shared, layer.made_by.clone().unwrap_or_default()]
    };
    let images = image.images.iter().map(|image| format!("image {image}"));
    let rows = table(&image.layers.iter().map(row).collect::<Vec<_>>()).into_iter().chain(images);
    rows.into_iter().try_for_each(|line| context.out.line(line.trim_end()))
}

async fn export(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    if std::io::stdout().is_terminal() {
        return Err(CliError::Misuse(format!(
            "an archive is nothing for a terminal: berth images:export {app} > {app}.tar"
        )));
    }
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(release) = matches.get_one::<String>("release") {
        query.append_pair("release", release);
    }
    let mut bytes = context.download(&format!("/v1/apps/{app}/image/archive?{}", query.finish())).await?;
    let mut out = tokio::io::stdout();
    while let Some(piece) = bytes.next().await? {
        let written = out.write_all(&piece).await;
        written.map_err(|error| CliError::Failed(format!("cannot write the archive: {error}")))?;
    }
    out.flush().await.map_err(|error| CliError::Failed(format!("cannot write the archive: {error}")))
}
