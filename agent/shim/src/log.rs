//! The output of a container, framed into rotated segments.
//!
//! In: bytes as the container wrote them. Out: frames appended to files. Only the disk is in the container's way, and
//! a full one is not: what cannot be written is counted, and said when there is room again.

use berth_shim::segment::{self, BERTH, MAX_TEXT, SEGMENTS};
use rustix::fs::{CWD, Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The newest segment of a log directory.
pub(crate) struct Writer {
    dir: PathBuf,
    file: File,
    number: u64,
    size: u64,
    segment_bytes: u64,
    dropped: u64,
    frames: Vec<u8>,
}

impl Writer {
    /// Goes on after the newest segment there is; `log_bytes` is what all segments together may take.
    pub(crate) fn open(dir: &Path, log_bytes: u64) -> io::Result<Self> {
        let newest = numbers(dir)?.last().copied().unwrap_or(0);
        let number = newest + 1;
        let file = create(dir, number)?;
        let segment_bytes = (log_bytes / SEGMENTS).max(64 * 1024);
        let mut writer = Self {
            dir: dir.to_owned(),
            file,
            number,
            size: 0,
            segment_bytes,
            dropped: 0,
            frames: Vec::new(),
        };
        writer.drop_oldest();
        Ok(writer)
    }

    /// Adds Berth's own remark.
    pub(crate) fn remark(&mut self, text: &str) {
        segment::encode(&mut self.frames, now_us(), BERTH, false, text.as_bytes());
        self.flush(1);
    }

    fn flush(&mut self, lines: u64) {
        if self.size >= self.segment_bytes {
            self.rotate();
        }
        if self.dropped > 0 {
            let mut record = Vec::new();
            let text = format!("{} lines dropped: the disk was full", self.dropped);
            segment::encode(&mut record, now_us(), BERTH, false, text.as_bytes());
            record.append(&mut self.frames);
            self.frames = record;
        }
        match self.file.write_all(&self.frames) {
            Ok(()) => {
                self.size += self.frames.len() as u64;
                self.dropped = 0;
            }
            Err(_) => {
                // Cut a half-written frame away: a reader could not find the next one.
                let _ = self.file.set_len(self.size);
                self.dropped += lines;
                self.rotate(); // frees the oldest, if any
            }
        }
        self.frames.clear();
        if self.frames.capacity() > 256 * 1024 {
            self.frames = Vec::new();
        }
    }

    fn rotate(&mut self) {
        if self.size == 0 {
            return;
        }
        if let Ok(file) = create(&self.dir, self.number + 1) {
            self.number += 1;
            self.file = file;
            self.size = 0;
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Ok(numbers) = numbers(&self.dir) else { return };
        // By size as well as by count: lives that wrote little leave small segments.
        let keep = usize::try_from(SEGMENTS).unwrap_or(8);
        for old in numbers.iter().take(numbers.len().saturating_sub(keep)) {
            let _ = std::fs::remove_file(self.dir.join(segment::file_name(*old)));
        }
    }
}

/// One output of the container: what of its last line has come so far.
pub(crate) struct Lines {
    pub(crate) stream: u8,
    partial: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: u8) -> Self {
        Self { stream, partial: Vec::new() }
    }

    /// Takes bytes as they were read; whole lines are written, the rest is kept for later.
    pub(crate) fn take(&mut self, mut bytes: &[u8], to: &mut Writer) {
        let at_us = now_us();
        let mut lines = 0;
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (piece, rest) = match end {
                Some(end) => (&bytes[..end], &bytes[end + 1..]),
                None => (bytes, &bytes[bytes.len()..]),
            };
            bytes = rest;
            let mut piece = piece;
            while self.partial.len() + piece.len() > MAX_TEXT {
                let (now, later) = piece.split_at(MAX_TEXT - self.partial.len());
                self.partial.extend_from_slice(now);
                segment::encode(&mut to.frames, at_us, self.stream, true, &self.partial);
                self.partial.clear();
                piece = later;
                lines += 1;
            }
            if end.is_none() {
                self.partial.extend_from_slice(piece);
            } else if self.partial.is_empty() {
                segment::encode(&mut to.frames, at_us, self.stream, false, piece);
                lines += 1;
            } else {
                self.partial.extend_from_slice(piece);
                segment::encode(&mut to.frames, at_us, self.stream, false, &self.partial);
                self.partial.clear();
                lines += 1;
            }
        }
        if lines > 0 {
            to.flush(lines);
        }
    }

    /// The output has ended: what is left is a line too.
    pub(crate) fn end(&mut self, to: &mut Writer) {
        if !self.partial.is_empty() {
            segment::encode(&mut to.frames, now_us(), self.stream, false, &self.partial);
            self.partial.clear();
            to.flush(1);
        }
    }
}

/// Microseconds since the Unix epoch.
pub(crate) fn now_us() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn create(dir: &Path, number: u64) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    let fd =
        rustix::fs::openat(CWD, dir.join(segment::file_name(number)), flags, Mode::from_raw_mode(0o600))?;
    Ok(File::from(fd))
}

fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        numbers.extend(entry?.file_name().to_str().and_then(segment::number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_any_cut_and_long_ones_go_on() {
        let dir = std::env::temp_dir().join(format!("berth-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temp dir");
        let mut writer = Writer::open(&dir, 1 << 20).expect("opens");
        let mut lines = Lines::new(segment::STDOUT);
        let long = "x".repeat(MAX_TEXT * 2 + 5);
        for piece in ["a", "b\nc\n\nd", "e\n", &long, "\nend"] {
            lines.take(piece.as_bytes(), &mut writer);
        }
        lines.end(&mut writer);
        let bytes = std::fs::read(dir.join(segment::file_name(1))).expect("there");
        std::fs::remove_dir_all(&dir).expect("removed");
        let mut rest = bytes.as_slice();
        let mut seen = Vec::new();
        while let Some((frame, used)) = segment::decode(rest) {
            seen.push((
                frame.text.len(),
                frame.continues,
                String::from_utf8_lossy(&frame.text[..frame.text.len().min(3)]).into_owned(),
            ));
            rest = &rest[used..];
        }
        let short = |text: &str| (text.len(), false, text.to_owned());
        let expected = vec![
            short("ab"),
            short("c"),
            short(""),
            short("de"),
            (MAX_TEXT, true, "xxx".into()),
            (MAX_TEXT, true, "xxx".into()),
            (5, false, "xxx".into()),
            short("end"),
        ];
        assert_eq!(seen, expected);
    }
}
