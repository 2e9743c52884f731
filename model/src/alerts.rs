//! Alerts: what is told to a webhook when it begins, and again when it is over.
//!
//! In: what people want to be told. Out: [`AlertInfo`]s, and [`Notice`]s, the bodies that webhooks get.

use crate::AppName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// What may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AlertKind {
    /// A deploy or another release failed; over when a release serves.
    DeployFailed,
    /// An app that is to run has no container that does.
    AppDown,
    /// Less than a tenth of a disk is free, and less than 5 GiB.
    DiskFull,
    /// A certificate ends within 14 days, or has ended.
    CertificateExpiring,
    /// A container was killed for want of memory; over when that did not happen for 10 minutes.
    OutOfMemory,
    /// A machine does not report any more.
    NodeLost,
    /// A machine is short of disk or memory, and gets no new containers.
    NodeShort,
}

impl AlertKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::DeployFailed,
        Self::AppDown,
        Self::DiskFull,
        Self::CertificateExpiring,
        Self::OutOfMemory,
        Self::NodeLost,
        Self::NodeShort,
    ];

    /// As people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeployFailed => "deploy-failed",
            Self::AppDown => "app-down",
            Self::DiskFull => "disk-full",
            Self::CertificateExpiring => "certificate-expiring",
            Self::OutOfMemory => "out-of-memory",
            Self::NodeLost => "node-lost",
            Self::NodeShort => "node-short",
        }
    }

    /// The one that is written so. Errors: a sentence with all that there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.into_iter().map(Self::as_str).collect();
            let shown: String = text.chars().take(40).collect();
            format!("{shown:?} is nothing to be told of; there are {}", all.join(", "))
        })
    }
}

/// `POST /v1/alerts`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddAlert {
    /// Where to, `https://…`; it may hold a secret.
    pub url: String,
    /// Only what is about this app; absent for all apps and the machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// Of what; empty for all.
    #[serde(default)]
    pub on: BTreeSet<AlertKind>,
    /// With it each body is signed: `Berth-Signature: sha256=HEX`, HMAC-SHA256 of the body (RFC 2104).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// One alert. `GET /v1/alerts` (a list).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertInfo {
    /// Names it: eight hexadecimal digits.
    pub id: String,
    /// Where to; passwords, tokens and keys are left out.
    pub url: String,
    /// Only what is about this app.
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// Of what.
    pub on: BTreeSet<AlertKind>,
    /// Whether bodies are signed.
    pub signed: bool,
    /// What is wrong now, of what it tells, in sentences.
    pub firing: Vec<String>,
    /// When something was last told; milliseconds since the Unix epoch.
    pub last_sent_ms: Option<i64>,
    /// Why the last try failed, if it did; it is tried again.
    pub error: Option<String>,
}

/// The body a webhook gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// One sentence; Slack, Mattermost and Rocket.Chat show it.
    pub text: String,
    /// The same; Discord shows it.
    pub content: String,
    /// `firing`, `resolved` or `test`.
    pub status: String,
    /// Of what, such as `app-down`; `test` for tests.
    pub alert: String,
    /// The app, if it is about one.
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// The same for `firing` and the `resolved` that belongs to it.
    pub key: String,
    /// When it began; milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// When this was written; milliseconds since the Unix epoch.
    pub at_ms: i64,
}
