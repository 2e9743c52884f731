//! A child process and everything it starts, ended together.
//!
//! In: a command. Out: its pipes and its exit code. Dropping a [`Group`] asks the whole process group to end, and makes it
//! end soon after; what it was given to keep is dropped once it has.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::Duration;
use tokio::process::Child;

/// Between asking and making.
const GRACE: Duration = Duration::from_secs(5);

/// A child that leads a process group.
#[derive(Debug)]
pub(super) struct Group {
    child: Option<Child>,
    leader: Option<Pid>,
    kept: Option<Box<dyn std::any::Any + Send>>,
}

impl Group {
    /// Starts `command`, whose streams are set already, in a group of its own.
    pub(super) fn spawn(mut command: Command) -> io::Result<Self> {
        command.process_group(0);
        Self::adopt(tokio::process::Command::from(command).spawn()?)
    }

    /// The same for a command that becomes the leader of a session by itself.
    pub(super) fn spawn_session(command: Command) -> io::Result<Self> {
        Self::adopt(tokio::process::Command::from(command).spawn()?)
    }

    fn adopt(child: Child) -> io::Result<Self> {
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { child: Some(child), leader, kept: None })
    }

    /// Drops `value` when the child has ended, not before.
    pub(super) fn keep(&mut self, value: impl Send + 'static) {
        self.kept = Some(Box::new(value));
    }

    /// Its pipes, once.
    pub(super) fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// Sends a signal to all of the group.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // Only an error if all have ended.
            let _ = killpg(leader, signal);
        }
    }

    /// Its exit code; 128 + signal if it was killed, as shells show it. Cancel-safe.
    pub(super) async fn wait(&mut self) -> io::Result<u32> {
        let Some(child) = &mut self.child else { return Ok(255) };
        let status = child.wait().await?;
        // The leader is reaped: its number may be another process's soon.
        self.child = None;
        self.leader = None;
        self.kept = None;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(127));
        Ok(u32::try_from(code).unwrap_or(255))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let (Some(mut child), Some(leader)) = (self.child.take(), self.leader) else { return };
        let kept = self.kept.take();
        let _ = killpg(leader, Signal::SIGTERM);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            let _ = killpg(leader, Signal::SIGKILL);
            return;
        };
        runtime.spawn(async move {
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                let _ = killpg(leader, Signal::SIGKILL);
                let _ = child.wait().await;
            }
            drop(kept);
        });
    }
}
