//! The history of builds: what was built when, by whom, how it went, and all that it said.
//!
//! In: work that builds and deploys. Out: the same work, run to its end, with a record in the store and a log on the disk.
//! The caller may go away: that stops the work, as `builds:cancel` does, and the record says so.
//!
//! Keys of the store: `builds/<app>/<build>`. An app's newest [`KEPT`] are kept, with their logs.

use super::log::{self, BuildLog};
use crate::Platform;
use crate::errors::{conflict, failed, internal, not_found};
use crate::events::Event;
use crate::platform::{ProgressSender, now_ms, say};
use crate::secrets;
use berth_model::api::{ApiError, BuildInfo, BuildStatus, Progress};
use berth_model::image::Image;
use berth_model::{AppName, BuildId, ReleaseVersion};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How many builds of an app are kept.
pub(crate) const KEPT: usize = 20;
/// Lines of progress that may wait for a slow reader.
const BACKLOG: usize = 64;

/// The builds that are under way.
#[derive(Debug, Default)]
pub(crate) struct Builds(Mutex<HashMap<BuildId, Running>>);

#[derive(Debug)]
struct Running {
    cancel: CancellationToken,
    stopped_by: Option<String>,
    /// Changes whenever the log has more.
    written: watch::Receiver<()>,
}

impl Builds {
    fn lock(&self) -> MutexGuard<'_, HashMap<BuildId, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes when the log of a build that is under way has more; `None` if it has all.
    pub(crate) fn watch(&self, build: &BuildId) -> Option<watch::Receiver<()>> {
        self.lock().get(build).map(|running| running.written.clone())
    }
}

/// Who has what built.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) app: AppName,
    pub(crate) by: String,
    /// In a word, for lists.
    pub(crate) source: String,
    /// Its commit, if it has one.
    pub(crate) git_rev: Option<String>,
}

/// A build that is being recorded: where its work speaks, and what stops it.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) id: BuildId,
    pub(crate) progress: ProgressSender,
    pub(crate) cancel: CancellationToken,
    platform: Platform,
    app: AppName,
}

impl Recording {
    /// The image is made; what follows is its deploy.
    pub(crate) async fn built(&self, image: &Image) -> Result<(), ApiError> {
        update(&self.platform, &self.app, &self.id, |record| {
            record.status = BuildStatus::Deploying;
            record.builder = Some(image.builder.clone());
            let reference = &image.reference;
            record.image = Some(format!("{}@{}", reference.repository, reference.digest));
        })
        .await
    }
}

/// Begins the keys of an app's builds: what is forgotten with it.
pub(crate) fn prefix(app: &AppName) -> String {
    format!("builds/{app}/")
}

pub(crate) fn key(app: &AppName, build: &BuildId) -> String {
    format!("builds/{app}/{build}")
}

/// Runs `work` to its end and records it. If the caller goes away or `cancel` fires, the work is told to stop.
pub(crate) async fn record<W, F>(
    platform: &Platform,
    order: Order,
    progress: &ProgressSender,
    cancel: &CancellationToken,
    work: W,
) -> Result<Option<ReleaseVersion>, ApiError>
where
    W: FnOnce(Recording) -> F + Send + 'static,
    F: Future<Output = Result<Option<ReleaseVersion>, ApiError>> + Send + 'static,
{
    let cancel = cancel.child_token();
    let _stopped_when_dropped = cancel.clone().drop_guard();
    let (platform, progress) = (platform.clone(), progress.clone());
    let recorded = tokio::spawn(async move {
        let id = new_id()?;
        let (source, by) = (order.source.clone(), order.by.clone());
        let record = BuildInfo {
            id: id.clone(),
            status: BuildStatus::Building,
            source: order.source,
            git_rev: order.git_rev,
            by: order.by,
            started_ms: now_ms(),
            finished_ms: None,
            builder: None,
            image: None,
            release: None,
            reason: None,
        };
        let log = BuildLog::create(&platform, &id)?;
        platform.save(&key(&order.app, &id), &record).await?;
        let (written, reader) = watch::channel(());
        let running = Running { cancel: cancel.clone(), stopped_by: None, written: reader };
        platform.builds().lock().insert(id.clone(), running);
        let _under_way = UnderWay { platform: platform.clone(), id: id.clone() };
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let ended = CancellationToken::new();
        let writing = tokio::spawn(write(receiver, log, progress, written, ended.clone()));
        let recording = Recording {
            id: id.clone(),
            progress: sender,
            cancel: cancel.clone(),
            platform: platform.clone(),
            app: order.app.clone(),
        };
        // A task of its own: a panic in it must not leave a build that runs for ever.
        let result = match tokio::spawn(work(recording)).await {
            Ok(result) => result,
            Err(error) => Err(internal("the build broke off", &error)),
        };
        let stopped_by = platform.builds().lock().get(&id).and_then(|running| running.stopped_by.clone());
        let result = match stopped_by {
            Some(by) if result.is_err() => Err(failed(format!("{by} canceled it"))),
            _ => result,
        };
        // What is still said, of a container that retires, is no part of the build.
        ended.cancel();
        if let Ok((mut log, written)) = writing.await {
            log.add(&match &result {
                Ok(_) => Progress::Done,
                Err(error) => Progress::Failed { error: error.clone() },
            });
            drop(written);
        }
        let was_stopped = cancel.is_cancelled();
        update(&platform, &order.app, &id, |record| {
            record.finished_ms = Some(now_ms());
            match &result {
                Ok(release) => {
                    record.status = BuildStatus::Succeeded;
                    record.release = *release;
                }
                Err(error) => {
                    record.status = if was_stopped { BuildStatus::Canceled } else { BuildStatus::Failed };
                    record.reason = Some(error.message.clone());
                }
            }
        })
        .await?;
        if let (Err(error), false) = (&result, was_stopped) {
            let text = format!("the deploy of {source} failed");
            let event = Event { by, ..Event::by_itself(Some(&order.app), "deploy.failed", text) };
            platform.events().record_failed(event, &error.message);
        }
        prune(&platform, &order.app).await?;
        result
    });
    recorded.await.map_err(|error| internal("the build broke off", &error))?
}

/// While it lives, the build is under way.
struct UnderWay {
    platform: Platform,
    id: BuildId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.platform.builds().lock().remove(&self.id);
    }
}

/// Writes every line to the log and passes it on; gives the log back when all that was said before `ended` is there.
async fn write(
    mut lines: mpsc::Receiver<Progress>,
    mut log: BuildLog,
    progress: ProgressSender,
    written: watch::Sender<()>,
    ended: CancellationToken,
) -> (BuildLog, watch::Sender<()>) {
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            () = ended.cancelled(), if !lines.is_closed() => {
                lines.close();
                continue;
            }
        };
        let Some(line) = line else { return (log, written) };
        log.add(&line);
        written.send_replace(());
        say(&progress, line).await;
    }
}

/// Changes a record; one that was removed meanwhile, with its app, stays so.
async fn update(
    platform: &Platform,
    app: &AppName,
    build: &BuildId,
    change: impl FnOnce(&mut BuildInfo) + Send,
) -> Result<(), ApiError> {
    let key = key(app, build);
    let Some((mut record, _)) = platform.load::<BuildInfo>(&key).await? else { return Ok(()) };
    change(&mut record);
    platform.save(&key, &record).await?;
    Ok(())
}

/// The builds of an app, newest first.
pub(crate) async fn list(platform: &Platform, app: &AppName) -> Result<Vec<BuildInfo>, ApiError> {
    let records = platform.load_all::<BuildInfo>(&prefix(app)).await?;
    Ok(records.into_iter().rev().map(|(_, record)| record).collect())
}

/// One build of an app: by its id, the end of its id, or `current` for the newest.
pub(crate) async fn find(platform: &Platform, app: &AppName, name: &str) -> Result<BuildInfo, ApiError> {
    let mut all = list(platform, app).await?;
    if name == "current" {
        return match all.is_empty() {
            true => Err(not_found(format!("App {app} has no builds yet; push it first: git push paas main"))),
            false => Ok(all.swap_remove(0)),
        };
    }
    let fits = |record: &BuildInfo| record.id.as_str() == name;
    let ends = |record: &BuildInfo| name.len() >= 4 && record.id.as_str().ends_with(name);
    let found = all.iter().position(fits).or_else(|| {
        let mut ending = all.iter().enumerate().filter(|(_, record)| ends(record));
        match (ending.next(), ending.next()) {
            (Some((at, _)), None) => Some(at),
            _ => None,
        }
    });
    let shown: String = name.chars().take(80).collect();
    let none =
        || not_found(format!("App {app} has no build {shown:?}; see them with: berth builds:list {app}"));
    found.map(|at| all.swap_remove(at)).ok_or_else(none)
}

/// Stops a build that is under way.
pub(crate) fn cancel(
    platform: &Platform,
    app: &AppName,
    build: &BuildInfo,
    by: &str,
) -> Result<(), ApiError> {
    let mut running = platform.builds().lock();
    let Some(found) = running.get_mut(&build.id) else {
        return Err(conflict(format!("build {} of {app} is over: it {}", build.id, build.status.as_str())));
    };
    found.stopped_by = Some(by.to_owned());
    found.cancel.cancel();
    Ok(())
}

/// At the start: what an earlier controller did not bring to an end never will be.
pub(crate) async fn conclude_interrupted(platform: &Platform) -> Result<(), ApiError> {
    for (key, mut record) in platform.load_all::<BuildInfo>("builds/").await? {
        if !record.status.is_running() {
            continue;
        }
        let reason = match record.status {
            BuildStatus::Deploying => {
                "Berth was restarted meanwhile; `releases` shows how the deploy went on"
            }
            _ => "Berth was restarted meanwhile; push again",
        };
        record.status = BuildStatus::Failed;
        record.finished_ms = Some(now_ms());
        record.reason = Some(reason.to_owned());
        if let Ok(mut log) = BuildLog::reopen(platform, &record.id) {
            log.add(&Progress::Failed { error: failed(reason) });
        }
        platform.save(&key, &record).await?;
    }
    Ok(())
}

/// Forgets what is more than [`KEPT`].
async fn prune(platform: &Platform, app: &AppName) -> Result<(), ApiError> {
    for record in list(platform, app).await?.into_iter().skip(KEPT) {
        if !record.status.is_running() {
            platform.remove(&key(app, &record.id)).await?;
            log::remove(platform, &record.id);
        }
    }
    Ok(())
}

/// Removes the logs whose builds are forgotten, with their apps.
pub(crate) async fn sweep(platform: &Platform) -> Result<(), ApiError> {
    // Listed before the records: a build that begins meanwhile has a record, not a log in this list.
    let logs = log::all(platform);
    let records = platform.load_all::<BuildInfo>("builds/").await?;
    let known: std::collections::HashSet<_> = records.into_iter().map(|(_, record)| record.id).collect();
    for build in logs {
        if !known.contains(&build) && platform.builds().watch(&build).is_none() {
            log::remove(platform, &build);
        }
    }
    Ok(())
}

fn new_id() -> Result<BuildId, ApiError> {
    let random = secrets::random::<4>().map_err(|error| internal("cannot name a build", &error))?;
    let text = format!("{:013}-{}", now_ms(), hex::encode(random));
    BuildId::parse(&text).map_err(|error| internal("cannot name a build", &error))
}
