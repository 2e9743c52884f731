//! Why a build made no image.

use crate::images::ImageError;
use crate::network::NetworkError;
use crate::runtime::RuntimeError;
use std::io;
use std::path::PathBuf;

/// Why a build made no image. The text, with its causes, is shown to the pusher.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The pusher went away, or somebody said stop.
    #[error("the build was cancelled")]
    Cancelled,
    /// It took too long.
    #[error(
        "the build did not end within {0} seconds and was stopped; make it shorter, or give it more time: berth builder:set APP timeout SECONDS"
    )]
    TimedOut(u64),
    /// A step's script failed.
    #[error("“{title}” failed with exit code {code}; its output is above")]
    StepFailed {
        /// Title of the step.
        title: String,
        /// Exit code.
        code: i32,
    },
    /// The kernel killed a step for memory.
    #[error(
        "“{title}” was stopped because it needed more memory than {limit}; make it need less, or give it more: berth resource:limit --process-type build --memory 4g APP"
    )]
    OutOfMemory {
        /// Title of the step.
        title: String,
        /// The limit.
        limit: String,
    },
    /// A Dockerfile cannot be built, for a reason in it.
    #[error("{file}:{line}: {text}")]
    Dockerfile {
        /// Its path in the tree.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What was found, and what to do.
        text: String,
    },
    /// The same, with a cause below.
    #[error("{file}:{line}: {step}")]
    Instruction {
        /// Its path in the tree.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The instruction as written, cut.
        step: String,
        /// Why.
        source: Box<BuildError>,
    },
    /// The plan asks for something that cannot be.
    #[error("{0}")]
    Plan(String),
    /// The source tree cannot be taken.
    #[error("the source tree cannot be used")]
    Source(#[source] ImageError),
    /// Layers, images, the registry.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The build container.
    #[error("the build container could not be run")]
    Container(#[from] RuntimeError),
    /// The build container's network.
    #[error("the build container got no network")]
    Network(#[from] NetworkError),
    /// The disk did not do what was asked.
    #[error("cannot {action} {}", path.display())]
    Disk {
        /// `write`, `make` …
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A task of ours died.
    #[error("a build task ended without a result")]
    Task(#[from] tokio::task::JoinError),
}

impl BuildError {
    pub(crate) fn disk(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { action, path, source }
    }
}
