//! Routes below a path: which one a request's path leads to, or that nobody can say.
//!
//! In: prefixes, longest first, and a request target. Out: the one that fits and how many bytes of the target it takes.
//! Apps read paths in more ways than RFC 3986 has: some take `%2f` or `\` for `/`, join slashes, or take `..` back after
//! decoding. So a path is read twice: as the standard has it (§6.2.2.2: only unreserved characters are the same encoded
//! and plain), and as loosely as anything might. Where the two lead to different apps, and where dot segments are left,
//! which no client sends (§5.2.4: they are taken out before), the request is refused: no spelling steps around a route.

/// Two readers would not agree where this leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ambiguous;

/// How often a path is decoded at most: an app behind another proxy may do it twice.
const DECODINGS: usize = 3;

/// The index of the prefix that `target` is below, and its length in the target as written.
pub(crate) fn find<'a>(
    prefixes: impl Iterator<Item = &'a str> + Clone,
    target: &[u8],
) -> Result<Option<(usize, usize)>, Ambiguous> {
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    let path = &target[..end];
    let strict =
        prefixes.clone().enumerate().find_map(|(index, prefix)| Some((index, begins(path, prefix)?)));
    let plain = !path.iter().any(|b| matches!(b, b'%' | b'\\' | b';'))
        && memchr::memmem::find(path, b"//").is_none()
        && memchr::memmem::find(path, b"/.").is_none();
    if plain {
        return Ok(strict);
    }
    let loose = loose(path);
    let dots = |segment: &[u8]| {
        let name = segment.split(|b| *b == b';').next().unwrap_or(segment); // `..;` is `..` to servlets
        name == b"." || name == b".."
    };
    if loose.split(|b| *b == b'/').any(dots) {
        return Err(Ambiguous);
    }
    let other = prefixes.enumerate().find(|(_, prefix)| below(&loose, prefix)).map(|(index, _)| index);
    if other == strict.map(|(index, _)| index) { Ok(strict) } else { Err(Ambiguous) }
}

/// How many bytes of `path` spell `prefix`, if whole segments of it do.
fn begins(path: &[u8], prefix: &str) -> Option<usize> {
    let mut at = 0;
    for want in prefix.bytes() {
        let (byte, length) = match path.get(at)? {
            b'%' => (encoded(&path[at..]).filter(|byte| is_unreserved(*byte))?, 3),
            byte => (*byte, 1),
        };
        if byte != want {
            return None;
        }
        at += length;
    }
    matches!(path.get(at), None | Some(b'/')).then_some(at)
}

fn below(path: &[u8], prefix: &str) -> bool {
    path.strip_prefix(prefix.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The byte that `%XX` at the front stands for.
fn encoded(bytes: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = bytes else { return None };
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The path as the most lenient reader has it: decoded, `\` for `/`, slashes joined.
fn loose(path: &[u8]) -> Vec<u8> {
    let mut text = path.to_vec();
    for _ in 0..DECODINGS {
        let mut decoded = Vec::with_capacity(text.len());
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            match encoded(&text[at..]) {
                Some(byte) => {
                    decoded.push(byte);
                    at += 3;
                }
                None => {
                    decoded.push(*byte);
                    at += 1;
                }
            }
        }
        let done = decoded.len() == text.len();
        text = decoded;
        if done {
            break;
        }
    }
    for byte in &mut text {
        if *byte == b'\\' {
            *byte = b'/';
        }
    }
    text.dedup_by(|next, before| *next == b'/' && *before == b'/');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lead(target: &str) -> Result<Option<(usize, usize)>, Ambiguous> {
        find(["/api/admin", "/api", "/x"].into_iter(), target.as_bytes())
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        for (target, want) in [
            ("/api", Some((1, 4))),
            ("/api/", Some((1, 4))),
            ("/api?x=/api/admin", Some((1, 4))),
            ("/api/admin/x", Some((0, 10))),
            ("/api/administrator", Some((1, 4))),
            ("/apis", None),
            ("/API", None),
            ("/", None),
            ("*", None),
            ("/x/group%2Fproject", Some((2, 2))),
            ("/x/100%25", Some((2, 2))),
            ("/x/a;b=c//d", Some((2, 2))),
            ("/y/.hidden", None),
        ] {
            assert_eq!(lead(target), Ok(want), "{target}");
        }
    }

    #[test]
    fn an_encoded_letter_is_the_letter() {
        assert_eq!(lead("/%61pi/x"), Ok(Some((1, 6))));
        assert_eq!(lead("/a%70%69"), Ok(Some((1, 8))));
    }

    #[test]
    fn no_spelling_steps_around_a_route() {
        for target in [
            "/y/../api/admin",
            "/api/../y",
            "/y/%2e%2e/api",
            "/y/.%2E/api",
            "/./api",
            "//api/x",
            "/api%2fadmin",
            "/api%2Fadmin/x",
            "/api\\admin",
            "/api%5Cadmin",
            "/api//admin",
            "/%252e%252e/api",
            "/y%2f..%2fapi",
            "/y/..;/api",
            "/y/..",
        ] {
            assert_eq!(lead(target), Err(Ambiguous), "{target}");
        }
    }

    proptest! {
        /// Whatever is led below a prefix is there for the most lenient reader too.
        #[test]
        fn both_readings_agree(target in "/[a-z/.%25fFeE\\\\;]{0,24}") {
            if let Ok(found) = lead(&target) {
                let loose = loose(target.as_bytes());
                let prefixes = ["/api/admin", "/api", "/x"];
                let other = prefixes.iter().position(|prefix| below(&loose, prefix));
                prop_assert_eq!(found.map(|(index, _)| index), other);
            }
        }
    }
}
