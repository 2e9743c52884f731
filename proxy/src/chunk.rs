//! Bodies: where one ends, and the chunked coding of RFC 9112 §7.1, read strictly and written anew.
//!
//! In: bytes as they were read, however they were split. Out: the body's own bytes, moved together at the front, and
//! how many bytes were used. Chunk extensions and trailers are checked and dropped. No I/O.

/// Bytes of extensions allowed in one chunk's size line.
const MAX_EXTENSION: usize = 4096;
/// Bytes of extensions allowed in one body: an extension on every byte is an attack (CVE-2023-39326).
const MAX_EXTENSIONS: usize = 64 * 1024;
/// Bytes of trailers allowed after one body.
const MAX_TRAILERS: usize = 16 * 1024;

/// The coding is broken; what follows cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadChunk(pub(crate) &'static str);

/// Reads the chunked coding.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    state: State,
    /// Of the size being read, or of what is left of the chunk.
    size: u64,
    digits: u8,
    extension: usize,
    extensions: usize,
    trailers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    /// At the start of a trailer line, or of the empty line that ends the body.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    EndLineFeed,
    Done,
}

/// What one call of a body machine did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes of the input used.
    pub(crate) used: usize,
    /// Bytes of the body, at the front of the input.
    pub(crate) data: usize,
    /// The body is complete.
    pub(crate) done: bool,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { state: State::Size, size: 0, digits: 0, extension: 0, extensions: 0, trailers: 0 }
    }

    /// Decodes in place: the body's bytes move to the front of `bytes`.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<Step, BadChunk> {
        let mut used = 0;
        let mut data = 0;
        while used < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let available = bytes.len() - used;
                let count = usize::try_from(self.size).map_or(available, |size| size.min(available));
                if used != data {
                    bytes.copy_within(used..used + count, data);
                }
                used += count;
                data += count;
                self.size -= count as u64;
                if self.size == 0 {
                    self.state = State::DataReturn;
                }
                continue;
            }
            self.step(bytes[used])?;
            used += 1;
        }
        Ok(Step { used, data, done: self.state == State::Done })
    }

    fn step(&mut self, byte: u8) -> Result<(), BadChunk> {
        self.state = match (self.state, byte) {
            (State::Size, _) if byte.is_ascii_hexdigit() => {
                self.digits += 1;
                if self.digits > 15 {
                    return Err(BadChunk("a chunk size has more than 15 digits"));
                }
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    _ => (byte | 0x20) - b'a' + 10,
                };
                self.size = self.size * 16 + u64::from(digit);
                State::Size
            }
            (State::Size, b'\r') if self.digits > 0 => State::SizeLineFeed,
            (State::Size, b';') if self.digits > 0 => State::Extension,
            (State::Size, _) => return Err(BadChunk("a chunk size is not a hexadecimal number")),
            (State::Extension, b'\r') => State::SizeLineFeed,
            (State::Extension, b'\t' | b' '..=0x7e | 0x80..) => {
                self.extension += 1;
                self.extensions += 1;
                if self.extension > MAX_EXTENSION || self.extensions > MAX_EXTENSIONS {
                    return Err(BadChunk("chunk extensions are too long"));
                }
                State::Extension
            }
            (State::Extension, _) => return Err(BadChunk("a chunk extension holds a control byte")),
            (State::SizeLineFeed, b'\n') => {
                self.extension = 0;
                self.digits = 0;
                if self.size == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Size,
            (State::DataReturn | State::DataLineFeed, _) => {
                return Err(BadChunk("a chunk is longer than its size"));
            }
            (State::TrailerStart, b'\r') => State::EndLineFeed,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => {
                self.trailer()?;
                State::TrailerName
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerStart | State::TrailerName, _) => {
                return Err(BadChunk("a trailer is not a field"));
            }
            (State::TrailerValue, b'\r') => State::TrailerLineFeed,
            (State::TrailerValue, b'\t' | b' '..=0x7e | 0x80..) => {
                self.trailer()?;
                State::TrailerValue
            }
            (State::TrailerValue, _) => return Err(BadChunk("a trailer holds a control byte")),
            (State::TrailerLineFeed, b'\n') => State::TrailerStart,
            (State::EndLineFeed, b'\n') => State::Done,
            (State::SizeLineFeed | State::TrailerLineFeed | State::EndLineFeed, _) => {
                return Err(BadChunk("a line of the chunked coding does not end in CR LF"));
            }
            (State::Data | State::Done, _) => return Err(BadChunk("data after the end of the body")),
        };
        Ok(())
    }

    fn trailer(&mut self) -> Result<(), BadChunk> {
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS { Err(BadChunk("trailers are too long")) } else { Ok(()) }
    }
}

/// A byte of a field name (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// How a message says where its body ends.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// So many bytes are left.
    Length(u64),
    /// The chunked coding says.
    Chunked(Decoder),
    /// The connection's end says (answers only).
    UntilClose,
}

impl Body {
    pub(crate) fn none() -> Self {
        Self::Length(0)
    }

    pub(crate) fn chunked() -> Self {
        Self::Chunked(Decoder::new())
    }

    /// Whether nothing is to come.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(decoder) => decoder.state == State::Done,
            Self::UntilClose => false,
        }
    }

    /// Takes what belongs to the body from `bytes`; its own bytes are then at the front.
    pub(crate) fn advance(&mut self, bytes: &mut [u8]) -> Result<Step, BadChunk> {
        match self {
            Self::Length(left) => {
                let count = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= count as u64;
                Ok(Step { used: count, data: count, done: *left == 0 })
            }
            Self::Chunked(decoder) => decoder.decode(bytes),
            Self::UntilClose => Ok(Step { used: bytes.len(), data: bytes.len(), done: false }),
        }
    }
}

/// The last chunk, without trailers.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// What follows a chunk's data.
const AFTER_CHUNK: &[u8] = b"\r\n";
const AFTER_AND_LAST: &[u8] = b"\r\n0\r\n\r\n";

/// What goes around `data` when it is written, as one chunk of it where the coding is chunked.
#[derive(Debug)]
pub(crate) struct Wrapped {
    line: [u8; 18],
    start: usize,
    suffix: &'static [u8],
}

impl Wrapped {
    /// Around `length` bytes of body that end it or not.
    pub(crate) fn new(length: usize, chunked: bool, done: bool) -> Self {
        let mut line = [0; 18];
        if !chunked {
            return Self { line, start: line.len(), suffix: b"" };
        }
        if length == 0 {
            return Self { line, start: line.len(), suffix: if done { LAST_CHUNK } else { b"" } };
        }
        let mut start = line.len() - 2;
        line[start..].copy_from_slice(b"\r\n");
        let mut rest = length;
        while rest > 0 {
            start -= 1;
            line[start] = b"0123456789abcdef"[rest % 16];
            rest /= 16;
        }
        Self { line, start, suffix: if done { AFTER_AND_LAST } else { AFTER_CHUNK } }
    }

    pub(crate) fn prefix(&self) -> &[u8] {
        &self.line[self.start..]
    }

    pub(crate) fn suffix(&self) -> &'static [u8] {
        self.suffix
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes `input` cut at `cuts`; the body, what was used, and whether it was complete.
    fn decode(input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize, bool), BadChunk> {
        let mut decoder = Decoder::new();
        let (mut body, mut used, mut done) = (Vec::new(), 0, false);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        ends.push(input.len());
        ends.sort_unstable();
        let mut start = 0;
        for end in ends {
            let mut piece = input[start..end].to_vec();
            let step = decoder.decode(&mut piece)?;
            body.extend_from_slice(&piece[..step.data]);
            used += step.used;
            done = step.done;
            start = end;
            if done {
                break;
            }
        }
        Ok((body, used, done))
    }

    #[test]
    fn broken_codings_are_refused() {
        for bad in [
            "5\nhello\n0\n\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhelloo\r\n",
            "g\r\n",
            "\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "-5\r\n",
            "+5\r\n",
            "0x5\r\nhello\r\n",
            "5;a\nhello\r\n",
            "5;a\u{1}b\r\n",
            "fffffffffffffffff\r\n",
            "5\rhello",
            "0\r\nA b: c\r\n\r\n",
            "0\r\n: c\r\n\r\n",
            "0\r\nA: \u{1}\r\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\n\rX",
            "5\r\nhello\r0",
        ] {
            assert!(decode(bad.as_bytes(), &[]).is_err(), "{bad:?} must be refused");
        }
        let long = format!("1;{}\r\nx\r\n", "a".repeat(MAX_EXTENSION + 1));
        assert!(decode(long.as_bytes(), &[]).is_err());
    }

    #[test]
    fn trailers_and_extensions_are_dropped() {
        let input = b"5;name=\"v\"\r\nhello\r\n0;x\r\nContent-Length: 3\r\nA: b\r\n\r\nNEXT";
        for cut in 0..input.len() {
            let (body, used, done) = decode(input, &[cut]).expect("valid");
            assert_eq!((body.as_slice(), used, done), (&b"hello"[..], input.len() - 4, true), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn what_is_wrapped_is_decoded_however_it_is_cut(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let mut input = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                let wrapped = Wrapped::new(piece.len(), true, index + 1 == pieces.len());
                input.extend_from_slice(wrapped.prefix());
                input.extend_from_slice(piece);
                input.extend_from_slice(wrapped.suffix());
            }
            if pieces.is_empty() {
                input.extend_from_slice(Wrapped::new(0, true, true).suffix());
            }
            let length = input.len();
            input.extend_from_slice(b"GET / HTTP/1.1\r\n");
            let (body, used, done) = decode(&input, &cuts).expect("our own coding is valid");
            prop_assert_eq!(body, pieces.concat());
            prop_assert_eq!(used, length);
            prop_assert!(done);
        }

        #[test]
        fn no_input_panics_and_cuts_change_nothing(input in prop::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'5'), Just(b';'), Just(b'a'), any::<u8>()], 0..60),
            cuts in prop::collection::vec(any::<usize>(), 0..6))
        {
            prop_assert_eq!(decode(&input, &[]), decode(&input, &cuts));
        }
    }
}
