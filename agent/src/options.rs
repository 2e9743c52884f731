//! What the agent is started with, and where its things are.

use berth_model::NodeName;
use std::io;
use std::path::{Path, PathBuf};

/// What `berth agent` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Berth's data directory, `--data`.
    pub data: PathBuf,
    /// This node's name.
    pub node: NodeName,
    /// The containers' subnet, such as `10.208.0.0/20`; `None` takes a free one of 10.208.0.0/12.
    pub subnet: Option<String>,
    /// How it speaks with other nodes.
    pub overlay: crate::network::Mode,
    /// How much of the data directory's disk is to be free, in MiB: with less the node gets no new work. `None` is 1 GiB, or a
    /// twentieth of it if that is more; 0 is never.
    pub keep_free_mib: Option<u64>,
}

/// Paths below the data directory.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Berth's data directory.
    pub data: PathBuf,
}

impl Paths {
    /// All below `data`.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self { data: data.to_owned() }
    }

    fn agent(&self) -> PathBuf {
        self.data.join("agent")
    }

    /// Runtime directories, one a container.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.agent().join("containers")
    }

    /// What the agent remembers of each container, one file a container.
    #[must_use]
    pub fn records(&self) -> PathBuf {
        self.agent().join("records")
    }

    /// Output, a directory an app with one a container.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.agent().join("logs")
    }

    /// Volumes, one directory each.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.agent().join("volumes")
    }

    /// The last assignment.
    #[must_use]
    pub fn assignment(&self) -> PathBuf {
        self.agent().join("assignment.json")
    }

    /// What apps and drains want of logs; may hold secrets.
    #[must_use]
    pub fn logging(&self) -> PathBuf {
        self.agent().join("logging.json")
    }

    /// How far drains have got, one file each.
    #[must_use]
    pub fn drains(&self) -> PathBuf {
        self.agent().join("drains")
    }

    /// Which app has which user ids.
    #[must_use]
    pub fn ids(&self) -> PathBuf {
        self.agent().join("ids.json")
    }

    /// Which boot of the machine the last agent ran in.
    #[must_use]
    pub fn boot(&self) -> PathBuf {
        self.agent().join("boot")
    }

    /// Held while an agent runs.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.agent().join("lock")
    }

    /// The agent's API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.data.join("run/agent.sock")
    }

    /// The controller's internal API.
    #[must_use]
    pub fn controller(&self) -> PathBuf {
        self.data.join("run/internal.sock")
    }

    /// Makes the directories that are missing.
    pub fn prepare(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for path in [
            self.data.join("run"),
            self.containers(),
            self.records(),
            self.logs(),
            self.volumes(),
            self.drains(),
        ] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot create {}: {error}", path.display()))
            })?;
        }
        Ok(())
    }
}

/// The instance's six hexadecimal digits, made at the first start of any role.
pub fn instance(data: &Path) -> io::Result<String> {
    let path = data.join("instance");
    let read = || -> io::Result<Option<String>> {
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(text) => {
                let text = text.trim();
                let valid =
                    text.len() == 6 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                if valid {
                    return Ok(Some(text.to_owned()));
                }
                let what = format!("{} holds {text:?} instead of six hexadecimal digits", path.display());
                Err(io::Error::new(io::ErrorKind::InvalidData, what))
            }
        }
    };
    if let Some(instance) = read()? {
        return Ok(instance);
    }
    let mut bytes = [0_u8; 3];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    // Several roles may start at once: whoever links its file first names the instance.
    let temporary = data.join(format!("instance.{}", std::process::id()));
    std::fs::write(&temporary, format!("{}\n", hex::encode(bytes)))?;
    let linked = std::fs::hard_link(&temporary, &path);
    std::fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    read()?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the file `instance` vanished"))
}

/// Which boot of the machine this is; empty where the kernel does not say.
#[must_use]
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Takes the lock of a role; it is held as long as the file is open.
pub fn lock(path: &Path) -> io::Result<nix::fcntl::Flock<std::fs::File>> {
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        let text = format!("another agent runs with this data directory ({} is locked)", path.display());
        io::Error::new(io::Error::from(error).kind(), text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_keeps_its_name() {
        let data = tempfile::tempdir().expect("a directory");
        let first = instance(data.path()).expect("made");
        assert_eq!(instance(data.path()).expect("kept"), first);
        std::fs::write(data.path().join("instance"), "../etc").expect("written");
        assert!(instance(data.path()).is_err());
    }
}
