//! Bare repositories and the git commands that work on them.
//!
//! In: an app's name. Out: its repository, made on demand; commands whose whole configuration is on their command line. No
//! file of the system, of a user or of the pusher has a say in what git does: not `/etc/gitconfig`, not a hook inside the
//! repository, not the environment of the connection.

use crate::Platform;
use crate::errors::{failed, internal};
use berth_model::AppName;
use berth_model::api::ApiError;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Largest push, in bytes.
const MAX_PUSH: u64 = 2 << 30;

/// Where programs are looked for: the environment of the connection has no say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Settings of every git command on an app's repository.
const COMMON: &[&str] = &[
    "core.fsmonitor=false",
    "core.bigFileThreshold=16m",
    "gc.auto=0",
    "maintenance.auto=false",
    "pack.threads=2",
    "pack.windowMemory=64m",
    "protocol.allow=never",
    "transfer.hideRefs=refs/",
    "transfer.hideRefs=!refs/heads/",
    "transfer.hideRefs=!refs/tags/",
];

/// Settings of receiving. What git's own checks call an error but old histories of honest projects have is only warned of.
const RECEIVE: &[&str] = &[
    "receive.fsckObjects=true",
    "receive.fsck.zeroPaddedFilemode=warn",
    "receive.fsck.badTimezone=warn",
    "receive.fsck.missingSpaceBeforeDate=warn",
    "receive.fsck.missingSpaceBeforeEmail=warn",
    "receive.advertisePushOptions=false",
    "receive.autogc=false",
    "receive.denyCurrentBranch=ignore",
    "receive.denyDeleteCurrent=ignore",
    "receive.shallowUpdate=true",
    "receive.certNonceSeed=",
];

/// What a person asks of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// A push.
    Receive,
    /// A clone or fetch.
    Upload,
}

impl Service {
    /// As it is called on the wire: `git-receive-pack`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "git-receive-pack" => Some(Self::Receive),
            "git-upload-pack" => Some(Self::Upload),
            _ => None,
        }
    }

    /// As it is called on the wire, without `git-`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive-pack",
            Self::Upload => "upload-pack",
        }
    }
}

/// Packs a repository when that is worth it, by git's own measure (`git help gc`, `--auto`). Safe beside pushes: what is
/// younger than two weeks is never dropped. Blocks.
pub(crate) fn pack(repository: &Path) {
    let mut command = plumbing(repository, &[]);
    command.args(["-c", "gc.auto=2000", "-c", "gc.autoDetach=false", "gc", "--auto", "--quiet"]);
    match command.stdin(std::process::Stdio::null()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            tracing::warn!(repository = %repository.display(), said, "git cannot pack a repository");
        }
        // An app that was never pushed to has none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, repository = %repository.display(), "git cannot pack a repository");
        }
    }
}

/// A git command with an environment of ours only. `objects` are further object directories to read from.
pub(super) fn plumbing(repository: &Path, objects: &[PathBuf]) -> Command {
    let mut command = Command::new("git");
    command.env_clear().envs([
        ("PATH", PATH),
        ("LANG", "C.UTF-8"),
        ("HOME", "/nonexistent"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_OPTIONAL_LOCKS", "0"),
    ]);
    if !objects.is_empty() {
        let joined: Vec<_> = objects.iter().map(|dir| dir.to_string_lossy()).collect();
        command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", joined.join(":"));
    }
    for setting in COMMON {
        command.args(["-c", setting]);
    }
    command.arg("-c").arg(format!("safe.directory={}", repository.display()));
    command.arg("--git-dir").arg(repository).current_dir(repository);
    command
}

/// The command that answers one connection: `git receive-pack` or `git upload-pack`, with `flags` such as
/// `--stateless-rpc`. `push` is what the hook shows the controller.
pub(super) fn serving(
    platform: &Platform,
    app: &AppName,
    service: Service,
    flags: &[&str],
    push: Option<&str>,
) -> Command {
    let repository = platform.options().repository_dir(app);
    let mut command = plumbing(&repository, &[]);
    command.arg("-c").arg(format!("core.hooksPath={}", hooks_dir(platform).display()));
    if service == Service::Receive {
        for setting in RECEIVE {
            command.args(["-c", setting]);
        }
        command.arg("-c").arg(format!("receive.maxInputSize={MAX_PUSH}"));
    }
    if let Some(push) = push {
        command.env("BERTH_PUSH_ID", push);
        command.env("BERTH_INTERNAL_SOCK", platform.options().internal_socket());
    }
    command.arg(service.name()).args(flags).arg(&repository);
    command
}

fn hooks_dir(platform: &Platform) -> PathBuf {
    platform.options().controller_dir().join("hooks")
}

/// Writes git's hooks, and sweeps what pushes left that were under way when an earlier controller died.
pub fn prepare(platform: &Platform) -> Result<(), ApiError> {
    let dir = hooks_dir(platform);
    let io =
        |error: std::io::Error| internal(&format!("cannot write git's hooks to {}", dir.display()), &error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
    let exe = platform.options().berth_exe.to_string_lossy().into_owned();
    let quoted = shlex::try_quote(&exe).map_err(|error| internal("the path of the berth binary", &error))?;
    let script = format!("#!/bin/sh\nexec {quoted} git-hook\n");
    let (path, temporary) = (dir.join("pre-receive"), dir.join("pre-receive.new"));
    let _ = fs::remove_file(&temporary);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(&temporary);
    file.and_then(|mut file| file.write_all(script.as_bytes())).map_err(io)?;
    fs::rename(&temporary, &path).map_err(io)?;
    let repositories = fs::read_dir(platform.options().git_dir()).into_iter().flatten().flatten();
    repositories.for_each(|found| sweep(&found.path()));
    Ok(())
}

/// Removes the quarantines of pushes that were killed. None may be under way. Blocks.
pub(super) fn sweep(repository: &Path) {
    let objects = fs::read_dir(repository.join("objects")).into_iter().flatten().flatten();
    for found in objects {
        let name = found.file_name();
        let name = name.to_string_lossy();
        if (name.starts_with("tmp_objdir-") || name.starts_with("incoming-"))
            && let Err(error) = fs::remove_dir_all(found.path())
        {
            tracing::warn!(path = %found.path().display(), %error, "cannot remove an interrupted push");
        }
    }
}

/// The app's repository; made if there is none. Blocks.
pub fn ensure(platform: &Platform, app: &AppName) -> Result<PathBuf, ApiError> {
    let path = platform.options().repository_dir(app);
    if path.join("HEAD").exists() {
        return Ok(path);
    }
    let git =
        |error: git2::Error| internal(&format!("cannot make the repository {}", path.display()), &error);
    let mut options = git2::RepositoryInitOptions::new();
    options
        .bare(true)
        .external_template(false)
        .initial_head("main")
        .mode(git2::RepositoryInitMode::from_bits_retain(0o700));
    git2::Repository::init_opts(&path, &options).map_err(git)?;
    Ok(path)
}

/// Copies branches, tags and large files of one app's repository to another's; an app that was never pushed to has none.
/// Blocks.
pub(crate) fn copy(
    platform: &Platform,
    from: &AppName,
    to: &AppName,
    branch: Option<&str>,
) -> Result<(), ApiError> {
    let source = platform.options().repository_dir(from);
    if !source.join("HEAD").exists() {
        return Ok(());
    }
    let target = ensure(platform, to)?;
    let what = format!("cannot copy the repository of {from}");
    let mut command = plumbing(&target, &[]);
    command.arg("-c").arg(format!("safe.directory={}", source.display()));
    command.args(["-c", "protocol.file.allow=always"]);
    command.args(["fetch", "--quiet", "--no-write-fetch-head", "--no-recurse-submodules", "--"]).arg(&source);
    command.args(["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]);
    let output = command.stdin(std::process::Stdio::null()).output();
    let output = output.map_err(|error| internal(&what, &error))?;
    if !output.status.success() {
        return Err(failed(format!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    link_tree(&source.join("lfs"), &target.join("lfs")).map_err(|error| internal(&what, &error))?;
    match branch {
        Some(branch) => set_head(&target, branch),
        None => Ok(()),
    }
}

/// The same files under another directory; they are never written again, so no bytes are copied.
fn link_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(to)?;
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()? {
            kind if kind.is_dir() => link_tree(&entry.path(), &target)?,
            kind if kind.is_file() => match fs::hard_link(entry.path(), &target) {
                // An upload that ended meanwhile, or is there already.
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::AlreadyExists
                    ) => {}
                linked => linked?,
            },
            _ => {}
        }
    }
    Ok(())
}

/// The object id a ref has now; `None` if there is no such ref.
pub(super) fn current(repository: &Path, name: &str) -> Result<Option<String>, ApiError> {
    let wrong = |error: git2::Error| internal("cannot read the repository", &error);
    let repository = git2::Repository::open_bare(repository).map_err(wrong)?;
    match repository.refname_to_id(name) {
        Ok(id) => Ok(Some(id.to_string())),
        Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
        Err(error) => Err(wrong(error)),
    }
}

/// Sets a branch, whatever it was.
pub(super) fn set_branch(repository: &Path, branch: &str, commit: &str) -> Result<(), ApiError> {
    let wrong = |error: git2::Error| internal(&format!("cannot set the branch {branch}"), &error);
    let repository = git2::Repository::open_bare(repository).map_err(wrong)?;
    let id = git2::Oid::from_str(commit).map_err(wrong)?;
    repository.reference(&format!("refs/heads/{branch}"), id, true, "deployed").map(drop).map_err(wrong)
}

/// The commit that a tag or commit means.
pub(super) fn commit_of(repository: &Path, id: &str) -> Result<String, ApiError> {
    let wrong = |error: git2::Error| failed(format!("{id} is no commit: {}", error.message()));
    let repository = git2::Repository::open_bare(repository).map_err(wrong)?;
    let object = git2::Oid::from_str(id).and_then(|id| repository.find_object(id, None)).map_err(wrong)?;
    Ok(object.peel_to_commit().map_err(wrong)?.id().to_string())
}

/// Makes clones of the repository begin at this branch.
pub(super) fn set_head(repository: &Path, branch: &str) -> Result<(), ApiError> {
    let wrong = |error: git2::Error| internal("cannot set the repository's HEAD", &error);
    let repository = git2::Repository::open_bare(repository).map_err(wrong)?;
    repository.set_head(&format!("refs/heads/{branch}")).map_err(wrong)
}

/// The app a git URL's path names: `/hello`, `hello.git`, `'hello'` with its quotes already off.
pub fn app_of(path: &str) -> Result<AppName, ApiError> {
    let name = path.strip_prefix("~/").or_else(|| path.strip_prefix('/')).unwrap_or(path);
    let name = name.strip_suffix('/').unwrap_or(name);
    let name = name.strip_suffix(".git").unwrap_or(name);
    AppName::parse(name).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_apps_and_nothing_else() {
        for good in ["hello", "/hello", "hello.git", "/hello.git", "hello/", "~/hello"] {
            assert_eq!(app_of(good).expect(good).as_str(), "hello");
        }
        for bad in [
            "",
            "/",
            "../x",
            "/../x.git",
            "a/b",
            "x;id",
            "$(id)",
            "-u",
            ".git",
            "%2e%2e",
            "hello.git.git/..",
            "//x",
        ] {
            assert!(app_of(bad).is_err(), "{bad:?}");
        }
        assert_eq!(app_of("www.example.com.git").expect("a host").as_str(), "www.example.com");
    }
}
