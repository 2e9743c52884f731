//! Log segments: files `00000001.seg`, `00000002.seg` … of frames, appended to by one shim at a time.
//!
//! A frame is `at_us: i64`, `stream: u8`, `flags: u8`, `length: u16` (little-endian) and that many bytes of text
//! without a newline. A frame cut off by a crash or a full disk is the last of its segment, or is cut away before
//! the next is written.

/// Bytes before the text.
pub const HEADER: usize = 12;
/// Longest text of one frame; a longer line goes on in the next, and says so.
pub const MAX_TEXT: usize = 16 * 1024;
/// How many segments `log_bytes` is divided into: dropping the oldest loses this part of the log.
pub const SEGMENTS: u64 = 8;
/// Written to file descriptor 1.
pub const STDOUT: u8 = 1;
/// Written to file descriptor 2.
pub const STDERR: u8 = 2;
/// Berth's own remark.
pub const BERTH: u8 = 3;
/// Flag: the line goes on in the stream's next frame.
pub const CONTINUES: u8 = 1;

/// One frame, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Microseconds since the Unix epoch.
    pub at_us: i64,
    /// `STDOUT`, `STDERR` or `BERTH`.
    pub stream: u8,
    /// The line goes on in the stream's next frame.
    pub continues: bool,
    /// Raw bytes of the line.
    pub text: &'a [u8],
}

/// Appends a frame to `to`. `text` longer than `MAX_TEXT` is cut: callers split lines.
pub fn encode(to: &mut Vec<u8>, at_us: i64, stream: u8, continues: bool, text: &[u8]) {
    let text = &text[..text.len().min(MAX_TEXT)];
    to.extend_from_slice(&at_us.to_le_bytes());
    to.push(stream);
    to.push(if continues { CONTINUES } else { 0 });
    let length = u16::try_from(text.len()).unwrap_or(0); // MAX_TEXT fits
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(text);
}

/// The first frame of `from` and how many bytes it takes; `None` when it is not all there.
#[must_use]
pub fn decode(from: &[u8]) -> Option<(Frame<'_>, usize)> {
    let head = from.get(..HEADER)?;
    let at_us = i64::from_le_bytes(head[..8].try_into().ok()?);
    let length = usize::from(u16::from_le_bytes([head[10], head[11]]));
    let text = from.get(HEADER..HEADER + length)?;
    Some((Frame { at_us, stream: head[8], continues: head[9] & CONTINUES != 0, text }, HEADER + length))
}

/// The file name of a segment.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("{number:08}.seg")
}

/// The number in a segment's file name.
#[must_use]
pub fn number(file_name: &str) -> Option<u64> {
    file_name.strip_suffix(".seg")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_a_torn_one_is_not_taken() {
        let mut bytes = Vec::new();
        encode(&mut bytes, -5, STDERR, true, b"hello");
        encode(&mut bytes, 7, STDOUT, false, b"");
        let (first, used) = decode(&bytes).expect("whole");
        assert_eq!(first, Frame { at_us: -5, stream: STDERR, continues: true, text: b"hello" });
        let (second, rest) = decode(&bytes[used..]).expect("whole");
        assert_eq!((second.at_us, second.text.len(), used + rest), (7, 0, bytes.len()));
        for cut in 0..used {
            assert!(decode(&bytes[..cut]).is_none());
        }
        assert_eq!(number(&file_name(12)), Some(12));
    }
}
