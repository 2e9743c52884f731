//! Containers: what a node is asked to run, and what it reports back.

use crate::check::Check;
use crate::image::{ImageRef, Process};
use crate::site::SiteRules;
use crate::{AppName, ContainerId, EnvName, ProcessType, ReleaseVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use utoipa::ToSchema;

/// One container as a node is asked to run it. Never changed once made: another spec is another id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name for life.
    pub id: ContainerId,
    /// Whose it is.
    pub app: AppName,
    /// Which release it runs.
    pub release: ReleaseVersion,
    /// Which process type.
    pub process: ProcessType,
    /// From 1: the `1` of `web.1`.
    pub ordinal: u32,
    /// What it runs from.
    pub image: ImageRef,
    /// What it runs.
    pub run: Process,
    /// Its whole environment above the image's: config, `PORT`, `DYNO`, `GIT_REV` …
    pub env: BTreeMap<EnvName, String>,
    /// What it may use.
    pub limits: Limits,
    /// The port `PORT` names; what default checks look at and HTTP routes lead to.
    pub port: Option<u16>,
    /// Ports of the node that lead into it.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
    /// How it shows that it may get traffic.
    pub checks: Vec<Check>,
    /// What happens when it exits.
    pub restart: RestartPolicy,
    /// How it is stopped.
    pub stop: Stop,
    /// Directories of the node inside it.
    #[serde(default)]
    pub mounts: Vec<Mount>,
}

/// Hard limits of one container. `None` is unlimited, which only an admin can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Memory in MiB, swap not allowed beyond it. Default 512.
    pub memory_mib: Option<u64>,
    /// Thousandths of one CPU it may use at most. Default none: the weight shares.
    pub cpu_millis: Option<u64>,
    /// Share under contention, 1 to 10000 (cgroup v2 `cpu.weight`). Default 100.
    pub cpu_weight: u64,
    /// Processes and threads. Default 512.
    pub pids: Option<u64>,
    /// What it may write to its own file system, in MiB. Default 2048.
    pub disk_mib: Option<u64>,
    /// What is kept of its output, in MiB. Default 64.
    pub log_mib: u64,
    /// Open files (`RLIMIT_NOFILE`). Default 65536, lowered to the node's own hard limit.
    pub open_files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_mib: Some(512),
            cpu_millis: None,
            cpu_weight: 100,
            pids: Some(512),
            disk_mib: Some(2048),
            log_mib: 64,
            open_files: 65_536,
        }
    }
}

impl Limits {
    /// What builds may use unless it is set otherwise: compilers and package managers need more than an app, and yield to
    /// apps when the CPU is short.
    #[must_use]
    pub fn of_builds() -> Self {
        Self {
            memory_mib: Some(2048),
            cpu_weight: 50,
            pids: Some(4096),
            disk_mib: Some(10_240),
            ..Self::default()
        }
    }

    /// The defaults of a process type: `build` stands for the app's builds.
    #[must_use]
    pub fn default_of(process: &crate::ProcessType) -> Self {
        if process.as_str() == "build" { Self::of_builds() } else { Self::default() }
    }
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// A port of the node that leads to a port of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishedPort {
    /// Which protocol.
    pub protocol: Protocol,
    /// Port inside the container.
    pub container_port: u16,
    /// Port of the node; `None` lets the node choose one, which it reports.
    pub node_port: Option<u16>,
}

/// What happens when a container exits by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "policy", rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// It stays exited.
    Never,
    /// Started again after every exit.
    Always,
    /// Started again after an exit with another code than 0, at most `max_retries` times in a row.
    OnFailure {
        /// Default 10.
        max_retries: u32,
    },
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self::OnFailure { max_retries: 10 }
    }
}

/// How a container is stopped: `signal`, then SIGKILL after `grace_secs`. The default signal gives way to the image's own
/// (`STOPSIGNAL`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stop {
    /// Signal number; default 15 (SIGTERM).
    pub signal: i32,
    /// Seconds; default 30.
    pub grace_secs: u32,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: 15, grace_secs: 30 }
    }
}

/// Signals by number, from 1 (signal(7), x86 and ARM).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The number of a signal as `STOPSIGNAL` has it: `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`, `SIGRTMAX-2`.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    /// What the C library leaves of the real-time signals.
    const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = SIGNALS.iter().position(|known| *known == name) {
        return i32::try_from(index + 1).ok();
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<i32>().ok().filter(|number| *number >= 0),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => REAL_TIME.start().checked_add(offset(rest, '+')?)?,
        (_, Some(rest)) => REAL_TIME.end().checked_sub(offset(rest, '-')?)?,
        _ => return None,
    };
    REAL_TIME.contains(&number).then_some(number)
}

/// A directory of the node that is seen inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mount {
    /// Absolute path on the node, or the name of a volume (no `/`).
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// No writes.
    #[serde(default)]
    pub read_only: bool,
}

/// What a node says of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContainerStatus {
    /// Where in its life it is.
    pub state: ContainerState,
    /// Starts so far, from 1; 0 before the first. Distinguishes lives at the same address.
    pub incarnation: u32,
    /// Starts since it last ran well (for backoff and `restarts:` in reports).
    pub restarts: u32,
    /// Its address on the node's bridge, the same over restarts.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// Ports of the node that lead into it.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
    /// Process id of its first process on the node, while it runs.
    pub pid: Option<u32>,
    /// For a static site: the directory on the node that holds it.
    pub static_root: Option<String>,
    /// For a static site: its headers and redirects.
    #[serde(default, skip_serializing_if = "SiteRules::is_empty")]
    pub static_rules: SiteRules,
    /// What its developer should know although it runs, such as that it listens on another port.
    #[serde(default)]
    pub advice: Option<String>,
}

/// Where in its life a container is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ContainerState {
    /// Known to the node; its image is being fetched or its network made.
    Preparing,
    /// Its process runs; startup checks have not passed yet.
    Starting {
        /// Milliseconds since the Unix epoch.
        since_ms: i64,
    },
    /// Runs, startup checks passed.
    Running {
        /// When its process started; milliseconds since the Unix epoch.
        since_ms: i64,
        /// Readiness checks pass: it may get traffic.
        ready: bool,
    },
    /// Asked to stop: signal sent, grace time running.
    Stopping,
    /// Exited and will be started again.
    BackingOff {
        /// How it last ended.
        exit: Exit,
        /// When it is started again; milliseconds since the Unix epoch.
        until_ms: i64,
    },
    /// Exited and stays so.
    Exited {
        /// How it ended.
        exit: Exit,
    },
    /// It could not be started, or failed its startup checks.
    Failed {
        /// What happened and to what, in one or two sentences.
        reason: String,
    },
}

/// How a container's first process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exit {
    /// Exit code; 128 + signal when killed, as shells show it.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// The kernel killed something in it for memory.
    pub oom_killed: bool,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// One line of a container's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When it was read; microseconds since the Unix epoch.
    pub at_us: i64,
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessType,
    /// Which one of them.
    pub ordinal: u32,
    /// Which container.
    pub container: ContainerId,
    /// Where it was written.
    pub stream: LogStream,
    /// Without its newline; invalid UTF-8 replaced. May hold control characters: escape before showing.
    pub text: String,
}

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
    /// Berth's own remark: restarts, kills for memory, dropped lines.
    Berth,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGWINCH", Some(28)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN", Some(34)),
            ("0", None),
            ("65", None),
            ("SIGRTMIN+99", None),
            ("RTMIN+-1", None),
            ("SIGFOO", None),
            ("", None),
        ] {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }
}
