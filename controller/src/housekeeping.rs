//! Housekeeping: what nobody needs any more is removed, at leisure.
//!
//! In: the releases of all apps. Out: fewer images, packed repositories. An image goes when it is neither deployed nor
//! among an app's newest [`KEPT_RELEASES`] releases that may come back, nor tagged, nor younger than an hour; a crash at
//! any moment leaves at most something for the next round. Nodes clean up after themselves (`berth_agent`).

use crate::Platform;
use crate::errors::internal;
use crate::registry::Collected;
use berth_model::api::ApiError;
use berth_model::image::ImageRef;
use berth_model::release::{Outcome, Release};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// From the start to the first round, and from one to the next.
const INTERVAL: Duration = Duration::from_secs(3600);
/// What was touched this recently stays: somebody may be about to need it.
const GRACE: Duration = Duration::from_secs(3600);
/// How many releases of an app can be rolled back to.
pub const KEPT_RELEASES: usize = 50;

/// Cleans up until `stop` fires.
pub(crate) async fn run(platform: Platform, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        match clean(&platform).await {
            Ok(Collected { blobs: 0, .. }) => {}
            Ok(collected) => {
                tracing::info!(blobs = collected.blobs, bytes = collected.bytes, "removed unused images");
            }
            Err(error) => tracing::warn!(error = error.message, "cannot remove unused images"),
        }
    }
}

/// One round. Gives what was removed of the registry.
pub(crate) async fn clean(platform: &Platform) -> Result<Collected, ApiError> {
    let _removing = platform.removing().await;
    crate::build::history::sweep(platform).await?;
    let (keep, repositories) = needed(platform).await?;
    let registry = platform.registry().clone();
    let work = move || {
        for repository in repositories {
            crate::git::repository::pack(&repository);
        }
        registry.collect(&keep, GRACE)
    };
    let collected = tokio::task::spawn_blocking(work).await;
    let collected = collected.map_err(|error| internal("cleaning up broke off", &error))?;
    collected.map_err(|error| internal("cannot remove unused images", &error))
}

/// Of an app's releases, oldest first: those whose images are kept.
pub(crate) fn may_return(releases: &[Release]) -> impl Iterator<Item = &Release> {
    let went_live = releases.iter().rev().filter(|one| !matches!(one.outcome, Outcome::Failed { .. }));
    went_live.take(KEPT_RELEASES)
}

/// The images that may be needed again, and the repositories of all apps.
pub(crate) async fn needed(platform: &Platform) -> Result<(Vec<ImageRef>, Vec<PathBuf>), ApiError> {
    let mut keep = BTreeSet::new();
    let mut repositories = Vec::new();
    for app in platform.apps().await? {
        let releases = platform.releases(&app.name).await?;
        keep.extend(may_return(&releases).map(|one| one.image.reference.clone()));
        let current = releases.iter().find(|one| Some(one.version) == app.current);
        keep.extend(current.map(|one| one.image.reference.clone()));
        keep.extend(crate::build::last_image(platform, &app.name).await?);
        repositories.push(platform.options().repository_dir(&app.name));
    }
    for (_, plan) in platform.deploys().plans() {
        keep.extend(plan.containers.values().map(|planned| planned.spec.image.clone()));
    }
    keep.extend(platform.runs().images());
    Ok((keep.into_iter().collect(), repositories))
}
