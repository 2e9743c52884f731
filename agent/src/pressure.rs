//! What this machine is short of. It says so, and gets no new work until it is over. And what work on it waits for.
//!
//! In: free space and memory, the kernel's pressure. Out: a [`Pressure`], [`Stalls`]. [`judge`] is pure; it ends a little above
//! where it begins, so that a disk at the limit does not come and go.

use berth_model::node::{Averages, Pressure, Stall, Stalls};
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

/// What the kernel counts; one without PSI, or with `psi=0`, counts nothing.
pub(crate) fn stalls() -> Stalls {
    let read = |name: &str| stall(&std::fs::read_to_string(format!("/proc/pressure/{name}")).ok()?);
    Stalls { cpu: read("cpu"), memory: read("memory"), io: read("io") }
}

/// The lines of a file of `/proc/pressure`.
fn stall(text: &str) -> Option<Stall> {
    let line = |kind: &str| text.lines().find_map(|line| line.strip_prefix(kind)).and_then(averages);
    Some(Stall { some: line("some ")?, full: line("full ") })
}

/// `avg10=1.53 avg60=0.40 avg300=0.08 total=…`: percents with two decimals.
fn averages(text: &str) -> Option<Averages> {
    let share = |name: &str| -> Option<u16> {
        let value = text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
        let (whole, part) = value.split_once('.').filter(|(_, part)| part.len() == 2)?;
        let hundredths = whole.parse::<u16>().ok()?.checked_mul(100)?.checked_add(part.parse().ok()?)?;
        Some(hundredths.min(10_000))
    };
    Some(Averages { avg10: share("avg10")?, avg60: share("avg60")?, avg300: share("avg300")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_pressure_is_read_in_hundredths_of_a_percent() {
        let some = Averages { avg10: 5579, avg60: 40, avg300: 10_000 };
        let text = "some avg10=55.79 avg60=0.40 avg300=100.00 total=3445415784\n";
        assert_eq!(stall(text), Some(Stall { some, full: None }), "CPUs, before Linux 5.13");
        let both = format!("{text}full avg10=0.00 avg60=0.08 avg300=1.00 total=65227\n");
        let full = Some(Averages { avg10: 0, avg60: 8, avg300: 100 });
        assert_eq!(stall(&both), Some(Stall { some, full }));
        for odd in [
            "",
            "some",
            "some avg10=1.5 avg60=0.40 avg300=0.00",
            "some avg10=x.00 avg60=0.00 avg300=0.00",
            "some avg10=0.00",
        ] {
            assert_eq!(stall(odd), None, "{odd}");
        }
    }

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
