//! The SQLite store. The only file with SQL in it.
//!
//! One thread writes, one reads: WAL lets reads go on during a commit. Transactions that wait while one is being committed
//! go to the disk together in the next commit, so durability costs one `fsync` for all of them (group commit); each is
//! compared and written by itself, so one that is refused does not touch its neighbours.

use super::watch::Changes;
use super::{Compare, Entry, KeyValue, Revision, StoreError, Watch, Write};
use futures_util::future::BoxFuture;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;

/// Schema changes, in order; the number of those applied is `PRAGMA user_version`. Never change one: add one.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE kv (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID, STRICT;
     CREATE TABLE counter (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL) STRICT;
     INSERT INTO counter VALUES (1, 0);",
];

/// Transactions that may share one commit.
const GROUP: usize = 128;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Read {
    Get(String, Reply<Option<Entry>>),
    List(String, Reply<Vec<Entry>>),
}

struct Transaction {
    compare: Vec<Compare>,
    then: Vec<Write>,
    reply: Reply<Option<Revision>>,
}

pub(super) struct Sqlite {
    reads: mpsc::Sender<Read>,
    writes: mpsc::Sender<Transaction>,
    changes: Arc<Changes>,
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let io = |source| StoreError::Io { path: path.to_owned(), source };
        // Made by us first, so that it never exists with another mode; SQLite gives the WAL the same one.
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(io)?;
        let mut writer = connect(path)?;
        migrate(path, &mut writer)?;
        let reader = connect(path)?;
        reader.pragma_update(None, "query_only", true).map_err(|error| classify(path, error))?;

        let changes = Arc::new(Changes::new());
        let (reads, read_queue) = mpsc::channel();
        let (writes, write_queue) = mpsc::channel();
        let reading = path.to_owned();
        spawn("store-read", move || read_loop(&reading, &reader, &read_queue)).map_err(io)?;
        let (writing, publish) = (path.to_owned(), changes.clone());
        spawn("store-write", move || write_loop(&writing, &mut writer, &write_queue, &publish))
            .map_err(io)?;
        Ok(Self { reads, writes, changes })
    }

    async fn read<T>(&self, ask: impl FnOnce(Reply<T>) -> Read) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.reads.send(ask(reply)).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl KeyValue for Sqlite {
    fn get(&self, key: String) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        Box::pin(self.read(|reply| Read::Get(key, reply)))
    }

    fn list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        Box::pin(self.read(|reply| Read::List(prefix, reply)))
    }

    fn txn(
        &self,
        compare: Vec<Compare>,
        then: Vec<Write>,
    ) -> BoxFuture<'_, Result<Option<Revision>, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.writes.send(Transaction { compare, then, reply });
        Box::pin(async move {
            sent.map_err(|_| StoreError::Closed)?;
            answer.await.map_err(|_| StoreError::Closed)?
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

/// Puts all that was written to a database into its one file. Nobody may write to it any more.
pub(crate) fn settle(path: &Path) -> Result<(), StoreError> {
    let done = connect(path)?.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    match done {
        Ok(0) => {}
        Ok(_) => {
            let text = format!("{} is still in use", path.display());
            return Err(StoreError::Settings { text });
        }
        Err(error) => return Err(classify(path, error)),
    }
    let io = |source| StoreError::Io { path: path.to_owned(), source };
    std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(io)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        Ok(connection)
    };
    open().map_err(|error| classify(path, error))
}

/// Checks the file and brings the schema up to date. A database of a newer Berth is left exactly as it is.
fn migrate(path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    let database = |error| classify(path, error);
    let found: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(database)?;
    let known = i64::try_from(MIGRATIONS.len()).expect("there are few migrations");
    if found > known {
        return Err(StoreError::NewerSchema { path: path.to_owned(), found, known });
    }
    let verdict: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(database)?;
    if verdict != "ok" {
        return Err(StoreError::Corrupt { path: path.to_owned(), text: verdict });
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(database)?;
    // FULL: a commit is acknowledged after the WAL was synced, so it outlives a power cut.
    connection.pragma_update(None, "synchronous", "FULL").map_err(database)?;
    // Deleted values are overwritten, not only forgotten.
    connection.pragma_update(None, "secure_delete", "ON").map_err(database)?;
    let start = usize::try_from(found).unwrap_or(0);
    for (number, sql) in MIGRATIONS.iter().enumerate().skip(start) {
        let mut step = || {
            let transaction = connection.transaction()?;
            transaction.execute_batch(sql)?;
            transaction.pragma_update(None, "user_version", number + 1)?;
            transaction.commit()
        };
        step().map_err(database)?;
    }
    Ok(())
}

fn classify(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    let code = error.sqlite_error_code();
    // SQLite reports a full disk as SQLITE_FULL, but while growing the shared-memory file as an I/O error.
    const IOERR_SHMSIZE: i32 = 4874;
    let extended = error.sqlite_error().map(|e| e.extended_code);
    match code {
        _ if extended == Some(IOERR_SHMSIZE) => StoreError::Full { path },
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { path, text: error.to_string() }
        }
        _ => StoreError::Database { path, source: error },
    }
}

fn read_loop(path: &Path, connection: &Connection, queue: &mpsc::Receiver<Read>) {
    for read in queue {
        // A caller that went away no longer wants the answer.
        match read {
            Read::Get(key, reply) => {
                let _ = reply.send(get(connection, &key).map_err(|error| classify(path, error)));
            }
            Read::List(prefix, reply) => {
                let _ = reply.send(list(connection, &prefix).map_err(|error| classify(path, error)));
            }
        }
    }
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    let revision: i64 = row.get(2)?;
    Ok(Entry { key: row.get(0)?, value: row.get(1)?, revision: revision.unsigned_abs() })
}

fn get(connection: &Connection, key: &str) -> rusqlite::Result<Option<Entry>> {
    let mut statement = connection.prepare_cached("SELECT key, value, revision FROM kv WHERE key = ?1")?;
    statement.query_row([key], entry).optional()
}

fn list(connection: &Connection, prefix: &str) -> rusqlite::Result<Vec<Entry>> {
    // Every key that begins with the prefix is at or after it, without a gap: stop at the first that does not.
    let mut statement =
        connection.prepare_cached("SELECT key, value, revision FROM kv WHERE key >= ?1 ORDER BY key")?;
    let rows = statement.query_map([prefix], entry)?;
    let mut found = Vec::new();
    for row in rows {
        let row = row?;
        if !row.key.starts_with(prefix) {
            break;
        }
        found.push(row);
    }
    Ok(found)
}

/// What one transaction did.
struct Written {
    revision: Revision,
    keys: Vec<String>,
}

fn write_loop(
    path: &Path,
    connection: &mut Connection,
    queue: &mpsc::Receiver<Transaction>,
    changes: &Changes,
) {
    while let Ok(first) = queue.recv() {
        let group: Vec<_> = std::iter::once(first).chain(queue.try_iter().take(GROUP - 1)).collect();
        let outcomes: Vec<rusqlite::Result<Option<Written>>> = match commit(connection, &group) {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(error) if group.len() == 1 => vec![Err(error)],
            // It failed for all, and one of them (too big for the disk) may be why: each by itself, then.
            Err(_) => group.iter().map(|one| commit_one(connection, one)).collect(),
        };
        for (transaction, outcome) in group.into_iter().zip(outcomes) {
            let answer = match outcome {
                Ok(Some(written)) => {
                    changes.publish(written.revision, written.keys);
                    Ok(Some(written.revision))
                }
                Ok(None) => Ok(None),
                Err(error) => Err(classify(path, error)),
            };
            // A caller that went away no longer wants the answer; what it wrote stays written.
            let _ = transaction.reply.send(answer);
        }
    }
}

fn commit_one(connection: &mut Connection, one: &Transaction) -> rusqlite::Result<Option<Written>> {
    commit(connection, std::slice::from_ref(one)).map(|mut outcomes| outcomes.remove(0))
}

/// All of the group in one commit, or nothing of it. A transaction whose comparison fails gives `None` and does nothing.
fn commit(connection: &mut Connection, group: &[Transaction]) -> rusqlite::Result<Vec<Option<Written>>> {
    let sql = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let counted: i64 = sql.query_row("SELECT revision FROM counter", [], |row| row.get(0))?;
    let mut revision = counted;
    let mut outcomes = Vec::with_capacity(group.len());
    for transaction in group {
        let holds = transaction.compare.iter().map(|compare| holds(&sql, compare));
        if !holds.collect::<rusqlite::Result<Vec<bool>>>()?.into_iter().all(|held| held) {
            outcomes.push(None);
            continue;
        }
        if !transaction.then.is_empty() {
            revision += 1;
        }
        let mut keys = Vec::new();
        for write in &transaction.then {
            apply(&sql, write, revision, &mut keys)?;
        }
        outcomes.push(Some(Written { revision: revision.unsigned_abs(), keys }));
    }
    if revision != counted {
        sql.execute("UPDATE counter SET revision = ?1", [revision])?;
    }
    sql.commit()?;
    Ok(outcomes)
}

fn holds(connection: &Connection, compare: &Compare) -> rusqlite::Result<bool> {
    let (Compare::Revision(key, _) | Compare::Absent(key) | Compare::Present(key)) = compare;
    let mut statement = connection.prepare_cached("SELECT revision FROM kv WHERE key = ?1")?;
    let found: Option<i64> = statement.query_row([key], |row| row.get(0)).optional()?;
    Ok(match compare {
        Compare::Revision(_, wanted) => found.map(i64::unsigned_abs) == Some(*wanted),
        Compare::Absent(_) => found.is_none(),
        Compare::Present(_) => found.is_some(),
    })
}

fn apply(
    connection: &Connection,
    write: &Write,
    revision: i64,
    changed: &mut Vec<String>,
) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached("DELETE FROM kv WHERE key = ?1")?;
    match write {
        Write::Put(key, value) => {
            const PUT: &str = "INSERT INTO kv (key, value, revision) VALUES (?1, ?2, ?3)
                ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision";
            connection.prepare_cached(PUT)?.execute(params![key, value, revision])?;
            changed.push(key.clone());
        }
        Write::Delete(key) => {
            if delete.execute([key])? > 0 {
                changed.push(key.clone());
            }
        }
        Write::DeletePrefix(prefix) => {
            for found in list(connection, prefix)? {
                delete.execute([&found.key])?;
                changed.push(found.key);
            }
        }
    }
    Ok(())
}
