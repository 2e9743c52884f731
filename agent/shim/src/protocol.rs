//! The spec the agent hands to a shim, and the messages on its control socket.
//!
//! The control socket is `SOCK_SEQPACKET`: one packet is one JSON message, file descriptors ride along. A connection
//! carries one request and what follows from it. An agent and a shim of different versions meet after an upgrade, so
//! fields are only added, with a default.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Longest message on the control socket, in bytes. Longer values travel in a memfd.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Name of the control socket in the container's directory.
pub const SOCKET: &str = "ctl.sock";
/// Name of the file whose flock the shim holds for life.
pub const LOCK: &str = "lock";
/// Name of the file that says how the container ended.
pub const EXIT: &str = "exit.json";
/// Seconds a container may wait, set up, for `Request::Start`.
pub const START_WITHIN_SECS: u64 = 60;

/// Everything a shim needs to know of its container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Its id, for messages.
    pub id: String,
    /// The container's directory on the node.
    pub dir: PathBuf,
    /// Where log segments go; `None` for sessions.
    pub log_dir: Option<PathBuf>,
    /// How many bytes of log are kept.
    pub log_bytes: u64,
    /// Layers, topmost first.
    pub lowers: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// The overlay's work directory, on the same file system as `upper`.
    pub work: PathBuf,
    /// A bind-mounted network namespace; `None` makes an empty one.
    pub netns: Option<PathBuf>,
    /// Name inside.
    pub hostname: String,
    /// First host uid and gid, and how many; `None` runs without a user namespace.
    pub id_map: Option<(u32, u32)>,
    /// Directories and files of the node inside it, in the order they are mounted.
    pub binds: Vec<Bind>,
    /// What it runs.
    pub process: Process,
    /// Where its input and output go.
    pub stdio: Stdio,
    /// `RLIMIT_NOFILE`.
    pub open_files: u64,
    /// Bytes the writable layer may take; `None` is unlimited or limited by the file system's own quota.
    pub disk_bytes: Option<u64>,
    /// Its cgroups.
    pub cgroup: Cgroup,
    /// Where kills for memory are counted (`memory.events` or `memory.oom_control`).
    pub oom_events: Option<PathBuf>,
    /// Words for the memory limit in messages, such as `512 MiB`.
    pub memory_words: String,
    /// BPF programs, installed in this order; each instruction is `code << 48 | jt << 40 | jf << 32 | k`.
    pub seccomp: Vec<Vec<u64>>,
    /// Directories in memory, mounted last.
    #[serde(default)]
    pub private: Vec<Private>,
    /// Set nothing up: the container runs and its shim died. The descriptors of its `Kept` are the first packet on the
    /// connection the new shim is born with.
    #[serde(default)]
    pub adopt: Option<Kept>,
}

/// What a shim holds of a running container, in the order of its descriptors: a pidfd of its first process, the socket
/// to that process, its devpts, the read ends of `outputs`, the master of its terminal if there is one. The agent keeps
/// copies, so that the death of a shim ends nothing, and hands them to the shim that takes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its first process on the node.
    pub pid: u32,
    /// Which streams are logged (`segment::STDOUT`, `segment::STDERR`).
    pub outputs: Vec<u8>,
    /// Whether it has a terminal.
    pub terminal: bool,
}

impl Kept {
    /// How many descriptors go with it.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        3 + self.outputs.len() + usize::from(self.terminal)
    }
}

/// The cgroups of a container and its shim.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Cgroup {
    /// One directory in each hierarchy. The shim stays in the agent's: a move costs milliseconds.
    V1(Vec<PathBuf>),
    /// One directory, and another for the shim.
    V2 {
        /// The container's.
        container: PathBuf,
        /// For all shims.
        shims: PathBuf,
    },
}

/// A directory or file of the node inside the container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bind {
    /// On the node.
    pub source: PathBuf,
    /// Absolute, in the container.
    pub target: PathBuf,
    /// No writes.
    pub read_only: bool,
    /// Ids on disk are the container's own (plain), so the mount is shifted by the id map.
    pub shift: bool,
}

/// A directory of the container that is in memory only, with files of its user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Private {
    /// Absolute, in the container.
    pub target: PathBuf,
    /// Of each file.
    pub mode: u32,
    /// Bytes in hexadecimal, by name.
    pub files: Vec<(String, String)>,
}

/// What is run, at the start or by exec.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment, in order.
    pub env: Vec<(String, String)>,
    /// Absolute, in the container.
    pub cwd: PathBuf,
    /// As in an OCI config: `""`, `name`, `uid`, `user:group`.
    pub user: String,
    /// Rows and columns of its terminal.
    pub tty: Option<(u16, u16)>,
}

/// Where the first process's input and output go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Nothing in; out and err framed into log segments.
    Logged,
    /// Three pipes, handed to the agent with `Reply::Created`.
    Piped,
    /// A terminal (`Process::tty`), its master handed to the agent with `Reply::Created`.
    Tty,
}

/// Agent to shim.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Go: only on the connection the shim was born with.
    Start,
    /// Answered with `Reply::State`, later with `Reply::Exited`.
    Watch,
    /// Send this signal to the container's process. Answered with `Reply::Done`.
    Signal(i32),
    /// Set the size of the main terminal. Answered with `Reply::Done`.
    Resize(u16, u16),
    /// Run a `Process` (JSON in the memfd that comes along) in the container. Answered with `Reply::Started` and its
    /// descriptors, or `Reply::Failed`; later `Reply::Exited`. `Signal` and `Resize` on this connection mean it, and
    /// its end kills it.
    Exec,
}

/// Shim to agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The container is set up, nothing runs yet. Comes with stdin, stdout, stderr, or the terminal's master.
    Created {
        /// Its first process on the node.
        pid: u32,
    },
    /// The process runs.
    Running,
    /// It could not be set up or run.
    Failed(Failure),
    /// An exec session runs. Comes with stdin, stdout, stderr, or the terminal's master.
    Started {
        /// On the node.
        pid: u32,
    },
    /// How far the container is. Comes with the descriptors of `kept`.
    State {
        /// What to keep for the shim's successor.
        kept: Kept,
        /// `start` was asked and succeeded.
        running: bool,
        /// Bytes the writable layer takes, when counted.
        #[serde(default)]
        disk_bytes: Option<u64>,
    },
    /// The process ended.
    Exited(Exit),
    /// The request was carried out.
    Done,
}

/// Why a container or an exec session did not come to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done, such as `mount /proc`, or `exec` for the program itself.
    pub stage: String,
    /// What went wrong, in words.
    pub text: String,
}

/// How a process ended: the content of `exit.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when killed.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// How many processes of the container the kernel killed for memory.
    pub oom_kills: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Why the runtime itself killed it, such as a full disk.
    #[serde(default)]
    pub reason: Option<String>,
}
