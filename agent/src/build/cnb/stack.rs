//! What buildpacks run in and what their results stand on.
//!
//! In: the user's stack, a builder image. Out: two images, and what buildpacks are told of them.

use super::super::dockerfile::Below;
use super::super::error::BuildError;
use super::super::view::View;
use super::Building;
use crate::images::layers::Known;
use berth_buildpacks::cnb::{Target, descriptor};
use berth_model::image::ImageRef;
use std::path::PathBuf;

/// A stack, ready to be used.
pub(super) struct Stack {
    /// What builds run in, topmost first.
    pub(super) lowers: Vec<PathBuf>,
    /// Its variables.
    pub(super) env: Vec<(String, String)>,
    /// What the result stands on.
    pub(super) run: Below,
    /// Its name, for labels.
    pub(super) run_name: String,
    /// The same by its digest, if it is the platform's own.
    pub(super) run_reference: String,
    pub(super) target: Target,
    /// User and group of the run image that own the app's files.
    pub(super) owner: (u32, u32),
    /// The same in words, for the config.
    pub(super) user: String,
    /// As the user would name it.
    pub(super) name: String,
}

impl Building<'_> {
    /// An image of the platform's own registry.
    async fn own(&self, image: &ImageRef) -> Result<Below, BuildError> {
        let described = self.job.images().describe(image).await?;
        let repository = image.repository.clone();
        let known = |layer| Known { layer, repository: repository.clone() };
        let layers = described.layers.into_iter().map(known).collect();
        Ok(Below { layers, config: described.config, ..Below::default() })
    }

    /// The layers of an image, topmost first.
    pub(super) async fn lowers(&self, image: &Below) -> Result<Vec<PathBuf>, BuildError> {
        let images = self.job.images();
        for known in &image.layers {
            if !images.layers().has(&known.layer.diff_id) {
                images.ensure_layer(known.repository.clone(), known.layer.clone()).await?;
            }
        }
        Ok(image.layers.iter().rev().map(|known| images.layers().path(&known.layer.diff_id)).collect())
    }

    /// Gets the images ready. `default` is used if the user named no stack; `None` is the platform's own.
    pub(super) async fn stack(&self, default: Option<&str>) -> Result<Stack, BuildError> {
        let plan = &self.job.request.plan;
        let fallback =
            default.map(berth_buildpacks::cnb::parse_stack).transpose().map_err(BuildError::Plan)?;
        let wanted = self.cnb.stack.clone().or(fallback);
        let name = wanted.as_ref().map_or_else(|| "debian-12".to_owned(), |stack| stack.name.clone());
        let (mut run_name, mut build_name) = match &wanted {
            Some(stack) => (stack.run.clone(), stack.build.clone()),
            None => (None, None),
        };
        let mut labels = std::collections::BTreeMap::new();
        if let Some(builder) = &self.cnb.builder {
            build_name = Some(builder.clone());
            let image = self.job.base(builder).await?;
            labels.clone_from(&image.config.labels);
            if run_name.is_none() && self.cnb.stack.is_none() {
                run_name = builder_run_image(&labels);
            }
        }
        let build = match &build_name {
            Some(name) => self.job.base(name).await?,
            None => self.own(&plan.build_image).await?,
        };
        let run = match &run_name {
            Some(name) => self.job.base(name).await?,
            None => self.own(&plan.run_image).await?,
        };
        let lowers = self.lowers(&build).await?;
        let run_view = View::new(self.lowers(&run).await?);
        labels.extend(build.config.labels.clone());
        let (distro, distro_version) = distribution(&labels, &View::new(lowers.clone()));
        let stack_id = labels.get("io.buildpacks.stack.id").cloned();
        let of_env = || {
            build
                .config
                .env
                .iter()
                .find(|(name, _)| name.as_str() == "CNB_STACK_ID")
                .map(|(_, id)| id.clone())
        };
        let is_heroku = name.starts_with("heroku-");
        let target = Target {
            os: "linux".to_owned(),
            arch: berth_model::image::architecture().to_owned(),
            variant: String::new(),
            stack_id: stack_id.or_else(of_env).unwrap_or_else(|| {
                if is_heroku { name.clone() } else { format!("{distro}-{distro_version}") }
            }),
            distro,
            distro_version,
        };
        let user = match run.config.user.split(':').next().unwrap_or_default() {
            "" | "root" | "0" => "1000:1000".to_owned(),
            _ => run.config.user.clone(),
        };
        let owner = super::super::dockerfile::owner(&user, &run_view)?;
        let env = build.config.env.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone()));
        let own = &plan.run_image;
        let run_reference = run_name.clone().unwrap_or_else(|| format!("{}@{}", own.repository, own.digest));
        let run_name = run_name.unwrap_or_else(|| own.repository.clone());
        Ok(Stack { env: env.collect(), lowers, run, run_name, run_reference, target, owner, user, name })
    }
}

/// The run image that a builder's own labels name (`io.buildpacks.builder.metadata`, or that of older ones).
fn builder_run_image(labels: &std::collections::BTreeMap<String, String>) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(labels.get("io.buildpacks.builder.metadata")?).ok()?;
    let new = json["images"][0]["image"].as_str();
    new.or_else(|| json["stack"]["runImage"]["image"].as_str()).map(str::to_owned)
}

fn distribution(labels: &std::collections::BTreeMap<String, String>, view: &View) -> (String, String) {
    let label = |name: &str| {
        let names = [format!("io.buildpacks.base.distro.{name}"), format!("io.buildpacks.distro.{name}")];
        names.iter().find_map(|name| labels.get(name)).cloned()
    };
    match (label("name"), label("version")) {
        (Some(name), Some(version)) => (name, version),
        _ => {
            let file = ["/etc/os-release", "/usr/lib/os-release"].map(|path| view.text(path));
            descriptor::os_release(file.iter().find(|text| !text.is_empty()).map_or("", String::as_str))
        }
    }
}
