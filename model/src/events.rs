//! Events: what was changed, by whom, from where, and how it went.
//!
//! In: what the controller recorded. Out: [`EventInfo`], one a line of `GET /v1/events`.

use crate::AppName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How an event's action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventResult {
    /// It happened.
    Done,
    /// It was tried, and did not.
    Failed,
    /// The controller ended while it was under way; whether it happened, releases and reports say.
    Interrupted,
}

impl EventResult {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Done, Self::Failed, Self::Interrupted];

    /// As it is written in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }

    /// The result that is written so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|result| result.as_str() == text)
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventInfo {
    /// Counts the events of this platform, from 1; events that are forgotten leave a gap.
    pub seq: u64,
    /// When it was over; milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The app it is about, if it is about one (which may be gone).
    #[schema(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// Who did it: the name of a token or an SSH key, `local` for the machine's admin, `berth` for what happens by itself.
    pub by: String,
    /// From where: `ssh ADDRESS`, `https ADDRESS`, `http ADDRESS`, `socket` (on the machine), or empty.
    pub from: String,
    /// What, in a word for programs, such as `config.set`.
    pub kind: String,
    /// What, in a sentence. Never holds a config value or another secret.
    pub text: String,
    /// How it ended.
    pub result: EventResult,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it took, if it took any time; milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}
