//! Logs: how much is kept of an app's lines, and where else they are sent.
//!
//! In: settings and addresses as people write them. Out: [`AppLogs`], [`DrainUrl`], and [`NodeLogs`], which every node gets
//! whole.

use crate::{AppName, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Longest address of a drain or webhook, in bytes.
const LONGEST_URL: usize = 2048;
/// How long lines of containers that are gone are kept unless told otherwise, in hours: a week.
pub const KEEP_HOURS: u32 = 7 * 24;
/// Largest log of a container unless told otherwise, in MiB.
pub const MAX_MIB: u64 = 64;

/// How much of an app's log is kept; what is absent is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppLogs {
    /// Largest log of one container, in MiB, 1 to 1048576; of those that are gone four times as much is kept in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mib: Option<u64>,
    /// How long lines of containers that are gone are kept, in hours, 1 to 87600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_hours: Option<u32>,
}

impl AppLogs {
    /// Nothing was set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Largest log of one container, in MiB.
    #[must_use]
    pub fn max_mib(&self) -> u64 {
        self.max_mib.unwrap_or(MAX_MIB)
    }

    /// How long lines of containers that are gone are kept, in hours.
    #[must_use]
    pub fn keep_hours(&self) -> u32 {
        self.keep_hours.unwrap_or(KEEP_HOURS)
    }
}

/// `PATCH /v1/apps/{app}/logs`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchLogs {
    /// Largest log of one container, in MiB, from its next start on; 0 for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mib: Option<u64>,
    /// How long lines of containers that are gone are kept, in hours; 0 for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_hours: Option<u32>,
}

/// How lines travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainKind {
    /// RFC 5424 in datagrams (RFC 5426).
    SyslogUdp,
    /// RFC 5424 with octet counting (RFC 6587 §3.4.1).
    SyslogTcp,
    /// The same over TLS (RFC 5425).
    SyslogTls,
    /// JSON lines in a `POST`.
    Json,
    /// OpenTelemetry's OTLP over HTTP, as JSON.
    Otlp,
}

/// Where lines are sent, or a webhook. Its text may hold secrets: show it [`DrainUrl::masked`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DrainUrl {
    text: String,
    kind: DrainKind,
    tls: bool,
    user: Option<(String, String)>,
    host: String,
    port: u16,
    path: String,
}

impl std::fmt::Debug for DrainUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.masked())
    }
}

impl From<DrainUrl> for String {
    fn from(url: DrainUrl) -> Self {
        url.text
    }
}

impl TryFrom<String> for DrainUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl DrainUrl {
    /// `syslog+udp://host[:514]`, `syslog+tcp://host[:601]`, `syslog+tls://host[:6514]`, `http[s]://[user:password@]host/path`,
    /// `otlp+http[s]://host[:4318][/v1/logs]`; `syslog://` is UDP. Errors: a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let odd = |what: &str| {
            format!(
                "{what}: write syslog+udp://HOST:PORT, syslog+tcp://HOST:PORT, syslog+tls://HOST:PORT, \
                 https://HOST/PATH or otlp+https://HOST"
            )
        };
        let graphic = |c: char| c.is_ascii_graphic();
        if text.is_empty() || text.len() > LONGEST_URL || !text.chars().all(graphic) || text.contains('#') {
            return Err(odd("that is no address"));
        }
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| odd("an address begins with how to get there"))?;
        let (kind, tls, default) = match scheme.to_ascii_lowercase().as_str() {
            "syslog" | "syslog+udp" => (DrainKind::SyslogUdp, false, 514),
            "syslog+tcp" => (DrainKind::SyslogTcp, false, 601),
            "syslog+tls" => (DrainKind::SyslogTls, true, 6514),
            "http" => (DrainKind::Json, false, 80),
            "https" => (DrainKind::Json, true, 443),
            "otlp+http" => (DrainKind::Otlp, false, 4318),
            "otlp+https" => (DrainKind::Otlp, true, 4318),
            other => {
                return Err(odd(&format!(
                    "{:?} is no way to send lines",
                    other.chars().take(20).collect::<String>()
                )));
            }
        };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let (user, place) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((user, place)) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                (Some((decoded(name), decoded(password))), place)
            }
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(six) => {
                let (host, rest) = six.split_once(']').ok_or_else(|| odd("the bracket does not close"))?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(odd("that is no IPv6 address"));
                }
                (
                    host,
                    rest.strip_prefix(':').map_or(if rest.is_empty() { Ok(None) } else { Err(()) }, |p| {
                        p.parse().map(Some).map_err(drop)
                    }),
                )
            }
            None => match place.rsplit_once(':') {
                None => (place, Ok(None)),
                Some((host, port)) => (host, port.parse::<u16>().map(Some).map_err(drop)),
            },
        };
        let port = port.map_err(|()| odd("that is no port"))?.unwrap_or(default);
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || host.len() > 253 || port == 0 || !host.bytes().all(allowed) {
            return Err(odd("the host is missing or odd"));
        }
        let is_syslog = matches!(kind, DrainKind::SyslogUdp | DrainKind::SyslogTcp | DrainKind::SyslogTls);
        if is_syslog && (user.is_some() || !matches!(path, "" | "/")) {
            return Err(odd("syslog has neither a user nor a path"));
        }
        let path = match (kind, path) {
            (DrainKind::Otlp, "" | "/") => "/v1/logs".to_owned(),
            (_, "") => "/".to_owned(),
            (_, path) if path.starts_with('?') => format!("/{path}"),
            (_, path) => path.to_owned(),
        };
        Ok(Self { text: text.to_owned(), kind, tls, user, host: host.to_owned(), port, path })
    }

    /// How lines travel.
    #[must_use]
    pub fn kind(&self) -> DrainKind {
        self.kind
    }

    /// Whether through TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// User and password, if there are.
    #[must_use]
    pub fn user(&self) -> Option<(&str, &str)> {
        self.user.as_ref().map(|(name, password)| (name.as_str(), password.as_str()))
    }

    /// A name or an address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as a `Host` field has them (RFC 9110 §7.2): an IPv6 address in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.bracketed(), self.port)
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// Path and query of HTTP.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The whole, with whatever may be a secret left out: a password, the query's values, parts of the path that look like keys.
    #[must_use]
    pub fn masked(&self) -> String {
        let scheme = self.text.split("://").next().unwrap_or_default();
        let user = self.user.as_ref().map_or(String::new(), |(name, password)| {
            if password.is_empty() { "***@".to_owned() } else { format!("{name}:***@") }
        });
        let host = self.bracketed();
        let (path, query) =
            self.path.split_once('?').map_or((self.path.as_str(), None), |(p, q)| (p, Some(q)));
        let part = |part: &str| {
            if part.len() >= 16 || part.bytes().filter(u8::is_ascii_digit).count() >= 6 {
                "***".to_owned()
            } else {
                part.to_owned()
            }
        };
        let path: Vec<String> = path.split('/').map(part).collect();
        let query = query.map_or(String::new(), |query| {
            let pairs = query
                .split('&')
                .map(|pair| pair.split_once('=').map_or("***".to_owned(), |(name, _)| format!("{name}=***")));
            format!("?{}", pairs.collect::<Vec<_>>().join("&"))
        });
        format!("{scheme}://{user}{host}:{}{}{query}", self.port, path.join("/"))
    }
}

/// `%41` is `A`; what is no such escape stays.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// One drain, as nodes get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Names it: eight hexadecimal digits.
    pub id: String,
    /// Only this app's lines; `None` for all apps'.
    #[serde(default)]
    pub app: Option<AppName>,
    /// Where to.
    pub url: DrainUrl,
}

/// What a node is to know of logs. The whole of it each time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLogs {
    /// What apps have set.
    pub apps: BTreeMap<AppName, AppLogs>,
    /// Every drain.
    pub drains: Vec<Drain>,
}

/// `POST /v1/drains`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddDrain {
    /// Only this app's lines; absent for all apps'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// Where to; it may hold a secret.
    pub url: String,
}

/// How a drain does on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainStatus {
    /// Lines sent since the agent started.
    pub sent: u64,
    /// Lines left out since then, because the other side was away or refused them for too long.
    pub dropped: u64,
    /// When lines were last sent; milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sent_ms: Option<i64>,
    /// Why nothing goes at the moment, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `GET /v1/drains` (a list).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainInfo {
    /// Names it.
    pub id: String,
    /// Only this app's lines.
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// Where to; passwords, tokens and keys are left out.
    pub url: String,
    /// How it does, by node.
    #[schema(value_type = std::collections::BTreeMap<String, DrainStatus>)]
    pub nodes: BTreeMap<NodeName, DrainStatus>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_secrets_are_masked() {
        let masked = |text: &str| DrainUrl::parse(text).map(|url| url.masked()).expect("an address");
        assert_eq!(masked("syslog://logs.example.com"), "syslog://logs.example.com:514/");
        assert_eq!(masked("syslog+tls://[2001:db8::1]:6514"), "syslog+tls://[2001:db8::1]:6514/");
        assert_eq!(
            masked("https://u:p%40ss@example.com/a?token=x&y"),
            "https://u:***@example.com:443/a?token=***&***"
        );
        assert_eq!(
            masked("https://hooks.example.com/services/T00000000/abcdefabcdefabcdef"),
            "https://hooks.example.com:443/services/***/***"
        );
        assert_eq!(masked("https://key@example.com/"), "https://***@example.com:443/");
        let otlp = DrainUrl::parse("otlp+http://127.0.0.1").expect("an address");
        assert_eq!((otlp.port(), otlp.path(), otlp.kind()), (4318, "/v1/logs", DrainKind::Otlp));
        let user = DrainUrl::parse("http://a%20b:c@h:1/?q").expect("an address");
        assert_eq!((user.user(), user.path()), (Some(("a b", "c")), "/?q"));
        for bad in [
            "",
            "x",
            "ftp://h",
            "http://",
            "http://h:0",
            "http://h:70000",
            "http://a b",
            "http://[::1",
            "http://[x]",
            "syslog://u@h",
            "syslog://h/p",
            "http://h/#x",
            "http://h\u{e9}",
            "http://[::1]x",
        ] {
            assert!(DrainUrl::parse(bad).is_err(), "{bad:?}");
        }
        assert!(!format!("{user:?}").contains(":c@"));
    }
}
