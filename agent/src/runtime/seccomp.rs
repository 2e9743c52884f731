//! The system call filter of every container.
//!
//! In: the lists of `syscalls`. Out: two BPF programs, compiled once an agent; shims install them, the first first.
//! A call that is not allowed fails with EPERM; one that is newer than our lists, and `clone3`, whose flags a filter
//! cannot read, with ENOSYS, because that is what makes libraries fall back.

use super::RuntimeError;
use super::syscalls::{ALLOWED, ALLOWED_HERE, NEWEST};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;

/// `CLONE_NEW*` flags of clone(2): a container makes no namespaces.
const NAMESPACES: u64 = 0x7e02_0000;
/// Personalities that only change how memory and names look.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

/// The programs, in the order they are installed: the kernel asks the last first.
pub(super) fn programs() -> Result<Vec<Vec<u64>>, RuntimeError> {
    let refused = |error: seccompiler::BackendError| RuntimeError::Seccomp(error.to_string());
    let main: BpfProgram = filter().and_then(TryInto::try_into).map_err(refused)?;
    let main = main.iter().map(|i| pack(i.code, i.jt, i.jf, i.k)).collect();
    Ok(vec![main, fallbacks()])
}

fn filter() -> Result<SeccompFilter, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let when = SeccompCondition::new;
    let all = SeccompRule::new;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in ALLOWED.iter().chain(ALLOWED_HERE) {
        rules.insert(*call, Vec::new());
    }
    let flags = if cfg!(target_arch = "s390x") { 1 } else { 0 };
    rules.insert(libc::SYS_clone, vec![all(vec![when(flags, Qword, MaskedEq(NAMESPACES), 0)?])?]);
    let mut sockets = Vec::new();
    for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
        sockets.push(all(vec![when(0, Dword, Eq, family.unsigned_abs().into())?])?);
    }
    // Addresses and routes are read over netlink; its other families are kernel surface nobody needs.
    let netlink = libc::AF_NETLINK.unsigned_abs().into();
    let route = libc::NETLINK_ROUTE.unsigned_abs().into();
    sockets.push(all(vec![when(0, Dword, Eq, netlink)?, when(2, Dword, Eq, route)?])?);
    rules.insert(libc::SYS_socket, sockets);
    let unix = libc::AF_UNIX.unsigned_abs().into();
    rules.insert(libc::SYS_socketpair, vec![all(vec![when(0, Dword, Eq, unix)?])?]);
    let mut personalities = Vec::new();
    for personality in PERSONALITIES {
        personalities.push(all(vec![when(0, Dword, Eq, personality)?])?);
    }
    rules.insert(libc::SYS_personality, personalities);
    // Nobody types into another's terminal.
    let harmless = all(vec![when(1, Dword, Ne, TIOCSTI)?, when(1, Dword, Ne, TIOCLINUX)?])?;
    rules.insert(libc::SYS_ioctl, vec![harmless]);
    SeccompFilter::new(rules, SeccompAction::Errno(EPERM), SeccompAction::Allow, arch())
}

const EPERM: u32 = libc::EPERM.unsigned_abs();
const ENOSYS: u32 = libc::ENOSYS.unsigned_abs();
const EPROTONOSUPPORT: u32 = libc::EPROTONOSUPPORT.unsigned_abs();

#[cfg(target_arch = "x86_64")]
fn arch() -> TargetArch {
    TargetArch::x86_64
}
#[cfg(target_arch = "aarch64")]
fn arch() -> TargetArch {
    TargetArch::aarch64
}

/// `if number > NEWEST or number == clone3 → ENOSYS`, also for x32 calls, whose numbers begin at 2^30. A netlink socket
/// that is not for routes fails as on a kernel without that family: `useradd` takes EPERM for a broken audit system and
/// gives up, but goes on when there is none.
fn fallbacks() -> Vec<u64> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
    const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const NUMBER_OFFSET: u32 = 0; // seccomp_data.nr
    const CLONE3: u32 = 435; // the same everywhere
    #[expect(clippy::cast_possible_truncation, reason = "call numbers are small and positive")]
    const SOCKET: u32 = libc::SYS_socket as u32;
    const FAMILY_OFFSET: u32 = 16; // seccomp_data.args[0], its low half
    const PROTOCOL_OFFSET: u32 = 32; // seccomp_data.args[2], its low half
    // Jumps are counted from the next instruction: to `allow` (9) or to `not there` (10).
    vec![
        pack(LOAD, 0, 0, NUMBER_OFFSET),
        pack(IF_GREATER, 8, 0, NEWEST),
        pack(IF_EQUAL, 7, 0, CLONE3),
        pack(IF_EQUAL, 0, 5, SOCKET),
        pack(LOAD, 0, 0, FAMILY_OFFSET),
        pack(IF_EQUAL, 0, 3, libc::AF_NETLINK.unsigned_abs()),
        pack(LOAD, 0, 0, PROTOCOL_OFFSET),
        pack(IF_EQUAL, 1, 0, libc::NETLINK_ROUTE.unsigned_abs()),
        pack(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | EPROTONOSUPPORT),
        pack(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        pack(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | ENOSYS),
    ]
}

fn pack(code: u16, jt: u8, jf: u8, k: u32) -> u64 {
    u64::from(code) << 48 | u64::from(jt) << 40 | u64::from(jf) << 32 | u64::from(k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_and_fits_the_kernel() {
        let programs = programs().expect("compiles");
        assert!(programs.iter().all(|program| program.len() <= 4096));
    }

    #[test]
    fn dangerous_calls_are_not_listed() {
        let dangerous = [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_open_by_handle_at,
            libc::SYS_pivot_root,
            libc::SYS_fsopen,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            libc::SYS_swapon,
            libc::SYS_settimeofday,
            libc::SYS_clone3,
            libc::SYS_quotactl,
            libc::SYS_acct,
            libc::SYS_syslog,
            libc::SYS_vhangup,
            libc::SYS_kcmp,
            libc::SYS_clone,
            libc::SYS_socket,
            libc::SYS_personality,
            libc::SYS_ioctl,
        ];
        for call in dangerous {
            assert!(!ALLOWED.contains(&call) && !ALLOWED_HERE.contains(&call), "call {call} is allowed");
        }
    }
}
