//! Exec: another program in a running container, confined like the first.
//!
//! In: a process, the container. Out: a child of the shim in all of the container's namespaces and its cgroup.

use crate::cgroup::Group;
use crate::confine::{Rules, Stdio, confine, give_up};
use crate::failure::During;
use crate::{cgroup, init, sys, user};
use berth_shim::protocol::{Failure, Process, Spec};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pipe::PipeFlags;
use rustix::thread::ThreadNameSpaceType;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a session is started from.
pub(crate) struct Place<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) init: BorrowedFd<'a>,
    pub(crate) devpts: BorrowedFd<'a>,
    pub(crate) own_program: (u64, u64),
}

/// A started session.
pub(crate) struct Session {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// Ends when the program runs; else says why it does not.
    pub(crate) errors: Option<OwnedFd>,
    pub(crate) error_text: Vec<u8>,
    /// For the agent: stdin, stdout, stderr, or the terminal's master.
    pub(crate) for_agent: Vec<OwnedFd>,
    pub(crate) master: Option<OwnedFd>,
}

/// Forks a helper that enters the container and leaves a child there, which becomes ours.
pub(crate) fn start(place: &Place<'_>, process: &Process) -> Result<Session, Failure> {
    let (stdio, for_agent, master) = stdio(place, process)?;
    let (errors, errors_end) = pipe(PipeFlags::NONBLOCK).during(|| "make a pipe".into())?;
    let (report, report_end) = pipe(PipeFlags::empty()).during(|| "make a pipe".into())?;
    let group = cgroup::open(&place.spec.cgroup)?;
    match sys::clone(0, group.directory()).during(|| "fork".into())? {
        sys::Side::Child => helper(place, &group, process, &stdio, &errors_end, &report_end),
        sys::Side::Parent(helper, _) => {
            drop((errors_end, report_end, stdio));
            sys::wait_child(helper);
            let mut bytes = [0; 4];
            let got = rustix::io::read(&report, &mut bytes).during(|| "enter the container".into())?;
            if got < bytes.len() {
                let mut text = vec![0; 4096];
                let length = rustix::io::read(&errors, &mut text).unwrap_or(0);
                return Err(serde_json::from_slice(&text[..length]).unwrap_or(Failure {
                    stage: "enter the container".into(),
                    text: "it is just ending".into(),
                }));
            }
            // Our child and not reaped yet: the number cannot mean another.
            let pid = i32::from_le_bytes(bytes);
            let raw = rustix::process::Pid::from_raw(pid).ok_or_else(|| Failure {
                stage: "enter the container".into(),
                text: "there is no child".into(),
            })?;
            let pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty())
                .during(|| "watch the session".into())?;
            Ok(Session { pid, pidfd, errors: Some(errors), error_text: Vec::new(), for_agent, master })
        }
    }
}

type Ends = (Stdio, Vec<OwnedFd>, Option<OwnedFd>);

fn stdio(place: &Place<'_>, process: &Process) -> Result<Ends, Failure> {
    let base = place.spec.id_map.map_or(0, |(base, _)| base);
    if let Some(size) = process.tty {
        let (master, side) = init::terminal(place.devpts, size).during(|| "make a terminal".into())?;
        own(&side, base).during(|| "make a terminal".into())?;
        let kept = master.try_clone().during(|| "make a terminal".into())?;
        return Ok((Stdio::Terminal(side), vec![master], Some(kept)));
    }
    let (ours, theirs) = pipes(base).during(|| "make pipes".into())?;
    Ok((Stdio::Pipes(theirs), ours.into(), None))
}

/// Pipes for stdin, stdout and stderr: the ends to keep, and the container's, owned by its root.
pub(crate) fn pipes(base: u32) -> rustix::io::Result<([OwnedFd; 3], [OwnedFd; 3])> {
    let (stdin_read, stdin_write) = pipe(PipeFlags::empty())?;
    let (stdout_read, stdout_write) = pipe(PipeFlags::empty())?;
    let (stderr_read, stderr_write) = pipe(PipeFlags::empty())?;
    let theirs = [stdin_read, stdout_write, stderr_write];
    for end in &theirs {
        own(end, base)?;
    }
    Ok(([stdin_write, stdout_read, stderr_read], theirs))
}

/// A pipe whose ends are not inherited: what is read, what is written.
pub(crate) fn pipe(flags: PipeFlags) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC | flags)
}

/// Makes the container's root the owner.
pub(crate) fn own(fd: &OwnedFd, base: u32) -> rustix::io::Result<()> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(base)), Some(Gid::from_raw(base)))
}

fn helper(
    place: &Place<'_>,
    group: &Group,
    process: &Process,
    stdio: &Stdio,
    errors: &OwnedFd,
    report: &OwnedFd,
) -> ! {
    match enter(place, group) {
        Ok(sys::Side::Parent(pid, _)) => {
            let _ = rustix::io::write(report, &pid.to_le_bytes());
            sys::exit(0)
        }
        Ok(sys::Side::Child) => {
            // Nothing of the shim's may be open while we look at the container's files.
            let mut keep = vec![errors.as_raw_fd()];
            match stdio {
                Stdio::Pipes(ends) => keep.extend(ends.iter().map(AsRawFd::as_raw_fd)),
                Stdio::Terminal(side) => keep.push(side.as_raw_fd()),
            }
            sys::close_all_but(&keep);
            let failure = inside(place, process, stdio, errors);
            give_up(errors.as_fd(), &failure)
        }
        Err(failure) => give_up(errors.as_fd(), &failure),
    }
}

/// Joins the cgroup and all namespaces; the pid namespace is the next child's, which is the shim's by `CLONE_PARENT`.
fn enter(place: &Place<'_>, group: &Group) -> Result<sys::Side, Failure> {
    cgroup::join(group.tasks())?;
    let mut spaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::CONTROL_GROUP;
    if place.spec.id_map.is_some() {
        spaces |= ThreadNameSpaceType::USER;
    }
    rustix::thread::move_into_thread_name_spaces(place.init, spaces)
        .during(|| "enter the container".into())?;
    sys::clone(libc::CLONE_PARENT, None).during(|| "fork in the container".into())
}

fn inside(place: &Place<'_>, process: &Process, stdio: &Stdio, errors: &OwnedFd) -> Failure {
    let prepared = init::become_root().and_then(|()| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty()).during(|| "open the root".into())?;
        user::lookup(root.as_fd(), &process.user)
    });
    let user = match prepared {
        Ok(user) => user,
        Err(failure) => return failure,
    };
    let spec = place.spec;
    let rules = Rules { seccomp: &spec.seccomp, open_files: spec.open_files, own_program: place.own_program };
    confine(process, &user, stdio, &rules, errors.as_fd())
}
