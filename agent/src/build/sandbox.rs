//! Running one script in a build container.
//!
//! In: a [`Step`] whose directories are ready. Out: its output as it comes, and how it ended. When `run` returns,
//! nothing of the step runs any more and its container, address and cgroup are gone; only its upper directory is left.

use super::error::BuildError;
use crate::network::Network;
use crate::runtime::{Bind, Bundle, Handle, IdMap, Runtime, Stdio};
use berth_model::container::Limits;
use berth_model::{AppName, ContainerId};
use futures_util::future::BoxFuture;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Host bundles of trust anchors, in the order of preference after `SSL_CERT_FILE`.
const CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Where a build finds it.
const CA_INSIDE: &str = "/run/berth/ca.crt";
/// Variables that name it to the tools that each have their own.
pub(super) const CA_NAMES: [&str; 8] = [
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "GIT_SSL_CAINFO",
    "DENO_CERT",
];
/// Variables of the agent that builds get too: proxies and mirrors.
pub(super) const PASSED_ON: [&str; 21] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "npm_config_registry",
    "PIP_INDEX_URL",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "GOPROXY",
    "GOSUMDB",
    "RUSTUP_DIST_SERVER",
    "RUSTUP_UPDATE_ROOT",
    "BERTH_COMPOSER_MIRROR",
    "BERTH_DEBIAN_MIRROR",
    "BERTH_DEBIAN_SECURITY_MIRROR",
    "BERTH_GO_MIRROR",
    "BERTH_HUGO_MIRROR",
    "BERTH_JAVA_MIRROR",
    "BERTH_RUBY_MIRROR",
];

/// One script to run.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) id: ContainerId,
    pub(crate) app: AppName,
    /// Made for the container, named by its id.
    pub(crate) dir: PathBuf,
    /// Writable directory, prepared.
    pub(crate) upper: PathBuf,
    /// Topmost first.
    pub(crate) lowers: Vec<PathBuf>,
    pub(crate) script: String,
    pub(crate) env: Vec<(String, String)>,
    /// (directory of the node, place in the container).
    pub(crate) caches: Vec<(PathBuf, PathBuf)>,
    pub(crate) as_root: bool,
    pub(crate) limits: Limits,
    /// First id of the container's user namespace.
    pub(crate) base: u32,
    /// What runs instead of `script` by the platform's own shell and user: a RUN of a Dockerfile.
    pub(crate) program: Option<Program>,
}

/// A program that a Dockerfile runs, in its own user and directory.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) argv: Vec<String>,
    /// As in an image's config.
    pub(crate) user: String,
    pub(crate) cwd: PathBuf,
    /// Small files for the time of the step: place in the container, bytes.
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
    /// Which of `caches` may not be written, by place in the container.
    pub(crate) read_only: Vec<PathBuf>,
    /// Whether it has a network.
    pub(crate) online: bool,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) oom_killed: bool,
}

/// What runs steps. Tests have one that needs no kernel features.
pub(crate) trait Sandbox: Send + Sync {
    /// Runs `step` to its end or until `stop` fires; then it is an error.
    fn run<'a>(
        &'a self,
        step: &'a Step,
        output: mpsc::Sender<Vec<u8>>,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Ended, BuildError>>;

    /// Ends what an earlier agent left running with its container in `dir`. Blocks.
    fn remove_left<'a>(&'a self, id: &'a ContainerId, dir: &'a Path)
    -> BoxFuture<'a, Result<(), BuildError>>;
}

/// Containers of the agent's own runtime and network.
pub(crate) struct Containers {
    runtime: Arc<Runtime>,
    network: Arc<Network>,
}

impl Containers {
    pub(crate) fn new(runtime: Arc<Runtime>, network: Arc<Network>) -> Self {
        Self { runtime, network }
    }

    async fn run_attached(
        &self,
        step: &Step,
        output: mpsc::Sender<Vec<u8>>,
        stop: &CancellationToken,
    ) -> Result<Ended, BuildError> {
        let hostname = "build".to_owned();
        let (mut netns, mut files) = (None, Vec::new());
        if step.program.as_ref().is_none_or(|program| program.online) {
            let attachment = self.network.attach(&step.id, &step.app, &[]).await?;
            if !step.limits.network.is_none() {
                self.network.limit(&step.id, step.limits.network).await?;
            }
            files = self.network.files(&hostname, attachment.address);
            netns = Some(attachment.netns);
        }
        let mut env = platform_env();
        if let Some(bundle) = ca_bundle().await {
            files.push((CA_INSIDE.into(), bundle));
            env.extend(CA_NAMES.iter().map(|name| ((*name).to_owned(), CA_INSIDE.to_owned())));
        }
        for (name, value) in &step.env {
            env.retain(|(other, _)| other != name);
            env.push((name.clone(), value.clone()));
        }
        let (user, home) = if step.as_root { ("0:0", "/root") } else { ("1001:1001", "/home/build") };
        // A Dockerfile's own user has the home that the image gives it.
        if step.program.is_none() && !env.iter().any(|(name, _)| name == "HOME") {
            env.push(("HOME".to_owned(), home.to_owned()));
        }
        let bind = |(source, target): &(PathBuf, PathBuf)| Bind {
            source: source.clone(),
            target: target.clone(),
            read_only: step.program.as_ref().is_some_and(|program| program.read_only.contains(target)),
            create: false,
        };
        // One pipe for both streams keeps their lines in order.
        let wrapper = "exec /bin/bash -eu -o pipefail -c \"$1\" 2>&1 </dev/null";
        let mut argv = ["/bin/bash", "-c", wrapper, "build", &step.script].map(str::to_owned).to_vec();
        let (mut cwd, mut user) = (PathBuf::from("/app"), user.to_owned());
        if let Some(program) = &step.program {
            argv.clone_from(&program.argv);
            cwd.clone_from(&program.cwd);
            user.clone_from(&program.user);
            files.extend(program.files.iter().cloned());
        }
        let bundle = Bundle {
            id: step.id.clone(),
            dir: step.dir.clone(),
            log_dir: None,
            lowers: step.lowers.clone(),
            netns,
            argv,
            env,
            cwd,
            user,
            hostname,
            limits: step.limits.clone(),
            binds: step.caches.iter().map(bind).collect(),
            files,
            private: Vec::new(),
            stdio: Stdio::Piped,
            id_map: IdMap { base: step.base, count: 65_536 },
            upper: Some(step.upper.clone()),
        };
        let handle = self.runtime.create(&bundle).await?;
        let ended = follow(&handle, output, stop).await;
        if ended.is_err() || handle.exited().is_none() {
            handle.kill_all().await?;
            handle.wait().await;
        }
        ended
    }
}

/// Starts the container and passes its output on until it ends.
async fn follow(
    handle: &Handle,
    output: mpsc::Sender<Vec<u8>>,
    stop: &CancellationToken,
) -> Result<Ended, BuildError> {
    let session = handle.take_session();
    tokio::select! {
        started = handle.start() => started?,
        () = stop.cancelled() => return Err(BuildError::Cancelled),
    }
    let reading = tokio::spawn(async move {
        let Some(session) = session else { return };
        drop(session.stdin);
        let errors = session.stderr.map(|stderr| tokio::spawn(pass_on(stderr, output.clone())));
        pass_on(session.stdout, output).await;
        if let Some(errors) = errors {
            let _ = errors.await;
        }
    });
    let exit = tokio::select! {
        exit = handle.wait() => exit,
        () = stop.cancelled() => {
            reading.abort();
            return Err(BuildError::Cancelled);
        }
    };
    // Nothing holds the pipes any more: the end of the first process ends its pid namespace. What is in them is read.
    tokio::select! {
        _ = reading => {}
        () = stop.cancelled() => return Err(BuildError::Cancelled),
    }
    Ok(Ended { code: exit.code, oom_killed: exit.oom_killed })
}

async fn pass_on(mut from: impl AsyncRead + Unpin, output: mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                // A full channel holds the step back; a closed one means that nobody listens, which ends the build.
                if output.send(buffer[..read].to_vec()).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Sandbox for Containers {
    fn run<'a>(
        &'a self,
        step: &'a Step,
        output: mpsc::Sender<Vec<u8>>,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Ended, BuildError>> {
        Box::pin(async move {
            let ended = self.run_attached(step, output, stop).await;
            let removed = self.remove_left(&step.id, &step.dir).await;
            let ended = ended?;
            removed.map(|()| ended)
        })
    }

    fn remove_left<'a>(
        &'a self,
        id: &'a ContainerId,
        dir: &'a Path,
    ) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(async move {
            let (runtime, dir) = (self.runtime.clone(), dir.to_owned());
            tokio::task::spawn_blocking(move || runtime.remove(&dir)).await??;
            self.network.detach(id).await?;
            Ok(())
        })
    }
}

fn platform_env() -> Vec<(String, String)> {
    PASSED_ON.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect()
}

/// The node's trust anchors: networks with their own CA are unusable without.
pub(crate) async fn ca_bundle() -> Option<Vec<u8>> {
    let own = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    for path in own.into_iter().chain(CA_BUNDLES.iter().map(PathBuf::from)) {
        if let Ok(bytes) = tokio::fs::read(&path).await {
            return Some(bytes);
        }
    }
    None
}
