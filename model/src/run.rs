//! One-off containers: commands that run once, and what became of them.

use crate::container::Exit;
use crate::{AppName, ContainerId, EnvName, NodeName, ProcessType, ReleaseVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Longest and usual time to live, in seconds: a day.
pub const DEFAULT_TTL_SECS: u32 = 86_400;
/// Longest time to live that can be asked for, in seconds: 30 days.
pub const MAX_TTL_SECS: u32 = 30 * 86_400;

/// One command that runs once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunInfo {
    /// `hello.run.1234`: what commands call it.
    pub name: String,
    /// Its container, for life. What never ran has none.
    pub container: Option<ContainerId>,
    /// What it is there for.
    pub kind: RunKind,
    /// Whether the platform owns it; else its caller does, and it ends with him.
    pub detached: bool,
    /// The command as it was given.
    pub command: String,
    /// Which release it runs.
    pub release: ReleaseVersion,
    /// Where.
    pub node: Option<NodeName>,
    /// Who asked for it; `cron` for the clock.
    pub by: String,
    /// Of a cron task: which, and why now.
    pub cron: Option<CronCause>,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When its program began, as far as is known.
    pub started_ms: Option<i64>,
    /// When it ended.
    pub ended_ms: Option<i64>,
    /// When it is ended at the latest.
    pub until_ms: Option<i64>,
    /// How it is, or how it went.
    pub status: RunStatus,
    /// Exit code; 128 + signal when killed.
    pub exit_code: Option<i32>,
    /// Why, where the code does not say it.
    pub reason: Option<String>,
}

/// What a one-off is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// `run`, `run:detached`.
    Run,
    /// A cron task.
    Cron,
    /// The release task of a deploy.
    Release,
    /// A postdeploy script.
    Postdeploy,
}

impl RunKind {
    /// As it stands in names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Cron => "cron",
            Self::Release => "release",
            Self::Postdeploy => "postdeploy",
        }
    }
}

/// Why a cron task ran when it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CronCause {
    /// Which task.
    pub task: String,
    /// When it was due; milliseconds since the Unix epoch. `None`: somebody asked for it.
    pub due_ms: Option<i64>,
    /// How many times this entry stands for: more than one only for missed ones.
    pub times: u32,
}

/// How a one-off is, or how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// Known; no node has begun it.
    Waiting,
    /// It runs.
    Running,
    /// Exit code 0.
    Succeeded,
    /// Another code, or it could not be started.
    Failed,
    /// It was ended: by command, for its time to live, for the next run of its task.
    Stopped,
    /// It was due while another run of its task had not ended.
    Skipped,
    /// It was due while nobody could run it.
    Missed,
    /// Its node was lost: whether it came to its end is not known.
    Lost,
}

impl RunStatus {
    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
            Self::Lost => "lost",
        }
    }
}

impl RunInfo {
    /// Whether it has not ended.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.status, RunStatus::Waiting | RunStatus::Running)
    }

    /// Whether `text` names it: `hello.run.1234`, `run.1234`, or its container's id.
    #[must_use]
    pub fn is_called(&self, app: &AppName, text: &str) -> bool {
        let short = self.name.strip_prefix(app.as_str()).and_then(|rest| rest.strip_prefix('.'));
        self.name == text
            || short == Some(text)
            || self.container.as_ref().is_some_and(|id| id.as_str() == text)
    }

    /// The same after its container ended. `stopped`: why somebody ended it.
    #[must_use]
    pub fn ended(mut self, exit: &Exit, stopped: Option<String>) -> Self {
        self.started_ms = self.started_ms.or(Some(self.created_ms));
        self.ended_ms = Some(exit.at_ms);
        self.exit_code = Some(exit.code);
        let expired = self.until_ms.filter(|until| exit.at_ms >= *until);
        (self.status, self.reason) = match (stopped, expired) {
            (Some(by), _) => (RunStatus::Stopped, Some(by)),
            (None, Some(until)) => {
                let hours = (until - self.created_ms) / 1000;
                (RunStatus::Stopped, Some(format!("its time to live of {hours} s was over")))
            }
            (None, None) if exit.code == 0 => (RunStatus::Succeeded, None),
            (None, None) if exit.oom_killed => (RunStatus::Failed, Some("out of memory".to_owned())),
            (None, None) => (RunStatus::Failed, None),
        };
        self
    }
}

/// A command to run without a caller: `POST /v1/apps/{app}/runs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetachedRequest {
    /// `argv`; if the first is the name of a process type, that type's command.
    pub argv: Vec<String>,
    /// Environment only for this run.
    #[serde(default)]
    pub env: BTreeMap<EnvName, String>,
    /// Whose limits it has; `None` is `run`.
    #[serde(default)]
    pub process_type: Option<ProcessType>,
    /// The longest it may run, in seconds; 1 to 2,592,000. Default 86,400.
    #[serde(default)]
    pub ttl_secs: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_judged_by_code_and_cause() {
        let app = AppName::parse("hello").expect("a name");
        let run = RunInfo {
            name: "hello.run.7".into(),
            container: ContainerId::parse("hello.run.7.x").ok(),
            kind: RunKind::Run,
            detached: true,
            command: "true".into(),
            release: ReleaseVersion(1),
            node: None,
            by: "local".into(),
            cron: None,
            created_ms: 1000,
            started_ms: None,
            ended_ms: None,
            until_ms: Some(61_000),
            status: RunStatus::Running,
            exit_code: None,
            reason: None,
        };
        for name in ["hello.run.7", "run.7", "hello.run.7.x"] {
            assert!(run.is_called(&app, name));
        }
        assert!(!run.is_called(&app, "7") && !run.is_called(&app, "run.70"));
        let exit = |code, at_ms| Exit { code, signal: None, oom_killed: false, at_ms };
        assert_eq!(run.clone().ended(&exit(0, 2000), None).status, RunStatus::Succeeded);
        assert_eq!(run.clone().ended(&exit(3, 2000), None).exit_code, Some(3));
        assert_eq!(run.clone().ended(&exit(143, 2000), Some("by me".into())).status, RunStatus::Stopped);
        let late = run.ended(&exit(143, 61_000), None);
        assert_eq!(late.reason.as_deref(), Some("its time to live of 60 s was over"));
    }
}
