//! Each host's part of the machine's cgroups: children of one cgroup of the bed, in v2 or in each hierarchy of v1.
//!
//! In: `/proc/self/mountinfo`. Out: directories that a host's first process is put into before it gets a cgroup namespace,
//! so that it sees its own part as the whole. A host is paused by the freezer, all of it at once.

use crate::platform::until;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What Berth uses of v1, and the freezer.
const V1: [&str; 6] = ["memory", "pids", "cpu", "cpuacct", "blkio", "freezer"];
/// What Berth uses of v2.
const V2: &str = "+cpu +memory +pids +io";

/// One hierarchy.
#[derive(Clone, Debug)]
struct Hierarchy {
    /// Where it is mounted.
    mount: PathBuf,
    /// `None` is v2.
    controllers: Option<Vec<String>>,
}

/// The hierarchies that matter, from the text of `/proc/self/mountinfo` (proc(5)).
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mount = PathBuf::from(before.split(' ').nth(4)?);
        let mut after = after.split(' ');
        Some((mount, after.next()?, after.nth(1)?))
    });
    let (mut v1, mut v2) = (Vec::<Hierarchy>::new(), None);
    for (mount, kind, options) in mounts {
        match kind {
            "cgroup2" => v2 = v2.or(Some(mount)),
            "cgroup" => {
                let named = options.split(',').filter(|option| V1.contains(option));
                let controllers: Vec<_> = named.map(str::to_owned).collect();
                let known = v1.iter().any(|other| other.controllers.as_ref() == Some(&controllers));
                if !controllers.is_empty() && !known {
                    v1.push(Hierarchy { mount, controllers: Some(controllers) });
                }
            }
            _ => {}
        }
    }
    let only_v2 = v1.is_empty().then_some(v2).flatten();
    v1.extend(only_v2.map(|mount| Hierarchy { mount, controllers: None }));
    v1
}

/// The cgroups of a bed; removed when dropped.
#[derive(Debug)]
pub(super) struct Area {
    hierarchies: Vec<Hierarchy>,
    name: String,
}

impl Area {
    pub(super) fn new(name: &str) -> Result<Self> {
        let hierarchies = hierarchies(&fs::read_to_string("/proc/self/mountinfo")?);
        ensure!(!hierarchies.is_empty(), "no cgroup hierarchy is mounted");
        let area = Self { hierarchies, name: name.to_owned() };
        for hierarchy in &area.hierarchies {
            let dir = hierarchy.mount.join(name);
            fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
            if hierarchy.controllers.is_none() {
                fs::write(dir.join("cgroup.subtree_control"), V2)
                    .context("giving the bed its controllers")?;
            }
        }
        Ok(area)
    }

    pub(super) fn group(&self, host: &str) -> Group {
        let path = Path::new(&self.name).join(host);
        Group { hierarchies: self.hierarchies.clone(), path }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        for hierarchy in &self.hierarchies {
            remove(&hierarchy.mount.join(&self.name));
        }
    }
}

/// The cgroups of one host.
#[derive(Clone, Debug)]
pub(super) struct Group {
    hierarchies: Vec<Hierarchy>,
    path: PathBuf,
}

impl Group {
    /// Makes them.
    pub(super) fn make(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.mount.join(&self.path);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            if hierarchy.controllers.is_none() {
                fs::create_dir_all(dir.join("init"))?;
            }
        }
        Ok(())
    }

    fn dirs(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.hierarchies.iter().map(|hierarchy| (hierarchy, hierarchy.mount.join(&self.path)))
    }

    /// Files by which the first process gets in: where its cgroup namespace begins.
    pub(super) fn roots(&self) -> Vec<PathBuf> {
        self.dirs().map(|(_, dir)| dir.join("cgroup.procs")).collect()
    }

    /// Files by which later ones do: v2 wants processes in leaves only (cgroups(7)).
    pub(super) fn leaves(&self) -> Vec<PathBuf> {
        let leaf = |(hierarchy, dir): (&Hierarchy, PathBuf)| match hierarchy.controllers {
            None => dir.join("init/cgroup.procs"),
            Some(_) => dir.join("cgroup.procs"),
        };
        self.dirs().map(leaf).collect()
    }

    /// Shell commands that mount the host's own view at `/sys/fs/cgroup`.
    pub(super) fn mounts(&self) -> String {
        let mut script = String::new();
        if self.hierarchies.iter().any(|hierarchy| hierarchy.controllers.is_none()) {
            script.push_str(
                "mount -t cgroup2 cgroup2 /sys/fs/cgroup\necho $$ > /sys/fs/cgroup/init/cgroup.procs\n",
            );
        } else {
            script.push_str("mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup\n");
        }
        for controllers in self.hierarchies.iter().filter_map(|hierarchy| hierarchy.controllers.as_ref()) {
            let names = controllers.join(",");
            script.push_str(&format!(
                "mkdir /sys/fs/cgroup/{names}\nmount -t cgroup -o {names} cgroup /sys/fs/cgroup/{names}\n"
            ));
        }
        script
    }

    /// Stops every process where it is, or lets all go on.
    pub(super) fn freeze(&self, frozen: bool) -> Result<()> {
        let freezer = self.dirs().find(|(hierarchy, _)| {
            let has = |controllers: &Vec<String>| controllers.iter().any(|name| name == "freezer");
            hierarchy.controllers.as_ref().is_none_or(has)
        });
        let (hierarchy, dir) = freezer.context("no cgroup hierarchy has a freezer")?;
        let (file, word) = match (&hierarchy.controllers, frozen) {
            (Some(_), true) => ("freezer.state", "FROZEN"),
            (Some(_), false) => ("freezer.state", "THAWED"),
            (None, true) => ("cgroup.freeze", "1"),
            (None, false) => ("cgroup.freeze", "0"),
        };
        fs::write(dir.join(file), word).with_context(|| format!("writing {word} to {}", dir.display()))?;
        until(Duration::from_secs(10), "the freezer", || {
            let (file, wanted) = match hierarchy.controllers {
                Some(_) => (file, word.to_owned()),
                None => ("cgroup.events", format!("frozen {}", u8::from(frozen))),
            };
            let said = fs::read_to_string(dir.join(file))?;
            ensure!(said.contains(&wanted), "{said}");
            Ok(())
        })
    }

    /// Removes them, once nobody is left inside.
    pub(super) fn remove(&self) -> Result<()> {
        until(Duration::from_secs(20), "the cgroups of a host that is off to be empty", || {
            for (_, dir) in self.dirs() {
                remove(&dir);
                ensure!(!dir.exists(), "{} is in use", dir.display());
            }
            Ok(())
        })
    }
}

/// Removes a cgroup and all below it, as far as they are empty.
pub(super) fn remove(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&entry.path());
    }
    let _ = fs::remove_dir(dir); // in use: it stays
}

/// Where the hierarchies are mounted.
pub(super) fn mounts() -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    hierarchies(&mountinfo).into_iter().map(|hierarchy| hierarchy.mount).collect()
}
