//! What one platform holds of the kernel and the disk, by the names it gives everything.

use crate::platform::Berth;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Names of things that belong to one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Lines of the host's mount table.
    pub mounts: BTreeSet<String>,
    /// Network links.
    pub links: BTreeSet<String>,
    /// cgroup directories, two levels below the instance's own.
    pub cgroups: BTreeSet<String>,
    /// Directories of containers.
    pub containers: BTreeSet<String>,
    /// Elements and rules of the instance's nftables table, without handles.
    pub nft: BTreeSet<String>,
    /// Container supervisors that run.
    pub shims: BTreeSet<u32>,
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn walk(directory: &Path, depth: usize, into: &mut BTreeSet<String>) {
    for name in names(directory) {
        let path = directory.join(&name);
        if path.is_dir() {
            into.insert(path.display().to_string());
            if depth > 1 {
                walk(&path, depth - 1, into);
            }
        }
    }
}

impl Census {
    /// Counts what `berth` holds now.
    pub fn take(berth: &Berth) -> Result<Self> {
        let data = berth.data_dir();
        let instance = std::fs::read_to_string(data.join("instance")).context("reading DIR/instance")?;
        let instance = instance.trim();
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
        let data_text = data.display().to_string();
        let ours = |line: &&str| line.contains(&data_text) || line.contains(&format!("berth-{instance}"));
        let mut cgroups = BTreeSet::new();
        let mut roots = vec![Path::new("/sys/fs/cgroup").to_owned()];
        roots.extend(names(&roots[0]).into_iter().map(|name| Path::new("/sys/fs/cgroup").join(name)));
        for root in roots {
            walk(&root.join(format!("berth_{instance}")), 3, &mut cgroups);
        }
        let table =
            Command::new("nft").args(["list", "table", "inet", &format!("berth_{instance}")]).output()?;
        let mut shims = BTreeSet::new();
        for pid in names(Path::new("/proc")).iter().filter_map(|name| name.parse::<u32>().ok()) {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            // A shim holds its container's directory open; the container's own init, of the same name, holds nothing.
            let open = names(Path::new(&format!("/proc/{pid}/fd"))).into_iter();
            let mut open = open.filter_map(|fd| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok());
            if comm.trim() == "berth-shim" && open.any(|path| path.starts_with(data)) {
                shims.insert(pid);
            }
        }
        let prefix = format!("v{instance}");
        Ok(Self {
            mounts: mountinfo.lines().filter(ours).map(str::to_owned).collect(),
            links: names(Path::new("/sys/class/net"))
                .into_iter()
                .filter(|name| name.starts_with(&prefix))
                .collect(),
            cgroups,
            containers: names(&data.join("agent/containers")),
            nft: String::from_utf8_lossy(&table.stdout).lines().map(|line| line.trim().to_owned()).collect(),
            shims,
        })
    }

    /// What is here and was not in `before`, as one line of text; empty if nothing.
    #[must_use]
    pub fn beyond(&self, before: &Self) -> String {
        fn new<T: Ord + std::fmt::Debug>(
            what: &str,
            now: &BTreeSet<T>,
            then: &BTreeSet<T>,
            text: &mut String,
        ) {
            let extra: Vec<_> = now.difference(then).take(5).collect();
            if !extra.is_empty() {
                text.push_str(&format!("{what}: {extra:?} "));
            }
        }
        let mut text = String::new();
        new("mounts", &self.mounts, &before.mounts, &mut text);
        new("links", &self.links, &before.links, &mut text);
        new("cgroups", &self.cgroups, &before.cgroups, &mut text);
        new("containers", &self.containers, &before.containers, &mut text);
        new("nft", &self.nft, &before.nft, &mut text);
        new("shims", &self.shims, &before.shims, &mut text);
        text
    }
}
