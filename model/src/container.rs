//! Containers: what a node is asked to run, and what it reports back.

use crate::check::Check;
use crate::image::{ImageRef, Process};
use crate::secrets::SecretFiles;
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
    /// It runs once, and never again whatever happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once: Option<Once>,
    /// Files below `/run/secrets`, readable by its user alone.
    #[serde(default, skip_serializing_if = "SecretFiles::is_empty")]
    pub secrets: SecretFiles,
}

/// When a container that runs once may begin, and when it is over. Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Once {
    /// Later than this it is not begun any more.
    pub begin_by_ms: Option<i64>,
    /// Then it is ended.
    pub until_ms: Option<i64>,
}

/// Hard limits of one container. `None` is unlimited, which only an admin can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Memory in MiB. Default 512.
    pub memory_mib: Option<u64>,
    /// Memory and swap together, in MiB, at least the memory; `None` allows no swap. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_swap_mib: Option<u64>,
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
    /// How fast it may use the node's disks.
    #[serde(default, skip_serializing_if = "IoLimits::is_none")]
    pub io: IoLimits,
    /// How fast it may use the network.
    #[serde(default, skip_serializing_if = "NetworkLimits::is_none")]
    pub network: NetworkLimits,
    /// What a node must have free for it.
    #[serde(default, skip_serializing_if = "Reserve::is_none")]
    pub reserve: Reserve,
}

/// How fast a container may use the disks that its layers and volumes are on, each disk for itself. `None` is unlimited.
/// On cgroup v1 writes count only where they pass by the page cache (`O_DIRECT`); on v2 all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IoLimits {
    /// Bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bps: Option<u64>,
    /// Bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bps: Option<u64>,
    /// Operations a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_iops: Option<u64>,
    /// Operations a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_iops: Option<u64>,
}

impl IoLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// How fast a container may use the network, as its own device sees it: Ethernet frames. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkLimits {
    /// What leaves it, in kbit/s (1000 bits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_kbit: Option<u64>,
    /// What comes to it, in kbit/s (1000 bits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_kbit: Option<u64>,
}

impl NetworkLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What is kept for a container on its node. The sum of all reservations never exceeds what a node has; nobody is kept from
/// using what another reserved and does not use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reserve {
    /// Memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Thousandths of one CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Disk space in MiB that its node must have free when it is placed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u64>,
}

impl Reserve {
    /// Whether nothing is reserved.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_mib: Some(512),
            memory_swap_mib: None,
            cpu_millis: None,
            cpu_weight: 100,
            pids: Some(512),
            disk_mib: Some(2048),
            log_mib: 64,
            open_files: 65_536,
            io: IoLimits::default(),
            network: NetworkLimits::default(),
            reserve: Reserve::default(),
        }
    }
}

/// Stands for every process type without limits of its own, where limits are by process type; Dokku's name for it.
pub const EVERY_TYPE: &str = "_default_";

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
    /// The same: `ps:stop` holds over restarts of the node under every policy. Kept apart because that is what was said.
    UnlessStopped,
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

/// As Dokku and Docker write it.
impl std::fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Never => f.write_str("no"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
            Self::OnFailure { max_retries } => write!(f, "on-failure:{max_retries}"),
        }
    }
}

impl std::str::FromStr for RestartPolicy {
    type Err = String;

    /// `no`, `always`, `unless-stopped`, `on-failure` (10 times) or `on-failure:N` with N from 1 to 1000.
    fn from_str(text: &str) -> Result<Self, String> {
        const MOST: u32 = 1000;
        match text {
            "no" | "never" => return Ok(Self::Never),
            "always" => return Ok(Self::Always),
            "unless-stopped" => return Ok(Self::UnlessStopped),
            "on-failure" => return Ok(Self::default()),
            _ => {}
        }
        let count = text.strip_prefix("on-failure:").and_then(|count| count.parse().ok());
        match count {
            Some(max_retries @ 1..=MOST) => Ok(Self::OnFailure { max_retries }),
            _ => {
                let shown: String = text.chars().take(40).collect();
                Err(format!(
                    "{shown:?} is no restart policy: use on-failure:N (N from 1 to {MOST}), always, unless-stopped or no"
                ))
            }
        }
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

/// `SIGTERM`, `SIGRTMIN+3`: what [`signal_number`] reads.
#[must_use]
pub fn signal_name(number: i32) -> String {
    let known = usize::try_from(number).ok().and_then(|number| SIGNALS.get(number.checked_sub(1)?));
    match known {
        Some(name) => format!("SIG{name}"),
        None => format!("SIGRTMIN+{}", number - 34),
    }
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
        for number in (1..=31).chain(34..=64) {
            assert_eq!(signal_number(&signal_name(number)), Some(number));
        }
    }

    #[test]
    fn restart_policies_are_read_as_they_are_written() {
        for text in ["no", "always", "unless-stopped", "on-failure:1", "on-failure:10", "on-failure:1000"] {
            assert_eq!(text.parse::<RestartPolicy>().expect(text).to_string(), text);
        }
        assert_eq!("on-failure".parse(), Ok(RestartPolicy::default()));
        for bad in
            ["", "on-failure:", "on-failure:0", "on-failure:1001", "on-failure:-1", "ALWAYS", "sometimes"]
        {
            assert!(bad.parse::<RestartPolicy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_of_yesterday_still_load() {
        let old = r#"{"memory_mib":512,"cpu_millis":null,"cpu_weight":100,"pids":512,"disk_mib":2048,"log_mib":64,"open_files":65536}"#;
        assert_eq!(serde_json::from_str::<Limits>(old).expect("loads"), Limits::default());
    }
}
