//! What a Node.js app's `web` is: a command, or a directory of files its build makes.
//!
//! In: package.json and the tree. Out: the command line or site, and why.

use super::package::{Kind, Package};
use crate::tree::SourceTree;

/// What `web` is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// A command line.
    Line(String),
    /// A directory of the tree, after the build.
    Site(&'static str),
}

/// `web`, and a line for the log.
pub(super) fn default(tree: &dyn SourceTree, package: &Package, manager: Kind) -> Option<(Start, String)> {
    if let Some(dir) = site(tree, package) {
        return Some((
            Start::Site(dir),
            format!("{dir} (what the build makes); Berth serves it itself, no process runs"),
        ));
    }
    if let Some(script) = package.script("start") {
        // Run without npm: signals reach the app, and 40 MB of npm do not stay in memory.
        let needs_manager = script.contains("npm_")
            || package.script("prestart").is_some()
            || package.script("poststart").is_some();
        let named = match manager {
            Kind::Npm => "npm",
            Kind::Pnpm => "pnpm",
            Kind::Yarn | Kind::Berry => "yarn",
        };
        let line = if needs_manager { format!("{named} start") } else { script.to_owned() };
        return Some((Start::Line(line.clone()), format!("{line} (the start script of package.json)")));
    }
    let main = package.text(&["main"]).map(|main| main.trim_start_matches("./"));
    let main = main.filter(|main| tree.has(main) && !main.contains(['\'', '\n']));
    let file = tree.has("server.js").then_some("server.js").or(main);
    let file = file
        .or_else(|| ["index.js", "index.mjs", "app.js", "main.js"].into_iter().find(|file| tree.has(file)))?;
    let shown = if file.contains(' ') { crate::draft::quoted(file) } else { file.to_owned() };
    Some((Start::Line(format!("node {shown}")), format!("node {shown} (package.json has no start script)")))
}

/// The directory of a single-page or static-site build, if the app has no server.
fn site(tree: &dyn SourceTree, package: &Package) -> Option<&'static str> {
    const SERVERS: [&str; 14] = [
        "express",
        "fastify",
        "koa",
        "@hapi/hapi",
        "hono",
        "@hono/node-server",
        "@nestjs/core",
        "next",
        "nuxt",
        "@sveltejs/kit",
        "@remix-run/node",
        "@react-router/node",
        "@astrojs/node",
        "@angular/ssr",
    ];
    const BUILDERS: [(&str, &str); 6] = [
        ("react-scripts", "build"),
        ("@vue/cli-service", "dist"),
        ("astro", "dist"),
        ("vite", "dist"),
        ("gatsby", "public"),
        ("@11ty/eleventy", "_site"),
    ];
    package.script("build")?;
    let starts_dev_server = |script: &str| {
        let first = script.split_whitespace().next().unwrap_or_default();
        matches!(
            first,
            "vite" | "react-scripts" | "astro" | "vue-cli-service" | "gatsby" | "eleventy" | "serve" | "ng"
        )
    };
    // Next.js needs no server when it is told to write files only.
    let config = ["next.config.js", "next.config.mjs", "next.config.ts"]
        .into_iter()
        .find_map(|file| tree.glance(file));
    let exports = package.depends_on("next")
        && !tree.has("server.js")
        && config.is_some_and(|text| {
            let text = text.replace([' ', '\n', '\t'], "").replace('\'', "\"");
            text.contains("output:\"export\"")
        });
    let has_server = package.script("start").is_some_and(|script| !starts_dev_server(script))
        || tree.has("server.js")
        || SERVERS.iter().any(|name| package.depends_on(name));
    if has_server && !exports {
        return None;
    }
    if exports {
        return Some("out");
    }
    BUILDERS.into_iter().find(|(name, _)| package.depends_on(name)).map(|(_, dir)| dir)
}
