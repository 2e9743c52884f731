//! Reading log segments: the last lines, and what comes after them.
//!
//! In: a log directory (`DIR/agent/logs/<app>/<container-id>`). Out: lines with their time and stream, in the order
//! they were written. Writing is the shim's; a reader never gets in its way, and a reader that is too slow for the
//! rotation is told how far it fell behind by the jump in time only.

use super::sys;
use berth_model::container::LogStream;
use berth_shim::segment::{self, BERTH, Frame, STDERR};
use rustix::fs::inotify;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// How much of a segment is read at once by a follower, in bytes.
const CHUNK: usize = 256 * 1024;
/// Entries after which a follower returns what it has.
const MAX_BATCH: usize = 1000;

/// One line, or a piece of one longer than 16 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was read from the container; microseconds since the Unix epoch.
    pub at_us: i64,
    /// Where it was written.
    pub stream: LogStream,
    /// Without its newline; invalid UTF-8 replaced.
    pub text: String,
    /// The line goes on in the stream's next entry.
    pub continues: bool,
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only from then on; microseconds since the Unix epoch.
    pub since_us: Option<i64>,
    /// Only until then.
    pub until_us: Option<i64>,
    /// Only what matches. Its time is linear in the text's length.
    pub matching: Option<regex::Regex>,
}

impl Filter {
    /// Whether a line of this time and text is wanted.
    #[must_use]
    pub fn wants(&self, at_us: i64, text: &str) -> bool {
        self.since_us.is_none_or(|since| at_us >= since)
            && self.until_us.is_none_or(|until| at_us <= until)
            && self.matching.as_ref().is_none_or(|pattern| pattern.is_match(text))
    }

    /// Whether a file that was last written then can hold anything wanted.
    fn may_be_in(&self, written: Option<std::time::SystemTime>) -> bool {
        let (Some(since), Some(written)) = (self.since_us, written) else { return true };
        let age = written.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        // The clock of files may be coarser than that of lines.
        i64::try_from(age.as_micros()).unwrap_or(i64::MAX) >= since.saturating_sub(1_000_000)
    }
}

/// A place between two entries, to go on from later. The default is before the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Position {
    segment: u64,
    offset: u64,
}

/// The last `lines` entries and the place after them. An absent directory is an empty log.
pub fn tail(dir: &Path, lines: usize) -> io::Result<(Vec<Entry>, Position)> {
    tail_of(dir, lines, &Filter::default())
}

/// The last `lines` entries that `filter` wants, and the place after all there are. An absent directory is an empty log. A line
/// of more than 16 KiB is looked at in its pieces.
pub fn tail_of(dir: &Path, lines: usize, filter: &Filter) -> io::Result<(Vec<Entry>, Position)> {
    let numbers = segments(dir)?;
    let mut kept: VecDeque<Entry> = VecDeque::new();
    let mut end = Position::default();
    for (age, number) in numbers.iter().rev().enumerate() {
        let written = || fs::metadata(dir.join(segment::file_name(*number))).and_then(|file| file.modified());
        if age > 0 && !filter.may_be_in(written().ok()) {
            break;
        }
        let Some(bytes) = read_segment(dir, *number, 0)? else { break };
        let mut of_segment = VecDeque::new();
        let used = entries(&bytes, |entry| {
            if !filter.wants(entry.at_us, &entry.text) {
                return;
            }
            if of_segment.len() >= lines.saturating_sub(kept.len()) {
                of_segment.pop_front();
            }
            of_segment.push_back(entry);
        });
        if age == 0 {
            end = Position { segment: *number, offset: used };
        }
        if lines == 0 {
            return Ok((Vec::new(), end));
        }
        of_segment.append(&mut kept);
        kept = of_segment;
        if kept.len() >= lines {
            break;
        }
    }
    Ok((kept.into(), end))
}

/// The entries after `from`, about `most` bytes of them, and the place after those. Says too whether lines between were rotated
/// away.
pub fn read_on(dir: &Path, from: Position, most: usize) -> io::Result<(Vec<Entry>, Position, bool)> {
    let (mut found, mut at, mut read) = (Vec::new(), from, 0);
    let numbers = segments(dir)?;
    let lost = from != Position::default() && numbers.first().is_some_and(|oldest| *oldest > from.segment);
    for number in numbers.iter().filter(|number| **number >= from.segment) {
        if *number > at.segment {
            at = Position { segment: *number, offset: 0 };
        }
        while read < most {
            let Some(bytes) = read_piece(dir, *number, at.offset, most.min(CHUNK))? else { break };
            let used = entries(&bytes, |entry| found.push(entry));
            at.offset += used;
            read += usize::try_from(used).unwrap_or(most);
            if used == 0 {
                break;
            }
        }
        if read >= most {
            break;
        }
    }
    Ok((found, at, lost))
}

/// How many bytes there are after a place.
pub fn behind(dir: &Path, from: Position) -> io::Result<u64> {
    let mut sum = 0;
    for number in segments(dir)?.into_iter().filter(|number| *number >= from.segment) {
        let length = fs::metadata(dir.join(segment::file_name(number))).map_or(0, |file| file.len());
        sum += if number == from.segment { length.saturating_sub(from.offset) } else { length };
    }
    Ok(sum)
}

/// Reads on from a place, and waits for more. It has no end: the container may be started again.
#[derive(Debug)]
pub struct Follower {
    dir: PathBuf,
    at: Position,
    watch: AsyncFd<OwnedFd>,
}

impl Follower {
    /// Follows the log in `dir` (made if missing) from `from` on: what was written before this call is read at once.
    pub fn new(dir: &Path, from: Position) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let what = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        inotify::add_watch(&watch, dir, what)?;
        let watch = sys::register(watch, tokio::io::Interest::READABLE)?;
        Ok(Self { dir: dir.to_owned(), at: from, watch })
    }

    /// The next entries, at least one. Cancel-safe: what was not returned is returned next time.
    pub async fn next(&mut self) -> io::Result<Vec<Entry>> {
        loop {
            let found = self.read_on()?;
            if !found.is_empty() {
                return Ok(found);
            }
            let mut ready = self.watch.readable().await?;
            let mut space = [MaybeUninit::uninit(); 4096];
            let mut events = inotify::Reader::new(ready.get_inner(), &mut space);
            // Only that something happened matters: the files say what. Emptied before they are read again.
            loop {
                match events.next() {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
        }
    }

    /// The place after the last entry returned.
    #[must_use]
    pub fn position(&self) -> Position {
        self.at
    }

    fn read_on(&mut self) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        let numbers = segments(&self.dir)?;
        let oldest = self.at.segment;
        for number in numbers.iter().filter(|number| **number >= oldest) {
            if *number > self.at.segment {
                self.at = Position { segment: *number, offset: 0 };
            }
            // All of this one before the next: its writer has gone on and will not come back.
            while let Some(bytes) = read_segment(&self.dir, *number, self.at.offset)? {
                let used = entries(&bytes, |entry| found.push(entry));
                self.at.offset += used;
                if used == 0 || found.len() > MAX_BATCH {
                    break;
                }
            }
            if found.len() > MAX_BATCH {
                break;
            }
        }
        Ok(found)
    }
}

/// Gives each whole frame of `bytes` to `take` and says how many bytes they took.
fn entries(bytes: &[u8], mut take: impl FnMut(Entry)) -> u64 {
    let mut used = 0;
    while let Some((frame, length)) = segment::decode(&bytes[used..]) {
        take(entry(&frame));
        used += length;
    }
    used as u64
}

fn entry(frame: &Frame<'_>) -> Entry {
    Entry {
        at_us: frame.at_us,
        stream: match frame.stream {
            STDERR => LogStream::Stderr,
            BERTH => LogStream::Berth,
            _ => LogStream::Stdout,
        },
        text: String::from_utf8_lossy(frame.text).into_owned(),
        continues: frame.continues,
    }
}

/// Numbers of the segments there are, ascending.
fn segments(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        numbers.extend(entry?.file_name().to_str().and_then(segment::number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn read_piece(dir: &Path, number: u64, offset: u64, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(dir.join(segment::file_name(number))) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    // A frame is less than 17 KiB: more than that is at least one whole.
    file.take(most.max(32 * 1024) as u64).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// A segment from `offset` on; from the beginning it is read whole (a segment is an eighth of the log), further on
/// in chunks. `None` when it was rotated away.
fn read_segment(dir: &Path, number: u64, offset: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(dir.join(segment::file_name(number))) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    if offset == 0 {
        file.read_to_end(&mut bytes)?;
    } else {
        file.seek(SeekFrom::Start(offset))?;
        file.take(CHUNK as u64).read_to_end(&mut bytes)?;
    }
    Ok(Some(bytes))
}
