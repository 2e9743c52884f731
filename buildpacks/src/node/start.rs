//! What a Node.js app's `web` is: a command, or a directory of files its build makes.
//!
//! In: package.json and the tree. Out: the command line or site, and why.

use super::package::{Kind, Package};
use super::site::{self, Built};
use crate::PlanError;
use crate::tree::SourceTree;

/// What `web` is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// A command line.
    Line(String),
    /// What the build makes.
    Site(Built),
}

/// `web`, and a line for the log.
pub(super) fn default(
    tree: &dyn SourceTree,
    package: &Package,
    manager: Kind,
) -> Result<Option<(Start, String)>, PlanError> {
    if let Some((site, reason)) = site::find(tree, package)? {
        let reason = format!("{} ({reason}); Berth serves it itself, no process runs", site.dir);
        return Ok(Some((Start::Site(site), reason)));
    }
    Ok(command(tree, package, manager))
}

fn command(tree: &dyn SourceTree, package: &Package, manager: Kind) -> Option<(Start, String)> {
    if let Some(script) = package.script("start") {
        // Run without npm: signals reach the app, and 40 MB of npm do not stay in memory.
        let needs_manager = script.contains("npm_")
            || package.script("prestart").is_some()
            || package.script("poststart").is_some();
        let named = match manager {
            Kind::Npm => "npm",
            Kind::Pnpm => "pnpm",
            Kind::Yarn | Kind::Berry => "yarn",
            Kind::Bun => "bun run",
        };
        let line = if needs_manager { format!("{named} start") } else { script.to_owned() };
        return Some((Start::Line(line.clone()), format!("{line} (the start script of package.json)")));
    }
    let main = package.text(&["main"]).map(|main| main.trim_start_matches("./"));
    let main = main.filter(|main| tree.has(main) && !main.contains(['\'', '\n']));
    if manager == Kind::Bun {
        let typed = ["index.ts", "server.ts", "src/index.ts", "src/server.ts"]
            .into_iter()
            .find(|file| tree.has(file));
        if let Some(file) = main.filter(|main| !main.contains(' ')).or(typed) {
            return Some((
                Start::Line(format!("bun {file}")),
                format!("bun {file} (package.json has no start script)"),
            ));
        }
    }
    let file = tree.has("server.js").then_some("server.js").or(main);
    let file = file
        .or_else(|| ["index.js", "index.mjs", "app.js", "main.js"].into_iter().find(|file| tree.has(file)))?;
    let shown = if file.contains(' ') { crate::draft::quoted(file) } else { file.to_owned() };
    Some((Start::Line(format!("node {shown}")), format!("node {shown} (package.json has no start script)")))
}
