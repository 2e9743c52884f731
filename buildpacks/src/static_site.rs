//! Sites of plain files, served by Berth's own file server: no process runs.
//!
//! In: a tree with an index.html, a `Staticfile` or a `.static`. Out: one layer of the files that may be served.

use crate::PlanError;
use crate::draft::{Draft, Outcome, image_config};
use crate::error::invalid;
use crate::tree::SourceTree;
use berth_model::ProcessType;
use berth_model::image::{Process, StaticSite};

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

/// What the tree says about its site.
pub(crate) struct Site {
    /// Directory of the tree, empty for its top.
    root: String,
    spa_fallback: bool,
    /// Why, for the log.
    reason: String,
}

/// Finds the site of a tree, if it has one.
pub(crate) fn find(tree: &dyn SourceTree) -> Result<Option<Site>, PlanError> {
    if let Some(text) = tree.text("Staticfile")? {
        return staticfile(tree, &text).map(Some);
    }
    if let Some(text) = tree.text("static.json")? {
        return static_json(tree, &text).map(Some);
    }
    let site = |root: &str, reason: String| Some(Site { root: root.to_owned(), spa_fallback: false, reason });
    if tree.has("index.html") {
        return Ok(site("", "index.html is at the top".to_owned()));
    }
    let dir = ROOTS.into_iter().find(|dir| tree.has(&format!("{dir}/index.html")));
    match (dir, tree.has(".static")) {
        (Some(dir), _) => Ok(site(dir, format!("{dir}/index.html exists"))),
        (None, true) => Ok(site("", ".static exists".to_owned())),
        (None, false) => Ok(None),
    }
}

/// `root: public` and `index_fallback: true` lines (Cloud Foundry, Railpack), or `pushstate: enabled`.
fn staticfile(tree: &dyn SourceTree, text: &str) -> Result<Site, PlanError> {
    let (mut root, mut spa_fallback) = (None, false);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim().trim_matches(['"', '\'']);
        match name.trim() {
            "root" => root = Some(checked_root(tree, "Staticfile", value)?),
            "index_fallback" | "pushstate" | "spa" => {
                spa_fallback = matches!(value, "true" | "enabled" | "yes" | "on");
            }
            _ => {} // other servers' settings
        }
    }
    let default =
        || ROOTS.into_iter().find(|dir| !tree.has("index.html") && tree.has(&format!("{dir}/index.html")));
    let root = root.unwrap_or_else(|| default().unwrap_or_default().to_owned());
    Ok(Site { root, spa_fallback, reason: "Staticfile exists".to_owned() })
}

/// Heroku's old static buildpack: `root` (default `public_html`) and `routes` with `/**` → `index.html`.
fn static_json(tree: &dyn SourceTree, text: &str) -> Result<Site, PlanError> {
    let json: serde_json::Value = match serde_json::from_str(text) {
        Ok(json) => json,
        Err(error) => return invalid("static.json", format!("it is not valid JSON: {error}")),
    };
    let root = json.get("root").and_then(serde_json::Value::as_str).unwrap_or("public_html");
    let spa_fallback = json.pointer("/routes/~1**").and_then(serde_json::Value::as_str) == Some("index.html");
    Ok(Site {
        root: checked_root(tree, "static.json", root)?,
        spa_fallback,
        reason: "static.json exists".to_owned(),
    })
}

fn checked_root(tree: &dyn SourceTree, file: &str, root: &str) -> Result<String, PlanError> {
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
    if !root.is_empty() && !tree.has_dir(&root) {
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
    let Some(site) = find(draft.tree)? else {
        return Err(PlanError::NothingToStart {
            language: "static",
            looked: "index.html, Staticfile, .static, and index.html in public, dist and _site",
            example: "./server",
        });
    };
    let root = if site.root.is_empty() { "/app".to_owned() } else { format!("/app/{}", site.root) };
    let spa = if site.spa_fallback { "; unknown paths get index.html" } else { "" };
    let shown = if site.root.is_empty() { "." } else { &site.root };
    let notes =
        vec![format!("site: {shown} ({}{spa}); Berth serves it itself, no process runs", site.reason)];
    let hidden = not_served(draft.tree, &site.root);
    draft.source(notes, &hidden);
    let mut processes = draft.processes(None);
    let web = Process::Static(StaticSite { root, spa_fallback: site.spa_fallback });
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
