//! `traceparent` and `tracestate` of W3C Trace Context (Recommendation of 2021-11-23).
//!
//! In: values as received. Out: where the trace id is, or that the value is not valid. No I/O, no allocation.
//!
//! This proxy reports no spans. A parent id of its own would name a span that nobody ever sees, so a valid
//! `traceparent` goes on unchanged (§3.4: "unmodified header propagation is typically implemented in pass-through
//! services like proxies"), and then `tracestate` must not be changed either. One that cannot be parsed goes no further,
//! and takes `tracestate` with it (§4.3).

use std::ops::Range;

/// `00-` 32 digits `-` 16 digits `-` 2 digits.
pub(crate) const LENGTH: usize = 55;
/// Where the trace id is.
pub(crate) const TRACE_ID: Range<usize> = 3..35;
const PARENT_ID: Range<usize> = 36..52;

/// The trace id of a valid value (§3.2.2), of this version of the specification or a later one (§4.3).
pub(crate) fn trace_id(value: &[u8]) -> Option<&[u8]> {
    let hex = |bytes: &[u8]| bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let head = value.get(..LENGTH)?;
    let (version, flags) = (&head[..2], &head[53..]);
    let dashes = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    let (trace, parent) = (&head[TRACE_ID], &head[PARENT_ID]);
    let some = |id: &[u8]| id.iter().any(|b| *b != b'0');
    // Version ff is forbidden; version 00 ends here, a later one may go on behind a dash.
    let ends = match value.get(LENGTH) {
        None => true,
        Some(next) => version != b"00" && *next == b'-',
    };
    let valid = dashes && hex(version) && version != b"ff" && hex(trace) && hex(parent) && hex(flags);
    (valid && ends && some(trace) && some(parent)).then_some(trace)
}

/// A new trace (§3.2.2, version 00): 32 digits of trace id, and the bits of a parent id.
pub(crate) fn begin(trace: &[u8; 32], parent: u64, sampled: bool) -> [u8; LENGTH] {
    let mut value = [b'-'; LENGTH];
    value[..2].copy_from_slice(b"00");
    value[TRACE_ID].copy_from_slice(trace);
    let parent = parent.max(1).to_be_bytes(); // all zeros is not valid
    for (pair, byte) in value[PARENT_ID].chunks_exact_mut(2).zip(parent) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    value[53..].copy_from_slice(if sampled { b"01" } else { b"00" });
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_the_specification_calls_valid_is() {
        let id = Some(&b"0af7651916cd43dd8448eb211c80319c"[..]);
        assert_eq!(trace_id(VALID.as_bytes()), id);
        assert_eq!(trace_id(VALID.replacen("00", "01", 1).as_bytes()), id, "§4.3: a later version");
        assert_eq!(trace_id(VALID.replacen("00", "cc", 1).replace("-01", "-01-more").as_bytes()), id, "§4.3");
        assert_eq!(trace_id(VALID.replace("-01", "-ff").as_bytes()), id, "§3.2.2.5: unknown flags");
    }

    #[test]
    fn what_it_calls_invalid_is_not() {
        for bad in [
            "".to_owned(),
            VALID[..54].to_owned(),
            format!("{VALID}-"), // §3.2.2: version 00 ends after the flags
            format!("{VALID}0"),
            VALID.replacen("00", "ff", 1),       // §3.2.2.1
            VALID.replacen("00", "cc", 1) + ".", // §4.3: the end or a dash
            VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)), // §3.2.2.3
            VALID.replace("b7ad6b7169203331", &"0".repeat(16)), // §3.2.2.4
            VALID.to_uppercase(),                // §3.2.2: lower case only
            VALID.replace('-', "_"),
            VALID.replace("-01", "-0x"),
            VALID.replacen("00", " 0", 1),
        ] {
            assert_eq!(trace_id(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_begun_is_valid() {
        for (parent, sampled) in [(0, false), (u64::MAX, true), (0x1234, true)] {
            let made = begin(b"0af7651916cd43dd8448eb211c80319c", parent, sampled);
            assert_eq!(trace_id(&made), Some(&b"0af7651916cd43dd8448eb211c80319c"[..]));
            assert_eq!(made.ends_with(b"-01"), sampled);
        }
    }
}
