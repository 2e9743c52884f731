//! What this machine is short of. It says so, and gets no new work until it is over.
//!
//! In: free space and memory. Out: a [`Pressure`]. [`judge`] is pure; it ends a little above where it begins, so that a disk at
//! the limit does not come and go.

use berth_model::node::Pressure;
use std::path::Path;

/// Least that is to be free of a disk, unless said, in MiB; or a twentieth of it, if that is more.
const LEAST_DISK_MIB: u64 = 1024;
/// And more than this is not asked for, in MiB: a twentieth of a big disk is a lot.
const MOST_DISK_MIB: u64 = 4096;

/// What there is, in MiB. A total of 0 says that it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) disk_total: u64,
    pub(crate) disk_free: u64,
    pub(crate) memory_total: u64,
    pub(crate) memory_available: u64,
}

/// Reads them: of the file system that holds `data`, and of `/proc/meminfo` (proc(5)).
pub(crate) fn facts(data: &Path) -> Facts {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mib = |name: &str| {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name));
        let kib = rest.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kib.unwrap_or(0) / 1024
    };
    let disk = rustix::fs::statvfs(data).ok();
    let of = |blocks: u64, size: u64| blocks.saturating_mul(size) >> 20;
    Facts {
        disk_total: disk.as_ref().map_or(0, |disk| of(disk.f_blocks, disk.f_frsize)),
        disk_free: disk.as_ref().map_or(0, |disk| of(disk.f_bavail, disk.f_frsize)),
        memory_total: mib("MemTotal:"),
        memory_available: mib("MemAvailable:"),
    }
}

/// What it is short of, given what it was short of before. `keep_free_mib`: how much of the disk is to be free, where that was
/// said. Of memory a twentieth is to be available.
pub(crate) fn judge(before: Pressure, facts: Facts, keep_free_mib: Option<u64>) -> Pressure {
    let disk = keep_free_mib.unwrap_or_else(|| (facts.disk_total / 20).clamp(LEAST_DISK_MIB, MOST_DISK_MIB));
    let short = |was: bool, total: u64, free: u64, limit: u64| {
        let limit = if was { limit.saturating_add(limit / 4) } else { limit };
        total > 0 && free < limit
    };
    Pressure {
        disk: short(before.disk, facts.disk_total, facts.disk_free, disk),
        memory: short(before.memory, facts.memory_total, facts.memory_available, facts.memory_total / 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(free: u64) -> Facts {
        Facts { disk_total: 60_000, disk_free: free, memory_total: 1000, memory_available: 500 }
    }

    #[test]
    fn a_disk_is_short_below_a_twentieth_and_until_a_quarter_more_is_free() {
        let none = Pressure::default();
        assert!(!judge(none, disk(3000), None).disk);
        let short = judge(none, disk(2999), None);
        assert!(short.disk && !short.memory);
        assert!(judge(short, disk(3749), None).disk, "a little more is not enough");
        assert!(!judge(short, disk(3750), None).disk);
        let big = Facts { disk_total: 1 << 20, disk_free: 4096, ..disk(0) };
        assert!(!judge(none, big, None).disk, "no more than 4 GiB");
    }

    #[test]
    fn a_small_disk_keeps_a_gibibyte_and_who_said_a_number_gets_it() {
        let small = Facts { disk_total: 4000, disk_free: 1023, ..disk(0) };
        assert!(judge(Pressure::default(), small, None).disk);
        assert!(!judge(Pressure::default(), small, Some(100)).disk);
        assert!(!judge(Pressure::default(), small, Some(0)).disk, "0 is: never");
    }

    #[test]
    fn memory_is_short_below_a_twentieth_and_what_is_not_known_is_not_short() {
        let facts = Facts { memory_available: 49, ..disk(50_000) };
        assert!(judge(Pressure::default(), facts, None).memory);
        assert_eq!(judge(Pressure::default(), Facts::default(), None), Pressure::default());
    }
}
