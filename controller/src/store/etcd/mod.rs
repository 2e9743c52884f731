//! The etcd store: for several controllers, of which one leads.
//!
//! Only the leader reads and writes here. Every transaction compares that its writer still leads and is its next one, by its
//! number: so it happens once however often it is sent, never after another controller leads, and in order. What the leader
//! wrote is also what its watchers are told: nobody else writes.
//!
//! In etcd, under the platform's name: `kv/…` what the store holds; `leader`, `controllers/…` who leads and who is there,
//! each bound to a lease; `term` the number of the last transaction; `outcome/…` which of its conditions held.

mod client;
mod lead;
mod settings;
mod shape;
#[cfg(test)]
pub(crate) mod testing;
mod wire;
mod writer;

pub use lead::{Controller, Leadership, Member};
pub use settings::{Address, EtcdOptions};

use super::watch::Changes;
use super::{Compare, Entry, KeyValue, Revision, StoreError, Watch, Write};
use client::{CallError, Client};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use wire::{KeyAndValue, Number, Range, RangeAnswer};
use writer::{Transaction, Writer};

/// How long one read or write may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Keys of a list that are asked for at once.
const PAGE: i64 = 1000;

/// Where a platform's keys are.
#[derive(Clone, Debug)]
struct Space(Arc<str>);

impl Space {
    fn new(name: &str) -> Self {
        Self(format!("{name}/").into())
    }

    /// A key of the store.
    fn key(&self, key: &str) -> String {
        format!("{}kv/{key}", self.0)
    }

    /// A key beside the store's.
    fn beside(&self, key: &str) -> String {
        format!("{}{key}", self.0)
    }

    /// The store's key that is kept there.
    fn stored(&self, key: &[u8]) -> Option<String> {
        let rest = key.strip_prefix(self.0.as_bytes())?.strip_prefix(b"kv/")?;
        String::from_utf8(rest.to_vec()).ok()
    }
}

/// One platform's etcd. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Etcd {
    client: Client,
    space: Space,
    shown: Arc<str>,
    lease: Duration,
}

impl Etcd {
    /// As these settings say. Reads the files that they name; does not connect.
    pub fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        Ok(Self {
            client: options.client()?,
            space: Space::new(options.address.name()),
            shown: options.address.to_string().into(),
            lease: options.lease,
        })
    }

    /// One key, as the leader wrote it last. Whoever does not lead may read too.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let range = Range::one(self.space.key(key));
        let answer = self.client.call::<RangeAnswer>("kv/range", &range, PATIENCE).await;
        let found = answer.map_err(|error| self.error(error))?.kvs.into_iter().next();
        Ok(found.and_then(|found| self.entry(found)))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        'whole: loop {
            let prefix = self.space.key(prefix);
            let (mut range, mut page, mut found) = (Range::prefix(&prefix), PAGE, Vec::new());
            loop {
                range.limit = Some(Number(page));
                let answer = match self.client.call::<RangeAnswer>("kv/range", &range, PATIENCE).await {
                    Err(error) if error.too_long() && page > 1 => {
                        page = (page / 4).max(1);
                        continue;
                    }
                    // The moment that the first page is of was forgotten meanwhile: from the beginning.
                    Err(CallError::Refused { text, .. }) if text.contains("compacted") => continue 'whole,
                    other => other.map_err(|error| self.error(error))?,
                };
                if range.revision.is_none() {
                    range.revision = Some(answer.header.revision);
                }
                let Some(last) = answer.kvs.last() else { return Ok(found) };
                range.key = wire::Bytes([last.key.0.as_slice(), &[0]].concat());
                found.extend(answer.kvs.into_iter().filter_map(|found| self.entry(found)));
                if !answer.more {
                    return Ok(found);
                }
            }
        }
    }

    fn entry(&self, found: KeyAndValue) -> Option<Entry> {
        let key = self.space.stored(&found.key.0)?;
        Some(Entry { key, value: found.value.0, revision: found.mod_revision.0.unsigned_abs() })
    }

    fn error(&self, error: CallError) -> StoreError {
        let store = self.shown.to_string();
        match error {
            CallError::Silent(text) => StoreError::Unreachable { store, text },
            CallError::Refused { text, .. } if text.contains("database space exceeded") => {
                StoreError::NoSpace { store }
            }
            CallError::Refused { text, .. } => {
                let large = text.contains("larger than max") || text.contains("request is too large");
                let many = text.contains("too many operations");
                let text = match (large, many) {
                    (true, _) => {
                        "this change is larger than it takes at once (--max-request-bytes)".to_owned()
                    }
                    (_, true) => {
                        "this change has more parts than it takes at once (--max-txn-ops)".to_owned()
                    }
                    _ => text,
                };
                StoreError::Refused { store, text }
            }
        }
    }
}

/// The store of the controller that leads.
pub(super) struct Leading {
    etcd: Etcd,
    writes: mpsc::UnboundedSender<Transaction>,
    changes: Arc<Changes>,
}

impl Leading {
    /// The store of whoever holds `leadership`.
    pub(super) fn new(leadership: &Leadership) -> Self {
        let etcd = leadership.etcd().clone();
        let changes = Arc::new(Changes::new());
        let (writes, queue) = mpsc::unbounded_channel();
        let newest = Arc::new(AtomicI64::default());
        tokio::spawn(Writer::new(leadership, queue, changes.clone(), newest.clone()).run());
        tokio::spawn(compact(etcd.clone(), newest, leadership.lost()));
        Self { etcd, writes, changes }
    }
}

impl KeyValue for Leading {
    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        Box::pin(async move { self.etcd.get(&key).await })
    }

    fn list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        Box::pin(async move { self.etcd.list(&prefix).await })
    }

    fn txn(
        &self,
        compare: Vec<Compare>,
        then: Vec<Write>,
    ) -> BoxFuture<'_, Result<Option<Revision>, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.writes.send(Transaction::new(compare, &then, reply));
        Box::pin(async move {
            sent.map_err(|_| StoreError::NotLeader)?;
            let cut_off = |_| StoreError::Unknown {
                store: self.etcd.shown.to_string(),
                text: "this controller lost its lead meanwhile".to_owned(),
            };
            answer.await.map_err(cut_off)?
        })
    }

    fn watch(&self, prefix: String) -> Watch {
        self.changes.watch(prefix)
    }

    fn check_writable(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        let probe = vec![Write::Put("health/written".to_owned(), b"1".to_vec())];
        Box::pin(async move { self.txn(Vec::new(), probe).await.map(drop) })
    }
}

/// Lets etcd forget what keys were, as it otherwise keeps for ever. Nothing here asks for it but a list under way.
async fn compact(etcd: Etcd, newest: Arc<AtomicI64>, lost: tokio_util::sync::CancellationToken) {
    const EVERY: Duration = Duration::from_secs(300);
    let mut before = 0;
    while lost.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        if before > 0 {
            let body = wire::Compaction { revision: Number(before) };
            let done = etcd.client.call::<serde_json::Value>("kv/compaction", &body, PATIENCE).await;
            if let Err(error) = done
                && !error.to_string().contains("compacted")
            {
                tracing::debug!(%error, "etcd did not forget old revisions");
            }
        }
        before = newest.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
