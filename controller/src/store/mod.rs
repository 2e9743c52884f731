//! The store: a small transactional key-value database with revisions and watch. Everything the platform is to be is here.
//!
//! In: keys (text, parts joined by `/`) and values (bytes). Out: the same, with the revision that last changed them.
//! A write that was acknowledged is on the disk, or on those of most members of an etcd. All SQL is in [`sqlite`], all that is
//! said to etcd in [`etcd`].

mod etcd;
mod sqlite;
#[cfg(test)]
mod tests;
mod watch;

pub use etcd::{Address, Controller, Etcd, EtcdOptions, Leadership, Member};
pub use watch::Watch;

use futures_util::future::BoxFuture;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Grows with successful writing transactions, from 1: by one with each in SQLite. In etcd some that do not touch each other
/// share one, and numbers are left out.
pub type Revision = u64;

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The transaction that last wrote it.
    pub revision: Revision,
}

/// What must hold for a transaction to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written by exactly this transaction.
    Revision(String, Revision),
    /// There is no such key.
    Absent(String),
    /// There is such a key.
    Present(String),
}

impl Compare {
    /// The key is as it was read: `None` for absent.
    #[must_use]
    pub fn unchanged(key: impl Into<String>, revision: Option<Revision>) -> Self {
        match revision {
            None => Self::Absent(key.into()),
            Some(revision) => Self::Revision(key.into(), revision),
        }
    }
}

/// What a transaction does, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Set a key.
    Put(String, Vec<u8>),
    /// Remove a key; none is no error.
    Delete(String),
    /// Remove every key that begins so.
    DeletePrefix(String),
}

/// The store did not do what was asked. Nothing of a refused transaction happened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full. Reading goes on, and writing too once there is space.
    #[error("the disk that holds {} is full; free some space, then try again", path.display())]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// A newer Berth made it.
    #[error(
        "{} was written by a newer Berth (schema {found}, this one knows up to {known}); nothing was changed: start \
         the newer version, or restore a backup made by this one", path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// The file is damaged.
    #[error("{} is damaged ({text}); move it away and restore it from a backup", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite found.
        text: String,
    },
    /// Opening, reading or writing failed.
    #[error("cannot use the database {}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A file beside the database.
    #[error("cannot prepare {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its threads have ended.
    #[error("the store has been closed")]
    Closed,
    /// How etcd is to be reached cannot be used.
    #[error("{text}")]
    Settings {
        /// What, and why.
        text: String,
    },
    /// etcd does not answer. Nothing was changed.
    #[error(
        "{store} does not answer ({text}); apps run on, but nothing can be changed until most of its members are back"
    )]
    Unreachable {
        /// Which etcd.
        store: String,
        /// What was seen last.
        text: String,
    },
    /// etcd stopped answering at the wrong moment.
    #[error(
        "{store} did not say whether it made this change ({text}): look whether it is made before trying again"
    )]
    Unknown {
        /// Which etcd.
        store: String,
        /// What was seen last.
        text: String,
    },
    /// etcd refused.
    #[error("{store} refused this: {text}")]
    Refused {
        /// Which etcd.
        store: String,
        /// Its sentence.
        text: String,
    },
    /// etcd has no space.
    #[error(
        "{store} has used up its space (`etcdctl endpoint status` shows how much): defragment it or raise \
         --quota-backend-bytes, then `etcdctl alarm disarm`"
    )]
    NoSpace {
        /// Which etcd.
        store: String,
    },
    /// Another controller leads.
    #[error("this controller does not lead any more, and changed nothing; try again: another takes over")]
    NotLeader,
}

/// A transactional key-value database: what SQLite is on one controller, and etcd on several.
pub trait KeyValue: Send + Sync + 'static {
    /// One key.
    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Entry>, StoreError>>;
    /// Every key that begins so, in the order of its bytes, as of one moment.
    fn list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>>;
    /// If all of `compare` holds does all of `then` and gives its revision; otherwise does nothing and gives `None`. It is
    /// queued when this returns, and carried out behind what was queued before, whether or not it is waited for.
    fn txn(
        &self,
        compare: Vec<Compare>,
        then: Vec<Write>,
    ) -> BoxFuture<'_, Result<Option<Revision>, StoreError>>;
    /// Wakes at every change of a key that begins so, from now on.
    fn watch(&self, prefix: String) -> Watch;
    /// Whether a write would be acknowledged now.
    fn check_writable(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}

pub(crate) use sqlite::settle;

/// Looks at what is about to be written, and may put other bytes in its place.
pub type Gate = Arc<dyn Fn(&str, &mut Vec<u8>) + Send + Sync>;

/// A handle to the store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Arc<dyn KeyValue>,
    gate: Arc<RwLock<Option<Gate>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens or makes the SQLite database at `path` (mode 0600), checks its integrity and brings its schema up to date.
    /// Blocks: call it before serving.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::over(Arc::new(sqlite::Sqlite::open(path)?)))
    }

    /// The store in etcd of the controller that leads. Must be called within a runtime.
    #[must_use]
    pub fn leading(leadership: &Leadership) -> Self {
        Self::over(Arc::new(etcd::Leading::new(leadership)))
    }

    /// A store over another database.
    #[must_use]
    pub fn over(database: Arc<dyn KeyValue>) -> Self {
        Self { database, gate: Arc::default() }
    }

    /// One key.
    pub async fn get(&self, key: impl Into<String>) -> Result<Option<Entry>, StoreError> {
        self.database.get(key.into()).await
    }

    /// Every key that begins so, in the order of its bytes, as of one moment.
    pub async fn list(&self, prefix: impl Into<String>) -> Result<Vec<Entry>, StoreError> {
        self.database.list(prefix.into()).await
    }

    /// If all of `compare` holds does all of `then` and gives its revision; otherwise does nothing and gives `None`.
    pub async fn txn(
        &self,
        compare: Vec<Compare>,
        mut then: Vec<Write>,
    ) -> Result<Option<Revision>, StoreError> {
        // The lock is held until the transaction is queued: see `set_gate`.
        let queued = {
            let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(gate) = gate.as_ref() {
                for write in &mut then {
                    if let Write::Put(key, value) = write {
                        gate(key, value);
                    }
                }
            }
            self.database.txn(compare, then)
        };
        queued.await
    }

    /// From when this returns every value that is written goes through `gate`, and all that did not is in the database.
    pub async fn set_gate(&self, gate: Gate) -> Result<(), StoreError> {
        *self.gate.write().unwrap_or_else(PoisonError::into_inner) = Some(gate);
        // Transactions are carried out in the order in which they are queued: this one waits for all before it.
        self.database.txn(Vec::new(), Vec::new()).await.map(drop)
    }

    /// Sets one key whatever it was.
    pub async fn put(&self, key: impl Into<String>, value: Vec<u8>) -> Result<Revision, StoreError> {
        let revision = self.txn(Vec::new(), vec![Write::Put(key.into(), value)]).await?;
        Ok(revision.expect("a transaction without conditions always happens"))
    }

    /// Removes one key.
    pub async fn delete(&self, key: impl Into<String>) -> Result<(), StoreError> {
        self.txn(Vec::new(), vec![Write::Delete(key.into())]).await.map(drop)
    }

    /// Wakes at every change of a key that begins so, from now on. It carries no state: read afresh when it wakes.
    #[must_use]
    pub fn watch(&self, prefix: impl Into<String>) -> Watch {
        self.database.watch(prefix.into())
    }

    /// Whether a write would be acknowledged now (it writes).
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        self.database.check_writable().await
    }
}
