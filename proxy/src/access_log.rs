//! The access log: one JSON object a line, gathered by each thread and written by one.
//!
//! In: what a finished request was. Out: `DIR/proxy/access.log`, rotated by size. A disk that is slow or full costs log
//! lines (counted and told), never requests.

use crate::settings::Settings;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes a thread gathers before it hands them over.
const BATCH: usize = 48 * 1024;
/// Batches waiting for the disk.
const WAITING: usize = 64;

/// One finished request.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) app: &'a str,
    pub(crate) release: Option<u64>,
    pub(crate) container: Option<&'a str>,
    pub(crate) client: &'a str,
    pub(crate) method: &'a [u8],
    pub(crate) host: &'a [u8],
    /// With its query left out: that may hold secrets.
    pub(crate) path: &'a [u8],
    /// What the client got; 0 for nothing.
    pub(crate) status: u16,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) total_us: u64,
    /// From the request's head to the answer's first byte.
    pub(crate) first_byte_us: Option<u64>,
    pub(crate) attempts: u32,
    pub(crate) id: &'a [u8],
    /// The answer was cut short.
    pub(crate) aborted: bool,
}

/// Where threads hand over their batches.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    batches: Option<SyncSender<Vec<u8>>>,
    lost: Arc<AtomicU64>,
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
    second: u64,
    /// `second` as text, up to the point before the milliseconds.
    text: String,
}

impl Lines {
    pub(crate) fn new(sink: Sink) -> Self {
        Self { sink, gathered: Mutex::default() }
    }

    pub(crate) fn add(&self, entry: &Entry<'_>, now: Duration) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let Gathered { bytes, second, text } = &mut *gathered;
        if *second != now.as_secs() || text.is_empty() {
            *second = now.as_secs();
            *text = second_text(now.as_secs());
        }
        write_entry(entry, text, now.subsec_millis(), bytes);
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
    fn hand_over(&self, batch: Vec<u8>) {
        let Some(batches) = &self.batches else { return };
        if batches.try_send(batch).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn second_text(second: u64) -> String {
    let at = i64::try_from(second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    let text = at.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string();
    text.trim_end_matches('Z').to_owned()
}

fn write_entry(entry: &Entry<'_>, second: &str, millis: u32, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let mut number = |out: &mut Vec<u8>, key: &str, value: u64| {
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(digits.format(value).as_bytes());
    };
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(second.as_bytes());
    number(
        out,
        if millis < 10 {
            ".00"
        } else if millis < 100 {
            ".0"
        } else {
            "."
        },
        u64::from(millis),
    );
    out.extend_from_slice(b"Z\",\"app\":\"");
    escape(entry.app.as_bytes(), out);
    out.push(b'"');
    if let Some(release) = entry.release {
        number(out, ",\"release\":", release);
    }
    let mut text = |key: &str, value: &[u8]| {
        out.extend_from_slice(key.as_bytes());
        escape(value, out);
        out.push(b'"');
    };
    if let Some(container) = entry.container {
        text(",\"container\":\"", container.as_bytes());
    }
    text(",\"client\":\"", entry.client.as_bytes());
    text(",\"method\":\"", entry.method);
    text(",\"host\":\"", entry.host);
    text(",\"path\":\"", entry.path.split(|b| *b == b'?').next().unwrap_or_default());
    text(",\"id\":\"", entry.id);
    number(out, ",\"status\":", u64::from(entry.status));
    number(out, ",\"received\":", entry.received);
    number(out, ",\"sent\":", entry.sent);
    number(out, ",\"total_us\":", entry.total_us);
    if let Some(first) = entry.first_byte_us {
        number(out, ",\"first_byte_us\":", first);
    }
    if entry.attempts > 1 {
        number(out, ",\"attempts\":", u64::from(entry.attempts));
    }
    if entry.aborted {
        out.extend_from_slice(b",\"aborted\":true");
    }
    out.extend_from_slice(b"}\n");
}

/// Writes the inside of a JSON string. Bytes that are not ASCII become `\u00xx`: what a client sends need not be UTF-8.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    if text.iter().all(|b| matches!(b, b' '..=b'~') && *b != b'"' && *b != b'\\') {
        out.extend_from_slice(text);
        return;
    }
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => {
                let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            }
        }
    }
}

/// Opens the log and starts its writer, which ends when the last [`Sink`] is dropped.
pub(crate) fn start(path: PathBuf, settings: &Settings) -> io::Result<(Sink, JoinHandle<()>)> {
    let file = open(&path)?;
    let (sender, receiver) = sync_channel(WAITING);
    let lost = Arc::new(AtomicU64::new(0));
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
    lost: Arc<AtomicU64>,
}

impl Writer {
    #[expect(clippy::needless_pass_by_value, reason = "the thread owns its end")]
    fn run(mut self, batches: Receiver<Vec<u8>>) {
        let mut broken = false;
        while let Ok(batch) = batches.recv() {
            match self.write(&batch) {
                Ok(()) => broken = false,
                Err(error) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    if !std::mem::replace(&mut broken, true) {
                        tracing::error!(path = %self.path.display(), %error, "cannot write the access log; lines are lost");
                    }
                }
            }
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 && !broken {
                tracing::warn!(batches = lost, "access log lines were lost: the disk was too slow");
            }
        }
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        self.file.write_all(batch)?;
        if self.file.metadata()?.len() >= self.limit {
            self.rotate()?;
        }
        Ok(())
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
    fn a_line_is_json_whatever_the_client_sent() {
        let entry = Entry {
            app: "hello",
            release: Some(12),
            container: Some("hello.web.1.k7"),
            client: "192.0.2.7",
            method: b"GET",
            host: b"hello.example",
            path: b"/a\"\\\xff\x01?token=secret",
            status: 200,
            received: 1,
            sent: 2,
            total_us: 3,
            first_byte_us: Some(2),
            attempts: 2,
            id: b"abc",
            aborted: true,
        };
        let mut out = Vec::new();
        write_entry(&entry, &second_text(1_700_000_000), 7, &mut out);
        let line: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(line["time"], "2023-11-14T22:13:20.007Z");
        assert_eq!(line["path"], "/a\"\\\u{ff}\u{1}");
        assert_eq!((&line["release"], &line["status"]), (&12.into(), &200.into()));
        assert!(!String::from_utf8_lossy(&out).contains("secret"));
    }

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
