//! Whether buildpacks of others build an app, and which.
//!
//! In: the tree, settings. Out: a builder of Berth's own that stands in for an official buildpack, or a list to run; why.
//! Order: `buildpacks:add`, `.buildpacks`, `BUILDPACK_URL` (config, then a committed `.env`), `project.toml`, `app.json`.

use super::{project, source};
use crate::error::invalid;
use crate::exclude::Exclude;
use crate::tree::SourceTree;
use crate::{PlanError, Settings};
use berth_model::build::{BuildPlan, Buildpack, BuildpackSource, Cnb, Stack};
use berth_model::image::ImageConfig;
use berth_model::procfile::Procfile;
use std::collections::BTreeMap;

/// Most buildpacks of a list.
const MAX_BUILDPACKS: usize = 50;

/// What was found.
pub(crate) enum Chosen {
    /// One of Berth's own builders does what the only buildpack would.
    BuiltIn(&'static str, String),
    /// These run.
    Buildpacks(Box<Cnb>),
}

/// What says which buildpacks build the app; `None` if nothing does.
pub(crate) fn choose(tree: &dyn SourceTree, settings: &Settings) -> Result<Option<Chosen>, PlanError> {
    let is_directory = |path: &str| is_buildpack(tree, path);
    let parse = |file: &str, lines: &[&str]| -> Result<Vec<Buildpack>, PlanError> {
        let one = |line: &&str| source::parse(line, &is_directory);
        let all: Result<Vec<_>, String> = lines.iter().map(one).collect();
        all.map_err(|reason| PlanError::Invalid { file: file.to_owned(), reason })
    };
    if !settings.buildpacks.is_empty() {
        let lines: Vec<&str> = settings.buildpacks.iter().map(String::as_str).collect();
        return list(settings, "berth buildpacks:list", parse("buildpacks", &lines)?);
    }
    if let Some(text) = tree.text(".buildpacks")? {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if !lines.is_empty() {
            return list(settings, ".buildpacks", parse(".buildpacks", &lines)?);
        }
    }
    let var = settings.config.iter().find(|(name, _)| name.as_str() == "BUILDPACK_URL");
    if let Some(url) = var.map(|(_, url)| url.trim()).filter(|url| !url.is_empty()) {
        return list(settings, "the config var BUILDPACK_URL", parse("BUILDPACK_URL", &[url])?);
    }
    if let Some(url) = tree.text(".env")?.as_deref().and_then(buildpack_url) {
        return list(settings, "BUILDPACK_URL in .env", parse(".env", &[&url])?);
    }
    if let Some(text) = tree.text("project.toml")? {
        let read = project::parse(&text, &is_directory);
        let read = read.map_err(|reason| PlanError::Invalid { file: String::new(), reason });
        // The message names the file already.
        let read = read.map_err(|error| match error {
            PlanError::Invalid { reason, .. } => {
                let reason = reason.strip_prefix("project.toml: ").unwrap_or(&reason).to_owned();
                PlanError::Invalid { file: "project.toml".to_owned(), reason }
            }
            other => other,
        })?;
        if let Some(found) = read.map(|project| of_project(settings, project)).transpose()?.flatten() {
            return Ok(Some(found));
        }
    }
    if let Some(text) = tree.text("app.json")?
        && let Ok(app) = berth_model::app_json::parse(&text)
        && !app.buildpacks.is_empty()
    {
        let lines: Vec<&str> = app.buildpacks.iter().map(String::as_str).collect();
        return list(settings, "app.json", parse("app.json", &lines)?);
    }
    Ok(None)
}

/// A directory of the tree with a buildpack in it.
fn is_buildpack(tree: &dyn SourceTree, path: &str) -> bool {
    let path = path.trim_start_matches("./").trim_end_matches('/');
    let prefix = if path.is_empty() || path == "." { String::new() } else { format!("{path}/") };
    ["buildpack.toml", "bin/compile", "bin/detect"].iter().any(|file| tree.has(&format!("{prefix}{file}")))
}

/// `BUILDPACK_URL` of a committed `.env`.
fn buildpack_url(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| {
        let line = line.trim();
        line.strip_prefix("export ").unwrap_or(line).trim_start().strip_prefix("BUILDPACK_URL=")
    })?;
    let url = line.trim().trim_matches(['"', '\'']);
    (!url.is_empty()).then(|| url.to_owned())
}

fn list(settings: &Settings, file: &str, buildpacks: Vec<Buildpack>) -> Result<Option<Chosen>, PlanError> {
    if buildpacks.len() > MAX_BUILDPACKS {
        return invalid(
            file,
            format!("it lists {} buildpacks; at most {MAX_BUILDPACKS} can run", buildpacks.len()),
        );
    }
    if let [only] = buildpacks.as_slice()
        && let Some(builder) = source::built_in(only)
    {
        let text = &only.text;
        return Ok(Some(Chosen::BuiltIn(
            builder,
            format!("builder {builder}: Berth's own for {text} in {file}"),
        )));
    }
    let reason = format!("buildpacks: chosen by {file}; to let Berth detect the language, empty that list");
    Ok(Some(Chosen::Buildpacks(Box::new(Cnb {
        buildpacks,
        stack: stack(settings)?,
        reason,
        ..Cnb::default()
    }))))
}

fn of_project(settings: &Settings, project: project::Project) -> Result<Option<Chosen>, PlanError> {
    let project::Project { builder, mut buildpacks, pre, post, env, include, exclude } = project;
    if builder.is_none() && buildpacks.is_empty() && pre.is_empty() && post.is_empty() {
        return Ok(None);
    }
    if builder.is_none() {
        // heroku/procfile does what every build here does anyway.
        buildpacks
            .retain(|one| !matches!(&one.source, BuildpackSource::Id { id, .. } if id == "heroku/procfile"));
        if let [only] = buildpacks.as_slice()
            && pre.is_empty()
            && post.is_empty()
            && let Some(built_in) = source::built_in(only)
        {
            let reason = format!("builder {built_in}: Berth's own for {} in project.toml", only.text);
            return Ok(Some(Chosen::BuiltIn(built_in, reason)));
        }
        let is_name = |one: &&Buildpack| matches!(one.source, BuildpackSource::Id { .. });
        let ids: Vec<&str> = buildpacks.iter().filter(is_name).map(|one| one.text.as_str()).collect();
        if !ids.is_empty() && ids.len() == buildpacks.len() {
            return invalid(
                "project.toml",
                format!(
                    "{} is only a name. Say where it is, `uri = \"https://…\"`, `uri = \"docker://image\"` or a directory of the \
                     repository; or name a builder image that has it, builder = \"image\" below [io.buildpacks]",
                    ids.join(", ")
                ),
            );
        }
        if buildpacks.is_empty() {
            return invalid(
                "project.toml",
                "`pre` and `post` go around the buildpacks of a builder; name one: builder = \"image\" below [io.buildpacks]",
            );
        }
    }
    let what = match &builder {
        Some(builder) => format!("project.toml names the builder {builder}"),
        None => "project.toml names buildpacks".to_owned(),
    };
    Ok(Some(Chosen::Buildpacks(Box::new(Cnb {
        buildpacks,
        pre,
        post,
        builder,
        stack: stack(settings)?,
        env,
        exclude,
        include,
        reason: format!("buildpacks: {what}"),
        ..Cnb::default()
    }))))
}

/// The stack that a user named: one of Berth's, one of Heroku's, or images.
pub(crate) fn stack(settings: &Settings) -> Result<Option<Stack>, PlanError> {
    let Some(name) = settings.stack.as_deref().map(str::trim).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    parse_stack(name).map(Some).map_err(|reason| PlanError::Invalid { file: "stack".to_owned(), reason })
}

/// Reads `debian-12`, `heroku-24`, `RUN-IMAGE` or `RUN-IMAGE,BUILD-IMAGE`.
pub fn parse_stack(text: &str) -> Result<Stack, String> {
    let name = text.trim().to_owned();
    if name == "debian-12" {
        return Ok(Stack { name, run: None, build: None });
    }
    if let Some(number) = name.strip_prefix("heroku-")
        && number.len() <= 3
        && number.bytes().all(|b| b.is_ascii_digit())
    {
        let (run, build) = (format!("heroku/heroku:{number}"), format!("heroku/heroku:{number}-build"));
        return Ok(Stack { name, run: Some(run), build: Some(build) });
    }
    let (run, build) = name
        .split_once([',', ' '])
        .map_or((name.as_str(), name.as_str()), |(run, build)| (run, build.trim()));
    for image in [run, build] {
        berth_model::ImageName::parse(image)?;
    }
    // Heroku's images come in pairs.
    let build = match run.contains("heroku/heroku:") && run == build && !run.ends_with("-build") {
        true => format!("{run}-build"),
        false => build.to_owned(),
    };
    Ok(Stack { run: Some(run.to_owned()), build: Some(build), name })
}

/// A path as a pattern that matches it alone, from the top.
fn exactly(path: &str) -> String {
    let escaped = path.chars().flat_map(|c| {
        let special = matches!(c, '*' | '?' | '[' | '\\');
        special.then_some('\\').into_iter().chain([c])
    });
    format!("/{}", escaped.collect::<String>())
}

/// The plan that runs `cnb`. What `.slugignore` names is left out, whatever kind of buildpack runs.
pub(crate) fn plan(
    tree: &dyn SourceTree,
    settings: &Settings,
    procfile: Procfile,
    mut cnb: Cnb,
) -> Result<BuildPlan, PlanError> {
    cnb.exclude.extend(Exclude::of(tree)?.paths.iter().map(|path| exactly(path)));
    Ok(BuildPlan {
        builder: "buildpacks".to_owned(),
        run_image: settings.run_image.clone(),
        build_image: settings.build_image.clone(),
        layers: Vec::new(),
        processes: BTreeMap::new(),
        config: ImageConfig::default(),
        dockerfile: None,
        submodules: Vec::new(),
        predeploy: None,
        image: None,
        cnb: Some(Cnb { procfile: procfile.0, commit: settings.commit.clone(), ..cnb }),
    })
}
