//! Berth's own lines in an app's log: restarts, failed checks, kills for memory.
//!
//! In: a line about one container. Out: a small file of JSON lines in its log directory, beside the shim's segments.

use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// File name in a container's log directory.
pub const FILE: &str = "berth.jsonl";
/// A container that is restarted for ever must not fill the disk: the file begins anew at this size.
const LIMIT: u64 = 256 * 1024;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// When; microseconds since the Unix epoch.
    pub at_us: i64,
    /// What.
    pub text: String,
}

/// Adds a line. The log is no reason to fail: an error is only traced.
pub fn add(log_dir: &Path, text: &str) {
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(log_dir)?;
        let path = log_dir.join(FILE);
        if std::fs::metadata(&path).is_ok_and(|file| file.len() > LIMIT) {
            std::fs::rename(&path, log_dir.join("berth.old.jsonl"))?;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_us = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        let mut line = serde_json::to_vec(&Remark { at_us, text: text.to_owned() })?;
        line.push(b'\n');
        // One write: a reader sees the whole line or nothing of it.
        OpenOptions::new().create(true).append(true).open(path)?.write_all(&line)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %log_dir.display(), %error, "cannot write Berth's own line to the log");
    }
}

/// All lines kept, oldest first, from byte `from` of the current file on (older files only for 0); and where the next
/// read begins.
pub fn read(log_dir: &Path, from: u64) -> (Vec<Remark>, u64) {
    let mut lines = Vec::new();
    let mut take = |path: &Path, from: u64| -> Option<u64> {
        use std::io::{Seek, SeekFrom};
        let mut file = std::fs::File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        // Shorter than what was read: a new file under the name.
        let mut at = if length < from { 0 } else { from };
        file.seek(SeekFrom::Start(at)).ok()?;
        let mut reader = io::BufReader::new(file);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|n| n > 0) && line.ends_with('\n') {
            at += line.len() as u64;
            lines.extend(serde_json::from_str::<Remark>(&line));
            line.clear();
        }
        Some(at)
    };
    if from == 0 {
        take(&log_dir.join("berth.old.jsonl"), 0);
    }
    let next = take(&log_dir.join(FILE), from).unwrap_or(0);
    (lines, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_once() {
        let directory = tempfile::tempdir().expect("a directory");
        add(directory.path(), "one");
        let (lines, next) = read(directory.path(), 0);
        assert_eq!(lines.iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), ["one"]);
        assert!(read(directory.path(), next).0.is_empty());
        add(directory.path(), "two");
        assert_eq!(read(directory.path(), next).0[0].text, "two");
    }
}
