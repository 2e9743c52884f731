//! Settings of an app: deploy branch, mounts, TCP ports, limits. Pure.

use super::PlatformError;
use crate::options::Options;
use berth_buildpacks::cnb::{parse_stack, source};
use berth_model::api::PatchApp;
use berth_model::container::{Limits, Mount};
use berth_model::ports::{PortMapping, Scheme};
use berth_model::release::App;
use std::collections::HashSet;

const MAX_MOUNTS: usize = 50;
const MAX_PORTS: usize = 100;
const MAX_LIMITED: usize = 200;
const MAX_BUILDPACKS: usize = 50;
/// Places of a container that are Berth's, the kernel's, or the app's own code.
const KEPT_TARGETS: &[&str] =
    &["/app", "/dev", "/etc", "/proc", "/run/berth", "/sys", "/usr", "/bin", "/lib", "/sbin"];

pub(super) fn patched(app: &App, patch: &PatchApp) -> App {
    let mut app = app.clone();
    if let Some(branch) = &patch.deploy_branch {
        app.deploy_branch = Some(branch.clone()).filter(|branch| !branch.is_empty());
    }
    for (new, setting) in [
        (&patch.dockerfile_path, &mut app.dockerfile_path),
        (&patch.dockerfile_target, &mut app.dockerfile_target),
        (&patch.builder, &mut app.builder),
        (&patch.build_dir, &mut app.build_dir),
        (&patch.procfile_path, &mut app.procfile_path),
        (&patch.app_json_path, &mut app.app_json_path),
    ] {
        if let Some(new) = new {
            *setting = Some(new.clone()).filter(|new| !new.is_empty());
        }
    }
    if let Some(secs) = patch.build_timeout_secs {
        app.build_timeout_secs = Some(secs).filter(|secs| *secs != 0);
    }
    if let Some(buildpacks) = &patch.buildpacks {
        app.buildpacks.clone_from(buildpacks);
    }
    if let Some(stack) = &patch.stack {
        app.stack = Some(stack.clone()).filter(|stack| !stack.is_empty());
    }
    if let Some(mounts) = &patch.mounts {
        app.mounts.clone_from(mounts);
    }
    if let Some(ports) = &patch.ports {
        app.ports.clone_from(ports);
    }
    app.limits.retain(|process, _| !patch.clear_limits.contains(process));
    if let Some(limits) = &patch.limits {
        app.limits.extend(limits.clone());
    }
    app
}

/// Refuses what no app can have.
pub(super) fn check(patch: &PatchApp) -> Result<(), PlatformError> {
    let problem = patch
        .deploy_branch
        .as_deref()
        .and_then(branch_problem)
        .or_else(|| patch.dockerfile_path.as_deref().and_then(|path| path_problem(path, "docker/Dockerfile")))
        .or_else(|| patch.build_dir.as_deref().and_then(|path| path_problem(path, "apps/web")))
        .or_else(|| patch.procfile_path.as_deref().and_then(|path| path_problem(path, "deploy/Procfile")))
        .or_else(|| patch.app_json_path.as_deref().and_then(|path| path_problem(path, "deploy/app.json")))
        .or_else(|| patch.builder.as_deref().and_then(builder_problem))
        .or_else(|| patch.build_timeout_secs.and_then(timeout_problem))
        .or_else(|| patch.dockerfile_target.as_deref().and_then(target_problem))
        .or_else(|| patch.buildpacks.as_deref().and_then(buildpacks_problem))
        .or_else(|| patch.stack.as_deref().and_then(stack_problem))
        .or_else(|| patch.mounts.as_deref().and_then(mounts_problem))
        .or_else(|| patch.ports.as_deref().and_then(ports_problem))
        .or_else(|| {
            let count = patch.limits.as_ref().map_or(0, std::collections::BTreeMap::len);
            (count > MAX_LIMITED)
                .then(|| format!("limits of {count} process types are too many: at most {MAX_LIMITED}"))
        })
        .or_else(|| {
            let mut limits = patch.limits.iter().flatten();
            limits.find_map(|(process, limits)| {
                Some(format!("limits of {process}: {}", limits_problem(limits)?))
            })
        });
    problem.map_or(Ok(()), |text| Err(PlatformError::Invalid(text)))
}

/// The rules of `git check-ref-format` for a branch; empty is "forget it".
fn branch_problem(branch: &str) -> Option<String> {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let good = branch.is_empty()
        || (branch.len() <= 200
            && !branch.starts_with('-')
            && !branch.ends_with('.')
            && branch != "@"
            && !branch.contains("..")
            && !branch.contains("@{")
            && !branch.contains(|c: char| c.is_control() || " ~^:?*[\\".contains(c))
            && branch.split('/').all(part));
    let shown: String = branch.chars().take(80).collect();
    (!good).then(|| format!("{shown:?} is not a branch name; use one such as main"))
}

/// A path in the pushed tree; empty is "forget it".
fn path_problem(path: &str, example: &str) -> Option<String> {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    let good = path.is_empty()
        || (path.len() <= 500 && !path.contains(char::is_control) && path.split('/').all(part));
    let shown: String = path.chars().take(80).collect();
    (!good).then(|| format!("{shown:?} is not a path in the repository; use one such as {example}"))
}

/// One of the builders; empty is "detect".
fn builder_problem(builder: &str) -> Option<String> {
    let known = builder.is_empty()
        || [&berth_buildpacks::BUILDERS[..], &berth_buildpacks::BUILDPACKS[..]].concat().contains(&builder);
    let shown: String = builder.chars().take(40).collect();
    (!known).then(|| {
        format!(
            "there is no builder {shown:?}; there are: {}, cnb, classic",
            berth_buildpacks::BUILDERS.join(", ")
        )
    })
}

/// Zero is "the default".
fn timeout_problem(secs: u32) -> Option<String> {
    let good = secs == 0 || (10..=86_400).contains(&secs);
    (!good).then(|| format!("a build of at most {secs} s is not possible: give 10 to 86400 seconds"))
}

/// A stage's name or number; empty is "forget it".
fn target_problem(target: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let shown: String = target.chars().take(80).collect();
    (target.len() > 100 || !target.chars().all(good))
        .then(|| format!("{shown:?} is not the name of a stage; use letters, digits and - _ ."))
}

/// Lines as in `.buildpacks`. Whether a directory is there is only known when something is pushed.
fn buildpacks_problem(buildpacks: &[String]) -> Option<String> {
    if buildpacks.len() > MAX_BUILDPACKS {
        return Some(format!("{} buildpacks are too many: at most {MAX_BUILDPACKS}", buildpacks.len()));
    }
    let maybe_there =
        |path: &str| buildpacks.iter().any(|text| text.starts_with("./") && text.contains(path));
    buildpacks.iter().find_map(|text| source::parse(text, &maybe_there).err())
}

/// `debian-12`, `heroku-24`, images; empty is "forget it".
fn stack_problem(stack: &str) -> Option<String> {
    if stack.is_empty() {
        return None;
    }
    parse_stack(stack)
        .err()
        .map(|error| format!("{error}; a stack is debian-12, heroku-24, an image, or RUN-IMAGE,BUILD-IMAGE"))
}

fn mounts_problem(mounts: &[Mount]) -> Option<String> {
    if mounts.len() > MAX_MOUNTS {
        return Some(format!("{} mounts are too many: at most {MAX_MOUNTS}", mounts.len()));
    }
    let mut targets = HashSet::new();
    mounts.iter().find_map(|mount| {
        let Mount { source, target, .. } = mount;
        let volume = |name: &str| {
            let byte = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            name.len() <= 63 && name.bytes().all(byte) && !name.starts_with(['.', '-']) && !name.is_empty()
        };
        if source.starts_with('/') && !is_plain_path(source) || !source.starts_with('/') && !volume(source) {
            return Some(format!(
                "mount source {source:?} is not valid: give an absolute path without . and .., or a volume name of \
                 letters, digits and . _ -"
            ));
        }
        if !is_plain_path(target) || target == "/" {
            return Some(format!("mount target {target:?} is not valid: give an absolute path without . and .."));
        }
        let kept = |kept: &&&str| target == **kept || (target.starts_with(&format!("{kept}/")) && **kept != "/app");
        if let Some(kept) = KEPT_TARGETS.iter().find(kept) {
            return Some(format!("mount target {target:?} would hide {kept}, which containers need; choose another"));
        }
        (!targets.insert(target)).then(|| format!("two mounts have the target {target:?}"))
    })
}

fn is_plain_path(path: &str) -> bool {
    let rest = path.strip_prefix('/');
    path == "/"
        || path.len() <= 1024
            && !path.contains(char::is_control)
            && rest.is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

fn ports_problem(ports: &[PortMapping]) -> Option<String> {
    if ports.len() > MAX_PORTS {
        return Some(format!("{} ports are too many: at most {MAX_PORTS}", ports.len()));
    }
    if let Some(problem) = ports.iter().find_map(PortMapping::problem) {
        return Some(problem);
    }
    for (at, mapping) in ports.iter().enumerate() {
        for earlier in &ports[..at] {
            if earlier.is_main() && mapping.is_main() {
                let same = (earlier.container_port, earlier.scheme.protocol())
                    == (mapping.container_port, mapping.scheme.protocol());
                if !same || earlier.port == mapping.port {
                    return Some(format!(
                        "{earlier} and {mapping} do not go together: ports 80 and 443 lead to one place"
                    ));
                }
            } else if earlier.port == mapping.port && transport(earlier) == transport(mapping) {
                return Some(format!("port {} is mapped twice", mapping.port));
            }
        }
    }
    None
}

/// Ports of UDP and TCP have nothing to do with each other; the main HTTP listeners are nobody's.
fn transport(mapping: &PortMapping) -> Option<bool> {
    (!mapping.is_main()).then_some(mapping.scheme == Scheme::Udp)
}

fn limits_problem(limits: &Limits) -> Option<String> {
    let Limits {
        memory_mib,
        memory_swap_mib,
        cpu_millis,
        cpu_weight,
        pids,
        disk_mib,
        log_mib,
        open_files,
        io,
        network,
        reserve,
    } = limits;
    let within = |name: &str, value: Option<u64>, least: u64, most: u64| {
        let value = value?;
        (value < least || value > most).then(|| format!("{name} {value} is not within {least} to {most}"))
    };
    const PIB: u64 = 1 << 30; // in MiB
    within("memory_mib", *memory_mib, 8, PIB)
        .or_else(|| within("cpu_millis", *cpu_millis, 1, 10_000_000))
        .or_else(|| within("cpu_weight", Some(*cpu_weight), 1, 10_000))
        .or_else(|| within("pids", *pids, 1, 4_194_304))
        .or_else(|| within("disk_mib", *disk_mib, 1, PIB))
        .or_else(|| within("log_mib", Some(*log_mib), 1, 1 << 20))
        .or_else(|| within("open_files", Some(*open_files), 64, 1 << 30))
        .or_else(|| within("memory_swap_mib", *memory_swap_mib, 8, PIB))
        .or_else(|| swap_problem(*memory_mib, *memory_swap_mib))
        // Slower than this nothing ever answers; faster than that no device is.
        .or_else(|| within("io.read_bps", io.read_bps, 4096, 1 << 50))
        .or_else(|| within("io.write_bps", io.write_bps, 4096, 1 << 50))
        .or_else(|| within("io.read_iops", io.read_iops, 1, u32::MAX.into()))
        .or_else(|| within("io.write_iops", io.write_iops, 1, u32::MAX.into()))
        .or_else(|| within("network.egress_kbit", network.egress_kbit, 8, 1_000_000_000))
        .or_else(|| within("network.ingress_kbit", network.ingress_kbit, 8, 1_000_000_000))
        .or_else(|| within("reserve.memory_mib", reserve.memory_mib, 1, PIB))
        .or_else(|| within("reserve.cpu_millis", reserve.cpu_millis, 1, 10_000_000))
        .or_else(|| within("reserve.disk_mib", reserve.disk_mib, 1, PIB))
        .or_else(|| reserve_problem(limits))
}

fn swap_problem(memory: Option<u64>, both: Option<u64>) -> Option<String> {
    match (memory, both?) {
        (None, _) => Some("memory_swap_mib needs a limit of memory beside it".to_owned()),
        (Some(memory), both) if both < memory => Some(format!(
            "memory_swap_mib {both} is memory and swap together, so it cannot be less than the {memory} of memory"
        )),
        _ => None,
    }
}

/// Nobody can use more than the limit, so no more need be kept.
fn reserve_problem(limits: &Limits) -> Option<String> {
    let above = |name: &str, reserve: Option<u64>, limit: Option<u64>| {
        let (reserve, limit) = (reserve?, limit?);
        (reserve > limit).then(|| format!("{name} {reserve} is more than the limit of {limit}"))
    };
    above("reserve.memory_mib", limits.reserve.memory_mib, limits.memory_mib)
        .or_else(|| above("reserve.cpu_millis", limits.reserve.cpu_millis, limits.cpu_millis))
}

/// Refuses ports of the proxy that another app or Berth itself listens on.
pub(super) fn check_ports(app: &App, apps: &[App], options: &Options) -> Result<(), PlatformError> {
    for mapping in app.ports.iter().filter(|mapping| !mapping.is_main()) {
        let port = mapping.port;
        let own = [("its API", options.api), ("its SSH server", options.ssh), ("HTTP", options.http)];
        if mapping.scheme != Scheme::Udp
            && let Some((what, _)) = own.iter().find(|(_, address)| address.port() == port)
        {
            let text = format!("port {port} is taken: Berth uses it for {what}; choose another");
            return Err(PlatformError::Conflict(text));
        }
        let collides = |theirs: &PortMapping| {
            theirs.port == port
                && transport(theirs) == transport(mapping)
                && !mapping.scheme.shares_with(theirs.scheme)
        };
        let others = apps.iter().filter(|other| other.name != app.name);
        if let Some(other) = others.into_iter().find(|other| other.ports.iter().any(collides)) {
            let text =
                format!("port {port} belongs to app {}; choose another, or remove it there", other.name);
            return Err(PlatformError::Conflict(text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::container::Reserve;

    #[test]
    fn branches_follow_gits_rules() {
        for good in ["", "main", "feature/x-1", "ünï", "v1.0"] {
            assert_eq!(branch_problem(good), None, "{good:?}");
        }
        for bad in ["-x", "a..b", "a b", "a~", "/a", "a/", "a//b", ".a", "a.lock", "a.", "@", "a@{1}", "a\n"]
        {
            assert!(branch_problem(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn mounts_cannot_hide_what_containers_need() {
        let mount = |source: &str, target: &str| Mount {
            source: source.to_owned(),
            target: target.to_owned(),
            read_only: false,
        };
        for (source, target) in [("/srv/data", "/data"), ("uploads", "/app/uploads"), ("v.1", "/var/lib/x")] {
            assert_eq!(mounts_problem(&[mount(source, target)]), None, "{source}:{target}");
        }
        for (source, target) in [
            ("../x", "/data"),
            ("/a/../b", "/data"),
            ("", "/data"),
            ("x", "data"),
            ("x", "/"),
            ("x", "/proc"),
            ("x", "/proc/sys"),
            ("x", "/app"),
            ("x", "/etc/passwd"),
            ("x", "/a/./b"),
            ("x", "/a\0"),
        ] {
            assert!(mounts_problem(&[mount(source, target)]).is_some(), "{source}:{target}");
        }
        assert!(mounts_problem(&[mount("a", "/x"), mount("b", "/x")]).is_some());
    }

    #[test]
    fn limits_have_bounds() {
        assert_eq!(limits_problem(&Limits::default()), None);
        assert!(limits_problem(&Limits { memory_mib: Some(0), ..Limits::default() }).is_some());
        assert!(limits_problem(&Limits { cpu_weight: 0, ..Limits::default() }).is_some());
        assert!(limits_problem(&Limits { pids: Some(u64::MAX), ..Limits::default() }).is_some());
        let swap = |memory_mib, both| {
            limits_problem(&Limits { memory_mib, memory_swap_mib: Some(both), ..Limits::default() })
        };
        assert_eq!(swap(Some(512), 512), None);
        assert!(swap(Some(512), 511).is_some() && swap(None, 512).is_some());
        let reserve = |memory_mib| Reserve { memory_mib: Some(memory_mib), ..Reserve::default() };
        assert_eq!(limits_problem(&Limits { reserve: reserve(512), ..Limits::default() }), None);
        assert!(limits_problem(&Limits { reserve: reserve(513), ..Limits::default() }).is_some());
    }
}
