//! The agent as a whole: open, adopt, serve and reconcile, until told to stop.
//!
//! In: options. Out: a node that is as assigned. Containers do not end with the agent.

use crate::node::Node;
use crate::options::{self, Options, Paths};
use crate::record::Record;
use crate::runtime::{Attached, Runtime};
use crate::{cluster, control, housekeeping, life, network, server};
use anyhow::Context;
use berth_model::container::Stop;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs the agent of a node until `stop` fires; its containers go on running.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let paths = Paths::new(&options.data);
    paths.prepare()?;
    let lock = options::lock(&paths.lock())?;
    let link = cluster::Link::open(&options.data)?;
    let node = Node::open(&options, link.clone()).await?;
    let mut tasks = tokio::task::JoinSet::new();
    let linked = link.map(|link| tokio::spawn(cluster::run(node.clone(), link, stop.clone())));
    if node.is_cold() {
        control::first_orders(&node, &stop).await;
    }
    node.adopt().await.context("cannot take over the containers that run")?;
    node.remember_boot()?;
    let socket = paths.socket();
    let listener = berth_wire::bind_unix(&socket, 0o600)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    let containers = node.table().len();
    tracing::info!(node = %options.node, subnet = %node.network.subnet(), containers, "the agent is ready");
    tasks.spawn(node.clone().reconcile(stop.clone()));
    tasks.spawn(control::follow(node.clone(), stop.clone()));
    tasks.spawn(control::follow_network(node.clone(), stop.clone()));
    tasks.spawn(control::report(node.clone(), stop.clone()));
    tasks.spawn(housekeeping::run(node.clone(), stop.clone()));
    tasks.spawn(crate::metrics::run(node.clone(), stop.clone()));
    tasks.spawn(crate::drains::run(node.clone(), stop.clone()));
    let linked = async {
        match linked {
            None => std::future::pending().await,
            Some(linked) => linked.await.map_err(anyhow::Error::from).flatten(),
        }
    };
    let served = tokio::select! {
        served = server::serve(node.clone(), listener, stop.clone()) => served.context("the agent's API failed"),
        // It ends when it is told to, or when it cannot go on.
        linked = linked => linked,
    };
    // When serving failed the others must end, too.
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a part of the agent failed");
        }
    }
    node.close().await;
    drop(lock);
    served
}

/// Stops every container of the data directory and removes their network; gives how many ran. No agent may be running.
pub async fn stop_all(data: &Path) -> anyhow::Result<usize> {
    let paths = Paths::new(data);
    if !data.join("instance").exists() || !paths.containers().exists() {
        return Ok(0);
    }
    let _lock = options::lock(&paths.lock())?;
    let instance = options::instance(data)?;
    let runtime = Arc::new(Runtime::open(&instance, data).context("the container runtime cannot start")?);
    let records = match paths.records().exists() {
        true => Record::load_all(&paths.records(), runtime.seal())?,
        false => Vec::new(),
    };
    let stops: BTreeMap<String, Stop> =
        records.iter().map(|record| (record.spec.id.to_string(), record.stop())).collect();
    let mut stopping = tokio::task::JoinSet::new();
    for entry in std::fs::read_dir(paths.containers())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stop = stops.get(&name).cloned().unwrap_or_default();
        let (runtime, dir) = (runtime.clone(), entry.path());
        stopping.spawn(async move {
            let ran = match runtime.attach(&dir).await {
                Ok(Attached::Alive(handle)) => {
                    life::end(&handle, &stop).await;
                    true
                }
                _ => false,
            };
            let removed = tokio::task::spawn_blocking(move || {
                runtime.remove(&dir).map_err(anyhow::Error::from)?;
                match std::fs::remove_dir_all(&dir) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(anyhow::Error::from(error))
                    }
                    _ => Ok(()),
                }
            });
            removed.await.map_err(anyhow::Error::from)?.with_context(|| format!("cannot remove {name}"))?;
            anyhow::Ok(ran)
        });
    }
    let mut ran = 0;
    let mut failed = None;
    while let Some(stopped) = stopping.join_next().await {
        match stopped? {
            Ok(was_running) => ran += usize::from(was_running),
            Err(error) => failed = Some(error),
        }
    }
    for record in &records {
        Record::forget(&paths.records(), &record.spec.id)?;
    }
    network::remove_all(&instance).await.context("cannot remove the containers' network")?;
    runtime.close();
    failed.map_or(Ok(ran), Err)
}
