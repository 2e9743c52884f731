//! Backup and restore of the whole platform.
//!
//! In: a controller that runs; or an archive and an empty data directory. Out: an archive; or a data directory that a controller
//! starts from. An archive is a tar in a zstd frame (RFC 8878, with its checksum). In order:
//!
//! | entry | what |
//! | --- | --- |
//! | `berth-backup.json` | [`Head`]: the format's number, who made it and when |
//! | `node` | the machine's name as a node |
//! | `controller/…` | keys, repositories, images, build logs, events: the controller's files but its databases |
//! | `volumes/…` | what apps keep on the controller's machine, if that was asked for |
//! | `nodes/NODE/VOLUME/…` | the same of the other nodes; since format 2 |
//! | `store.jsonl` | the store, an entry a line |
//! | `checksums.json` | [`Tail`]: how many files those were, and a SHA-256 over all |
//!
//! The store is taken first, then everything else is linked while nothing may be removed ([`freeze`]): so whatever the store
//! names is in the archive, and pushes go on.

mod archive;
mod freeze;
mod nodes;
mod restore;

pub(crate) use archive::write;
pub(crate) use freeze::{Frozen, freeze, sweep};
pub(crate) use nodes::{Others, names, others};
pub(crate) use restore::RESTORED;
pub use restore::{RestoreError, Restored, restore};

use berth_model::NodeName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The newest format that this reads, and writes where volumes of other nodes are in it.
const FORMAT: u32 = 2;
/// What it writes otherwise: older ones read it.
const WITHOUT_NODES: u32 = 1;
const HEAD: &str = "berth-backup.json";
const NODE: &str = "node";
const CONTROLLER: &str = "controller";
const VOLUMES: &str = "volumes";
const NODES: &str = "nodes";
/// Below the controller's directory: `NODE/VOLUME.tree`, volumes of a backup that wait for their node.
pub(crate) const KEPT: &str = "volumes-kept";
const STORE: &str = "store.jsonl";
const TAIL: &str = "checksums.json";

/// The first entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    /// Grows when an older Berth could not read it any more.
    format: u32,
    /// The Berth that made it.
    berth: String,
    /// Milliseconds since the Unix epoch.
    made_ms: i64,
    /// Whether volumes are in it.
    volumes: bool,
    /// Nodes that were away, whose volumes are not in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<NodeName>,
}

/// The last entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tail {
    /// Files before it.
    files: u64,
    /// Over what [`Sums`] was told.
    sha256: String,
}

/// One line of `store.jsonl`.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    /// Base64 (RFC 4648 §4).
    value: String,
}

/// A checksum over names, sizes and contents, in order.
#[derive(Default)]
struct Sums {
    files: u64,
    all: Sha256,
}

impl Sums {
    fn file(&mut self, path: &str, size: u64, content: Sha256) {
        self.files += 1;
        let line = format!("{path}\0{size}\0{}\n", hex::encode(content.finalize()));
        self.all.update(line.as_bytes());
    }

    fn tail(self) -> Tail {
        Tail { files: self.files, sha256: hex::encode(self.all.finalize()) }
    }
}
