//! Lines of an app's containers, over all nodes: merged by time, and followed while nodes come and go.
//!
//! In: what to ask an agent for. Out: [`LogLine`]s, oldest first. A node that cannot be reached is left out while others
//! can, and is asked again while its lines are followed.

use crate::Platform;
use berth_model::NodeName;
use berth_model::api::ApiError;
use berth_model::container::LogLine;
use berth_wire::{Client, Lines};
use http::Method;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Pause before a node that broke off is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// What may have been written on a node while it could not be asked.
const MISSED: u32 = 10_000;

/// The path that asks an agent: how many lines, since when (milliseconds since the Unix epoch), and whether to go on.
pub(crate) type Ask = Arc<dyn Fn(u32, Option<i64>, bool) -> String + Send + Sync>;

/// The last `count` lines; then, if `follow`, what comes, until the receiver is dropped.
///
/// Errors: no node can be asked.
pub(crate) async fn read(
    platform: &Platform,
    ask: Ask,
    count: u32,
    follow: bool,
) -> Result<mpsc::Receiver<LogLine>, ApiError> {
    let path = ask(count, None, false);
    let asked = |agent: Client| {
        let path = path.clone();
        async move { agent.lines(Method::GET, &path, None::<&()>).await }
    };
    let sources = platform.ask_all(asked).await?;
    let (to, lines) = mpsc::channel(256);
    let platform = platform.clone();
    tokio::spawn(async move {
        let kept = usize::try_from(count).unwrap_or(usize::MAX);
        let (lines, last) = last(sources, kept).await;
        for line in lines {
            if to.send(line).await.is_err() {
                return;
            }
        }
        if follow {
            go_on(&platform, ask, last, to).await;
        }
    });
    Ok(lines)
}

/// The last `count` lines of sorted sources, in order, and how far each was read: microseconds since the Unix epoch.
async fn last(
    mut sources: Vec<(NodeName, Lines)>,
    count: usize,
) -> (VecDeque<LogLine>, BTreeMap<NodeName, i64>) {
    let mut heads = Vec::with_capacity(sources.len());
    for (_, lines) in &mut sources {
        heads.push(next(lines).await);
    }
    let mut kept = VecDeque::new();
    let mut read = BTreeMap::new();
    loop {
        let times = heads.iter().enumerate().filter_map(|(index, head)| Some((head.as_ref()?.at_us, index)));
        let Some((at_us, index)) = times.min() else { return (kept, read) };
        let (node, lines) = &mut sources[index];
        read.insert(node.clone(), at_us);
        let line = std::mem::replace(&mut heads[index], next(lines).await);
        kept.extend(line);
        if kept.len() > count {
            kept.pop_front();
        }
    }
}

async fn next(lines: &mut Lines) -> Option<LogLine> {
    match lines.next().await {
        Ok(line) => line,
        Err(error) => {
            tracing::debug!(%error, "a node's lines broke off");
            None
        }
    }
}

async fn go_on(platform: &Platform, ask: Ask, read: BTreeMap<NodeName, i64>, to: mpsc::Sender<LogLine>) {
    let (found, mut unordered) = mpsc::channel::<LogLine>(1024);
    let mut fleet = platform.deploys().fleet().changes();
    let mut followed = BTreeSet::new();
    // Ends with this function: dropping the set ends its tasks.
    let mut followers = JoinSet::new();
    let begun_us = crate::platform::now_ms().saturating_mul(1000);
    loop {
        fleet.mark_unchanged();
        for node in platform.deploys().fleet().alive() {
            if followed.insert(node.clone()) {
                let from = read.get(&node).copied().unwrap_or(begun_us);
                followers.spawn(follow(platform.clone(), node, ask.clone(), from, found.clone()));
            }
        }
        // Every arm is cancel-safe.
        tokio::select! {
            () = to.closed() => return,
            _ = fleet.changed() => {}
            Some(line) = unordered.recv() => {
                for line in berth_wire::batch(line, &mut unordered).await {
                    if to.send(line).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Follows one node for ever; after it could not be reached, from where it was read.
async fn follow(platform: Platform, node: NodeName, ask: Ask, mut read_us: i64, to: mpsc::Sender<LogLine>) {
    loop {
        let path = ask(MISSED, Some(read_us / 1000), true);
        match platform.agent_of(&node).lines(Method::GET, &path, None::<&()>).await {
            Ok(mut lines) => {
                let from_us = read_us;
                while let Some(line) = next(&mut lines).await {
                    if line.at_us <= from_us {
                        continue; // shown already
                    }
                    read_us = read_us.max(line.at_us);
                    if to.send(line).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::debug!(%node, %error, "cannot follow a node's lines"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
