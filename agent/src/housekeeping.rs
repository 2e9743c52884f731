//! Housekeeping: what nobody needs any more is removed, at leisure.
//!
//! In: the node's containers, the assignment. Out: fewer logs of containers that are gone, fewer layers no image needs,
//! nothing of apps that were destroyed.

use crate::node::Node;
use berth_model::logs::AppLogs;
use berth_model::{AppName, ContainerId};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// First round after the start, and from one to the next.
const INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Logs of apps that are gone are kept this long.
const KEEP_OF_DESTROYED: Duration = Duration::from_secs(3600);
/// Of containers that are gone an app keeps as much as this many live ones may have.
const GONE: u64 = 4;

/// Cleans up until `stop` fires.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let alive: BTreeSet<ContainerId> = node.table().keys().cloned().collect();
        let logs = node.paths.logs();
        let assignment = node.assignment.borrow().clone();
        let apps = assignment.as_ref().and_then(|assignment| assignment.apps.clone());
        let known = apps.clone();
        let settings = node.logging.borrow().clone();
        let cleaned = tokio::task::spawn_blocking(move || {
            clean_logs(&logs, &alive, known.as_ref(), &settings.apps, SystemTime::now())
        })
        .await;
        if let Ok(Err(error)) = cleaned {
            tracing::warn!(%error, "cannot remove old logs");
        }
        if let Some(apps) = apps
            && let Err(error) = node.builds.forget_others(apps).await
        {
            tracing::warn!(error = crate::life::chain(&error), "cannot forget builds of destroyed apps");
        }
        // Without an assignment nobody knows what will be needed.
        let Some(assignment) = assignment else { continue };
        let mut keep = assignment.keep_images.clone();
        keep.extend(assignment.containers.values().map(|spec| spec.image.clone()));
        keep.extend(node.table().values().map(|entry| entry.spec.image.clone()));
        {
            let one_offs = node.one_offs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            keep.extend(one_offs.values().cloned());
        }
        keep.sort();
        keep.dedup();
        if let Err(error) = node.images.collect(&keep).await {
            tracing::warn!(error = crate::life::chain(&error), "cannot remove unused images");
        }
    }
}

/// Removes logs of containers that are gone: the old ones, then the oldest until the rest fits.
fn clean_logs(
    logs: &Path,
    alive: &BTreeSet<ContainerId>,
    apps: Option<&BTreeSet<AppName>>,
    settings: &BTreeMap<AppName, AppLogs>,
    now: SystemTime,
) -> io::Result<()> {
    for app in std::fs::read_dir(logs)? {
        let app = app?.path();
        let name = app.file_name().and_then(|name| name.to_str()).and_then(|name| AppName::parse(name).ok());
        let set = name.as_ref().and_then(|name| settings.get(name)).cloned().unwrap_or_default();
        let is_destroyed = apps.zip(name).is_some_and(|(apps, name)| !apps.contains(&name));
        let own = Duration::from_secs(u64::from(set.keep_hours()) * 3600);
        let keep = if is_destroyed { KEEP_OF_DESTROYED } else { own };
        let keep_bytes = set.max_mib().saturating_mul(GONE << 20);
        let mut gone: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        let mut lives = false;
        for entry in std::fs::read_dir(&app)? {
            let entry = entry?;
            let name = entry.file_name();
            if alive.iter().any(|id| name.to_str() == Some(id.as_str())) {
                lives = true;
                continue;
            }
            let (changed, size) = measure(&entry.path())?;
            gone.push((changed, size, entry.path()));
        }
        gone.sort();
        let mut total: u64 = gone.iter().map(|(_, size, _)| size).sum();
        for (changed, size, path) in gone {
            let age = now.duration_since(changed).unwrap_or_default();
            if age > keep || total > keep_bytes {
                std::fs::remove_dir_all(&path)?;
                total -= size;
            } else {
                lives = true;
            }
        }
        if !lives {
            // Not empty any more: a container was started meanwhile.
            let _ = std::fs::remove_dir(&app);
        }
    }
    Ok(())
}

fn measure(directory: &Path) -> io::Result<(SystemTime, u64)> {
    let mut changed = std::fs::metadata(directory)?.modified()?;
    let mut size = 0;
    for entry in std::fs::read_dir(directory)? {
        let found = entry?.metadata()?;
        size += found.len();
        changed = changed.max(found.modified()?);
    }
    Ok((changed, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(berth_model::logs::KEEP_HOURS as u64 * 3600);

    #[test]
    fn only_old_logs_of_containers_that_are_gone_are_removed() {
        let logs = tempfile::tempdir().expect("a directory");
        for id in ["a.web.1.x", "a.web.1.y"] {
            std::fs::create_dir_all(logs.path().join("a").join(id)).expect("made");
            std::fs::write(logs.path().join("a").join(id).join("00000001.seg"), "x").expect("written");
        }
        let alive = BTreeSet::from([ContainerId::parse("a.web.1.x").expect("an id")]);
        let app = AppName::parse("a").expect("a name");
        let clean = |now, apps: &[AppName]| {
            let apps = apps.iter().cloned().collect();
            clean_logs(logs.path(), &alive, Some(&apps), &BTreeMap::new(), now).expect("cleaned");
        };
        let living = [app];
        let has = |id: &str| logs.path().join("a").join(id).exists();
        clean(SystemTime::now(), &living);
        assert!(has("a.web.1.x") && has("a.web.1.y"));
        let longer = AppLogs { keep_hours: Some(1000), max_mib: None };
        let set = BTreeMap::from([(living[0].clone(), longer)]);
        let later = SystemTime::now() + KEEP * 2;
        clean_logs(logs.path(), &alive, None, &set, later).expect("cleaned");
        assert!(has("a.web.1.y"), "it was set to be kept longer");
        clean(SystemTime::now() + KEEP * 2, &living);
        assert!(has("a.web.1.x") && !has("a.web.1.y"));

        std::fs::create_dir_all(logs.path().join("a/a.web.1.z")).expect("made");
        clean(SystemTime::now() + KEEP_OF_DESTROYED * 2, &living);
        assert!(has("a.web.1.z"), "the app lives");
        clean(SystemTime::now(), &[]);
        assert!(has("a.web.1.z"), "somebody may want to read why");
        clean(SystemTime::now() + KEEP_OF_DESTROYED * 2, &[]);
        assert!(has("a.web.1.x") && !has("a.web.1.z"));
    }
}
