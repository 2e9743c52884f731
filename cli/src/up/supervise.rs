//! Keeping roles alive: started again when they die, after a pause that grows; started anew when told to, from a newer
//! file perhaps; stopped by SIGTERM, at last by SIGKILL.
//!
//! In: a role's command line, and a token. Out: when every role has ended.

use crate::roles::{SUPERVISOR, TAKE_OVER};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The first descriptor that is handed down (`SD_LISTEN_FDS_START`).
const FIRST_HANDED_DOWN: i32 = 3;
/// What the sockets are called (`LISTEN_FDNAMES`), in their order.
const NAMES: [&str; 2] = ["http", "https"];
/// The first pause before a new start, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Whoever lived this long begins again with the first pause.
const LIVED_WELL: Duration = Duration::from_secs(30);
/// How many deaths in a row before everything was ready mean that it never will be.
const GIVE_UP_AFTER: u32 = 5;
/// How long a successor may take until it serves.
const SUCCEED_WITHIN: Duration = Duration::from_secs(60);
/// How long a role may drain; its own limits are shorter.
const STOP_WITHIN: Duration = Duration::from_secs(45);

/// A role to be kept alive.
pub(super) struct Role {
    /// `controller`, `agent` or `proxy`: also the first argument.
    pub(super) name: &'static str,
    /// The other arguments.
    pub(super) arguments: Vec<OsString>,
    /// Listening sockets it inherits: a proxy, whose successor takes over while it drains.
    pub(super) listeners: Option<HandedDown>,
    /// The socket at which its successor says that it serves.
    pub(super) word: PathBuf,
}

/// Keeps `role` alive until `stop`. `ready` is cancelled once the whole platform answered: before that, dying again and
/// again is an error; after it, a reason to wait and try again.
pub(super) async fn keep(
    role: Role,
    program: PathBuf,
    stop: CancellationToken,
    ready: CancellationToken,
    mut renew: watch::Receiver<u64>,
) -> Result<()> {
    let mut pause = PAUSE.0;
    let mut deaths = 0;
    let mut elders = tokio::task::JoinSet::new();
    'start: while !stop.is_cancelled() {
        let started = Instant::now();
        renew.mark_unchanged();
        let mut child = spawn(&role, &program, None)?;
        let status = loop {
            tokio::select! {
                status = child.wait() => {
                    break status.with_context(|| format!("waiting for the {}", role.name))?;
                }
                () = stop.cancelled() => {
                    let ended = end(role.name, child).await;
                    while elders.join_next().await.is_some() {}
                    return ended;
                }
                Ok(()) = renew.changed() => {}
            }
            tracing::info!(role = role.name, "starting the {} anew", role.name);
            if role.listeners.is_none() {
                end(role.name, child).await?;
                continue 'start;
            }
            match succeed(&role, &program).await {
                Ok(successor) => {
                    let elder = std::mem::replace(&mut child, successor);
                    elders.spawn(drain(role.name, elder, stop.clone()));
                }
                Err(error) => tracing::error!("{error:#}; the {} that runs goes on", role.name),
            }
        };
        deaths += 1;
        if started.elapsed() > LIVED_WELL {
            (pause, deaths) = (PAUSE.0, 1);
        }
        if !ready.is_cancelled() && deaths >= GIVE_UP_AFTER {
            bail!("the {} {} {deaths} times in a row; its log above says why", role.name, how(status));
        }
        tracing::warn!(
            role = role.name,
            "the {} {}; starting it again in {} ms",
            role.name,
            how(status),
            pause.as_millis()
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
        pause = (pause * 2).min(PAUSE.1);
    }
    Ok(())
}

/// Starts a proxy that takes over from the one that runs. Returns once it serves.
async fn succeed(role: &Role, program: &Path) -> Result<Child> {
    super::remove_if_there(&role.word).context("cannot make room for the successor's word")?;
    let socket = UnixDatagram::bind(&role.word).context("cannot listen for the successor's word")?;
    let mut child = spawn(role, program, Some(&role.word))?;
    let mut word = [0; 256];
    let serves = tokio::time::timeout(SUCCEED_WITHIN, socket.recv(&mut word));
    tokio::select! {
        status = child.wait() => bail!("the new {} {}", role.name, how(status?)),
        serves = serves => match serves {
            Ok(heard) => heard.map(drop).context("cannot hear the successor")?,
            Err(_) => {
                child.kill().await?;
                bail!("the new {} did not serve within {} s and was killed", role.name, SUCCEED_WITHIN.as_secs());
            }
        },
    }
    Ok(child)
}

/// Waits for one that was succeeded, and ends it at `stop`.
async fn drain(name: &'static str, mut elder: Child, stop: CancellationToken) {
    tokio::select! {
        _ = elder.wait() => tracing::info!(role = name, "the former {name} has ended"),
        () = stop.cancelled() => {
            if let Err(error) = end(name, elder).await {
                tracing::warn!("{error:#}");
            }
        }
    }
}

/// Starts the role as a child of this thread, which must outlive it: the kernel tells a child of the death of the
/// *thread* that started it (`PR_SET_PDEATHSIG`).
fn spawn(role: &Role, program: &Path, succeeds: Option<&Path>) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg(role.name).args(&role.arguments).stdin(Stdio::null());
    command.env(SUPERVISOR, std::process::id().to_string());
    let start = |mut command: Command| {
        command.spawn().with_context(|| format!("cannot start the {} from {}", role.name, program.display()))
    };
    match &role.listeners {
        None => start(command),
        Some(_) if succeeds.is_some() => {
            command.arg(TAKE_OVER).envs(succeeds.map(|place| ("NOTIFY_SOCKET", place)));
            start(command)
        }
        Some(sockets) => {
            command.env("BERTH_LISTEN_FDS", sockets.0.len().to_string());
            command.env("BERTH_LISTEN_FDNAMES", NAMES[..sockets.0.len()].join(":"));
            sockets.while_inheritable(|| start(command))
        }
    }
}

/// Listening sockets at descriptors 3 and 4, where `sd_listen_fds(3)` has a child look for them; named as in [`NAMES`].
///
/// They stay closed to every child but the one they are for: this thread starts all children, one after the other, and
/// only opens them meanwhile. An agent that had one would hand it on to containers.
pub(super) struct HandedDown(Vec<OwnedFd>);

/// Descriptors kept free for listeners from before anything else could take them.
pub(super) struct Reserved(Vec<OwnedFd>);

impl Reserved {
    /// To be called before this process opens anything of its own. What a careless parent left there is closed.
    pub(super) fn new() -> Result<Self> {
        let mut held = Vec::new();
        for number in (FIRST_HANDED_DOWN..).take(NAMES.len()) {
            match nix::unistd::close(number) {
                Ok(()) | Err(nix::errno::Errno::EBADF) => {}
                Err(error) => bail!("cannot free descriptor {number}: {error}"),
            }
            let placeholder =
                OwnedFd::from(std::fs::File::open("/dev/null").context("cannot open /dev/null")?);
            if placeholder.as_raw_fd() != number {
                bail!("descriptor {number} is taken; are standard input, output and error open?");
            }
            held.push(placeholder);
        }
        Ok(Self(held))
    }

    /// Puts listeners there.
    pub(super) fn hold(mut self, listeners: &[&TcpListener]) -> Result<HandedDown> {
        use rustix::io::DupFlags;
        self.0.truncate(listeners.len());
        for (place, listener) in self.0.iter_mut().zip(listeners) {
            rustix::io::dup3(listener, place, DupFlags::CLOEXEC).context("cannot move a listening socket")?;
        }
        Ok(HandedDown(self.0))
    }
}

impl HandedDown {
    fn while_inheritable<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        use rustix::io::{FdFlags, fcntl_setfd};
        for socket in &self.0 {
            fcntl_setfd(socket, FdFlags::empty()).context("cannot hand a listening socket down")?;
        }
        let started = start();
        for socket in &self.0 {
            fcntl_setfd(socket, FdFlags::CLOEXEC).context("cannot take a listening socket back")?;
        }
        started
    }
}

async fn end(name: &str, mut child: Child) -> Result<()> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    if let Some(pid) = pid {
        match kill(pid, Signal::SIGTERM) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => bail!("cannot stop the {name}: {error}"),
        }
    }
    if let Ok(status) = tokio::time::timeout(STOP_WITHIN, child.wait()).await {
        let status = status?;
        if !status.success() {
            tracing::warn!(role = name, "the {name} {} while stopping", how(status));
        }
        return Ok(());
    }
    tracing::warn!(role = name, "the {name} did not stop within {} s; killing it", STOP_WITHIN.as_secs());
    child.kill().await.with_context(|| format!("cannot kill the {name}"))
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
