//! Policies: what a proxy does with an app's requests before, beside and instead of passing them on.
//!
//! In: the settings of an app over those of the platform ([`crate::proxy_settings`]). Out: [`Rules`], a part of the route
//! table: one [`Policy`] an app, whatever number of hosts leads to it.

use crate::route::Target;
use crate::{AppName, ContainerId, HostPattern, ReleaseVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use utoipa::ToSchema;

/// Everything of a route table that is not an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// By app; an app that is absent has none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<AppName, Policy>,
    /// Routes of a host below a path. The longest path that fits wins, and any of them over the route of the whole host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathRoute>,
    /// Proxies in front of this one, whose `X-Forwarded-*` is believed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted: Vec<Cidr>,
    /// What gets the requests for hosts that nothing has; without one they are not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_app: Option<AppName>,
    /// What cookies of sticky sessions are signed with: 64 hexadecimal digits, the same for every proxy.
    #[serde(skip_serializing_if = "SecretText::is_empty")]
    pub cookie_key: SecretText,
    /// Pages of the platform instead of the proxy's own, by status; an app's own go before them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pages: BTreeMap<u16, String>,
}

/// Text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl SecretText {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// Where requests for one host, below one path, go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRoute {
    /// Which hosts.
    pub host: HostPattern,
    /// Below which path.
    pub prefix: PathPrefix,
    /// Whether the app gets the path without the prefix.
    pub strip: bool,
    /// Whose.
    pub app: AppName,
    /// Which release serves it; for the access log.
    pub release: Option<ReleaseVersion>,
    /// What answers.
    pub target: Target,
}

/// A path that routes begin with: `/api`, whole segments, no final `/`, 2 to 256 bytes. Each segment is of unreserved
/// characters (RFC 3986 §2.3), so that it has one spelling only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct PathPrefix(String);

impl PathPrefix {
    /// Checks `text`; a final `/` is left out.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            let shown: String = text.chars().take(80).collect();
            Err(format!("path {shown:?} is not valid: {why}; write, for instance, /api"))
        };
        let path = text.strip_suffix('/').unwrap_or(text);
        let Some(segments) = path.strip_prefix('/') else {
            return wrong("it begins with / and has a name behind it");
        };
        if path.len() > 256 {
            return wrong("it has more than 256 bytes");
        }
        let unreserved = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
        for segment in segments.split('/') {
            if matches!(segment, "" | "." | "..") {
                return wrong("no segment of it is empty, . or ..");
            }
            if !segment.as_bytes().iter().all(unreserved) {
                return wrong("use letters, digits and - . _ ~ between the slashes");
            }
        }
        if path.starts_with("/.well-known/acme-challenge") {
            return wrong("proofs for certificates are answered there");
        }
        Ok(Self(path.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PathPrefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<PathPrefix> for String {
    fn from(prefix: PathPrefix) -> Self {
        prefix.0
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a proxy does with an app's requests. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Whether plain HTTP is sent to HTTPS.
    #[serde(skip_serializing_if = "is_default")]
    pub https_redirect: HttpsRedirect,
    /// `Strict-Transport-Security` of every answer over TLS (RFC 6797).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Hsts>,
    /// The one host name; requests for the app's others are sent there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_host: Option<String>,
    /// Status of redirects to HTTPS and to the canonical host: 301, 302, 307 or 308; `None` is 301 where the method only
    /// looks, else 308, which keeps the method (RFC 9110 §15.4.9).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_code: Option<u16>,
    /// Redirects of single hosts; they go before the canonical host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<Redirect>,
    /// Names and hashes; empty lets everybody in.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<String, PasswordHash>,
    /// Only these addresses; empty is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Cidr>,
    /// Not these addresses; goes before `allow`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Cidr>,
    /// How many requests an address may make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Nothing is passed on: 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// Requests are held, at most so many milliseconds each, instead of passed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<u64>,
    /// How long a request waits while no container is ready, in milliseconds; 0 is not at all.
    #[serde(skip_serializing_if = "is_default")]
    pub hold_ms: u64,
    /// The app sleeps, or will: requests start it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleep: Option<Sleep>,
    /// Pages instead of the proxy's own, by status.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pages: BTreeMap<u16, String>,
    /// Times and sizes.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// Which container gets a request.
    #[serde(skip_serializing_if = "is_default")]
    pub balance: Balance,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Whether plain HTTP is sent to HTTPS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpsRedirect {
    /// Where there is a certificate for the host.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// `Strict-Transport-Security` (RFC 6797 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hsts {
    /// Seconds.
    pub max_age: u32,
    /// Names below this one too.
    pub include_subdomains: bool,
    /// May be built into browsers.
    pub preload: bool,
}

/// A host whose requests are sent elsewhere, with their path and query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Which host.
    pub from: HostPattern,
    /// Which host instead.
    pub to: HostPattern,
    /// 301, 302, 307 or 308.
    pub status: u16,
}

/// How a password was hashed: `$2b$…` (bcrypt) as `htpasswd -B` writes it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// Addresses with a common front: `192.0.2.0/24`, `2001:db8::/32`; a single address is its own network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// Checks `text`. An address with bits behind the front is refused: it is not what was meant.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no address or network such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32");
        let (address, length) = match text.split_once('/') {
            None => (text, None),
            Some((address, length)) => (address, Some(length)),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => most,
            Some(text) if text.len() <= 3 && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().ok().filter(|length| *length <= most).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        let network = Self { address, length };
        if network.masked(address) != bits(address) {
            return Err(format!(
                "{text:?} has bits set behind its first {length}; write the network's own address"
            ));
        }
        Ok(network)
    }

    fn masked(self, address: IpAddr) -> u128 {
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let rest = width.saturating_sub(u32::from(self.length));
        if rest >= 128 { 0 } else { bits(address) >> rest << rest }
    }

    /// Whether `address` is in it. An IPv4 address in an IPv6 one counts as what it stands for.
    #[must_use]
    pub fn covers(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == bits(self.address)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u128::from(u32::from(four)),
        IpAddr::V6(six) => u128::from(six),
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Cidr> for String {
    fn from(network: Cidr) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = if self.address.is_ipv4() { 32 } else { 128 };
        match self.length == most {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.length),
        }
    }
}

/// A token bucket for each client address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Requests in `per_ms`, from 1.
    pub requests: u32,
    /// Milliseconds, from 1.
    pub per_ms: u64,
    /// Requests at once, from 1.
    pub burst: u32,
}

/// The app is being worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// Seconds for `Retry-After`.
    pub retry_after: u32,
    /// HTML; without one the proxy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

/// An app that is stopped while nobody asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sleep {
    /// It is asleep now: requests wake it. Otherwise the proxy only watches how long nobody asked.
    pub asleep: bool,
    /// How long a request waits for it to start, in milliseconds.
    pub wake_ms: u64,
}

/// Times and sizes of an app's requests. `None` is the proxy's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// TCP connect to a container, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<u64>,
    /// From the end of a request to the head of its answer, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_ms: Option<u64>,
    /// Between two reads or writes of a body, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
    /// A whole request with its answer, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
    /// Bytes of a request's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<u64>,
    /// Bytes of a request's head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_bytes: Option<u32>,
    /// Requests in flight to one container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// Requests of the app that wait for a container to have room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// How long each of them waits, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u64>,
}

/// Which container gets a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Balance {
    /// A client stays with one container.
    #[serde(skip_serializing_if = "is_default")]
    pub sticky: bool,
    /// How often a request is tried again on another container, where that does no harm; `None` is 3 times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// A new container gets its full share after so many milliseconds; 0 is at once.
    #[serde(skip_serializing_if = "is_default")]
    pub slow_start_ms: u64,
    /// Active checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Passing over containers that fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit: Option<Circuit>,
    /// Shares of groups of containers; empty treats all alike.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
    /// Answers are counted container by container, and told to the controller.
    #[serde(skip_serializing_if = "is_default")]
    pub counted: bool,
}

/// An active check of every container by the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What is asked for; 2xx and 3xx are well.
    pub path: String,
    /// Milliseconds between two checks.
    pub interval_ms: u64,
}

/// When a container is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuit {
    /// Failures one after the other: no connection, no answer in time, or 502, 503, 504.
    pub failures: u32,
    /// Milliseconds until one request tries it again.
    pub open_ms: u64,
}

/// A part of an app's requests for a part of its containers: a release on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// How many of all weights together.
    pub weight: u32,
    /// Which containers; others have the rest.
    pub containers: Vec<ContainerId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_have_one_spelling() {
        for (text, want) in [("/api", "/api"), ("/api/", "/api"), ("/a/b-c_d.e~f", "/a/b-c_d.e~f")] {
            assert_eq!(PathPrefix::parse(text).expect(text).as_str(), want);
        }
        for bad in ["", "/", "api", "//", "/a//b", "/a/..", "/./a", "/a%62", "/a?b", "/a b", "/ü", "/a//"] {
            assert!(PathPrefix::parse(bad).is_err(), "{bad:?}");
        }
        assert!(PathPrefix::parse(&format!("/{}", "a".repeat(300))).is_err());
    }

    #[test]
    fn networks_cover_what_they_say() {
        let covers = |network: &str, address: &str| {
            Cidr::parse(network).expect(network).covers(address.parse().expect("an address"))
        };
        assert!(covers("192.0.2.0/24", "192.0.2.255") && !covers("192.0.2.0/24", "192.0.3.0"));
        assert!(covers("192.0.2.7", "192.0.2.7") && !covers("192.0.2.7", "192.0.2.8"));
        assert!(covers("0.0.0.0/0", "203.0.113.9") && !covers("0.0.0.0/0", "2001:db8::1"));
        assert!(covers("::/0", "2001:db8::1") && covers("10.0.0.0/8", "::ffff:10.1.2.3"));
        for bad in ["", "1.2.3", "192.0.2.1/24", "1.2.3.4/33", "::/129", "1.2.3.4/", "1.2.3.4/+8", "a/8"] {
            assert!(Cidr::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_network_is_printed_as_it_is_read(bits in any::<u32>(), length in 0_u8..=32) {
            let masked = if length == 0 { 0 } else { bits >> (32 - length) << (32 - length) };
            let text = format!("{}/{length}", std::net::Ipv4Addr::from(masked));
            let network = Cidr::parse(&text).expect("valid");
            prop_assert_eq!(Cidr::parse(&network.to_string()), Ok(network));
            prop_assert!(network.covers(IpAddr::from(std::net::Ipv4Addr::from(bits))));
        }
    }
}
