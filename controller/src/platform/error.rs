//! What can go wrong with the platform's state, in words for users.

use crate::errors;
use crate::secrets::SecretError;
use crate::store::StoreError;
use berth_model::api::{ApiError, ErrorCode};
use berth_model::{AppName, HostPattern, ReleaseVersion};
use std::path::PathBuf;

/// The platform's state was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// There is no such app.
    #[error("App {0} does not exist")]
    NoSuchApp(AppName),
    /// The name is taken.
    #[error("App {0} already exists; choose another name, or see it with: berth apps:info {0}")]
    AppExists(AppName),
    /// There is no such release.
    #[error("App {app} has no release {version}; see them with: berth releases {app}")]
    NoSuchRelease {
        /// Whose.
        app: AppName,
        /// Which.
        version: ReleaseVersion,
    },
    /// Another app answers at that name.
    #[error(
        "{domain} already leads to app {app}; remove it there first: berth domains:remove {app} {domain}"
    )]
    DomainTaken {
        /// Which.
        domain: HostPattern,
        /// Whose.
        app: AppName,
    },
    /// The input is wrong.
    #[error("{0}")]
    Invalid(String),
    /// There is such a thing already.
    #[error("{0}")]
    Conflict(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Sealing or opening a config value.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A stored value is not what this Berth writes.
    #[error("the stored value {key} cannot be understood")]
    Unreadable {
        /// Its key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A file of the platform.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<PlatformError> for ApiError {
    fn from(error: PlatformError) -> Self {
        let code = match &error {
            PlatformError::NoSuchApp(_) => ErrorCode::AppNotFound,
            PlatformError::NoSuchRelease { .. } | PlatformError::NotFound(_) => ErrorCode::NotFound,
            PlatformError::AppExists(_) | PlatformError::DomainTaken { .. } | PlatformError::Conflict(_) => {
                ErrorCode::Conflict
            }
            PlatformError::Invalid(_) => ErrorCode::Invalid,
            PlatformError::Store(StoreError::Full { .. } | StoreError::NoSpace { .. }) => {
                ErrorCode::StorageFull
            }
            PlatformError::Store(
                StoreError::Unreachable { .. } | StoreError::Unknown { .. } | StoreError::NotLeader,
            ) => ErrorCode::Unavailable,
            PlatformError::Store(StoreError::Refused { .. }) => ErrorCode::Failed,
            PlatformError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ErrorCode::StorageFull
            }
            PlatformError::Store(_)
            | PlatformError::Secret(_)
            | PlatformError::Unreadable { .. }
            | PlatformError::Io { .. } => return errors::internal("the platform's state", &error),
        };
        Self { code, message: error.to_string() }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        PlatformError::from(error).into()
    }
}
