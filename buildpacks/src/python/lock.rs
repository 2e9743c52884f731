//! Lock files of Poetry and Pipenv as hash-pinned requirements, which uv installs: neither tool is needed, nor the
//! extra index pages Poetry asks for.
//!
//! In: a parsed lock file. Out: requirements text, one package a line, sorted.

use super::manifest::{at, normalized};
use std::collections::{BTreeMap, BTreeSet};

/// What a lock file pins.
#[derive(Debug, Default)]
pub(super) struct Locked {
    /// For `uv pip install -r`.
    pub(super) requirements: String,
    /// Normalized names.
    pub(super) names: BTreeSet<String>,
    /// A package is a directory of the tree.
    pub(super) local: bool,
    /// `${NAME}`s in index addresses.
    pub(super) variables: BTreeSet<String>,
}

/// Indexes that are PyPI itself: naming them would overrule a mirror.
pub(super) fn is_pypi(url: &str) -> bool {
    let url = url.trim_end_matches('/');
    matches!(url, "https://pypi.org/simple" | "https://pypi.python.org/simple" | "http://pypi.org/simple")
}

/// Text that can stand in one line of a requirements file and mean only itself.
pub(super) fn checked<'t>(what: &str, text: &'t str) -> Result<&'t str, String> {
    let is_clean =
        !text.is_empty() && !text.chars().any(|c| c.is_control() || c == '\\') && !text.starts_with('-');
    if is_clean { Ok(text) } else { Err(format!("{what} {text:?} is not valid")) }
}

impl Locked {
    fn line(&mut self, name: &str, pin: &str, marker: Option<&str>, hashes: &[&str]) -> Result<(), String> {
        let name = checked("package name", name)?;
        self.names.insert(normalized(name));
        self.requirements.push_str(name);
        self.requirements.push_str(checked("version", pin)?);
        if let Some(marker) = marker {
            self.requirements.push_str(" ; ");
            self.requirements.push_str(checked("marker", marker)?);
        }
        for hash in hashes {
            self.requirements.push_str(" --hash=");
            self.requirements.push_str(checked("hash", hash)?);
        }
        self.requirements.push('\n');
        Ok(())
    }

    /// An address of packages besides PyPI.
    pub(super) fn index(&mut self, option: &str, url: &str) -> Result<(), String> {
        let url = checked("index address", url)?;
        let names =
            url.split("${").skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name.to_owned());
        self.variables.extend(names);
        self.requirements.insert_str(0, &format!("{option} {url}\n"));
        Ok(())
    }
}

/// `Pipfile.lock`, its `default` part.
pub(super) fn pipfile(json: &serde_json::Value) -> Result<Locked, String> {
    let mut locked = Locked::default();
    let packages = json.get("default").and_then(serde_json::Value::as_object);
    for (name, package) in packages.into_iter().flatten() {
        let text = |field: &str| package.get(field).and_then(serde_json::Value::as_str);
        let list = |field: &str| -> Vec<&str> {
            package
                .get(field)
                .and_then(serde_json::Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|v| v.as_str())
                .collect()
        };
        let extras = match list("extras").as_slice() {
            [] => String::new(),
            extras => format!("[{}]", extras.join(",")),
        };
        if let Some(path) = text("path").or_else(|| text("file").filter(|file| !file.contains("://"))) {
            locked.local = true;
            locked.requirements.push_str(&format!("-e {}\n", checked("path", path)?));
        } else if let Some(url) = text("git") {
            let reference = text("ref").unwrap_or("HEAD");
            let url = url.strip_prefix("git+").unwrap_or(url);
            locked.line(name, &format!("{extras} @ git+{url}@{reference}"), text("markers"), &[])?;
        } else if let Some(url) = text("file") {
            locked.line(name, &format!("{extras} @ {url}"), text("markers"), &list("hashes"))?;
        } else if let Some(version) = text("version") {
            locked.line(name, &format!("{extras}{version}"), text("markers"), &list("hashes"))?;
        } else {
            return Err(format!("package {name} has no version; run `pipenv lock` again"));
        }
    }
    let sources = json.pointer("/_meta/sources").and_then(serde_json::Value::as_array);
    let urls: Vec<&str> =
        sources.into_iter().flatten().filter_map(|source| source.get("url")?.as_str()).collect();
    for (index, url) in urls.iter().enumerate().filter(|(_, url)| !is_pypi(url)) {
        locked.index(if index == 0 { "--index-url" } else { "--extra-index-url" }, url)?;
    }
    Ok(locked)
}

/// `poetry.lock`, the packages that the app itself needs.
pub(super) fn poetry(lock: &toml::Value, pyproject: &toml::Value) -> Result<Locked, String> {
    let packages: Vec<&toml::Value> =
        lock.get("package").and_then(toml::Value::as_array).into_iter().flatten().collect();
    let text =
        |value: &toml::Value, name: &str| value.get(name).and_then(toml::Value::as_str).map(str::to_owned);
    // Poetry 2 writes each package's groups and markers; Poetry 1 leaves both to be worked out from the roots.
    let has_groups = packages.iter().any(|package| package.get("groups").is_some());
    let reached = if has_groups { BTreeMap::new() } else { reach(&packages, pyproject) };
    let mut locked = Locked::default();
    let mut indexes = BTreeSet::new();
    for package in packages {
        let (Some(name), Some(version)) = (text(package, "name"), text(package, "version")) else {
            return Err("a package has no name or version; run `poetry lock` again".to_owned());
        };
        let in_main = |groups: &toml::Value| {
            groups.as_array().is_some_and(|list| list.iter().any(|group| group.as_str() == Some("main")))
        };
        let marker = if has_groups {
            if !package.get("groups").is_some_and(in_main)
                || package.get("optional").and_then(toml::Value::as_bool) == Some(true)
            {
                continue;
            }
            match package.get("markers") {
                Some(toml::Value::String(marker)) => Some(marker.clone()),
                Some(markers) => text(markers, "main"),
                None => None,
            }
        } else {
            match reached.get(&normalized(&name)) {
                Some(marker) => marker.clone(),
                None => continue,
            }
        };
        let source = |field: &str| at(package, &["source", field]).and_then(toml::Value::as_str);
        let hashes = hashes(lock, package, &name);
        let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
        match (source("type"), source("url")) {
            (Some("directory" | "file"), Some(path)) => {
                locked.local = true;
                locked.requirements.push_str(&format!("./{}\n", checked("path", path)?));
                locked.names.insert(normalized(&name));
            }
            (Some("git"), Some(url)) => {
                let reference =
                    source("resolved_reference").or_else(|| source("reference")).unwrap_or("HEAD");
                locked.line(&name, &format!(" @ git+{url}@{reference}"), marker.as_deref(), &[])?;
            }
            (Some("url"), Some(url)) => {
                locked.line(&name, &format!(" @ {url}"), marker.as_deref(), &hashes)?;
            }
            (kind, url) => {
                if let (Some("legacy"), Some(url)) = (kind, url) {
                    indexes.insert(url.to_owned());
                }
                locked.line(&name, &format!("=={version}"), marker.as_deref(), &hashes)?;
            }
        }
    }
    for url in indexes.iter().filter(|url| !is_pypi(url)) {
        locked.index("--extra-index-url", url)?;
    }
    Ok(locked)
}

/// `files = [{file, hash}]` of the package, or of the table at the end that Poetry before 1.3 wrote.
fn hashes(lock: &toml::Value, package: &toml::Value, name: &str) -> Vec<String> {
    let old = at(lock, &["metadata", "files", name]);
    let files = package.get("files").or(old).and_then(toml::Value::as_array);
    files.into_iter().flatten().filter_map(|file| file.get("hash")?.as_str().map(str::to_owned)).collect()
}

/// Packages reachable from the roots of `pyproject.toml`, each with the markers of the ways to it (`None`: always).
fn reach(packages: &[&toml::Value], pyproject: &toml::Value) -> BTreeMap<String, Option<String>> {
    let by_name: BTreeMap<String, &toml::Value> = packages
        .iter()
        .filter_map(|package| Some((normalized(package.get("name")?.as_str()?), *package)))
        .collect();
    let mut edges: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    let mut open: Vec<String> = Vec::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let visit = |name: &str,
                 spec: &toml::Value,
                 edges: &mut BTreeMap<String, Vec<Option<String>>>,
                 open: &mut Vec<String>| {
        if spec.get("optional").and_then(toml::Value::as_bool) == Some(true) {
            return;
        }
        let marker = spec.get("markers").and_then(toml::Value::as_str).map(str::to_owned);
        edges.entry(normalized(name)).or_default().push(marker);
        open.push(normalized(name));
    };
    if let Some(roots) = at(pyproject, &["tool", "poetry", "dependencies"]).and_then(toml::Value::as_table) {
        for (name, spec) in roots.iter().filter(|(name, _)| *name != "python") {
            visit(name, spec, &mut edges, &mut open);
        }
    }
    if let Some(roots) = at(pyproject, &["project", "dependencies"]).and_then(toml::Value::as_array) {
        for line in roots.iter().filter_map(toml::Value::as_str) {
            let end =
                line.find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c)).unwrap_or(line.len());
            visit(&line[..end], &toml::Value::Boolean(true), &mut edges, &mut open);
        }
    }
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let dependencies = by_name.get(&name).and_then(|package| package.get("dependencies")?.as_table());
        for (dependency, spec) in dependencies.into_iter().flatten() {
            match spec {
                toml::Value::Array(specs) => {
                    specs.iter().for_each(|spec| visit(dependency, spec, &mut edges, &mut open));
                }
                spec => visit(dependency, spec, &mut edges, &mut open),
            }
        }
    }
    edges
        .into_iter()
        .map(|(name, markers)| {
            let all: Option<BTreeSet<String>> = markers.into_iter().collect();
            (
                name,
                all.map(|markers| {
                    markers.iter().map(|marker| format!("({marker})")).collect::<Vec<_>>().join(" or ")
                }),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(text: &str) -> toml::Value {
        toml::Value::Table(text.parse().expect("valid TOML"))
    }

    #[test]
    fn poetry_two_is_read_by_groups() {
        let lock = toml(
            r#"
            [[package]]
            name = "Flask"
            version = "3.1.3"
            optional = false
            groups = ["main"]
            files = [{file = "a.whl", hash = "sha256:aa"}, {file = "a.tgz", hash = "sha256:bb"}]
            [[package]]
            name = "pytest"
            version = "8.0"
            groups = ["dev"]
            files = []
            [[package]]
            name = "colorama"
            version = "0.4"
            groups = ["main", "dev"]
            markers = {main = "platform_system == \"Windows\"", dev = "x"}
            files = []
            [[package]]
            name = "lib"
            version = "0.1"
            groups = ["main"]
            [package.source]
            type = "git"
            url = "https://github.com/a/lib.git"
            resolved_reference = "abc"
            [[package]]
            name = "private"
            version = "1"
            groups = ["main"]
            [package.source]
            type = "legacy"
            url = "https://pypi.example.com/simple"
        "#,
        );
        let locked = poetry(&lock, &toml("")).expect("valid");
        insta::assert_snapshot!(locked.requirements);
        assert_eq!(locked.names.len(), 4);
    }

    #[test]
    fn poetry_one_is_read_from_its_roots() {
        let lock = toml(
            r#"
            [[package]]
            name = "flask"
            version = "2"
            [package.dependencies]
            Click = ">=8"
            importlib-metadata = {version = ">=3.6", markers = "python_version < \"3.10\""}
            asgiref = {version = "*", optional = true}
            [[package]]
            name = "click"
            version = "8"
            [package.dependencies]
            colorama = {version = "*", markers = "platform_system == \"Windows\""}
            [[package]]
            name = "colorama"
            version = "0.4"
            [[package]]
            name = "importlib-metadata"
            version = "6"
            [[package]]
            name = "asgiref"
            version = "3"
            [[package]]
            name = "pytest"
            version = "7"
            [metadata.files]
            flask = [{file = "f.whl", hash = "sha256:cc"}]
        "#,
        );
        let pyproject = toml(
            "[tool.poetry.dependencies]\npython = \"^3.9\"\nflask = \"^2\"\n[tool.poetry.group.dev.dependencies]\npytest = \"*\"",
        );
        insta::assert_snapshot!(poetry(&lock, &pyproject).expect("valid").requirements, @r#"
        flask==2 --hash=sha256:cc
        click==8
        colorama==0.4 ; (platform_system == "Windows")
        importlib-metadata==6 ; (python_version < "3.10")
        "#);
    }

    #[test]
    fn pipenv_is_read_with_its_index() {
        let json = serde_json::json!({
            "_meta": {"sources": [{"name": "pypi", "url": "https://pypi.org/simple"}, {"url": "https://u:${TOKEN}@x.example/simple"}]},
            "default": {
                "flask": {"version": "==3.1.3", "hashes": ["sha256:aa"], "markers": "python_version >= '3.9'", "extras": ["async"]},
                "mine": {"path": "./libs/mine", "editable": true},
                "vcs": {"git": "https://github.com/a/b.git", "ref": "abc"},
            },
            "develop": {"pytest": {"version": "==8"}},
        });
        let locked = pipfile(&json).expect("valid");
        insta::assert_snapshot!(locked.requirements, @r"
        --extra-index-url https://u:${TOKEN}@x.example/simple
        flask[async]==3.1.3 ; python_version >= '3.9' --hash=sha256:aa
        -e ./libs/mine
        vcs @ git+https://github.com/a/b.git@abc
        ");
        assert!(locked.local && locked.variables.contains("TOKEN"));
    }

    #[test]
    fn a_line_cannot_be_smuggled_in() {
        let json = serde_json::json!({"default": {"a": {"version": "==1\n--index-url http://evil"}}});
        assert_eq!(
            pipfile(&json).expect_err("refused"),
            r#"version "==1\n--index-url http://evil" is not valid"#
        );
    }
}
