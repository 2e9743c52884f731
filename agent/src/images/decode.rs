//! Reading a layer blob: sizes and digests are counted while the bytes stream through, and nothing is expanded beyond
//! what its size allows.

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Largest compressed layer in bytes.
pub(crate) const MAX_COMPRESSED: u64 = 2 << 30;
/// Largest expanded layer in bytes: the files of `unpack` and the headers around them.
const MAX_EXPANDED: u64 = 12 << 30;
/// Expansion is not looked at before this many bytes.
const RATIO_FREE: u64 = 64 << 20;
/// Most bytes out of one byte in.
const MAX_RATIO: u64 = 100;
/// Largest zstd window, as a power of two: 128 MiB (RFC 8878 §3.1.1.1.2 asks for at least 8 MiB).
const ZSTD_WINDOW_LOG: u32 = 27;

/// Hashes and counts what is read.
pub(crate) struct Hashing<R> {
    input: R,
    hash: Sha256,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, hash: Sha256::new(), count: Rc::default() }
    }

    pub(crate) fn finish(self) -> (berth_model::Digest, u64) {
        (berth_model::Digest::from_hash(self.hash.finalize().into()), self.count.get())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Reads at most `limit` bytes; more is an error, not an end.
struct AtMost<R> {
    input: R,
    left: u64,
    what: &'static str,
}

impl<R: Read> Read for AtMost<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(self.what))?;
        Ok(read)
    }
}

/// Refuses bombs: compares what went in with what comes out.
struct Bounded<R> {
    input: R,
    taken: Rc<Cell<u64>>,
    given: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.given += read as u64;
        if self.given > MAX_EXPANDED {
            return Err(io::Error::other("the layer expands to more than 12 GiB"));
        }
        if self.given > RATIO_FREE && self.given / MAX_RATIO > self.taken.get() {
            return Err(io::Error::other("the layer expands to more than 100 times its size"));
        }
        Ok(read)
    }
}

/// What a blob turned out to be.
pub(crate) struct Decoded<T> {
    pub(crate) value: T,
    /// Of the blob as it came.
    pub(crate) digest: berth_model::Digest,
    /// Of the blob as it came.
    pub(crate) size: u64,
    /// Of the tar stream in it.
    pub(crate) diff_id: berth_model::Digest,
}

/// Gives `consume` the tar stream in a plain, gzip or zstd blob, told apart by their first bytes, and then reads what
/// is left, so that both digests are of the whole. `size` is what the blob must not exceed.
pub(crate) fn decode<R: Read, T, E: From<io::Error>>(
    blob: R,
    size: u64,
    consume: impl FnOnce(&mut dyn Read) -> Result<T, E>,
) -> Result<Decoded<T>, E> {
    let limited = AtMost { input: blob, left: size, what: "the blob is longer than its manifest says" };
    let mut hashing = Hashing::new(limited);
    let taken = hashing.count.clone();
    let mut start = Vec::with_capacity(4);
    (&mut hashing).take(4).read_to_end(&mut start)?;
    let (value, diff_id) = {
        let input = io::Cursor::new(start.clone()).chain(&mut hashing);
        let plain: Box<dyn Read + '_> = match start.as_slice() {
            [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(input)),
            [0x28, 0xb5, 0x2f, 0xfd] => {
                let mut decoder = zstd::Decoder::new(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            _ => Box::new(io::BufReader::with_capacity(128 << 10, input)),
        };
        let mut plain = Hashing::new(Bounded { input: plain, taken, given: 0 });
        let value = consume(&mut plain)?;
        io::copy(&mut plain, &mut io::sink())?;
        (value, plain.finish().0)
    };
    io::copy(&mut hashing, &mut io::sink())?;
    let (digest, size) = hashing.finish();
    Ok(Decoded { value, digest, size, diff_id })
}
