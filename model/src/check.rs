//! Health checks: how a container shows that it may get traffic. From `app.json` `healthchecks`, a `CHECKS` file, or
//! the default.

use crate::image::Healthcheck;
use serde::{Deserialize, Serialize};
use std::fmt;
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

impl Check {
    /// What an image's `HEALTHCHECK` asks for, as a check of the start; `None` for `NONE` and what cannot be run.
    #[must_use]
    pub fn of_healthcheck(image: &Healthcheck) -> Option<Self> {
        let argv = match image.test.split_first() {
            Some((kind, words)) if kind == "CMD" && !words.is_empty() => words.to_vec(),
            Some((kind, [line])) if kind == "CMD-SHELL" => {
                vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]
            }
            _ => return None,
        };
        let seconds = |nanos: u64, default: u32| match u32::try_from(nanos.div_ceil(1_000_000_000)) {
            Ok(0) | Err(_) => default,
            Ok(seconds) => seconds.min(3600),
        };
        let (wait_secs, start) = (seconds(image.interval, 30).min(10), seconds(image.start_period, 0));
        let retries = if image.retries == 0 { 3 } else { u32::from(image.retries) };
        Some(Self {
            name: "HEALTHCHECK".to_owned(),
            kind: CheckKind::Startup,
            probe: Probe::Command { argv },
            // Failures within the start period do not count; a deploy asks oftener than the interval says.
            attempts: retries.saturating_add(start.div_ceil(wait_secs)),
            timeout_secs: seconds(image.timeout, 30),
            wait_secs,
            initial_delay_secs: 0,
            warn_only: false,
        })
    }
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

impl CheckKind {
    /// As `app.json` writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
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
    /// The default: whoever listens on the main port answers, in whatever protocol, or the container has run this long,
    /// whichever is first.
    ListeningOrUptime {
        /// Seconds.
        seconds: u32,
    },
}

/// In a few words, without what an answer must hold.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |port: &Option<u16>| port.map_or_else(String::new, |port| format!(" on port {port}"));
        match self {
            Self::Http { path, port, .. } => write!(f, "GET {path}{}", on(port)),
            Self::Listening { port } => write!(f, "listening{}", on(port)),
            Self::Command { argv } => write!(f, "command {}", argv.join(" ")),
            Self::Uptime { seconds } => write!(f, "up for {seconds} s"),
            Self::ListeningOrUptime { seconds } => write!(f, "answers, or is up for {seconds} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_own_check_is_one_of_the_start() {
        let image = |test: &[&str]| Healthcheck {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            interval: 60_000_000_000,
            timeout: 1_500_000_000,
            start_period: 25_000_000_000,
            retries: 2,
        };
        let check = Check::of_healthcheck(&image(&["CMD-SHELL", "a || b"])).expect("a command");
        assert_eq!(
            check.probe,
            Probe::Command { argv: ["/bin/sh", "-c", "a || b"].map(str::to_owned).to_vec() }
        );
        assert_eq!((check.attempts, check.wait_secs, check.timeout_secs), (5, 10, 2));
        assert!(Check::of_healthcheck(&image(&["CMD", "a", "b"])).is_some());
        for none in [&["NONE"][..], &[], &["CMD"]] {
            assert_eq!(Check::of_healthcheck(&image(none)), None);
        }
    }
}
