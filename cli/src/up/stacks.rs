//! Stacks of `--stack-dir`: root file systems taken over when they are new or changed.
//!
//! In: `NAME.tar` files. Out: the same in the registry; `DIR/controller/stacks.json` remembers which (beside the
//! registry, so that both are lost together).

use anyhow::{Context, Result, bail};
use berth_model::api::ErrorCode;
use berth_wire::{Client, WireError};
use http::Method;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the agent may take to come up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is known of a file that was taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    size: u64,
    modified_ns: i128,
    sha256: String,
}

type Memory = BTreeMap<String, Known>;

/// Takes over every stack of `directory` whose bytes are not those of last time.
pub(super) async fn import(client: &Client, data: &Path, directory: &Path) -> Result<()> {
    let file = data.join("controller/stacks.json");
    let mut memory = recall(&file)?;
    let stacks = find(directory)?;
    if stacks.is_empty() {
        bail!("{} holds no NAME.tar: make stacks with deploy/stack", directory.display());
    }
    for (name, tar) in stacks {
        let before = memory.get(&name).cloned();
        let path = tar.clone();
        let known = tokio::task::spawn_blocking(move || look(&path, before.as_ref())).await??;
        let changed = memory.get(&name).map(|before| &before.sha256) != Some(&known.sha256);
        if changed {
            tracing::info!(stack = name, "importing {}", tar.display());
            upload(client, &name, &tar).await.with_context(|| format!("cannot import {}", tar.display()))?;
        }
        if memory.insert(name, known.clone()) != Some(known) {
            remember(&file, &memory)?;
        }
    }
    Ok(())
}

fn find(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut stacks = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|extension| extension == "tar") && !name.is_empty() {
            stacks.push((name.to_owned(), path.clone()));
        }
    }
    stacks.sort();
    Ok(stacks)
}

/// Size, time and hash; an unchanged size and time stand for an unchanged hash.
fn look(path: &Path, before: Option<&Known>) -> Result<Known> {
    let failed = || format!("cannot read {}", path.display());
    let mut file = std::fs::File::open(path).with_context(failed)?;
    let metadata = file.metadata().with_context(failed)?;
    let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    if let Some(known) =
        before.filter(|known| known.size == metadata.len() && known.modified_ns == modified_ns)
    {
        return Ok(known.clone());
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(failed)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    Ok(Known { size: metadata.len(), modified_ns, sha256: hex::encode(hash.finalize()) })
}

async fn upload(client: &Client, name: &str, tar: &Path) -> Result<()> {
    let path = format!("/v1/stacks?name={name}");
    let began = Instant::now();
    loop {
        let file = tokio::fs::File::open(tar).await?;
        let error = match client.upload(Method::POST, &path, "application/x-tar", file).await {
            Ok(response) => {
                response.into_body().collect().await.context("the answer broke off")?;
                return Ok(());
            }
            Err(error) => error,
        };
        // The agent may still be starting.
        let passing = match &error {
            WireError::Refused { body, .. } => body.code == ErrorCode::Unavailable,
            WireError::Connect { .. } | WireError::Broken { .. } => true,
            WireError::Unexpected { .. } => false,
        };
        if !passing || began.elapsed() > PATIENCE {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn recall(file: &Path) -> Result<Memory> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()), // at worst a stack is imported again
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Memory::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn remember(file: &Path, memory: &Memory) -> Result<()> {
    let temporary = file.with_extension("new");
    let mut new =
        std::fs::File::create(&temporary).with_context(|| format!("cannot write {}", temporary.display()))?;
    new.write_all(&serde_json::to_vec_pretty(memory)?)?;
    new.sync_all()?;
    std::fs::rename(&temporary, file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touched_file_is_read_again_and_an_unchanged_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let tar = directory.path().join("debian-12-run.tar");
        std::fs::write(&tar, "one").expect("ours");
        let first = look(&tar, None).expect("read");
        let pretended = Known { sha256: "remembered".into(), ..first.clone() };
        assert_eq!(look(&tar, Some(&pretended)).expect("not read").sha256, "remembered");
        std::fs::write(&tar, "other").expect("ours");
        assert_ne!(look(&tar, Some(&pretended)).expect("read").sha256, first.sha256);
        std::fs::write(directory.path().join("README"), "").expect("ours");
        assert_eq!(find(directory.path()).expect("read").len(), 1);
    }
}
