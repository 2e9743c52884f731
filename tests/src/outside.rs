//! A machine elsewhere: a network namespace that containers reach as they reach the world, with a git server in it.

use crate::platform::{run, until};
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Port of git's own protocol (git-daemon(1)).
const GIT: u16 = 9418;

/// A network namespace with one address (of 198.18.0.0/15, RFC 2544) and a `git daemon`. All is gone when it is dropped.
pub struct Outside {
    name: String,
    address: String,
    daemon: Option<Child>,
}

impl Outside {
    /// Makes it, and serves every repository below `repositories`.
    pub fn serving(repositories: &Path) -> Result<Self> {
        let id = std::process::id() % 16_384;
        let at = |host: u32| format!("198.18.{}.{}", id / 64, id % 64 * 4 + host);
        let mut outside = Self { name: format!("bto{id}"), address: at(2), daemon: None };
        let (name, gateway) = (outside.name.clone(), at(1));
        let (name, host, inside) =
            (name.as_str(), format!("{gateway}/30"), format!("{}/30", outside.address));
        for arguments in [
            &["netns", "add", name][..],
            &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name],
            &["address", "add", &host, "dev", name],
            &["link", "set", name, "up"],
            &["-n", name, "address", "add", &inside, "dev", "eth0"],
            &["-n", name, "link", "set", "eth0", "up"],
            &["-n", name, "link", "set", "lo", "up"],
            &["-n", name, "route", "add", "default", "via", &gateway],
        ] {
            let mut ip = Command::new("ip");
            ip.args(arguments);
            run(ip, None)?.success()?;
        }
        let mut daemon = Command::new("ip");
        daemon.args(["netns", "exec", name, "git", "-c", "safe.directory=*", "daemon", "--export-all"]);
        daemon.args(["--informative-errors", &format!("--base-path={}", repositories.display())]);
        daemon.arg(repositories).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        outside.daemon = Some(daemon.spawn()?);
        let at = (outside.address.clone(), GIT);
        until(Duration::from_secs(10), "the git daemon to listen", || {
            ensure!(std::net::TcpStream::connect(&at).is_ok(), "not yet");
            Ok(())
        })?;
        Ok(outside)
    }

    /// The address of a repository.
    #[must_use]
    pub fn url(&self, repository: &str) -> String {
        format!("git://{}/{repository}", self.address)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}
