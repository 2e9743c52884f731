//! Builds: executing a plan in containers, without deciding anything.
//!
//! In: a [`BuildRequest`] and the pushed tree as a tar stream. Out: [`BuildEvent`]s, and an image whose every blob the
//! registry has acknowledged; or nothing at all.
//!
//! A layer whose key is known is not made again. Whose result it is matters: what an app's own code, caches or config
//! had a part in is only ever used for that app (see [`Scope`]).

mod cnb;
mod dockerfile;
mod error;
mod job;
mod output;
mod predeploy;
mod sandbox;
mod source;
mod submodules;
#[cfg(test)]
pub(crate) mod tests;
mod upper;
pub(crate) mod view;

pub use error::BuildError;
pub(crate) use sandbox::ca_bundle;

use crate::images::layers::remove_tree;
use crate::images::{Images, chain};
use crate::network::Network;
use crate::runtime::Runtime;
use berth_model::build::{BuildEvent, BuildRequest};
use berth_model::{AppName, ContainerId};
use futures_util::StreamExt;
use job::Job;
use sandbox::{Containers, Sandbox};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::io::{ReaderStream, StreamReader};
use tokio_util::sync::CancellationToken;

/// First id of the user namespaces of builds: above those that apps get.
const FIRST_ID: u32 = 0xF000_0000;
/// Ids of one of them.
const IDS: u32 = 65_536;

/// What builds on this node need. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) images: Images,
    pub(crate) sandbox: Box<dyn Sandbox>,
    /// `DIR/agent/builds`: one directory for each build that runs.
    pub(crate) builds: PathBuf,
    /// `DIR/agent/cache`.
    pub(crate) caches: PathBuf,
    queue: Arc<Semaphore>,
    /// User id ranges that no build uses now.
    ranges: Mutex<Vec<u32>>,
    /// One build of an app at a time: they share its caches.
    apps: Mutex<HashMap<AppName, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to run steps.
pub(crate) struct Turn {
    shared: Arc<Shared>,
    pub(crate) base: u32,
    _app: OwnedMutexGuard<()>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.ranges.lock().unwrap_or_else(PoisonError::into_inner).push(self.base);
    }
}

impl Context {
    /// Opens what builds keep under `data/agent`, and ends and removes what builds of an earlier agent left.
    pub async fn open(
        data: &Path,
        images: Images,
        runtime: Arc<Runtime>,
        network: Arc<Network>,
    ) -> Result<Self, BuildError> {
        Self::with(data, images, Box::new(Containers::new(runtime, network))).await
    }

    async fn with(data: &Path, images: Images, sandbox: Box<dyn Sandbox>) -> Result<Self, BuildError> {
        let (builds, caches) = (data.join("agent/builds"), data.join("agent/cache"));
        for dir in [&builds, &caches] {
            fs::create_dir_all(dir).map_err(BuildError::disk("make", dir))?;
        }
        for build in children(&builds)? {
            for dir in children(&build)? {
                let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or("");
                if let Ok(id) = ContainerId::parse(name)
                    && name.starts_with(CONTAINER_PREFIX)
                {
                    sandbox.remove_left(&id, &dir).await?;
                }
            }
            remove_tree(&build).map_err(BuildError::disk("remove", &build))?;
        }
        let places = std::thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).clamp(1, 2));
        let ranges = (0_u32..).take(places).map(|slot| FIRST_ID + slot * IDS).collect();
        let shared = Shared {
            images,
            sandbox,
            builds,
            caches,
            queue: Arc::new(Semaphore::new(places)),
            ranges: Mutex::new(ranges),
            apps: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A directory for what is on its way; removed with what this gives.
    pub(crate) fn scratch(&self) -> Result<Scratch, BuildError> {
        let dir = self.shared.builds.join(format!("pull-{}", crate::images::layers::random()));
        fs::create_dir(&dir).map_err(BuildError::disk("make", &dir))?;
        Ok(Scratch(dir))
    }

    /// Removes what is kept for the next builds of apps that are not in `apps`, unless one of theirs runs or its first
    /// was less than an hour ago: `apps` may be older than that.
    pub async fn forget_others(&self, apps: BTreeSet<AppName>) -> Result<(), BuildError> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || {
            let layers = shared.images.layers();
            let mut found: BTreeMap<AppName, bool> = BTreeMap::new();
            for dir in children(&shared.caches)?.into_iter().chain(layers.app_dirs()?) {
                let name = dir.file_name().and_then(|name| name.to_str()).map(AppName::parse);
                let Some(Ok(app)) = name else { continue };
                *found.entry(app).or_default() |= is_younger(&dir, FORGET_AFTER);
            }
            for (app, is_young) in found {
                if apps.contains(&app) || is_young {
                    continue;
                }
                let lock = shared.lock_of(&app);
                let Ok(_nobody_builds) = lock.try_lock() else { continue };
                layers.forget(&app)?;
                let caches = shared.caches.join(app.as_str());
                remove_tree(&caches).map_err(BuildError::disk("remove", &caches))?;
                tracing::info!(%app, "forgot what was kept for its builds");
            }
            Ok(())
        })
        .await?
    }
}

/// A directory that goes with this.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "cannot remove a directory of downloads");
        }
    }
}

/// How old what was kept for an unknown app is at least when it is removed.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

fn is_younger(path: &Path, age: Duration) -> bool {
    let made = fs::metadata(path).and_then(|found| found.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|elapsed| elapsed < age))
}

/// Begins the names of build containers' directories, and nothing else in a build's directory.
pub(crate) const CONTAINER_PREFIX: &str = "build-";

impl Shared {
    fn lock_of(&self, app: &AppName) -> Arc<tokio::sync::Mutex<()>> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.retain(|_, lock| Arc::strong_count(lock) > 1);
        apps.entry(app.clone()).or_default().clone()
    }

    /// Waits for a place in the queue; says so when there is none at once.
    pub(crate) async fn turn(
        self: &Arc<Self>,
        app: &AppName,
        events: &mpsc::Sender<BuildEvent>,
        stop: &CancellationToken,
    ) -> Result<Turn, BuildError> {
        let lock = self.lock_of(app);
        let waiting = async {
            let held = match lock.clone().try_lock_owned() {
                Ok(held) => held,
                Err(_) => {
                    say(events, "Waiting for another build of this app to end").await;
                    lock.lock_owned().await
                }
            };
            let permit = match self.queue.clone().try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    say(events, "Waiting for other builds on this node to end").await;
                    self.queue.clone().acquire_owned().await.map_err(|_| BuildError::Cancelled)?
                }
            };
            Ok::<_, BuildError>((held, permit))
        };
        let (app, permit) = tokio::select! {
            got = waiting => got?,
            () = stop.cancelled() => return Err(BuildError::Cancelled),
        };
        let free = self.ranges.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let base = free.expect("there are as many ranges as permits, and each holder of a permit takes one");
        Ok(Turn { shared: self.clone(), base, _app: app, _permit: permit })
    }
}

/// Says that something begins.
pub(crate) async fn say(events: &mpsc::Sender<BuildEvent>, text: impl Into<String>) {
    // Nobody listening is noticed by `execute`, which then cancels.
    let _ = events.send(BuildEvent::Step { text: text.into() }).await;
}

/// Executes `request`; `source` is the tar of the pushed tree. The last event is `Done` or `Failed`. When `cancel`
/// fires, `events` is closed, the time is over, or this future is dropped, the build is stopped and cleans up.
pub async fn execute(
    context: &Context,
    request: BuildRequest,
    source: impl AsyncRead + Send + 'static,
    events: mpsc::Sender<BuildEvent>,
    cancel: CancellationToken,
) {
    let stop = CancellationToken::new();
    let _stopped_when_dropped = stop.clone().drop_guard();
    let timeout = Duration::from_secs(request.timeout_secs);
    let work = {
        let (shared, events, stop) = (context.shared.clone(), events.clone(), stop.clone());
        // A task of its own: it cleans up by itself even if nobody polls us any more.
        tokio::spawn(async move { Job::new(shared, request, events, stop).run(until(source)).await })
    };
    tokio::pin!(work);
    let mut reason = None;
    let finished = loop {
        tokio::select! {
            finished = &mut work => break finished,
            () = cancel.cancelled(), if reason.is_none() => reason = Some(BuildError::Cancelled),
            () = events.closed(), if reason.is_none() => reason = Some(BuildError::Cancelled),
            () = tokio::time::sleep(timeout), if reason.is_none() => {
                reason = Some(BuildError::TimedOut(timeout.as_secs()));
            }
        }
        stop.cancel();
    };
    let event = match finished.map_err(BuildError::from).and_then(|built| built) {
        Ok(image) => BuildEvent::Done { image },
        Err(error) => BuildEvent::Failed { reason: chain(&reason.unwrap_or(error)) },
    };
    let _ = events.send(event).await;
}

/// Reading that can be cut short from elsewhere: a blocking reader of a stalled push would never end.
fn until(source: impl AsyncRead + Send + 'static) -> impl FnOnce(CancellationToken) -> Input {
    move |stop| {
        let bytes = ReaderStream::with_capacity(source, 64 << 10).take_until(stop.cancelled_owned());
        Box::pin(StreamReader::new(bytes))
    }
}

pub(crate) type Input = std::pin::Pin<Box<dyn AsyncRead + Send>>;

fn children(dir: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let list = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        result => result.map_err(BuildError::disk("list", dir)),
    }
}
