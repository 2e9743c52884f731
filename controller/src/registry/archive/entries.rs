//! What is where in a tar: found once, read by position afterwards. Nothing is ever unpacked to the disk.

use super::{ArchiveError, MAX_DOCUMENT, MAX_ENTRIES, MAX_PLAIN, unreadable};
use crate::archives::read_start;
use flate2::read::MultiGzDecoder;
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

/// Longest name in bytes.
const MAX_NAME: usize = 1024;
/// Links that lead to links, at most.
const MAX_HOPS: usize = 8;
/// Largest zstd window, as a power of two: 128 MiB.
const WINDOW_LOG: u32 = 27;
/// Unpacking is not looked at before this many bytes.
const RATIO_FREE: u64 = 64 << 20;
/// Most bytes out of one byte in.
const MAX_RATIO: u64 = 100;

/// Where a file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Bytes {
        offset: u64,
        size: u64,
    },
    /// Another name: old `docker save` writes a layer that two images share once.
    Link(String),
}

/// An archive whose entries are known.
#[derive(Debug)]
pub(super) struct Entries {
    file: File,
    places: HashMap<String, Place>,
}

/// One file of the archive. Reads by position: several may be open at once.
pub(super) struct Content<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Content<'_> {
    pub(super) fn size(&self) -> u64 {
        self.left
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.offset)?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends in the middle of a file",
            ));
        }
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Entries {
    /// Reads the headers of a tar, through gzip or zstd or neither. `scratch` is where an unpacked copy goes for the
    /// while, in a file without a name.
    pub(super) fn read(mut file: File, scratch: &Path) -> Result<Self, ArchiveError> {
        let mut start = [0; 4];
        let length = read_start(&mut file, &mut start).map_err(unreadable)?;
        let plain = match &start[..length] {
            [0x1f, 0x8b, ..] => {
                unpacked(file, scratch, |packed| Ok(MultiGzDecoder::new(io::BufReader::new(packed))))?
            }
            [0x28, 0xb5, 0x2f, 0xfd] => unpacked(file, scratch, |packed| {
                let mut decoder = zstd::Decoder::new(packed)?;
                decoder.window_log_max(WINDOW_LOG)?;
                Ok(decoder)
            })?,
            _ => file,
        };
        let places = places_of(&plain)?;
        Ok(Self { file: plain, places })
    }

    /// The bytes called `name`, if there are any.
    pub(super) fn open(&self, name: &str) -> Result<Option<Content<'_>>, ArchiveError> {
        let Some(mut at) = clean(name.as_bytes())? else { return Ok(None) };
        for _ in 0..MAX_HOPS {
            match self.places.get(&at) {
                None => return Ok(None),
                Some(Place::Bytes { offset, size }) => {
                    return Ok(Some(Content { file: &self.file, offset: *offset, left: *size }));
                }
                Some(Place::Link(to)) => at.clone_from(to),
            }
        }
        Err(ArchiveError::Refused(format!("{name:?} is a link that leads on and on")))
    }

    /// A small file's bytes.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(mut content) = self.open(name)? else { return Ok(None) };
        if content.size() > MAX_DOCUMENT {
            return Err(ArchiveError::Refused(format!("{name} is larger than {} MiB", MAX_DOCUMENT >> 20)));
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(unreadable)?;
        Ok(Some(bytes))
    }
}

/// Counts what is read.
struct Counted<R>(R, Rc<Cell<u64>>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.set(self.1.get() + read as u64);
        Ok(read)
    }
}

/// Unpacks to a file without a name, as much as the packed bytes can honestly hold.
fn unpacked<D: Read>(
    packed: File,
    scratch: &Path,
    decoder: impl FnOnce(Counted<File>) -> io::Result<D>,
) -> Result<File, ArchiveError> {
    let mut file = tempfile::tempfile_in(scratch).map_err(unreadable)?;
    let taken = Rc::new(Cell::new(0));
    let mut plain = decoder(Counted(packed, taken.clone())).map_err(unreadable)?;
    let (mut written, mut buffer) = (0, vec![0; 256 << 10]);
    loop {
        let read = plain.read(&mut buffer).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        written += read as u64;
        if written > MAX_PLAIN {
            return Err(ArchiveError::Refused(format!("it unpacks to more than {} GiB", MAX_PLAIN >> 30)));
        }
        if written > RATIO_FREE && written / MAX_RATIO > taken.get() {
            return Err(ArchiveError::Refused(format!("it unpacks to more than {MAX_RATIO} times its size")));
        }
        file.write_all(&buffer[..read]).map_err(unreadable)?;
    }
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    Ok(file)
}

fn places_of(file: &File) -> Result<HashMap<String, Place>, ArchiveError> {
    let length = file.metadata().map_err(unreadable)?.len();
    let mut archive = tar::Archive::new(file);
    let mut places = HashMap::new();
    let mut count = 0;
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        count += 1;
        if count > MAX_ENTRIES {
            return Err(ArchiveError::Refused(format!("it has more than {MAX_ENTRIES} files")));
        }
        let Some(name) = clean(&entry.path_bytes())? else { continue };
        let kind = entry.header().entry_type();
        let link = || {
            let target = entry.link_name_bytes();
            target.ok_or_else(|| ArchiveError::Refused(format!("{name:?} is a link that leads nowhere")))
        };
        let place = if kind.is_file() || kind.is_contiguous() {
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset.checked_add(size).is_none_or(|end| end > length) {
                return Err(ArchiveError::Unreadable(format!("it ends in the middle of {name:?}")));
            }
            Place::Bytes { offset, size }
        } else if kind.is_hard_link() {
            Place::Link(clean(&link()?)?.unwrap_or_default())
        } else if kind.is_symlink() {
            Place::Link(beside(&name, &link()?)?)
        } else if kind.is_gnu_sparse() {
            return Err(ArchiveError::Refused(format!("{name:?} is a sparse file")));
        } else {
            continue; // directories; what else there is has no bytes that an image is made of
        };
        // The first of a name counts: what comes later could only mislead.
        places.entry(name).or_insert(place);
    }
    Ok(places)
}

/// A name, relative and without `.`; `None` for the top itself.
fn clean(raw: &[u8]) -> Result<Option<String>, ArchiveError> {
    joined(Vec::new(), raw)
}

/// What a symbolic link at `name` leads to.
fn beside(name: &str, target: &[u8]) -> Result<String, ArchiveError> {
    let above = name.rsplit_once('/').map_or("", |(above, _)| above);
    let found = joined(above.split('/').filter(|part| !part.is_empty()).collect(), target)?;
    Ok(found.unwrap_or_default())
}

fn joined<'a>(mut parts: Vec<&'a str>, raw: &'a [u8]) -> Result<Option<String>, ArchiveError> {
    let refused = |why: &str| {
        let shown: String =
            String::from_utf8_lossy(raw).chars().filter(|c| !c.is_control()).take(100).collect();
        ArchiveError::Refused(format!("it has {shown:?}, {why}"))
    };
    let path = std::str::from_utf8(raw).map_err(|_| refused("a name that is not UTF-8"))?;
    if path.starts_with('/') {
        return Err(refused("an absolute path"));
    }
    if path.len() > MAX_NAME {
        return Err(refused("a path of more than 1024 bytes"));
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(|| refused("a path that leads out of it"))?;
            }
            part => parts.push(part),
        }
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}
