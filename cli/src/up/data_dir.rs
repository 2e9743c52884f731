//! The data directory: made once, closed to others, and what names this machine inside it.
//!
//! In: `--data`. Out: its absolute path, `DIR/instance` and `DIR/node` written at most once.

use anyhow::{Context, Result, bail};
use berth_model::NodeName;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Makes what is missing of `data` and gives its absolute path. Safe to do again, and by two roles at once.
pub(crate) fn prepare(data: &Path) -> Result<PathBuf> {
    let data = std::path::absolute(data)?;
    // The longest socket path is `DIR/run/internal.sock`, and unix(7) allows 107 bytes.
    let longest = data.as_os_str().len() + "/run/internal.sock".len() + ".new".len();
    if longest > 100 {
        bail!("{} is too long a path: sockets below it would not fit into 108 bytes", data.display());
    }
    make(&data)?;
    make(&data.join("run"))?;
    let mut random = [0_u8; 3];
    getrandom::fill(&mut random)
        .map_err(|error| anyhow::anyhow!("the system gives no random numbers: {error}"))?;
    let instance = write_once(&data.join("instance"), &hex::encode(random))?;
    if instance.len() != 6 || !instance.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        bail!("{} holds {instance:?}, not 6 hexadecimal digits: restore it", data.join("instance").display());
    }
    Ok(data)
}

/// This machine's name: its host name when Berth was first started, so that a later change of that does not make it
/// another node.
pub(crate) fn node_name(data: &Path) -> Result<NodeName> {
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = NodeName::parse(&host).map_or_else(|_| "local".to_owned(), |name| name.to_string());
    let path = data.join("node");
    let name = write_once(&path, &name)?;
    NodeName::parse(&name).with_context(|| format!("{} holds no name of a node", path.display()))
}

fn make(directory: &Path) -> Result<()> {
    let failed = || format!("cannot make the directory {}", directory.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(failed)?;
    let permissions = std::fs::metadata(directory).with_context(failed)?.permissions();
    if permissions.mode() & 0o777 != 0o700 {
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).with_context(failed)?;
    }
    Ok(())
}

/// The text of `path`, which is `value` if nobody was there before. Whole or not there at all, whoever crashes.
fn write_once(path: &Path, value: &str) -> Result<String> {
    let failed = || format!("cannot write {}", path.display());
    match std::fs::read_to_string(path) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(failed),
        Err(_) => {}
    }
    let temporary = path.with_extension(format!("new.{}", std::process::id()));
    let mut file = File::create(&temporary).with_context(failed)?;
    file.write_all(format!("{value}\n").as_bytes()).and_then(|()| file.sync_all()).with_context(failed)?;
    // A link, not a rename: whoever comes second must not replace what the first one read back.
    let linked = std::fs::hard_link(&temporary, path);
    std::fs::remove_file(&temporary).with_context(failed)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error).with_context(failed),
        _ => {}
    }
    if let Some(parent) = path.parent() {
        File::open(parent).and_then(|directory| directory.sync_all()).with_context(failed)?;
    }
    Ok(std::fs::read_to_string(path).with_context(failed)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_keeps_its_instance_and_is_closed_to_others() {
        let parent = tempfile::tempdir().expect("a directory");
        let data = parent.path().join("a/b");
        prepare(&data).expect("made");
        let first = std::fs::read_to_string(data.join("instance")).expect("written");
        std::fs::set_permissions(&data, PermissionsExt::from_mode(0o755)).expect("ours");
        prepare(&data).expect("again");
        assert_eq!(std::fs::read_to_string(data.join("instance")).expect("written"), first);
        assert_eq!(std::fs::metadata(&data).expect("there").permissions().mode() & 0o777, 0o700);
        assert_eq!(first.trim().len(), 6);
    }

    #[test]
    fn a_broken_instance_and_a_too_long_path_are_refused() {
        let parent = tempfile::tempdir().expect("a directory");
        std::fs::write(parent.path().join("instance"), "../../x\n").expect("ours");
        assert!(prepare(parent.path()).is_err());
        assert!(prepare(&parent.path().join("x".repeat(90))).is_err());
    }
}
