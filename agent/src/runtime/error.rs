//! What can go wrong in the kernel life of a container.

use std::io;
use std::path::PathBuf;

/// Why the runtime could not do something.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A file or directory of the runtime's own.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: `read`, `make` …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No usable cgroup hierarchy.
    #[error("cannot limit containers: {0}")]
    Cgroup(String),
    /// The system call filter could not be compiled.
    #[error("cannot compile the system call filter: {0}")]
    Seccomp(String),
    /// The shim could not be started, or died.
    #[error("the shim of {id} {what}")]
    Shim {
        /// Whose.
        id: String,
        /// What happened.
        what: String,
        /// Why.
        source: Option<io::Error>,
    },
    /// The container could not be set up.
    #[error("cannot set up {id}: {stage}: {text}")]
    Setup {
        /// Which container.
        id: String,
        /// What was being done.
        stage: String,
        /// What went wrong.
        text: String,
    },
    /// The program could not be run: not found, not executable, no such user …
    #[error("{text}")]
    ExecFailed {
        /// What happened, to what; shown to app developers as it is.
        text: String,
    },
    /// The container is not running (any more).
    #[error("{id} is not running")]
    Gone {
        /// Which container.
        id: String,
    },
    /// A bundle that cannot be made into a container.
    #[error("{id} cannot be created: {what}")]
    Invalid {
        /// Which container.
        id: String,
        /// What is wrong with it, and what would be right.
        what: String,
    },
}

impl RuntimeError {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
