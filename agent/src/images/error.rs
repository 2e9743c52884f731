//! What can go wrong between the registry and a directory of files.

use super::unpack::UnpackError;
use berth_model::Digest;
use berth_wire::WireError;
use std::io;
use std::path::PathBuf;

/// Why an image is not ready, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The registry did not answer as it should.
    #[error("the registry could not {what}")]
    Registry {
        /// What it was asked, and for what.
        what: String,
        /// Why not.
        source: WireError,
    },
    /// The registry refused.
    #[error("the registry refused to {what}: {status} {text}")]
    Refused {
        /// What it was asked, and for what.
        what: String,
        /// The status.
        status: http::StatusCode,
        /// What it said, cut.
        text: String,
    },
    /// What came is not what was asked for.
    #[error("{what} is refused: it has the {property} {found}, but {expected} was expected")]
    Mismatch {
        /// Which blob or manifest.
        what: String,
        /// `digest`, `size` or `diffID`.
        property: &'static str,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// A manifest or config that Berth cannot run.
    #[error("image {image} is refused: {rule}")]
    Invalid {
        /// Which.
        image: Digest,
        /// Why.
        rule: String,
    },
    /// A layer that was not unpacked.
    #[error("layer {layer} cannot be unpacked")]
    Unpack {
        /// Which; as its manifest or sender names it.
        layer: String,
        /// Why.
        source: UnpackError,
    },
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
    #[error("an image task ended without a result")]
    Task(#[from] tokio::task::JoinError),
}

impl ImageError {
    pub(crate) fn disk(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { action, path, source }
    }
}

/// An error with all its causes on one line, as people read it.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
