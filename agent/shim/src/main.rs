//! The shim of one container: holds its pipes, reaps it, tells how it ended, and outlives the agent. When it dies
//! itself, the agent has copies of what it held and starts another that takes over.
//!
//! In: the spec on standard input; the agent at the other end of the socket that is standard output. Out: the
//! container, set up and waiting; its life until the end. It leaves the agent's session and process group first, and
//! inherits nothing of the agent's, so that nothing that happens to the agent happens to the container.

mod attach;
mod cgroup;
mod confine;
mod container;
mod disk;
mod failure;
mod init;
mod log;
mod overlay;
mod packet;
mod rootfs;
mod serve;
mod session;
mod sys;
mod user;

use berth_shim::protocol::{Failure, LOCK, Reply, Spec};
use failure::During;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

fn main() {
    let (mut spec, boot) = (Vec::new(), sys::take_fd(1));
    let read = File::from(sys::take_fd(0)).read_to_end(&mut spec);
    let spec = read.during(|| "read the spec".into()).and_then(|_| {
        serde_json::from_slice::<Spec>(&spec)
            .map_err(|error| Failure { stage: "read the spec".into(), text: error.to_string() })
    });
    // Born in its cgroup, where moving there later takes milliseconds. Else it stays in the agent's, which is only
    // worse for upgrades.
    let group = spec.as_ref().ok().and_then(|spec| cgroup::for_shim(&spec.cgroup));
    let forked = match &group {
        Some(group) => sys::clone(0, Some(group.as_fd())).or_else(|_| sys::clone(0, None)),
        None => sys::clone(0, None),
    };
    // The launched process ends at once; its child is nobody's but init's.
    match forked {
        Ok(sys::Side::Child) => {}
        Ok(sys::Side::Parent(..)) => sys::exit(0),
        Err(_) => sys::exit(1),
    }
    let Ok(boot) = leave_agent(boot) else { sys::exit(1) };
    drop(group);
    let ended = spec.and_then(|spec| {
        let boot = boot.try_clone().during(|| "keep the agent's socket".into())?;
        shim(spec, boot)
    });
    let Err(failure) = ended;
    let _ = serve::reply(&boot, &Reply::Failed(failure), &[]);
    sys::exit(1)
}

fn shim(spec: Spec, boot: OwnedFd) -> Result<Infallible, Failure> {
    // The last to be killed for memory; not permitted everywhere.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    let own_program = container::own_program().during(|| "find the shim's own program".into())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(&spec.dir, flags, Mode::empty())
        .during(|| format!("open {}", spec.dir.display()))?;
    let lock_flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let lock = rustix::fs::openat(&dir, LOCK, lock_flags, Mode::from_raw_mode(0o600))
        .during(|| "open the lock".into())?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .during(|| "take the lock: does another shim run this container?".into())?;
    let listener = serve::listen(&dir).during(|| "make the control socket".into())?;
    let container = match &spec.adopt {
        None => container::create(&spec, own_program)?,
        Some(kept) => {
            let (_, fds) = packet::receive(&boot).during(|| "receive the container".into())?;
            container::adopt(kept, fds)?
        }
    };
    drop(dir);
    let adopts = spec.adopt.is_some(); // a number that is not our child's may mean another by now
    let (pid, shim) = (
        container.pid,
        serve::Shim::new(spec, container, own_program, listener, boot).during(|| "open the log".into()),
    );
    match shim {
        Ok(shim) => shim.run(), // with `lock` held to the end of the process
        Err(failure) => {
            if !adopts {
                sys::kill(pid, libc::SIGKILL);
            }
            drop(lock);
            Err(failure)
        }
    }
}

/// A session of its own, no input or output, no signal that could end it by accident, not to be looked into.
fn leave_agent(given: OwnedFd) -> std::io::Result<OwnedFd> {
    rustix::process::setsid()?;
    // Away from 1, which becomes /dev/null like 0 and 2: whatever is opened later must not be taken for stdio.
    let boot = rustix::io::fcntl_dupfd_cloexec(&given, 3)?;
    drop(given);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let null = rustix::io::fcntl_dupfd_cloexec(null, 3)?;
    sys::put_stdio([null.as_fd(), null.as_fd(), null.as_fd()])?;
    rustix::thread::set_name(c"berth-shim")?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(boot)
}
