//! What ends a command early, and the exit code that it has.
//!
//! In: refusals of the API, bad arguments, broken streams. Out: a text for stderr (or none) and an exit code:
//! 1 it failed, 2 it was misused, 20 there is no such app, anything else only by `run` and `enter`.

use berth_model::amount::AmountError;
use berth_model::api::{ApiError, ErrorCode};
use berth_wire::{Endpoint, WireError};
use std::io;

/// Why a command ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The arguments are wrong.
    #[error("{0}")]
    Misuse(String),
    /// It was tried and did not work.
    #[error("{0}")]
    Failed(String),
    /// There is no such app.
    #[error("{0}")]
    NoApp(String),
    /// Everything is said already; only the code counts.
    #[error("exit code {0}")]
    Exit(u8),
    /// Nobody reads our output any more: end quietly, as a program killed by SIGPIPE would.
    #[error("standard output is closed")]
    OutputClosed,
}

/// What commands give.
pub(crate) type Result<T> = std::result::Result<T, CliError>;

impl From<AmountError> for CliError {
    fn from(error: AmountError) -> Self {
        Self::Misuse(error.to_string())
    }
}

impl CliError {
    /// The process's exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Misuse(_) => 2,
            Self::Failed(_) => 1,
            Self::NoApp(_) => 20,
            Self::Exit(code) => *code,
            Self::OutputClosed => 141,
        }
    }

    /// An error of writing to standard output.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::Failed(format!("cannot write to standard output: {error}"))
    }

    /// A call to `endpoint` that did not give what was asked for.
    pub(crate) fn wire(error: WireError, endpoint: &Endpoint) -> Self {
        match error {
            WireError::Refused { body, .. } => body.into(),
            WireError::Connect { reason, .. } => Self::Failed(unreachable(endpoint, &reason)),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<ApiError> for CliError {
    fn from(error: ApiError) -> Self {
        match error.code {
            ErrorCode::AppNotFound => Self::NoApp(error.message),
            ErrorCode::Unauthorized => {
                Self::Failed(format!("{} (set BERTH_TOKEN to a token from tokens:create)", error.message))
            }
            _ => Self::Failed(error.message),
        }
    }
}

impl From<berth_model::NameError> for CliError {
    // 1 as in Dokku, not 2: a program that makes up names must be able to tell a bad one from its own mistakes.
    fn from(error: berth_model::NameError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What to do about a peer that cannot be reached.
fn unreachable(endpoint: &Endpoint, source: &io::Error) -> String {
    match (endpoint, source.kind()) {
        (Endpoint::Unix(path), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => format!(
            "Berth does not run here: nobody answers at {}. Start it with `berth up`, name its directory with \
             --data, or reach another machine with --host https://… and BERTH_TOKEN",
            path.display()
        ),
        (Endpoint::Unix(path), io::ErrorKind::PermissionDenied) => format!(
            "{} may not be opened by this user: try again with sudo, or use --host and BERTH_TOKEN",
            path.display()
        ),
        _ => format!(
            "cannot reach Berth at {endpoint}: {source}; is the address right and is `berth up` running there?"
        ),
    }
}
