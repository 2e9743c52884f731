//! What the API says of config vars beside their values: kinds, history, differences; and of the key that seals them.
//!
//! In: nothing. Out: wire types of `/v1/apps/{app}/config/...`, `/v1/config/...` and `/v1/secrets`.

use crate::{EnvName, ReleaseVersion};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is shown in place of a value.
pub const MASK: &str = "********";

/// What a config var is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VariableKind {
    /// In the environment, and shown to whoever may see the app.
    #[default]
    Plain,
    /// In the environment, and never shown again.
    Secret,
    /// A file below `/run/secrets`, never shown again.
    File,
}

/// One config var.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Variable {
    /// Its name.
    pub name: EnvName,
    /// What it is.
    pub kind: VariableKind,
    /// Its value; `None` unless it is plain and the caller did not ask for masks.
    pub value: Option<String>,
    /// Length of the value.
    pub bytes: u64,
    /// Whether it is the platform's, for all apps.
    pub global: bool,
}

/// Who changed config vars, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigEvent {
    /// When; milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The name of an SSH key or token, `local`, or `app.json`.
    pub by: String,
    /// Which, by name.
    pub changes: Vec<NameChange>,
    /// Whether they were only stored (`--no-restart`).
    pub stored_only: bool,
    /// The release that brought them back, which is older than this event; absent where they were set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseVersion>,
}

/// One name of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NameChange {
    /// Which.
    pub name: EnvName,
    /// How.
    pub change: Change,
    /// What it is now, or was if it was removed.
    pub kind: VariableKind,
}

/// How a config var changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was not there.
    Added,
    /// It had another value, or was of another kind.
    Changed,
    /// It is not there any more.
    Removed,
}

/// How the config of two releases differs, or of one and the config of now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigDiff {
    /// `v3`, or `now`.
    pub from: String,
    /// `v5`, or `now`.
    pub to: String,
    /// What differs, by name.
    pub changes: Vec<ValueChange>,
}

/// One config var that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ValueChange {
    /// Which.
    pub name: EnvName,
    /// How.
    pub change: Change,
    /// What it is, or was if it is gone.
    pub kind: VariableKind,
    /// Its value before: only if it is plain and `reveal` was asked for.
    pub before: Option<String>,
    /// Its value after: only if it is plain and `reveal` was asked for.
    pub after: Option<String>,
}

/// The key that seals what the platform stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretsInfo {
    /// The first 16 hexadecimal digits of the SHA-256 of the key: tells keys apart, tells nothing of them.
    pub key: String,
    /// When the key was made; milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Whether values are being sealed anew under it: until that is done the old key is kept beside it.
    pub rotating: bool,
    /// Where the key is on the controller's disk.
    pub file: String,
}
