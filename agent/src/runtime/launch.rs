//! Starting shims from memory.
//!
//! In: a spec. Out: the connection a new shim was born with, and the container it set up. The program is copied once
//! into a sealed memfd that only root may read or execute, so that nothing in a container can ever write the runtime
//! (CVE-2019-5736), and replacing the `berth` binary on disk changes no running shim.

use super::RuntimeError;
use super::control::Control;
use berth_shim::protocol::{Reply, Spec};
use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Stdio;

static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/berth-shim"));

/// The shim's program, in memory.
#[derive(Debug)]
pub(super) struct ShimImage {
    memfd: File,
}

impl ShimImage {
    /// Copies the embedded program into a sealed memfd.
    pub(super) fn new() -> Result<Self, RuntimeError> {
        let make = || -> io::Result<File> {
            let fd = rustix::fs::memfd_create("berth-shim", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            let mut file = File::from(fd);
            file.write_all(SHIM)?;
            rustix::fs::fchmod(&file, Mode::RUSR | Mode::XUSR)?;
            rustix::fs::fcntl_add_seals(
                &file,
                SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
            )?;
            Ok(file)
        };
        Ok(Self { memfd: make().map_err(RuntimeError::file("prepare the program", "berth-shim"))? })
    }

    /// Starts a shim and waits until it has set its container up. The shim leaves our session and process group
    /// before it does anything.
    pub(super) async fn launch(&self, spec: &Spec) -> Result<(Control, u32, Vec<OwnedFd>), RuntimeError> {
        match self.spawn(spec, &[]).await? {
            (control, Reply::Created { pid }, fds) => Ok((control, pid, fds)),
            _ => Err(unexpected(spec)),
        }
    }

    /// Starts a shim that takes the container of `spec` over, with the descriptors of `spec.adopt`.
    pub(super) async fn adopt(&self, spec: &Spec, fds: &[OwnedFd]) -> Result<(), RuntimeError> {
        match self.spawn(spec, fds).await? {
            (_, Reply::Running, _) => Ok(()),
            _ => Err(unexpected(spec)),
        }
    }

    async fn spawn(
        &self,
        spec: &Spec,
        fds: &[OwnedFd],
    ) -> Result<(Control, Reply, Vec<OwnedFd>), RuntimeError> {
        let broken = |what: &str| {
            let what = what.to_owned();
            move |source: io::Error| RuntimeError::Shim { id: spec.id.clone(), what, source: Some(source) }
        };
        let text = serde_json::to_vec(spec).map_err(io::Error::from).map_err(broken("got no spec"))?;
        let input = memory_file(&text).map_err(broken("got no spec"))?;
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|error| broken("could not be reached")(error.into()))?;
        let control = Control::over(ours).map_err(broken("could not be reached"))?;
        if !fds.is_empty() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            control.send_packet(b"{}", &fds).await.map_err(broken("got no descriptors"))?;
        }
        let mut command = tokio::process::Command::new(format!("/proc/self/fd/{}", self.memfd.as_raw_fd()));
        command.arg(&spec.id).env_clear().current_dir("/");
        command.stdin(input).stdout(theirs).stderr(Stdio::null());
        let mut child = command.spawn().map_err(broken("could not be started"))?;
        drop(command); // it holds the other end of the socket
        // The launched process forks the shim and exits at once.
        child.wait().await.map_err(broken("could not be awaited"))?;
        match control.receive().await {
            Ok(Some((Reply::Failed(failure), _))) => {
                Err(RuntimeError::Setup { id: spec.id.clone(), stage: failure.stage, text: failure.text })
            }
            Ok(Some((reply, fds))) => Ok((control, reply, fds)),
            Ok(None) => Err(RuntimeError::Shim {
                id: spec.id.clone(),
                what: "died while setting it up; see the kernel's log for a crash or a kill for memory"
                    .into(),
                source: None,
            }),
            Err(error) => Err(broken("broke its connection")(error)),
        }
    }
}

fn unexpected(spec: &Spec) -> RuntimeError {
    RuntimeError::Shim {
        id: spec.id.clone(),
        what: "gave an answer to another question".into(),
        source: None,
    }
}

/// `bytes` as a file in memory, to be read from its beginning.
pub(super) fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("berth", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file.into())
}
