//! The access log of this machine's proxy, read for people: the last lines of one app or all, and new ones as they come.
//!
//! In: `DIR/proxy/access.log` and its rotated predecessors, in either of their formats. Out: whole lines. Read from the
//! end, so that a long log costs what is asked for; a rotation while it is followed loses nothing.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes read at once.
const BLOCK: usize = 256 * 1024;
/// The longest line there can be, generously.
const MAX_LINE: usize = 64 * 1024;
/// Rotated files looked for.
const MAX_ROTATED: u32 = 16;

/// Which lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Only this app's.
    pub(crate) app: Option<String>,
    /// Only requests that failed: answered with 5xx, not at all, or cut short.
    pub(crate) errors: bool,
}

impl Wanted {
    fn takes(&self, line: &[u8]) -> bool {
        let Some(parts) = Parts::of(line) else { return false };
        self.app.as_ref().is_none_or(|app| app.as_bytes() == parts.app)
            && (!self.errors || parts.status == 0 || parts.status >= 500 || parts.aborted)
    }
}

/// What is looked at of a line.
struct Parts<'a> {
    app: &'a [u8],
    status: u16,
    aborted: bool,
}

impl<'a> Parts<'a> {
    fn of(line: &'a [u8]) -> Option<Self> {
        if line.first() == Some(&b'{') { Self::of_json(line) } else { Self::of_combined(line) }
    }

    /// Quotes in values are escaped, so a key with its quotes stands for itself.
    fn of_json(line: &'a [u8]) -> Option<Self> {
        let app = between(line, b"\"app\":\"", b'"')?;
        let rest = after(line, b",\"status\":")?;
        let status = rest.split(|b| !b.is_ascii_digit()).next().unwrap_or_default();
        Some(Self { app, status: number(status)?, aborted: line.ends_with(b",\"aborted\":true}") })
    }

    /// Quotes in values are escaped, so they come in pairs: around request, `Referer`, `User-Agent` and host.
    fn of_combined(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.split(|b| *b == b'"');
        let status = parts.nth(2)?.trim_ascii().split(|b| *b == b' ').next()?;
        let rest = parts.nth(5)?;
        let app = between(rest, b" app=", b' ')?;
        Some(Self { app, status: number(status)?, aborted: rest.ends_with(b" aborted") })
    }
}

fn after<'a>(text: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(mark.len()).position(|window| window == mark)?;
    Some(&text[at + mark.len()..])
}

fn between<'a>(text: &'a [u8], mark: &[u8], end: u8) -> Option<&'a [u8]> {
    after(text, mark)?.split(|b| *b == end).next()
}

fn number(digits: &[u8]) -> Option<u16> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A log that is being read.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    wanted: Wanted,
    /// The newest file, and how far it was read.
    file: Option<File>,
    at: u64,
    /// The beginning of a line whose end is not there yet.
    part: Vec<u8>,
}

impl Reader {
    /// The last `count` lines that are wanted, oldest first, and a reader of what comes after them. Blocks.
    pub(crate) fn open(path: &Path, wanted: Wanted, count: usize) -> io::Result<(Self, Vec<Vec<u8>>)> {
        let mut reader = Self { path: path.to_owned(), wanted, file: open(path)?, at: 0, part: Vec::new() };
        let mut found = Vec::new();
        if let Some(file) = &mut reader.file {
            reader.at = last_lines(file, &reader.wanted, count, &mut found)?;
        }
        for number in 1..=MAX_ROTATED {
            if found.len() >= count {
                break;
            }
            let Some(mut older) = open(Path::new(&format!("{}.{number}", path.display())))? else { break };
            if let Some(newest) = &reader.file
                && is_same(newest, &older)?
            {
                continue; // it was put away while we read it
            }
            last_lines(&mut older, &reader.wanted, count, &mut found)?;
        }
        found.reverse();
        Ok((reader, found))
    }

    /// The wanted lines that came since the last call. Blocks for as long as reading takes.
    pub(crate) fn news(&mut self) -> io::Result<Vec<u8>> {
        let mut news = Vec::new();
        self.read_on(&mut news)?;
        let newest = open(&self.path)?;
        let same = match (&self.file, &newest) {
            (Some(old), Some(new)) => is_same(old, new)? && new.metadata()?.len() >= self.at,
            (_, None) => true, // between two files: the old one goes on for now
            (None, Some(_)) => false,
        };
        if !same {
            self.read_on(&mut news)?; // what was written before it was put away
            (self.file, self.at) = (newest, 0);
            self.part.clear();
            self.read_on(&mut news)?;
        }
        Ok(news)
    }

    fn read_on(&mut self, news: &mut Vec<u8>) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.seek(SeekFrom::Start(self.at))?;
        let mut space = vec![0; BLOCK];
        // A block that is full may not be the last one; the rest comes with the next call.
        let count = file.read(&mut space)?;
        self.at += count as u64;
        self.part.extend_from_slice(&space[..count]);
        let Some(end) = self.part.iter().rposition(|b| *b == b'\n') else {
            if self.part.len() > MAX_LINE {
                self.part.clear();
            }
            return Ok(());
        };
        for line in self.part[..end].split(|b| *b == b'\n').filter(|line| self.wanted.takes(line)) {
            news.extend_from_slice(line);
            news.push(b'\n');
        }
        self.part.drain(..=end);
        Ok(())
    }
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds wanted lines of `file` to `found`, newest first, until there are `count`. Returns where its last whole line ends.
fn last_lines(file: &mut File, wanted: &Wanted, count: usize, found: &mut Vec<Vec<u8>>) -> io::Result<u64> {
    let mut start = file.seek(SeekFrom::End(0))?;
    let mut end = None;
    // What is read and not looked at: the end of a line whose beginning is further up.
    let mut rest: Vec<u8> = Vec::new();
    while start > 0 {
        let size = start.min(BLOCK as u64);
        start -= size;
        let mut block = vec![0; usize::try_from(size).unwrap_or(BLOCK)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        block.extend_from_slice(&rest);
        if end.is_none() {
            let Some(last) = block.iter().rposition(|b| *b == b'\n') else {
                rest = block;
                continue;
            };
            end = Some(start + last as u64 + 1);
            block.truncate(last);
        }
        // Unless the file begins here, the first line may lack its beginning.
        let whole = match start {
            0 => 0,
            _ => block.iter().position(|b| *b == b'\n').map_or(block.len(), |at| at + 1),
        };
        for line in block[whole.min(block.len())..].rsplit(|b| *b == b'\n') {
            if found.len() >= count {
                return Ok(end.unwrap_or(0));
            }
            if wanted.takes(line) {
                found.push(line.to_vec());
            }
        }
        block.truncate(whole.saturating_sub(1));
        if block.len() > MAX_LINE {
            block.clear(); // no log of ours
        }
        rest = block;
    }
    Ok(end.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn json(app: &str, number: usize, status: u16) -> String {
        format!(
            "{{\"time\":\"t\",\"app\":\"{app}\",\"path\":\"/{number}\\\",\\\"status\\\":500\",\"status\":{status},\"sent\":1}}\n"
        )
    }

    fn combined(app: &str, number: usize, status: u16) -> String {
        format!(
            "::1 - - [t] \"GET /{number} HTTP/1.1\" {status} 5 \"-\" \" app=other \\x22 app=x\" host=\"h\" app={app} id=1\n"
        )
    }

    fn read(path: &Path, app: &str, errors: bool, count: usize) -> Vec<String> {
        let wanted = Wanted { app: Some(app.to_owned()).filter(|app| !app.is_empty()), errors };
        let (_, lines) = Reader::open(path, wanted, count).expect("reads");
        lines.into_iter().map(|line| String::from_utf8(line).expect("text") + "\n").collect()
    }

    #[test]
    fn the_last_lines_of_an_app_are_found_over_rotated_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        assert!(read(&path, "a", false, 5).is_empty(), "no log yet");
        for write in [json, combined] {
            let mut lines = Vec::new();
            for (file, name) in ["access.log.2", "access.log.1", "access.log"].into_iter().enumerate() {
                let mut text = String::new();
                for number in 0..20_000 {
                    let app = ["a", "b", "c"][number % 3];
                    let line = write(app, file * 20_000 + number, if number % 6 == 0 { 502 } else { 200 });
                    if app == "a" {
                        lines.push(line.clone());
                    }
                    text.push_str(&line);
                }
                std::fs::write(dir.path().join(name), text).expect("writes");
            }
            for count in [0, 1, 7, 8000, 20_001, 30_000] {
                let found = read(&path, "a", false, count);
                let from = lines.len().saturating_sub(count);
                assert!(found == lines[from..], "{count} lines");
            }
            assert_eq!(read(&path, "a", true, 1_000_000).len(), 10_002);
            assert_eq!(read(&path, "", true, 1_000_000).len(), 10_002);
            assert!(read(&path, "other", false, 5).is_empty(), "a client cannot speak for another app");
        }
    }

    #[test]
    fn news_come_as_whole_lines_over_a_rotation() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let append = |text: &str| {
            let mut file = File::options().create(true).append(true).open(&path).expect("opens");
            file.write_all(text.as_bytes()).expect("writes");
        };
        append(&(json("a", 1, 200) + "{\"time\":\"t\","));
        let wanted = Wanted { app: Some("a".to_owned()), errors: false };
        let (mut reader, lines) = Reader::open(&path, wanted, 10).expect("reads");
        assert_eq!(lines.len(), 1);
        assert!(reader.news().expect("reads").is_empty());
        append("\"app\":\"a\",\"status\":200}\n");
        assert_eq!(reader.news().expect("reads"), b"{\"time\":\"t\",\"app\":\"a\",\"status\":200}\n");
        append(&json("a", 2, 200));
        std::fs::rename(&path, dir.path().join("access.log.1")).expect("renames");
        append(&(json("b", 3, 200) + &json("a", 4, 200)));
        let news = String::from_utf8(reader.news().expect("reads")).expect("text");
        assert_eq!(news, json("a", 2, 200) + &json("a", 4, 200));
    }
}
