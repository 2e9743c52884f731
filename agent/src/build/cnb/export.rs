//! From what buildpacks left to the layers and the config of an image.
//!
//! In: a build that ended well. Out: [`Parts`], and what the app's next build finds. Order of layers: run image, launch
//! layers, slices, the rest of the app, SBOM files, launcher, metadata.

use super::super::error::BuildError;
use super::super::job::Parts;
use super::super::view::{Node, View};
use super::super::{source, upper};
use super::cache::{self, Kept, KeptBuildpack, KeptLayer};
use super::lifecycle::{Left, Progress};
use super::space;
use super::stack::Stack;
use super::stage::{copy, make_all, parents_are_roots, slice};
use super::{Building, LAUNCHER, WORKSPACE};
use crate::images::layers::{Known, Scope};
use crate::images::oci::Label;
use berth_buildpacks::cnb::escaped;
use berth_buildpacks::cnb::labels::{self, Facts, Part, PartLayer};
use berth_buildpacks::cnb::layer::{Layer, Restore};
use berth_buildpacks::cnb::process::{self, Defined};
use berth_buildpacks::cnb::slices::Slices;
use berth_launcher::{Built, METADATA, Metadata, PROCESS_DIR, Process};
use berth_model::image::{ImageConfig, Process as ImageProcess};
use berth_model::{Digest, EnvName, ProcessType};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tokio::task::JoinSet;

/// Largest config of an image, before it is escaped: registries and engines take no more than 4 MiB.
const MAX_CONFIG: usize = 1 << 20;

type Publishing = JoinSet<Result<(), BuildError>>;

/// What every image of buildpacks has besides its layers.
pub(super) struct Finish<'a> {
    pub(super) stack: &'a Stack,
    /// Absolute directory of the app.
    pub(super) app: &'a str,
    pub(super) metadata: Metadata,
    pub(super) processes: Vec<Defined>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) env: BTreeMap<EnvName, String>,
    pub(super) facts: Facts,
}

impl Building<'_> {
    pub(super) async fn export(
        &self,
        progress: Progress,
        publishing: &mut Publishing,
    ) -> Result<Parts, BuildError> {
        let Progress { stack, space, kept, restored, left } = progress;
        let mut layers = Vec::new();
        let mut next = Kept::of(&stack.target);
        let mut facts = Facts::default();
        for of in &left {
            let id = &of.descriptor.id;
            let mut part = part(of);
            let mut keep = KeptBuildpack { store: of.store.clone(), layers: BTreeMap::new() };
            for (name, layer) in &of.layers {
                if !layer.launch && !layer.cache {
                    continue;
                }
                let before = kept.buildpacks.get(id).and_then(|buildpack| buildpack.layers.get(name));
                let lower = restored.get(&(id.clone(), name.clone()));
                let known =
                    self.layer(of, name, layer, &space, lower, before, stack.owner.1, publishing).await?;
                let Some(known) = known else { continue };
                if layer.launch {
                    part.layers.insert(
                        name.clone(),
                        PartLayer {
                            diff_id: known.layer.diff_id.to_string(),
                            build: layer.build,
                            cache: layer.cache,
                            metadata: layer.metadata.clone(),
                        },
                    );
                    layers.push(known.clone());
                }
                if layer.restore() != Restore::Nothing {
                    let sbom = of.sbom.iter().filter(|((of, _), _)| of == name);
                    keep.layers.insert(
                        name.clone(),
                        KeptLayer {
                            toml: layer.restored(),
                            launch: layer.launch,
                            build: layer.build,
                            cache: layer.cache,
                            known,
                            sbom: sbom.map(|((_, format), text)| (format.clone(), text.clone())).collect(),
                        },
                    );
                }
            }
            facts.parts.push(part);
            next.buildpacks.insert(id.clone(), keep);
        }
        // Buildpacks that did not take part this time may again.
        for (id, buildpack) in kept.buildpacks {
            next.buildpacks.entry(id).or_insert(buildpack);
        }
        let slices: Vec<Vec<String>> = left.iter().flat_map(|left| left.launch.slices.clone()).collect();
        let app = self.app(&space.upper, WORKSPACE, WORKSPACE, &slices, stack.owner, publishing).await?;
        facts.app = app.iter().map(|known| known.layer.diff_id.to_string()).collect();
        layers.extend(app);
        if let Some(sbom) = self.sbom(&left, publishing).await? {
            facts.sbom = Some(sbom.layer.diff_id.to_string());
            layers.push(sbom);
        }
        let defined = left.iter().flat_map(|left| left.launch.processes.clone()).collect();
        let built = |left: &Left| Built {
            id: left.descriptor.id.clone(),
            version: left.descriptor.version.clone(),
            api: left.descriptor.api.to_string(),
        };
        let metadata = Metadata { buildpacks: left.iter().map(built).collect(), ..Metadata::default() };
        let labels = left.iter().flat_map(|left| left.launch.labels.clone()).collect();
        let finish = Finish {
            stack: &stack,
            app: &format!("/{WORKSPACE}"),
            metadata,
            processes: process::merge(defined, &self.cnb.procfile),
            labels,
            env: BTreeMap::new(),
            facts,
        };
        let parts = self.finish(finish, layers, publishing).await?;
        self.job.keep_for_next(&next)?;
        Ok(parts)
    }

    /// One layer of a buildpack: the one of the last build if nothing touched it. `None` if there is nothing to keep.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that a layer is made from")]
    async fn layer(
        &self,
        of: &Left,
        name: &str,
        layer: &Layer,
        space: &space::Space,
        lower: Option<&PathBuf>,
        before: Option<&KeptLayer>,
        group: u32,
        publishing: &mut Publishing,
    ) -> Result<Option<Known>, BuildError> {
        let id = &of.descriptor.id;
        let path = Path::new("layers").join(escaped(id)).join(name);
        let touched = upper::inside(&space.upper, &path);
        if touched.is_none()
            && let (Some(_), Some(before)) = (lower, before)
            && (before.launch || !layer.launch)
        {
            self.job.detail(&format!("unchanged {id}:{name}")).await;
            return Ok(Some(before.known.clone()));
        }
        let roots = touched.iter().map(|_| space.upper.clone()).chain(lower.cloned()).collect();
        let view = View::new(roots);
        let node = view.resolve(&path, false).ok().and_then(|found| found.node);
        let Some(node @ Node::Directory(..)) = node else {
            return match before {
                Some(before)
                    if layer.launch && before.launch && self.job.is_there(id, name, before).await? =>
                {
                    self.job.detail(&format!("reusing {id}:{name}")).await;
                    Ok(Some(before.known.clone()))
                }
                _ if layer.launch => Err(BuildError::Plan(format!(
                    "the buildpack {id} wants the layer {name:?} in the image (launch = true), but left no directory \
                     /{}, and the last image has no such layer",
                    path.display()
                ))),
                _ => Ok(None),
            };
        };
        let staged = source::fresh(&self.job.dir, "layer");
        let (to, base) = (staged.clone(), self.turn.base);
        tokio::task::spawn_blocking(move || {
            let at = to.join(&path);
            let place = at.parent().map(Path::to_owned).unwrap_or_default();
            make_all(&place).map_err(BuildError::disk("make", &place))?;
            match (&node, touched) {
                // New as a whole: it moves.
                (Node::Directory(dirs, _), Some(new)) if dirs.len() == 1 => {
                    fs::rename(&new, &at).map_err(BuildError::disk("move", &new))?;
                }
                _ => copy(&node, &at, base).map_err(BuildError::disk("copy", &at))?,
            }
            upper::take_ids(&to, base, (source::BUILD, group))?;
            parents_are_roots(&to, &place)
        })
        .await??;
        let scope = Scope::App(self.job.request.app.clone());
        let known = self.job.keep(&scope, &cache::key(id, name), layer.launch, staged, publishing).await?;
        Ok(Some(known))
    }

    /// The app's directory, which is `from` of the writable directory and gets to `to`: slices, then the rest.
    pub(super) async fn app(
        &self,
        from_upper: &Path,
        from: &str,
        to: &str,
        slices: &[Vec<String>],
        owner: (u32, u32),
        publishing: &mut Publishing,
    ) -> Result<Vec<Known>, BuildError> {
        let slices = Slices::parse(slices).map_err(BuildError::Plan)?;
        let gone = || BuildError::Plan(format!("a buildpack removed the app's directory /{from}"));
        let from = upper::inside(from_upper, Path::new(from)).ok_or_else(gone)?;
        if !fs::symlink_metadata(&from).is_ok_and(|found| found.is_dir()) {
            return Err(gone());
        }
        let staged: Vec<PathBuf> =
            (0..=slices.count()).map(|_| source::fresh(&self.job.dir, "layer")).collect();
        let (dirs, name, base) = (staged.clone(), to.to_owned(), self.turn.base);
        tokio::task::spawn_blocking(move || {
            let rest = dirs.last().expect("there is one more than slices");
            make_all(rest).map_err(BuildError::disk("make", rest))?;
            let top = rest.join(&name);
            fs::rename(&from, &top).map_err(BuildError::disk("move", &from))?;
            for dir in &dirs[..dirs.len() - 1] {
                make_all(dir).map_err(BuildError::disk("make", dir))?;
            }
            slice(&top, &name, &dirs, &slices).map_err(BuildError::disk("slice", &top))?;
            for dir in &dirs {
                upper::take_ids(dir, base, owner)?;
                parents_are_roots(dir, dir)?;
            }
            Ok::<_, BuildError>(())
        })
        .await??;
        let mut layers = Vec::new();
        for (index, dir) in staged.into_iter().enumerate() {
            let is_empty = fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none());
            if !is_empty {
                layers.push(self.keep(&format!("app {index}"), dir, publishing).await?);
            }
        }
        Ok(layers)
    }

    async fn keep(&self, name: &str, dir: PathBuf, publishing: &mut Publishing) -> Result<Known, BuildError> {
        let scope = Scope::App(self.job.request.app.clone());
        self.job.keep(&scope, &cache::key("berth", name), true, dir, publishing).await
    }

    /// SBOM files that say what is in the image.
    async fn sbom(&self, left: &[Left], publishing: &mut Publishing) -> Result<Option<Known>, BuildError> {
        let dir = source::fresh(&self.job.dir, "sbom");
        let mut any = false;
        for of in left {
            let launch =
                |layer: &str| layer == "launch" || of.layers.get(layer).is_some_and(|layer| layer.launch);
            for ((layer, format), text) in of.sbom.iter().filter(|((layer, _), _)| launch(layer)) {
                let mut at = dir.join("layers/sbom/launch").join(escaped(&of.descriptor.id));
                if layer != "launch" {
                    at.push(layer);
                }
                make_all(&at).map_err(BuildError::disk("make", &at))?;
                let file = at.join(format!("sbom.{format}.json"));
                fs::write(&file, text).map_err(BuildError::disk("write", &file))?;
                any = true;
            }
        }
        if !any {
            return Ok(None);
        }
        upper::finish(&dir)?;
        self.keep("sbom", dir, publishing).await.map(Some)
    }

    /// Launcher, metadata and config.
    pub(super) async fn finish(
        &self,
        finish: Finish<'_>,
        mut layers: Vec<Known>,
        publishing: &mut Publishing,
    ) -> Result<Parts, BuildError> {
        let Finish { stack, app, mut metadata, processes, labels, env, mut facts } = finish;
        if processes.is_empty() {
            return Err(BuildError::Plan(
                "nothing says what to start: no buildpack defined a process. Add a Procfile with a line such as \
                 `web: ./server` and push again"
                    .to_owned(),
            ));
        }
        let launcher = self.launcher(publishing).await?;
        facts.launcher = launcher.layer.diff_id.to_string();
        layers.push(launcher);
        metadata.processes = processes.iter().map(of_launcher).collect();
        let config = self.config_layer(&metadata, publishing).await?;
        facts.config = config.layer.diff_id.to_string();
        layers.push(config);
        let top = stack.run.layers.last().map(|known| known.layer.diff_id.to_string());
        facts.top_layer = top.unwrap_or_default();
        facts.run_image.clone_from(&stack.run_reference);
        facts.run_image_name.clone_from(&stack.run_name);
        facts.processes.clone_from(&processes);
        facts.commit.clone_from(&self.cnb.commit);
        env!("CARGO_PKG_VERSION").clone_into(&mut facts.version);
        let mut config = image_config(stack, app, env)?;
        config.labels.extend(labels);
        config.labels.extend(labels::labels(&facts));
        let default = processes.iter().find(|process| process.default).or(processes.first());
        config.entrypoint =
            default.map(|process| format!("{PROCESS_DIR}/{}", process.name)).into_iter().collect();
        let mut of_image = BTreeMap::new();
        for process in &processes {
            let name =
                ProcessType::parse(&process.name).map_err(|error| BuildError::Plan(error.to_string()))?;
            let argv = vec![format!("{PROCESS_DIR}/{}", process.name)];
            of_image.insert(name, ImageProcess::Command { argv });
        }
        let size = serde_json::to_vec(&config).map(|bytes| bytes.len()).unwrap_or(usize::MAX);
        if size > MAX_CONFIG {
            return Err(BuildError::Plan(format!(
                "the labels, variables and layer metadata of the buildpacks have {} KiB together; an image's config takes at \
                 most {} KiB",
                size >> 10,
                MAX_CONFIG >> 10
            )));
        }
        let label = Label {
            builder: self.job.request.plan.builder.clone(),
            processes: of_image,
            exposed_ports: Vec::new(),
            healthcheck: None,
        };
        Ok(Parts { layers: stack.run.layers.iter().cloned().chain(layers).collect(), config, label })
    }

    async fn launcher(&self, publishing: &mut Publishing) -> Result<Known, BuildError> {
        let scope = Scope::App(self.job.request.app.clone());
        let key = cache::key("berth", &Digest::of(LAUNCHER).to_string());
        if let Some(known) = self.job.images().layers().known(&scope, &key)
            && self.job.images().layers().has(&known.layer.diff_id)
        {
            return Ok(known);
        }
        let dir = source::fresh(&self.job.dir, "layer");
        space::launcher(&dir, false)?;
        upper::finish(&dir)?;
        self.job.keep(&scope, &key, true, dir, publishing).await
    }

    async fn config_layer(
        &self,
        metadata: &Metadata,
        publishing: &mut Publishing,
    ) -> Result<Known, BuildError> {
        let text = toml::to_string(metadata).map_err(|error| BuildError::Plan(error.to_string()))?;
        let dir = source::fresh(&self.job.dir, "layer");
        let make = || -> io::Result<()> {
            let file = dir.join("layers").join(METADATA);
            make_all(file.parent().unwrap_or(&dir))?;
            fs::write(&file, &text)?;
            let links = dir.join(&PROCESS_DIR[1..]);
            make_all(&links)?;
            for process in &metadata.processes {
                symlink("../lifecycle/launcher", links.join(&process.name))?;
            }
            Ok(())
        };
        make().map_err(BuildError::disk("make", &dir))?;
        upper::finish(&dir)?;
        self.keep("config", dir, publishing).await
    }
}

#[derive(serde::Deserialize)]
struct Store {
    #[serde(default)]
    metadata: toml::Table,
}

fn part(of: &Left) -> Part {
    let descriptor = &of.descriptor;
    Part {
        id: descriptor.id.clone(),
        version: descriptor.version.clone(),
        api: descriptor.api.to_string(),
        homepage: descriptor.homepage.clone(),
        layers: BTreeMap::new(),
        store: of
            .store
            .as_ref()
            .and_then(|text| toml::from_str::<Store>(text).ok())
            .map(|store| store.metadata),
    }
}

fn of_launcher(process: &Defined) -> Process {
    Process {
        name: process.name.clone(),
        command: process.command.clone(),
        args: process.args.clone(),
        direct: process.direct,
        default: process.default,
        working_dir: process.working_dir.clone(),
        buildpack_id: process.buildpack.clone(),
    }
}

fn image_config(stack: &Stack, app: &str, own: BTreeMap<EnvName, String>) -> Result<ImageConfig, BuildError> {
    let mut config = stack.run.config.clone();
    let name = |name: &str| EnvName::parse(name).map_err(|error| BuildError::Plan(error.to_string()));
    let path = name("PATH")?;
    let below = config.env.get(&path).cloned();
    let below =
        below.unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    config.env.insert(path, format!("{PROCESS_DIR}:/cnb/lifecycle:{below}"));
    config.env.insert(name("CNB_APP_DIR")?, app.to_owned());
    config.env.insert(name("CNB_LAYERS_DIR")?, "/layers".to_owned());
    config.env.extend(own);
    config.user.clone_from(&stack.user);
    app.clone_into(&mut config.working_dir);
    config.cmd.clear();
    config.healthcheck = None;
    config.on_build.clear();
    Ok(config)
}
