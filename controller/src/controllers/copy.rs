//! Moving a platform's state between SQLite and etcd, while no controller runs on it.
//!
//! In: a data directory and an etcd. Out: the same keys and values in the other. A copy that broke off is not mistaken for a
//! platform: etcd holds a mark until it is whole, and SQLite's file gets its name at the end.

use super::shared::COPYING;
use crate::options::Options;
use crate::run;
use crate::store::{Controller, Etcd, EtcdOptions, Leadership, Member, Store, Write};
use anyhow::{Context, bail};
use std::path::Path;

/// Values and bytes that are written at once.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 512 << 10;

/// Copies the SQLite database of `options.data` into an etcd that holds no platform yet. Gives how many values.
pub async fn copy_in(options: &Options, into: &EtcdOptions) -> anyhow::Result<usize> {
    let prepared = options.clone();
    let _lock = tokio::task::spawn_blocking(move || run::prepare(&prepared)).await??;
    let file = options.store_file();
    if !file.exists() {
        bail!("there is no database {} to copy", file.display());
    }
    let from = tokio::task::spawn_blocking(move || Store::open(&file)).await??;
    let (member, leadership) = alone(into).await?;
    let to = Store::leading(&leadership);
    let begun = to.get(COPYING).await?.is_some();
    if !begun && !to.list("").await?.is_empty() {
        member.leave().await;
        bail!(
            "{} holds a platform already; nothing was changed (another name makes room for a second one: {}/NAME)",
            into.address,
            into.address
        );
    }
    to.txn(Vec::new(), vec![Write::DeletePrefix(String::new()), Write::Put(COPYING.to_owned(), Vec::new())])
        .await?;
    let count = copy(&from, &to).await?;
    to.delete(COPYING).await?;
    member.leave().await;
    Ok(count)
}

/// Copies a platform out of etcd into `options.data`, which has no database yet. Gives how many values.
pub async fn copy_out(options: &Options, from: &EtcdOptions) -> anyhow::Result<usize> {
    let prepared = options.clone();
    let _lock = tokio::task::spawn_blocking(move || run::prepare(&prepared)).await??;
    let file = options.store_file();
    if file.exists() {
        bail!("there is a database {} already; move it away first", file.display());
    }
    let (member, leadership) = alone(from).await?;
    let store = Store::leading(&leadership);
    if store.get(COPYING).await?.is_some() {
        member.leave().await;
        bail!("a copy into {} was begun and not finished: there is no whole platform to copy", from.address);
    }
    let unfinished = file.with_extension("db.copying");
    for name in ["", "-wal", "-shm"] {
        remove(&unfinished.with_extension(format!("copying{name}")))?;
    }
    let made = unfinished.clone();
    let to = tokio::task::spawn_blocking(move || Store::open(&made)).await??;
    let count = copy(&store, &to).await?;
    drop(to);
    member.leave().await;
    tokio::task::spawn_blocking(move || finish(&unfinished, &file)).await??;
    Ok(count)
}

/// The lead, so that no controller has it.
async fn alone(options: &EtcdOptions) -> anyhow::Result<(Member, Leadership)> {
    let etcd = Etcd::new(options)?;
    let me = Controller {
        host: "store:copy".to_owned(),
        api: 0,
        ssh: 0,
        cluster: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since_ms: crate::platform::now_ms(),
    };
    let member = etcd.join(me).await?;
    match member.try_lead().await? {
        Ok(leadership) => Ok((member, leadership)),
        Err(leader) => {
            member.leave().await;
            let leader = leader.map_or_else(|| "a controller".to_owned(), |leader| leader.name());
            bail!("{leader} leads there: stop every controller of this platform first")
        }
    }
}

async fn copy(from: &Store, to: &Store) -> anyhow::Result<usize> {
    let entries = from.list("").await?;
    let count = entries.len();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        bytes += entry.value.len();
        batch.push(Write::Put(entry.key, entry.value));
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            to.txn(Vec::new(), std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
    }
    to.txn(Vec::new(), batch).await?;
    Ok(count)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Gives the database its name, once SQLite holds all of it in one file.
fn finish(unfinished: &Path, file: &Path) -> anyhow::Result<()> {
    crate::store::settle(unfinished)?;
    std::fs::rename(unfinished, file).with_context(|| format!("cannot make {}", file.display()))?;
    let dir = file.parent().context("a database is in a directory")?;
    std::fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("cannot sync {}", dir.display()))
}
