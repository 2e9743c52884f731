//! The container's first process: pid 1 of its namespace, our own code.
//!
//! In: the shim's word to go, signals. Out: the container's tree, the program as its only child of note, reaped
//! zombies, how the program ended. It is not dumpable, so nothing in the container can trace it or read its program.

use crate::confine::{Rules, Stdio, confine, give_up};
use crate::failure::{During, exec_failure};
use crate::rootfs::{self, Sources};
use crate::user::User;
use crate::{attach, cgroup, packet, sys, user};
use berth_shim::protocol::{Failure, Spec};
use rustix::pty::OpenptFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// First byte of the packets between the shim and this process.
pub(crate) mod tag {
    /// Shim → init: ids and limits are in place; descriptors of the sources come along.
    pub(crate) const SOURCES: u8 = b'm';
    /// Init → shim: everything is in place. Descriptors: devpts, and the terminal's master if there is one.
    pub(crate) const READY: u8 = b'R';
    /// Init → shim: it could not be; a `Failure` as JSON follows.
    pub(crate) const FAILED: u8 = b'E';
    /// Shim → init: run the program.
    pub(crate) const GO: u8 = b'g';
    /// Init → shim: the program ended; its wait status (little-endian) follows.
    pub(crate) const ENDED: u8 = b'S';
}

/// What the first process inherits.
pub(crate) struct Inherited<'a> {
    pub(crate) spec: &'a Spec,
    /// Files of cgroup v1 it writes itself into.
    pub(crate) cgroup_tasks: &'a [OwnedFd],
    pub(crate) shim: &'a OwnedFd,
    pub(crate) errors: &'a OwnedFd,
    /// stdin, stdout, stderr; none when a terminal is to be made.
    pub(crate) pipes: Option<[OwnedFd; 3]>,
    pub(crate) own_program: (u64, u64),
}

/// The whole life of pid 1.
pub(crate) fn main(inherited: &Inherited<'_>) -> ! {
    sys::block_signals();
    let joined = cgroup::join(inherited.cgroup_tasks);
    let mut keep = vec![inherited.shim.as_raw_fd(), inherited.errors.as_raw_fd()];
    keep.extend(inherited.pipes.iter().flatten().map(AsRawFd::as_raw_fd));
    sys::close_all_but(&keep);
    match joined.and_then(|()| prepare(inherited)) {
        Ok((stdio, user)) => {
            run(inherited, &stdio, &user);
        }
        Err(failure) => {
            let mut message = vec![tag::FAILED];
            message.extend(serde_json::to_vec(&failure).unwrap_or_default());
            let _ = packet::send(inherited.shim, &message, &[]);
        }
    }
    sys::exit(1)
}

fn prepare(inherited: &Inherited<'_>) -> Result<(Option<OwnedFd>, Result<User, Failure>), Failure> {
    let spec = inherited.spec;
    let (message, fds) = packet::receive(inherited.shim).during(|| "receive the mounts".into())?;
    if message.first() != Some(&tag::SOURCES) {
        sys::exit(1); // the shim gave up
    }
    let sources = Sources::from_fds(fds).ok_or_else(|| Failure {
        stage: "receive the mounts".into(),
        text: "some are missing; is the limit on open files too low?".into(),
    })?;
    become_root()?;
    sys::unshare(libc::CLONE_NEWCGROUP).during(|| "hide cgroups".into())?;
    rustix::system::sethostname(spec.hostname.as_bytes()).during(|| "set the host name".into())?;
    let tree = rootfs::assemble(spec, &sources)?;
    drop(sources);
    // Errors of the user's own making show at the start, as the program's: a container of them can be created.
    let user = user::lookup(tree.root.as_fd(), &spec.process.user);
    let _ = attach::directory(tree.root.as_fd(), &spec.process.cwd); // a bad one is told by the program's start
    let terminal = match spec.process.tty {
        Some(size) => Some(terminal(tree.devpts.as_fd(), size).during(|| "make a terminal".into())?),
        None => None,
    };
    let mut fds = vec![tree.devpts.as_fd()];
    fds.extend(terminal.as_ref().map(|(master, _)| master.as_fd()));
    packet::send(inherited.shim, &[tag::READY], &fds).during(|| "report".into())?;
    drop(fds);
    Ok((terminal.map(|(_, side)| side), user))
}

/// Root of the container's user namespace; without one, root as before.
pub(crate) fn become_root() -> Result<(), Failure> {
    let stage = || "become the container's root".to_owned();
    let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    rustix::thread::set_thread_groups(&[]).during(stage)?;
    rustix::thread::set_thread_res_gid(Some(gid), Some(gid), Some(gid)).during(stage)?;
    rustix::thread::set_thread_res_uid(Some(uid), Some(uid), Some(uid)).during(stage)?;
    // A change of ids makes a process dumpable or not by a system setting: not is what we need.
    let no = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(no).during(stage)
}

/// A new terminal of the container's devpts, reached by descriptor and never by path: both sides.
pub(crate) fn terminal(
    devpts: BorrowedFd<'_>,
    (rows, cols): (u16, u16),
) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(devpts, "ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let side = rustix::pty::ioctl_tiocgptpeer(&master, peer)?;
    resize(master.as_fd(), (rows, cols))?;
    Ok((master, side))
}

/// Sets a terminal's size.
pub(crate) fn resize(master: BorrowedFd<'_>, (rows, cols): (u16, u16)) -> rustix::io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size)
}

fn run(inherited: &Inherited<'_>, terminal: &Option<OwnedFd>, user: &Result<User, Failure>) {
    match packet::receive(inherited.shim) {
        Ok((message, _)) if message.first() == Some(&tag::GO) => {}
        _ => return, // cancelled
    }
    let Ok(side) = sys::clone(0, None) else { return };
    match side {
        sys::Side::Child => {
            let failure = program(inherited, terminal, user);
            give_up(inherited.errors.as_fd(), &failure)
        }
        sys::Side::Parent(pid, pidfd) => {
            drop(pidfd);
            // Only what waiting and passing on signals takes. Nothing of the program's stays open here: its end of
            // file must not wait for us.
            sys::close_all_but(&[inherited.shim.as_raw_fd()]);
            close_stdio();
            retire(&inherited.spec.seccomp);
            supervise(pid, inherited.shim);
        }
    }
}

/// Becomes the program; returns only with what went wrong before confinement.
fn program(inherited: &Inherited<'_>, terminal: &Option<OwnedFd>, user: &Result<User, Failure>) -> Failure {
    let user = match user {
        Ok(user) => user,
        Err(failure) => return failure.clone(),
    };
    let own = |fd: &OwnedFd| fd.try_clone();
    let stdio = match (terminal, &inherited.pipes) {
        (Some(side), _) => own(side).map(Stdio::Terminal),
        (None, Some([stdin, stdout, stderr])) => {
            own(stdin).and_then(|a| Ok(Stdio::Pipes([a, own(stdout)?, own(stderr)?])))
        }
        (None, None) => return exec_failure("there is neither a terminal nor pipes".into()),
    };
    let stdio = match stdio.during(|| "input and output".into()) {
        Ok(stdio) => stdio,
        Err(failure) => return failure,
    };
    let spec = inherited.spec;
    let rules =
        Rules { seccomp: &spec.seccomp, open_files: spec.open_files, own_program: inherited.own_program };
    confine(&spec.process, user, &stdio, &rules, inherited.errors.as_fd())
}

fn close_stdio() {
    sys::close_range(0, 2);
}

/// Gives up everything but signalling the program, whoever it became.
fn retire(seccomp: &[Vec<u64>]) {
    let keep = CapabilitySet::KILL;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    let _ = rustix::thread::set_capabilities(None, sets);
    let _ = rustix::thread::set_no_new_privs(true);
    for program in seccomp {
        let _ = sys::install_filter(program);
    }
}

/// Reaps and passes signals on until the program ends; then so does this process, and with it the container.
fn supervise(program: i32, shim: &OwnedFd) -> ! {
    loop {
        let signal = sys::wait_signal();
        if signal == libc::SIGCHLD {
            while let Some((pid, status)) = sys::reap(-1) {
                if pid == program {
                    let mut message = vec![tag::ENDED];
                    message.extend_from_slice(&status.to_le_bytes());
                    let _ = packet::send(shim, &message, &[]);
                    sys::exit(sys::exit_code(status).0)
                }
            }
        } else if signal > 0 {
            sys::kill(program, signal);
        }
    }
}
