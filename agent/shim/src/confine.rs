//! The last steps before a program of the container runs: the same for its first process and for exec.
//!
//! In: what to run, as whom, with which input and output; this process is already in the container's namespaces and
//! cgroup, root inside, with full capabilities there. Out: the program, with nothing it should not have; or why not.

use crate::failure::{During, exec_failure};
use crate::sys;
use crate::user::User;
use berth_shim::protocol::{Failure, Process};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// What container root may still do to what belongs to its own user namespace: what package managers need.
/// Not: MKNOD, NET_RAW, AUDIT_WRITE, and everything that reaches the kernel.
const ROOT_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SETFCAP);

/// Input and output of the program.
pub(crate) enum Stdio {
    /// Three ends of pipes, or `/dev/null`.
    Pipes([OwnedFd; 3]),
    /// The user's side of a terminal, which becomes the controlling one.
    Terminal(OwnedFd),
}

/// What confinement depends on besides the process.
pub(crate) struct Rules<'a> {
    /// BPF programs.
    pub(crate) seccomp: &'a [Vec<u64>],
    /// `RLIMIT_NOFILE`.
    pub(crate) open_files: u64,
    /// Device and inode of the shim's own program, which must never run inside (CVE-2019-5736).
    pub(crate) own_program: (u64, u64),
}

/// Becomes the program, or says in `errors` why it could not and ends with 127 (there is none) or 126. Never returns:
/// descriptors whose owners are still in scope have been closed by then.
pub(crate) fn confine(
    process: &Process,
    user: &User,
    stdio: &Stdio,
    rules: &Rules<'_>,
    errors: BorrowedFd<'_>,
) -> ! {
    match steps(process, user, stdio, rules, errors) {
        Ok(never) => match never {},
        Err(failure) => give_up(errors, &failure),
    }
}

/// Ends with a word on why the program does not run.
pub(crate) fn give_up(errors: BorrowedFd<'_>, failure: &Failure) -> ! {
    let text = serde_json::to_vec(failure).unwrap_or_default();
    let _ = rustix::io::write(errors, &text);
    sys::exit(if failure.text.contains("there is no such") { 127 } else { 126 })
}

fn steps(
    process: &Process,
    user: &User,
    stdio: &Stdio,
    rules: &Rules<'_>,
    errors: BorrowedFd<'_>,
) -> Result<std::convert::Infallible, Failure> {
    take_stdio(stdio, user)?;
    sys::close_all_but(&[errors.as_raw_fd()]);
    sys::reset_signals();
    let _ = rustix::process::umask(Mode::from_raw_mode(0o022));
    limit(rules.open_files);
    drop_privileges(user)?;
    rustix::thread::set_no_new_privs(true).during(|| "no new privileges".into())?;
    change_directory(&process.cwd)?;
    let argv = strings(process.argv.iter().map(String::as_bytes))?;
    let has_home = process.env.iter().any(|(name, _)| name == "HOME");
    let home = (!has_home).then(|| format!("HOME={}", user.home));
    let pairs = process.env.iter().map(|(name, value)| format!("{name}={value}"));
    let env = pairs.chain(home).collect::<Vec<_>>();
    let env = strings(env.iter().map(String::as_bytes))?;
    let candidates = candidates(process);
    for program in rules.seccomp {
        sys::install_filter(program).during(|| "system call filter".into())?;
    }
    // From here on the filter holds for us too: only exec, stat and write.
    Err(run(&process.argv[0], &candidates, &argv, &env, rules.own_program))
}

fn run(
    name: &str,
    candidates: &[Vec<u8>],
    argv: &[CString],
    env: &[CString],
    own_program: (u64, u64),
) -> Failure {
    let mut worst: Option<(String, io::Error)> = None;
    for candidate in candidates {
        let Ok(path) = CString::new(candidate.as_slice()) else { continue };
        let shown = String::from_utf8_lossy(candidate).into_owned();
        if rustix::fs::stat(&path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == own_program) {
            return exec_failure(format!("cannot run {shown}: it is not a program of the image"));
        }
        let error = sys::execve(&path, argv, env);
        let is_absent = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR));
        if !is_absent || worst.is_none() {
            worst = Some((shown, error));
            if !is_absent {
                break;
            }
        }
    }
    let Some((path, error)) = worst else {
        return exec_failure(format!("cannot run {name:?}: PATH is empty"));
    };
    exec_failure(match error.raw_os_error() {
        Some(libc::ENOENT) if !name.contains('/') => {
            format!("cannot run {name:?}: there is no such program in PATH; is it installed in the image?")
        }
        Some(libc::ENOENT) => {
            format!("cannot run {path}: there is no such file, or the interpreter it names is missing")
        }
        Some(libc::EACCES) => format!("cannot run {path}: it is not executable for this user; try chmod +x"),
        Some(libc::ENOEXEC) => {
            format!("cannot run {path}: it is no program for this machine and has no #! line")
        }
        Some(libc::E2BIG) => format!("cannot run {path}: arguments and environment together are too long"),
        _ => format!("cannot run {path}: {error}"),
    })
}

/// Where a program may be: as named with a `/`, else in each directory of PATH.
fn candidates(process: &Process) -> Vec<Vec<u8>> {
    let name = &process.argv[0];
    if name.contains('/') {
        return vec![name.as_bytes().to_vec()];
    }
    let path = process.env.iter().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value);
    path.split(':')
        .filter(|dir| dir.starts_with('/'))
        .map(|dir| format!("{dir}/{name}").into_bytes())
        .collect()
}

fn take_stdio(stdio: &Stdio, user: &User) -> Result<(), Failure> {
    let stage = || "input and output".to_owned();
    rustix::process::setsid().during(stage)?;
    let (stdin, stdout, stderr) = match stdio {
        Stdio::Pipes([stdin, stdout, stderr]) => (stdin.as_fd(), stdout.as_fd(), stderr.as_fd()),
        Stdio::Terminal(side) => (side.as_fd(), side.as_fd(), side.as_fd()),
    };
    // So that opening /dev/stdout again works for a user. /dev/null is the node's and stays.
    let owner = rustix::fs::Uid::from_raw(user.uid);
    for fd in [stdin, stdout, stderr] {
        let kind = rustix::fs::fstat(fd).map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
        let is_ours = kind == Ok(rustix::fs::FileType::Fifo) || matches!(stdio, Stdio::Terminal(_));
        if is_ours {
            let _ = rustix::fs::fchown(fd, Some(owner), None); // without a mapping it stays root's
        }
    }
    sys::put_stdio([stdin, stdout, stderr]).during(stage)?;
    if matches!(stdio, Stdio::Terminal(_)) {
        rustix::process::ioctl_tiocsctty(std::io::stdin()).during(|| "controlling terminal".into())?;
    }
    Ok(())
}

/// Soft and hard limits, never above our own hard limit: raising that takes a capability that not every node has.
fn limit(open_files: u64) {
    for (resource, wanted) in [(Resource::Nofile, open_files), (Resource::Core, 0)] {
        let hard = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Some(wanted.min(hard));
        let _ = rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit });
    }
}

fn drop_privileges(user: &User) -> Result<(), Failure> {
    let keep = if user.uid == 0 { ROOT_CAPABILITIES } else { CapabilitySet::empty() };
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(one) {
            continue;
        }
        // EINVAL: this kernel knows no more of them.
        if rustix::thread::remove_capability_from_bounding_set(one) == Err(rustix::io::Errno::INVAL) {
            break;
        }
    }
    let who = || "change the user".to_owned();
    let groups: Vec<_> = user.groups.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
    let (uid, gid) = (rustix::fs::Uid::from_raw(user.uid), rustix::fs::Gid::from_raw(user.gid));
    rustix::thread::set_thread_groups(&groups).during(who)?;
    rustix::thread::set_thread_res_gid(Some(gid), Some(gid), Some(gid)).during(who)?;
    rustix::thread::set_thread_res_uid(Some(uid), Some(uid), Some(uid)).during(who)?;
    let _ = rustix::thread::clear_ambient_capability_set();
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).during(|| "drop capabilities".into())
}

/// Goes to `cwd` and proves that it is inside: a link into `/proc` or a leaked descriptor would not be
/// (CVE-2024-21626).
fn change_directory(cwd: &Path) -> Result<(), Failure> {
    let refuse = |error: rustix::io::Errno| {
        exec_failure(format!("cannot go to the working directory {}: {error}", cwd.display()))
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(refuse)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let dir = rustix::fs::openat2(&root, cwd, flags, Mode::empty(), resolve).map_err(refuse)?;
    rustix::process::fchdir(&dir).map_err(refuse)?;
    let here = rustix::process::getcwd(Vec::new()).map_err(refuse)?;
    let here = Path::new(std::ffi::OsStr::from_bytes(here.as_bytes()));
    if here.components().next() != Some(Component::RootDir) {
        return Err(exec_failure(format!(
            "the working directory {} is outside of the container",
            cwd.display()
        )));
    }
    Ok(())
}

fn strings<'a>(from: impl Iterator<Item = &'a [u8]>) -> Result<Vec<CString>, Failure> {
    from.map(CString::new)
        .collect::<Result<_, _>>()
        .map_err(|_| exec_failure("an argument or a variable holds a NUL byte".into()))
}
