//! Where volumes are, as the store keeps it: `volumes/named/<name>` and `volumes/paths/<app>/<path>`.
//!
//! In: volumes and nodes. Out: [`Pins`]. A volume gets its node when a container that mounts it is first placed, and keeps it
//! until somebody says otherwise: what is written there is nowhere else.

use super::{Platform, PlatformError, json, now_ms};
use crate::schedule::{Pins, Volume};
use crate::store::{Compare, Write};
use berth_model::{AppName, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const NAMED: &str = "volumes/named/";
const PATHS: &str = "volumes/paths/";

/// What the store keeps of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct VolumeRecord {
    /// The node that has it; `None` if it is the same on every node.
    node: Option<NodeName>,
    /// Since when; milliseconds since the Unix epoch.
    since_ms: i64,
}

fn key(volume: &Volume) -> String {
    match volume {
        Volume::Named(name) => format!("{NAMED}{name}"),
        Volume::Path(app, path) => format!("{PATHS}{app}{path}"),
    }
}

/// The key prefix of the paths that an app mounts.
pub(super) fn of_app(app: &AppName) -> String {
    format!("{PATHS}{app}/")
}

fn volume(key: &str) -> Option<Volume> {
    if let Some(name) = key.strip_prefix(NAMED) {
        return Some(Volume::Named(name.to_owned()));
    }
    let rest = key.strip_prefix(PATHS)?;
    let (app, path) = rest.split_at_checked(rest.find('/')?)?;
    Some(Volume::Path(AppName::parse(app).ok()?, path.to_owned()))
}

impl Platform {
    /// Where every volume is.
    pub(crate) async fn pins(&self) -> Result<Pins, PlatformError> {
        let all = self.load_all::<VolumeRecord>("volumes/").await?;
        Ok(all.into_iter().filter_map(|(key, record)| Some((volume(&key)?, record.node))).collect())
    }

    /// Puts volumes on nodes that are on none yet. Gives whether that was still so.
    pub(crate) async fn pin(&self, volumes: &BTreeMap<Volume, NodeName>) -> Result<bool, PlatformError> {
        if volumes.is_empty() {
            return Ok(true);
        }
        let since_ms = now_ms();
        let record = |node: &NodeName| json(&VolumeRecord { node: Some(node.clone()), since_ms });
        let absent = volumes.keys().map(|volume| Compare::Absent(key(volume))).collect();
        let writes = volumes.iter().map(|(volume, node)| Write::Put(key(volume), record(node))).collect();
        Ok(self.txn(absent, writes).await?.is_some())
    }

    /// Says where a volume is from now on; `None` is on every node the same.
    pub(crate) async fn repin(&self, volume: &Volume, node: Option<NodeName>) -> Result<(), PlatformError> {
        self.save(&key(volume), &VolumeRecord { node, since_ms: now_ms() }).await.map(drop)
    }

    /// The paths of an app that is called otherwise from now on.
    pub(super) async fn moved_paths(
        &self,
        from: &AppName,
        to: &AppName,
    ) -> Result<Vec<Write>, PlatformError> {
        let mut writes = vec![Write::DeletePrefix(of_app(from))];
        for entry in self.store().list(of_app(from)).await? {
            if let Some(path) = entry.key.strip_prefix(&of_app(from)) {
                writes.push(Write::Put(format!("{}{path}", of_app(to)), entry.value));
            }
        }
        Ok(writes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_found_by_their_keys() {
        let app = AppName::parse("a.b").expect("valid");
        for one in [Volume::Named("uploads".into()), Volume::Path(app, "/srv/x y".into())] {
            assert_eq!(volume(&key(&one)), Some(one));
        }
        assert_eq!(volume("volumes/other/x"), None);
    }
}
