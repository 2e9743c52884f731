//! A day of minutes on the disk.
//!
//! In: points. Out: the same, after a restart too. History is worth little: what cannot be written is only traced, and a damaged
//! file begins anew.

use berth_model::AppName;
use berth_model::metrics::MetricPoint;
use rusqlite::{Connection, params};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How long they are kept, in seconds.
const KEPT: i64 = 24 * 3600;

#[derive(Debug)]
pub(super) struct Minutes(Mutex<Connection>);

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let made = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    made.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    // Kibibytes.
    connection.pragma_update(None, "cache_size", -128)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS minutes (app TEXT NOT NULL, at INTEGER NOT NULL, point TEXT NOT NULL,
         PRIMARY KEY (app, at)) WITHOUT ROWID, STRICT",
    )?;
    Ok(connection)
}

impl Minutes {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let connection = connect(path).or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the history of metrics begins anew");
            for extension in ["db", "db-wal", "db-shm"] {
                let _ = std::fs::remove_file(path.with_extension(extension));
            }
            connect(path)
        });
        Ok(Self(Mutex::new(connection.map_err(std::io::Error::other)?)))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps points, and forgets old ones.
    pub(super) fn add(&self, points: &[(AppName, MetricPoint)], now: i64) {
        let mut connection = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            for (app, point) in points {
                let text = serde_json::to_string(point).unwrap_or_default();
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO minutes VALUES (?1, ?2, ?3)")?
                    .execute(params![app.as_str(), point.at, text])?;
            }
            transaction.prepare_cached("DELETE FROM minutes WHERE at < ?1")?.execute([now - KEPT])?;
            transaction.commit()
        };
        if let Err(error) = write() {
            tracing::warn!(%error, "cannot keep a minute of metrics");
        }
    }

    /// An app's, oldest first.
    pub(super) fn of(&self, app: &AppName) -> Vec<MetricPoint> {
        let connection = self.lock();
        let read = || -> rusqlite::Result<Vec<MetricPoint>> {
            let mut statement =
                connection.prepare_cached("SELECT point FROM minutes WHERE app = ?1 ORDER BY at")?;
            let rows = statement.query_map([app.as_str()], |row| row.get::<_, String>(0))?;
            let texts = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
        };
        read().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the minutes of metrics");
            Vec::new()
        })
    }

    /// An app is gone.
    pub(super) fn forget(&self, app: &AppName) {
        if let Err(error) = self.lock().execute("DELETE FROM minutes WHERE app = ?1", [app.as_str()]) {
            tracing::warn!(%error, "cannot forget the metrics of an app");
        }
    }
}
