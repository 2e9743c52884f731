//! Ports of the proxy that lead to an app: what users write (`ports:*`), and the routes that come of it.
//!
//! In: `SCHEME:PORT:CONTAINER-PORT`. Out: [`PortMapping`], printed the same way, and what proxies serve besides the
//! main HTTP and HTTPS listeners ([`PortRoutes`]).

use crate::AppName;
use crate::route::{Backend, HttpRoute};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// What is spoken at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// HTTP to the app, led by host name.
    Http,
    /// The same, over TLS.
    Https,
    /// HTTP whose app speaks HTTP/2 without TLS, as gRPC servers do.
    Grpc,
    /// The same, over TLS.
    Grpcs,
    /// Bytes of TCP; the whole port.
    Tcp,
    /// TLS that the app ends, led by server name.
    Tls,
    /// Datagrams of UDP; the whole port.
    Udp,
}

impl Scheme {
    const ALL: [(Self, &str); 7] = [
        (Self::Http, "http"),
        (Self::Https, "https"),
        (Self::Grpc, "grpc"),
        (Self::Grpcs, "grpcs"),
        (Self::Tcp, "tcp"),
        (Self::Tls, "tls"),
        (Self::Udp, "udp"),
    ];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(one, _)| *one == self).map_or("", |(_, name)| name)
    }

    /// Requests are led by their host.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https | Self::Grpc | Self::Grpcs)
    }

    /// The proxy ends TLS there.
    #[must_use]
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }

    /// What the app's containers speak.
    #[must_use]
    pub fn protocol(self) -> AppProtocol {
        match self {
            Self::Grpc | Self::Grpcs => AppProtocol::H2c,
            _ => AppProtocol::Http1,
        }
    }

    /// Whether apps can share a port of the one with one of the other.
    #[must_use]
    pub fn shares_with(self, other: Self) -> bool {
        match (self, other) {
            (Self::Tls, Self::Tls) => true,
            _ => self.is_http() && other.is_http() && self.is_secure() == other.is_secure(),
        }
    }
}

/// What is spoken to an app's containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AppProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 §3.3).
    H2c,
}

impl AppProtocol {
    /// For `skip_serializing_if`.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The header a connection to a container begins with, to say who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A port of the proxy that leads to a port of an app's `web` containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(from = "Stored")]
pub struct PortMapping {
    /// What is spoken there.
    pub scheme: Scheme,
    /// Port of the proxy. For HTTP, 80 and 443 are its main listeners, whatever ports those have.
    pub port: u16,
    /// Port of the containers.
    pub container_port: u16,
    /// Connections to containers begin with this (`tcp` and `tls`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// What is read: a pair of ports stood for raw TCP once.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Pair(u16, u16),
    Whole {
        scheme: Scheme,
        port: u16,
        container_port: u16,
        #[serde(default)]
        proxy_protocol: Option<ProxyProtocol>,
    },
}

impl From<Stored> for PortMapping {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Pair(port, container_port) => {
                Self { scheme: Scheme::Tcp, port, container_port, proxy_protocol: None }
            }
            Stored::Whole { scheme, port, container_port, proxy_protocol } => {
                Self { scheme, port, container_port, proxy_protocol }
            }
        }
    }
}

impl PortMapping {
    /// It is about the main HTTP and HTTPS listeners.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.scheme.is_http() && matches!(self.port, 80 | 443)
    }

    /// What is wrong with it, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if self.port == 0 || self.container_port == 0 {
            return Some(format!("port mapping {self} is not valid: ports are 1 to 65535"));
        }
        let proxied = matches!(self.scheme, Scheme::Tcp | Scheme::Tls);
        (self.proxy_protocol.is_some() && !proxied)
            .then(|| format!("{self} cannot have the PROXY protocol: that is for tcp and tls"))
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.scheme.as_str(), self.port, self.container_port)
    }
}

/// A text that is no port mapping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no port mapping: write SCHEME:PORT:CONTAINER-PORT, where SCHEME is one of http, https, grpc, grpcs, tcp, tls, udp, and ports are 1 to 65535"
)]
pub struct NoPortMapping(pub String);

/// `tcp:5432:5432`, or `tcp:5432` where the container's port does not matter.
///
/// Errors: anything else.
pub fn parse(word: &str) -> Result<(Scheme, u16, Option<u16>), NoPortMapping> {
    let wrong = || NoPortMapping(word.to_owned());
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or_else(wrong)
    };
    let mut parts = word.split(':');
    let (Some(scheme), Some(port), container, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    let (scheme, _) = Scheme::ALL.into_iter().find(|(_, name)| *name == scheme).ok_or_else(wrong)?;
    Ok((scheme, number(port)?, container.map(number).transpose()?))
}

impl FromStr for PortMapping {
    type Err = NoPortMapping;

    fn from_str(word: &str) -> Result<Self, NoPortMapping> {
        let (scheme, port, container) = parse(word)?;
        let container_port = container.ok_or_else(|| NoPortMapping(word.to_owned()))?;
        Ok(Self { scheme, port, container_port, proxy_protocol: None })
    }
}

/// What proxies serve at further ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRoutes {
    /// HTTP listeners besides the main ones; no two have the same port.
    #[serde(default)]
    pub http: Vec<HttpPort>,
    /// TLS led by server name; no two have the same port and name.
    #[serde(default)]
    pub tls: Vec<TlsRoute>,
    /// UDP; no two have the same port.
    #[serde(default)]
    pub udp: Vec<UdpRoute>,
}

/// One more HTTP listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpPort {
    /// Port of the proxy.
    pub port: u16,
    /// Clients speak TLS.
    pub secure: bool,
    /// As for the main listeners.
    pub routes: Vec<HttpRoute>,
}

/// A server name whose TLS connections at a port go, undeciphered, to one of the containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsRoute {
    /// Port of the proxy.
    pub port: u16,
    /// Which names; an exact one beats a wildcard.
    pub name: crate::HostPattern,
    /// Whose.
    pub app: AppName,
    /// Ready ones.
    pub backends: Vec<Backend>,
}

/// A port of the proxy whose datagrams go to the containers, those of one client to the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpRoute {
    /// Port of the proxy.
    pub port: u16,
    /// Whose.
    pub app: AppName,
    /// Ready ones.
    pub backends: Vec<Backend>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_parsed_strictly_and_printed_the_same() {
        for good in [
            "http:8080:5000",
            "https:443:5000",
            "grpc:80:5000",
            "grpcs:443:1",
            "tcp:1:65535",
            "tls:8443:443",
            "udp:53:53",
        ] {
            assert_eq!(good.parse::<PortMapping>().expect(good).to_string(), good);
        }
        assert_eq!(parse("tcp:5432").expect("valid"), (Scheme::Tcp, 5432, None));
        for bad in [
            "5432",
            "tcp:0:1",
            "tcp:1:65536",
            "sctp:1:1",
            "TCP:1:1",
            "tcp:1:1:1",
            "",
            "tcp::",
            "tcp:+1:1",
            "tcp:1:",
            "tcp: 1:1",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!("tcp:5432".parse::<PortMapping>().is_err());
    }

    #[test]
    fn pairs_of_earlier_versions_are_raw_tcp() {
        let read: Vec<PortMapping> = serde_json::from_str("[[1,2]]").expect("reads");
        assert_eq!(read[0].to_string(), "tcp:1:2");
        let text = serde_json::to_string(&read).expect("writes");
        assert_eq!(text, r#"[{"scheme":"tcp","port":1,"container_port":2}]"#);
        assert_eq!(serde_json::from_str::<Vec<PortMapping>>(&text).expect("reads"), read);
    }
}
