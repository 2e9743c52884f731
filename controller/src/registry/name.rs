//! What a request under `/v2/` names: repository, tag, digest, upload. Checked here once; a bad name is refused.

use super::error::{Code, RegistryError};
use std::fmt;

/// Longest repository name in bytes (the limit of other registries, and of what clients accept).
const MAX_NAME: usize = 255;

/// A repository: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` joined by `/` (distribution-spec 1.1, "Pulling manifests"),
/// so it is safe as a relative path: no component is empty, begins with a dot or with `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name(String);

impl Name {
    pub(super) fn parse(text: &str) -> Result<Self, RegistryError> {
        if text.len() <= MAX_NAME && text.split('/').all(is_component) {
            return Ok(Self(text.to_owned()));
        }
        Err(RegistryError::new(
            Code::NameInvalid,
            format!(
                "repository name {:?} is not valid: use a-z, 0-9 and inner '.', '_', '-', in parts joined by '/', at most {MAX_NAME} bytes",
                cut(text)
            ),
        ))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it holds copies of another registry's images (`ImageName::place`).
    pub(super) fn is_mirror(&self) -> bool {
        self.0.starts_with("mirror/")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_component(part: &str) -> bool {
    let bytes = part.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    separators.into_iter().all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Tag(String);

impl Tag {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
        let bytes = text.as_bytes();
        let good = (1..=128).contains(&bytes.len())
            && word(&bytes[0])
            && bytes.iter().all(|b| word(b) || matches!(b, b'.' | b'-'));
        good.then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Hash functions of the image specification that clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(super) const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// The name of a blob or manifest. Clients may bring SHA-512 as well; Berth's own builds use SHA-256 only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BlobDigest {
    algorithm: Algorithm,
    hex: String,
}

impl BlobDigest {
    pub(super) fn parse(text: &str) -> Result<Self, RegistryError> {
        let found = Algorithm::ALL.into_iter().find_map(|algorithm| {
            let hex = text.strip_prefix(algorithm.as_str())?.strip_prefix(':')?;
            Self::from_hex(algorithm, hex)
        });
        found.ok_or_else(|| {
            RegistryError::new(
                Code::DigestInvalid,
                format!(
                    "{:?} is not a digest: use sha256: and 64, or sha512: and 128 lower-case hexadecimal digits",
                    cut(text)
                ),
            )
        })
    }

    /// `None` unless `hex` has the right length and digits.
    pub(super) fn from_hex(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let good = hex.len() == algorithm.hex_length() && hex.bytes().all(digit);
        good.then(|| Self { algorithm, hex: hex.to_owned() })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

/// Which manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(Tag),
    Digest(BlobDigest),
}

impl Reference {
    pub(super) fn parse(text: &str) -> Result<Self, RegistryError> {
        if text.contains(':') {
            return BlobDigest::parse(text).map(Self::Digest);
        }
        Tag::parse(text).map(Self::Tag).ok_or_else(|| {
            RegistryError::new(
                Code::TagInvalid,
                format!(
                    "tag {:?} is not valid: use up to 128 letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
                    cut(text)
                ),
            )
        })
    }
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Base,
    Catalog,
    Tags(Name),
    Blob(Name, BlobDigest),
    Uploads(Name),
    Upload(Name, String),
    Manifest(Name, Reference),
    Referrers(Name, BlobDigest),
}

impl Target {
    /// The methods that are possible there (RFC 9110 §10.2.1).
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Base | Self::Catalog | Self::Tags(_) | Self::Referrers(..) => "GET, HEAD",
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
            Self::Uploads(_) => "POST",
            Self::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
        }
    }

    /// Reads a raw request path. Nothing is cleaned up: `..`, empty parts and foreign bytes are refused by the names' rules.
    pub(super) fn parse(path: &str) -> Result<Self, RegistryError> {
        let unknown = || RegistryError::new(Code::NotFound, format!("there is nothing at {:?}", cut(path)));
        let path = path.replace("%3A", ":").replace("%3a", ":");
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Self::Base),
            Some(rest) => rest.strip_prefix('/').ok_or_else(unknown)?,
            None => return Err(unknown()),
        };
        if rest == "_catalog" {
            return Ok(Self::Catalog);
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Name::parse(name).map(Self::Tags);
        }
        let (head, last) = rest.rsplit_once('/').ok_or_else(unknown)?;
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            let name = Name::parse(name)?;
            return Ok(if last.is_empty() {
                Self::Uploads(name)
            } else {
                Self::Upload(name, last.to_owned())
            });
        }
        if let Some(name) = head.strip_suffix("/blobs") {
            let name = Name::parse(name)?;
            return match last {
                "uploads" => Ok(Self::Uploads(name)),
                digest => Ok(Self::Blob(name, BlobDigest::parse(digest)?)),
            };
        }
        if let Some(name) = head.strip_suffix("/manifests") {
            return Ok(Self::Manifest(Name::parse(name)?, Reference::parse(last)?));
        }
        if let Some(name) = head.strip_suffix("/referrers") {
            return Ok(Self::Referrers(Name::parse(name)?, BlobDigest::parse(last)?));
        }
        Err(unknown())
    }
}

/// The start of hostile text, for messages.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for bad in [
            "", "..", "../x", "a/../b", "a//b", "/a", "a/", "A", "_x", "x_", "a..b", "a___b", ".a", "a/.b",
            "a b", "%2e%2e", "ä",
        ] {
            assert!(Name::parse(bad).is_err(), "{bad:?} must be refused");
        }
        for good in
            ["a", "apps/hello", "apps/www.example.com", "stacks/debian-12-run", "a__b", "a---b", "a/b/c/d"]
        {
            assert!(Name::parse(good).is_ok(), "{good:?} must be accepted");
        }
        assert!(Name::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn paths_are_read_from_the_right() {
        let parse = |path: &str| Target::parse(path).expect("well-formed");
        let name = |text: &str| Name::parse(text).expect("valid");
        assert_eq!(parse("/v2/"), Target::Base);
        assert_eq!(parse("/v2/blobs/blobs/uploads/"), Target::Uploads(name("blobs")));
        assert_eq!(parse("/v2/a/manifests/manifests/x"), parse("/v2/a/manifests/manifests/x"));
        assert_eq!(parse("/v2/a/tags/list"), Target::Tags(name("a")));
        assert!(Target::parse("/v2/a/blobs/sha256:../../etc").is_err());
        assert!(Target::parse("/v2/../etc/tags/list").is_err());
        assert!(Target::parse("/v3/").is_err());
    }
}
