//! Moves: single containers that run elsewhere from then on.
//!
//! In: planned moves. Out: for each app one operation like a restart of these containers: new ones elsewhere, ready, routes
//! swap, the old ones drain and stop. No request is lost, and what cannot be moved stays.

use super::rollout::{Goal, Work, ids};
use super::{detached, work};
use crate::Platform;
use crate::errors::failed;
use crate::platform::{ProgressSender, say};
use crate::schedule::Move;
use berth_model::AppName;
use berth_model::api::{ApiError, Progress};
use std::collections::{BTreeMap, BTreeSet};
use tokio_util::sync::CancellationToken;

/// Carries out `moves`, app after app. One whose containers do not start elsewhere keeps what it has, and holds back none of the
/// others.
pub(crate) async fn carry_out(
    platform: &Platform,
    moves: Vec<Move>,
    by: &str,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    let mut by_app: BTreeMap<AppName, Vec<Move>> = BTreeMap::new();
    for one in moves {
        by_app.entry(one.app.clone()).or_default().push(one);
    }
    let mut stayed = Vec::new();
    for (app, moves) in by_app {
        let work = work(platform, &app, by, progress, &CancellationToken::new());
        let moving = async move { work.in_turn("a move", async |work| work.relocate(&moves).await).await };
        if let Err(error) = detached(moving).await {
            say(progress, Progress::Warning { text: format!("{app} stays as it is: {}", error.message) })
                .await;
            stayed.push(app.to_string());
        }
    }
    match stayed.is_empty() {
        true => Ok(()),
        false => Err(failed(format!("not all could be moved: {} stay where they were", stayed.join(", ")))),
    }
}

impl Work {
    /// New containers on the nodes of the plan instead of those that are still where it found them.
    async fn relocate(&self, moves: &[Move]) -> Result<(), ApiError> {
        let app = self.app().await?;
        let Some(release) = self.current(&app).await? else { return Ok(()) };
        let plan = self.platform.deploys().plan(&self.app);
        let is_there = |one: &&Move| {
            plan.serving().any(|(id, planned)| *id == one.id && planned.node == one.from)
                && release.image.processes.contains_key(&one.process)
        };
        let moves: Vec<_> = moves.iter().filter(is_there).collect();
        if moves.is_empty() {
            return Ok(());
        }
        for one in &moves {
            let Move { process, ordinal, from, to, .. } = one;
            self.step(format!("Moving {} {process}.{ordinal} from {from} to {to}", self.app)).await;
        }
        let going: BTreeSet<_> = moves.iter().map(|one| &one.id).collect();
        let mut goal = Goal::new("move", release);
        goal.start = moves.iter().map(|one| (one.process.clone(), one.ordinal)).collect();
        goal.towards = moves.iter().map(|one| ((one.process.clone(), one.ordinal), one.to.clone())).collect();
        goal.retire = ids(plan.serving().filter(|(id, _)| going.contains(id)));
        self.carry_out(&app, goal).await
    }
}
