//! A user's working copy, pushed with the `git` that is installed.

use crate::platform::{Berth, Output, run};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Files of an app: path and content. A path that ends in `!` is executable.
pub type Files<'a> = &'a [(&'a str, &'a str)];

/// A working copy with the remote `paas`.
pub struct Repo {
    directory: TempDir,
    ssh_command: String,
    remote: String,
}

impl Repo {
    /// A new repository on branch `main` with one commit of `files`, whose remote is `app` on `berth` over SSH.
    pub fn new(berth: &Berth, app: &str, files: Files<'_>) -> Result<Self> {
        let repo = Self::empty(&berth.ssh_command(), &berth.remote(app))?;
        repo.write(files)?;
        repo.commit("First version")?;
        Ok(repo)
    }

    /// The same with the contents of a directory.
    pub fn of_directory(berth: &Berth, app: &str, from: &Path) -> Result<Self> {
        let repo = Self::empty(&berth.ssh_command(), &berth.remote(app))?;
        let copy = Command::new("cp").arg("-a").arg(from.join(".")).arg(repo.path()).status()?;
        ensure!(copy.success(), "copying {}", from.display());
        repo.commit("First version")?;
        Ok(repo)
    }

    /// A repository without a commit, whose remote is reached by `ssh_command`.
    pub fn empty(ssh_command: &str, remote: &str) -> Result<Self> {
        let repo = Self {
            directory: TempDir::with_prefix("berth-repo-")?,
            ssh_command: ssh_command.to_owned(),
            remote: remote.to_owned(),
        };
        for arguments in [
            &["init", "-q", "-b", "main"][..],
            &["config", "user.email", "dev@example.com"],
            &["config", "user.name", "Dev"],
            &["config", "gc.auto", "0"],
            &["remote", "add", "paas", &repo.remote],
        ] {
            repo.git(arguments)?.success()?;
        }
        Ok(repo)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Writes files, making directories.
    pub fn write(&self, files: Files<'_>) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        for (path, content) in files {
            let (path, executable) = path.strip_suffix('!').map_or((*path, false), |path| (path, true));
            let path = self.path().join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&path, content)?;
            if executable {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
            }
        }
        Ok(())
    }

    /// Commits everything there is; gives the commit's id.
    pub fn commit(&self, message: &str) -> Result<String> {
        self.git(&["add", "-A", "-f"])?.success()?;
        self.git(&["commit", "-q", "--allow-empty", "-m", message])?.success()?;
        Ok(self.git(&["rev-parse", "HEAD"])?.success()?.stdout.trim().to_owned())
    }

    /// Runs git in the working copy.
    pub fn git(&self, arguments: &[&str]) -> Result<Output> {
        run(self.command(arguments), None)
    }

    /// The command that [`Repo::git`] would run, to be spawned by the caller.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command.env("GIT_SSH_COMMAND", &self.ssh_command).env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        command
    }

    /// `git push paas main`, which must work.
    pub fn push(&self) -> Result<Output> {
        self.git(&["push", "paas", "main"])?.success().context("git push paas main")
    }

    /// Changes files, commits and pushes; the push must work.
    pub fn change(&self, files: Files<'_>) -> Result<Output> {
        self.write(files)?;
        self.commit("Change")?;
        self.push()
    }
}
