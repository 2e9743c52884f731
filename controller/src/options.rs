//! What the controller is started with, and where its files are.
//!
//! In: the command line, already parsed. Out: paths and addresses. Touches nothing.

use crate::store::EtcdOptions;
use berth_model::{AppName, BuildId, HostPattern};
use std::net::SocketAddr;
use std::path::PathBuf;

/// What the controller is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The platform's data directory (`--data`).
    pub data: PathBuf,
    /// The domain under which apps get their names, until `domains:set-global` says otherwise.
    pub domain: HostPattern,
    /// Where the public API and git over HTTP listen.
    pub api: SocketAddr,
    /// Where the SSH server listens.
    pub ssh: SocketAddr,
    /// Where the proxy listens; only for printing addresses.
    pub http: SocketAddr,
    /// Where the proxy listens for TLS, if it does; only for printing addresses.
    pub https: Option<SocketAddr>,
    /// Where nodes dial, once the first join token was made.
    pub cluster: SocketAddr,
    /// The `berth` binary, for commands over SSH and as git's hook.
    pub berth_exe: PathBuf,
    /// What makes it one of several controllers.
    pub several: Option<Several>,
}

/// What each of several controllers is told besides.
#[derive(Clone, Debug)]
pub struct Several {
    /// Where the store is.
    pub store: EtcdOptions,
    /// Host name or address under which the others, users and nodes reach this one.
    pub advertise: String,
    /// The directory of repositories, images and build logs, which all of them see.
    pub files: PathBuf,
}

/// Under the data directory: there while `berth up` takes stacks over, without which nothing can be built.
pub const IMPORTING: &str = "run/importing";

impl Options {
    /// The controller's own directory.
    #[must_use]
    pub fn controller_dir(&self) -> PathBuf {
        self.data.join("controller")
    }

    /// Where repositories, images and build logs are: what outlives a controller and is not in the store.
    #[must_use]
    pub fn files_dir(&self) -> PathBuf {
        self.several.as_ref().map_or_else(|| self.controller_dir(), |several| several.files.clone())
    }

    /// Where sockets are.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.data.join("run")
    }

    /// The public API's socket, for the local admin.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        self.run_dir().join("api.sock")
    }

    /// The socket of nodes, proxies, git's hook and the registry.
    #[must_use]
    pub fn internal_socket(&self) -> PathBuf {
        self.run_dir().join("internal.sock")
    }

    /// The agent's socket.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.run_dir().join("agent.sock")
    }

    /// The SQLite database.
    #[must_use]
    pub fn store_file(&self) -> PathBuf {
        self.controller_dir().join("state.db")
    }

    /// What was changed by whom.
    #[must_use]
    pub fn events_file(&self) -> PathBuf {
        self.controller_dir().join("events.db")
    }

    /// What apps used within the last day.
    #[must_use]
    pub fn metrics_file(&self) -> PathBuf {
        self.controller_dir().join("metrics.db")
    }

    /// The key that config values are encrypted with.
    #[must_use]
    pub fn config_key_file(&self) -> PathBuf {
        self.controller_dir().join("config.key")
    }

    /// The SSH server's host key.
    #[must_use]
    pub fn ssh_host_key_file(&self) -> PathBuf {
        self.controller_dir().join("ssh_host_ed25519_key")
    }

    /// Certificate and key of the API.
    #[must_use]
    pub fn tls_dir(&self) -> PathBuf {
        self.controller_dir().join("tls")
    }

    /// Every app's bare repository.
    #[must_use]
    pub fn git_dir(&self) -> PathBuf {
        self.files_dir().join("git")
    }

    /// One app's bare repository.
    #[must_use]
    pub fn repository_dir(&self, app: &AppName) -> PathBuf {
        self.git_dir().join(format!("{app}.git"))
    }

    /// The registry's blobs and manifests.
    #[must_use]
    pub fn registry_dir(&self) -> PathBuf {
        self.files_dir().join("registry")
    }

    /// Logs of builds.
    #[must_use]
    pub fn builds_dir(&self) -> PathBuf {
        self.files_dir().join("builds")
    }

    /// The log of one build.
    #[must_use]
    pub fn build_log_file(&self, build: &BuildId) -> PathBuf {
        self.builds_dir().join(format!("{build}.log"))
    }
}
