//! The controller's life: lock, state, listeners, and a tidy end.
//!
//! In: [`Options`] and a token that fires to end it. Out: nothing but sockets; running apps are not touched by its coming and
//! going.

use crate::options::Options;
use crate::platform::Platform;
use crate::{
    alerts, api, build, certs, cluster, controllers, cron, deploy, ending, git, housekeeping, metrics, nodes,
    registry, runs, tls,
};
use anyhow::{Context, anyhow};
use berth_model::api::ApiError;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Runs the controller until `stop` fires; then ends connections and returns.
///
/// Errors: another controller runs on this directory, its state cannot be used, an address is taken, or a part of it ended
/// unexpectedly.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    if let Some(several) = options.several.clone() {
        return controllers::run(options, several, stop).await;
    }
    let opened = options.clone();
    let (platform, _lock) = tokio::task::spawn_blocking(move || open(opened)).await??;
    let listeners = Listeners::bind(&options).await?;
    lead(platform, listeners, stop).await
}

/// Where the network is listened to.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) api: TcpListener,
    pub(crate) ssh: TcpListener,
}

impl Listeners {
    /// As the options say.
    pub(crate) async fn bind(options: &Options) -> anyhow::Result<Self> {
        let api = listen(options.api, "the API").await?;
        Ok(Self { api, ssh: listen(options.ssh, "SSH").await? })
    }
}

/// Does all that a controller does, until `stop` fires.
pub(crate) async fn lead(
    platform: Platform,
    listeners: Listeners,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let options = platform.options().clone();
    let Listeners { api: tcp, ssh } = listeners;
    let tls = tls::server_config(&options)?;
    let told = |error: ApiError| anyhow!(error.message);
    git::repository::prepare(&platform).map_err(told).context("cannot prepare git")?;
    build::history::conclude_interrupted(&platform).await.map_err(told).context("cannot load the builds")?;
    runs::load(&platform).await.map_err(told).context("cannot load the one-off containers")?;
    // Everything is loaded before a node or proxy can ask: half of the state would stop containers.
    deploy::start(&platform, &stop).await.map_err(told).context("cannot load what is to run")?;
    certs::start(&platform, &stop).await.context("cannot load the certificates")?;

    let pushes = platform.pushes().clone();
    let shared = nodes::router(platform.clone()).merge(registry::router(platform.registry().clone()));
    let internal = shared.clone().merge(git::hook::router(platform.clone(), pushes.clone()));
    let local = api::local(&platform);
    let git_http = git::http::router(platform.clone(), pushes.clone());
    let git_http = git_http.merge(git::lfs_http::router(platform.clone(), pushes.clone()));
    let remote = api::with_dashboard(api::remote(&platform, git_http), &stop);
    let internal_socket = bind(&options.internal_socket())?;
    let local_socket = bind(&options.api_socket())?;

    let mut parts = JoinSet::new();
    parts.spawn(endless(resume_rotation(platform.clone(), stop.clone())));
    parts.spawn(git::ssh::serve(platform.clone(), pushes, ssh, stop.clone()));
    parts.spawn(endless(housekeeping::run(platform.clone(), stop.clone())));
    parts.spawn(endless(ending::run(platform.clone(), stop.clone())));
    parts.spawn(endless(runs::keep(platform.clone(), stop.clone())));
    parts.spawn(endless(cron::run(platform.clone(), stop.clone())));
    parts.spawn(endless(metrics::run(platform.clone(), stop.clone())));
    parts.spawn(endless(alerts::run(platform.clone(), stop.clone())));
    parts.spawn(endless(nodes::kept::run(platform.clone(), stop.clone())));
    parts.spawn(endless(cluster::run(platform.clone(), shared, stop.clone())));
    parts.spawn(endless(api::serve::unix(internal_socket, internal, stop.clone())));
    parts.spawn(endless(api::serve::unix(local_socket, local, stop.clone())));
    parts.spawn(endless(api::serve::tcp(tcp, tls, remote, stop.clone())));
    tracing::info!(api = %options.api, ssh = %options.ssh, data = %options.data.display(), "controller ready");

    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        let unexpected = match ended {
            Err(error) => Some(anyhow!(error).context("a part of the controller broke off")),
            Ok(Err(error)) => Some(error),
            Ok(Ok(())) if !stop.is_cancelled() => Some(anyhow!("a listener of the controller ended")),
            Ok(Ok(())) => None,
        };
        if let Some(error) = unexpected {
            result = result.and(Err(error));
            stop.cancel();
        }
    }
    tracing::info!("controller stopped");
    result
}

/// A rotation of the key that was cut short goes on by itself.
async fn resume_rotation(platform: Platform, stop: CancellationToken) {
    if let Err(error) = platform.resume_rotation().await {
        tracing::error!(%error, "values could not all be sealed under the new key; both keys are kept until the next start");
    }
    stop.cancelled().await;
}

async fn endless(serving: impl Future<Output = ()>) -> anyhow::Result<()> {
    serving.await;
    Ok(())
}

pub(crate) async fn listen(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("cannot listen on {address} for {what}; is the port taken?"))
}

fn open(options: Options) -> anyhow::Result<(Platform, Flock<File>)> {
    let lock = prepare(&options)?;
    let platform = Platform::open(options)?;
    Ok((platform, lock))
}

/// Makes the directories and takes the lock: one controller a directory.
pub(crate) fn prepare(options: &Options) -> anyhow::Result<Flock<File>> {
    let dir = options.controller_dir();
    crate::platform::make_private_dir(&options.data)?;
    crate::platform::make_private_dir(&options.run_dir())?;
    crate::platform::make_private_dir(&dir)?;
    lock(&dir)
}

fn lock(dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot use {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .with_context(|| format!("another controller already runs on {}; stop it first", dir.display()))
}

pub(crate) fn bind(path: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    berth_wire::bind_unix(path, 0o600).with_context(|| format!("cannot listen on {}", path.display()))
}
