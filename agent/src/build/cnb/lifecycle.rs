//! Cloud Native Buildpacks: detect, restore, build, and what each left (Platform specification 0.15, “Lifecycle Interface”).
//!
//! In: fetched buildpacks, the tree. Out: an image. Layers that come back from the last build lie below the writable
//! directory: a buildpack that does not touch one leaves it as it is, and it is not packed again.

use super::super::error::BuildError;
use super::super::job::Parts;
use super::super::view::View;
use super::super::{say, source, upper};
use super::cache::Kept;
use super::detect::env;
use super::fetch::{Fetched, Wanted};
use super::space::{self, Space};
use super::stack::Stack;
use super::{Building, WORKSPACE};
use berth_buildpacks::cnb::layer::{self, Launch, Layer, Restore};
use berth_buildpacks::cnb::order::{Entry, Group};
use berth_buildpacks::cnb::resolve::Resolved;
use berth_buildpacks::cnb::{Descriptor, escaped};
use berth_launcher::{Phase, Run};
use rustix::fs::{CWD, FileType, Mode};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tokio::task::JoinSet;

const LAYERS: &str = "layers";
const PLAN: &str = "/run/berth/plan.toml";
/// Most layers of one buildpack.
const MAX_LAYERS: usize = 200;
/// Largest sum of what one buildpack's small files have.
const MAX_TEXT: usize = 32 << 20;

/// What one buildpack left.
pub(super) struct Left {
    pub(super) descriptor: Descriptor,
    pub(super) launch: Launch,
    pub(super) store: Option<String>,
    /// By name; only those that are used.
    pub(super) layers: BTreeMap<String, Layer>,
    /// SBOM files: layer (or `launch`, `build`) and format.
    pub(super) sbom: BTreeMap<(String, String), String>,
}

/// A build as far as it is.
pub(super) struct Progress {
    pub(super) stack: Stack,
    pub(super) space: Space,
    pub(super) kept: Kept,
    /// (buildpack, layer) whose files came back, and the directory that has them.
    pub(super) restored: BTreeMap<(String, String), PathBuf>,
    pub(super) left: Vec<Left>,
}

impl Building<'_> {
    /// Builds with Cloud Native Buildpacks.
    pub(super) async fn lifecycle(
        &self,
        tree: &Path,
        mut fetched: Fetched,
        publishing: &mut JoinSet<Result<(), BuildError>>,
    ) -> Result<Parts, BuildError> {
        let stack = self.stack(None).await?;
        let of_builder = self.of_builder(&stack, &mut fetched)?;
        let order = order(&fetched, of_builder)?;
        self.job.detail(&format!("stack {} ({})", stack.name, stack.target)).await;
        let workspace = tree.join(WORKSPACE);
        fs::rename(tree.join("app"), &workspace).map_err(BuildError::disk("move", tree))?;
        self.leave_out(&workspace)?;
        let common = self.common(&fetched, &stack)?;

        say(&self.job.events, "Detecting").await;
        let lowers = [vec![tree.to_owned()], common.clone()].concat();
        let mut resolved = self.detect(&order, &fetched, &stack, &lowers).await?;
        self.announce(&resolved, &fetched).await;

        let kept = self.job.kept(&stack.target);
        let (restored, below) = self.restore(&resolved, &fetched, &kept).await?;
        let lowers = [below, common].concat();
        let space = Space::new(self.job, lowers, self.turn.base, stack.env.clone())?;
        space.take(&workspace, WORKSPACE)?;
        let mut progress = Progress { stack, space, kept, restored, left: Vec::new() };
        for place in 0..resolved.members.len() {
            self.build_one(place, &mut resolved, &fetched, &mut progress).await?;
        }
        self.export(progress, publishing).await
    }

    /// What lies below every phase: launcher, platform, buildpacks, image.
    pub(super) fn common(&self, fetched: &Fetched, stack: &Stack) -> Result<Vec<PathBuf>, BuildError> {
        let launcher = source::fresh(&self.job.dir, "launcher");
        space::launcher(&launcher, true)?;
        let platform = source::fresh(&self.job.dir, "platform");
        let vars = self.job.request.config.iter().filter(|(name, _)| !self.cnb.env.contains_key(name));
        space::platform(&platform, vars.chain(&self.cnb.env))?;
        Ok([vec![launcher, platform], fetched.lowers.clone(), stack.lowers.clone()].concat())
    }

    async fn announce(&self, resolved: &Resolved, fetched: &Fetched) {
        for at in &resolved.members {
            let Descriptor { id, version, name, .. } = &fetched.modules[*at].descriptor;
            let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
            self.job.detail(&format!("{id} {version}{name}")).await;
        }
    }

    /// Puts back what the last build kept for buildpacks of this group.
    async fn restore(
        &self,
        resolved: &Resolved,
        fetched: &Fetched,
        kept: &Kept,
    ) -> Result<(BTreeMap<(String, String), PathBuf>, Vec<PathBuf>), BuildError> {
        let dir = source::fresh(&self.job.dir, "restored");
        let make =
            |path: &Path| source::make_dir(path, source::BUILD).map_err(BuildError::disk("make", path));
        source::make_dir(&dir, 0).map_err(BuildError::disk("make", &dir))?;
        make(&dir.join(LAYERS))?;
        let write = |path: &Path, text: &str| {
            let written = fs::write(path, text)
                .and_then(|()| std::os::unix::fs::chown(path, Some(source::BUILD), Some(source::BUILD)));
            written.map_err(BuildError::disk("write", path))
        };
        let (mut restored, mut below) = (BTreeMap::new(), vec![dir.clone()]);
        for at in &resolved.members {
            let descriptor = &fetched.modules[*at].descriptor;
            let of = dir.join(LAYERS).join(escaped(&descriptor.id));
            make(&of)?;
            let Some(buildpack) = kept.buildpacks.get(&descriptor.id) else { continue };
            if let Some(store) = &buildpack.store {
                write(&of.join("store.toml"), store)?;
            }
            for (name, layer) in &buildpack.layers {
                let types = Layer {
                    launch: layer.launch,
                    build: layer.build,
                    cache: layer.cache,
                    ..Layer::default()
                };
                let wanted = types.restore();
                if layer::check_name(name).is_err()
                    || wanted == Restore::Nothing
                    || !self.job.is_there(&descriptor.id, name, layer).await?
                {
                    continue;
                }
                if wanted == Restore::Files {
                    let images = self.job.images();
                    let known = &layer.known;
                    if !images.layers().has(&known.layer.diff_id) {
                        images.ensure_layer(known.repository.clone(), known.layer.clone()).await?;
                    }
                    let files = images.layers().path(&known.layer.diff_id);
                    below.push(files.clone());
                    restored.insert((descriptor.id.clone(), name.clone()), files);
                    self.job.detail(&format!("restored {}:{name}", descriptor.id)).await;
                }
                write(&of.join(format!("{name}.toml")), &layer.toml)?;
                for (format, text) in &layer.sbom {
                    write(&of.join(format!("{name}.sbom.{format}.json")), text)?;
                }
            }
        }
        Ok((restored, below))
    }

    /// Runs one `bin/build` and reads what it left.
    async fn build_one(
        &self,
        place: usize,
        resolved: &mut Resolved,
        fetched: &Fetched,
        progress: &mut Progress,
    ) -> Result<(), BuildError> {
        let module = &fetched.modules[resolved.members[place]];
        let descriptor = &module.descriptor;
        let title = format!("Building with {} {}", descriptor.id, descriptor.version);
        say(&self.job.events, &title).await;
        let layers = format!("/{LAYERS}/{}", escaped(&descriptor.id));
        let own = [("CNB_LAYERS_DIR", layers.clone()), ("CNB_BP_PLAN_PATH", PLAN.to_owned())];
        let run = Run {
            argv: vec![format!("{}/bin/build", module.dir), layers, "/platform".to_owned(), PLAN.to_owned()],
            cwd: format!("/{WORKSPACE}"),
            clear_env: descriptor.clear_env,
            status: None,
            log: None,
            env: env(module, &progress.stack, own),
        };
        let for_build = progress.left.iter().map(|left| {
            let used = left.layers.iter().filter(|(_, layer)| layer.build);
            let dir = |name: &String| format!("/{LAYERS}/{}/{name}", escaped(&left.descriptor.id));
            used.map(|(name, _)| dir(name)).collect::<Vec<_>>()
        });
        let phase = Phase { layers: for_build.collect(), run: vec![run], ..Phase::default() };
        let files = vec![(PathBuf::from(PLAN), resolved.plan_for(place).into_bytes())];
        progress.space.phase(self.job, &format!("build{place}"), &title, phase, files).await?;
        let (left, unmet) = read(descriptor, &progress.space)?;
        hide_unused(&left, &progress.space, &progress.restored)?;
        resolved.met(place, &unmet);
        progress.left.push(left);
        Ok(())
    }
}

/// What is tried: what the user lists; or the builder's own order with something around it.
fn order(fetched: &Fetched, of_builder: Vec<Group>) -> Result<Vec<Group>, BuildError> {
    let entry = |wanted: &Wanted| Entry {
        id: wanted.id.clone(),
        version: wanted.version.clone(),
        optional: wanted.optional,
        exec_env: Vec::new(),
    };
    let entries = |list: &[Wanted]| list.iter().map(entry).collect::<Vec<_>>();
    let middle = match fetched.list.is_empty() {
        false => vec![Group(entries(&fetched.list))],
        true if of_builder.is_empty() => {
            return Err(BuildError::Plan(
                "no buildpacks are named, and the builder image has no order of its own".to_owned(),
            ));
        }
        true => of_builder,
    };
    let around = |group: Group| Group([entries(&fetched.pre), group.0, entries(&fetched.post)].concat());
    Ok(middle.into_iter().map(around).collect())
}

/// Reads what a buildpack left in its layers directory, and the names it did not meet.
fn read(descriptor: &Descriptor, space: &Space) -> Result<(Left, Vec<String>), BuildError> {
    let view = space.view();
    let dir = format!("{LAYERS}/{}", escaped(&descriptor.id));
    let wrong = |error: String| BuildError::Plan(format!("the buildpack {}: {error}", descriptor.id));
    let unreadable = |error: std::io::Error| wrong(format!("its layers cannot be read: {error}"));
    let node = view.resolve(Path::new(&dir), false).map_err(unreadable)?.node;
    let mut left = Left {
        descriptor: descriptor.clone(),
        launch: Launch::default(),
        store: None,
        layers: BTreeMap::new(),
        sbom: BTreeMap::new(),
    };
    let (mut unmet, mut size) = (Vec::new(), 0);
    let Some(node) = node else { return Ok((left, unmet)) };
    for (name, _) in node.children().map_err(unreadable)? {
        let Some(name) = name.to_str() else { continue };
        let is_toml = name.ends_with(".toml");
        let sbom = layer::sbom(name);
        if !is_toml && sbom.is_none() {
            continue;
        }
        let text = text_of(&view, &format!("{dir}/{name}")).map_err(wrong)?;
        size += text.len();
        if size > MAX_TEXT {
            return Err(wrong(format!(
                "its TOML and SBOM files have more than {} MiB together",
                MAX_TEXT >> 20
            )));
        }
        match (name, sbom) {
            (_, Some((layer, format))) => {
                serde_json::from_str::<serde::de::IgnoredAny>(&text)
                    .map_err(|error| wrong(format!("{name} is not JSON: {error}")))?;
                left.sbom.insert((layer.to_owned(), format.to_owned()), text);
            }
            ("launch.toml", _) => left.launch = Launch::parse(&text, descriptor.api).map_err(wrong)?,
            ("build.toml", _) => unmet = layer::unmet(&text).map_err(wrong)?,
            ("store.toml", _) => {
                layer::check_store(&text).map_err(wrong)?;
                left.store = Some(text);
            }
            _ => {
                let layer = name.strip_suffix(".toml").unwrap_or(name);
                layer::check_name(layer).map_err(wrong)?;
                let parsed = Layer::parse(&text, name).map_err(wrong)?;
                if parsed.is_used() {
                    left.layers.insert(layer.to_owned(), parsed);
                }
            }
        }
    }
    if left.layers.len() > MAX_LAYERS {
        return Err(wrong(format!("it made more than {MAX_LAYERS} layers")));
    }
    for process in &mut left.launch.processes {
        process.buildpack.clone_from(&descriptor.id);
    }
    Ok((left, unmet))
}

fn text_of(view: &View, path: &str) -> Result<String, String> {
    let text = space::text(view, path).map_err(|error| error.to_string())?;
    text.ok_or_else(|| format!("/{path} is no file"))
}

/// Moves layers that nobody is to have out of the way: to `<layer>.ignore`, or, if they came back from the last build,
/// out of sight.
fn hide_unused(
    left: &Left,
    space: &Space,
    restored: &BTreeMap<(String, String), PathBuf>,
) -> Result<(), BuildError> {
    let id = &left.descriptor.id;
    let dir = PathBuf::from(LAYERS).join(escaped(id));
    // A program may have put anything in its place; a link is never followed.
    let there = upper::inside(&space.upper, &dir);
    let Some(on_disk) = there.filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()))
    else {
        return hide_restored(left, space, restored);
    };
    for entry in fs::read_dir(&on_disk).map_err(BuildError::disk("list", &on_disk))? {
        let entry = entry.map_err(BuildError::disk("list", &on_disk))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_dir || left.layers.contains_key(&name) || name.ends_with(".ignore") {
            continue;
        }
        let to = on_disk.join(format!("{name}.ignore"));
        crate::images::layers::remove_tree(&to).map_err(BuildError::disk("remove", &to))?;
        fs::rename(entry.path(), &to).map_err(BuildError::disk("move", entry.path()))?;
    }
    hide_restored(left, space, restored)
}

/// A whiteout hides what lies below.
fn hide_restored(
    left: &Left,
    space: &Space,
    restored: &BTreeMap<(String, String), PathBuf>,
) -> Result<(), BuildError> {
    let id = &left.descriptor.id;
    for (buildpack, name) in restored.keys() {
        if buildpack != id || left.layers.contains_key(name) {
            continue;
        }
        let dir = Path::new(LAYERS).join(escaped(id));
        // In the container the directory is there; in the writable one perhaps not yet.
        upper::prepare_parents(&space.upper, &dir, space.base, source::BUILD)?;
        let at = space.upper.join(&dir).join(name);
        if fs::symlink_metadata(&at).is_ok() {
            continue;
        }
        rustix::fs::mknodat(CWD, &at, FileType::CharacterDevice, Mode::empty(), 0)
            .map_err(|error| BuildError::disk("make", &at)(error.into()))?;
    }
    Ok(())
}
