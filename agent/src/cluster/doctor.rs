//! Whether this machine can be a node, and a good one.
//!
//! In: the kernel's files, the data directory, the controller's clock. Out: one [`Finding`] a thing, each with what to do. Works before
//! joining, too, and changes nothing.

use super::{Link, renew};
use berth_model::cluster::{Finding, FindingState};
use berth_model::network::{NetworkReport, OVERLAY_PORT, WIREGUARD_PORT, Ways};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Older kernels lack what mounting layers needs (see `runtime`).
const OLDEST_KERNEL: (u32, u32) = (5, 15);
/// Free disk space in MiB: below the first it fails, below the second it is a warning.
const DISK_MIB: (u64, u64) = (1024, 8192);
/// Memory in MiB below which there is little room for apps.
const MEMORY_MIB: u64 = 512;
/// Clocks may differ by this much, in milliseconds: below the first nobody minds, above the second certificates and logs suffer.
const SKEW_MS: (u64, u64) = (1000, 60_000);
/// How long the controller may take to say what time it is.
const PATIENCE: Duration = Duration::from_secs(5);

fn found(check: &str, state: FindingState, text: impl Into<String>) -> Finding {
    Finding { check: check.to_owned(), state, text: text.into() }
}

fn judged(check: &str, fine: bool, good: impl Into<String>, bad: &str) -> Finding {
    match fine {
        true => found(check, FindingState::Fine, good),
        false => found(check, FindingState::Failing, bad),
    }
}

/// Looks at this machine as it would serve `data`, before it has joined anything.
pub async fn examine_here(data: &Path) -> Vec<Finding> {
    let link = Link::open(data).ok().flatten();
    examine(data, link.as_ref(), None).await
}

/// Looks at everything. `network` is what an agent that runs says of its way to other nodes.
pub(crate) async fn examine(
    data: &Path,
    link: Option<&Arc<Link>>,
    network: Option<NetworkReport>,
) -> Vec<Finding> {
    let data = data.to_owned();
    let local = tokio::task::spawn_blocking(move || look(&data)).await;
    let mut findings = local.unwrap_or_default();
    findings.extend(network.and_then(|network| other_nodes(&network)));
    if let Some(link) = link {
        findings.push(match tokio::time::timeout(PATIENCE, renew::skew_ms(link)).await {
            Ok(Ok(skew)) => clock(skew),
            Ok(Err(error)) => found("controller", FindingState::Failing, format!("{error:#}")),
            Err(_) => found("controller", FindingState::Failing, "no controller answers within 5 s"),
        });
    }
    findings
}

fn look(data: &Path) -> Vec<Finding> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let root = rustix::process::geteuid().is_root();
    let mut all = vec![
        judged("root", root, "runs as root", "it must run as root: it makes namespaces, mounts and networks"),
        kernel(&release),
        cgroup(&read("/proc/self/mountinfo")),
        filesystem(&read("/proc/filesystems"), &release),
        user_namespaces(&read("/proc/sys/user/max_user_namespaces")),
        packet_rules(),
        vxlan(&release),
        wireguard(&release),
    ];
    let free = rustix::fs::statvfs(nearest(data)).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    all.push(disk(free >> 20, data));
    all.push(memory(&read("/proc/meminfo")));
    all.extend([80, 443].map(tcp_port));
    all.extend([OVERLAY_PORT, WIREGUARD_PORT].map(udp_port));
    all
}

/// The directory itself, or the first one above it that is there.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn kernel(release: &str) -> Finding {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let (major, minor) = OLDEST_KERNEL;
    judged(
        "kernel",
        version >= OLDEST_KERNEL,
        format!("Linux {release}"),
        &format!("Linux {release} is too old: {major}.{minor} or newer is needed"),
    )
}

fn cgroup(mounts: &str) -> Finding {
    let of_kind = |kind: &str| {
        mounts
            .lines()
            .any(|line| line.split(" - ").nth(1).is_some_and(|rest| rest.split(' ').next() == Some(kind)))
    };
    match (of_kind("cgroup2"), of_kind("cgroup")) {
        (true, false) => found("cgroup", FindingState::Fine, "version 2"),
        (_, true) => {
            found("cgroup", FindingState::Fine, "version 1; version 2 measures pressure and limits better")
        }
        (false, false) => {
            let text = "no cgroup file system is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup";
            found("cgroup", FindingState::Failing, text)
        }
    }
}

/// Whether the kernel has a module, loaded, built in, or to be loaded.
fn has_module(release: &str, name: &str) -> bool {
    let listed = |file: &str| {
        let list = std::fs::read_to_string(format!("/lib/modules/{release}/{file}")).unwrap_or_default();
        let wanted = format!("/{name}.ko");
        list.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains(&wanted)))
    };
    Path::new("/sys/module").join(name).exists() || listed("modules.builtin") || listed("modules.dep")
}

fn filesystem(known: &str, release: &str) -> Finding {
    let fine = known.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay")
        || has_module(release, "overlay");
    judged(
        "overlayfs",
        fine,
        "the kernel has it",
        "the kernel has no overlayfs (CONFIG_OVERLAY_FS): no container starts",
    )
}

fn user_namespaces(limit: &str) -> Finding {
    let fine = limit.trim().parse::<u64>().is_ok_and(|limit| limit > 0);
    let bad = "the kernel makes none; set: sysctl user.max_user_namespaces=65536";
    judged("user namespaces", fine, format!("up to {}", limit.trim()), bad)
}

fn packet_rules() -> Finding {
    let ran = std::process::Command::new("nft").args(["list", "tables"]).output();
    match ran {
        Ok(output) if output.status.success() => found("nftables", FindingState::Fine, "nft works"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().next().unwrap_or_default();
            found("nftables", FindingState::Failing, format!("nft does not work here: {line}"))
        }
        Err(error) => {
            let text = format!("cannot run nft ({error}); install the package nftables");
            found("nftables", FindingState::Failing, text)
        }
    }
}

/// What the kernel may have as a module. One of another build may have it without a list of modules: then nothing can be said
/// without trying.
fn module(release: &str, name: &str, missing: &str) -> Finding {
    match has_module(release, name) {
        true => found(name, FindingState::Fine, "the kernel has it"),
        false => found(name, FindingState::Warning, format!("the kernel does not say that it has {missing}")),
    }
}

fn vxlan(release: &str) -> Finding {
    let missing = "VXLAN (CONFIG_VXLAN); without it containers here reach no other node's";
    module(release, "vxlan", missing)
}

fn wireguard(release: &str) -> Finding {
    let missing =
        "WireGuard (CONFIG_WIREGUARD); without it containers' packets to other nodes go in the clear";
    module(release, "wireguard", missing)
}

/// How packets get to other nodes; nothing on a machine that has none.
fn other_nodes(network: &NetworkReport) -> Option<Finding> {
    let Ways { wireguard, vxlan, refused } = network.ways;
    let counts = format!("{wireguard} by WireGuard, {vxlan} by VXLAN, {refused} refused");
    match (&network.error, vxlan) {
        (Some(error), _) => Some(found("other nodes", FindingState::Failing, format!("{counts}: {error}"))),
        (None, 1..) => {
            let why = network.unencrypted.as_deref().unwrap_or("those have no WireGuard");
            let text = format!("{counts}; what goes by VXLAN is not encrypted: {why}");
            Some(found("other nodes", FindingState::Warning, text))
        }
        (None, 0) => (!network.ways.is_none()).then(|| found("other nodes", FindingState::Fine, counts)),
    }
}

fn disk(free_mib: u64, data: &Path) -> Finding {
    let text = format!("{free_mib} MiB are free for {}", data.display());
    match free_mib {
        free if free < DISK_MIB.0 => {
            found("disk", FindingState::Failing, text + ": too little for any image")
        }
        free if free < DISK_MIB.1 => {
            found("disk", FindingState::Warning, text + ": little for images and logs")
        }
        _ => found("disk", FindingState::Fine, text),
    }
}

fn memory(meminfo: &str) -> Finding {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0);
    let text = format!("{} MiB", kib / 1024);
    match kib / 1024 < MEMORY_MIB {
        true => found("memory", FindingState::Warning, text + ": little for apps"),
        false => found("memory", FindingState::Fine, text),
    }
}

fn tcp_port(port: u16) -> Finding {
    port_of("TCP", port, TcpListener::bind(("0.0.0.0", port)).err())
}

fn udp_port(port: u16) -> Finding {
    port_of("UDP", port, UdpSocket::bind(("0.0.0.0", port)).err())
}

fn port_of(protocol: &str, port: u16, error: Option<std::io::Error>) -> Finding {
    let check = format!("port {port}/{}", protocol.to_ascii_lowercase());
    match error {
        None => found(&check, FindingState::Fine, "free"),
        Some(error) if error.kind() == std::io::ErrorKind::AddrInUse => found(
            &check,
            FindingState::Warning,
            "taken: by Berth itself if it runs here, else choose another or stop what has it",
        ),
        Some(error) => found(&check, FindingState::Warning, format!("cannot be opened: {error}")),
    }
}

fn clock(skew_ms: i64) -> Finding {
    let text = format!("differs from the controller's by {skew_ms} ms");
    match skew_ms.unsigned_abs() {
        skew if skew < SKEW_MS.0 => found("clock", FindingState::Fine, text),
        skew if skew < SKEW_MS.1 => found("clock", FindingState::Warning, text + "; set it by NTP"),
        _ => found("clock", FindingState::Failing, text + "; certificates fail: set it by NTP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_judged_by_what_it_says() {
        assert_eq!(kernel("6.1.0-13-amd64").state, FindingState::Fine);
        assert_eq!(kernel("5.15.2").state, FindingState::Fine);
        assert_eq!(kernel("5.4.0").state, FindingState::Failing);
        assert_eq!(kernel("").state, FindingState::Failing);
        assert_eq!(cgroup("25 24 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw").text, "version 2");
        assert_eq!(cgroup("25 24 0:22 / /x rw - ext4 cgroup2 rw").state, FindingState::Failing);
        assert_eq!(user_namespaces("0\n").state, FindingState::Failing);
        assert_eq!(user_namespaces("63000\n").state, FindingState::Fine);
        assert_eq!(disk(10, Path::new("/x")).state, FindingState::Failing);
        assert_eq!(disk(2000, Path::new("/x")).state, FindingState::Warning);
        assert_eq!(clock(-5).state, FindingState::Fine);
        assert_eq!(clock(-5000).state, FindingState::Warning);
        assert_eq!(clock(i64::MIN).state, FindingState::Failing);
        let mut report: NetworkReport = serde_json::from_str(r#"{"subnet":"10.208.0.0/20"}"#).expect("read");
        assert_eq!(other_nodes(&report), None, "a lone machine has no others");
        report.ways.wireguard = 2;
        assert_eq!(other_nodes(&report).expect("others").state, FindingState::Fine);
        report.ways.vxlan = 1;
        assert_eq!(other_nodes(&report).expect("others").state, FindingState::Warning);
        report.error = Some("1 nodes speak no WireGuard".into());
        assert_eq!(other_nodes(&report).expect("others").state, FindingState::Failing);
        assert_eq!(nearest(Path::new("/proc/no/such")), Path::new("/proc"));
    }
}
