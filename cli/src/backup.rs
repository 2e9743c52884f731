//! `backup` and `restore`: the whole platform in one file, and back.
//!
//! In: a file, a data directory. Out: an archive that only its owner may read, or a data directory; whole or not there at all.
//! Only at a shell of the controller's machine: an archive holds every key and secret.

use crate::error::{CliError, Result};
use crate::output::{Output, time};
use crate::roles::data;
use berth_wire::{Client, Endpoint};
use clap::{Arg, ArgAction, ArgMatches, Command};
use http::Method;
use http_body_util::BodyExt;
use std::fs::{self, File};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The commands of this file.
pub(crate) fn commands() -> [Command; 2] {
    let file = || Arg::new("file").value_name("FILE").required(true);
    [
        Command::new("backup")
            .about("Write the whole platform to a file, while it runs (as root)")
            .arg(file().help("A file that is not there yet; `-` is standard output"))
            .arg(
                Arg::new("volumes")
                    .long("volumes")
                    .action(ArgAction::SetTrue)
                    .help("Also what apps keep in volumes, on all nodes"),
            )
            .arg(
                Arg::new("skip-away")
                    .long("skip-away")
                    .action(ArgAction::SetTrue)
                    .requires("volumes")
                    .help("Leave out volumes of nodes that are away, instead of failing"),
            )
            .after_help(
                "Examples:\n  berth backup /mnt/2026-11-23.berth\n  berth backup - --volumes | age -r KEY > berth.age",
            ),
        Command::new("restore")
            .about("Make a data directory of a backup, for `berth up` to start from")
            .arg(file().help("The backup; `-` is standard input"))
            .after_help(
                "Examples:\n  berth restore /mnt/2026-11-23.berth --data /var/lib/berth\n  \
                 age -d berth.age | berth restore - --data /srv/berth",
            ),
    ]
}

/// Runs `name` if it is one of them.
pub(crate) fn run(name: &str, matches: &ArgMatches) -> Option<Result<()>> {
    let file = matches.try_get_one::<String>("file").ok().flatten().cloned().unwrap_or_default();
    let out = Output::new(matches.get_flag("quiet"), false);
    match name {
        "backup" => Some(crate::on_one_thread(backup(&file, matches, out))),
        "restore" => Some(crate::on_one_thread(restore(&file, matches, out))),
        _ => None,
    }
}

async fn backup(file: &str, matches: &ArgMatches, out: Output) -> Result<()> {
    if file == "-" {
        let mut pipe = std::io::stdout();
        if pipe.is_terminal() {
            return Err(CliError::Misuse("a backup is no text: send it to a file or a command".to_owned()));
        }
        return fetch(matches, &mut pipe).await.map(|(_, left_out)| warn(&left_out));
    }
    let file = Path::new(file);
    let failed =
        |error: std::io::Error| CliError::Failed(format!("cannot write {}: {error}", file.display()));
    if file.symlink_metadata().is_ok() {
        let text = format!("{} is there already: give another name, or remove it first", file.display());
        return Err(CliError::Failed(text));
    }
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".part.{}", std::process::id()));
    let part = Part(PathBuf::from(name));
    let made = File::options().write(true).create_new(true).mode(0o600).open(&part.0);
    let mut writer = made.map_err(failed)?;
    let (size, left_out) = fetch(matches, &mut writer).await?;
    writer.sync_all().map_err(failed)?;
    // A link, not a rename: nothing that came meanwhile is replaced.
    fs::hard_link(&part.0, file).map_err(failed)?;
    drop(part);
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    out.step(&format!("Wrote {} ({} MiB)", file.display(), size.div_ceil(1 << 20)))?;
    warn(&left_out);
    out.detail("It holds every key and secret: keep it where nobody else reads it")
}

/// A file that is removed when this goes.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Says whose volumes are not in it, where nobody overlooks it.
fn warn(left_out: &str) {
    if !left_out.is_empty() {
        let _ = writeln!(std::io::stderr(), " !     Not in it: volumes of {left_out}, which did not answer");
    }
}

/// Gives how many bytes, and the nodes whose volumes are not among them.
async fn fetch(matches: &ArgMatches, to: &mut impl Write) -> Result<(u64, String)> {
    let failed =
        |error: &dyn std::fmt::Display| CliError::Failed(format!("cannot write the backup: {error}"));
    let client = Client::new(Endpoint::Unix(data(matches).join("run/api.sock")));
    let (volumes, skip) = (matches.get_flag("volumes"), matches.get_flag("skip-away"));
    let path = format!("/v1/backup?volumes={volumes}&skip_away={skip}");
    let answer = client.call(Method::GET, &path, None::<&()>).await;
    let answer = answer.map_err(|error| CliError::wire(error, client.endpoint()))?;
    let left_out = answer.headers().get("berth-left-out").and_then(|names| names.to_str().ok());
    let left_out = left_out.unwrap_or_default().to_owned();
    let mut body = answer.into_body();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            CliError::Failed(format!("the backup broke off ({error}); see the controller's log"))
        })?;
        if let Ok(bytes) = frame.into_data() {
            to.write_all(&bytes).map_err(|error| failed(&error))?;
            size += bytes.len() as u64;
        }
    }
    to.flush().map_err(|error| failed(&error))?;
    Ok((size, left_out))
}

async fn restore(file: &str, matches: &ArgMatches, out: Output) -> Result<()> {
    let archive: Box<dyn Read> = match file {
        "-" => Box::new(std::io::stdin().lock()),
        path => Box::new(
            File::open(path).map_err(|error| CliError::Failed(format!("cannot read {path}: {error}")))?,
        ),
    };
    let data = std::path::absolute(data(matches)).map_err(|error| CliError::Failed(error.to_string()))?;
    let restored = berth_controller::backup::restore(archive, &data).await;
    let restored = restored.map_err(|error| {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        CliError::Failed(format!("{error}{}", source.unwrap_or_default()))
    })?;
    out.step(&format!("Restored the platform of {} to {}", time(restored.made_ms), data.display()))?;
    let volumes = if restored.volumes { "with volumes" } else { "without volumes" };
    out.detail(&format!(
        "{} files and {} entries of the store, {volumes}",
        restored.files, restored.entries
    ))?;
    for (node, volumes) in &restored.nodes {
        let volumes = volumes.join(", ");
        out.detail(&format!(
            "Volumes of {node} wait for it: {volumes}; it gets those it has not when it connects"
        ))?;
    }
    for node in &restored.left_out {
        out.detail(&format!("Not in it: volumes of {node}, which was away"))?;
    }
    out.detail(&format!("Start it with: berth up --data {}, and the options it ran with", data.display()))
}
