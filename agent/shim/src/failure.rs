//! Saying what failed while doing what.

use berth_shim::protocol::Failure;
use std::io;

/// Names the stage of an error.
pub(crate) trait During<T> {
    /// `stage` is what was being done, such as `mount /proc`.
    fn during(self, stage: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, stage: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure { stage: stage(), text: error.to_string() })
    }
}

impl<T> During<T> for rustix::io::Result<T> {
    fn during(self, stage: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure { stage: stage(), text: error.to_string() })
    }
}

/// A failure of the program or what the user said about it: shown as it is.
pub(crate) fn exec_failure(text: String) -> Failure {
    Failure { stage: "exec".into(), text }
}
