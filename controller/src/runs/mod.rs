//! One-off containers: commands that run once. Attached ones belong to their caller and are only known here; detached ones are
//! desired state: stored before a node hears of them, in its assignment until their end is stored.
//!
//! In: orders, ends that nodes report. Out: containers of assignments, and what became of each run.
//!
//! Keys of the store: `runs/<app>/<13 digits of milliseconds>-<random>`, sealed: a run that has not ended holds config.

mod begin;
mod keep;
mod spec;
mod stored;

pub(crate) use begin::{Attached, Order, attach, attached_spec, begin, give_up, launch, scheduled};
pub(crate) use keep::{keep, load, stop, tell, until_over};
pub(crate) use spec::check_argv;
pub(crate) use stored::{find, list, prefix, retire, write_bare};

use berth_model::api::ApiError;
use berth_model::container::ContainerSpec;
use berth_model::run::{RunInfo, RunKind};
use berth_model::{AppName, ContainerId, NodeName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// One-off containers an app may have at a time.
pub(crate) const MOST: usize = 50;
/// A run that no node began within this time is not begun any more.
pub(crate) const BEGIN_WITHIN: Duration = Duration::from_secs(600);

/// What has not ended. One for the whole controller, held by the platform.
#[derive(Debug)]
pub(crate) struct Runs {
    live: Mutex<BTreeMap<String, Live>>,
    /// Counts changes.
    changes: watch::Sender<u64>,
    /// Held while a run that was stored before is written again: an end must stay the last word.
    writing: tokio::sync::Mutex<()>,
}

impl Default for Runs {
    fn default() -> Self {
        Self {
            live: Mutex::default(),
            changes: watch::Sender::new(0),
            writing: tokio::sync::Mutex::default(),
        }
    }
}

/// One run that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) app: AppName,
    pub(crate) info: RunInfo,
    /// What its node is to run; `None` while it is not handed out, and of attached ones.
    pub(crate) spec: Option<Arc<ContainerSpec>>,
    /// Why somebody ends it.
    stopped: Option<String>,
    /// Ends an attached one.
    cancel: Option<CancellationToken>,
}

impl Live {
    /// Where it is to run, and what, once that is known.
    pub(crate) fn placed(&self) -> Option<(&NodeName, &ContainerSpec)> {
        Some((self.info.node.as_ref()?, self.spec.as_deref()?))
    }
}

impl Runs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Wakes when a run begins, changes or ends. Subscribe first, then look.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What `node` is to run of them.
    pub(crate) fn assigned(&self, node: &NodeName) -> BTreeMap<ContainerId, ContainerSpec> {
        let live = self.lock();
        let mine = live.values().filter(|live| live.info.node.as_ref() == Some(node));
        let specs = mine.filter_map(|live| live.spec.as_ref());
        specs.map(|spec| (spec.id.clone(), ContainerSpec::clone(spec))).collect()
    }

    /// Everything that has not ended, by its key.
    pub(crate) fn all(&self) -> Vec<(String, Live)> {
        self.lock().iter().map(|(key, live)| (key.clone(), live.clone())).collect()
    }

    /// Where this container is; `None` if it is no run's, or has no node yet.
    pub(crate) fn node_of(&self, container: &ContainerId) -> Option<NodeName> {
        let live = self.lock();
        let found = live.values().find(|live| live.info.container.as_ref() == Some(container));
        found.and_then(|live| live.info.node.clone())
    }

    pub(crate) fn get(&self, key: &str) -> Option<Live> {
        self.lock().get(key).cloned()
    }

    /// Puts in what is stored already.
    pub(crate) fn enter_stored(&self, key: String, live: Live) {
        self.lock().insert(key, live);
        self.changed();
    }

    /// What an app has that has not ended, oldest first.
    pub(crate) fn of(&self, app: &AppName) -> Vec<RunInfo> {
        let live = self.lock();
        let mut runs: Vec<_> =
            live.values().filter(|live| live.app == *app).map(|live| live.info.clone()).collect();
        runs.sort_by_key(|run| run.created_ms);
        runs
    }

    /// Images that they run.
    pub(crate) fn images(&self) -> Vec<berth_model::image::ImageRef> {
        self.lock().values().filter_map(|live| Some(live.spec.as_ref()?.image.clone())).collect()
    }

    /// Puts one in, unless the app has too many already.
    fn enter(&self, key: &str, live: Live) -> Result<(), ApiError> {
        let mut all = self.lock();
        let same = all.values().filter(|other| other.app == live.app);
        let tasks = matches!(live.info.kind, RunKind::Release | RunKind::Postdeploy);
        if !tasks && same.count() >= MOST {
            let app = &live.app;
            return Err(crate::errors::conflict(format!(
                "App {app} has {MOST} one-off containers already, which is the most; see them with: berth run:list {app}"
            )));
        }
        all.insert(key.to_owned(), live);
        drop(all);
        self.changed();
        Ok(())
    }

    fn leave(&self, key: &str) -> Option<Live> {
        let gone = self.lock().remove(key);
        self.changed();
        gone
    }

    fn update(&self, key: &str, change: impl FnOnce(&mut Live)) {
        if let Some(live) = self.lock().get_mut(key) {
            change(live);
        }
        self.changed();
    }
}
