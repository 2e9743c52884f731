//! Sites of plain files, served by Berth's own file server: no process runs.
//!
//! In: a tree with an index.html, a `Staticfile`, a `static.json` or a `.static`, or the source of a generator of sites
//! (Hugo, MkDocs, Sphinx, Jekyll). Out: one layer of the files that may be served.

mod generator;
mod settings;

use crate::PlanError;
use crate::draft::{Draft, Outcome, image_config};
use crate::error::invalid;
use crate::tree::SourceTree;
use berth_model::ProcessType;
use berth_model::image::{Process, StaticSite};
use berth_model::site::SiteRules;
pub(crate) use generator::{Generator, detect};

/// Directories that hold a ready site, in order.
const ROOTS: [&str; 5] = ["public", "dist", "_site", "build", "out"];

/// Files at the top that are about the app and not part of it.
const NOT_SERVED: [&str; 8] = [
    "Procfile",
    "Staticfile",
    "app.json",
    "static.json",
    "CHECKS",
    "package.json",
    "package-lock.json",
    "README.md",
];

/// For settings that ask for it.
const NO_HTTPS: &str =
    "requests over plain HTTP are not led to HTTPS by this setting: the platform decides that";

/// What the tree says about its site.
pub(crate) struct Site {
    /// Directory of the tree, empty for its top.
    root: String,
    spa_fallback: bool,
    rules: SiteRules,
    /// Why, for the log.
    reason: String,
    /// What else to say.
    notes: Vec<String>,
}

impl Site {
    fn new(root: String, reason: &str) -> Self {
        let rules = SiteRules::default();
        Self { root, spa_fallback: false, rules, reason: reason.to_owned(), notes: Vec::new() }
    }
}

/// Settings of a site that a build is yet to make.
pub(crate) struct BuiltSettings {
    /// Directory that they name; empty if none.
    pub(crate) dir: String,
    pub(crate) spa_fallback: bool,
    pub(crate) rules: SiteRules,
    pub(crate) reason: String,
}

/// A `Staticfile` or `static.json` for what a build makes.
pub(crate) fn settings_of_build(tree: &dyn SourceTree) -> Result<Option<BuiltSettings>, PlanError> {
    let site = match (tree.text("Staticfile")?, tree.text("static.json")?) {
        (Some(text), _) => settings::staticfile(tree, &text, false)?,
        (None, Some(text)) => settings::static_json(tree, &text, false)?,
        (None, None) => return Ok(None),
    };
    let Site { root, spa_fallback, rules, reason, .. } = site;
    rules.check().or_else(|text| invalid(&reason, text))?;
    Ok(Some(BuiltSettings { dir: root, spa_fallback, rules, reason }))
}

/// Finds the site of a tree, if it has one.
pub(crate) fn find(tree: &dyn SourceTree) -> Result<Option<Site>, PlanError> {
    if let Some(text) = tree.text("Staticfile")? {
        return settings::staticfile(tree, &text, true).map(Some);
    }
    if let Some(text) = tree.text("static.json")? {
        return settings::static_json(tree, &text, true).map(Some);
    }
    if tree.has("index.html") {
        return Ok(Some(Site::new(String::new(), "index.html is at the top")));
    }
    match (ready_dir(tree), tree.has(".static")) {
        (Some(dir), _) => Ok(Some(Site::new(dir.to_owned(), &format!("{dir}/index.html exists")))),
        (None, true) => Ok(Some(Site::new(String::new(), ".static exists"))),
        (None, false) => Ok(None),
    }
}

/// The directory below the top that holds a ready site.
fn ready_dir(tree: &dyn SourceTree) -> Option<&'static str> {
    ROOTS.into_iter().find(|dir| !tree.has("index.html") && tree.has(&format!("{dir}/index.html")))
}

/// `exists`: whether the directory must be in the tree.
fn checked_root(tree: &dyn SourceTree, file: &str, root: &str, exists: bool) -> Result<String, PlanError> {
    let parts: Vec<&str> = root.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") || parts.iter().any(|part| part.starts_with('.')) {
        return invalid(
            file,
            format!(
                "root {root:?} must be a directory of the repository whose name does not begin with a dot"
            ),
        );
    }
    let root = parts.join("/");
    if exists && !root.is_empty() && !tree.has_dir(&root) {
        return invalid(
            file,
            format!(
                "root {root:?} is no directory of the repository; check its name and that it is committed"
            ),
        );
    }
    Ok(root)
}

pub(crate) fn plan(draft: &mut Draft<'_>) -> Result<Outcome, PlanError> {
    // A site that is there is served as it is, but a generator's own sources are no site.
    if let Some(generator) = generator::detect(draft.tree) {
        return generator::plan(draft, generator);
    }
    let Some(site) = find(draft.tree)? else {
        return Err(PlanError::NothingToStart {
            language: "static",
            looked: "index.html, Staticfile, static.json, .static, index.html in public, dist and _site, and settings of Hugo, \
                     MkDocs, Sphinx and Jekyll",
            example: "./server",
        });
    };
    let root = if site.root.is_empty() { "/app".to_owned() } else { format!("/app/{}", site.root) };
    let spa = if site.spa_fallback { "; unknown paths get index.html" } else { "" };
    let shown = if site.root.is_empty() { "." } else { &site.root };
    let mut notes =
        vec![format!("site: {shown} ({}{spa}); Berth serves it itself, no process runs", site.reason)];
    notes.extend(settings::check_files(draft.tree, &site.root)?);
    notes.extend(site.notes);
    if let Err(reason) = site.rules.check() {
        return invalid(if draft.tree.has("Staticfile") { "Staticfile" } else { "static.json" }, reason);
    }
    let hidden = not_served(draft.tree, &site.root);
    draft.source(notes, &hidden);
    let mut processes = draft.processes(None);
    let web = Process::Static(StaticSite { root, spa_fallback: site.spa_fallback, rules: site.rules });
    processes.entry(ProcessType::web()).or_insert(web);
    Ok(Outcome { processes, config: image_config(&[], &[]) })
}

/// Dot files (but `.well-known`, RFC 8615) anywhere, and at the top files about the app.
fn not_served(tree: &dyn SourceTree, root: &str) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for entry in tree.entries() {
        let mut end = 0;
        for part in entry.path.split('/') {
            end += part.len();
            if part.starts_with('.') && part != ".well-known" {
                paths.push(entry.path[..end].to_owned());
                break;
            }
            end += 1;
        }
    }
    if root.is_empty() {
        paths.extend(NOT_SERVED.into_iter().filter(|name| tree.has(name)).map(str::to_owned));
    }
    paths
}
