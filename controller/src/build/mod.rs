//! Builds: a source tree becomes an image, on an agent.
//!
//! In: a [`Source`]. Out: the image with what the tree says of its processes, or a reason for its developer. The tree is read
//! and planned here; all work happens in containers on a node. Dropping a build ends it there too.

pub(crate) mod from_image;
pub(crate) mod history;
mod log;
mod stack;
mod upload;

use crate::Platform;
use crate::errors::{failed, internal};
use crate::git::submodules;
use crate::git::tree::{GitTree, Source};
use crate::platform::{ProgressSender, say};
use crate::secrets;
use berth_buildpacks::{Settings, SourceTree};
use berth_model::api::{ApiError, PatchConfig, Progress};
use berth_model::app_json::{self, AppJson, EnvValue, Scripts};
use berth_model::build::{BuildPlan, BuildRequest, DEFAULT_TIMEOUT_SECS};
use berth_model::check::Check;
use berth_model::container::Limits;
use berth_model::cron::CronTask;
use berth_model::image::{Image, ImageRef};
use berth_model::release::{App, Formation};
use berth_model::{AppName, BuildId, EnvName, ProcessType, checks_file};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A built image, and what its tree says of how it runs.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image.
    pub image: Image,
    /// By process type.
    pub checks: BTreeMap<ProcessType, Vec<Check>>,
    /// From `app.json`.
    pub formation: Formation,
    /// From `app.json`.
    pub cron: Vec<CronTask>,
    /// From `app.json`: how many of a type start at once.
    pub max_parallel: BTreeMap<ProcessType, u32>,
    /// From `app.json`: what runs once the release serves.
    pub scripts: Scripts,
}

/// What reading the tree came to.
struct Draft {
    tree: GitTree,
    plan: BuildPlan,
    app_json: AppJson,
    checks: BTreeMap<ProcessType, Vec<Check>>,
    warnings: Vec<String>,
}

/// The last image of an app and what it was made of.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    key: String,
    image: Image,
}

pub(crate) fn known_key(app: &AppName) -> String {
    format!("images/{app}")
}

/// The image that the next build of `app` may turn out to be again.
pub(crate) async fn last_image(platform: &Platform, app: &AppName) -> Result<Option<ImageRef>, ApiError> {
    let known = platform.load::<Known>(&known_key(app)).await?;
    Ok(known.map(|(known, _)| known.image.reference))
}

/// Whether an image is in the registry.
pub(crate) async fn has_image(platform: &Platform, image: &ImageRef) -> Result<bool, ApiError> {
    stack::has(platform, image).await
}

/// Builds a commit.
pub async fn build(
    platform: &Platform,
    app: &AppName,
    id: &BuildId,
    source: Source,
    progress: &ProgressSender,
) -> Result<Built, ApiError> {
    if let Some(pin) = from_image::read(source.clone()).await? {
        return from_image::build(platform, app, id, source, pin, progress).await;
    }
    let run_image = stack::resolve(platform, "debian-12-run").await?;
    let build_image = stack::resolve(platform, "debian-12-build").await?;
    let commit = source.commit.clone();
    let settings = |of: App, config| {
        let mut settings = Settings::new(run_image.clone(), build_image.clone());
        settings.config = config;
        settings.dockerfile_path = of.dockerfile_path;
        settings.dockerfile_target = of.dockerfile_target;
        settings.builder = of.builder;
        if let Some(path) = of.procfile_path {
            settings.procfile = path;
        }
        settings.buildpacks = of.buildpacks;
        settings.stack = of.stack;
        settings.commit = Some(commit.clone());
        settings
    };
    let of = platform.existing_app(app).await?;
    let limits = ProcessType::parse("build").ok().and_then(|build| of.limits.get(&build).cloned());
    let limits = limits.unwrap_or_else(Limits::of_builds);
    let timeout_secs = of.build_timeout_secs.unwrap_or(DEFAULT_TIMEOUT_SECS).into();
    let draft =
        read(source.clone(), settings(of.clone(), platform.config_of(app).await?), of.clone()).await?;
    for text in &draft.warnings {
        say(progress, Progress::Warning { text: text.clone() }).await;
    }
    // Variables of app.json are there before the build sees the config; if they change it, the plan is made again.
    let draft = match apply_env(platform, app, &draft.app_json, progress).await? {
        false => draft,
        true => read(source, settings(of.clone(), platform.config_of(app).await?), of).await?,
    };
    let config = platform.config_of(app).await?;
    let formation = draft.app_json.formation.iter();
    let formation = formation.filter_map(|(process, wanted)| Some((process.clone(), wanted.quantity?)));
    let most = draft.app_json.formation.iter();
    let max_parallel: BTreeMap<ProcessType, u32> =
        most.filter_map(|(process, wanted)| Some((process.clone(), wanted.max_parallel?))).collect();
    let (checks, formation) = (draft.checks.clone(), Formation(formation.collect()));
    let scripts = draft.app_json.scripts.clone();
    let cron = draft.app_json.cron.clone();

    let key = key(&draft, &config)?;
    let known = platform.load::<Known>(&known_key(app)).await?.map(|(known, _)| known);
    // What buildpacks of others fetch may be new though nothing here is.
    let is_whole = draft.plan.cnb.is_none();
    if let Some(known) = known.filter(|known| is_whole && known.key == key)
        && stack::has(platform, &known.image.reference).await?
    {
        say(
            progress,
            Progress::Step { text: "Nothing has changed: the last image is used again".to_owned() },
        )
        .await;
        let checks = with_healthcheck(checks, &known.image);
        return Ok(Built { image: known.image, checks, formation, max_parallel, cron, scripts });
    }
    let request = BuildRequest {
        id: id.clone(),
        app: app.clone(),
        plan: draft.plan,
        repository: format!("apps/{app}"),
        config: with_commit(config, &commit),
        limits,
        timeout_secs,
        registries: platform.registry_logins(app).await?,
    };
    let image = upload::run(platform, request, draft.tree, progress).await?;
    platform.save(&known_key(app), &Known { key, image: image.clone() }).await?;
    let checks = with_healthcheck(checks, &image);
    Ok(Built { image, checks, formation, max_parallel, cron, scripts })
}

/// What Dokku and Heroku tell builds of the commit.
fn with_commit(mut config: BTreeMap<EnvName, String>, commit: &str) -> BTreeMap<EnvName, String> {
    for name in ["GIT_REV", "SOURCE_VERSION"].into_iter().filter_map(|name| EnvName::parse(name).ok()) {
        config.entry(name).or_insert_with(|| commit.to_owned());
    }
    config
}

/// The image's own `HEALTHCHECK` counts for `web` unless the tree says how to check it: it must pass before requests go
/// there.
fn with_healthcheck(
    mut checks: BTreeMap<ProcessType, Vec<Check>>,
    image: &Image,
) -> BTreeMap<ProcessType, Vec<Check>> {
    if let Some(check) = image.healthcheck.as_ref().and_then(Check::of_healthcheck) {
        checks.entry(ProcessType::web()).or_insert_with(|| vec![check]);
    }
    checks
}

/// Reads and plans the tree, off the async threads: a large listing takes a while.
async fn read(source: Source, settings: Settings, paths: App) -> Result<Draft, ApiError> {
    let work = move || {
        let source = Source { directory: paths.build_dir.clone(), ..source };
        let tree = source.tree().map_err(|error| failed(error.to_string()))?;
        if let Some(path) = missing(&tree, [&paths.procfile_path, &paths.app_json_path]) {
            return Err(failed(format!(
                "the commit has no {path}, which a setting of the app names; commit it, or reset it"
            )));
        }
        let mut plan = berth_buildpacks::plan(&tree, &settings).map_err(|error| failed(error.to_string()))?;
        let text = |path: &str| {
            let tree: &dyn SourceTree = &tree;
            tree.text(path).map_err(|error| failed(error.to_string()))
        };
        let app_json = match text(paths.app_json_path.as_deref().unwrap_or("app.json"))? {
            None => AppJson::default(),
            Some(text) => app_json::parse(&text).map_err(|error| failed(error.to_string()))?,
        };
        let mut checks = app_json.healthchecks.clone();
        if let Some(text) = text("CHECKS")? {
            let old = checks_file::parse(&text).map_err(|error| failed(error.to_string()))?;
            if !old.is_empty() {
                checks.entry(ProcessType::web()).or_insert(old);
            }
        }
        let mut warnings = tree.warnings();
        let (submodules, remarks) = submodules::find(&tree).map_err(|error| failed(error.to_string()))?;
        warnings.extend(remarks);
        plan.submodules = submodules;
        plan.predeploy.clone_from(&app_json.scripts.predeploy);
        Ok(Draft { tree, plan, app_json, checks, warnings })
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| internal("reading the commit broke off", &error))?
}

/// The first of some paths that were set and that the tree does not have.
fn missing<'a>(tree: &dyn SourceTree, paths: [&'a Option<String>; 2]) -> Option<&'a str> {
    paths.into_iter().flatten().map(String::as_str).find(|path| !tree.has(path))
}

/// Sets the variables `app.json` asks for: all of them at the first deploy, those with `sync` at each. Gives whether anything
/// changed.
async fn apply_env(
    platform: &Platform,
    app: &AppName,
    app_json: &AppJson,
    progress: &ProgressSender,
) -> Result<bool, ApiError> {
    let first = platform.existing_app(app).await?.current.is_none();
    let own = platform.app_config(app).await?;
    let all = platform.config_of(app).await?;
    let mut set = BTreeMap::new();
    let mut missing = Vec::new();
    for (name, wanted) in &app_json.env {
        match &wanted.value {
            EnvValue::Literal(value) if wanted.sync && own.get(name) != Some(value) => {
                set.insert(name.clone(), value.clone());
            }
            _ if all.contains_key(name) => {}
            EnvValue::Literal(value) if first => {
                set.insert(name.clone(), value.clone());
            }
            EnvValue::Secret if first || wanted.sync => {
                let random =
                    secrets::random::<32>().map_err(|error| internal("cannot make a secret", &error))?;
                set.insert(name.clone(), hex::encode(random));
            }
            EnvValue::Unset if wanted.required && first => missing.push(name.to_string()),
            _ => {}
        }
    }
    if !missing.is_empty() {
        let assignments: Vec<_> = missing.iter().map(|name| format!("{name}=VALUE")).collect();
        return Err(failed(format!(
            "app.json requires {}, which nobody has set; run: berth config:set {app} {}",
            missing.join(", "),
            assignments.join(" ")
        )));
    }
    if set.is_empty() {
        return Ok(false);
    }
    let names: Vec<_> = set.keys().map(EnvName::as_str).collect();
    say(progress, Progress::Step { text: format!("Setting config vars of app.json: {}", names.join(", ")) })
        .await;
    let patch = PatchConfig { set, ..PatchConfig::default() };
    let change = platform.patch_config(Some(app), &patch, "app.json").await?;
    Ok(change.changed)
}

/// Everything an image depends on: same key, same image.
fn key(draft: &Draft, config: &BTreeMap<EnvName, String>) -> Result<String, ApiError> {
    let text = serde_json::to_vec(&(&draft.tree.id, &draft.plan, config));
    let text = text.map_err(|error| internal("a plan cannot be written", &error))?;
    Ok(hex::encode(Sha256::digest(text)))
}
