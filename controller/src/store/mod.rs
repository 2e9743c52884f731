//! The store: a small transactional key-value database with revisions and watch. Everything the platform is to be is here.
//!
//! In: keys (text, parts joined by `/`) and values (bytes). Out: the same, with the revision that last changed them.
//! A write that was acknowledged is on the disk. All SQL is in [`sqlite`]; another database is another [`KeyValue`].

mod sqlite;
#[cfg(test)]
mod tests;
mod watch;

pub use watch::Watch;

use futures_util::future::BoxFuture;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Counts successful writing transactions, from 1.
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
}

/// A transactional key-value database: what SQLite is on one controller, and etcd will be on several.
pub trait KeyValue: Send + Sync + 'static {
    /// One key.
    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Entry>, StoreError>>;
    /// Every key that begins so, in the order of its bytes, as of one moment.
    fn list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>>;
    /// If all of `compare` holds does all of `then` and gives its revision; otherwise does nothing and gives `None`.
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

/// A handle to the store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<dyn KeyValue>);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens or makes the SQLite database at `path` (mode 0600), checks its integrity and brings its schema up to date.
    /// Blocks: call it before serving.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(sqlite::Sqlite::open(path)?)))
    }

    /// A store over another database.
    #[must_use]
    pub fn over(database: Arc<dyn KeyValue>) -> Self {
        Self(database)
    }

    /// One key.
    pub async fn get(&self, key: impl Into<String>) -> Result<Option<Entry>, StoreError> {
        self.0.get(key.into()).await
    }

    /// Every key that begins so, in the order of its bytes, as of one moment.
    pub async fn list(&self, prefix: impl Into<String>) -> Result<Vec<Entry>, StoreError> {
        self.0.list(prefix.into()).await
    }

    /// If all of `compare` holds does all of `then` and gives its revision; otherwise does nothing and gives `None`.
    pub async fn txn(&self, compare: Vec<Compare>, then: Vec<Write>) -> Result<Option<Revision>, StoreError> {
        self.0.txn(compare, then).await
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
        self.0.watch(prefix.into())
    }

    /// Whether a write would be acknowledged now (it writes).
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        self.0.check_writable().await
    }
}
