//! What a container is made of, as the rest of the agent says it.

use berth_model::ContainerId;
use berth_model::container::Limits;
use berth_model::secrets::SecretBytes;
use std::path::PathBuf;

/// One container to be created.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its name for life.
    pub id: ContainerId,
    /// Its own directory, `DIR/agent/containers/<id>`; made if missing. A bundle created again in the same directory
    /// begins with a fresh writable layer.
    pub dir: PathBuf,
    /// Where its output is kept; only used with `Stdio::Logged`.
    pub log_dir: Option<PathBuf>,
    /// Layer directories, topmost first, at most 500; ids on disk are plain (0 to 65535).
    pub lowers: Vec<PathBuf>,
    /// A bind-mounted network namespace; `None` makes a fresh one with only `lo`.
    pub netns: Option<PathBuf>,
    /// Program and arguments; a program without `/` is looked up in `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment. `PATH`, `HOME`, `HOSTNAME` and (with a terminal) `TERM` are added when missing.
    pub env: Vec<(String, String)>,
    /// Absolute; made if missing.
    pub cwd: PathBuf,
    /// As in an OCI config: empty (root), `name`, `uid`, `user:group`; resolved in the container's own files.
    pub user: String,
    /// Name inside.
    pub hostname: String,
    /// What it may use.
    pub limits: Limits,
    /// Directories and files of the node inside it. Missing targets are made. Ids on disk are the container's own.
    pub binds: Vec<Bind>,
    /// Small read-only files inside it: `/etc/resolv.conf` and such.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Files of its user alone that are in memory only.
    pub private: Vec<Private>,
    /// Where input and output of the first process go.
    pub stdio: Stdio,
    /// Which ids of the node stand for the container's.
    pub id_map: IdMap,
    /// Keep the writable layer here (builds), as it is if it exists; `None` uses `dir/upper`, always fresh. On the
    /// same file system as `dir`. Ids on disk are mapped (`id_map.base` + id).
    pub upper: Option<PathBuf>,
}

/// A directory or file of the node inside a container.
#[derive(Clone, Debug)]
pub struct Bind {
    /// On the node, absolute.
    pub source: PathBuf,
    /// In the container, absolute; not below `/proc` or `/sys`.
    pub target: PathBuf,
    /// No writes.
    pub read_only: bool,
    /// Make `source` as a directory owned by the container's root when it does not exist.
    pub create: bool,
}

/// A directory inside that is in memory only: never on the node's disk.
#[derive(Clone, Debug)]
pub struct Private {
    /// Absolute; made if missing.
    pub target: PathBuf,
    /// Of each file, such as 0o400.
    pub mode: u32,
    /// Its files by name, at most a few MiB in all.
    pub files: Vec<(String, SecretBytes)>,
}

/// Where input and output of a container's first process go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// Nothing in, output to the log.
    Logged,
    /// Pipes: `Handle::take_session`.
    Piped,
    /// A terminal: `Handle::take_session`.
    Tty {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
}

/// Which ids of the node stand for a container's `0..count`. The same for all containers of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// The uid and gid of the node that are root inside. 0: no user namespace (only for kernels without).
    pub base: u32,
    /// How many; 65536.
    pub count: u32,
}

/// What is run beside the first process in a running container, confined exactly like it.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Set above the container's own environment.
    pub env: Vec<(String, String)>,
    /// Default: the container's.
    pub cwd: Option<PathBuf>,
    /// Default: the container's.
    pub user: Option<String>,
    /// Rows and columns of a terminal; `None` uses three pipes.
    pub tty: Option<(u16, u16)>,
}

/// What a container uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Memory charged to it, without file pages that could be dropped at once, in bytes.
    pub memory_bytes: u64,
    /// Its limit, in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// CPU time since it began, in microseconds.
    pub cpu_us: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Processes the kernel killed for memory.
    pub oom_kills: u64,
    /// Bytes read from disks and written to them, where the kernel counts that for its cgroup.
    pub io_bytes: Option<(u64, u64)>,
}
