//! Secret files of a container.
//!
//! In: files by name. Out: a directory in memory, `/run/secrets`, of which each file can be read by the container's user alone.

use crate::runtime::Private;
use berth_model::secrets::{SECRETS_DIR, SecretFiles};

/// Of each file.
const MODE: u32 = 0o400;

/// The directory, if there are any files.
pub(crate) fn secrets(files: &SecretFiles) -> Vec<Private> {
    if files.is_empty() {
        return Vec::new();
    }
    let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())).collect();
    vec![Private { target: SECRETS_DIR.into(), mode: MODE, files }]
}
