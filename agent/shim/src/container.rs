//! Setting a container up, from the shim's side.
//!
//! In: the spec. Out: its first process, waiting for the word to run the program, and all the shim holds of it.

use crate::failure::During;
use crate::init::{self, Inherited, tag};
use crate::session::{own, pipe, pipes};
use crate::{cgroup, packet, rootfs, sys};
use berth_shim::protocol::{Failure, Kept, Spec, Stdio};
use berth_shim::segment::{STDERR, STDOUT};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::thread::LinkNameSpaceType;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// How much a pipe of output holds while the shim is busy, in bytes.
const LOG_PIPE: usize = 1024 * 1024;
/// Containers die before the node's own services when the whole node is out of memory.
const OOM_SCORE_ADJ: &str = "200";

/// A container that has been set up.
pub(crate) struct Container {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// Packets to and from its first process.
    pub(crate) sync: OwnedFd,
    /// Ends when the program runs; else says why it does not.
    pub(crate) errors: Option<OwnedFd>,
    pub(crate) devpts: OwnedFd,
    /// What is to be logged, and which stream it is.
    pub(crate) outputs: Vec<(u8, OwnedFd)>,
    /// For the agent: stdin, stdout, stderr, or the terminal's master.
    pub(crate) for_agent: Vec<OwnedFd>,
    pub(crate) master: Option<OwnedFd>,
}

/// Sets the container of `spec` up.
pub(crate) fn create(spec: &Spec, own_program: (u64, u64)) -> Result<Container, Failure> {
    join_network(spec)?;
    let (sync, sync_end) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .during(|| "make a socket".into())?;
    let (errors, errors_end) = pipe(PipeFlags::empty()).during(|| "make a pipe".into())?;
    let nonblocking = rustix::fs::fcntl_setfl(&errors, OFlags::NONBLOCK);
    nonblocking.during(|| "make a pipe".into())?;
    let (outputs, mut for_agent, theirs) = stdio(spec).during(|| "make pipes".into())?;
    let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if spec.id_map.is_some() {
        namespaces |= libc::CLONE_NEWUSER;
    }
    let group = cgroup::open(&spec.cgroup)?;
    let (pid, pidfd) = match sys::clone(namespaces, group.directory()).during(|| "make namespaces".into())? {
        sys::Side::Child => init::main(&Inherited {
            spec,
            cgroup_tasks: group.tasks(),
            shim: &sync_end,
            errors: &errors_end,
            pipes: theirs,
            own_program,
        }),
        sys::Side::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop((sync_end, errors_end, theirs));
    let handed = hand_over(spec, pid, &sync);
    let (devpts, master) = match handed {
        Ok(handed) => handed,
        Err(failure) => {
            sys::kill(pid, libc::SIGKILL);
            sys::wait_child(pid);
            return Err(failure);
        }
    };
    if let Some(master) = &master {
        for_agent.push(master.try_clone().during(|| "hand the terminal over".into())?);
    }
    Ok(Container { pid, pidfd, sync, errors: Some(errors), devpts, outputs, for_agent, master })
}

/// Takes over a running container from a dead shim. Its first process is not our child: how the program ended comes over
/// the socket, as it always does, and whoever inherits orphans reaps it.
pub(crate) fn adopt(kept: &Kept, fds: Vec<OwnedFd>) -> Result<Container, Failure> {
    let wrong = || Failure { stage: "take over".into(), text: "the descriptors do not fit".into() };
    if fds.len() != kept.descriptors() {
        return Err(wrong());
    }
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(wrong);
    let (pidfd, sync, devpts) = (next()?, next()?, next()?);
    let outputs = kept.outputs.iter().map(|stream| Ok((*stream, next()?))).collect::<Result<_, _>>()?;
    let master = if kept.terminal { Some(next()?) } else { None };
    let pid = i32::try_from(kept.pid).map_err(|_| wrong())?;
    Ok(Container { pid, pidfd, sync, errors: None, devpts, outputs, for_agent: Vec::new(), master })
}

/// Ids and mounts, in this order; then waits until the container has put itself together.
fn hand_over(spec: &Spec, pid: i32, sync: &OwnedFd) -> Result<(OwnedFd, Option<OwnedFd>), Failure> {
    let proc = format!("/proc/{pid}");
    // Not permitted in some containers and CI: a warning's worth, but nobody reads ours.
    let _ = std::fs::write(format!("{proc}/oom_score_adj"), OOM_SCORE_ADJ);
    let mut userns = None;
    if let Some((base, count)) = spec.id_map {
        let line = format!("0 {base} {count}\n");
        for map in ["uid_map", "gid_map"] {
            std::fs::write(format!("{proc}/{map}"), &line).during(|| format!("write {map}"))?;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        userns = Some(
            rustix::fs::open(format!("{proc}/ns/user"), flags, Mode::empty())
                .during(|| "open the user namespace".into())?,
        );
    }
    let sources = rootfs::take(spec, userns.as_ref().map(AsFd::as_fd))?;
    packet::send(sync, &[tag::SOURCES], &sources.fds()).during(|| "hand the mounts over".into())?;
    drop(sources);
    let (message, fds) = packet::receive(sync).during(|| "wait for the container".into())?;
    match message.split_first() {
        Some((&tag::READY, _)) => {}
        Some((&tag::FAILED, rest)) => {
            return Err(serde_json::from_slice(rest).unwrap_or_else(|_| Failure {
                stage: "set up".into(),
                text: String::from_utf8_lossy(rest).into_owned(),
            }));
        }
        _ => {
            return Err(Failure {
                stage: "set up".into(),
                text: "the container's first process died; is its memory limit too low?".into(),
            });
        }
    }
    let mut fds = fds.into_iter();
    let devpts =
        fds.next().ok_or_else(|| Failure { stage: "set up".into(), text: "no devpts came".into() })?;
    Ok((devpts, fds.next()))
}

/// The given network namespace, or a new one with only `lo`.
fn join_network(spec: &Spec) -> Result<(), Failure> {
    match &spec.netns {
        Some(path) => {
            let stage = || format!("join the network {}", path.display());
            let space =
                rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during(stage)?;
            rustix::thread::move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                .during(stage)?;
        }
        None => {
            let stage = || "make a network namespace".to_owned();
            sys::unshare(libc::CLONE_NEWNET).during(stage)?;
            let socket =
                rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                    .during(stage)?;
            sys::loopback_up(socket.as_fd()).during(stage)?;
        }
    }
    // Any port may be bound by any user: the network is the container's own.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    Ok(())
}

type Ends = (Vec<(u8, OwnedFd)>, Vec<OwnedFd>, Option<[OwnedFd; 3]>);

/// What is logged, what the agent gets, what the container gets.
fn stdio(spec: &Spec) -> rustix::io::Result<Ends> {
    let base = spec.id_map.map_or(0, |(base, _)| base);
    match spec.stdio {
        Stdio::Tty => Ok((Vec::new(), Vec::new(), None)),
        Stdio::Piped => {
            let (ours, theirs) = pipes(base)?;
            Ok((Vec::new(), ours.into(), Some(theirs)))
        }
        Stdio::Logged => {
            let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            let (stdout, stdout_end) = pipe(PipeFlags::empty())?;
            let (stderr, stderr_end) = pipe(PipeFlags::empty())?;
            for (ours, theirs) in [(&stdout, &stdout_end), (&stderr, &stderr_end)] {
                let _ = rustix::pipe::fcntl_setpipe_size(ours, LOG_PIPE); // else 64 KiB
                rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
                own(theirs, base)?;
            }
            let outputs = vec![(STDOUT, stdout), (STDERR, stderr)];
            Ok((outputs, Vec::new(), Some([null, stdout_end, stderr_end])))
        }
    }
}

/// Device and inode of the running program.
pub(crate) fn own_program() -> io::Result<(u64, u64)> {
    let stat = rustix::fs::stat(Path::new("/proc/self/exe"))?;
    Ok((stat.st_dev, stat.st_ino))
}
