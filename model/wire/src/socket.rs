//! Listening on a unix socket that a crashed predecessor may have left behind.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Binds `path` with `mode` (such as `0o600`), in place of a stale socket. The caller holds the role's lock, so nobody
/// alive is displaced: the new socket is made under another name and renamed over the old one.
///
/// Errors: the directory is missing or not writable, or the path is longer than 100 bytes (`unix(7)` allows 108).
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<tokio::net::UnixListener> {
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = tokio::net::UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&temporary, path)?;
    Ok(listener)
}
