//! Tasks of a deploy, which run once, to their end: the `release` process before any container of the release exists, and
//! the postdeploy scripts of `app.json` when they serve.
//!
//! In: the spec of a one-off container. Out: its output line by line, and its exit code.

use super::state::cancelled;
use crate::Platform;
use crate::errors::{failed, from_agent, internal, invalid, unavailable};
use crate::platform::{ProgressSender, say};
use crate::release;
use crate::runs::{self, Order};
use crate::secrets;
use berth_model::api::{ApiError, Progress};
use berth_model::app_json::Scripts;
use berth_model::container::ContainerSpec;
use berth_model::image::Process;
use berth_model::run::RunKind;
use berth_model::{AppName, ProcessType, ReleaseVersion};
use berth_wire::{Frame, read_frame, write_frame};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Longest a task may take, in seconds.
const LIMIT_SECS: u32 = 3600;
/// Longest line shown whole, in bytes.
const LONGEST_LINE: usize = 8192;

/// Runs the scripts that follow a deploy. What they fail at is said and no more: the release serves already.
pub(crate) async fn after_deploy(
    platform: &Platform,
    app: &AppName,
    version: ReleaseVersion,
    scripts: &Scripts,
    is_first: bool,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) {
    let first = scripts.first_postdeploy.as_ref().filter(|_| is_first);
    for line in scripts.postdeploy.iter().chain(first) {
        say(progress, Progress::Step { text: format!("Running the postdeploy script: {line}") }).await;
        if let Err(error) = postdeploy(platform, app, version, line, progress, cancel).await {
            let text = format!("{}; {version} serves nevertheless", error.message);
            say(progress, Progress::Warning { text }).await;
        }
    }
}

async fn postdeploy(
    platform: &Platform,
    app: &AppName,
    version: ReleaseVersion,
    line: &str,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Result<(), ApiError> {
    let release = platform.existing_release(app, version).await?;
    let app = platform.existing_app(app).await?;
    // Images that Berth did not choose the base of may have no bash.
    let shell = if matches!(release.image.builder.as_str(), "dockerfile" | "buildpacks") {
        "/bin/sh"
    } else {
        "/bin/bash"
    };
    let argv = release::launched(&release.image, [shell, "-c", line].map(str::to_owned).to_vec());
    let run = Process::Command { argv };
    let process = ProcessType::parse("postdeploy").map_err(|error| invalid(error.to_string()))?;
    let unique = secrets::random::<8>().map_err(|error| internal("cannot name a container", &error))?;
    let spec = release::one_off(&app, &release, &process, run, &hex::encode(unique));
    let spec = spec.map_err(|error| invalid(error.to_string()))?;
    self::run(platform, "the postdeploy script", &spec, &release.by, progress, cancel).await
}

/// Runs it; `what` it is, is for messages. Dropping this future, or `cancel`, ends the container.
pub(super) async fn run(
    platform: &Platform,
    what: &str,
    spec: &ContainerSpec,
    by: &str,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Result<(), ApiError> {
    platform.until_a_node_reports().await;
    let attached = known(platform, spec, by, cancel).await?;
    let mut stream = platform.agent_of(attached.node()).upgrade("/v1/run").await.map_err(from_agent)?;
    let start = serde_json::to_vec(&json!({ "spec": spec, "tty": null }));
    let start = start.map_err(|error| internal(&format!("cannot describe {what}"), &error))?;
    let broke = |error: berth_wire::FrameError| unavailable(format!("the stream of {what} broke: {error}"));
    write_frame(&mut stream, &Frame::Start(start)).await.map_err(broke)?;
    write_frame(&mut stream, &Frame::StdinEnd).await.map_err(broke)?;
    let (mut out, mut err) = (LineSplitter::default(), LineSplitter::default());
    let over = attached.over();
    let lost = platform.deploys().fleet().until_lost(attached.node());
    tokio::pin!(over, lost);
    loop {
        // `read_frame` is not cancel-safe, but after `cancel` nothing is read any more.
        let frame = tokio::select! {
            frame = read_frame(&mut stream) => frame.map_err(broke)?,
            () = cancel.cancelled() => return Err(cancelled()),
            () = attached.cancel.cancelled() => {
                let why = attached.stopped().unwrap_or_else(|| "nobody waits for it".to_owned());
                return Err(failed(format!("{what} was ended: {why}")));
            }
            why = &mut over => return Err(failed(format!("{what} was ended: {why}"))),
            () = &mut lost => {
                let node = attached.node();
                return Err(unavailable(format!("node {node} was lost while {what} ran there")));
            }
        };
        match frame {
            Some(Frame::Stdout(bytes)) => show(progress, out.push(&bytes)).await,
            Some(Frame::Stderr(bytes)) => show(progress, err.push(&bytes)).await,
            Some(Frame::Exit(code)) => {
                show(progress, out.rest().into_iter().chain(err.rest()).collect()).await;
                return match code {
                    0 => Ok(()),
                    code => Err(failed(format!("{what} exited with code {code}"))),
                };
            }
            Some(Frame::Failed(reason)) => {
                return Err(failed(format!("{what} did not run: {reason}")));
            }
            Some(_) => {}
            None => return Err(unavailable(format!("the node's agent broke off {what}"))),
        }
    }
}

/// While it runs, `run:list` shows it and `run:stop` ends it.
async fn known(
    platform: &Platform,
    spec: &ContainerSpec,
    by: &str,
    cancel: &CancellationToken,
) -> Result<runs::Attached, ApiError> {
    let argv = match &spec.run {
        Process::Command { argv } => argv.clone(),
        Process::Static(_) => Vec::new(),
    };
    let kind = if spec.process.is_release() { RunKind::Release } else { RunKind::Postdeploy };
    let command = argv.last().cloned().unwrap_or_default();
    let order = Order { kind, command, ttl_secs: Some(LIMIT_SECS), ..Order::typed(argv, by) };
    runs::attach(platform, spec, &order, cancel).await
}

async fn show(progress: &ProgressSender, lines: Vec<String>) {
    for text in lines {
        say(progress, Progress::Detail { text }).await;
    }
}

/// Cuts a byte stream into lines.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter(Vec<u8>);

impl LineSplitter {
    /// Takes bytes, gives the lines they complete, without line ends.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => lines.push(self.take()),
                byte => {
                    self.0.push(*byte);
                    if self.0.len() >= LONGEST_LINE {
                        lines.push(self.take());
                    }
                }
            }
        }
        lines
    }

    fn take(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).trim_end_matches('\r').to_owned()
    }

    /// What has no line end yet.
    pub(crate) fn rest(&mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_they_went_in_however_they_are_cut() {
        let text = b"one\n\ntwo\r\nthree";
        for cut in 0..text.len() {
            let mut splitter = LineSplitter::default();
            let mut lines = splitter.push(&text[..cut]);
            lines.extend(splitter.push(&text[cut..]));
            lines.extend(splitter.rest());
            assert_eq!(lines, ["one", "", "two", "three"]);
        }
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut splitter = LineSplitter::default();
        let lines = splitter.push(&vec![b'x'; 10 * LONGEST_LINE + 1]);
        assert_eq!(lines.len(), 10);
        assert_eq!(splitter.rest().as_deref(), Some("x"));
    }
}
