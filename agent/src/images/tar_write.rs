//! Writing tar streams that depend on nothing but the entries: same entries, same bytes.

use std::io::{self, Write};

const BLOCK: usize = 512;

/// The modification time of every entry: 1980-01-01T00:00:01Z, as the reference lifecycle of buildpacks sets it.
pub(crate) const MTIME: i64 = 315_532_801;

/// What to write about one entry; see [`TarWriter::append`].
pub(crate) struct Header<'a> {
    /// Relative, without `./`; directories end with `/`.
    pub(crate) path: &'a [u8],
    /// `b'0'` file, `b'1'` hard link, `b'2'` symbolic link, `b'5'` directory, `b'6'` FIFO.
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) link: &'a [u8],
    /// Sorted by name.
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Writes one archive.
pub(crate) struct TarWriter<W> {
    output: W,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output }
    }

    /// Writes a header. For a file the caller then writes exactly `size` bytes by [`Self::content`].
    pub(crate) fn append(&mut self, header: &Header<'_>) -> io::Result<()> {
        let mut records = Vec::new();
        for (long, key, kind) in [(header.path, "path", b'L'), (header.link, "linkpath", b'K')] {
            if long.len() <= 100 {
                continue;
            }
            match std::str::from_utf8(long) {
                Ok(_) => pax_record(&mut records, key.as_bytes(), long),
                // PAX is UTF-8 by definition; GNU's form takes any bytes.
                Err(_) => self.meta(kind, b"././@LongLink", &[long, b"\0"].concat())?,
            }
        }
        if header.size >= 1 << 33 {
            pax_record(&mut records, b"size", header.size.to_string().as_bytes());
        }
        for (name, value) in header.xattrs {
            pax_record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !records.is_empty() {
            self.meta(b'x', b"PaxHeaders/entry", &records)?;
        }
        let block =
            block(header.path, header.kind, header.mode, (header.uid, header.gid), header.size, header.link);
        self.output.write_all(&block)
    }

    /// Copies a file's bytes and pads them. Fails when there are fewer or more than `size`.
    pub(crate) fn content(&mut self, from: &mut impl io::Read, size: u64) -> io::Result<()> {
        let mut buffer = vec![0_u8; usize::try_from(size.clamp(1, 256 << 10)).unwrap_or(1)];
        let mut left = size;
        loop {
            let read = from.read(&mut buffer)?;
            if read as u64 > left || (read == 0 && left > 0) {
                return Err(io::Error::other("the file changed while it was packed"));
            }
            if read == 0 {
                return self.pad(size);
            }
            self.output.write_all(&buffer[..read])?;
            left -= read as u64;
        }
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        Ok(self.output)
    }

    fn meta(&mut self, kind: u8, name: &[u8], bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(&block(name, kind, 0o644, (0, 0), bytes.len() as u64, b""))?;
        self.output.write_all(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if over == 0 { Ok(()) } else { self.output.write_all(&[0; BLOCK][over..]) }
    }
}

/// `<length> key=value\n`, where the length counts itself.
fn pax_record(into: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    into.extend_from_slice(length.to_string().as_bytes());
    into.push(b' ');
    into.extend_from_slice(key);
    into.push(b'=');
    into.extend_from_slice(value);
    into.push(b'\n');
}

fn block(path: &[u8], kind: u8, mode: u32, owner: (u32, u32), size: u64, link: &[u8]) -> [u8; BLOCK] {
    let mut block = [0_u8; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let octal = |value: u64, digits: usize| format!("{value:0digits$o}").into_bytes();
    put(0, &path[..path.len().min(100)]);
    put(100, &octal(u64::from(mode), 7));
    put(108, &octal(u64::from(owner.0), 7));
    put(116, &octal(u64::from(owner.1), 7));
    // A size beyond the field is in the PAX header, which counts.
    put(124, &octal(if size >= 1 << 33 { 0 } else { size }, 11));
    put(136, &octal(MTIME.unsigned_abs(), 11));
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar\0");
    put(263, b"00");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::super::tar_read::{Kind, TarReader};
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            path in proptest::collection::vec(1_u8..=255, 1..300),
            content in proptest::collection::vec(any::<u8>(), 0..2000),
            value in proptest::collection::vec(any::<u8>(), 0..200),
            mode in 0_u32..0o7777, uid in 0_u32..65536,
        ) {
            prop_assume!(path.last() != Some(&b'/'));
            let xattrs = vec![(b"user.x".to_vec(), value)];
            let mut writer = TarWriter::new(Vec::new());
            let header = Header { path: &path, kind: b'0', mode, uid, gid: 7, size: content.len() as u64, link: b"", xattrs: &xattrs };
            writer.append(&header).unwrap();
            writer.content(&mut content.as_slice(), content.len() as u64).unwrap();
            let bytes = writer.finish().unwrap();
            prop_assert_eq!(bytes.len() % BLOCK, 0);
            let mut reader = TarReader::new(bytes.as_slice());
            let entry = reader.next_entry().unwrap().unwrap();
            let mut back = Vec::new();
            reader.read_to_end(&mut back).unwrap();
            prop_assert_eq!(&entry.path, &path);
            prop_assert_eq!((entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime), (Kind::File, mode, u64::from(uid), 7, MTIME));
            prop_assert_eq!((back, entry.xattrs), (content, xattrs));
            prop_assert!(reader.next_entry().unwrap().is_none());
        }
    }
}
