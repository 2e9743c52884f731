//! Other registries: how one is asked for images, and with whose name.
//!
//! In: what people write (`docker.io`, `https://index.docker.io/v1/`, `ghcr.io`, `127.0.0.1:5000`). Out: a server's name as
//! image names have it, and what a login is made of.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Registry host that no image elsewhere can have: what Berth's own registry keeps for one app.
pub const OWN_REGISTRY: &str = "berth.internal";

/// A registry's name: host and perhaps port, in lower case; Docker Hub is `docker.io` whatever it was called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String)]
pub struct RegistryServer(String);

impl RegistryServer {
    /// Reads a name as `docker login` takes it: a scheme and a path are left out.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown: String = text.chars().take(120).collect();
            format!("{shown:?} is no registry: write its host, such as ghcr.io or registry.example.com:5000")
        };
        let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let host = bare.split('/').next().unwrap_or_default().to_ascii_lowercase();
        let hub = ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];
        if hub.contains(&host.as_str()) {
            return Ok(Self("docker.io".to_owned()));
        }
        let (name, port) =
            host.split_once(':').map_or((host.as_str(), None), |(name, port)| (name, Some(port)));
        let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let good = !name.is_empty()
            && host.len() <= 100
            && name.bytes().all(label)
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
            && (name.contains('.') || port.is_some() || name == "localhost")
            && name != OWN_REGISTRY;
        if good { Ok(Self(host)) } else { Err(wrong()) }
    }

    /// As image names have it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RegistryServer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl fmt::Display for RegistryServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of one registry: for a build or a pull, and sealed at rest.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryLogin {
    /// Which.
    pub server: RegistryServer,
    /// Who asks; empty for nobody.
    #[serde(default)]
    pub user: String,
    /// A password or token.
    #[serde(default)]
    pub password: String,
    /// It speaks plain HTTP, and may be on the node itself: somebody who may do that has said so.
    #[serde(default)]
    pub plain_http: bool,
}

/// Without the password: this gets into logs.
impl fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, user, plain_http, .. } = self;
        write!(f, "RegistryLogin({user:?} at {server}, plain_http: {plain_http})")
    }
}

/// An image that an agent is to bring into Berth's own registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// As Dockerfiles write it.
    pub name: String,
    /// Logins that may be used.
    #[serde(default)]
    pub registries: Vec<RegistryLogin>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_docker_login_does() {
        for (text, expected) in [
            ("ghcr.io", "ghcr.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("https://Registry.Example.com:5000/", "registry.example.com:5000"),
            ("localhost", "localhost"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
        ] {
            assert_eq!(RegistryServer::parse(text).expect(text).as_str(), expected);
        }
        for bad in ["", "ghcr", "a b.c", "x.y:0", "x.y:99999", "../x.y", "berth.internal", "user@x.y"] {
            RegistryServer::parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let server = RegistryServer::parse("ghcr.io").expect("valid");
        let login = RegistryLogin { server, user: "me".into(), password: "s3cret".into(), plain_http: false };
        assert!(!format!("{login:?}").contains("s3cret"));
    }
}
