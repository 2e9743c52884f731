//! Volumes of a restored backup, kept until their node takes them.
//!
//! In: `DIR/controller/volumes-kept/NODE/VOLUME.tree`, and nodes that connect. Out: each volume that a node has not is made there; one
//! that it has is never touched. Until it is known which those are, the node gets no orders, so that nothing starts on an empty
//! volume in the meantime; until they are there, nothing that mounts them.

use crate::Platform;
use crate::backup;
use crate::events::Event;
use berth_model::NodeName;
use berth_model::container::ContainerSpec;
use berth_wire::WireError;
use http::{Method, StatusCode};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Pause before a node is asked again.
const RETRY: Duration = Duration::from_secs(2);
/// How such a file ends, and one that its node did not need.
const WAITS: &str = "tree";
const NOT_NEEDED: &str = "not-needed";

/// What waits for which node.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<BTreeMap<NodeName, Waiting>>);

#[derive(Clone, Debug, Default)]
struct Waiting {
    volumes: BTreeSet<String>,
    /// Whether it is known that the node has none of them.
    is_known: bool,
    /// Why it goes no further.
    problem: Option<String>,
}

impl Kept {
    /// As it is on disk.
    pub(crate) fn load(controller: &Path) -> io::Result<Self> {
        let mut all: BTreeMap<NodeName, Waiting> = BTreeMap::new();
        let nodes = match std::fs::read_dir(controller.join(backup::KEPT)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            nodes => nodes?,
        };
        for node in nodes {
            let node = node?;
            let Some(name) = node.file_name().to_str().and_then(|name| NodeName::parse(name).ok()) else {
                continue;
            };
            for file in std::fs::read_dir(node.path())? {
                let file = file?.file_name();
                let volume = file.to_str().and_then(|file| file.strip_suffix(WAITS)?.strip_suffix('.'));
                if let Some(volume) = volume.filter(|volume| berth_wire::is_volume(volume)) {
                    all.entry(name.clone()).or_default().volumes.insert(volume.to_owned());
                }
            }
        }
        Ok(Self(Mutex::new(all)))
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<NodeName, Waiting>> {
        // Every change is whole in itself: a panic elsewhere leaves it so.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, node: &NodeName) -> Option<Waiting> {
        self.all().get(node).cloned()
    }

    /// Whether it is still to be asked what it has: it gets no orders so long.
    pub(crate) fn holds_all(&self, node: &NodeName) -> bool {
        self.all().get(node).is_some_and(|waiting| !waiting.is_known)
    }

    /// The volume that this container waits for on `node`, if so.
    pub(crate) fn holds(&self, node: &NodeName, spec: &ContainerSpec) -> Option<String> {
        let all = self.all();
        let waiting = all.get(node)?;
        spec.mounts
            .iter()
            .map(|mount| &mount.source)
            .find(|source| waiting.volumes.contains(*source))
            .cloned()
    }

    /// What waits for this node, in words.
    pub(crate) fn about(&self, node: &NodeName) -> Option<String> {
        let waiting = self.of(node)?;
        let volumes: Vec<_> = waiting.volumes.iter().map(String::as_str).collect();
        let why = waiting.problem.unwrap_or_else(|| "they go there when it connects".to_owned());
        Some(format!("{}: {why}", volumes.join(", ")))
    }

    fn change(&self, node: &NodeName, change: impl FnOnce(&mut Waiting)) {
        let mut all = self.all();
        if let Some(waiting) = all.get_mut(node) {
            change(waiting);
            if waiting.volumes.is_empty() {
                all.remove(node);
            }
        }
    }
}

/// Hands volumes back until none waits.
pub(crate) async fn run(platform: Platform, stop: CancellationToken) {
    let nodes: Vec<NodeName> = platform.kept().all().keys().cloned().collect();
    let mut under_way = JoinSet::new();
    for node in nodes {
        let platform = platform.clone();
        under_way.spawn(async move {
            while platform.kept().of(&node).is_some() {
                if let Err(error) = hand_back(&platform, &node).await {
                    tracing::debug!(%node, %error, "its volumes wait on");
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }
    // Dropped at the end: it is tried again after the next start, and a tree that breaks off makes no volume.
    stop.cancelled().await;
}

fn file(platform: &Platform, node: &NodeName, volume: &str) -> PathBuf {
    let dir = platform.options().controller_dir().join(backup::KEPT).join(node.as_str());
    dir.join(format!("{volume}.{WAITS}"))
}

fn note(platform: &Platform, kind: &str, text: String) {
    tracing::info!("{text}");
    platform.events().record(Event::by_itself(None, kind, text));
}

/// What is left of a volume that needs no waiting for any more: its node has it.
async fn settle(platform: &Platform, node: &NodeName, volume: &str, was_there: bool) -> io::Result<()> {
    let from = file(platform, node, volume);
    let gone = match was_there {
        true => tokio::fs::rename(&from, from.with_extension(NOT_NEEDED)).await,
        false => tokio::fs::remove_file(&from).await,
    };
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => platform.kept().change(node, |waiting| waiting.volumes.retain(|one| one != volume)),
    }
    let text = match was_there {
        true => format!(
            "{node} has a volume {volume}, which was left as it is; that of the backup is kept in {} until you remove it",
            from.with_extension(NOT_NEEDED).display()
        ),
        false => format!("volume {volume} of {node} was put back there from the backup"),
    };
    note(platform, "volume.restored", text);
    platform.deploys().fleet().reassign([node].into_iter());
    Ok(())
}

async fn hand_back(platform: &Platform, node: &NodeName) -> Result<(), WireError> {
    let disk = |error: io::Error| WireError::Broken { endpoint: node.to_string(), text: error.to_string() };
    let failed = |error: &WireError| {
        let text = format!("they cannot go there ({error}); tried again");
        platform.kept().change(node, |waiting| waiting.problem = Some(text));
    };
    let Some(waiting) = platform.kept().of(node) else { return Ok(()) };
    if !waiting.is_known {
        let there = match backup::names(platform, node).await {
            Ok(there) => there,
            // An older agent: what runs there goes on.
            Err(error @ WireError::Refused { status: StatusCode::NOT_FOUND, .. }) => {
                let text = format!(
                    "{node} runs an older Berth, which takes no volumes back: they are kept in {}; upgrade it, and start the \
                     controller again",
                    platform.options().controller_dir().join(backup::KEPT).join(node.as_str()).display()
                );
                note(platform, "volume.kept", text);
                platform.kept().change(node, |waiting| waiting.volumes.clear());
                platform.deploys().fleet().reassign([node].into_iter());
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        for volume in waiting.volumes.iter().filter(|volume| there.contains(volume)) {
            settle(platform, node, volume, true).await.map_err(disk)?;
        }
        platform.kept().change(node, |waiting| waiting.is_known = true);
        platform.deploys().fleet().reassign([node].into_iter());
    }
    let Some(waiting) = platform.kept().of(node) else { return Ok(()) };
    for volume in &waiting.volumes {
        let tree = match tokio::fs::File::open(file(platform, node, volume)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody took it away: so be it.
                platform.kept().change(node, |waiting| waiting.volumes.retain(|one| one != volume));
                platform.deploys().fleet().reassign([node].into_iter());
                continue;
            }
            opened => opened.map_err(disk)?,
        };
        let path = format!("/v1/volumes/{volume}");
        let sent = platform.agent_of(node).upload(Method::PUT, &path, "application/octet-stream", tree).await;
        match sent {
            Ok(_) => settle(platform, node, volume, false).await.map_err(disk)?,
            Err(WireError::Refused { status: StatusCode::CONFLICT, .. }) => {
                settle(platform, node, volume, true).await.map_err(disk)?;
            }
            Err(error) => {
                failed(&error);
                return Err(error);
            }
        }
    }
    Ok(())
}
