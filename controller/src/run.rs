//! The controller's life: lock, state, listeners, and a tidy end.
//!
//! In: [`Options`] and a token that fires to end it. Out: nothing but sockets; running apps are not touched by its coming and
//! going.

use crate::options::Options;
use crate::platform::Platform;
use crate::{api, deploy, nodes, registry, tls};
use anyhow::{Context, anyhow};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Runs the controller until `stop` fires; then ends connections and returns.
///
/// Errors: another controller runs on this directory, its state cannot be used, an address is taken, or a part of it ended
/// unexpectedly.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let opened = options.clone();
    let (platform, _lock) = tokio::task::spawn_blocking(move || open(opened)).await??;
    let tls = tls::server_config(&options)?;
    let tcp = tokio::net::TcpListener::bind(options.api).await;
    let tcp =
        tcp.with_context(|| format!("cannot listen on {} for the API; is the port taken?", options.api))?;

    // Everything is loaded before a node or proxy can ask: half of the state would stop containers.
    let loaded = deploy::start(&platform, &stop).await;
    loaded.map_err(|error| anyhow!(error.message).context("cannot load what is to run"))?;

    let internal = nodes::router(platform.clone()).merge(registry::router(options.registry_dir()));
    let mut parts = JoinSet::new();
    let (socket, token) = (bind(&options.internal_socket())?, stop.clone());
    parts.spawn(async move { api::serve::unix(socket, internal, token).await });
    let (socket, token) = (bind(&options.api_socket())?, stop.clone());
    let local = api::local(&platform);
    parts.spawn(async move { api::serve::unix(socket, local, token).await });
    let (remote, token) = (api::remote(&platform, axum::Router::new()), stop.clone());
    parts.spawn(async move { api::serve::tcp(tcp, tls, remote, token).await });
    tracing::info!(api = %options.api, ssh = %options.ssh, data = %options.data.display(), "controller ready");

    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        let unexpected = match ended {
            Err(error) => Some(anyhow!(error).context("a part of the controller broke off")),
            Ok(()) if !stop.is_cancelled() => Some(anyhow!("a listener of the controller ended")),
            Ok(()) => None,
        };
        if let Some(error) = unexpected {
            result = result.and(Err(error));
            stop.cancel();
        }
    }
    tracing::info!("controller stopped");
    result
}

fn open(options: Options) -> anyhow::Result<(Platform, Flock<File>)> {
    let dir = options.controller_dir();
    crate::platform::make_private_dir(&options.data)?;
    crate::platform::make_private_dir(&dir)?;
    let lock = lock(&dir)?;
    let platform = Platform::open(options)?;
    Ok((platform, lock))
}

fn lock(dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot use {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .with_context(|| format!("another controller already runs on {}; stop it first", dir.display()))
}

fn bind(path: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    berth_wire::bind_unix(path, 0o600).with_context(|| format!("cannot listen on {}", path.display()))
}
