//! A handle on one container: start, wait, signal, exec.
//!
//! In: requests of the agent. Out: the shim's answers. A task of its own waits for the end, so that any number of
//! callers can wait and none can miss it.

use super::bundle::{Bundle, ExecSpec, Stats, Stdio};
use super::cgroup::Group;
use super::control::Control;
use super::launch::memory_file;
use super::prepare;
use super::session::{Session, SessionControl};
use super::{RuntimeError, read_exit};
use berth_model::container::Exit;
use berth_shim::protocol::{self, Failure, Reply, Request};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// One container that has been set up. Clones mean the same container; dropping the last one leaves it running.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    id: String,
    dir: PathBuf,
    pid: u32,
    group: Group,
    boot: tokio::sync::Mutex<Option<Control>>,
    exit: watch::Receiver<Option<Exit>>,
    session: Mutex<Option<Session>>,
    watcher: tokio::task::JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("id", &self.inner.id)
            .field("pid", &self.inner.pid)
            .finish_non_exhaustive()
    }
}

impl Handle {
    pub(super) async fn created(
        bundle: &Bundle,
        group: Group,
        boot: Control,
        pid: u32,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, RuntimeError> {
        let id = bundle.id.as_str().to_owned();
        let (_, exit, watcher) = watch_exit(&id, &bundle.dir, &group).await?;
        let inner = Inner {
            id,
            dir: bundle.dir.clone(),
            pid,
            group,
            boot: tokio::sync::Mutex::new(Some(boot)),
            exit,
            session: Mutex::new(None),
            watcher,
        };
        let handle = Self { inner: Arc::new(inner) };
        if bundle.stdio != Stdio::Logged {
            // The session must not keep the handle alive that keeps the session: it gets a handle of its own.
            let (_, exit, watcher) = watch_exit(bundle.id.as_str(), &bundle.dir, &handle.inner.group).await?;
            let control =
                SessionControl::main(bundle.dir.clone(), bundle.id.as_str().to_owned(), exit, watcher);
            let session = Session::new(fds, control).map_err(handle.broken("handed over broken pipes"))?;
            if let Ok(mut slot) = handle.inner.session.lock() {
                *slot = Some(session);
            }
        }
        Ok(handle)
    }

    pub(super) async fn attached(id: &str, dir: &Path, group: Group) -> Result<Option<Self>, RuntimeError> {
        let ((pid, running), exit, watcher) = watch_exit(id, dir, &group).await?;
        if !running {
            watcher.abort();
            return Ok(None);
        }
        let inner = Inner {
            id: id.to_owned(),
            dir: dir.to_owned(),
            pid,
            group,
            boot: tokio::sync::Mutex::new(None),
            exit,
            session: Mutex::new(None),
            watcher,
        };
        Ok(Some(Self { inner: Arc::new(inner) }))
    }

    /// Process id on the node of the container's first process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Lets the program run. `ExecFailed` when it could not be: not found, not executable, no such user or directory.
    pub async fn start(&self) -> Result<(), RuntimeError> {
        let Some(boot) = self.inner.boot.lock().await.take() else {
            return Err(RuntimeError::Invalid {
                id: self.inner.id.clone(),
                what: "it was started before".into(),
            });
        };
        boot.send(&Request::Start, None).await.map_err(self.broken("did not take the start"))?;
        match boot.receive().await.map_err(self.broken("did not answer the start"))? {
            Some((Reply::Running, _)) => Ok(()),
            Some((Reply::Failed(failure), _)) => Err(self.failed(failure)),
            _ => Err(self.gone()),
        }
    }

    /// Waits until the container has ended. Cancel-safe; any number may wait.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.inner.exit.clone();
        wait_for(&mut exit).await
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exited(&self) -> Option<Exit> {
        self.inner.exit.borrow().clone()
    }

    /// Sends a signal to the container's process; SIGKILL ends the whole container.
    pub async fn signal(&self, number: i32) -> Result<(), RuntimeError> {
        self.ask(Request::Signal(number)).await
    }

    /// Kills every process of the container at once.
    pub async fn kill_all(&self) -> Result<(), RuntimeError> {
        match self.ask(Request::Signal(libc::SIGKILL)).await {
            Ok(()) | Err(RuntimeError::Gone { .. }) => {}
            Err(_) => self.inner.group.kill(), // the shim does not answer: do without it
        }
        self.inner.group.kill();
        Ok(())
    }

    /// Runs another program in the container, confined exactly like the first.
    pub async fn exec(&self, spec: ExecSpec) -> Result<Session, RuntimeError> {
        let process = prepare::exec_process(&self.inner.dir, &self.inner.id, spec)?;
        let text = serde_json::to_vec(&process)
            .map_err(io::Error::from)
            .and_then(|text| memory_file(&text))
            .map_err(self.broken("got no exec spec"))?;
        let control = self.connect()?;
        control
            .send(&Request::Exec, Some(text.as_fd()))
            .await
            .map_err(self.broken("did not take the exec"))?;
        match control.receive().await.map_err(self.broken("did not answer the exec"))? {
            Some((Reply::Started { pid }, fds)) => {
                Session::new(fds, SessionControl::exec(self.inner.id.clone(), pid, control))
                    .map_err(self.broken("handed over broken pipes"))
            }
            Some((Reply::Failed(failure), _)) => Err(self.failed(failure)),
            _ => Err(self.gone()),
        }
    }

    /// Input and output of the first process, once, for `Piped` and `Tty`.
    #[must_use]
    pub fn take_session(&self) -> Option<Session> {
        self.inner.session.lock().ok()?.take()
    }

    /// What it uses now.
    pub fn stats(&self) -> Result<Stats, RuntimeError> {
        self.inner.group.stats()
    }

    async fn ask(&self, request: Request) -> Result<(), RuntimeError> {
        ask(&self.inner.dir, &self.inner.id, &request).await
    }

    fn connect(&self) -> Result<Control, RuntimeError> {
        connect(&self.inner.dir, &self.inner.id)
    }

    fn broken(&self, what: &str) -> impl FnOnce(io::Error) -> RuntimeError + use<> {
        let (id, what) = (self.inner.id.clone(), what.to_owned());
        move |source| RuntimeError::Shim { id, what, source: Some(source) }
    }

    fn gone(&self) -> RuntimeError {
        RuntimeError::Gone { id: self.inner.id.clone() }
    }

    fn failed(&self, failure: Failure) -> RuntimeError {
        if failure.stage == "exec" {
            return RuntimeError::ExecFailed { text: failure.text };
        }
        RuntimeError::Setup { id: self.inner.id.clone(), stage: failure.stage, text: failure.text }
    }
}

/// Sends a request that is answered with `Done`.
pub(super) async fn ask(dir: &Path, id: &str, request: &Request) -> Result<(), RuntimeError> {
    let control = connect(dir, id)?;
    let gone = || RuntimeError::Gone { id: id.to_owned() };
    control.send(request, None).await.map_err(|_| gone())?;
    match control.receive().await {
        Ok(Some((Reply::Done, _))) => Ok(()),
        Ok(Some((Reply::Failed(Failure { stage, text }), _))) => {
            Err(RuntimeError::Setup { id: id.to_owned(), stage, text })
        }
        _ => Err(gone()),
    }
}

fn connect(dir: &Path, id: &str) -> Result<Control, RuntimeError> {
    Control::connect(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            RuntimeError::Gone { id: id.to_owned() }
        }
        _ => RuntimeError::Shim { id: id.to_owned(), what: "cannot be reached".into(), source: Some(error) },
    })
}

type Watching = ((u32, bool), watch::Receiver<Option<Exit>>, tokio::task::JoinHandle<()>);

/// Connects for the end of the container. The task ends by telling how it ended, whatever happens to the shim.
async fn watch_exit(id: &str, dir: &Path, group: &Group) -> Result<Watching, RuntimeError> {
    let gone = || RuntimeError::Gone { id: id.to_owned() };
    let control = connect(dir, id)?;
    control.send(&Request::Watch, None).await.map_err(|_| gone())?;
    let Ok(Some((Reply::State { pid, running, .. }, _))) = control.receive().await else {
        return Err(gone());
    };
    let (tell, exit) = watch::channel(None);
    let (dir, group) = (dir.to_owned(), group.clone());
    let watcher = tokio::spawn(async move {
        let ended = match control.receive().await {
            Ok(Some((Reply::Exited(exit), _))) => Some(exit_of(&exit)),
            _ => read_exit(&dir),
        };
        let ended = ended.unwrap_or_else(|| {
            // The shim is dead and nobody reads the container's output: it could only hang or die of SIGPIPE.
            group.kill();
            Exit { code: 255, signal: None, oom_killed: false, at_ms: now_ms() }
        });
        tell.send_replace(Some(ended));
    });
    Ok(((pid, running), exit, watcher))
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
