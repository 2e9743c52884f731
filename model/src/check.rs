//! Health checks: how a container shows that it may get traffic. From `app.json` `healthchecks`, a `CHECKS` file, or
//! the default.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One check of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// For people; `default`, or the name in `app.json`.
    pub name: String,
    /// When it runs.
    pub kind: CheckKind,
    /// What it looks at.
    pub probe: Probe,
    /// Tries before it counts as failed; at least 1.
    pub attempts: u32,
    /// Longest time for one try, in seconds.
    pub timeout_secs: u32,
    /// Time between two tries, in seconds.
    pub wait_secs: u32,
    /// Time before the first try, in seconds.
    pub initial_delay_secs: u32,
    /// A failure is only written to the log.
    #[serde(default)]
    pub warn_only: bool,
}

/// When a check runs (Kubernetes' words, as in Dokku's `app.json`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// Until it passes once; a deploy waits for it, and its failure fails the deploy.
    Startup,
    /// For ever; failing takes the container out of the routes, passing brings it back.
    Readiness,
    /// For ever; failing restarts the container.
    Liveness,
}

/// What a check looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Probe {
    /// `GET path` answers 200 to 399, with `content` in its body if given.
    Http {
        /// Path and query, beginning with `/`.
        path: String,
        /// Container port; `None` is the main port.
        port: Option<u16>,
        /// Text that the first 64 KiB of the body must hold.
        content: Option<String>,
        /// Extra request headers, such as `Host`.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// A TCP connection to the port is accepted.
    Listening {
        /// Container port; `None` is the main port.
        port: Option<u16>,
    },
    /// A command in the container exits with 0.
    Command {
        /// `argv`.
        argv: Vec<String>,
    },
    /// The container has run this long without exiting.
    Uptime {
        /// Seconds.
        seconds: u32,
    },
    /// The default: the main port accepts a connection, or the container has run this long, whichever is first.
    ListeningOrUptime {
        /// Seconds.
        seconds: u32,
    },
}
