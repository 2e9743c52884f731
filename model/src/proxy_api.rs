//! The public API's types of the proxy's settings.

use crate::policy::Redirect;
use crate::proxy_settings::{AppPath, Values};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `GET /v1/apps/{app}/proxy`, `GET /v1/proxy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ProxyInfo {
    /// What was set, by key.
    pub values: Values,
    /// What holds, by key: what was set over the platform's over the defaults.
    pub effective: Values,
    /// Who may enter, by basic authentication; empty lets everybody in.
    pub users: Vec<String>,
    /// Paths of hosts that lead to the app.
    pub paths: Vec<AppPath>,
    /// Hosts of the app that lead elsewhere.
    pub redirects: Vec<Redirect>,
    /// It is being worked on: requests get 503.
    pub maintenance: bool,
    /// Requests are held, at most so many milliseconds each.
    pub paused_ms: Option<u64>,
    /// Nobody asked for it, so it was stopped; a request starts it.
    pub asleep: bool,
    /// Which pages of its own it has: `maintenance`, `502` …
    pub pages: Vec<String>,
}

/// `PATCH /v1/apps/{app}/proxy`, `PATCH /v1/proxy`: what is absent stays. Answers once every proxy that is alive goes by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PatchProxy {
    /// By key; empty values are reset.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Passwords by user, or their bcrypt hashes as `htpasswd -B` writes them; `null` takes a user away. Apps only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<String, Option<String>>,
    /// Paths to lead to the app. Apps only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_paths: Vec<AppPath>,
    /// Paths to lead there no more. Apps only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_paths: Vec<AppPath>,
    /// New list of redirects. Apps only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirects: Option<Vec<Redirect>>,
    /// Whether the app is being worked on. Apps only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<bool>,
    /// Hold requests, at most so many milliseconds each, 100 to 600000; 0 lets them go on. Apps only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// HTML by name, up to 64 KiB each: `maintenance` (apps only), `403`, `404`, `413`, `429`, `502`, `503`, `504`; `null`
    /// takes a page away.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pages: BTreeMap<String, Option<String>>,
}
