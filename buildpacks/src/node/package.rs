//! `package.json` and its lock files: which manager installs, and which part of the file matters to it.
//!
//! In: the tree. Out: the parsed file, the manager with its version, and what must be fetched.

use crate::PlanError;
use crate::error::invalid;
use crate::tree::SourceTree;
use serde_json::{Map, Value};

/// Fields of package.json that decide what is installed. Others (version, scripts of the app, settings of tools) change
/// without changing node_modules.
const INSTALL_FIELDS: [&str; 19] = [
    "name",
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "bundleDependencies",
    "bundledDependencies",
    "dependenciesMeta",
    "overrides",
    "resolutions",
    "packageManager",
    "engines",
    "os",
    "cpu",
    "pnpm",
    "installConfig",
    "private",
    "type",
];

/// Scripts that npm runs around an installation of the app itself, in order.
pub(super) const INSTALL_SCRIPTS: [&str; 4] = ["preinstall", "install", "postinstall", "prepare"];

/// A parsed package.json.
#[derive(Debug)]
pub(super) struct Package {
    pub(super) json: Map<String, Value>,
}

impl Package {
    pub(super) fn read(tree: &dyn SourceTree) -> Result<Self, PlanError> {
        const FILE: &str = "package.json";
        let Some(text) = tree.text(FILE)? else {
            return invalid(
                FILE,
                "the builder node was chosen, but there is none at the top of the tree; commit one ({} will do), or choose the \
                 directory that has it: berth builder:set APP build-dir DIR",
            );
        };
        match serde_json::from_str(&text) {
            Ok(Value::Object(json)) => Ok(Self { json }),
            Ok(_) => invalid(FILE, "it is not a JSON object"),
            Err(error) => invalid(FILE, format!("it is not valid JSON ({error})")),
        }
    }

    /// Text at a path such as `["engines", "node"]`.
    pub(super) fn text(&self, path: &[&str]) -> Option<&str> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.json.get(*first)?, |value, name| value.get(name))?.as_str()
    }

    /// A script that is not empty.
    pub(super) fn script(&self, name: &str) -> Option<&str> {
        self.text(&["scripts", name]).map(str::trim).filter(|line| !line.is_empty())
    }

    /// Whether a package is named in `dependencies` or `devDependencies`.
    pub(super) fn depends_on(&self, name: &str) -> bool {
        ["dependencies", "devDependencies"]
            .iter()
            .any(|field| self.json.get(*field).is_some_and(|all| all.get(name).is_some()))
    }

    /// Whether a table such as `devDependencies` names anything.
    pub(super) fn any(&self, field: &str) -> bool {
        self.json.get(field).and_then(Value::as_object).is_some_and(|table| !table.is_empty())
    }

    /// Whether installing needs more of the tree than this file: workspaces, or packages in directories.
    pub(super) fn needs_tree(&self) -> bool {
        let is_local = |value: &Value| {
            let text = value.as_str().unwrap_or_default();
            ["file:", "link:", "workspace:", "portal:", "./", "../", "patch:", "catalog:"]
                .iter()
                .any(|prefix| text.starts_with(prefix))
        };
        let tables = ["dependencies", "devDependencies", "optionalDependencies", "overrides", "resolutions"];
        let mut values =
            tables.iter().filter_map(|field| self.json.get(*field)?.as_object()).flat_map(Map::values);
        let has_patches = self.json.get("pnpm").is_some_and(|pnpm| pnpm.get("patchedDependencies").is_some());
        self.json.contains_key("workspaces") || has_patches || values.any(is_local)
    }

    /// The file with only what decides about node_modules.
    pub(super) fn for_install(&self) -> String {
        let fields: Map<String, Value> = self
            .json
            .iter()
            .filter(|(name, _)| INSTALL_FIELDS.contains(&name.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        Value::Object(fields).to_string()
    }
}

/// A package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Npm,
    Pnpm,
    /// Yarn 1.
    Yarn,
    /// Yarn 2 and later.
    Berry,
    Bun,
}

/// The manager that installs an app.
#[derive(Clone, Debug)]
pub(super) struct Manager {
    pub(super) kind: Kind,
    /// Range of versions, or `bundled` for npm.
    pub(super) range: String,
    /// The lock file, if there is one.
    pub(super) lock: Option<&'static str>,
    /// Why this one.
    pub(super) reason: String,
    /// Yarn as it is committed in the tree (`yarnPath`).
    pub(super) committed: Option<String>,
}

/// The manager of a tree: `packageManager`, then the lock file, then npm.
pub(super) fn manager(tree: &dyn SourceTree, package: &Package) -> Result<Manager, PlanError> {
    let locks: Vec<&'static str> =
        ["package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock", "bun.lockb"]
            .into_iter()
            .filter(|file| tree.has(file))
            .collect();
    let lock_of = |kind: Kind| {
        let names: &[&str] = match kind {
            Kind::Npm => &["npm-shrinkwrap.json", "package-lock.json"],
            Kind::Pnpm => &["pnpm-lock.yaml"],
            Kind::Yarn | Kind::Berry => &["yarn.lock"],
            Kind::Bun => &["bun.lock", "bun.lockb"],
        };
        locks.iter().copied().find(|lock| names.contains(lock))
    };
    let range =
        |file: &str, text: &str| super::range::canonical(text).or_else(|reason| invalid(file, reason));
    let yarn_path = yarn_path(tree)?;
    if let Some(field) = package.text(&["packageManager"]) {
        let (name, version) = field.split_once('@').unwrap_or((field, ""));
        let version = version.split('+').next().unwrap_or_default();
        let is_classic = version.starts_with("1.");
        let kind = match name {
            "npm" => Kind::Npm,
            "pnpm" => Kind::Pnpm,
            "yarn" if is_classic => Kind::Yarn,
            "yarn" => Kind::Berry,
            "bun" => Kind::Bun,
            _ => {
                return invalid(
                    "package.json",
                    format!(
                        "packageManager {field:?} is not npm, pnpm, yarn or bun with a version, such as pnpm@10.2.0"
                    ),
                );
            }
        };
        let range =
            if version.is_empty() { default_range(tree, kind)? } else { range("package.json", version)? };
        let reason = format!("packageManager says {field}");
        return Ok(Manager {
            kind,
            range,
            lock: lock_of(kind),
            reason,
            committed: yarn_path.filter(|_| kind == Kind::Berry),
        });
    }
    let kind = match locks.first() {
        Some(&"pnpm-lock.yaml") => Kind::Pnpm,
        Some(&"yarn.lock") if yarn_path.is_some() || is_berry_lock(tree) => Kind::Berry,
        Some(&"yarn.lock") => Kind::Yarn,
        Some(&("bun.lock" | "bun.lockb")) => Kind::Bun,
        _ => Kind::Npm,
    };
    let named = match kind {
        Kind::Npm => "npm",
        Kind::Pnpm => "pnpm",
        Kind::Yarn | Kind::Berry => "yarn",
        Kind::Bun => "bun",
    };
    let range = match package.text(&["engines", named]) {
        Some(text) => range("package.json", text)?,
        None => default_range(tree, kind)?,
    };
    let reason = match lock_of(kind) {
        Some(lock) if locks.len() > 1 => {
            let others: Vec<&str> = locks.iter().copied().filter(|other| *other != lock).collect();
            format!(
                "{lock} exists ({} too: keep one of them, or name the manager in packageManager)",
                others.join(" and ")
            )
        }
        Some(lock) => format!("{lock} exists"),
        None => "no lock file names another".to_owned(),
    };
    Ok(Manager {
        kind,
        range,
        lock: lock_of(kind),
        reason,
        committed: yarn_path.filter(|_| kind == Kind::Berry),
    })
}

/// The versions that read the tree's lock file.
fn default_range(tree: &dyn SourceTree, kind: Kind) -> Result<String, PlanError> {
    Ok(match kind {
        Kind::Npm => "bundled",
        Kind::Yarn => ">=1.22.0 <2.0.0",
        Kind::Berry => ">=4.0.0 <5.0.0",
        Kind::Bun => ">=1.0.0 <2.0.0",
        Kind::Pnpm => {
            let text = tree.glance("pnpm-lock.yaml").unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("lockfileVersion:"));
            match line.map(|version| version.trim().trim_matches(['"', '\''])).unwrap_or_default() {
                version if version.starts_with("5.") => ">=7.0.0 <8.0.0",
                version if version.starts_with("6.") => ">=8.0.0 <9.0.0",
                _ => ">=10.0.0 <11.0.0",
            }
        }
    }
    .to_owned())
}

fn is_berry_lock(tree: &dyn SourceTree) -> bool {
    tree.glance("yarn.lock").is_some_and(|text| text.lines().any(|line| line.starts_with("__metadata:")))
}

/// `yarnPath: .yarn/releases/yarn-4.1.0.cjs`
fn yarn_path(tree: &dyn SourceTree) -> Result<Option<String>, PlanError> {
    const FILE: &str = ".yarnrc.yml";
    let Some(text) = tree.text(FILE)? else { return Ok(None) };
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("yarnPath:")) else { return Ok(None) };
    let path = path.trim().trim_matches(['"', '\'']).trim_start_matches("./");
    match tree.has(path) {
        true => Ok(Some(path.to_owned())),
        false => invalid(FILE, format!("yarnPath names {path:?}, which is not in the repository; commit it")),
    }
}

/// Whether Yarn 2+ makes a node_modules directory.
pub(super) fn uses_node_modules(tree: &dyn SourceTree) -> bool {
    tree.glance(".yarnrc.yml").is_some_and(|text| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("nodeLinker:"));
        lines.any(|linker| linker.trim().trim_matches(['"', '\'']) == "node-modules")
    })
}
