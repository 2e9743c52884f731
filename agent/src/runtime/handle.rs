//! A handle on one container: start, wait, signal, exec.
//!
//! In: requests of the agent. Out: the shim's answers. A task of its own (`watch`) waits for the end, so that any number
//! of callers can wait and none can miss it.

use super::RuntimeError;
use super::bundle::{Bundle, ExecSpec, Stats, Stdio};
use super::cgroup::Group;
use super::control::Control;
use super::launch::memory_file;
use super::prepare;
use super::session::{Session, SessionControl};
use super::watch::{Ending, Watched};
use crate::seal::Seal;
use berth_model::container::Exit;
use berth_shim::protocol::{Failure, Reply, Request};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

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
    ending: Arc<Ending>,
    session: Mutex<Option<Session>>,
    seal: Seal,
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
        watched: Watched,
        boot: Control,
        pid: u32,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, RuntimeError> {
        let (id, dir, group) = (watched.id.clone(), watched.dir.clone(), watched.group.clone());
        let seal = watched.seal.clone();
        let (_, ending) = watched.start().await?;
        let boot = tokio::sync::Mutex::new(Some(boot));
        let inner = Inner { id, dir, pid, group, boot, ending, session: Mutex::new(None), seal };
        let handle = Self { inner: Arc::new(inner) };
        if bundle.stdio != Stdio::Logged {
            // The session must not keep the handle alive that keeps the session: it shares the ending alone.
            let ending = handle.inner.ending.clone();
            let control = SessionControl::main(handle.inner.dir.clone(), handle.inner.id.clone(), ending);
            let session = Session::new(fds, control).map_err(handle.broken("handed over broken pipes"))?;
            if let Ok(mut slot) = handle.inner.session.lock() {
                *slot = Some(session);
            }
        }
        Ok(handle)
    }

    /// `None` when it never came to run.
    pub(super) async fn attached(watched: Watched) -> Result<Option<Self>, RuntimeError> {
        let (id, dir, group) = (watched.id.clone(), watched.dir.clone(), watched.group.clone());
        let seal = watched.seal.clone();
        let (pid, ending) = watched.start().await?;
        if !ending.is_running() {
            return Ok(None);
        }
        let boot = tokio::sync::Mutex::new(None);
        let inner = Inner { id, dir, pid, group, boot, ending, session: Mutex::new(None), seal };
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
            Some((Reply::Running, _)) => {
                self.inner.ending.runs();
                Ok(())
            }
            Some((Reply::Failed(failure), _)) => Err(self.failed(failure)),
            _ => Err(self.gone()),
        }
    }

    /// Waits until the container has ended. Cancel-safe; any number may wait.
    pub async fn wait(&self) -> Exit {
        self.inner.ending.wait().await
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exited(&self) -> Option<Exit> {
        self.inner.ending.exited()
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
        let process = prepare::exec_process(&self.inner.dir, &self.inner.id, spec, &self.inner.seal)?;
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

pub(super) fn connect(dir: &Path, id: &str) -> Result<Control, RuntimeError> {
    Control::connect(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            RuntimeError::Gone { id: id.to_owned() }
        }
        _ => RuntimeError::Shim { id: id.to_owned(), what: "cannot be reached".into(), source: Some(error) },
    })
}
