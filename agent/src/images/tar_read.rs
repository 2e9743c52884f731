//! Reading tar streams from strangers: ustar, GNU long names and PAX, strictly and with bounded memory.
//!
//! In: bytes. Out: one [`Entry`] after the other; its content is read from the same reader. What an entry says is only
//! checked for form here; whether it may be created is decided by `unpack`.

use std::io::{self, Read};

/// Block size of the format.
const BLOCK: usize = 512;
/// Longest PAX header or GNU long name that is read into memory.
const MAX_META: u64 = 1 << 20;

/// Why a stream is not a tar archive that Berth reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error("the archive could not be read")]
    Io(#[from] io::Error),
    #[error("the archive is broken at {entry:?}: {rule}")]
    Malformed { entry: String, rule: &'static str },
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    /// Character or block.
    Device,
    Fifo,
}

/// One entry's metadata.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// As in the archive: may be hostile.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Bytes of content that follow; 0 for all but files.
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    /// `SCHILY.xattr.*` of PAX.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The path of an entry as people may read it.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}

/// Reads entries; as a [`Read`], gives the content of the entry that was last read.
pub(crate) struct TarReader<R> {
    input: R,
    remaining: u64,
    padding: u64,
    ended: bool,
}

#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends inside a file"));
        }
        self.remaining -= read as u64;
        Ok(read)
    }
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, remaining: 0, padding: 0, ended: false }
    }

    /// The rest of the stream after the archive's end.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; skips what is left of the last one. `None` at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            if self.ended {
                return Ok(None);
            }
            let mut header = [0_u8; BLOCK];
            match read_full(&mut self.input, &mut header)? {
                0 => self.ended = true,
                BLOCK if header.iter().all(|byte| *byte == 0) => self.ended = true,
                BLOCK => {}
                _ => return Err(malformed(b"its end", "it ends inside a header")),
            }
            if self.ended {
                return Ok(None);
            }
            let name = header_path(&header);
            verify_checksum(&header, &name)?;
            let size = number(&header[124..136], &name, "size")?;
            match header[156] {
                b'x' => extended = self.read_pax(size, extended, &name)?,
                // Global records: git writes the commit there. None of them may change entries here.
                b'g' => drop(self.read_meta(size, &name)?),
                b'L' => extended.path = Some(until_nul(self.read_meta(size, &name)?)),
                b'K' => extended.link = Some(until_nul(self.read_meta(size, &name)?)),
                kind => return self.finish(&header, name, kind, size, extended).map(Some),
            }
        }
    }

    fn finish(
        &mut self,
        header: &[u8; BLOCK],
        name: Vec<u8>,
        kind: u8,
        size: u64,
        extended: Extended,
    ) -> Result<Entry, TarError> {
        let path = extended.path.unwrap_or(name);
        let link = extended.link.unwrap_or_else(|| until_nul(header[157..257].to_vec()));
        let is_old_directory = matches!(kind, 0 | b'0') && path.last() == Some(&b'/');
        let kind = match kind {
            _ if is_old_directory => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(malformed(&path, "sparse files are not supported")),
            _ => return Err(malformed(&path, "its entry type is unknown")),
        };
        // Only files have content: the size field of all others is without meaning (as Go's archive/tar reads it).
        let size = if kind == Kind::File { extended.size.unwrap_or(size) } else { 0 };
        self.remaining = size;
        self.padding = padding_of(size);
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => i64::try_from(number(&header[136..148], &path, "time").unwrap_or(0)).unwrap_or(0),
        };
        Ok(Entry {
            kind,
            mode: u32::try_from(number(&header[100..108], &path, "mode")? & 0o7777).unwrap_or(0),
            uid: extended.uid.map_or_else(|| number(&header[108..116], &path, "uid"), Ok)?,
            gid: extended.gid.map_or_else(|| number(&header[116..124], &path, "gid"), Ok)?,
            size,
            mtime,
            xattrs: extended.xattrs,
            path,
        })
    }

    fn read_meta(&mut self, size: u64, name: &[u8]) -> Result<Vec<u8>, TarError> {
        if size > MAX_META {
            return Err(malformed(name, "its extended header is longer than 1 MiB"));
        }
        self.remaining = size;
        self.padding = padding_of(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn read_pax(&mut self, size: u64, mut into: Extended, name: &[u8]) -> Result<Extended, TarError> {
        let bytes = self.read_meta(size, name)?;
        let mut rest = bytes.as_slice();
        let bad = |rule| malformed(name, rule);
        while !rest.is_empty() {
            let space = rest
                .iter()
                .position(|byte| *byte == b' ')
                .ok_or_else(|| bad("a PAX record has no length"))?;
            let length = decimal(&rest[..space]).and_then(|length| usize::try_from(length).ok());
            let record = length
                .filter(|length| *length > space + 1)
                .and_then(|length| rest.get(space + 1..length))
                .ok_or_else(|| bad("a PAX record has a wrong length"))?;
            rest = &rest[space + 1 + record.len()..];
            let record =
                record.strip_suffix(b"\n").ok_or_else(|| bad("a PAX record does not end its line"))?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(|| bad("a PAX record has no value"))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let whole = || decimal(value).ok_or_else(|| bad("a PAX number is malformed"));
            match key {
                b"path" => into.path = Some(value.to_vec()),
                b"linkpath" => into.link = Some(value.to_vec()),
                b"size" => into.size = Some(whole()?),
                b"uid" => into.uid = Some(whole()?),
                b"gid" => into.gid = Some(whole()?),
                b"mtime" => into.mtime = seconds(value),
                _ if key.starts_with(b"GNU.sparse.") => return Err(bad("sparse files are not supported")),
                _ => {
                    if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                        into.xattrs.push((attribute.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(into)
    }

    fn skip(&mut self) -> Result<(), TarError> {
        let left = self.remaining + std::mem::take(&mut self.padding);
        self.remaining = 0;
        let skipped = io::copy(&mut (&mut self.input).take(left), &mut io::sink())?;
        if skipped != left {
            return Err(malformed(b"its end", "it ends inside a file"));
        }
        Ok(())
    }
}

fn malformed(entry: &[u8], rule: &'static str) -> TarError {
    TarError::Malformed { entry: shown(entry), rule }
}

fn padding_of(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn header_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(header[..100].to_vec());
    // GNU headers ("ustar ") have other fields where POSIX has the prefix.
    let prefix = until_nul(header[345..500].to_vec());
    if &header[257..263] != b"ustar\0" || prefix.is_empty() {
        return name;
    }
    [prefix.as_slice(), b"/", name.as_slice()].concat()
}

fn verify_checksum(header: &[u8; BLOCK], name: &[u8]) -> Result<(), TarError> {
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
        .sum();
    match number(&header[148..156], name, "checksum") {
        Ok(stated) if stated == sum => Ok(()),
        _ => Err(malformed(name, "its header's checksum is wrong; is this a tar archive?")),
    }
}

/// Octal digits among spaces and NULs, or GNU base-256. Negative numbers and such beyond 63 bits are refused.
fn number(field: &[u8], name: &[u8], _what: &'static str) -> Result<u64, TarError> {
    let bad = || malformed(name, "a number in its header is malformed");
    if field[0] & 0x80 != 0 {
        if field[0] != 0x80 {
            return Err(bad());
        }
        let wide =
            field[1..].iter().try_fold(0_u64, |value, byte| Some(value.checked_mul(256)? | u64::from(*byte)));
        return wide.filter(|value| *value <= i64::MAX as u64).ok_or_else(bad);
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    if !digits[end..].iter().all(blank) {
        return Err(bad());
    }
    digits[..end].iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'7' => Ok(value << 3 | u64::from(byte - b'0')),
        _ => Err(bad()),
    })
}

fn decimal(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse::<i64>().ok().filter(|_| digits)?.try_into().ok()
}

/// `123.45` or `-1` as whole seconds.
fn seconds(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.split('.').next()?.parse().ok()
}

fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_read_as_every_tar_writes_them() {
        let read = |field: &[u8]| number(field, b"x", "x").ok();
        assert_eq!(read(b"0000644\0"), Some(0o644));
        assert_eq!(read(b"   644 \0"), Some(0o644));
        assert_eq!(read(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(read(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(read(&[0xff; 12]), None);
        assert_eq!(read(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(read(b"0000844\0"), None);
        assert_eq!(read(b"-000044\0"), None);
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut reader = TarReader::new(bytes.as_slice());
            while let Ok(Some(_)) = reader.next_entry() {}
        }
    }
}
