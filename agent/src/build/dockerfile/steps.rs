//! One step's layer: found under its key, or made.

use super::super::error::BuildError;
use super::super::sandbox::{self, Program};
use super::super::view::{Node, View};
use super::super::{CONTAINER_PREFIX, source, upper};
use super::copy::{self, Writer};
use super::find::{Found, Place, find};
use super::tools::Fetched;
use super::{Below, Building, archive};
use crate::images::layers::{Known, Scope};
use crate::images::upstream::{self, Fetch, Https};
use berth_buildpacks::dockerfile::{Copy, GitSource, Origin, Run, Source, Step, Work};
use berth_model::{ContainerId, Digest};
use http::HeaderMap;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Tells versions of the key's own make-up apart.
const KEY_FORMAT: &str = "berth-dockerfile-2";
/// Largest download of an ADD, in bytes.
const MAX_DOWNLOAD: u64 = 2 << 30;

impl Building<'_> {
    pub(super) async fn make(
        &mut self,
        step: &Step,
        work: &Work,
        launch: bool,
        below: &Below,
    ) -> Result<Known, BuildError> {
        let contents = self.contents(work).await?;
        let text = serde_json::to_vec(&(KEY_FORMAT, launch, below.chain(), work, &contents.keys));
        let text = text.map_err(|error| BuildError::Plan(error.to_string()))?;
        let key = Digest::of(&text).hex().to_owned();
        let scope = Scope::App(self.job.request.app.clone());
        let layers = self.job.images().layers();
        if let Some(known) = layers.known(&scope, &key)
            && (layers.has(&known.layer.diff_id) || launch && self.job.is_in_registry(&known).await?)
        {
            self.announce(&step.text, " (cached)").await;
            return Ok(known);
        }
        self.announce(&step.text, "").await;
        let view = self.view(below).await?;
        let dir = match work {
            Work::Run(run) => self.run(step, run, view).await?,
            Work::Copy(copy) => self.copy(copy, contents, view).await?,
            Work::Directory { path, user } => self.directory(path, user, view).await?,
        };
        if self.job.stop.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        self.job.keep(&scope, &key, launch, dir, self.publishing).await
    }

    /// What the step reads besides the layers below.
    async fn contents(&mut self, work: &Work) -> Result<Contents, BuildError> {
        let mut contents = Contents::default();
        match work {
            Work::Directory { .. } => {}
            Work::Run(run) => {
                for mount in &run.mounts {
                    if let Some(key) = self.mount_key(mount).await? {
                        contents.keys.push(key);
                    }
                }
            }
            Work::Copy(copy) => match &copy.from {
                Origin::Context => {
                    contents.downloads = self.downloads(copy).await?;
                    contents.keys.extend(contents.downloads.iter().map(|(_, _, digest)| digest.to_string()));
                    contents.repositories = self.repositories(copy).await?;
                    contents.keys.extend(contents.repositories.iter().map(|(git, found)| {
                        found.as_ref().map_or_else(|| git.reference.clone(), |found| found.commit.clone())
                    }));
                    let (copy, context) = (copy.clone(), self.context.clone());
                    let place = Place::Context(self.ignore.clone());
                    let work = move || {
                        let found = find(&copy, &View::new(vec![context]), &place)?;
                        let digest = copy::digest(&found, &copy.exclude, copy.parents)?;
                        Ok::<_, BuildError>((found, digest))
                    };
                    let (found, digest) = tokio::task::spawn_blocking(work).await??;
                    contents.found = Some(found);
                    contents.keys.push(digest);
                }
                origin => {
                    contents.keys.extend(self.origin(origin).await?.chain().into_iter().map(str::to_owned));
                }
            },
        }
        Ok(contents)
    }

    /// The stage or image that files come from.
    pub(super) async fn origin(&mut self, origin: &Origin) -> Result<Below, BuildError> {
        match origin {
            Origin::Context => Ok(Below::default()),
            Origin::Stage(index) => Ok(self.stages.get(index).cloned().unwrap_or_default()),
            Origin::Image(name) => {
                if let Some(known) = self.images.get(name) {
                    return Ok(known.clone());
                }
                let found = self.job.base(name).await.map_err(|error| self.or_a_stage(name, error))?;
                self.images.insert(name.clone(), found.clone());
                Ok(found)
            }
        }
    }

    /// `--from=bulid`: a name like this may be a stage that is not there.
    fn or_a_stage(&self, name: &str, error: BuildError) -> BuildError {
        let names: Vec<&str> = self.program.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        match error {
            BuildError::Plan(text) if !name.contains(['/', ':', '.']) && !names.is_empty() => {
                BuildError::Plan(format!(
                    "there is no stage {name:?} (stages are: {}), so it is an image: {text}",
                    names.join(", ")
                ))
            }
            error => error,
        }
    }

    /// Where files of `origin` are, and what to call it.
    pub(super) async fn place(&mut self, origin: &Origin) -> Result<(View, Place), BuildError> {
        let name = match origin {
            Origin::Context => {
                return Ok((View::new(vec![self.context.clone()]), Place::Context(self.ignore.clone())));
            }
            Origin::Stage(index) => {
                let name = self.program.stages[*index].name.clone().unwrap_or_else(|| index.to_string());
                format!("the stage {name}")
            }
            Origin::Image(name) => format!("the image {name}"),
        };
        let below = self.origin(origin).await?;
        Ok((self.view(&below).await?, Place::Named(name)))
    }

    /// Fetches the git repositories of an ADD: only their commits tell whether the step is known. One that is named by
    /// its whole id waits until it is needed.
    async fn repositories(&mut self, copy: &Copy) -> Result<Vec<(GitSource, Option<Fetched>)>, BuildError> {
        let mut repositories = Vec::new();
        for source in &copy.sources {
            let Source::Git(git) = source else { continue };
            let whole = matches!(git.reference.len(), 40 | 64)
                && git.reference.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            let fetched = if whole { None } else { Some(self.git(git).await?) };
            repositories.push((git.clone(), fetched));
        }
        Ok(repositories)
    }

    /// Fetches the URLs of an ADD: only their contents tell whether the step is known.
    async fn downloads(&self, copy: &Copy) -> Result<Vec<(OsString, PathBuf, Digest)>, BuildError> {
        let mut downloads = Vec::new();
        for source in &copy.sources {
            let Source::Url(url) = source else { continue };
            let name = copy::file_name(url).or_else(|| (!copy.dest.ends_with('/')).then(|| "file".into()));
            let name = name.ok_or_else(|| {
                BuildError::Plan(format!(
                    "{url} names no file; give the destination a name instead of ending it with /"
                ))
            })?;
            let path = source::fresh(&self.job.dir, "download");
            let fetching = async {
                let https = Https::new(&[]).await?;
                let reply = upstream::checked(https.get(url, HeaderMap::new()).await?).await?;
                upstream::save(reply.body, &path, MAX_DOWNLOAD).await
            };
            let fetched = tokio::select! {
                fetched = fetching => fetched,
                () = self.job.stop.cancelled() => return Err(BuildError::Cancelled),
            };
            let fetched =
                fetched.map_err(|error| BuildError::Plan(format!("{url} cannot be fetched: {error}")));
            let (digest, _) = fetched?;
            if let Some(wanted) = &copy.checksum
                && wanted != digest.as_str()
            {
                return Err(BuildError::Plan(format!("{url} is {digest}, but --checksum says {wanted}")));
            }
            downloads.push((name, path, digest));
        }
        Ok(downloads)
    }

    async fn directory(&self, path: &str, user: &str, view: View) -> Result<PathBuf, BuildError> {
        let dir = source::fresh(&self.job.dir, "layer");
        let (to, path, user) = (dir.clone(), path.to_owned(), user.to_owned());
        tokio::task::spawn_blocking(move || {
            let failed = |error| BuildError::disk("make", &path)(error);
            let owner = if user.is_empty() { None } else { Some(copy::owner(&user, &view)?) };
            let writer = Writer::new(&to, &view, owner, None).map_err(failed)?;
            let (place, is_there) = writer.place(&path).map_err(failed)?;
            if !is_there {
                writer.make(&place).map_err(failed)?;
            }
            upper::finish(&to)
        })
        .await??;
        Ok(dir)
    }

    async fn copy(&mut self, copy: &Copy, mut contents: Contents, view: View) -> Result<PathBuf, BuildError> {
        let (from, place) = self.place(&copy.from).await?;
        for (git, fetched) in &mut contents.repositories {
            if fetched.is_none() {
                *fetched = Some(self.git(git).await?);
            }
        }
        if copy.unpack {
            for (index, source) in contents.found.iter().flatten().enumerate() {
                let Some(program) = archive::program(source)? else { continue };
                if let Node::Other(path, _) = &source.node {
                    contents.plain.insert(index, self.decompressed(program, path).await?);
                }
            }
        }
        let dir = source::fresh(&self.job.dir, "layer");
        let (to, copy, scratch) = (dir.clone(), copy.clone(), source::fresh(&self.job.dir, "unpacked"));
        tokio::task::spawn_blocking(move || {
            let found = match contents.found.take() {
                Some(found) => found,
                None => find(&copy, &from, &place)?,
            };
            write(&copy, found, &contents, &view, &to, &scratch)?;
            upper::finish(&to)
        })
        .await??;
        Ok(dir)
    }

    async fn run(&mut self, step: &Step, run: &Run, view: View) -> Result<PathBuf, BuildError> {
        let base = self.turn.base;
        let id = format!("{CONTAINER_PREFIX}{}.{}", self.job.request.id, self.step);
        let id = ContainerId::parse(&id).map_err(|error| BuildError::Plan(error.to_string()))?;
        let lowers = view.layers().to_vec();
        if lowers.is_empty() {
            let text =
                "RUN has nothing to run here: the stage stands on scratch and has no files yet".to_owned();
            return Err(BuildError::Plan(text));
        }
        let mounted = self.mounts(run).await?;
        let mut env: Vec<(String, String)> =
            run.env.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect();
        env.extend(mounted.env);
        // One pipe for both outputs keeps their lines in order; only a shell can make it one.
        let argv = match &run.script {
            Some(script) => ["/bin/sh", "-c", "exec /bin/sh -c \"$1\" 2>&1 </dev/null", "build", script]
                .map(str::to_owned)
                .to_vec(),
            None => run.argv.clone(),
        };
        let mut files: Vec<(PathBuf, Vec<u8>)> =
            run.files.iter().map(|(path, text)| (path.into(), text.clone().into_bytes())).collect();
        files.extend(mounted.files);
        let step_upper = source::fresh(&self.job.dir, "upper");
        source::make_dir(&step_upper, base).map_err(BuildError::disk("make", &step_upper))?;
        let relative = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_owned();
        let places: Vec<PathBuf> = mounted
            .binds
            .iter()
            .map(|(_, to)| to)
            .chain(files.iter().map(|(to, _)| to))
            .map(|to| relative(to))
            .collect();
        // A mount's place may be below a link of the image; what was made for it lies where that leads.
        let places = places
            .into_iter()
            .map(|path| view.resolve(&path, true).map_or(path, |found| found.path))
            .collect::<Vec<_>>();
        let sandbox_step = sandbox::Step {
            dir: self.job.dir.join(id.as_str()),
            id,
            app: self.job.request.app.clone(),
            upper: step_upper.clone(),
            lowers,
            script: run.script.clone().unwrap_or_else(|| run.argv.join(" ")),
            env,
            caches: mounted.binds,
            as_root: true,
            limits: self.job.request.limits.clone(),
            base,
            program: Some(Program {
                argv,
                user: run.user.clone(),
                cwd: run.cwd.clone().into(),
                files,
                read_only: mounted.read_only,
                online: run.online,
            }),
        };
        self.job.run_step(&step.text, &sandbox_step).await?;
        let layer = source::fresh(&self.job.dir, "layer");
        let to = layer.clone();
        tokio::task::spawn_blocking(move || upper::capture_all(&step_upper, &to, &places, base)).await??;
        Ok(layer)
    }
}

/// What a step reads besides the layers below.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Hashes of it.
    keys: Vec<String>,
    /// Sources in the pushed tree.
    found: Option<Vec<Found>>,
    /// What URLs gave: name, file, digest.
    downloads: Vec<(OsString, PathBuf, Digest)>,
    /// Git repositories, as far as they are fetched.
    repositories: Vec<(GitSource, Option<Fetched>)>,
    /// What sources are without their compression, by index.
    plain: HashMap<usize, PathBuf>,
}

fn write(
    copy: &Copy,
    mut found: Vec<Found>,
    contents: &Contents,
    view: &View,
    to: &Path,
    scratch: &Path,
) -> Result<(), BuildError> {
    let failed = |error| BuildError::disk("copy to", &copy.dest)(error);
    let owner = copy.chown.as_deref().map(|text| copy::owner(text, view)).transpose()?;
    let writer = Writer::new(to, view, owner, copy.chmod.as_ref()).map_err(failed)?;
    if copy.unpack && copy.from == Origin::Context {
        let mut plain = Vec::new();
        for (index, source) in found.into_iter().enumerate() {
            let packed = match contents.plain.get(&index) {
                Some(plain) => {
                    let metadata = fs::symlink_metadata(plain).map_err(BuildError::disk("read", plain))?;
                    Found { node: Node::Other(plain.clone(), metadata), ..source.clone() }
                }
                None => source.clone(),
            };
            match archive::unpacked(&packed, &scratch.with_extension(index.to_string()))? {
                Some(files) => {
                    writer.copy(&Copy { dest: format!("{}/", copy.dest), ..copy.clone() }, &[files])?;
                }
                None => plain.push(source),
            }
        }
        found = plain;
    }
    writer.copy(copy, &found)?;
    let trees = contents.repositories.iter().filter_map(|(git, fetched)| Some((git, fetched.as_ref()?)));
    for (git, fetched) in trees {
        let directory = Copy { dest: format!("{}/", copy.dest), parents: false, ..copy.clone() };
        // What git wrote is root's, as with Docker, whoever it ran as.
        writer.owned_by(owner.unwrap_or((0, 0))).copy(&directory, &[fetched.found(git)?])?;
    }
    let (place, is_directory) = writer.place(&copy.dest).map_err(failed)?;
    let into = is_directory || copy.dest.ends_with('/') || copy.sources.len() > 1;
    let path = |name: &OsStr| if into { place.join(name) } else { place.clone() };
    for source in &copy.sources {
        if let Source::Inline(name, content) = source {
            writer.file(&path(OsStr::new(name)), &mut content.as_bytes(), 0o644).map_err(failed)?;
        }
    }
    for (name, file, _) in &contents.downloads {
        let mut content = File::open(file).map_err(BuildError::disk("read", file))?;
        writer.file(&path(name), &mut content, 0o600).map_err(failed)?;
    }
    Ok(())
}
