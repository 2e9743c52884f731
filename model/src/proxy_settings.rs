//! Settings of the proxy as users write them: `proxy:set app KEY VALUE`.
//!
//! In: keys and values, of an app and of the platform. Out: each value checked and in one spelling, and the [`Policy`]
//! that an app's settings over the platform's over the defaults make. Keys of other proxies are known by name: they
//! are led to ours, or the refusal says what there is instead.

use crate::policy::{
    Balance, Cidr, Circuit, Health, Hsts, HttpsRedirect, Limits, PathPrefix, Policy, Rate, Sleep,
};
use crate::policy::{Maintenance, PasswordHash, Redirect};
use crate::route::{AccessLogFormat, ProxySettings, TraceContext};
use crate::{AppName, HostPattern};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// Keys with checked values.
pub type Values = BTreeMap<String, String>;

/// Most addresses or networks of one list.
const MAX_NETWORKS: usize = 500;
/// Largest page, in bytes: pages travel with the routes.
pub const MAX_PAGE: usize = 64 << 10;
/// What `maintenance:custom-page` sets, beside the statuses of `errors:set`.
pub const MAINTENANCE_PAGE: &str = "maintenance";
/// Statuses that may have a page of the app's own.
pub const ERROR_PAGES: [u16; 7] = [403, 404, 413, 429, 502, 503, 504];
/// `Retry-After` of maintenance, in seconds.
const MAINTENANCE_RETRY: u32 = 60;

/// What an app's proxy settings are, beside the routes themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppProxy {
    /// By key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub values: Values,
    /// Who may enter, and the hashes of their passwords; empty lets everybody in.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<String, PasswordHash>,
    /// Paths of hosts that lead to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<AppPath>,
    /// Hosts of its own that lead elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<Redirect>,
    /// It is being worked on.
    #[serde(skip_serializing_if = "is_false")]
    pub maintenance: bool,
    /// Requests are held, at most so many milliseconds each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<u64>,
    /// Nobody asked for it, so its `web` was stopped; a request starts it.
    #[serde(skip_serializing_if = "is_false")]
    pub asleep: bool,
    /// Which pages of its own it has; they are kept elsewhere.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub pages: BTreeSet<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl AppProxy {
    /// Whether nothing was ever set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A path of a host that leads to an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppPath {
    /// Which host.
    pub host: HostPattern,
    /// Below which path.
    pub prefix: PathPrefix,
    /// Whether the app gets the path without the prefix.
    #[serde(default)]
    pub strip: bool,
}

/// One thing that can be set.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As users write it.
    pub name: &'static str,
    /// What holds where nothing is set.
    pub default: &'static str,
    /// For the platform, for apps, or both.
    pub scope: Scope,
    kind: Kind,
}

/// For whom a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Apps, with a default for all of them.
    Both,
    /// Apps alone.
    App,
    /// The platform alone.
    Global,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Switch,
    Words(&'static [&'static str]),
    /// From and to, in milliseconds; with `off`.
    Time(u64, u64, bool),
    /// From and to, in bytes; 0 and `off` are no limit.
    Size(u64, u64),
    Number(u32, u32),
    Host,
    Networks,
    Rate,
    Path,
    App,
}

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;

const fn key(name: &'static str, default: &'static str, kind: Kind) -> Key {
    Key { name, default, scope: Scope::Both, kind }
}

/// All of them, in the order of reports.
pub const KEYS: &[Key] = &[
    Key {
        name: "access-log-format",
        default: "",
        scope: Scope::Global,
        kind: Kind::Words(&AccessLogFormat::NAMES),
    },
    Key { name: "allow-ips", default: "", scope: Scope::Both, kind: Kind::Networks },
    key("balance", "least-requests", Kind::Words(&["least-requests"])),
    Key { name: "canonical-host", default: "", scope: Scope::App, kind: Kind::Host },
    key("circuit-failures", "0", Kind::Number(0, 1000)),
    key("circuit-open", "10s", Kind::Time(100, HOUR, false)),
    key("connect-timeout", "2s", Kind::Time(10, 60 * SECOND, false)),
    Key { name: "default-app", default: "", scope: Scope::Global, kind: Kind::App },
    key("deny-ips", "", Kind::Networks),
    key("health-interval", "10s", Kind::Time(100, HOUR, false)),
    key("health-path", "", Kind::Path),
    key("hold-timeout", "2s", Kind::Time(100, 600 * SECOND, true)),
    key("hsts", "on", Kind::Switch),
    key("hsts-include-subdomains", "off", Kind::Switch),
    key("hsts-max-age", "15724800", Kind::Number(0, 63_072_000 * 5)),
    key("hsts-preload", "off", Kind::Switch),
    key("https-redirect", "auto", Kind::Words(&["auto", "on", "off"])),
    key("max-body-size", "off", Kind::Size(1, 1 << 50)),
    key("max-header-size", "64k", Kind::Size(1024, 64 << 10)),
    key("max-requests", "0", Kind::Number(0, 1_000_000)),
    key("queue-size", "100", Kind::Number(0, 10_000)),
    key("queue-timeout", "10s", Kind::Time(10, 600 * SECOND, false)),
    key("rate-burst", "0", Kind::Number(0, 1_000_000)),
    key("rate-limit", "off", Kind::Rate),
    key("read-timeout", "1m", Kind::Time(100, 24 * HOUR, false)),
    key("redirect-code", "auto", Kind::Words(&["auto", "301", "302", "307", "308"])),
    key("response-timeout", "", Kind::Time(100, 24 * HOUR, false)),
    key("retries", "3", Kind::Number(0, 10)),
    key("scale-to-zero", "off", Kind::Time(SECOND, 30 * 24 * HOUR, true)),
    key("slow-start", "off", Kind::Time(100, HOUR, true)),
    key("sticky", "off", Kind::Switch),
    key("total-timeout", "off", Kind::Time(100, 24 * HOUR, true)),
    Key { name: "trust-forwarded", default: "", scope: Scope::Global, kind: Kind::Networks },
    Key {
        name: "trace-context",
        default: "pass",
        scope: Scope::Global,
        kind: Kind::Words(&TraceContext::NAMES),
    },
    key("wake-timeout", "30s", Kind::Time(SECOND, 600 * SECOND, false)),
];

/// Other proxies' names for ours.
const ALIASES: &[(&str, &str)] = &[
    ("client-max-body-size", "max-body-size"),
    ("idle-timeout", "scale-to-zero"),
    ("large-client-header-buffers", "max-header-size"),
    ("proxy-connect-timeout", "connect-timeout"),
    ("proxy-next-upstream-tries", "retries"),
    ("proxy-read-timeout", "read-timeout"),
];

/// What other proxies can be told and this one cannot, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("access-log-path", "the access log is DIR/proxy/access.log, one for all apps"),
    ("bind-address-ipv4", "where the proxy listens is said by: berth up --http ADDRESS"),
    ("bind-address-ipv6", "where the proxy listens is said by: berth up --http ADDRESS"),
    ("client-body-timeout", "what a body may take between two reads is read-timeout, both ways"),
    ("client-header-timeout", "a head is read before the app is known: 10 s for all, always"),
    ("disable-custom-config", "there is no configuration of nginx that could be turned off"),
    ("error-log-path", "the proxy's own log is that of berth up"),
    ("keepalive-timeout", "a client's idle connection may be another app's next: 75 s for all, always"),
    ("lingering-timeout", "a client that is sent away has 5 s to read why, always"),
    ("nginx-conf-sigil-path", "there is no nginx here: a template of its configuration cannot be used"),
    ("nginx-service-command", "there is no nginx here"),
    ("proxy-buffer-size", "bodies are streamed both ways, never kept: there is nothing to size"),
    ("proxy-buffering", "bodies are streamed both ways, never kept: it is always off"),
    ("proxy-buffers", "bodies are streamed both ways, never kept: there is nothing to size"),
    ("proxy-busy-buffers-size", "bodies are streamed both ways, never kept: there is nothing to size"),
    ("proxy-keepalive", "connections to containers are always kept and used again"),
    ("proxy-send-timeout", "what a body may take between two writes is read-timeout, both ways"),
    ("send-timeout", "what a body may take between two writes is read-timeout, both ways"),
    ("type", "there is one proxy here, Berth's own"),
    ("underscore-in-headers", "fields with _ are passed on, but for imitations of those that proxies set"),
    (
        "x-forwarded-for-value",
        "always the client's address; behind another proxy: proxy:set --global trust-forwarded CIDR",
    ),
    (
        "x-forwarded-port-value",
        "always the port asked; behind another proxy: proxy:set --global trust-forwarded CIDR",
    ),
    (
        "x-forwarded-proto-value",
        "always http or https as asked; behind another proxy: proxy:set --global trust-forwarded CIDR",
    ),
    ("x-forwarded-ssl", "apps get X-Forwarded-Proto: https"),
];

/// The key that `name` means, ours or another proxy's.
pub fn find(name: &str) -> Result<&'static Key, String> {
    let own = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, own)| own);
    if let Some(found) = KEYS.iter().find(|key| key.name == own) {
        return Ok(found);
    }
    if let Some((_, why)) = ELSEWHERE.iter().find(|(other, _)| *other == name) {
        return Err(format!("{name} cannot be set here: {why}"));
    }
    let shown: String = name.chars().take(80).collect();
    let known: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    Err(format!("{shown:?} is no setting of the proxy; there are: {}", known.join(", ")))
}

/// The value in its one spelling, or what is wrong with it.
pub fn check(key: &Key, value: &str) -> Result<String, String> {
    let wrong = |want: String| {
        let shown: String = value.chars().take(80).collect();
        Err(format!("{} cannot be {shown:?}: {want}", key.name))
    };
    let value = value.trim();
    match key.kind {
        Kind::Switch => match value.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" => Ok("on".to_owned()),
            "off" | "false" | "no" => Ok("off".to_owned()),
            _ => wrong("write on or off".to_owned()),
        },
        Kind::Words(words) => match words.iter().find(|word| **word == value) {
            Some(word) => Ok((*word).to_owned()),
            None => wrong(format!("write {}", words.join(", "))),
        },
        Kind::Time(_, _, true) if is_off(value) => Ok("off".to_owned()),
        Kind::Time(least, most, off) => match time(value) {
            Some(ms) if (least..=most).contains(&ms) => Ok(time_text(ms)),
            _ => {
                let off = if off { ", or off" } else { "" };
                let (least, most) = (time_text(least), time_text(most));
                wrong(format!("write a time from {least} to {most}, such as 500ms, 90s, 15m{off}"))
            }
        },
        Kind::Size(..) if is_off(value) => Ok("off".to_owned()),
        Kind::Size(least, most) => match size(value) {
            Some(bytes) if (least..=most).contains(&bytes) => Ok(size_text(bytes)),
            _ => {
                let (least, most) = (size_text(least), size_text(most));
                wrong(format!("write a size from {least} to {most}, such as 512k, 50m, 2g, or off"))
            }
        },
        Kind::Number(least, most) => match value.parse::<u32>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number.to_string()),
            _ => wrong(format!("write a number from {least} to {most}")),
        },
        Kind::Host => match HostPattern::parse(&value.to_ascii_lowercase()) {
            Ok(host) if !host.is_wildcard() => Ok(host.to_string()),
            _ => wrong("write a host name such as www.example.com".to_owned()),
        },
        Kind::Networks => {
            let words: Vec<_> = value.split([',', ' ']).filter(|word| !word.is_empty()).collect();
            if words.len() > MAX_NETWORKS {
                return wrong(format!("a list has at most {MAX_NETWORKS} addresses"));
            }
            let parsed: Result<Vec<_>, _> = words.iter().map(|word| Cidr::parse(word)).collect();
            match parsed {
                Ok(list) => Ok(list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
                Err(error) => wrong(error),
            }
        }
        Kind::Rate if is_off(value) => Ok("off".to_owned()),
        Kind::Rate => match rate(value) {
            Some((requests, unit)) => Ok(format!("{requests}/{}", unit.0)),
            None => wrong("write requests a second, minute or hour: 10/s, 100/m, 1000/h, or off".to_owned()),
        },
        Kind::Path => {
            let fits = value.starts_with('/')
                && value.len() <= 1024
                && value.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
            if fits { Ok(value.to_owned()) } else { wrong("write a path such as /healthz".to_owned()) }
        }
        Kind::App => match AppName::parse(value) {
            Ok(app) => Ok(app.to_string()),
            Err(error) => wrong(error.to_string()),
        },
    }
}

fn is_off(value: &str) -> bool {
    matches!(value, "off" | "0" | "none")
}

/// `500ms`, `90s`, `15m`, `2h`, `1d`; a plain number is seconds.
#[must_use]
pub fn time(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "ms" => 1,
        "" | "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => HOUR,
        "d" => 24 * HOUR,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The shortest way to write milliseconds.
#[must_use]
pub fn time_text(ms: u64) -> String {
    let units = [(24 * HOUR, "d"), (HOUR, "h"), (60 * SECOND, "m"), (SECOND, "s"), (1, "ms")];
    let fits = units.iter().find(|(factor, _)| ms != 0 && ms.is_multiple_of(*factor));
    fits.map_or_else(|| format!("{ms}ms"), |(factor, unit)| format!("{}{unit}", ms / factor))
}

fn size(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn size_text(bytes: u64) -> String {
    let units = [(30, "g"), (20, "m"), (10, "k")];
    let fits = units.iter().find(|(shift, _)| bytes.is_multiple_of(1 << shift));
    fits.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

fn rate(text: &str) -> Option<(u32, (&'static str, u64))> {
    const UNITS: [(&str, u64); 3] = [("s", SECOND), ("m", 60 * SECOND), ("h", HOUR)];
    let (number, unit) = text.split_once('/')?;
    let unit = UNITS.iter().find(|(name, _)| *name == unit)?;
    let number = number.parse().ok().filter(|number| (1..=1_000_000).contains(number))?;
    Some((number, *unit))
}

/// What holds: the app's values over the platform's over the defaults. Values are checked ones.
struct Effective<'a>(&'a Values, &'a Values);

impl Effective<'_> {
    fn text(&self, name: &str) -> &str {
        let set = self.0.get(name).or_else(|| self.1.get(name)).map(String::as_str);
        set.unwrap_or_else(|| KEYS.iter().find(|key| key.name == name).map_or("", |key| key.default))
    }

    fn on(&self, name: &str) -> bool {
        self.text(name) == "on"
    }

    /// `None` for off, and for what nobody set and has no default.
    fn time(&self, name: &str) -> Option<u64> {
        time(self.text(name))
    }

    /// `None` where it is what the proxy does by itself.
    fn changed_time(&self, name: &str) -> Option<u64> {
        let default = KEYS.iter().find(|key| key.name == name).map_or("", |key| key.default);
        Some(self.text(name)).filter(|text| *text != default).and_then(time)
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.text(name).parse().ok().filter(|number| *number > 0)
    }

    fn networks(&self, name: &str) -> Vec<Cidr> {
        networks(self.text(name))
    }

    fn some(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }
}

/// A checked list.
#[must_use]
pub fn networks(text: &str) -> Vec<Cidr> {
    text.split(',').filter_map(|word| Cidr::parse(word).ok()).collect()
}

/// What holds for every key that can be set for an app.
#[must_use]
pub fn effective(own: &Values, global: &Values) -> Values {
    let both = Effective(own, global);
    KEYS.iter()
        .filter(|key| key.scope != Scope::Global)
        .map(|key| (key.name.to_owned(), both.text(key.name).to_owned()))
        .collect()
}

/// What the platform's values say of the proxy itself.
#[must_use]
pub fn proxy_settings(global: &Values) -> ProxySettings {
    let text = |name: &str| global.get(name).map(String::as_str).unwrap_or_default();
    ProxySettings {
        access_log_format: AccessLogFormat::parse(text("access-log-format")),
        trace_context: TraceContext::parse(text("trace-context")).unwrap_or_default(),
    }
}

/// How long an app may be without a request before it is put to sleep, in milliseconds.
#[must_use]
pub fn sleeps_after(own: &Values, global: &Values) -> Option<u64> {
    Effective(own, global).time("scale-to-zero")
}

/// The policy of an app. `pages` are its own pages by name.
#[must_use]
pub fn policy(app: &AppProxy, global: &Values, pages: &BTreeMap<String, String>) -> Policy {
    let set = Effective(&app.values, global);
    let page = |name: &str| pages.get(name).cloned();
    let hsts = set.on("hsts").then(|| Hsts {
        max_age: set.number("hsts-max-age").unwrap_or(0),
        include_subdomains: set.on("hsts-include-subdomains"),
        preload: set.on("hsts-preload"),
    });
    let rate = rate(set.text("rate-limit")).map(|(requests, (_, per_ms))| Rate {
        requests,
        per_ms,
        burst: set.number("rate-burst").unwrap_or(requests),
    });
    let circuit = set
        .number("circuit-failures")
        .map(|failures| Circuit { failures, open_ms: set.time("circuit-open").unwrap_or(10 * SECOND) });
    let health = set
        .some("health-path")
        .map(|path| Health { path, interval_ms: set.time("health-interval").unwrap_or(10 * SECOND) });
    let maintenance =
        app.maintenance.then(|| Maintenance { retry_after: MAINTENANCE_RETRY, page: page(MAINTENANCE_PAGE) });
    let sleep = (app.asleep || set.time("scale-to-zero").is_some())
        .then(|| Sleep { asleep: app.asleep, wake_ms: set.time("wake-timeout").unwrap_or(30 * SECOND) });
    let in_flight = set.number("max-requests");
    Policy {
        https_redirect: match set.text("https-redirect") {
            "on" => HttpsRedirect::On,
            "off" => HttpsRedirect::Off,
            _ => HttpsRedirect::Auto,
        },
        hsts,
        canonical_host: set.some("canonical-host"),
        redirect_code: set.text("redirect-code").parse().ok(),
        redirects: app.redirects.clone(),
        users: app.users.clone(),
        allow: set.networks("allow-ips"),
        deny: set.networks("deny-ips"),
        rate,
        maintenance,
        paused_ms: app.paused_ms,
        hold_ms: set.time("hold-timeout").unwrap_or(0),
        sleep,
        pages: ERROR_PAGES.iter().filter_map(|status| Some((*status, page(&status.to_string())?))).collect(),
        limits: Limits {
            connect_ms: set.changed_time("connect-timeout"),
            response_ms: set.changed_time("response-timeout"),
            idle_ms: set.changed_time("read-timeout"),
            total_ms: set.time("total-timeout"),
            body_bytes: size(set.text("max-body-size")),
            head_bytes: size(set.text("max-header-size"))
                .and_then(|bytes| u32::try_from(bytes).ok())
                .filter(|bytes| *bytes < 64 << 10),
            in_flight,
            queue: in_flight.map(|_| set.number("queue-size").unwrap_or(0)),
            queue_ms: in_flight.and_then(|_| set.time("queue-timeout")),
        },
        balance: Balance {
            sticky: set.on("sticky"),
            retries: Some(set.number("retries").unwrap_or(0)).filter(|retries| *retries != 3),
            slow_start_ms: set.time("slow-start").unwrap_or(0),
            health,
            circuit,
            shares: Vec::new(),
            counted: false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checked(name: &str, value: &str) -> Result<String, String> {
        check(find(name)?, value)
    }

    #[test]
    fn values_have_one_spelling() {
        for (name, value, want) in [
            ("read-timeout", "120", "2m"),
            ("proxy-read-timeout", "90s", "90s"),
            ("client-max-body-size", "50M", "50m"),
            ("client-max-body-size", "0", "off"),
            ("max-body-size", "1048576", "1m"),
            ("hsts", "true", "on"),
            ("rate-limit", "100/m", "100/m"),
            ("allow-ips", "192.0.2.0/24, 2001:db8::1", "192.0.2.0/24,2001:db8::1"),
            ("canonical-host", "Example.COM", "example.com"),
            ("idle-timeout", "15m", "15m"),
        ] {
            assert_eq!(checked(name, value).as_deref(), Ok(want), "{name}={value}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (name, value, told) in [
            ("hsts", "maybe", "write on or off"),
            ("read-timeout", "-1", "such as 500ms"),
            ("read-timeout", "99999999999999999999h", "write a time"),
            ("max-header-size", "1m", "from 1k to 64k"),
            ("rate-limit", "5", "10/s"),
            ("allow-ips", "192.0.2.1/24", "bits set"),
            ("canonical-host", "*.example.com", "host name"),
            ("redirect-code", "200", "auto, 301, 302, 307, 308"),
            ("health-path", "healthz", "a path"),
            ("proxy-buffering", "on", "streamed"),
            ("send-timeout", "1s", "read-timeout"),
            ("nonsense", "1", "is no setting of the proxy; there are: access-log-format"),
        ] {
            let error = checked(name, value).expect_err(name);
            assert!(error.contains(told), "{name}={value}: {error}");
        }
    }

    #[test]
    fn every_default_is_a_value_and_makes_the_default_policy() {
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            assert_eq!(check(key, key.default).as_deref(), Ok(key.default), "{}", key.name);
        }
        let made = policy(&AppProxy::default(), &Values::new(), &BTreeMap::new());
        let hsts = Hsts { max_age: 15_724_800, include_subdomains: false, preload: false };
        assert_eq!(made, Policy { hsts: Some(hsts), hold_ms: 2000, ..Policy::default() });
    }

    #[test]
    fn an_app_goes_before_the_platform() {
        let values = |pairs: &[(&str, &str)]| -> Values {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let global = values(&[("read-timeout", "5m"), ("max-body-size", "1m")]);
        let app = AppProxy { values: values(&[("max-body-size", "off")]), ..AppProxy::default() };
        let made = policy(&app, &global, &BTreeMap::new());
        assert_eq!((made.limits.idle_ms, made.limits.body_bytes), (Some(300_000), None));
        assert_eq!(effective(&app.values, &global)["read-timeout"], "5m");
    }

    proptest! {
        #[test]
        fn times_and_sizes_are_printed_as_they_are_read(number in 1_u64..1 << 45) {
            prop_assert_eq!(time(&time_text(number)), Some(number));
            prop_assert_eq!(size(&size_text(number)), Some(number));
        }

        #[test]
        fn no_value_panics(name in 0..KEYS.len(), value in ".{0,40}") {
            if let Ok(spelled) = check(&KEYS[name], &value) {
                prop_assert_eq!(check(&KEYS[name], &spelled), Ok(spelled));
            }
        }
    }
}
