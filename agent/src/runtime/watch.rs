//! Waiting for a container's end, whatever happens to its shim.
//!
//! In: a connection to the shim, and copies of all it holds. Out: how the container ended. A shim that dies is replaced:
//! the copies keep the container's pipes open meanwhile, and a new shim gets them (`Spec::adopt`). What the dead one had
//! read and not yet written, at most the end of a line, is lost; nothing else is.

use super::cgroup::Group;
use super::control::Control;
use super::handle::connect;
use super::launch::ShimImage;
use super::{LOCK, RuntimeError, prepare, read_exit};
use crate::seal::Seal;
use berth_model::container::Exit;
use berth_shim::protocol::{self, Kept, Reply, Request};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A shim that lived this long has done well: its death is the first again.
const LIVED_WELL: Duration = Duration::from_secs(10);
/// How many shims in a row may die young before the container is given up.
const SUCCESSORS: u32 = 10;
/// Before the next successor is tried, times how many failed.
const PAUSE: Duration = Duration::from_millis(50);

/// What is watched.
pub(super) struct Watched {
    pub(super) id: String,
    pub(super) dir: PathBuf,
    pub(super) group: Group,
    pub(super) shim: Arc<ShimImage>,
    pub(super) seal: Seal,
}

/// The end of one container. The watching stops when the last of its users is gone.
#[derive(Debug)]
pub(super) struct Ending {
    exit: watch::Receiver<Option<Exit>>,
    running: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ending {
    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// The program runs: from now on a dead shim is replaced.
    pub(super) fn runs(&self) {
        self.running.store(true, Ordering::Relaxed);
    }

    pub(super) fn exited(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Cancel-safe; any number may wait.
    pub(super) async fn wait(&self) -> Exit {
        wait_for(&mut self.exit.clone()).await
    }
}

/// A connected shim: it tells of the end on `control`.
struct Shim {
    control: Control,
    kept: Kept,
    fds: Vec<OwnedFd>,
}

impl Watched {
    /// Connects; also the process id of the container's first process.
    pub(super) async fn start(self) -> Result<(u32, Arc<Ending>), RuntimeError> {
        let (shim, runs) = self.connect().await?;
        let pid = shim.kept.pid;
        let (tell, exit) = watch::channel(None);
        let running = Arc::new(AtomicBool::new(runs));
        let is_running = Arc::clone(&running);
        let task = tokio::spawn(async move {
            tell.send_replace(Some(self.until_end(shim, &is_running).await));
        });
        Ok((pid, Arc::new(Ending { exit, running, task })))
    }

    async fn connect(&self) -> Result<(Shim, bool), RuntimeError> {
        let gone = || RuntimeError::Gone { id: self.id.clone() };
        let control = connect(&self.dir, &self.id)?;
        control.send(&Request::Watch, None).await.map_err(|_| gone())?;
        match control.receive().await {
            Ok(Some((Reply::State { kept, running, .. }, fds))) if fds.len() == kept.descriptors() => {
                Ok((Shim { control, kept, fds }, running))
            }
            _ => Err(gone()),
        }
    }

    async fn until_end(&self, mut shim: Shim, running: &AtomicBool) -> Exit {
        let (mut since, mut deaths) = (Instant::now(), 0);
        loop {
            match shim.control.receive().await {
                Ok(Some((Reply::Exited(exit), _))) => return exit_of(&exit),
                Ok(Some(_)) => continue,
                Ok(None) | Err(_) => {}
            }
            if let Some(exit) = read_exit(&self.dir) {
                return exit;
            }
            if !running.load(Ordering::Relaxed) {
                break; // it was being set up, and nobody can go on with that
            }
            deaths = if since.elapsed() > LIVED_WELL { 0 } else { deaths + 1 };
            since = Instant::now();
            match self.replace(&shim, &mut deaths).await {
                Ok(next) => shim = next,
                Err(Ended::Told(exit)) => return exit,
                Err(Ended::GivenUp) => break,
            }
        }
        // Nobody reads its output: it could only hang or die of SIGPIPE.
        self.group.kill();
        Exit { code: 255, signal: None, oom_killed: false, at_ms: now_ms() }
    }

    /// Starts a shim that takes over from `dead`, which may take several when they die young too.
    async fn replace(&self, dead: &Shim, deaths: &mut u32) -> Result<Shim, Ended> {
        loop {
            if *deaths >= SUCCESSORS {
                tracing::error!(container = self.id, "its shims keep dying; killing it");
                return Err(Ended::GivenUp);
            }
            match self.succeed(dead).await {
                Ok(next) => {
                    tracing::warn!(container = self.id, "its shim died; another has taken over");
                    return Ok(next);
                }
                // It ended just then, and a shim lived long enough to say how.
                Err(error) => match read_exit(&self.dir) {
                    Some(exit) => return Err(Ended::Told(exit)),
                    None => {
                        tracing::warn!(container = self.id, "its shim died, and so did the next: {error}");
                    }
                },
            }
            *deaths += 1;
            tokio::time::sleep(PAUSE * *deaths).await;
        }
    }

    async fn succeed(&self, dead: &Shim) -> Result<Shim, RuntimeError> {
        prepare::no_shim_left(&self.dir.join(LOCK)).await?;
        let mut spec = prepare::read_spec(&self.dir, &self.seal)?;
        spec.adopt = Some(dead.kept.clone());
        self.shim.adopt(&spec, &dead.fds).await?;
        Ok(self.connect().await?.0)
    }
}

/// Why a shim has no successor.
enum Ended {
    Told(Exit),
    GivenUp,
}

pub(super) async fn wait_for(exit: &mut watch::Receiver<Option<Exit>>) -> Exit {
    match exit.wait_for(Option::is_some).await.map(|exit| exit.clone()) {
        Ok(Some(exit)) => exit,
        // The watching task is gone without a word: only when the async runtime is being shut down.
        _ => Exit { code: 255, signal: None, oom_killed: false, at_ms: now_ms() },
    }
}

pub(super) fn exit_of(exit: &protocol::Exit) -> Exit {
    Exit { code: exit.code, signal: exit.signal, oom_killed: exit.oom_kills > 0, at_ms: exit.at_ms }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
