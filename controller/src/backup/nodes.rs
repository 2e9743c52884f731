//! Volumes of other nodes, for a backup.
//!
//! In: nodes that have joined. Out: which volumes they have, before anything is written; then each as a stream, over the
//! connections that the nodes hold open. A node is a stranger: names, answers and pauses have bounds, and what it sends is checked entry
//! by entry ([`berth_wire::TreeReader`]).

use crate::Platform;
use crate::errors::unavailable;
use berth_model::NodeName;
use berth_model::api::ApiError;
use bytes::Buf;
use futures_util::TryStreamExt;
use http::Method;
use http_body_util::{BodyExt, Limited};
use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio_util::io::StreamReader;

/// How long a node may take to say which volumes it has.
const ASKING: Duration = Duration::from_secs(20);
/// How long a node may send nothing.
const PAUSE: Duration = Duration::from_secs(120);
/// The longest list of volumes, in bytes.
const LONGEST_LIST: usize = 1 << 20;
const PIECE: usize = 128 * 1024;

/// What other nodes have.
#[derive(Debug)]
pub(crate) struct Others {
    platform: Platform,
    runtime: Handle,
    /// Which volumes of which node.
    pub(super) volumes: Vec<(NodeName, String)>,
    /// Nodes that did not answer; their volumes are left out.
    pub(crate) away: Vec<NodeName>,
}

impl Others {
    fn none(platform: &Platform) -> Self {
        Self { platform: platform.clone(), runtime: Handle::current(), volumes: Vec::new(), away: Vec::new() }
    }

    /// One volume, as its node sends it. Blocks.
    pub(super) fn read(&self, node: &NodeName, volume: &str) -> io::Result<impl BufRead + use<>> {
        let agent = self.platform.agent_of(node);
        let path = format!("/v1/volumes/{volume}");
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(ASKING, agent.call(Method::GET, &path, None::<&()>)).await
        });
        let answer = answer.map_err(|_| paused())?.map_err(io::Error::other)?;
        let body = StreamReader::new(answer.into_body().into_data_stream().map_err(io::Error::other));
        Ok(BufReader::with_capacity(PIECE, Patient { from: Box::pin(body), runtime: self.runtime.clone() }))
    }
}

fn paused() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("it sent nothing for {} s", PAUSE.as_secs()))
}

/// Reads on a thread of its own what comes over a connection, and waits for each piece not for ever.
struct Patient {
    from: std::pin::Pin<Box<dyn AsyncRead + Send>>,
    runtime: Handle,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A timer belongs to a runtime from the moment it is made.
        let reading = async { tokio::time::timeout(PAUSE, self.from.read(buffer)).await };
        self.runtime.block_on(reading).map_err(|_| paused())?
    }
}

/// Which volumes a node has.
pub(crate) async fn names(
    platform: &Platform,
    node: &NodeName,
) -> Result<Vec<String>, berth_wire::WireError> {
    let agent = platform.agent_of(node);
    let broken = |text: String| berth_wire::WireError::Broken { endpoint: node.to_string(), text };
    let asking = async {
        let answer = agent.call(Method::GET, "/v1/volumes", None::<&()>).await?;
        let body = Limited::new(answer.into_body(), LONGEST_LIST).collect().await;
        let bytes = body.map_err(|error| broken(error.to_string()))?.aggregate();
        let names: Vec<String> =
            serde_json::from_reader(bytes.reader()).map_err(|error| broken(error.to_string()))?;
        match names.iter().all(|name| berth_wire::is_volume(name)) {
            true => Ok(names),
            false => Err(broken("it names a volume as none can be called".to_owned())),
        }
    };
    let asked = tokio::time::timeout(ASKING, asking).await;
    asked.unwrap_or_else(|_| Err(broken(format!("it did not answer within {} s", ASKING.as_secs()))))
}

/// What the nodes but the controller's own have. One that does not answer is left out if that is wanted.
///
/// Errors: nodes are away and must not be left out.
pub(crate) async fn others(
    platform: &Platform,
    volumes: bool,
    leave_out_away: bool,
) -> Result<Others, ApiError> {
    let mut others = Others::none(platform);
    if !volumes {
        return Ok(others);
    }
    let own = tokio::fs::read_to_string(platform.options().data.join("node")).await.unwrap_or_default();
    let nodes = platform.nodes().await?.into_iter().map(|record| record.name);
    let nodes: Vec<NodeName> = nodes.filter(|name| name.as_str() != own.trim()).collect();
    let asked = nodes.iter().map(|node| names(platform, node));
    let mut reasons = Vec::new();
    for (node, answer) in nodes.iter().zip(futures_util::future::join_all(asked).await) {
        match answer {
            Ok(mut names) => {
                names.sort();
                names.dedup();
                others.volumes.extend(names.into_iter().map(|name| (node.clone(), name)));
            }
            Err(error) => {
                tracing::warn!(%node, %error, "cannot ask for its volumes");
                reasons.push(format!("{node} ({error})"));
                others.away.push(node.clone());
            }
        }
    }
    if reasons.is_empty() || leave_out_away {
        return Ok(others);
    }
    Err(unavailable(format!(
        "volumes of these nodes would be missing, for they do not answer: {}; try again when they are back, or leave them \
         out with --skip-away",
        reasons.join("; ")
    )))
}
