//! Network namespaces that outlive their makers: each is bound to a file of a small file system of our own under
//! `/run`, private so that no bind mount of ours appears anywhere else.
//!
//! In: names. Out: paths that a shim opens and joins.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Where an instance's namespaces are bound.
#[must_use]
pub(super) fn directory(instance: &str) -> PathBuf {
    PathBuf::from(format!("/run/berth-{instance}/netns"))
}

fn root(instance: &str) -> PathBuf {
    PathBuf::from(format!("/run/berth-{instance}"))
}

fn describe(what: &str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let text = format!("{what} {}", path.display());
    move |error| io::Error::new(error.kind(), format!("{text}: {error}"))
}

/// Makes the place for namespaces, if it is not there.
pub(super) fn prepare(instance: &str) -> io::Result<()> {
    let root = root(instance);
    fs::create_dir_all(&root).map_err(describe("cannot create", &root))?;
    if !is_mount(&root)? {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("berth"), &root, Some("tmpfs"), flags, Some("mode=0700,size=1m,nr_inodes=16k"))
            .map_err(io::Error::from)
            .map_err(describe("cannot mount a tmpfs on", &root))?;
        mount(None::<&str>, &root, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
            .map_err(io::Error::from)
            .map_err(describe("cannot make private", &root))?;
    }
    let directory = directory(instance);
    fs::create_dir_all(&directory).map_err(describe("cannot create", &directory))
}

/// Whether something is mounted on `path` itself.
fn is_mount(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (Ok(own), Some(parent)) = (fs::metadata(path), path.parent()) else { return Ok(false) };
    Ok(own.dev() != fs::metadata(parent)?.dev())
}

/// Runs `work` in the network namespace of `netns`, or a new one, on a thread that ends with it: no other thread of
/// this process ever changes its namespace.
pub(super) async fn within<T: Send + 'static>(
    netns: Option<File>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("netns".into()).spawn(move || {
        // Sockets made here are served by the runtime's threads.
        let _guard = runtime.enter();
        let entered = match netns {
            Some(file) => nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET),
            None => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET),
        };
        let result = entered.map_err(io::Error::from).and_then(|()| work());
        // A receiver that is gone wants no result.
        let _ = send.send(result);
    })?;
    receive.await.map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
}

/// Settings of every container's namespace. `/proc/sys` is read-only inside, so they are set here.
const SYSCTLS: [(&str, &str); 6] = [
    // No port needs a capability; `ping` needs no raw socket.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    // IPv4 only, apart from `::1`: what is not there need not be filtered.
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
];

/// Makes a namespace bound to `path`, in place of one that is there, and gives it open.
pub(super) async fn create(path: &Path) -> io::Result<File> {
    remove(path)?;
    let target = path.to_owned();
    within(None, move || {
        for (name, value) in SYSCTLS {
            let file = Path::new("/proc/sys").join(name);
            match fs::write(&file, value) {
                // A kernel without IPv6 has nothing to turn off.
                Err(error) if error.kind() == io::ErrorKind::NotFound && name.contains("ipv6") => {}
                other => other.map_err(describe("cannot write", &file))?,
            }
        }
        File::create(&target).map_err(describe("cannot create", &target))?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(Some(own), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(io::Error::from)
            .map_err(describe("cannot bind a network namespace to", &target))?;
        File::open(&target).map_err(describe("cannot open", &target))
    })
    .await
}

/// The namespace bound to `path`; `None` when there is none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(describe("cannot open", path))?,
    };
    // After a reboot, or a crash between creation and mount, the name is an ordinary file.
    let kind = rustix::fs::fstatfs(&file).map_err(io::Error::from)?.f_type;
    Ok((kind == libc::NSFS_MAGIC).then_some(file))
}

/// Removes the namespace bound to `path`; nothing there is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(describe("cannot unmount", path)(error.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(describe("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

/// Names of all bound namespaces.
pub(super) fn list(instance: &str) -> io::Result<Vec<String>> {
    let directory = directory(instance);
    match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(describe("cannot list", &directory)(error)),
        Ok(entries) => entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect(),
    }
}

/// Removes everything of the instance under `/run`.
pub(super) fn remove_all(instance: &str) -> io::Result<()> {
    for name in list(instance)? {
        remove(&directory(instance).join(name))?;
    }
    let root = root(instance);
    match umount2(&root, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(describe("cannot unmount", &root)(error.into())),
    }
    match fs::remove_dir_all(&root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(describe("cannot remove", &root)(error)),
        _ => Ok(()),
    }
}
