//! Names and ids, each its own type, checked once at the edge. A bad name is refused, never repaired: a quiet
//! repair would make two names one.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Why a name was refused. The text names the value and the rule, and is shown to users as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct NameError {
    /// What kind of name this was to be, such as `app name`.
    pub what: &'static str,
    /// The refused text, cut to 80 characters.
    pub value: String,
    /// The rule it broke, as a sentence without a full stop.
    pub rule: &'static str,
}

fn refuse<T>(what: &'static str, value: &str, rule: &'static str) -> Result<T, NameError> {
    Err(NameError { what, value: value.chars().take(80).collect(), rule })
}

/// One label of RFC 1123 §2.1: lower-case letters, digits and inner hyphens, 1 to 63 bytes.
fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $name(String);

        impl $name {
            /// Checks `text` against the rule of the type.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $parse;
                check(text).map(|()| Self(text.to_owned()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// An app's name: 1 to 63 bytes; labels of `a-z`, `0-9` and inner `-`, joined by dots (RFC 1123 §2.1), so that
    /// it is safe as a host name, a git path, a registry repository and a cgroup name.
    AppName, |text| {
        const WHAT: &str = "app name";
        if text.is_empty() {
            return refuse(WHAT, text, "it is empty");
        }
        if text.len() > 63 {
            return refuse(WHAT, text, "it is longer than 63 bytes");
        }
        if !text.split('.').all(is_label) {
            return refuse(WHAT, text, "use a-z, 0-9 and inner hyphens; dots may join such parts");
        }
        Ok(())
    }
}

name_type! {
    /// A network's name: 1 to 63 of `A-Z`, `a-z`, `0-9`, `_`, `.`, `-`, beginning with a letter or digit, as Docker's are.
    NetworkName, |text| {
        const WHAT: &str = "network name";
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if text.is_empty() || text.len() > 63 {
            return refuse(WHAT, text, "it must have 1 to 63 bytes");
        }
        if !text.as_bytes().iter().all(allowed) || !text.as_bytes()[0].is_ascii_alphanumeric() {
            return refuse(WHAT, text, "use letters, digits, - _ and ., and begin with a letter or digit");
        }
        Ok(())
    }
}

name_type! {
    /// A process type of a Procfile: 1 to 63 of `A-Z`, `a-z`, `0-9`, `_`, `-`, not beginning with `-`.
    ProcessType, |text| {
        const WHAT: &str = "process type";
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'-';
        if text.is_empty() || text.len() > 63 {
            return refuse(WHAT, text, "it must have 1 to 63 bytes");
        }
        if !text.as_bytes().iter().all(allowed) || text.starts_with('-') {
            return refuse(WHAT, text, "use letters, digits, - and _, and do not begin with -");
        }
        Ok(())
    }
}

impl ProcessType {
    /// `web`: the only type that gets routes and that runs once by default.
    #[must_use]
    pub fn web() -> Self {
        Self("web".to_owned())
    }

    /// `release`: runs once a deploy, before any new container gets traffic.
    #[must_use]
    pub fn release() -> Self {
        Self("release".to_owned())
    }

    /// Whether this is `web`.
    #[must_use]
    pub fn is_web(&self) -> bool {
        self.0 == "web"
    }

    /// Whether this is `release`.
    #[must_use]
    pub fn is_release(&self) -> bool {
        self.0 == "release"
    }
}

name_type! {
    /// The name of an environment variable: `[A-Za-z_][A-Za-z0-9_]*` (POSIX.1-2017 §8.1), at most 255 bytes.
    EnvName, |text| {
        const WHAT: &str = "variable name";
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > 255 {
            return refuse(WHAT, text, "it must have 1 to 255 bytes");
        }
        if bytes[0].is_ascii_digit() || !bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_') {
            return refuse(WHAT, text, "use letters, digits and _, and do not begin with a digit");
        }
        Ok(())
    }
}

name_type! {
    /// A machine with an agent: one to four RFC 1123 labels, at most 63 bytes in all.
    NodeName, |text| {
        if text.len() > 63 || !text.split('.').all(is_label) {
            return refuse("node name", text, "use a-z, 0-9 and inner hyphens, at most 63 bytes");
        }
        Ok(())
    }
}

name_type! {
    /// A host name that requests may carry, lower case (RFC 1123 §2.1, at most 253 bytes), or `*.` before one: then
    /// it stands for every name with exactly one more label.
    HostPattern, |text| {
        const WHAT: &str = "domain";
        let name = text.strip_prefix("*.").unwrap_or(text);
        if text.is_empty() || text.len() > 253 {
            return refuse(WHAT, text, "it must have 1 to 253 bytes");
        }
        if !name.split('.').all(is_label) {
            return refuse(WHAT, text, "use a host name such as www.example.com or *.example.com, in lower case, \
                without a port, a path or a final dot");
        }
        Ok(())
    }
}

impl HostPattern {
    /// Whether `host` (lower case, no port) is covered.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        match self.0.strip_prefix("*.") {
            None => self.0 == host,
            Some(parent) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
            }
        }
    }

    /// Whether this is a `*.` pattern.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }
}

name_type! {
    /// One container for its whole life, restarts included: `hello.web.1.k7x2m9`. 1 to 160 bytes of `A-Z`, `a-z`,
    /// `0-9`, `.`, `_`, `-`, not beginning with a dot or hyphen: safe as a file and a cgroup name. Never used twice.
    ContainerId, |text| {
        const WHAT: &str = "container id";
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > 160 {
            return refuse(WHAT, text, "it must have 1 to 160 bytes");
        }
        if !text.as_bytes().iter().all(allowed) || text.starts_with(['.', '-']) || text.contains("..") {
            return refuse(WHAT, text, "use letters, digits, '.', '_' and '-'");
        }
        Ok(())
    }
}

impl ContainerId {
    /// The id of the `ordinal`th `process` of `app`; `unique` tells successive ones apart and comes from the caller
    /// (lower-case letters and digits).
    pub fn of(app: &AppName, process: &ProcessType, ordinal: u32, unique: &str) -> Result<Self, NameError> {
        Self::parse(&format!("{app}.{process}.{ordinal}.{unique}"))
    }
}

name_type! {
    /// One build: a lower-case, time-ordered id of 1 to 64 letters, digits and hyphens.
    BuildId, |text| {
        let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        if text.is_empty() || text.len() > 64 || !text.as_bytes().iter().all(allowed) {
            return refuse("build id", text, "use 1 to 64 of a-z, 0-9 and -");
        }
        Ok(())
    }
}

/// The number of a release of one app, from 1; printed and accepted as `v12` (or `12`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct ReleaseVersion(pub u64);

impl fmt::Display for ReleaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl std::str::FromStr for ReleaseVersion {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix('v').unwrap_or(text).parse() {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => refuse("release", text, "use a number such as v12"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_app_names_are_refused() {
        for bad in [
            "", "../x", "x;id", "$(id)", "-u", ".git", "a..b", "A", "x_y", "a/b", "%2e%2e", "ünï", "a.",
            "-a", "a-",
        ] {
            assert!(AppName::parse(bad).is_err(), "{bad:?} must be refused");
        }
        assert!(AppName::parse(&"a".repeat(64)).is_err());
        for good in ["a", "hello", "my-app", "www.example.com", &"a".repeat(63)] {
            assert!(AppName::parse(good).is_ok(), "{good:?} must be accepted");
        }
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        let pattern = HostPattern::parse("*.example.com").expect("valid");
        assert!(pattern.covers("a.example.com"));
        assert!(!pattern.covers("a.b.example.com"));
        assert!(!pattern.covers("example.com"));
        assert!(!pattern.covers(".example.com"));
    }

    #[test]
    fn json_cannot_smuggle_a_bad_name() {
        assert!(serde_json::from_str::<AppName>("\"../x\"").is_err());
    }
}
