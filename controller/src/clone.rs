//! Clones: a new app like an old one, with a first release of the same image.
//!
//! In: an app and a name. Out: the new app with settings, config, code and image, deployed, or a sentence that says how far
//! it came. Domains, ports of nodes, data and locks stay with the old one.

use crate::Platform;
use crate::deploy::{self, Change, NewImage};
use crate::errors::{failed, internal};
use crate::git::repository;
use crate::platform::{PlatformError, ProgressSender, lives, now_ms, say};
use crate::release::{self, Parts};
use berth_model::AppName;
use berth_model::api::{ApiError, Progress};
use berth_model::image::Image;
use berth_model::processes::CloneApp;
use berth_model::release::{App, Formation, Outcome, Release};
use tokio_util::sync::CancellationToken;

/// Clones `from` as `wanted` says.
pub(crate) async fn clone(
    platform: &Platform,
    from: &AppName,
    wanted: CloneApp,
    by: &str,
    lines: &ProgressSender,
) -> Result<(), ApiError> {
    let CloneApp { to, skip_deploy, ignore_existing, ttl_secs } = wanted;
    let original = platform.existing_app(from).await?;
    let end = ttl_secs.map(|secs| lives::end_of(now_ms(), secs)).transpose()?;
    if ignore_existing && platform.app(&to).await?.is_some() {
        say(lines, Progress::Step { text: format!("App {to} already exists, nothing to do") }).await;
        return Ok(());
    }
    say(lines, Progress::Step { text: format!("Cloning {from} to {to}") }).await;
    let app = platform.clone_app(from, &to, end).await?;
    warn_of_data(&original, &app, lines).await;
    let prepared = prepare(platform, &original, &app).await;
    let (release, image) = match prepared {
        Ok(Some(found)) => found,
        Ok(None) => {
            let text = format!("{from} has nothing deployed: {to} waits for a push");
            say(lines, Progress::Detail { text }).await;
            return Ok(());
        }
        Err(error) => {
            // Half a clone is none.
            match platform.destroy_app(&to).await {
                Ok(()) | Err(PlatformError::NoSuchApp(_)) => {}
                Err(left) => tracing::warn!(app = %to, error = %left, "cannot remove half a clone"),
            }
            return Err(error);
        }
    };
    let description = format!("Clone of {from} {}", release.version);
    if skip_deploy {
        return only_stored(platform, &to, release, image, description, by, lines).await;
    }
    // What `app.json` said of the original is what the clone's counts are already.
    let formation = if app.processes.scaled_by_code { app.formation } else { Formation::default() };
    let new = NewImage {
        image,
        git_rev: release.git_rev,
        checks: release.checks,
        formation,
        cron: release.cron,
        max_parallel: release.max_parallel,
        description,
    };
    let change = Change::Image(Box::new(new));
    deploy::deploy(platform, &to, change, by, lines, &CancellationToken::new()).await.map(drop)
}

/// Data is not cloned: says what the clone does without.
async fn warn_of_data(original: &App, clone: &App, lines: &ProgressSender) {
    for mount in &original.mounts {
        let own = clone.mounts.iter().find(|own| own.target == mount.target);
        let text = match own {
            Some(own) => format!("{} is a new, empty volume, {}", mount.target, own.source),
            None => {
                format!("{} ({}) is not mounted in it; see berth storage:mount", mount.target, mount.source)
            }
        };
        say(lines, Progress::Detail { text }).await;
    }
}

/// Code and image of the original, under the clone's name; `None` if it was never deployed.
async fn prepare(
    platform: &Platform,
    original: &App,
    clone: &App,
) -> Result<Option<(Release, Image)>, ApiError> {
    let work = {
        let (platform, from, to) = (platform.clone(), original.name.clone(), clone.name.clone());
        let branch = original.deploy_branch.clone();
        move || repository::copy(&platform, &from, &to, branch.as_deref())
    };
    let copied = tokio::task::spawn_blocking(work).await;
    copied.map_err(|error| internal("copying the repository broke off", &error))??;
    let Some(release) = platform.current_release(original).await? else { return Ok(None) };
    let mut image = release.image.clone();
    let (registry, to) = (platform.registry().clone(), format!("apps/{}", clone.name));
    let (from, digest) = (image.reference.repository.clone(), image.reference.digest.to_string());
    let give = {
        let to = to.clone();
        move || registry.give(&from, &digest, &to, &digest)
    };
    let given = tokio::task::spawn_blocking(give).await;
    let given = given.map_err(|error| internal("copying an image broke off", &error))?;
    given.map_err(|error| failed(format!("the image of {} cannot be copied: {error}", original.name)))?;
    image.reference.repository = to;
    Ok(Some((release, image)))
}

/// The release is there and nothing runs: `ps:start` starts it.
async fn only_stored(
    platform: &Platform,
    to: &AppName,
    release: Release,
    image: Image,
    description: String,
    by: &str,
    lines: &ProgressSender,
) -> Result<(), ApiError> {
    let (config, secrets) = platform.config_and_secrets_of(to).await?;
    let parts = Parts {
        image,
        config,
        secrets,
        checks: release.checks,
        cron: release.cron,
        formation: release.formation,
        max_parallel: release.max_parallel,
        git_rev: release.git_rev,
        now_ms: now_ms(),
        by: by.to_owned(),
        description,
    };
    platform.update_app(to, |app| app.stopped = true).await?;
    let make = |app: &App, version| Release { version, ..release::release(app, parts.clone()) };
    let made = platform.add_release(to, make).await?;
    platform.conclude_release(to, made.version, &Outcome::Live).await?;
    say(lines, Progress::Detail { text: format!("It is not started; do it with: berth ps:start {to}") })
        .await;
    Ok(())
}
