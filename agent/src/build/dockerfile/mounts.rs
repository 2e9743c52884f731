//! `RUN --mount`: caches, files of elsewhere, secrets, empty directories.
//!
//! In: the mounts of a RUN. Out: directories of the node to bind, small files and variables. A cache belongs to the app;
//! files of elsewhere are a copy, so that nothing the step does reaches a layer or the tree.

use super::super::error::BuildError;
use super::super::source;
use super::super::view::View;
use super::Building;
use super::copy::{self, Writer};
use super::find::{Found, Place, find};
use berth_buildpacks::dockerfile::{Copy, Mount, MountKind, Origin, Run, Source};
use berth_model::Digest;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// What a step's mounts come to.
#[derive(Debug, Default)]
pub(super) struct Mounted {
    /// (directory or file of the node, place in the container).
    pub(super) binds: Vec<(PathBuf, PathBuf)>,
    /// Which of them may not be written, by place.
    pub(super) read_only: Vec<PathBuf>,
    /// Place, bytes.
    pub(super) files: Vec<(PathBuf, Vec<u8>)>,
    /// Variables.
    pub(super) env: Vec<(String, String)>,
}

impl Building<'_> {
    /// A hash of what a mount brings, if its contents matter: those of caches and secrets do not.
    pub(super) async fn mount_key(&mut self, mount: &Mount) -> Result<Option<String>, BuildError> {
        let (from, source) = match &mount.kind {
            MountKind::Bind { from, source } => (from, source),
            MountKind::Cache { from: Some((from, source)), .. } => (from, source),
            _ => return Ok(None),
        };
        if *from != Origin::Context {
            return Ok(Some(self.origin(from).await?.chain().join(" ")));
        }
        let (copy, context, place) =
            (whole(source), self.context.clone(), Place::Context(self.ignore.clone()));
        let digest = move || copy::digest(&find(&copy, &View::new(vec![context]), &place)?, &[], false);
        tokio::task::spawn_blocking(digest).await?.map(Some)
    }

    pub(super) async fn mounts(&mut self, run: &Run) -> Result<Mounted, BuildError> {
        let mut mounted = Mounted::default();
        for mount in &run.mounts {
            let target = PathBuf::from(mount.target.trim_end_matches('/'));
            let node = match &mount.kind {
                MountKind::Secret { id, env, required } => {
                    self.secret(id, env.as_deref(), *required, &mount.target, &mut mounted)?;
                    continue;
                }
                MountKind::Cache { id, uid, gid, mode, from } => {
                    self.cache(id, (*uid, *gid), *mode, from.as_ref()).await?
                }
                MountKind::Tmpfs => {
                    let dir = source::fresh(&self.job.dir, "tmpfs");
                    directory(&dir, (0, 0), 0o1777)?;
                    dir
                }
                MountKind::Bind { from, source } => self.bound(from, source).await?,
            };
            if mount.read_only {
                mounted.read_only.push(target.clone());
            }
            mounted.binds.push((node, target));
        }
        Ok(mounted)
    }

    fn secret(
        &self,
        id: &str,
        env: Option<&str>,
        required: bool,
        target: &str,
        mounted: &mut Mounted,
    ) -> Result<(), BuildError> {
        let config = &self.job.request.config;
        let Some((_, value)) = config.iter().find(|(name, _)| name.as_str() == id) else {
            if required {
                let app = &self.job.request.app;
                return Err(BuildError::Plan(format!(
                    "the secret {id} is required, but there is no such config var; set it: berth config:set {app} {id}=VALUE"
                )));
            }
            return Ok(());
        };
        if let Some(name) = env {
            mounted.env.push((name.to_owned(), value.clone()));
        }
        if !target.is_empty() {
            mounted.files.push((target.into(), value.clone().into_bytes()));
        }
        Ok(())
    }

    /// The app's own directory for a cache, made when it is first asked for.
    async fn cache(
        &mut self,
        id: &str,
        owner: (u32, u32),
        mode: u32,
        from: Option<&(Origin, String)>,
    ) -> Result<PathBuf, BuildError> {
        let app = self.job.shared.caches.join(self.job.request.app.as_str());
        source::make_dir(&app, 0).map_err(BuildError::disk("make", &app))?;
        let digest = Digest::of(id.as_bytes());
        let dir = app.join(format!("dockerfile-{}", &digest.hex()[..32]));
        if dir.is_dir() {
            return Ok(dir);
        }
        let Some((origin, path)) = from else {
            directory(&dir, owner, mode)?;
            return Ok(dir);
        };
        let filled = self.bound(origin, path).await?;
        if !filled.is_dir() {
            return Err(BuildError::Plan(format!("a cache begins with a directory, but {path:?} is a file")));
        }
        // Whole or not at all: a build that is stopped here leaves nothing under the cache's name.
        fs::rename(&filled, &dir).map_err(BuildError::disk("make", &dir))?;
        Ok(dir)
    }

    /// A copy of what is at `path` of `from`.
    async fn bound(&mut self, from: &Origin, path: &str) -> Result<PathBuf, BuildError> {
        let (view, place) = self.place(from).await?;
        let dir = source::fresh(&self.job.dir, "bound");
        let (copy, to) = (whole(path), dir.clone());
        tokio::task::spawn_blocking(move || {
            let found = find(&copy, &view, &place)?;
            let nothing = View::default();
            let writer = Writer::new(&to, &nothing, None, None).map_err(BuildError::disk("make", &to))?;
            let [Found { node, .. }] = found.as_slice() else {
                return Err(BuildError::Plan("a bind mount has exactly one source".to_owned()));
            };
            let name = if node.is_directory() { "/" } else { "/file" };
            let copy = Copy { dest: name.to_owned(), ..copy };
            writer.copy(&copy, &found)?;
            Ok(if node.is_directory() { to } else { to.join("file") })
        })
        .await?
    }
}

fn whole(path: &str) -> Copy {
    Copy {
        sources: vec![Source::Path(if path.is_empty() { "/".to_owned() } else { path.to_owned() })],
        dest: "/".to_owned(),
        from: Origin::Context,
        chown: None,
        chmod: None,
        parents: false,
        exclude: Vec::new(),
        unpack: false,
        checksum: None,
    }
}

fn directory(path: &Path, owner: (u32, u32), mode: u32) -> Result<(), BuildError> {
    let made = (|| {
        fs::create_dir(path)?;
        chown(path, Some(owner.0), Some(owner.1))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    })();
    made.map_err(BuildError::disk("make", path))
}
