//! What the archives that come and go have in common.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// 1980-01-01T00:00:01Z, as in reproducible images everywhere.
const MTIME: u64 = 315_532_801;

/// The head of an entry whose bytes do not depend on who wrote it, or when: root's, at a fixed time.
pub(crate) fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(MTIME);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Reads the first bytes of a file, as many as there are, and goes back to its beginning.
pub(crate) fn read_start(file: &mut File, start: &mut [u8]) -> io::Result<usize> {
    file.seek(SeekFrom::Start(0))?;
    let mut length = 0;
    while length < start.len() {
        match file.read(&mut start[length..])? {
            0 => break,
            count => length += count,
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(length)
}
