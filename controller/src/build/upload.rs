//! Giving a build to an agent: the plan and the tree go there while its events come back.

use crate::Platform;
use crate::errors::{failed, from_agent, internal, unavailable};
use crate::git::archive;
use crate::git::tree::GitTree;
use crate::platform::{ProgressSender, say};
use berth_model::api::{ApiError, Progress};
use berth_model::build::{BuildEvent, BuildRequest};
use berth_model::image::Image;
use http::Method;
use std::io::{BufWriter, Write};
use tokio::io::AsyncReadExt;
use tokio_util::io::SyncIoBridge;

/// Between the thread that reads git's objects and the connection.
const PIPE: usize = 256 * 1024;

/// Runs the build to its end. Dropping this future closes the connection, which ends the build.
pub(super) async fn run(
    platform: &Platform,
    request: BuildRequest,
    tree: GitTree,
    progress: &ProgressSender,
) -> Result<Image, ApiError> {
    let mut head =
        serde_json::to_vec(&request).map_err(|error| internal("a build cannot be described", &error))?;
    head.push(b'\n');
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let writing = tokio::task::spawn_blocking(move || {
        // A reader that went away has its own reason, which is told instead.
        let mut to = BufWriter::with_capacity(64 * 1024, SyncIoBridge::new(ours));
        archive::write(&tree, &mut to)?;
        to.flush()
    });
    let body = std::io::Cursor::new(head).chain(theirs);
    let agent = platform.any_agent();
    let sent = agent.upload(Method::POST, "/v1/builds", "application/x-berth-build", body).await;
    let mut events = agent.lines_of(sent.map_err(from_agent)?);
    loop {
        let event = events.next::<BuildEvent>().await;
        let event = event.map_err(|error| unavailable(format!("the build broke off: {error}")))?;
        match event {
            Some(BuildEvent::Step { text }) => {
                say(progress, Progress::Step { text }).await;
            }
            Some(BuildEvent::Detail { text }) => {
                say(progress, Progress::Detail { text }).await;
            }
            Some(BuildEvent::Done { image }) => {
                return Ok(image);
            }
            Some(BuildEvent::Failed { reason }) => {
                return Err(failed(reason));
            }
            None => {
                // The agent ends without a verdict if the tree's stream does; why it did is known here.
                let reason = match writing.await {
                    Ok(Err(error)) => format!("the commit's files cannot be read: {error}"),
                    _ => "the node's agent broke off the build".to_owned(),
                };
                return Err(unavailable(reason));
            }
        }
    }
}
