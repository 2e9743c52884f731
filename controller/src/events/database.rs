//! The events' SQLite file and the one thread that uses it.
//!
//! In: [`Command`]s. Out: rows, and the number of the newest. What waits together is committed together. `synchronous=NORMAL`:
//! a crash of the process loses nothing, one of the machine at most the last moments; nobody waits for the disk.

use super::{Event, KEPT, KEPT_MS, Wanted};
use crate::platform::now_ms;
use berth_model::AppName;
use berth_model::events::{EventInfo, EventResult};
use rusqlite::{Connection, OpenFlags, params};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use tokio::sync::{oneshot, watch};

/// Schema changes, in order; the number of those applied is `PRAGMA user_version`. Never change one: add one.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, app TEXT, by TEXT NOT NULL,
        origin TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, result TEXT NOT NULL, reason TEXT, took_ms INTEGER) STRICT;
     CREATE INDEX events_of_app ON events (app, seq);
     CREATE TABLE under_way (id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, app TEXT, by TEXT NOT NULL,
        origin TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL) STRICT;",
];

/// Commands that may share one commit.
const GROUP: usize = 128;
/// Events after which the oldest are looked for.
const PRUNE_EVERY: u32 = 256;

/// What the thread is asked.
#[derive(Debug)]
pub(super) enum Command {
    /// Keep an event; it ends the one that began as `begun`.
    Add { event: Event, failed: Option<String>, took_ms: Option<u64>, begun: Option<i64> },
    /// Note what begins; its id, or none when the disk is full.
    Begin { event: Event, reply: oneshot::Sender<Option<i64>> },
    /// It did not happen.
    Forget { id: i64 },
    /// Find some.
    List { wanted: Wanted, count: u32, newest: bool, reply: oneshot::Sender<Result<Vec<EventInfo>, String>> },
    /// Write a copy of all of them to a file that is not there yet.
    Copy { to: PathBuf, reply: oneshot::Sender<Result<(), String>> },
}

pub(super) struct Database {
    path: PathBuf,
    connection: Connection,
    publish: watch::Sender<u64>,
    lost: u64,
    since_prune: u32,
}

impl Database {
    pub(super) fn open(path: &Path, publish: watch::Sender<u64>) -> io::Result<Self> {
        let connection = match connect(path) {
            Ok(connection) => connection,
            Err(error) if is_damage(&error) => {
                let aside = path.with_extension("db.damaged");
                tracing::error!(path = %path.display(), aside = %aside.display(), %error, "the events are damaged; beginning anew");
                std::fs::rename(path, &aside)?;
                for left in ["db-wal", "db-shm"] {
                    let _ = std::fs::remove_file(path.with_extension(left));
                }
                connect(path).map_err(io::Error::other)?
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        let mut database = Self { path: path.to_owned(), connection, publish, lost: 0, since_prune: 0 };
        database.conclude_interrupted().map_err(io::Error::other)?;
        if let Err(error) = database.prune() {
            tracing::warn!(%error, "cannot forget old events");
        }
        let newest: i64 = database
            .connection
            .query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get(0))
            .map_err(io::Error::other)?;
        database.publish.send_replace(newest.unsigned_abs());
        Ok(database)
    }

    fn conclude_interrupted(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        transaction.execute(
            "INSERT INTO events (at_ms, app, by, origin, kind, text, result, reason)
             SELECT at_ms, app, by, origin, kind, text, 'interrupted', 'Berth was restarted meanwhile' FROM under_way ORDER BY id",
            [],
        )?;
        transaction.execute("DELETE FROM under_way", [])?;
        transaction.commit()
    }

    /// Until nobody can ask any more.
    pub(super) fn serve(mut self, queue: &mpsc::Receiver<Command>) {
        while let Ok(first) = queue.recv() {
            let commands = std::iter::once(first).chain(queue.try_iter().take(GROUP - 1)).collect();
            self.carry_out(commands);
        }
    }

    fn carry_out(&mut self, commands: Vec<Command>) {
        let mut reads = Vec::new();
        let mut writes = Vec::new();
        for command in commands {
            match command {
                Command::List { .. } | Command::Copy { .. } => reads.push(command),
                write => writes.push(write),
            }
        }
        self.write(writes);
        for command in reads {
            let path = self.path.display();
            match command {
                Command::List { wanted, count, newest, reply } => {
                    let found = list(&self.connection, &wanted, count, newest);
                    let _ = reply.send(found.map_err(|error| format!("{path}: {error}")));
                }
                Command::Copy { to, reply } => {
                    let copied = self.connection.execute("VACUUM INTO ?1", [to.to_string_lossy()]);
                    let _ = reply.send(copied.map(drop).map_err(|error| format!("{path}: {error}")));
                }
                Command::Add { .. } | Command::Begin { .. } | Command::Forget { .. } => {}
            }
        }
    }

    fn write(&mut self, commands: Vec<Command>) {
        if commands.is_empty() {
            return;
        }
        let count = commands.iter().filter(|command| matches!(command, Command::Add { .. })).count();
        let mut replies = Vec::new();
        match self.commit(commands, &mut replies) {
            Ok(newest) => {
                self.lost = 0;
                for (reply, id) in replies {
                    let _ = reply.send(Some(id));
                }
                if let Some(newest) = newest {
                    self.publish.send_replace(newest.unsigned_abs());
                }
                self.since_prune += u32::try_from(count).unwrap_or(u32::MAX);
                if self.since_prune >= PRUNE_EVERY {
                    self.since_prune = 0;
                    if let Err(error) = self.prune() {
                        tracing::warn!(%error, "cannot forget old events");
                    }
                }
            }
            Err(error) => {
                // Dropped replies say that there is no id.
                self.lost += count as u64;
                tracing::error!(%error, lost = self.lost, "cannot keep events");
            }
        }
    }

    /// All of them in one transaction; the newest number, if there is a new one.
    fn commit(
        &mut self,
        commands: Vec<Command>,
        replies: &mut Vec<(oneshot::Sender<Option<i64>>, i64)>,
    ) -> rusqlite::Result<Option<i64>> {
        let transaction = self.connection.transaction()?;
        let mut newest = None;
        if self.lost > 0 {
            let text = format!("{} events could not be kept: the disk was full or broken", self.lost);
            let event = Event::by_itself(None, "events.lost", text);
            newest = Some(insert(&transaction, &event, EventResult::Done, None, None)?);
        }
        for command in commands {
            match command {
                Command::Add { event, failed, took_ms, begun } => {
                    let result = if failed.is_some() { EventResult::Failed } else { EventResult::Done };
                    newest = Some(insert(&transaction, &event, result, failed.as_deref(), took_ms)?);
                    if let Some(id) = begun {
                        transaction.prepare_cached("DELETE FROM under_way WHERE id = ?1")?.execute([id])?;
                    }
                }
                Command::Begin { event, reply } => {
                    transaction
                        .prepare_cached(
                            "INSERT INTO under_way (at_ms, app, by, origin, kind, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                        )?
                        .execute(params![
                            event.at_ms,
                            event.app.as_ref().map(AppName::as_str),
                            event.by,
                            event.from,
                            event.kind,
                            event.text
                        ])?;
                    replies.push((reply, transaction.last_insert_rowid()));
                }
                Command::Forget { id } => {
                    transaction.prepare_cached("DELETE FROM under_way WHERE id = ?1")?.execute([id])?;
                }
                Command::List { .. } | Command::Copy { .. } => {}
            }
        }
        transaction.commit()?;
        Ok(newest)
    }

    fn prune(&mut self) -> rusqlite::Result<()> {
        self.connection.execute(
            "DELETE FROM events WHERE seq <= (SELECT coalesce(max(seq), 0) FROM events) - ?1",
            [KEPT],
        )?;
        // By number, not by time: times may jump. The first that is young enough ends it.
        self.connection.execute(
            "DELETE FROM events WHERE seq < coalesce((SELECT min(seq) FROM events WHERE at_ms >= ?1), 0)",
            [now_ms() - KEPT_MS],
        )?;
        Ok(())
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // Made by us first, so that it never exists with another mode.
    let made = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    made.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Kibibytes: it is asked seldom and for the newest.
    connection.pragma_update(None, "cache_size", -256)?;
    let start = usize::try_from(found).unwrap_or(0);
    for (number, sql) in MIGRATIONS.iter().enumerate().skip(start) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", number + 1)?;
        transaction.commit()?;
    }
    Ok(connection)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

fn insert(
    connection: &Connection,
    event: &Event,
    result: EventResult,
    reason: Option<&str>,
    took_ms: Option<u64>,
) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "INSERT INTO events (at_ms, app, by, origin, kind, text, result, reason, took_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            event.at_ms,
            event.app.as_ref().map(AppName::as_str),
            event.by,
            event.from,
            event.kind,
            event.text,
            result.as_str(),
            reason,
            took_ms.and_then(|ms| i64::try_from(ms).ok())
        ])?;
    Ok(connection.last_insert_rowid())
}

fn list(
    connection: &Connection,
    wanted: &Wanted,
    count: u32,
    newest: bool,
) -> rusqlite::Result<Vec<EventInfo>> {
    let order = if newest { "DESC" } else { "ASC" };
    // `glob` is case-sensitive, and a kind that was asked for is no pattern: it is compared by its beginning.
    let sql = format!(
        "SELECT seq, at_ms, app, by, origin, kind, text, result, reason, took_ms FROM events
         WHERE seq > ?1 AND (?2 IS NULL OR app = ?2) AND at_ms >= ?3 AND at_ms <= ?4
           AND (?5 IS NULL OR kind = ?5 OR substr(kind, 1, length(?5) + 1) = ?5 || '.')
           AND seq < ?7 AND (?8 IS NULL OR by = ?8) AND (?9 IS NULL OR result = ?9)
         ORDER BY seq {order} LIMIT ?6"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(
        params![
            i64::try_from(wanted.after).unwrap_or(i64::MAX),
            wanted.app.as_ref().map(AppName::as_str),
            wanted.since_ms.unwrap_or(i64::MIN),
            wanted.until_ms.unwrap_or(i64::MAX),
            wanted.kind,
            count,
            wanted.before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX)),
            wanted.by,
            wanted.result.map(EventResult::as_str)
        ],
        info,
    )?;
    let mut found = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    if newest {
        found.reverse();
    }
    Ok(found)
}

fn info(row: &rusqlite::Row<'_>) -> rusqlite::Result<EventInfo> {
    let (app, result): (Option<String>, String) = (row.get(2)?, row.get(7)?);
    Ok(EventInfo {
        seq: row.get::<_, i64>(0)?.unsigned_abs(),
        at_ms: row.get(1)?,
        app: app.and_then(|app| AppName::parse(&app).ok()),
        by: row.get(3)?,
        from: row.get(4)?,
        kind: row.get(5)?,
        text: row.get(6)?,
        result: EventResult::parse(&result).unwrap_or(EventResult::Done),
        reason: row.get(8)?,
        took_ms: row.get::<_, Option<i64>>(9)?.map(i64::unsigned_abs),
    })
}
