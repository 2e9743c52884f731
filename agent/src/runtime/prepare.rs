//! From a bundle to the spec a shim gets: directories, small files, checks.
//!
//! In: a bundle. Out: the container's directory made ready, and a spec without relative or missing sources.

use super::RuntimeError;
use super::bundle::{Bundle, ExecSpec, IdMap, Private, Stdio};
use super::cgroup::Group;
use crate::seal::Seal;
use berth_shim::protocol::{self, EXIT, Process, SOCKET, Spec};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// overlayfs takes no more (`OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The spec, kept for exec and for agents to come.
const SPEC: &str = "spec.json";
/// How long a shim may take to end after it told of the container's end.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// How long a killed container may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Makes the directory of `bundle` ready and says all a shim must know.
pub(super) fn spec(
    bundle: &Bundle,
    group: &Group,
    seccomp: &[Vec<u64>],
    seal: &Seal,
) -> Result<Spec, RuntimeError> {
    check(bundle)?;
    let dir = &bundle.dir;
    make_dir(dir)?;
    for stale in [EXIT, SOCKET] {
        remove_if_there(&dir.join(stale))?;
    }
    let upper = upper(bundle)?;
    let work = dir.join("work");
    clear_dir(&work)?;
    if let Some(log_dir) = &bundle.log_dir {
        make_dir(log_dir)?;
    }
    let mut binds = Vec::new();
    for bind in &bundle.binds {
        if bind.create && !bind.source.exists() {
            // Ids on disk are the container's own: its root owns a new volume.
            fs::create_dir_all(&bind.source).map_err(RuntimeError::file("make", &bind.source))?;
        }
        binds.push(protocol::Bind {
            source: bind.source.clone(),
            target: bind.target.clone(),
            read_only: bind.read_only,
            shift: true,
        });
    }
    binds.extend(files(bundle)?);
    let process = Process {
        argv: bundle.argv.clone(),
        env: environment(bundle),
        cwd: bundle.cwd.clone(),
        user: bundle.user.clone(),
        tty: match bundle.stdio {
            Stdio::Tty { rows, cols } => Some((rows, cols)),
            Stdio::Logged | Stdio::Piped => None,
        },
    };
    let limits = &bundle.limits;
    let mut spec = Spec {
        id: bundle.id.as_str().to_owned(),
        dir: dir.clone(),
        log_dir: bundle.log_dir.clone().filter(|_| bundle.stdio == Stdio::Logged),
        log_bytes: limits.log_mib.max(1) * 1024 * 1024,
        lowers: distinct(&bundle.lowers),
        upper,
        work,
        netns: bundle.netns.clone(),
        hostname: bundle.hostname.clone(),
        id_map: id_map(bundle.id_map),
        binds,
        process,
        stdio: match bundle.stdio {
            Stdio::Logged => protocol::Stdio::Logged,
            Stdio::Piped => protocol::Stdio::Piped,
            Stdio::Tty { .. } => protocol::Stdio::Tty,
        },
        open_files: limits.open_files,
        disk_bytes: limits.disk_mib.map(|mib| mib * 1024 * 1024),
        cgroup: group.join(),
        oom_events: group.oom_events(),
        memory_words: limits.memory_mib.map_or_else(|| "no limit".to_owned(), |mib| format!("{mib} MiB")),
        seccomp: seccomp.to_vec(),
        private: Vec::new(),
        adopt: None,
    };
    write_spec(dir, &spec, seal)?;
    // Only the container's start needs these: who takes it over finds them there.
    spec.private = bundle.private.iter().map(private).collect();
    Ok(spec)
}

fn private(private: &Private) -> protocol::Private {
    let files = private.files.iter().map(|(name, bytes)| (name.clone(), hex::encode(&bytes.0)));
    protocol::Private { target: private.target.clone(), mode: private.mode, files: files.collect() }
}

fn write_spec(dir: &Path, spec: &Spec, seal: &Seal) -> Result<(), RuntimeError> {
    let path = dir.join(SPEC);
    let text = serde_json::to_vec(spec).map_err(|e| RuntimeError::file("write", dir)(e.into()))?;
    // It has the container's whole environment.
    let sealed = seal.seal(&sealed_name(dir), &text).map_err(RuntimeError::file("seal", &path))?;
    write_file(&path, &sealed, 0o600)
}

/// A spec is bound to its container.
fn sealed_name(dir: &Path) -> String {
    format!("{}/{SPEC}", dir.file_name().unwrap_or_default().to_string_lossy())
}

/// The spec a container was created from.
pub(super) fn read_spec(dir: &Path, seal: &Seal) -> Result<Spec, RuntimeError> {
    read_any_spec(dir, seal).map(|(spec, _)| spec)
}

fn read_any_spec(dir: &Path, seal: &Seal) -> Result<(Spec, bool), RuntimeError> {
    let path = dir.join(SPEC);
    let bytes = fs::read(&path).map_err(RuntimeError::file("read", &path))?;
    let opened = seal.open_sealed(&sealed_name(dir), bytes);
    let (text, sealed) = opened.map_err(RuntimeError::file("open", &path))?;
    let spec = serde_json::from_slice(&text).map_err(|e| RuntimeError::file("read", &path)(e.into()))?;
    Ok((spec, sealed))
}

/// Seals a spec that an agent before there were seals wrote.
pub(super) fn seal_old_spec(dir: &Path, seal: &Seal) -> Result<(), RuntimeError> {
    match read_any_spec(dir, seal)? {
        (spec, false) => write_spec(dir, &spec, seal),
        _ => Ok(()),
    }
}

/// What an exec session runs: the container's own process, with what `spec` says differently.
pub(super) fn exec_process(
    dir: &Path,
    id: &str,
    spec: ExecSpec,
    seal: &Seal,
) -> Result<Process, RuntimeError> {
    let mut process = read_spec(dir, seal)?.process;
    if spec.argv.is_empty() {
        return Err(RuntimeError::Invalid { id: id.to_owned(), what: "exec has no program to run".into() });
    }
    process.argv = spec.argv;
    process.tty = spec.tty;
    for (name, value) in spec.env {
        process.env.retain(|(existing, _)| *existing != name);
        process.env.push((name, value));
    }
    if process.tty.is_some() && !process.env.iter().any(|(name, _)| name == "TERM") {
        process.env.push(("TERM".into(), "xterm".into()));
    }
    if let Some(user) = spec.user {
        // The home directory is the user's: the shim looks it up again.
        process.env.retain(|(name, _)| name != "HOME" || user == process.user);
        process.user = user;
    }
    process.cwd = spec.cwd.unwrap_or(process.cwd);
    Ok(process)
}

/// Waits until the shim of the container's last life has ended, which it does at once after telling how it ended.
pub(super) async fn no_shim_left(lock: &Path) -> Result<(), RuntimeError> {
    let begun = Instant::now();
    while super::lock_is_held(&lock.to_path_buf())? {
        if begun.elapsed() > ENDS_WITHIN {
            return Err(still_there(lock, "still runs the container; stop it before it is created again"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await; // there is no waiting for a lock with a deadline
    }
    Ok(())
}

fn still_there(lock: &Path, what: &str) -> RuntimeError {
    let id = lock
        .parent()
        .and_then(Path::file_name)
        .map_or_else(String::new, |id| id.to_string_lossy().into_owned());
    RuntimeError::Shim { id, what: format!("{what} (it holds {})", lock.display()), source: None }
}

/// Waits until no shim holds the container's lock any more.
pub(super) fn wait_for_shim(lock: &Path) -> Result<(), RuntimeError> {
    let begun = Instant::now();
    // The kernel has no way to wait for a lock with a deadline: ask, ever less often.
    let mut pause = Duration::from_micros(200);
    while super::lock_is_held(&lock.to_path_buf())? {
        if begun.elapsed() > GONE_WITHIN {
            return Err(still_there(lock, "does not end"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

fn check(bundle: &Bundle) -> Result<(), RuntimeError> {
    let invalid = |what: String| Err(RuntimeError::Invalid { id: bundle.id.as_str().to_owned(), what });
    if bundle.dir.file_name().and_then(|name| name.to_str()) != Some(bundle.id.as_str()) {
        return invalid(format!("its directory {} is not named by its id", bundle.dir.display()));
    }
    if bundle.argv.is_empty() || bundle.argv[0].is_empty() {
        return invalid("it has no program to run; give the process a command".into());
    }
    let layers = distinct(&bundle.lowers).len();
    if layers == 0 || layers > MAX_LAYERS {
        return invalid(format!("it has {layers} layers; 1 to {MAX_LAYERS} can be stacked"));
    }
    let nul = bundle.argv.iter().chain(bundle.env.iter().flat_map(|(n, v)| [n, v])).any(|s| s.contains('\0'));
    if nul {
        return invalid("its arguments or environment hold a NUL byte".into());
    }
    let targets =
        bundle.binds.iter().map(|bind| &bind.target).chain(bundle.files.iter().map(|(path, _)| path));
    let targets = targets.chain(bundle.private.iter().map(|private| &private.target));
    for target in targets.clone().chain([&bundle.cwd]) {
        if !target.is_absolute() {
            return invalid(format!("{} is not an absolute path", target.display()));
        }
    }
    for target in targets {
        let forbidden = ["/proc", "/sys"].iter().any(|kernel| target.starts_with(kernel));
        let climbs = target.components().any(|part| part == std::path::Component::ParentDir);
        if forbidden || climbs || target == Path::new("/") {
            return invalid(format!("nothing can be mounted on {}", target.display()));
        }
    }
    Ok(())
}

/// Layers, topmost first, each once: two steps that change nothing make the same layer, and overlayfs refuses one that
/// it has already (ELOOP). What the lower of two equal layers says, the upper one says again.
fn distinct(lowers: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    lowers.iter().filter(|lower| seen.insert(*lower)).cloned().collect()
}

fn id_map(map: IdMap) -> Option<(u32, u32)> {
    (map.base > 0 && map.count > 0).then_some((map.base, map.count))
}

fn environment(bundle: &Bundle) -> Vec<(String, String)> {
    let mut env = bundle.env.clone();
    let mut default = |name: &str, value: &str| {
        if !env.iter().any(|(existing, _)| existing == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    };
    default("PATH", DEFAULT_PATH);
    default("HOSTNAME", &bundle.hostname);
    if matches!(bundle.stdio, Stdio::Tty { .. }) {
        default("TERM", "xterm");
    }
    env
}

fn upper(bundle: &Bundle) -> Result<PathBuf, RuntimeError> {
    let owner = id_map(bundle.id_map).map_or(0, |(base, _)| base);
    let upper = match &bundle.upper {
        Some(kept) => {
            make_dir(kept)?;
            kept.clone()
        }
        None => {
            let fresh = bundle.dir.join("upper");
            clear_dir(&fresh)?;
            fresh
        }
    };
    let is_new = fs::read_dir(&upper).map_err(RuntimeError::file("read", &upper))?.next().is_none();
    if is_new {
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))
            .and_then(|()| std::os::unix::fs::chown(&upper, Some(owner), Some(owner)))
            .map_err(RuntimeError::file("give away", &upper))?;
    }
    Ok(upper)
}

fn files(bundle: &Bundle) -> Result<Vec<protocol::Bind>, RuntimeError> {
    let dir = bundle.dir.join("files");
    clear_dir(&dir)?;
    let mut binds = Vec::new();
    for (index, (target, bytes)) in bundle.files.iter().enumerate() {
        let source = dir.join(index.to_string());
        write_file(&source, bytes, 0o444)?;
        binds.push(protocol::Bind { source, target: target.clone(), read_only: true, shift: true });
    }
    Ok(binds)
}

fn make_dir(path: &Path) -> Result<(), RuntimeError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(RuntimeError::file("make", path))
}

fn clear_dir(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RuntimeError::file("clear", path)(error))
        }
        _ => make_dir(path),
    }
}

fn remove_if_there(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RuntimeError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), RuntimeError> {
    remove_if_there(path)?;
    fs::write(path, bytes)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(RuntimeError::file("write", path))
}
