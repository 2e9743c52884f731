//! The clusters that somebody uses, by name, and which of them commands go to.
//!
//! In: `contexts.toml` of the user's configuration directory. Out: the same, changed whole or not at all. It has tokens in it:
//! mode 0600, and one that others may read is refused.

use crate::error::{CliError, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// Which one commands go to unless they say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default, rename = "context", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) all: BTreeMap<String, Cluster>,
}

/// One cluster, and how it is reached.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    /// `https://host` of the API, or `ssh://user@host:port`.
    pub(crate) host: String,
    /// For the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// A PEM file to trust instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Where the file is: below `XDG_CONFIG_HOME`, else `~/.config` (XDG Base Directory Specification 0.8).
fn path() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let base = base.or_else(|| variable("HOME").map(|home| home.join(".config")))?;
    Some(base.join("berth/contexts.toml"))
}

impl Contexts {
    /// What the file says; nothing if there is none.
    pub(crate) fn load() -> Result<Self> {
        path().map_or_else(|| Ok(Self::default()), |path| Self::read(&path))
    }

    fn read(path: &Path) -> Result<Self> {
        let failed =
            |error: std::io::Error| CliError::Failed(format!("cannot read {}: {error}", path.display()));
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(failed)?,
        };
        let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let path = path.display();
            return Err(CliError::Failed(format!(
                "{path} has tokens in it and may be read by others (mode {mode:o}); run: chmod 600 {path}"
            )));
        }
        toml::from_str(&text).map_err(|error| {
            let place = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let line = place.map(|line| format!(" line {line}")).unwrap_or_default();
            CliError::Failed(format!("{}{line}: {}", path.display(), error.message()))
        })
    }

    /// Writes the file in place of the one there is.
    pub(crate) fn save(&self) -> Result<()> {
        let path = path()
            .ok_or_else(|| CliError::Failed("HOME is not set: there is no place for contexts".into()))?;
        self.write(&path)
            .map_err(|error| CliError::Failed(format!("cannot write {}: {error}", path.display())))
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = toml::to_string(self).map_err(std::io::Error::other)?;
        if let Some(parent) = path.parent() {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let temporary = path.with_extension(format!("new.{}", std::process::id()));
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.and_then(|()| std::fs::rename(&temporary, path)).inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })
    }

    /// The one called `name`.
    pub(crate) fn get(&self, name: &str) -> Result<&Cluster> {
        self.all.get(name).ok_or_else(|| {
            let near = crate::commands::nearest(name, self.all.keys().cloned());
            let advice = match near {
                Some(near) => format!("did you mean {near}?"),
                None if self.all.is_empty() => {
                    "add one with: berth context:add NAME --host https://HOST".to_owned()
                }
                None => format!("there are: {}", self.all.keys().cloned().collect::<Vec<_>>().join(", ")),
            };
            CliError::Misuse(format!("there is no context {name:?}; {advice}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("berth/contexts.toml");
        assert_eq!(Contexts::read(&path).expect("none is none"), Contexts::default());
        let cluster = Cluster { host: "https://example.com".into(), token: Some("berth_x".into()), ca: None };
        let contexts = Contexts { current: Some("a b.c".into()), all: [("a b.c".into(), cluster)].into() };
        contexts.write(&path).expect("written");
        contexts.write(&path).expect("written over");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(Contexts::read(&path).expect("read"), contexts);
        assert!(!format!("{contexts:?}").contains("berth_x"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("ours");
        assert!(matches!(Contexts::read(&path), Err(CliError::Failed(text)) if text.contains("chmod 600")));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
        std::fs::write(&path, "current = 1\n").expect("ours");
        assert!(matches!(Contexts::read(&path), Err(CliError::Failed(text)) if text.contains("line 1")));
    }
}
