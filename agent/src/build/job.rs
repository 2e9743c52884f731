//! One build, from request to image.

use super::error::BuildError;
use super::output::Lines;
use super::sandbox::Step;
use super::{CONTAINER_PREFIX, Input, Shared, Turn, say, source, upper};
use crate::images::layers::{Known, Scope, remove_tree};
use crate::images::oci::{self, Descriptor, LAYER_TYPE, Label, Layer};
use crate::images::pack::{TemporaryFile, pack};
use crate::images::{ImageError, Images};
use berth_model::build::{BuildEvent, BuildRequest, LayerPlan, Make};
use berth_model::image::{Image, ImageConfig, ImageRef, Process};
use berth_model::{ContainerId, Digest, ProcessType};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::io::SyncIoBridge;
use tokio_util::sync::CancellationToken;

/// Most chunks of output between a step and whoever reads it.
const OUTPUT_CHUNKS: usize = 32;

/// One build.
pub(crate) struct Job {
    pub(super) shared: Arc<Shared>,
    pub(super) request: Arc<BuildRequest>,
    pub(super) events: mpsc::Sender<BuildEvent>,
    pub(super) stop: CancellationToken,
    /// `DIR/agent/builds/<id>`; made when something must be made.
    pub(super) dir: PathBuf,
}

/// All that an image is made of.
pub(super) struct Parts {
    /// Bottom first, those of the image below too.
    pub(super) layers: Vec<Known>,
    pub(super) config: ImageConfig,
    pub(super) label: Label,
}

/// What is known of a planned layer before anything is made.
struct Planned {
    scope: Scope,
    known: Option<Known>,
    make: bool,
}

impl Job {
    pub(crate) fn new(
        shared: Arc<Shared>,
        request: BuildRequest,
        events: mpsc::Sender<BuildEvent>,
        stop: CancellationToken,
    ) -> Self {
        let dir = shared.builds.join(request.id.as_str());
        Self { shared, request: Arc::new(request), events, stop, dir }
    }

    pub(super) fn images(&self) -> &Images {
        &self.shared.images
    }

    pub(crate) async fn run(
        self,
        source: impl FnOnce(CancellationToken) -> Input,
    ) -> Result<Image, BuildError> {
        // Kept until everything is cleaned up: the next build of the app finds the place as it should be.
        let mut turn = None;
        let result = self.build(source(self.stop.clone()), &mut turn).await;
        let dir = self.dir.clone();
        let cleaned = tokio::task::spawn_blocking(move || remove_tree(&dir)).await;
        if let Ok(Err(error)) = cleaned {
            tracing::warn!(%error, path = %self.dir.display(), "cannot remove a build's directory");
        }
        drop(turn);
        result
    }

    async fn build(&self, input: Input, turn: &mut Option<Turn>) -> Result<Image, BuildError> {
        let mut publishing = JoinSet::new();
        let result = self.build_and_publish(input, turn, &mut publishing).await;
        // Pushes of a build that failed hold files in its directory.
        publishing.shutdown().await;
        result
    }

    async fn build_and_publish(
        &self,
        mut input: Input,
        turn: &mut Option<Turn>,
        publishing: &mut JoinSet<Result<(), BuildError>>,
    ) -> Result<Image, BuildError> {
        if let Some(file) = &self.request.plan.dockerfile {
            let held = turn.insert(self.shared.turn(&self.request.app, &self.events, &self.stop).await?);
            let mut parts = self.dockerfile(file, input, held, publishing).await?;
            self.predeploy(&mut parts, turn, publishing).await?;
            return self.publish_unless_stopped(parts, publishing).await;
        }
        if let Some(name) = &self.request.plan.image {
            self.read_away(&mut input).await?;
            let parts = self.as_it_is(name).await?;
            return self.publish_unless_stopped(parts, publishing).await;
        }
        if let Some(cnb) = &self.request.plan.cnb {
            let held = turn.insert(self.shared.turn(&self.request.app, &self.events, &self.stop).await?);
            let mut parts = self.buildpacks(cnb, input, held, publishing).await?;
            self.predeploy(&mut parts, turn, publishing).await?;
            return self.publish_unless_stopped(parts, publishing).await;
        }
        let planned = self.look_up().await?;
        let layers = if planned.iter().any(|planned| planned.make) {
            let turn = turn.insert(self.shared.turn(&self.request.app, &self.events, &self.stop).await?);
            self.make(planned, input, turn, publishing).await?
        } else {
            self.read_away(&mut input).await?;
            let launch = planned.into_iter().zip(&self.request.plan.layers).filter(|(_, plan)| plan.launch);
            launch.filter_map(|(planned, _)| planned.known).collect()
        };
        let plan = &self.request.plan;
        let base = self.images().describe(&plan.run_image).await?.layers.into_iter();
        let stack = base.map(|layer| Known { layer, repository: plan.run_image.repository.clone() });
        let label = Label {
            builder: plan.builder.clone(),
            processes: plan.processes.clone(),
            exposed_ports: Vec::new(),
            healthcheck: None,
        };
        let mut parts = Parts { layers: stack.chain(layers).collect(), config: plan.config.clone(), label };
        self.predeploy(&mut parts, turn, publishing).await?;
        self.publish_unless_stopped(parts, publishing).await
    }

    /// Whoever sends the tree must not find the connection closed in the middle of it.
    async fn read_away(&self, input: &mut Input) -> Result<(), BuildError> {
        let read = tokio::io::copy(input, &mut tokio::io::sink()).await;
        read.map(drop).map_err(|error| BuildError::Source(ImageError::disk("read", "the push")(error)))
    }

    async fn publish_unless_stopped(
        &self,
        parts: Parts,
        publishing: &mut JoinSet<Result<(), BuildError>>,
    ) -> Result<Image, BuildError> {
        tokio::select! {
            published = self.publish(parts, publishing) => published,
            () = self.stop.cancelled() => Err(BuildError::Cancelled),
        }
    }

    /// Which layers are there, and which must be made.
    async fn look_up(&self) -> Result<Vec<Planned>, BuildError> {
        let layers = self.images().layers();
        let mut planned: Vec<Planned> = Vec::new();
        for plan in &self.request.plan.layers {
            if plan.key.len() != 64
                || !plan.key.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            {
                return Err(BuildError::Plan(format!(
                    "the key of layer {} is not 64 hexadecimal digits",
                    plan.name
                )));
            }
            let shared_below = planned.iter().all(|below| below.scope == Scope::Shared);
            let scope = match &plan.make {
                // Nothing of the app has a part in it: no sources, no caches that it could have filled, nothing below.
                Make::Script { sources, caches, .. }
                    if sources.is_empty() && caches.is_empty() && shared_below =>
                {
                    Scope::Shared
                }
                _ => Scope::App(self.request.app.clone()),
            };
            let mut known = layers.known(&scope, &plan.key);
            if let Some(found) = &known
                && plan.launch
                && !layers.has(&found.layer.diff_id)
                && !self.is_in_registry(found).await?
            {
                known = None;
            }
            planned.push(Planned { scope, make: known.is_none(), known });
        }
        let scripts = |index: &usize| matches!(self.request.plan.layers[*index].make, Make::Script { .. });
        let last = (0..planned.len()).rev().find(|index| planned[*index].make && scripts(index));
        for (index, planned) in planned.iter_mut().enumerate().take(last.unwrap_or(0)) {
            // Tools that a step needs and that are no longer on this disk; they are in no registry.
            let gone = planned.known.as_ref().is_some_and(|known| !layers.has(&known.layer.diff_id));
            planned.make |= gone && !self.request.plan.layers[index].launch;
        }
        Ok(planned)
    }

    pub(super) async fn is_in_registry(&self, known: &Known) -> Result<bool, BuildError> {
        let (remote, digest) = (self.images().remote(), &known.layer.blob.digest);
        let repository = &self.request.repository;
        if remote.has(repository, "blobs", digest).await? {
            return Ok(true);
        }
        Ok(known.repository != *repository && remote.mount(repository, digest, &known.repository).await?)
    }

    /// Makes what must be made. Gives the image's own layers in order; their blobs may still be on their way.
    async fn make(
        &self,
        planned: Vec<Planned>,
        input: Input,
        turn: &Turn,
        publishing: &mut JoinSet<Result<(), BuildError>>,
    ) -> Result<Vec<Known>, BuildError> {
        let plan = &self.request.plan;
        fs::create_dir_all(&self.dir).map_err(BuildError::disk("make", &self.dir))?;
        let tree = self.receive(&planned, input).await?;
        if tree.join("app").exists() {
            self.submodules(&tree.join("app"), source::APP, turn).await?;
        }
        let is_script = |plan: &LayerPlan| matches!(plan.make, Make::Script { .. });
        let last_script =
            plan.layers.iter().zip(&planned).rposition(|(plan, planned)| planned.make && is_script(plan));
        let mut lowers = Vec::new();
        if last_script.is_some() {
            lowers = self.images().ensure(&plan.build_image).await?.lowers;
        }
        let mut launch = Vec::new();
        for (index, (plan, planned)) in plan.layers.iter().zip(planned).enumerate() {
            let wanted_below = last_script.is_some_and(|last| index < last);
            let known = match planned.known {
                Some(known) if !planned.make => {
                    if wanted_below && !self.images().layers().has(&known.layer.diff_id) {
                        self.images()
                            .ensure_layer(self.request.repository.clone(), known.layer.clone())
                            .await?;
                    }
                    if is_script(plan) && plan.launch {
                        say(&self.events, format!("Using cached {}", plan.name)).await;
                    }
                    known
                }
                _ => self.make_layer(index, plan, &planned.scope, &tree, &lowers, turn, publishing).await?,
            };
            if wanted_below {
                lowers.insert(0, self.images().layers().path(&known.layer.diff_id));
            }
            if plan.launch {
                launch.push(known);
            }
        }
        Ok(launch)
    }

    /// Unpacks the tree if something needs it; otherwise reads it away.
    async fn receive(&self, planned: &[Planned], mut input: Input) -> Result<PathBuf, BuildError> {
        let tree = source::fresh(&self.dir, "tree");
        fs::create_dir(&tree).map_err(BuildError::disk("make", &tree))?;
        let made = || self.request.plan.layers.iter().zip(planned).filter(|(_, planned)| planned.make);
        let scripts =
            made().any(|(plan, _)| matches!(&plan.make, Make::Script { sources, .. } if !sources.is_empty()));
        let excludes: Vec<&Vec<String>> = made()
            .filter_map(|(plan, _)| match &plan.make {
                Make::Source { exclude } => Some(exclude),
                Make::Script { .. } => None,
            })
            .collect();
        if !scripts && excludes.is_empty() {
            let read = tokio::io::copy(&mut input, &mut tokio::io::sink()).await;
            read.map_err(|error| BuildError::Source(ImageError::disk("read", "the push")(error)))?;
            return Ok(tree);
        }
        // If the app's layer is all that needs it, what it leaves out is not even written.
        let exclude = match excludes.as_slice() {
            [only] if !scripts => (*only).clone(),
            _ => Vec::new(),
        };
        let (input, into) = (SyncIoBridge::new(input), tree.clone());
        let received = tokio::task::spawn_blocking(move || source::receive(input, &into, &exclude)).await?;
        if self.stop.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        received.map(|()| tree)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one thing that a layer is made from")]
    async fn make_layer(
        &self,
        index: usize,
        plan: &LayerPlan,
        scope: &Scope,
        tree: &Path,
        lowers: &[PathBuf],
        turn: &Turn,
        publishing: &mut JoinSet<Result<(), BuildError>>,
    ) -> Result<Known, BuildError> {
        say(&self.events, &plan.title).await;
        for note in &plan.notes {
            let _ = self.events.send(BuildEvent::Detail { text: note.clone() }).await;
        }
        let dir = match &plan.make {
            Make::Source { exclude } => self.source_layer(index, tree, exclude).await?,
            Make::Script { .. } => self.script_layer(index, plan, tree, lowers, turn.base).await?,
        };
        self.keep(scope, &plan.key, plan.launch, dir, publishing).await
    }

    /// Makes a finished directory a layer that is found under `key`; if an image gets it, its blob is sent on its way.
    pub(super) async fn keep(
        &self,
        scope: &Scope,
        key: &str,
        launch: bool,
        dir: PathBuf,
        publishing: &mut JoinSet<Result<(), BuildError>>,
    ) -> Result<Known, BuildError> {
        let (known, blob) = self.take_over(key, launch, dir).await?;
        self.images().layers().remember(scope, key, &known)?;
        if let Some(blob) = blob {
            // Pushed while the next step runs.
            let (images, repository, known) =
                (self.images().clone(), self.request.repository.clone(), known.clone());
            publishing.spawn(async move { publish_layer(&images, &repository, &known, Some(blob)).await });
        }
        Ok(known)
    }

    async fn source_layer(
        &self,
        index: usize,
        tree: &Path,
        exclude: &[String],
    ) -> Result<PathBuf, BuildError> {
        let wants_tree = |plan: &LayerPlan| match &plan.make {
            Make::Source { .. } => true,
            Make::Script { sources, .. } => !sources.is_empty(),
        };
        let later = self.request.plan.layers[index + 1..].iter().any(wants_tree);
        let dir = source::fresh(&self.dir, "layer");
        let (tree, to, exclude) = (tree.to_owned(), dir.clone(), exclude.to_vec());
        tokio::task::spawn_blocking(move || {
            if later {
                source::make_dir(&to, 0).map_err(BuildError::disk("make", &to))?;
                source::copy(&tree, &["app".to_owned()], &to, source::APP)?;
            } else {
                fs::rename(&tree, &to).map_err(BuildError::disk("move", &tree))?;
            }
            source::prune(&to.join("app"), &exclude)?;
            source::set_time(&to.join("app")).map_err(BuildError::disk("set the time of", &to))
        })
        .await??;
        Ok(dir)
    }

    pub(super) async fn script_layer(
        &self,
        index: usize,
        plan: &LayerPlan,
        tree: &Path,
        lowers: &[PathBuf],
        base: u32,
    ) -> Result<PathBuf, BuildError> {
        let Make::Script { script, env, sources, keep_app, outputs, caches, as_root } = &plan.make else {
            return Err(BuildError::Plan(format!("layer {} has no script", plan.name)));
        };
        let id = format!("{CONTAINER_PREFIX}{}.{index}", self.request.id);
        let id = ContainerId::parse(&id).map_err(|error| BuildError::Plan(error.to_string()))?;
        let mut outputs = outputs.iter().map(|path| upper::absolute(path)).collect::<Result<Vec<_>, _>>()?;
        if *keep_app {
            outputs.push("app".into());
        }
        let mut mounts = Vec::new();
        for (name, target) in caches {
            mounts.push((self.cache(name)?, upper::absolute(target)?));
        }
        let (step_upper, step_sources) =
            (source::fresh(&self.dir, "upper"), source::fresh(&self.dir, "sources"));
        let mut lowers = lowers.to_vec();
        let owner = if *as_root { 0 } else { source::BUILD };
        // Kept sources are written where the step writes; others lie below, so that its own files stand out.
        let (copy_to, copy_owner) =
            if *keep_app { (&step_upper, base + owner) } else { (&step_sources, owner) };
        if !*keep_app {
            lowers.insert(0, step_sources.clone());
        }
        let prepare = {
            let (tree, sources, copy_to) = (tree.join("app"), sources.clone(), copy_to.clone());
            let (step_upper, lowers, outputs) = (step_upper.clone(), lowers.clone(), outputs.clone());
            move || {
                source::make_dir(&step_upper, base).map_err(BuildError::disk("make", &step_upper))?;
                source::make_dir(&copy_to, 0).map_err(BuildError::disk("make", &copy_to))?;
                let app = copy_to.join("app");
                source::make_dir(&app, copy_owner).map_err(BuildError::disk("make", &app))?;
                source::copy(&tree, &sources, &app, copy_owner)?;
                for output in
                    outputs.iter().filter(|path| !path.as_os_str().is_empty() && path.as_os_str() != "app")
                {
                    upper::prepare_output(&step_upper, &lowers, output, base, owner)?;
                }
                if owner != 0 {
                    upper::prepare_output(&step_upper, &lowers, Path::new("home/build"), base, owner)?;
                }
                Ok::<(), BuildError>(())
            }
        };
        tokio::task::spawn_blocking(prepare).await??;
        let step = Step {
            dir: self.dir.join(id.as_str()),
            id,
            app: self.request.app.clone(),
            upper: step_upper.clone(),
            lowers,
            script: script.clone(),
            env: self.environment(env).await?,
            caches: mounts.iter().map(|(dir, target)| (dir.clone(), Path::new("/").join(target))).collect(),
            as_root: *as_root,
            limits: self.request.limits.clone(),
            base,
            program: None,
        };
        self.run_step(&plan.title, &step).await?;
        let layer = source::fresh(&self.dir, "layer");
        let to = layer.clone();
        let mounts: Vec<PathBuf> = mounts.into_iter().map(|(_, target)| target).collect();
        tokio::task::spawn_blocking(move || upper::capture(&step_upper, &to, &outputs, &mounts, base))
            .await??;
        Ok(layer)
    }

    /// The image's environment, then the step's own. The plan has already put into that the config vars the step may see,
    /// and the layer's key covers them: any other would make a layer differ from what its key says.
    async fn environment(
        &self,
        own: &std::collections::BTreeMap<berth_model::EnvName, String>,
    ) -> Result<Vec<(String, String)>, BuildError> {
        let mut env = self.images().describe(&self.request.plan.build_image).await?.config.env;
        env.extend(own.iter().map(|(name, value)| (name.clone(), value.clone())));
        Ok(env.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    pub(super) fn cache(&self, name: &str) -> Result<PathBuf, BuildError> {
        let good = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !good {
            return Err(BuildError::Plan(format!("the name of cache {name:?} is not of a-z, 0-9 and -")));
        }
        let app = self.shared.caches.join(self.request.app.as_str());
        let dir = app.join(name);
        source::make_dir(&app, 0).map_err(BuildError::disk("make", &app))?;
        source::make_dir(&dir, source::BUILD).map_err(BuildError::disk("make", &dir))?;
        Ok(dir)
    }

    pub(super) async fn run_step(&self, title: &str, step: &Step) -> Result<(), BuildError> {
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(OUTPUT_CHUNKS);
        let events = self.events.clone();
        let forward = async move {
            let mut lines = Lines::default();
            while let Some(bytes) = receiver.recv().await {
                for text in lines.push(&bytes) {
                    let _ = events.send(BuildEvent::Detail { text }).await;
                }
            }
            if let Some(text) = lines.finish() {
                let _ = events.send(BuildEvent::Detail { text }).await;
            }
        };
        let (ended, ()) = tokio::join!(self.shared.sandbox.run(step, sender, &self.stop), forward);
        let (ended, title) = (ended?, title.to_owned());
        if self.stop.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        match ended.code {
            0 => Ok(()),
            _ if ended.oom_killed => {
                let limit =
                    step.limits.memory_mib.map_or_else(|| "there is".to_owned(), |mib| format!("{mib} MiB"));
                Err(BuildError::OutOfMemory { title, limit })
            }
            code => Err(BuildError::StepFailed { title, code }),
        }
    }

    /// Makes a finished directory a layer of this node, and packs it if an image gets it.
    async fn take_over(
        &self,
        key: &str,
        launch: bool,
        dir: PathBuf,
    ) -> Result<(Known, Option<TemporaryFile>), BuildError> {
        let (images, stop) = (self.images().clone(), self.stop.clone());
        let (name, repository) = (key.to_owned(), self.request.repository.clone());
        let blob = TemporaryFile(source::fresh(&self.dir, "blob"));
        tokio::task::spawn_blocking(move || {
            if !launch {
                // In no image and no registry: it needs a name of its own, not one of its bytes.
                let diff_id =
                    Digest::of(format!("tools {name} {}", crate::images::layers::random()).as_bytes());
                images.layers().adopt(&dir, &diff_id)?;
                let blob = Descriptor { media_type: String::new(), digest: diff_id.clone(), size: 0 };
                return Ok((Known { layer: Layer { diff_id, blob }, repository: String::new() }, None));
            }
            let packed =
                pack(&dir, &blob.0, &|| stop.is_cancelled()).map_err(BuildError::disk("pack", &dir))?;
            images.layers().adopt(&dir, &packed.diff_id)?;
            let descriptor =
                Descriptor { media_type: LAYER_TYPE.to_owned(), digest: packed.digest, size: packed.size };
            Ok((Known { layer: Layer { diff_id: packed.diff_id, blob: descriptor }, repository }, Some(blob)))
        })
        .await?
    }

    /// Has the registry acknowledge every blob, the config and the manifest.
    async fn publish(
        &self,
        parts: Parts,
        publishing: &mut JoinSet<Result<(), BuildError>>,
    ) -> Result<Image, BuildError> {
        let (images, remote, repository) = (self.images(), self.images().remote(), &self.request.repository);
        let Parts { layers, mut config, label } = parts;
        // Other engines know no process types: there the image runs its web.
        if config.entrypoint.is_empty()
            && config.cmd.is_empty()
            && let Some(Process::Command { argv }) = label.processes.get(&ProcessType::web())
        {
            config.cmd.clone_from(argv);
        }
        let all: Vec<Layer> = layers.iter().map(|known| known.layer.clone()).collect();
        let rendered = oci::render(&all, &config, Some(&label));
        let (document, manifest) = rendered.map_err(|error| BuildError::Plan(error.to_string()))?;
        let reference = ImageRef { repository: repository.clone(), digest: Digest::of(&manifest) };
        let was_made = !publishing.is_empty();
        while let Some(published) = publishing.join_next().await {
            published??;
        }
        // A registry that has the manifest has all that it names.
        if was_made || !remote.has(repository, "manifests", &reference.digest).await? {
            let mut missing = JoinSet::new();
            for known in layers {
                let (images, repository) = (images.clone(), repository.clone());
                missing.spawn(async move { publish_layer(&images, &repository, &known, None).await });
            }
            let digest = Digest::of(&document);
            if !remote.has(repository, "blobs", &digest).await? {
                remote.push_bytes(repository, &digest, document).await?;
            }
            while let Some(published) = missing.join_next().await {
                published??;
            }
            remote.put_manifest(repository, reference.digest.as_str(), manifest).await?;
        }
        let image = label.image(reference.clone());
        let described = oci::Described {
            repository: repository.clone(),
            layers: all,
            config,
            image: Some(image.clone()),
        };
        images.remember(&reference, &described)?;
        images.settle_later();
        Ok(image)
    }
}

/// Has the registry take one layer into `repository`: not at all if it is there, by name from the repository it was
/// made for, or by its bytes.
async fn publish_layer(
    images: &Images,
    repository: &str,
    known: &Known,
    blob: Option<TemporaryFile>,
) -> Result<(), BuildError> {
    let (remote, descriptor) = (images.remote(), &known.layer.blob);
    if remote.has(repository, "blobs", &descriptor.digest).await? {
        return Ok(());
    }
    if known.repository != repository
        && remote.mount(repository, &descriptor.digest, &known.repository).await?
    {
        return Ok(());
    }
    let blob = match blob {
        Some(blob) => blob,
        None => {
            let (images, layer) = (images.clone(), known.layer.clone());
            tokio::task::spawn_blocking(move || pack_again(&images, &layer)).await??
        }
    };
    Ok(remote.push_file(repository, &descriptor.digest, descriptor.size, &blob.0).await?)
}

/// The blob of a layer that this node has unpacked, for a registry that lost it.
fn pack_again(images: &Images, layer: &Layer) -> Result<TemporaryFile, BuildError> {
    let dir = images.layers().path(&layer.diff_id);
    let made = images.layers().temporary()?;
    let blob = TemporaryFile(made.path().with_extension("blob"));
    let packed = pack(&dir, &blob.0, &|| false).map_err(BuildError::disk("pack", &dir))?;
    if packed.digest != layer.blob.digest {
        return Err(BuildError::Image(ImageError::Mismatch {
            what: format!("layer {} packed again", layer.diff_id),
            property: "digest",
            found: packed.digest.to_string(),
            expected: layer.blob.digest.to_string(),
        }));
    }
    Ok(blob)
}
