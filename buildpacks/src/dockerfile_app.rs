//! Apps with a Dockerfile: found, read once for what is wrong with it, and handed on as it is.
//!
//! In: a tree, settings. Out: a plan without layers that carries the Dockerfile; or what is wrong in it and where,
//! before anything is built.

use crate::dockerfile::{Ignore, Options, Program};
use crate::error::invalid;
use crate::tree::SourceTree;
use crate::{PlanError, Settings};
use berth_model::build::{BuildPlan, Dockerfile};
use berth_model::image::ImageConfig;
use berth_model::procfile::Procfile;
use std::collections::BTreeMap;

/// Names that are looked for at the top of the tree.
const NAMES: [&str; 2] = ["Dockerfile", "Containerfile"];

fn var<'s>(settings: &'s Settings, name: &str) -> Option<&'s str> {
    let found = settings.config.iter().find(|(other, _)| other.as_str() == name);
    found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
}

/// The path of the app's Dockerfile, if it has one. A path that was set must exist.
pub(crate) fn find(tree: &dyn SourceTree, settings: &Settings) -> Result<Option<String>, PlanError> {
    let set = settings.dockerfile_path.as_deref().or_else(|| var(settings, "BERTH_DOCKERFILE_PATH"));
    let Some(set) = set.filter(|path| !path.is_empty()) else {
        return Ok(NAMES.into_iter().find(|name| tree.has(name)).map(str::to_owned));
    };
    let path = set.trim_start_matches("./").trim_start_matches('/');
    if tree.has(path) {
        return Ok(Some(path.to_owned()));
    }
    invalid(
        set,
        "this path is set as the Dockerfile's, but the pushed commit has no such file. Commit it, or set another one: \
         berth builder-dockerfile:set APP dockerfile-path PATH",
    )
}

pub(crate) fn plan(
    tree: &dyn SourceTree,
    settings: &Settings,
    procfile: Procfile,
    reason: String,
) -> Result<BuildPlan, PlanError> {
    let Some(path) = find(tree, settings)? else {
        return invalid(
            "Dockerfile",
            "the builder dockerfile was chosen, but there is no Dockerfile at the top of the tree",
        );
    };
    let Some(text) = tree.text(&path)? else {
        return invalid(&path, "it cannot be read");
    };
    let target = settings.dockerfile_target.as_deref().or_else(|| var(settings, "BERTH_DOCKERFILE_TARGET"));
    let target = target.filter(|target| !target.is_empty()).map(str::to_owned);
    let args =
        settings.config.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect();
    let options = Options { target: target.clone(), args };
    Program::parse(&text, &options).map_err(|problem| PlanError::Dockerfile {
        file: path.clone(),
        line: problem.line,
        text: problem.text,
    })?;
    let mut ignore = String::new();
    for name in [format!("{path}.dockerignore"), ".dockerignore".to_owned(), ".containerignore".to_owned()] {
        if let Some(text) = tree.text(&name)? {
            Ignore::parse(&text).map_err(|reason| PlanError::Invalid { file: name, reason })?;
            ignore = text;
            break;
        }
    }
    Ok(BuildPlan {
        builder: "dockerfile".to_owned(),
        run_image: settings.run_image.clone(),
        build_image: settings.build_image.clone(),
        layers: Vec::new(),
        processes: BTreeMap::new(),
        config: ImageConfig::default(),
        dockerfile: Some(Dockerfile { path, text, ignore, target, procfile: procfile.0, reason }),
        submodules: Vec::new(),
        predeploy: None,
        image: None,
        cnb: None,
    })
}
