//! Config vars that are more than text in the environment: those that are never shown again, and files.
//!
//! In: bytes as base64 in JSON. Out: the same; in messages of any kind, only their number.

use crate::EnvName;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Where containers find their secret files.
pub const SECRETS_DIR: &str = "/run/secrets";

/// Bytes that are never printed; base64 (RFC 4648 §4) in JSON.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretBytes(pub Vec<u8>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.0.len())
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The text itself is a secret too: an error must not quote it.
        let bytes =
            STANDARD.decode(text).map_err(|_| serde::de::Error::custom("a file's bytes are no base64"))?;
        Ok(Self(bytes))
    }
}

/// Files by name: `TLS_KEY` is seen as `/run/secrets/TLS_KEY`.
pub type SecretFiles = BTreeMap<EnvName, SecretBytes>;

/// What a release has of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Names of its config that nobody is shown the values of.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub write_only: BTreeSet<EnvName>,
    /// Its files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: SecretFiles,
}

impl Secrets {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.write_only.is_empty() && self.files.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_as_base64_and_are_never_printed() {
        let bytes = SecretBytes(vec![0, 255, b'x']);
        let json = serde_json::to_string(&bytes).expect("writes");
        assert_eq!(json, "\"AP94\"");
        assert_eq!(serde_json::from_str::<SecretBytes>(&json).expect("reads"), bytes);
        assert_eq!(format!("{bytes:?}"), "SecretBytes(3 bytes)");
        let refused = serde_json::from_str::<SecretBytes>("\"hunter2!\"").expect_err("no base64");
        assert!(!refused.to_string().contains("hunter2"));
    }
}
