//! The system calls no safe wrapper covers.
#![expect(unsafe_code, reason = "raw system calls: clone3, mount_setattr, seccomp, fork, execve, signals")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Which side of a fork this is.
pub(crate) enum Side {
    /// The new process.
    Child,
    /// The old one: pid as it sees it, and a pidfd.
    Parent(i32, OwnedFd),
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A new process with a copy of this one's memory, in the new namespaces of `flags` and in `cgroup` (v2).
pub(crate) fn clone(flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut wanted = u64::from(flags.unsigned_abs());
    if cgroup.is_some() {
        wanted |= CLONE_INTO_CGROUP;
    }
    // CLONE_PARENT takes the parent's own exit signal.
    let exit_signal =
        if flags & libc::CLONE_PARENT != 0 { 0 } else { u64::from(libc::SIGCHLD.unsigned_abs()) };
    let args = CloneArgs {
        flags: wanted | u64::from(libc::CLONE_PIDFD.unsigned_abs()),
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal,
        cgroup: cgroup.and_then(|dir| u64::try_from(dir.as_raw_fd()).ok()).unwrap_or(0),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM this is fork: the child has its own copy of all memory. This process has one thread,
    // so no lock can be held by another. `args` and `pidfd` outlive the call.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Side::Child);
    }
    // SAFETY: the kernel has just stored a new descriptor there, owned by nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Side::Parent(i32::try_from(pid).map_err(io::Error::other)?, pidfd))
}

/// Takes over an inherited descriptor. Call once for each number.
pub(crate) fn take_fd(number: RawFd) -> OwnedFd {
    // SAFETY: the caller names a descriptor this process was started with and nothing else in it owns.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Moves this process (which has one thread) into new namespaces.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: only namespace flags are passed: no memory or descriptor table stops being shared.
    check(libc::c_long::from(unsafe { libc::unshare(flags) }))?;
    Ok(())
}

/// Puts descriptors at 0, 1 and 2. None of them may be one of these numbers.
pub(crate) fn put_stdio(from: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    for (number, fd) in (0..).zip(from) {
        // SAFETY: what was at these numbers is owned by nobody in this program.
        check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), number) }))?;
    }
    Ok(())
}

/// Ends the process without running anything.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: always sound.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from `first` to `last`, really (CVE-2024-21626).
pub(crate) fn close_range(first: u32, last: u32) {
    if first > last {
        return;
    }
    // SAFETY: descriptors of this process; owners of closed ones are never dropped, because the callers only exec
    // or _exit from here on.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Closes every descriptor above 2 but `keep`.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut next = 3;
    for fd in keep {
        close_range(next, fd.saturating_sub(1));
        next = fd + 1;
    }
    close_range(next, u32::MAX);
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets `MOUNT_ATTR_*` flags of a mount; with `userns`, shifts its ids too.
pub(crate) fn set_mount(
    mount: BorrowedFd<'_>,
    set: u64,
    userns: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let attr = MountAttr {
        attr_set: set | if userns.is_some() { MOUNT_ATTR_IDMAP } else { 0 },
        attr_clr: 0,
        propagation: 0,
        userns_fd: userns.and_then(|fd| u64::try_from(fd.as_raw_fd()).ok()).unwrap_or(0),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, `attr` has the size given and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// `pivot_root(".", ".")`: the current directory becomes the root, the old root is stacked on top of it.
pub(crate) fn pivot_here() -> io::Result<()> {
    // SAFETY: both are C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    Ok(())
}

/// Every signal back to its default, none blocked.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs no code; numbers that cannot be set are refused by the kernel, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let none = empty_set();
    // SAFETY: `none` is an initialised set.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

fn empty_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn full_set() -> libc::sigset_t {
    let mut set = empty_set();
    // SAFETY: `set` is an initialised set.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

/// Blocks every signal that can be.
pub(crate) fn block_signals() {
    let all = full_set();
    // SAFETY: `all` is an initialised set.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) };
}

/// Waits for a (blocked) signal and takes it.
pub(crate) fn wait_signal() -> i32 {
    let all = full_set();
    // SAFETY: `all` is an initialised set; no siginfo is asked for.
    unsafe { libc::sigwaitinfo(&raw const all, std::ptr::null_mut()) }
}

/// Sends a signal.
pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: always sound; a process that is gone is an error that changes nothing.
    unsafe { libc::kill(pid, signal) };
}

/// Sends a signal to the process of a pidfd.
pub(crate) fn pidfd_kill(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no siginfo is given.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) })?;
    Ok(())
}

/// Reaps a child (-1: any): its pid and wait status. `None` when none has ended.
pub(crate) fn reap(pid: i32) -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let got = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG | libc::__WALL) };
    (got > 0).then_some((got, status))
}

/// Waits for a child to end.
pub(crate) fn wait_child(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    while unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    status
}

/// Exit code as shells show it, and the signal that killed it.
pub(crate) fn exit_code(status: i32) -> (i32, Option<i32>) {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        return (128 + signal, Some(signal));
    }
    (libc::WEXITSTATUS(status), None)
}

/// Installs a system call filter; `no_new_privs` must be set.
pub(crate) fn install_filter(program: &[u64]) -> io::Result<()> {
    let mut instructions: Vec<libc::sock_filter> = program
        .iter()
        .map(|packed| {
            let [_, _, _, _, jf, jt, ..] = packed.to_le_bytes();
            let [.., low, high] = packed.to_le_bytes();
            let [a, b, c, d, ..] = packed.to_le_bytes();
            libc::sock_filter {
                code: u16::from_le_bytes([low, high]),
                jt,
                jf,
                k: u32::from_le_bytes([a, b, c, d]),
            }
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(io::Error::other)?,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: `program` points to `len` instructions that outlive the call; the kernel copies them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })?;
    Ok(())
}

/// Replaces the program; returns only when it could not.
pub(crate) fn execve(path: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let ends = |strings: &[CString]| {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (argv, env) = (ends(argv), ends(env));
    // SAFETY: arrays of C strings, each ended by a null pointer, all alive during the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Brings `lo` up in the network namespace of this thread.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a zeroed ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).unwrap_or(0);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    check(libc::c_long::from(result))?;
    Ok(())
}
