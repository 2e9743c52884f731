//! Paths of static sites: from a request target to a name beneath the site's directory.
//!
//! In: a request target. Out: [`SitePath`], whose segments are decoded and none of which is empty, `.` or `..`.

/// A path beneath a site's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SitePath {
    /// Decoded segments joined by `/`; empty for the directory itself.
    name: Vec<u8>,
    folder: bool,
    hidden: bool,
    query: Vec<u8>,
}

impl SitePath {
    /// Parses a request target. `None` when it is malformed or tries to climb.
    pub(crate) fn parse(target: &[u8]) -> Option<Self> {
        let cut = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
        let (path, query) = target.split_at(cut);
        let path = path.strip_prefix(b"/")?;
        let mut parsed =
            Self { name: Vec::with_capacity(path.len()), folder: true, hidden: false, query: query.to_vec() };
        for segment in path.split(|b| *b == b'/') {
            let decoded = decode(segment)?;
            parsed.folder = decoded.is_empty();
            if decoded.is_empty() {
                continue;
            }
            if decoded == b"." || decoded == b".." || decoded.contains(&b'/') || decoded.contains(&0) {
                return None;
            }
            parsed.hidden |= decoded[0] == b'.' && decoded != b".well-known";
            if !parsed.name.is_empty() {
                parsed.name.push(b'/');
            }
            parsed.name.extend_from_slice(&decoded);
        }
        Some(parsed)
    }

    /// What to open, relative to the site's directory.
    pub(crate) fn file(&self) -> &[u8] {
        if self.name.is_empty() { b"." } else { &self.name }
    }

    /// The path of `name` in this directory.
    pub(crate) fn join(&self, name: &[u8]) -> Vec<u8> {
        if self.name.is_empty() { name.to_vec() } else { [&self.name, &b"/"[..], name].concat() }
    }

    /// It ends in a slash.
    pub(crate) fn is_folder(&self) -> bool {
        self.folder
    }

    /// Some segment begins with a dot (`.well-known` aside): never served.
    pub(crate) fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// The last segment has a dot: a file is meant, not a page of an application.
    pub(crate) fn has_extension(&self) -> bool {
        self.name.rsplit(|b| *b == b'/').next().is_some_and(|last| last.contains(&b'.'))
    }

    /// The path as rules are matched against: encoded anew, so that every way to write it is the same one.
    pub(crate) fn canonical(&self) -> String {
        let mut out = self.encoded();
        if self.folder && out.len() > 1 {
            out.push(b'/');
        }
        String::from_utf8(out).unwrap_or_default() // it is ASCII
    }

    /// `?` and what follows, or nothing.
    pub(crate) fn query(&self) -> &[u8] {
        &self.query
    }

    /// The same path and query with a final slash, for `Location`: encoded anew, with exactly one slash in front, so that
    /// it cannot name another host.
    pub(crate) fn with_slash(&self) -> Vec<u8> {
        let mut out = self.encoded();
        if out.len() > 1 {
            out.push(b'/');
        }
        out.extend_from_slice(&self.query);
        out
    }

    fn encoded(&self) -> Vec<u8> {
        let mut out = vec![b'/'];
        for byte in &self.name {
            if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(byte) {
                out.push(*byte);
            } else {
                out.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
        }
        out
    }
}

fn decode(segment: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(segment.len());
    let mut rest = segment.iter();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'%' => digit(*rest.next()?)? * 16 + digit(*rest.next()?)?,
            _ => *byte,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn climbing_and_encoded_slashes_are_refused() {
        for bad in
            ["/..", "/a/../b", "/%2e%2e/x", "/.%2E", "/a%2fb", "/a%00", "/%", "/%4", "/%zz", "a", "*", "/./a"]
        {
            assert_eq!(SitePath::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_redirect_stays_on_this_host() {
        let path = SitePath::parse(b"//evil.example//a%0d%0ab?x=y").expect("valid");
        assert_eq!(path.with_slash(), b"/evil.example/a%0D%0Ab/?x=y");
        assert!(!path.is_folder());
        assert_eq!(SitePath::parse(b"/").expect("valid").file(), b".");
    }

    #[test]
    fn dot_files_are_hidden() {
        assert!(SitePath::parse(b"/a/.env").expect("valid").is_hidden());
        assert!(SitePath::parse(b"/%2egit/config").expect("valid").is_hidden());
        assert!(!SitePath::parse(b"/.well-known/acme").expect("valid").is_hidden());
    }

    proptest! {
        #[test]
        fn no_target_leads_up_or_out(target in "/[a.%2eE/\\\\fF0-9?-]{0,40}") {
            if let Some(path) = SitePath::parse(target.as_bytes()) {
                prop_assert!(!path.file().starts_with(b"/"));
                prop_assert!(path.file().split(|b| *b == b'/').all(|segment| segment != b".."));
                let location = path.with_slash();
                prop_assert!(location.starts_with(b"/") && !location.starts_with(b"//"));
                prop_assert!(!location.contains(&b'\r') && !location.contains(&b'\n'));
            }
        }
    }
}
