//! What is said to etcd: its v3 API as JSON (etcd's documentation, "gRPC gateway": bytes are base64, 64-bit numbers are text,
//! what is zero or empty is left out).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes, as base64.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(D::Error::custom)
    }
}

/// A 64-bit number, as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(pub(super) i64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Number(i64),
        }
        match Either::deserialize(deserializer)? {
            Either::Text(text) => text.parse().map(Self).map_err(D::Error::custom),
            Either::Number(number) => Ok(Self(number)),
        }
    }
}

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Comparison {
    key: Bytes,
    target: &'static str,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_revision: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mod_revision: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Bytes>,
}

impl Comparison {
    fn new(key: String, target: &'static str, result: &'static str) -> Self {
        Self { key: key.into(), target, result, create_revision: None, mod_revision: None, value: None }
    }

    /// It was made by this revision, and lives since; 0: there is none.
    pub(super) fn created(key: String, revision: i64) -> Self {
        Self { create_revision: Some(Number(revision)), ..Self::new(key, "CREATE", "EQUAL") }
    }

    /// There is one.
    pub(super) fn present(key: String) -> Self {
        Self { create_revision: Some(Number(0)), ..Self::new(key, "CREATE", "GREATER") }
    }

    /// It was last written by this revision.
    pub(super) fn written(key: String, revision: i64) -> Self {
        Self { mod_revision: Some(Number(revision)), ..Self::new(key, "MOD", "EQUAL") }
    }

    /// It holds this.
    pub(super) fn holds(key: String, value: String) -> Self {
        Self { value: Some(value.into()), ..Self::new(key, "VALUE", "EQUAL") }
    }

    /// It holds something that sorts before this.
    pub(super) fn below(key: String, value: String) -> Self {
        Self { value: Some(value.into()), ..Self::new(key, "VALUE", "LESS") }
    }
}

/// Reads a range of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Range {
    pub(super) key: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range_end: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<Number>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) keys_only: bool,
}

impl Range {
    /// One key.
    pub(super) fn one(key: String) -> Self {
        Self { key: key.into(), ..Self::default() }
    }

    /// Every key that begins so.
    pub(super) fn prefix(prefix: &str) -> Self {
        Self { key: prefix.into(), range_end: Some(end_of(prefix)), ..Self::default() }
    }
}

/// The first key behind all that begin so.
pub(super) fn end_of(prefix: &str) -> Bytes {
    let mut bytes = prefix.as_bytes().to_vec();
    // UTF-8 has no byte 0xff, so the last one can always grow.
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    Bytes(bytes)
}

/// Sets a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Put {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lease: Option<Number>,
}

/// Removes one key, or a range of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Delete {
    pub(super) key: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range_end: Option<Bytes>,
}

/// All of `success` if all of `compare` holds, else all of `failure`. What is compared is what was before any of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Txn {
    pub(super) compare: Vec<Comparison>,
    pub(super) success: Vec<Op>,
    pub(super) failure: Vec<Op>,
}

/// One step of a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Op {
    #[serde(rename = "request_put")]
    Put(Put),
    #[serde(rename = "request_range")]
    Range(Range),
    #[serde(rename = "request_delete_range")]
    Delete(Delete),
    #[serde(rename = "request_txn")]
    Txn(Txn),
}

/// What every answer begins with.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    pub(super) revision: Number,
}

/// A key and its value.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyAndValue {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    #[serde(alias = "createRevision")]
    pub(super) create_revision: Number,
    #[serde(alias = "modRevision")]
    pub(super) mod_revision: Number,
    pub(super) lease: Number,
}

/// The answer to a [`Range`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RangeAnswer {
    pub(super) header: Header,
    pub(super) kvs: Vec<KeyAndValue>,
    pub(super) more: bool,
}

/// The answer to a [`Delete`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DeleteAnswer {
    pub(super) deleted: Number,
}

/// The answer to a [`Txn`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TxnAnswer {
    pub(super) header: Header,
    pub(super) succeeded: bool,
    pub(super) responses: Vec<OpAnswer>,
}

/// The answer to an [`Op`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OpAnswer {
    #[serde(alias = "responseRange")]
    pub(super) response_range: Option<RangeAnswer>,
    #[serde(alias = "responseDeleteRange")]
    pub(super) response_delete_range: Option<DeleteAnswer>,
    #[serde(alias = "responseTxn")]
    pub(super) response_txn: Option<TxnAnswer>,
}

/// What is said of a lease.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Lease {
    #[serde(rename = "ID")]
    pub(super) id: Number,
    #[serde(rename = "TTL")]
    pub(super) ttl: Number,
}

/// One item of an answer that comes in several.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Streamed<T: Default> {
    pub(super) result: T,
}

/// What is said before a user's first call.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Login<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

/// What a user shows at each call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Token {
    pub(super) token: String,
}

/// Forgets what keys were before a revision.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Compaction {
    pub(super) revision: Number,
}

/// Why a call was refused: a number of gRPC (its documentation, "Status codes"), and a sentence.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    pub(super) code: i64,
    pub(super) message: String,
    pub(super) error: String,
}
