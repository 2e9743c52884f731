//! Where buildpacks run: an image, what lies on it, and one writable directory.
//!
//! In: layers, programs. Out: their output as it comes, and a [`View`] of what is there once they have ended.

use super::super::error::BuildError;
use super::super::job::Job;
use super::super::sandbox::{self, CA_NAMES, PASSED_ON, Program};
use super::super::view::{Node, View};
use super::super::{CONTAINER_PREFIX, source, upper};
use super::LAUNCHER;
use berth_buildpacks::cnb::{MAX_FILE, Target};
use berth_launcher::{PHASE, Phase};
use berth_model::{ContainerId, EnvName};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Variables of the container that buildpacks see, besides proxies, mirrors and the CA bundle (Buildpack specification,
/// “Environment”).
const KEPT: [&str; 9] = [
    "HOME",
    "HOSTNAME",
    "LANG",
    "PATH",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "CPATH",
    "PKG_CONFIG_PATH",
    "SSL_CERT_DIR",
];
/// Where a phase finds what it is to do.
const PHASE_FILE: &str = "/run/berth/phase.toml";
const PLATFORM: &str = "/platform";
/// The build user's home, in any image.
const HOME: &str = "/home/build";
/// Where programs leave what only the node reads.
pub(super) const OUT: &str = "out";

/// A place for programs of buildpacks.
pub(super) struct Space {
    /// Topmost first.
    pub(super) lowers: Vec<PathBuf>,
    /// The writable directory.
    pub(super) upper: PathBuf,
    /// First id of the containers.
    pub(super) base: u32,
    /// Variables of the image.
    pub(super) env: Vec<(String, String)>,
}

impl Space {
    /// A fresh one, with a home and an empty directory for results.
    pub(super) fn new(
        job: &Job,
        lowers: Vec<PathBuf>,
        base: u32,
        env: Vec<(String, String)>,
    ) -> Result<Self, BuildError> {
        let dir = source::fresh(&job.dir, "upper");
        source::make_dir(&dir, base).map_err(BuildError::disk("make", &dir))?;
        for path in [&HOME[1..], OUT] {
            upper::prepare_output(&dir, &lowers, Path::new(path), base, source::BUILD)?;
        }
        Ok(Self { lowers, upper: dir, base, env })
    }

    /// Makes an empty directory of the build user.
    pub(super) fn make(&self, path: &str) -> Result<PathBuf, BuildError> {
        upper::prepare_output(&self.upper, &self.lowers, Path::new(path), self.base, source::BUILD)?;
        Ok(self.upper.join(path))
    }

    /// Moves a directory of plain ids to `path`.
    pub(super) fn take(&self, from: &Path, path: &str) -> Result<(), BuildError> {
        let to = self.make(path)?;
        upper::give_ids(from, self.base).map_err(BuildError::disk("give away", from))?;
        fs::rename(from, &to).map_err(BuildError::disk("move", from))
    }

    /// What is there, now that nothing runs.
    pub(super) fn view(&self) -> View {
        View::new([vec![self.upper.clone()], self.lowers.clone()].concat())
    }

    fn step(&self, job: &Job, name: &str) -> Result<sandbox::Step, BuildError> {
        let id = format!("{CONTAINER_PREFIX}{}.{name}", job.request.id);
        let id = ContainerId::parse(&id).map_err(|error| BuildError::Plan(error.to_string()))?;
        let mut env = self.env.clone();
        env.retain(|(name, _)| name != "HOME");
        env.push(("HOME".to_owned(), HOME.to_owned()));
        Ok(sandbox::Step {
            dir: job.dir.join(id.as_str()),
            id,
            app: job.request.app.clone(),
            upper: self.upper.clone(),
            lowers: self.lowers.clone(),
            script: String::new(),
            env,
            caches: Vec::new(),
            as_root: false,
            limits: job.request.limits.clone(),
            base: self.base,
            program: None,
        })
    }

    /// Runs a phase of the lifecycle. `files` are there while it runs.
    pub(super) async fn phase(
        &self,
        job: &Job,
        name: &str,
        title: &str,
        mut phase: Phase,
        mut files: Vec<(PathBuf, Vec<u8>)>,
    ) -> Result<(), BuildError> {
        let names = KEPT.iter().chain(&CA_NAMES).chain(&PASSED_ON);
        phase.keep = names.map(|name| (*name).to_owned()).collect();
        PLATFORM.clone_into(&mut phase.platform);
        let text = toml::to_string(&phase).map_err(|error| BuildError::Plan(error.to_string()))?;
        files.push((PHASE_FILE.into(), text.into_bytes()));
        let mut step = self.step(job, name)?;
        let argv = [PHASE, PHASE_FILE].map(str::to_owned).to_vec();
        step.script = argv.join(" ");
        step.program = Some(Program {
            argv,
            user: format!("{0}:{0}", source::BUILD),
            cwd: "/".into(),
            files,
            read_only: Vec::new(),
            online: true,
        });
        job.run_step(title, &step).await
    }

    /// Runs a script by bash, in the app's directory. `caches` are directories of the node and their places.
    pub(super) async fn script(
        &self,
        job: &Job,
        name: &str,
        title: &str,
        script: String,
        env: Vec<(String, String)>,
        caches: Vec<(PathBuf, PathBuf)>,
    ) -> Result<(), BuildError> {
        let mut step = self.step(job, name)?;
        for (name, value) in env {
            step.env.retain(|(other, _)| *other != name);
            step.env.push((name, value));
        }
        step.script = script;
        step.caches = caches;
        job.run_step(title, &step).await
    }
}

/// A text file of a stranger; `None` if there is none.
pub(super) fn text(view: &View, path: &str) -> Result<Option<String>, BuildError> {
    let wrong = |why: String| BuildError::Plan(format!("/{} {why}", path.trim_start_matches('/')));
    let found = match view.resolve(Path::new(path), true) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(None),
        Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
    };
    let Some(Node::Other(at, found)) = found.node else { return Ok(None) };
    if !found.is_file() {
        return Err(wrong("is no plain file".to_owned()));
    }
    if found.len() > MAX_FILE {
        return Err(wrong(format!("is larger than {} MiB", MAX_FILE >> 20)));
    }
    let bytes = fs::read(&at).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map(Some).map_err(|_| wrong("is not UTF-8".to_owned()))
}

/// Whether there is a program at `path`.
pub(super) fn has_program(view: &View, path: &str) -> bool {
    let found = view.resolve(Path::new(path), true).ok().and_then(|found| found.node);
    found.is_some_and(|node| node.metadata().is_file() && node.metadata().mode() & 0o111 != 0)
}

/// A directory of the node with the launcher at its place, as phases and images have it; the second name is for
/// phases only.
pub(super) fn launcher(dir: &Path, phases: bool) -> Result<(), BuildError> {
    let make = || -> std::io::Result<()> {
        let lifecycle = dir.join("cnb/lifecycle");
        fs::create_dir_all(&lifecycle)?;
        let program = lifecycle.join("launcher");
        fs::write(&program, LAUNCHER)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        if phases {
            symlink("launcher", lifecycle.join("phase"))?;
        }
        Ok(())
    };
    make().map_err(BuildError::disk("make", dir))
}

/// A directory of the node with the platform's files: one a variable.
pub(super) fn platform<'v>(
    dir: &Path,
    vars: impl Iterator<Item = (&'v EnvName, &'v String)>,
) -> Result<(), BuildError> {
    let make = || -> std::io::Result<()> {
        let env = dir.join("platform/env");
        fs::create_dir_all(&env)?;
        for (name, value) in vars {
            if !matches!(name.as_str(), "PORT" | "HOME") {
                fs::write(env.join(name.as_str()), value)?;
            }
        }
        Ok(())
    };
    make().map_err(BuildError::disk("make", dir))
}

/// What a buildpack of `api` is told of the machine.
pub(super) fn target_env(target: &Target, api: berth_buildpacks::cnb::Api) -> Vec<(String, String)> {
    use berth_buildpacks::cnb::Api;
    let mut env = Vec::new();
    let mut set = |name: &str, value: &str| {
        if !value.is_empty() {
            env.push((name.to_owned(), value.to_owned()));
        }
    };
    if api >= Api(0, 10) {
        set("CNB_TARGET_OS", &target.os);
        set("CNB_TARGET_ARCH", &target.arch);
        set("CNB_TARGET_ARCH_VARIANT", &target.variant);
        set("CNB_TARGET_DISTRO_NAME", &target.distro);
        set("CNB_TARGET_DISTRO_VERSION", &target.distro_version);
    } else {
        set("CNB_STACK_ID", &target.stack_id);
    }
    if api >= Api(0, 12) {
        set("CNB_EXEC_ENV", "production");
    }
    env
}
