//! Limits: one cgroup per container, in cgroup v2 or in each hierarchy of v1.
//!
//! In: limits. Out: files a shim writes process ids to, counters, kills. Everything is below one root of our own,
//! `berth_<instance>`; cgroups of others are never touched. Detected: a cgroup2 file system with the memory
//! controller is v2, anything else is v1 per controller (a hybrid machine's cgroup2 has no controllers to give).

use super::{RuntimeError, Stats};
use berth_model::container::{IoLimits, Limits};
use berth_shim::protocol::Cgroup;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killed processes may take to leave their cgroup.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);
/// v1 hierarchies we use, when they are there; the first two must be.
const V1_CONTROLLERS: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "blkio"];

/// This machine's cgroups, as far as they are ours.
#[derive(Clone, Debug)]
pub(super) struct Cgroups {
    kind: Kind,
    /// v2: one; v1: one per distinct hierarchy.
    roots: Vec<Root>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    V1,
    V2,
}

#[derive(Clone, Debug)]
struct Root {
    controllers: Vec<String>,
    dir: PathBuf,
}

/// One container's cgroup.
#[derive(Clone, Debug)]
pub(super) struct Group {
    kind: Kind,
    dirs: Vec<Root>,
}

impl Cgroups {
    /// Finds the hierarchies and makes the root of this instance.
    pub(super) fn open(instance: &str) -> Result<Self, RuntimeError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(RuntimeError::file("read", "/proc/self/mountinfo"))?;
        let name = format!("berth_{instance}");
        let v2 =
            mount_of(&mounts, "cgroup2", None).filter(|at| controllers(at).iter().any(|c| c == "memory"));
        match v2 {
            Some(mount) => Self::open_v2(&mount, &name),
            None => Self::open_v1(&mounts, &name),
        }
    }

    fn open_v2(mount: &Path, name: &str) -> Result<Self, RuntimeError> {
        // At the top, beside what a service manager makes for itself: containers outlive the agent, and systemd cannot
        // start it again in a cgroup that has children with controllers (cgroups(7), "no internal processes"). Our own
        // children have the controllers enabled, so nobody can take them away from above.
        let at_top = Self::open_v2_below(mount, name, false);
        if at_top.is_ok() {
            return at_top;
        }
        // Not ours to write, as in a container: a subtree that was given to us, from a leaf of it.
        let delegated = own_v2_cgroup(mount).and_then(|own| {
            let base = if own.file_name().is_some_and(|leaf| leaf == "agent") {
                own.parent()?.to_owned()
            } else {
                own
            };
            is_delegated(&base).then_some(base)
        });
        match delegated {
            Some(base) => Self::open_v2_below(&base, name, true),
            None => at_top,
        }
    }

    fn open_v2_below(base: &Path, name: &str, move_self: bool) -> Result<Self, RuntimeError> {
        if move_self {
            let leaf = base.join("agent");
            make(&leaf)?;
            write(&leaf, "cgroup.procs", &std::process::id().to_string())?;
        }
        let root = base.join(name);
        enable(base)?;
        make(&root)?;
        make(&root.join("shims"))?;
        let all = root.join("c");
        make(&all)?;
        enable(&root)?;
        enable(&all)?;
        Ok(Self { kind: Kind::V2, roots: vec![Root { controllers: controllers(&all), dir: all }] })
    }

    fn open_v1(mounts: &str, name: &str) -> Result<Self, RuntimeError> {
        let mut roots: Vec<Root> = Vec::new();
        for controller in V1_CONTROLLERS {
            let Some(mount) = mount_of(mounts, "cgroup", Some(controller)) else { continue };
            let dir = mount.join(name).join("c");
            match roots.iter_mut().find(|root| root.dir == dir) {
                Some(root) => root.controllers.push(controller.to_owned()), // cpu,cpuacct mounted together
                None => roots.push(Root { controllers: vec![controller.to_owned()], dir }),
            }
        }
        for needed in &V1_CONTROLLERS[..2] {
            if !roots.iter().any(|root| root.controllers.iter().any(|c| c == needed)) {
                return Err(RuntimeError::Cgroup(format!(
                    "no cgroup hierarchy has the {needed} controller; mount cgroup2 on /sys/fs/cgroup, or cgroup v1"
                )));
            }
        }
        // Only limits of io need it, and they say so if it is not to be had.
        roots.retain(|root| {
            let base = root.dir.parent().unwrap_or(&root.dir);
            let had = root.controllers.iter().any(|c| c != "blkio") || make(base).is_ok();
            if !had {
                tracing::warn!(dir = %base.display(), "disk traffic cannot be limited: no cgroup can be made there");
            }
            had
        });
        for root in &roots {
            let base = root.dir.parent().unwrap_or(&root.dir);
            make(base)?;
            if root.controllers.iter().any(|c| c == "memory") {
                let _ = write(base, "memory.use_hierarchy", "1"); // gone, and always so, since 5.11
            }
            make(&root.dir)?;
        }
        Ok(Self { kind: Kind::V1, roots })
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.kind {
            Kind::V1 => "v1",
            Kind::V2 => "v2",
        }
    }

    /// The cgroup of a container, whether it exists or not.
    pub(super) fn group(&self, id: &str) -> Group {
        let dirs = self.roots.iter().map(|root| Root { dir: root.dir.join(id), ..root.clone() }).collect();
        Group { kind: self.kind, dirs }
    }

    /// Makes the cgroup of a container and sets its limits. `disks` are the `major:minor` that limits of io are about.
    pub(super) fn create(&self, id: &str, limits: &Limits, disks: &[String]) -> Result<Group, RuntimeError> {
        let group = self.group(id);
        for root in &group.dirs {
            make(&root.dir)?;
        }
        let limited = match self.kind {
            Kind::V1 => group.limit_v1(limits, disks),
            Kind::V2 => group.limit_v2(limits, disks),
        };
        if let Err(error) = limited {
            group.kill_and_remove();
            return Err(error);
        }
        Ok(group)
    }

    /// Ids that have a cgroup.
    pub(super) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.roots.iter().flat_map(|root| children(&root.dir)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Removes the root of this instance as far as it is empty.
    pub(super) fn remove_root(&self) {
        for root in &self.roots {
            let Some(base) = root.dir.parent() else { continue };
            for dir in [&root.dir, &base.join("shims"), base] {
                let _ = fs::remove_dir(dir); // still in use, or never made (v1 has no shims): it stays
            }
        }
    }
}

impl Group {
    fn limit_v2(&self, limits: &Limits, disks: &[String]) -> Result<(), RuntimeError> {
        let dir = self.dir("memory")?;
        let word = |value: Option<u64>| value.map_or_else(|| "max".to_owned(), |number| number.to_string());
        write(dir, "memory.max", &word(limits.memory_mib.map(mib)))?;
        let swap = mib(swap_mib(limits)).to_string();
        let _ = write(dir, "memory.swap.max", &swap); // no such file without swap accounting
        write(dir, "memory.oom.group", "1")?;
        write(dir, "pids.max", &word(limits.pids))?;
        let quota = limits.cpu_millis.map(|millis| (millis * 100).max(1000));
        write(dir, "cpu.max", &format!("{} 100000", word(quota)))?;
        write(dir, "cpu.weight", &limits.cpu_weight.clamp(1, 10_000).to_string())?;
        for disk in disks {
            write(self.dir("io")?, "io.max", &io_max(disk, &limits.io))?;
        }
        Ok(())
    }

    fn limit_v1(&self, limits: &Limits, disks: &[String]) -> Result<(), RuntimeError> {
        let memory = self.dir("memory")?;
        if let Some(limit) = limits.memory_mib {
            let bytes = mib(limit).to_string();
            write(memory, "memory.limit_in_bytes", &bytes)?;
            // Memory and swap together; without swap accounting, do not swap.
            let both = mib(limit.saturating_add(swap_mib(limits))).to_string();
            if write(memory, "memory.memsw.limit_in_bytes", &both).is_err() {
                let _ = write(memory, "memory.swappiness", "0");
            }
        }
        if let Some(pids) = limits.pids {
            write(self.dir("pids")?, "pids.max", &pids.to_string())?;
        }
        if let Ok(cpu) = self.dir("cpu") {
            let shares = (limits.cpu_weight * 1024 / 100).clamp(2, 262_144);
            write(cpu, "cpu.shares", &shares.to_string())?;
            if let Some(millis) = limits.cpu_millis {
                write(cpu, "cpu.cfs_period_us", "100000")?;
                write(cpu, "cpu.cfs_quota_us", &(millis * 100).max(1000).to_string())?;
            }
        }
        for disk in disks {
            let blkio = self.dir("blkio")?;
            for (file, limit) in [
                ("read_bps", limits.io.read_bps),
                ("write_bps", limits.io.write_bps),
                ("read_iops", limits.io.read_iops),
                ("write_iops", limits.io.write_iops),
            ] {
                if let Some(limit) = limit {
                    let file = format!("blkio.throttle.{file}_device");
                    write(blkio, &file, &format!("{disk} {limit}"))?;
                }
            }
        }
        Ok(())
    }

    /// Where a shim puts the container and itself: it must be neither in the container's cgroup nor, in v2, in the
    /// agent's, which a service manager may kill whole.
    pub(super) fn join(&self) -> Cgroup {
        let mut dirs: Vec<PathBuf> = self.dirs.iter().map(|root| root.dir.clone()).collect();
        match (self.kind, dirs.pop()) {
            (Kind::V2, Some(container)) => {
                let root = container.ancestors().nth(2).unwrap_or(&container);
                Cgroup::V2 { shims: root.join("shims"), container }
            }
            (_, last) => {
                dirs.extend(last);
                Cgroup::V1(dirs)
            }
        }
    }

    /// Where kills for memory are counted, as `oom_kill N`.
    pub(super) fn oom_events(&self) -> Option<PathBuf> {
        let file = match self.kind {
            Kind::V1 => "memory.oom_control",
            Kind::V2 => "memory.events",
        };
        Some(self.dir("memory").ok()?.join(file))
    }

    /// Kills every process in it.
    pub(super) fn kill(&self) {
        if self.kind == Kind::V2 {
            let Some(root) = self.dirs.first() else { return };
            if write(&root.dir, "cgroup.kill", "1").is_ok() {
                return;
            }
        }
        // v1, or v2 before 5.14: until a pass finds none. Bounded by pids.max, and the first is pid 1 of its namespace.
        for root in &self.dirs {
            for _ in 0..64 {
                let pids = pids_of(&root.dir);
                if pids.is_empty() {
                    break;
                }
                for pid in pids {
                    let _ =
                        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
                }
            }
        }
    }

    /// Kills what is in it, waits for its end and removes it. A cgroup that will not go is left for the next try.
    pub(super) fn kill_and_remove(&self) {
        if self.dirs.iter().all(|root| !root.dir.exists()) {
            return;
        }
        self.kill();
        let begun = Instant::now();
        // rmdir is EBUSY until the kernel has reaped the last process, which no file of v1 tells: ask, ever less often.
        let mut pause = Duration::from_micros(200);
        loop {
            let left = self.dirs.iter().filter(|root| match fs::remove_dir(&root.dir) {
                Ok(()) => false,
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            });
            if left.count() == 0 {
                return;
            }
            if begun.elapsed() > EMPTY_WITHIN {
                tracing::warn!(cgroup = %self.dirs[0].dir.display(), "a cgroup does not become empty; left for later");
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
            self.kill();
        }
    }

    /// Usage counters.
    pub(super) fn stats(&self) -> Result<Stats, RuntimeError> {
        let memory = self.dir("memory")?;
        let pids = number(self.dir("pids")?, "pids.current")?;
        let oom_kills = self.oom_events().map_or(0, |path| keyed(&path, "oom_kill"));
        Ok(match self.kind {
            Kind::V2 => Stats {
                memory_bytes: number(memory, "memory.current")?
                    .saturating_sub(keyed(&memory.join("memory.stat"), "inactive_file")),
                memory_limit_bytes: number(memory, "memory.max").ok(),
                cpu_us: keyed(&memory.join("cpu.stat"), "usage_usec"),
                pids,
                oom_kills,
                io_bytes: self.io_bytes(),
            },
            Kind::V1 => Stats {
                memory_bytes: number(memory, "memory.usage_in_bytes")?
                    .saturating_sub(keyed(&memory.join("memory.stat"), "total_inactive_file")),
                memory_limit_bytes: number(memory, "memory.limit_in_bytes")
                    .ok()
                    .filter(|limit| *limit < 1 << 62),
                cpu_us: self.dir("cpuacct").and_then(|dir| number(dir, "cpuacct.usage")).unwrap_or(0) / 1000,
                pids,
                oom_kills,
                io_bytes: self.io_bytes(),
            },
        })
    }

    /// `MAJ:MIN rbytes=N wbytes=N …` a device in v2 (cgroup-v2, "IO Interface Files"), `MAJ:MIN Read N` in v1.
    fn io_bytes(&self) -> Option<(u64, u64)> {
        let text = match self.kind {
            Kind::V2 => fs::read_to_string(self.dirs.first()?.dir.join("io.stat")).ok()?,
            Kind::V1 => {
                fs::read_to_string(self.dir("blkio").ok()?.join("blkio.throttle.io_service_bytes")).ok()?
            }
        };
        Some(io_bytes_of(&text))
    }

    fn dir(&self, controller: &str) -> Result<&Path, RuntimeError> {
        let has = |root: &&Root| root.controllers.iter().any(|c| c == controller);
        let found = self.dirs.iter().find(has);
        found.map(|root| root.dir.as_path()).ok_or_else(|| {
            RuntimeError::Cgroup(format!("the {controller} controller is not available in our cgroups"))
        })
    }
}

/// Swap a container may use beside its memory, in MiB.
fn swap_mib(limits: &Limits) -> u64 {
    let both = limits.memory_swap_mib.unwrap_or(0);
    both.saturating_sub(limits.memory_mib.unwrap_or(both))
}

/// One line of `io.max` (cgroup-v2.rst, "IO Interface Files").
fn io_max(disk: &str, io: &IoLimits) -> String {
    let word = |limit: Option<u64>| limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
    let IoLimits { read_bps, write_bps, read_iops, write_iops } = *io;
    format!(
        "{disk} rbps={} wbps={} riops={} wiops={}",
        word(read_bps),
        word(write_bps),
        word(read_iops),
        word(write_iops)
    )
}

fn io_bytes_of(text: &str) -> (u64, u64) {
    let (mut read, mut written) = (0_u64, 0_u64);
    for line in text.lines() {
        let mut words = line.split_whitespace().skip(1);
        while let Some(word) = words.next() {
            let (sum, number) = match word.split_once('=') {
                Some(("rbytes", number)) => (&mut read, number),
                Some(("wbytes", number)) => (&mut written, number),
                None if word == "Read" => (&mut read, words.next().unwrap_or_default()),
                None if word == "Write" => (&mut written, words.next().unwrap_or_default()),
                _ => continue,
            };
            *sum = sum.saturating_add(number.parse().unwrap_or(0));
        }
    }
    (read, written)
}

fn mib(count: u64) -> u64 {
    count.saturating_mul(1024 * 1024)
}

fn make(dir: &Path) -> Result<(), RuntimeError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(RuntimeError::file("make", dir)(error))
        }
        _ => Ok(()),
    }
}

fn write(dir: &Path, file: &str, value: &str) -> Result<(), RuntimeError> {
    let path = dir.join(file);
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut to| io::Write::write_all(&mut to, value.as_bytes()))
        .map_err(RuntimeError::file("write", path))
}

fn enable(dir: &Path) -> Result<(), RuntimeError> {
    let there = controllers(dir);
    for controller in ["memory", "pids", "cpu", "io"] {
        if there.iter().any(|c| c == controller) {
            let enabled = write(dir, "cgroup.subtree_control", &format!("+{controller}"));
            if controller != "io" {
                enabled?; // without io all else works; limits of io say that it is missing
            }
        }
    }
    Ok(())
}

fn controllers(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Where a cgroup file system is mounted: of this type and, for v1, with this controller.
fn mount_of(mountinfo: &str, kind: &str, controller: Option<&str>) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (fstype, _source, options) = (after.next()?, after.next()?, after.next()?);
        let right = fstype == kind && controller.is_none_or(|c| options.split(',').any(|option| option == c));
        right.then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}

fn own_v2_cgroup(mount: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount.join(own))
}

/// systemd marks subtrees it gave away.
fn is_delegated(dir: &Path) -> bool {
    ["trusted.delegate", "user.delegate"]
        .iter()
        .any(|name| matches!(xattr::get(dir, name), Ok(Some(value)) if value == b"1"))
}

fn children(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn pids_of(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn number(dir: &Path, file: &str) -> Result<u64, RuntimeError> {
    let path = dir.join(file);
    let text = fs::read_to_string(&path).map_err(RuntimeError::file("read", &path))?;
    text.trim().parse().map_err(|_| {
        RuntimeError::file("understand", &path)(io::Error::new(
            io::ErrorKind::InvalidData,
            text.trim().to_owned(),
        ))
    })
}

/// The number after `key` in a file of lines `key number`; 0 when there is none.
fn keyed(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_what_both_have_above_memory() {
        let limits =
            |memory_mib, memory_swap_mib| Limits { memory_mib, memory_swap_mib, ..Limits::default() };
        assert_eq!(swap_mib(&limits(Some(512), None)), 0);
        assert_eq!(swap_mib(&limits(Some(512), Some(512))), 0);
        assert_eq!(swap_mib(&limits(Some(512), Some(768))), 256);
        assert_eq!(swap_mib(&limits(None, Some(768))), 0);
    }

    #[test]
    fn io_limits_are_one_line() {
        let io = IoLimits { read_bps: Some(1_000_000), write_iops: Some(50), ..IoLimits::default() };
        assert_eq!(io_max("8:0", &io), "8:0 rbps=1000000 wbps=max riops=max wiops=50");
    }

    #[test]
    fn hierarchies_are_found_in_mountinfo() {
        let hybrid = "30 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            31 20 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            32 20 0:28 / /sys/fs/cgroup/memory rw shared:7 - cgroup cgroup rw,memory\n";
        assert_eq!(mount_of(hybrid, "cgroup", Some("cpuacct")), Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(mount_of(hybrid, "cgroup", Some("memory")), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(mount_of(hybrid, "cgroup", Some("pids")), None);
        assert_eq!(mount_of(hybrid, "cgroup2", None), Some("/sys/fs/cgroup/unified".into()));
    }
}
