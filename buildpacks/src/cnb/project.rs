//! `project.toml`: which buildpacks, builder, variables and files a Cloud Native Buildpacks build has.
//!
//! In: the file's text (project descriptor 0.1 and 0.2). Out: a [`Project`].

use super::source;
use berth_model::EnvName;
use berth_model::build::{Buildpack, BuildpackSource};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What the file says of the build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Project {
    pub(crate) builder: Option<String>,
    pub(crate) buildpacks: Vec<Buildpack>,
    pub(crate) pre: Vec<Buildpack>,
    pub(crate) post: Vec<Buildpack>,
    pub(crate) env: BTreeMap<EnvName, String>,
    pub(crate) include: Vec<String>,
    pub(crate) exclude: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    build: Option<Settings>,
    io: Io,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Io {
    buildpacks: Option<Settings>,
}

/// `[io.buildpacks]` of 0.2, and `[build]` of 0.1.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    builder: Option<String>,
    include: Vec<String>,
    exclude: Vec<String>,
    group: Vec<Entry>,
    buildpacks: Vec<Entry>,
    pre: Groups,
    post: Groups,
    build: Variables,
    env: Vec<Variable>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Groups {
    group: Vec<Entry>,
    buildpacks: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Variables {
    env: Vec<Variable>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    id: String,
    version: String,
    uri: String,
    optional: bool,
    script: Option<Script>,
}

#[derive(Deserialize)]
struct Script {
    api: String,
    inline: String,
    #[serde(default = "shell")]
    shell: String,
}

fn shell() -> String {
    "/bin/sh".to_owned()
}

/// Whether the file says anything of buildpacks.
pub(crate) fn parse(text: &str, is_directory: &dyn Fn(&str) -> bool) -> Result<Option<Project>, String> {
    let file: File = super::toml(text, "project.toml")?;
    // 0.2 is `[io.buildpacks]`; a file that has both is read as that.
    let Some(raw) = file.io.buildpacks.or(file.build) else { return Ok(None) };
    let list = |entries: Vec<Entry>| {
        entries.into_iter().map(|raw| entry(raw, is_directory)).collect::<Result<Vec<_>, _>>()
    };
    let wrong = |error: String| format!("project.toml: {error}");
    let groups = |groups: Groups| list(groups.group.into_iter().chain(groups.buildpacks).collect());
    let mut env = BTreeMap::new();
    for Variable { name, value } in raw.build.env.into_iter().chain(raw.env) {
        let name = EnvName::parse(&name).map_err(|error| wrong(error.to_string()))?;
        if value.contains('\0') {
            return Err(wrong(format!("the variable {name} has a NUL byte in it")));
        }
        env.insert(name, value);
    }
    if !raw.include.is_empty() && !raw.exclude.is_empty() {
        return Err(wrong("`include` and `exclude` exclude each other; keep one of them".to_owned()));
    }
    let builder = raw.builder.filter(|builder| !builder.is_empty());
    if let Some(builder) = &builder {
        berth_model::ImageName::parse(builder).map_err(wrong)?;
    }
    let project = Project {
        builder,
        buildpacks: list(raw.group.into_iter().chain(raw.buildpacks).collect()).map_err(wrong)?,
        pre: groups(raw.pre).map_err(wrong)?,
        post: groups(raw.post).map_err(wrong)?,
        env,
        include: raw.include,
        exclude: raw.exclude,
    };
    Ok(Some(project))
}

fn entry(raw: Entry, is_directory: &dyn Fn(&str) -> bool) -> Result<Buildpack, String> {
    let optional = raw.optional;
    if let Some(Script { api, inline, shell }) = raw.script {
        let id = if raw.id.is_empty() { "inline/script".to_owned() } else { raw.id };
        source::check_id(&id)?;
        if !shell.starts_with('/') || shell.contains(char::is_whitespace) {
            return Err(format!("the shell {shell:?} of an inline script is no absolute path"));
        }
        let text = format!("{id} (inline script)");
        return Ok(Buildpack {
            source: BuildpackSource::Script { api, id, script: inline, shell },
            text,
            optional,
        });
    }
    if !raw.uri.is_empty() {
        return Ok(Buildpack { optional, ..source::parse(&raw.uri, is_directory)? });
    }
    if raw.id.is_empty() {
        return Err("a buildpack has neither `id` nor `uri`".to_owned());
    }
    source::check_id(&raw.id)?;
    let version = Some(raw.version).filter(|version| !version.is_empty());
    version.as_deref().map_or(Ok(()), source::check_version)?;
    let text = match &version {
        Some(version) => format!("{}@{version}", raw.id),
        None => raw.id.clone(),
    };
    Ok(Buildpack { source: BuildpackSource::Id { id: raw.id, version }, text, optional })
}
