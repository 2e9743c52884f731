//! The access log: a line a request, gathered by each thread and written by one.
//!
//! In: what a finished request was. Out: `DIR/proxy/access.log`, rotated by size. A disk that is slow or full costs log
//! lines (counted and told), never requests.

mod entry;

pub(crate) use entry::Entry;

use crate::settings::Settings;
use berth_model::route::AccessLogFormat;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes a thread gathers before it hands them over.
const BATCH: usize = 48 * 1024;
/// Batches waiting for the disk.
const WAITING: usize = 64;

/// Where threads hand over their batches.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    batches: Option<SyncSender<Vec<u8>>>,
    lost: Arc<Lost>,
}

/// Lines that never reached the disk.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    lines: AtomicU64,
    /// Batches since it was last told.
    untold: AtomicU64,
}

impl Lost {
    /// Lines, since the proxy started.
    pub(crate) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    fn add(&self, batch: &[u8]) {
        let lines = memchr::memchr_iter(b'\n', batch).count();
        self.lines.fetch_add(lines as u64, Ordering::Relaxed);
        self.untold.fetch_add(1, Ordering::Relaxed);
    }
}

/// The lines one thread has gathered.
#[derive(Debug)]
pub(crate) struct Lines {
    sink: Sink,
    gathered: Mutex<Gathered>,
}

#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// Which second, and for which format, `text` says.
    second: (u64, AccessLogFormat),
    /// A second as the format writes it.
    text: String,
}

impl Lines {
    pub(crate) fn new(sink: Sink) -> Self {
        Self { sink, gathered: Mutex::default() }
    }

    pub(crate) fn add(&self, format: AccessLogFormat, entry: &Entry<'_>, now: Duration) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let Gathered { bytes, second, text } = &mut *gathered;
        if *second != (now.as_secs(), format) || text.is_empty() {
            *second = (now.as_secs(), format);
            *text = second_text(now.as_secs(), format);
        }
        match format {
            AccessLogFormat::Json => entry::json(entry, text, now.subsec_millis(), bytes),
            AccessLogFormat::Combined => entry::combined(entry, text, bytes),
            AccessLogFormat::Off => {}
        }
        if bytes.len() >= BATCH {
            self.sink.hand_over(std::mem::replace(bytes, Vec::with_capacity(BATCH + 1024)));
        }
    }

    /// Hands over what is there.
    pub(crate) fn flush(&self) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if !gathered.bytes.is_empty() {
            self.sink.hand_over(std::mem::take(&mut gathered.bytes));
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Sink {
    /// What was lost.
    pub(crate) fn lost(&self) -> &Arc<Lost> {
        &self.lost
    }

    fn hand_over(&self, batch: Vec<u8>) {
        let Some(batches) = &self.batches else { return };
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) = batches.try_send(batch) {
            self.lost.add(&batch);
        }
    }
}

fn second_text(second: u64, format: AccessLogFormat) -> String {
    let at = i64::try_from(second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    let at = at.unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    match format {
        AccessLogFormat::Combined => at.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string(),
        AccessLogFormat::Json | AccessLogFormat::Off => at.to_string().trim_end_matches('Z').to_owned(),
    }
}

/// Opens the log and starts its writer, which ends when the last [`Sink`] is dropped.
pub(crate) fn start(path: PathBuf, settings: &Settings) -> io::Result<(Sink, JoinHandle<()>)> {
    let file = open(&path)?;
    let (sender, receiver) = sync_channel(WAITING);
    let lost = Arc::<Lost>::default();
    let writer =
        Writer { path, file, limit: settings.log_bytes, keep: settings.log_files, lost: lost.clone() };
    let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(|| writer.run(receiver))?;
    Ok((Sink { batches: Some(sender), lost }, thread))
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

struct Writer {
    path: PathBuf,
    file: File,
    limit: u64,
    keep: u32,
    lost: Arc<Lost>,
}

impl Writer {
    #[expect(clippy::needless_pass_by_value, reason = "the thread owns its end")]
    fn run(mut self, batches: Receiver<Vec<u8>>) {
        let mut broken = false;
        while let Ok(batch) = batches.recv() {
            match self.write(&batch) {
                Ok(()) => broken = false,
                Err(error) => {
                    self.lost.add(&batch);
                    if !std::mem::replace(&mut broken, true) {
                        tracing::error!(path = %self.path.display(), %error, "cannot write the access log; lines are lost");
                    }
                }
            }
            let lost = self.lost.untold.swap(0, Ordering::Relaxed);
            if lost > 0 && !broken {
                tracing::warn!(batches = lost, "access log lines were lost: the disk was too slow");
            }
        }
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        if !self.is_in_place()? {
            self.file = open(&self.path)?; // a predecessor that still ends its work rotates it too
        }
        self.file.write_all(batch)?;
        if self.file.metadata()?.len() >= self.limit {
            self.rotate()?;
        }
        Ok(())
    }

    /// Whether the file that is written is the one at the path.
    fn is_in_place(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        match std::fs::metadata(&self.path) {
            Ok(there) => {
                let own = self.file.metadata()?;
                Ok((there.dev(), there.ino()) == (own.dev(), own.ino()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..self.keep).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match self.keep {
            0 => std::fs::remove_file(&self.path)?,
            _ => std::fs::rename(&self.path, numbered(1))?,
        }
        self.file = open(&self.path)?;
        Ok(())
    }
}

/// The time of day, for log lines and `X-Request-Start`.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_rotated_by_size() {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = Settings { log_bytes: 10, log_files: 2, ..Settings::default() };
        let (sink, thread) = start(dir.path().join("access.log"), &settings).expect("opens");
        for batch in ["first-line\n", "second-line\n", "third-line\n", "4\n"] {
            sink.hand_over(batch.into());
        }
        drop(sink);
        thread.join().expect("ends");
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("is there");
        assert_eq!(read("access.log"), "4\n");
        assert_eq!(read("access.log.1"), "third-line\n");
        assert_eq!(read("access.log.2"), "second-line\n");
        assert!(!dir.path().join("access.log.3").exists());
    }
}
