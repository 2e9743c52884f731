//! A machine that joined: what it remembers of the cluster, and how it reaches its controllers.
//!
//! In: `DIR/cluster.json` and `DIR/agent/tls/` (mode 0600), written by [`join`]. Out: mTLS connections ([`Link`]); the machine's own
//! `run/internal.sock`, served by passing connections on ([`forward`]); connections the other way ([`tunnel`]); the next certificate
//! ([`renew`]). Nothing listens on a network.

pub mod doctor;
mod forward;
mod join;
mod link;
mod renew;
mod tunnel;

pub use join::{Join, join};
pub use link::Link;
pub(crate) use renew::renew_now;

use crate::node::Node;
use anyhow::Context;
use berth_model::cluster::{Membership, membership_file};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What this machine remembers; `None` if it never joined.
pub fn membership(data: &Path) -> anyhow::Result<Option<Membership>> {
    let path = membership_file(data);
    match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => {
            let bytes = read.with_context(|| format!("cannot read {}", path.display()))?;
            let text = || format!("{} is damaged; join again with: berth agent join", path.display());
            serde_json::from_slice(&bytes).map(Some).with_context(text)
        }
    }
}

fn tls_dir(data: &Path) -> PathBuf {
    data.join("agent/tls")
}

/// The CA's certificate.
fn ca_file(data: &Path) -> PathBuf {
    tls_dir(data).join("ca.pem")
}

/// Key and certificate of this node, in one file so that they change together.
fn node_file(data: &Path) -> PathBuf {
    tls_dir(data).join("node.pem")
}

/// The same as [`berth_wire::write_private`], in a directory that is made if it is not there.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    berth_wire::write_private(path, bytes)
}

fn remember(data: &Path, membership: &Membership) -> io::Result<()> {
    write_private(&membership_file(data), &serde_json::to_vec_pretty(membership).map_err(io::Error::other)?)
}

/// Speaks with the controllers of the cluster until `stop`: serves `run/internal.sock`, keeps connections open for their calls,
/// renews the certificate.
pub(crate) async fn run(node: Arc<Node>, link: Arc<Link>, stop: CancellationToken) -> anyhow::Result<()> {
    let socket = node.paths.controller();
    let listener = berth_wire::bind_unix(&socket, 0o600)
        .with_context(|| format!("cannot listen on {}; does a controller run here?", socket.display()))?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(forward::serve(link.clone(), listener, stop.clone()));
    tasks.spawn(tunnel::keep(node, link.clone(), stop.clone()));
    tasks.spawn(renew::keep(link, stop));
    while let Some(ended) = tasks.join_next().await {
        ended.context("a part of the link to the controllers failed")?;
    }
    Ok(())
}
