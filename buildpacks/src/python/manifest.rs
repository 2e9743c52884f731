//! Which file names an app's Python packages, and what is in it.
//!
//! In: the tree. Out: the one manifest that counts, how uv installs it, and the names of the packages.

use super::{lock, requirements};
use crate::PlanError;
use crate::error::invalid;
use crate::tree::SourceTree;
use std::collections::BTreeSet;

/// Names of the packages an app depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packages {
    names: BTreeSet<String>,
    /// Whether there is any package at all, named or not.
    pub(super) any: bool,
}

impl Packages {
    pub(super) fn add(&mut self, name: &str) {
        if !name.is_empty() {
            self.any = true;
            self.names.insert(normalized(name));
        }
    }

    /// `fastapi[standard]` brings uvicorn.
    pub(super) fn add_extras<'e>(&mut self, name: &str, mut extras: impl Iterator<Item = &'e str>) {
        if normalized(name) == "fastapi" && extras.any(|extra| matches!(extra.trim(), "standard" | "all")) {
            self.names.insert("uvicorn".to_owned());
        }
    }

    /// Whether a package (normalized name) is among them.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

/// The name by which an index knows a package (PEP 503).
pub(super) fn normalized(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.trim().chars() {
        match c {
            '-' | '_' | '.' if text.ends_with('-') => {}
            '-' | '_' | '.' => text.push('-'),
            c => text.extend(c.to_lowercase()),
        }
    }
    text
}

/// How the packages get into the virtual environment.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    /// The file that counts, for the log.
    pub(super) file: &'static str,
    pub(super) install: Install,
    pub(super) packages: Packages,
    /// Files of the tree that the installation reads; `.` if it installs the app's own code.
    pub(super) sources: Vec<String>,
    /// Config vars that the installation reads, besides those for pip and uv.
    pub(super) variables: BTreeSet<String>,
}

/// Ways to name packages to uv.
#[derive(Clone, Debug)]
pub(super) enum Install {
    /// `uv pip install -r` a file of the tree.
    File(&'static str),
    /// `uv pip install -r` this text.
    Text(String),
    /// `uv sync` from `uv.lock`.
    UvLock,
    /// `uv pip install .`
    Project,
    /// No package at all.
    Nothing,
}

impl Manifest {
    /// One that names no packages.
    pub(super) fn of_nothing(file: &'static str) -> Self {
        Self {
            file,
            install: Install::Nothing,
            packages: Packages::default(),
            sources: Vec::new(),
            variables: BTreeSet::new(),
        }
    }
}

/// The manifest that counts: the first of these that exists. The order is that of Heroku's buildpack, which reads
/// requirements.txt before lock files because tools export it from them.
pub(super) fn find(tree: &dyn SourceTree) -> Result<(Option<Manifest>, Vec<String>), PlanError> {
    const ORDER: [&str; 6] =
        ["Pipfile.lock", "requirements.txt", "poetry.lock", "uv.lock", "pyproject.toml", "setup.py"];
    let present: Vec<&'static str> = ORDER.into_iter().filter(|file| tree.has(file)).collect();
    let mut notes = Vec::new();
    let locks: Vec<&str> =
        present.iter().copied().filter(|file| !matches!(*file, "pyproject.toml" | "setup.py")).collect();
    if let [first, others @ ..] = locks.as_slice()
        && !others.is_empty()
    {
        notes.push(format!("{first} is used, {} ignored: keep one of them to be sure", others.join(" and ")));
    }
    let Some(file) = present.first().copied() else {
        let Some(pipfile) = toml(tree, "Pipfile")? else { return Ok((None, notes)) };
        let found = super::pipfile::read(&pipfile).or_else(|reason| invalid("Pipfile", reason))?;
        return Ok((Some(from_lock("Pipfile", found)), notes));
    };
    let manifest = match file {
        "requirements.txt" => requirements_txt(tree)?,
        "Pipfile.lock" => pipfile_lock(tree)?,
        "poetry.lock" => poetry_lock(tree)?,
        "uv.lock" => uv_lock(tree)?,
        "pyproject.toml" => match pyproject(tree)? {
            Some(manifest) => manifest,
            None => return Ok((None, notes)), // only settings of tools
        },
        _ => Manifest {
            file: "setup.py",
            install: Install::Project,
            packages: Packages { any: true, ..Packages::default() },
            sources: vec![".".to_owned()],
            variables: BTreeSet::new(),
        },
    };
    Ok((Some(manifest), notes))
}

fn requirements_txt(tree: &dyn SourceTree) -> Result<Manifest, PlanError> {
    requirements_file(tree, "requirements.txt")
}

/// A file in pip's format.
pub(super) fn requirements_file(tree: &dyn SourceTree, file: &'static str) -> Result<Manifest, PlanError> {
    let found = requirements::read(tree, file)?;
    let sources = if found.local { vec![".".to_owned()] } else { found.files.into_iter().collect() };
    Ok(Manifest {
        file,
        install: Install::File(file),
        packages: found.packages,
        sources,
        variables: found.variables,
    })
}

fn pipfile_lock(tree: &dyn SourceTree) -> Result<Manifest, PlanError> {
    const FILE: &str = "Pipfile.lock";
    let json = json(tree, FILE)?.unwrap_or_default();
    let locked = lock::pipfile(&json).or_else(|reason| invalid(FILE, reason))?;
    Ok(from_lock(FILE, locked))
}

fn poetry_lock(tree: &dyn SourceTree) -> Result<Manifest, PlanError> {
    const FILE: &str = "poetry.lock";
    let lock = toml(tree, FILE)?.unwrap_or(toml::Value::Boolean(false));
    let Some(pyproject) = toml(tree, "pyproject.toml")? else {
        return invalid(FILE, "there is no pyproject.toml beside it; commit it too");
    };
    let locked = lock::poetry(&lock, &pyproject).or_else(|reason| invalid(FILE, reason))?;
    Ok(from_lock(FILE, locked))
}

fn from_lock(file: &'static str, locked: lock::Locked) -> Manifest {
    let sources = if locked.local { vec![".".to_owned()] } else { Vec::new() };
    let mut packages = Packages::default();
    locked.names.iter().for_each(|name| packages.add(name));
    let variables = locked.variables;
    Manifest { file, install: Install::Text(locked.requirements), packages, sources, variables }
}

fn uv_lock(tree: &dyn SourceTree) -> Result<Manifest, PlanError> {
    const FILE: &str = "uv.lock";
    let lock = toml(tree, FILE)?.unwrap_or(toml::Value::Boolean(false));
    let Some(pyproject) = toml(tree, "pyproject.toml")? else {
        return invalid(FILE, "there is no pyproject.toml beside it; commit it too");
    };
    let mut packages = Packages::default();
    let (mut local, mut members) = (false, false);
    let locked: BTreeSet<String> = lock
        .get("package")
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|package| package.get("name")?.as_str())
        .map(normalized)
        .collect();
    // `uv sync --frozen` takes the lock at its word, so what it lacks would be missed when the app starts.
    let wanted = at(&pyproject, &["project", "dependencies"]).and_then(toml::Value::as_array);
    for line in wanted.into_iter().flatten().filter_map(toml::Value::as_str) {
        let end = line.find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c)).unwrap_or(line.len());
        if !locked.contains(&normalized(&line[..end])) {
            return invalid(
                FILE,
                format!(
                    "it lacks {}, which pyproject.toml names; run `uv lock` and commit uv.lock",
                    &line[..end]
                ),
            );
        }
    }
    for package in lock.get("package").and_then(toml::Value::as_array).into_iter().flatten() {
        let source = |kind: &str| at(package, &["source", kind]).and_then(toml::Value::as_str);
        match (
            source("virtual").or_else(|| source("editable")),
            source("directory").or_else(|| source("path")),
        ) {
            (Some("."), _) => {} // the app itself
            (Some(_), _) => members = true,
            (None, Some(_)) => local = true,
            (None, None) => {
                packages.add(package.get("name").and_then(toml::Value::as_str).unwrap_or_default());
            }
        }
    }
    let sources = if local || members {
        vec![".".to_owned()]
    } else {
        vec!["pyproject.toml".to_owned(), FILE.to_owned(), "uv.toml".to_owned()]
            .into_iter()
            .filter(|file| tree.has(file))
            .collect()
    };
    Ok(Manifest { file: FILE, install: Install::UvLock, packages, sources, variables: BTreeSet::new() })
}

/// PEP 621 dependencies without a lock file.
fn pyproject(tree: &dyn SourceTree) -> Result<Option<Manifest>, PlanError> {
    const FILE: &str = "pyproject.toml";
    let Some(toml) = toml(tree, FILE)? else { return Ok(None) };
    let Some(project) = toml.get("project") else {
        if at(&toml, &["tool", "poetry", "dependencies"]).is_some() {
            return invalid(
                FILE,
                "it is Poetry's, but there is no poetry.lock; run `poetry lock` and commit poetry.lock",
            );
        }
        return Ok(None);
    };
    let manifest = |install, packages, sources| Manifest {
        file: FILE,
        install,
        packages,
        sources,
        variables: BTreeSet::new(),
    };
    let dynamic = project.get("dynamic").and_then(toml::Value::as_array);
    if dynamic.is_some_and(|names| names.iter().any(|name| name.as_str() == Some("dependencies"))) {
        let packages = Packages { any: true, ..Packages::default() };
        return Ok(Some(manifest(Install::Project, packages, vec![".".to_owned()])));
    }
    let mut packages = Packages::default();
    let mut text = String::new();
    for dependency in project.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten() {
        let Some(line) = dependency.as_str().map(str::trim).filter(|line| !line.contains(['\n', '\r']))
        else {
            return invalid(FILE, "project.dependencies must be a list of strings, one package each");
        };
        let end = line.find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c)).unwrap_or(line.len());
        if end == 0 {
            return invalid(
                FILE,
                format!("project.dependencies: {line:?} does not begin with the name of a package"),
            );
        }
        packages.add(&line[..end]);
        if let Some((extras, _)) =
            line[end..].trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']'))
        {
            packages.add_extras(&line[..end], extras.split(','));
        }
        text.push_str(line);
        text.push('\n');
    }
    Ok(Some(manifest(Install::Text(text), packages, Vec::new())))
}

/// A TOML file of the tree.
pub(super) fn toml(tree: &dyn SourceTree, file: &str) -> Result<Option<toml::Value>, PlanError> {
    let Some(text) = tree.text(file)? else { return Ok(None) };
    match text.parse::<toml::Table>() {
        Ok(table) => Ok(Some(toml::Value::Table(table))),
        Err(error) => {
            let line =
                error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            invalid(file, format!("line {line}: it is not valid TOML ({})", error.message()))
        }
    }
}

/// A JSON file of the tree.
pub(super) fn json(tree: &dyn SourceTree, file: &str) -> Result<Option<serde_json::Value>, PlanError> {
    let Some(text) = tree.text(file)? else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(json) => Ok(Some(json)),
        Err(error) => invalid(file, format!("it is not valid JSON ({error})")),
    }
}

/// The value at a path of tables.
pub(super) fn at<'v>(value: &'v toml::Value, path: &[&str]) -> Option<&'v toml::Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}
