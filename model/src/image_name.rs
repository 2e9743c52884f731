//! Names of images as Dockerfiles write them.
//!
//! In: `debian:bookworm`, `ghcr.io/owner/image@sha256:…`. Out: registry, repository and tag, and the place of Berth's own
//! registry where such an image is kept. Places begin with `images/` (an administrator loaded it) or `mirror/` (pulled
//! from its registry), so that no name reaches an app's own images.

use crate::Digest;
use std::fmt;

/// An image of some registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// Host and perhaps port, such as `docker.io`.
    pub registry: String,
    /// Such as `library/debian`.
    pub repository: String,
    /// `latest` unless given.
    pub tag: String,
    /// Wins over the tag.
    pub digest: Option<Digest>,
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.repository, self.tag)?;
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl ImageName {
    /// Reads a name. A name without a registry is Docker Hub's, one without a tag means `latest`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            let shown: String = text.chars().take(120).collect();
            format!("{shown:?} is no image's name: {why}")
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(Digest::parse(digest).map_err(|error| wrong(&error.to_string()))?))
            }
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (name, "latest"),
        };
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let tag_bytes = tag.as_bytes();
        if tag.is_empty()
            || tag.len() > 128
            || !word(tag_bytes[0])
            || !tag_bytes.iter().all(|b| word(*b) || b".-".contains(b))
        {
            return Err(wrong("a tag has letters, digits, '_', '.' and '-'"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
            _ => ("docker.io", name),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let host_byte = |b: u8| b.is_ascii_alphanumeric() || b".-:".contains(&b);
        let host = registry.to_ascii_lowercase();
        if host.len() > 100
            || !host.bytes().all(host_byte)
            || !host.starts_with(|c: char| c.is_ascii_alphanumeric())
        {
            return Err(wrong("the registry's name is not valid"));
        }
        let path = match path.contains('/') || registry != "docker.io" {
            true => path.to_owned(),
            false => format!("library/{path}"),
        };
        let part = |part: &str| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
            !part.is_empty()
                && part.bytes().all(inner)
                && !part.starts_with(['.', '_', '-'])
                && !part.ends_with(['.', '_', '-'])
                && !part.contains("..")
        };
        if path.len() > 120 || !path.split('/').all(part) {
            return Err(wrong("a repository has a-z, 0-9 and inner '.', '_', '-', in parts joined by '/'"));
        }
        Ok(Self { registry: host, repository: path, tag: tag.to_owned(), digest })
    }

    /// Where Berth's own registry keeps it; `kind` is `images` or `mirror`.
    #[must_use]
    pub fn place(&self, kind: &str) -> String {
        format!("{kind}/{}/{}", self.registry.replace(':', "-port-"), self.repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_does() {
        for (text, expected) in [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:bookworm-slim", "docker.io/library/debian:bookworm-slim"),
            ("docker.io/library/debian:12", "docker.io/library/debian:12"),
            ("node/alpine", "docker.io/node/alpine:latest"),
            ("ghcr.io/a/b_c:1.0", "ghcr.io/a/b_c:1.0"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
        ] {
            assert_eq!(ImageName::parse(text).expect(text).to_string(), expected);
        }
        let digest = format!("a@sha256:{}", "0".repeat(64));
        assert!(ImageName::parse(&digest).expect("valid").digest.is_some());
        let port = ImageName::parse("host.test:5000/x").expect("valid");
        assert_eq!(port.place("mirror"), "mirror/host.test-port-5000/x");
        for bad in [
            "",
            "a:",
            "../x",
            "a/../b",
            "A",
            "a b",
            "a@sha256:1",
            "a:$x",
            "-a",
            "x.y/",
            "a//b",
            "apps/../../x",
        ] {
            ImageName::parse(bad).expect_err(bad);
        }
    }
}
