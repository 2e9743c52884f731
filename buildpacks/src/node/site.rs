//! Sites that a build of npm packages makes: which directory they are in, and whether one page answers for all.
//!
//! In: package.json and settings of the builder. Out: the site, if the app has no server of its own.

use super::package::Package;
use crate::PlanError;
use crate::static_site;
use crate::tree::SourceTree;
use berth_model::site::SiteRules;

/// A site after its build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Built {
    /// Directory of the tree.
    pub(super) dir: String,
    /// Unknown paths get index.html: the page's own program finds what they mean.
    pub(super) spa_fallback: bool,
    pub(super) rules: SiteRules,
}

/// Packages that answer requests themselves.
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

/// Package, directory of its output, whether it makes single-page applications, its file of settings without an ending.
const BUILDERS: [(&str, &str, bool, &str); 17] = [
    ("@docusaurus/core", "build", false, ""),
    ("vitepress", "", false, ""),
    ("vuepress", "", false, ""),
    ("react-scripts", "build", true, ""),
    ("@vue/cli-service", "dist", true, "vue.config"),
    ("astro", "dist", false, "astro.config"),
    ("@slidev/cli", "dist", true, ""),
    ("gatsby", "public", false, ""),
    ("@11ty/eleventy", "_site", false, ""),
    ("hexo", "public", false, ""),
    ("@angular/core", "", true, ""),
    ("ember-cli", "dist", true, ""),
    ("@quasar/app-vite", "dist/spa", true, ""),
    ("vite", "dist", true, "vite.config"),
    ("parcel", "dist", true, ""),
    ("expo", "dist", true, ""),
    ("webpack", "dist", true, ""),
];

/// Programs that serve while one develops: a `start` script that runs one is no server.
const DEVELOPMENT: [&str; 17] = [
    "vite",
    "react-scripts",
    "astro",
    "vue-cli-service",
    "gatsby",
    "eleventy",
    "serve",
    "ng",
    "docusaurus",
    "vitepress",
    "vuepress",
    "parcel",
    "hexo",
    "ember",
    "quasar",
    "expo",
    "webpack",
];

/// The site that the app's build makes, and why, if the app has no server.
pub(super) fn find(tree: &dyn SourceTree, package: &Package) -> Result<Option<(Built, String)>, PlanError> {
    let Some(build) = package.script("build").or_else(|| package.script("heroku-postbuild")) else {
        return Ok(None);
    };
    let develops = |script: &str| {
        let mut words = script.split_whitespace();
        let first = words
            .find(|word| !matches!(*word, "npx" | "cross-env") && !word.contains('='))
            .unwrap_or_default();
        let name = first.trim_start_matches("node_modules/.bin/").trim_start_matches("./");
        DEVELOPMENT.contains(&name)
            || matches!((name, words.next()), ("webpack", Some("serve" | "server")))
            || name == "webpack-dev-server"
    };
    let exports = exports(tree, package, build);
    let serves = package.script("start").is_some_and(|script| !develops(script))
        || tree.has("server.js")
        || SERVERS.iter().any(|name| package.depends_on(name));
    if serves && exports.is_none() {
        return Ok(None);
    }
    if let Some(mut settings) = static_site::settings_of_build(tree)? {
        if settings.dir.is_empty()
            && let Some((built, _)) = exports.or_else(|| by_builder(tree, package, build))
        {
            settings.dir = built.dir;
        }
        let built = Built { dir: settings.dir, spa_fallback: settings.spa_fallback, rules: settings.rules };
        return Ok(
            (!built.dir.is_empty()).then_some((built, format!("what the build makes; {}", settings.reason)))
        );
    }
    Ok(exports.or_else(|| by_builder(tree, package, build)))
}

fn built(dir: &str, spa_fallback: bool) -> Built {
    Built { dir: dir.to_owned(), spa_fallback, rules: SiteRules::default() }
}

/// Frameworks with a server that need none when they are told to write files only.
fn exports(tree: &dyn SourceTree, package: &Package, build: &str) -> Option<(Built, String)> {
    if tree.has("server.js") {
        return None;
    }
    if package.depends_on("next") {
        let text = config(tree, "next.config")?.replace([' ', '\n', '\t'], "").replace('\'', "\"");
        return text
            .contains("output:\"export\"")
            .then(|| (built("out", false), "what next export makes".to_owned()));
    }
    if package.depends_on("nuxt") && build.contains("nuxt generate") {
        return Some((built(".output/public", false), "what nuxt generate makes".to_owned()));
    }
    if package.depends_on("@sveltejs/kit") && package.depends_on("@sveltejs/adapter-static") {
        let text = config(tree, "svelte.config").unwrap_or_default();
        let mut site = built("build", false);
        // adapter-static: a page for what was not rendered ahead.
        if let Some(page) = literal(&text, "fallback") {
            site.spa_fallback = page == "index.html";
            if page != "index.html" && page != "404.html" {
                let rule = berth_model::site::Redirect::new("/*", &format!("/{page}"), 200, false);
                site.rules.redirects.extend(rule);
            }
        }
        return Some((site, "what SvelteKit's adapter-static makes".to_owned()));
    }
    None
}

fn by_builder(tree: &dyn SourceTree, package: &Package, build: &str) -> Option<(Built, String)> {
    let (name, dir, spa, file) = BUILDERS.into_iter().find(|(name, ..)| package.depends_on(name))?;
    let dir = match name {
        "vitepress" => below(build, "vitepress", ".vitepress/dist"),
        "vuepress" => below(build, "vuepress", ".vuepress/dist"),
        "@angular/core" => angular(tree, package),
        _ => {
            let text = if file.is_empty() { None } else { config(tree, file) };
            let set = text.and_then(|text| literal(&text, "outDir").or_else(|| literal(&text, "outputDir")));
            set.unwrap_or_else(|| dir.to_owned())
        }
    };
    Some((built(&dir, spa), format!("what {name} makes")))
}

/// `vitepress build docs` writes below `docs`.
fn below(build: &str, program: &str, dir: &str) -> String {
    let mut words =
        build.split([' ', '&', ';']).filter(|word| !word.is_empty()).skip_while(|word| *word != program);
    let root = words.nth(2).filter(|root| !root.starts_with('-') && is_plain(root));
    match root.map(|root| root.trim_start_matches("./").trim_matches('/')) {
        Some(root) if !root.is_empty() && root != "." => format!("{root}/{dir}"),
        _ => dir.to_owned(),
    }
}

/// `outputPath` of the first project in angular.json; the newer builder adds `browser`.
fn angular(tree: &dyn SourceTree, package: &Package) -> String {
    let json: serde_json::Value =
        tree.glance("angular.json").and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let projects = json.get("projects").and_then(serde_json::Value::as_object);
    let default = json.get("defaultProject").and_then(serde_json::Value::as_str);
    let is_app =
        |project: &serde_json::Value| project.get("projectType").is_none_or(|kind| kind == "application");
    let project = projects.and_then(|all| {
        let named = default.and_then(|name| all.get_key_value(name));
        named.or_else(|| all.iter().find(|(_, project)| is_app(project)))
    });
    let name = project.map(|(name, _)| name.as_str()).or_else(|| package.text(&["name"])).unwrap_or("app");
    let build = project.and_then(|(_, project)| {
        let targets = project.get("architect").or_else(|| project.get("targets"))?;
        targets.get("build")
    });
    let set = build.and_then(|build| build.pointer("/options/outputPath"));
    let text = |value: &serde_json::Value| value.as_str().filter(|dir| is_plain(dir)).map(str::to_owned);
    let builder =
        build.and_then(|build| build.get("builder")).and_then(serde_json::Value::as_str).unwrap_or("");
    let base = set.and_then(|set| text(set).or_else(|| set.get("base").and_then(text)));
    let base = base.unwrap_or_else(|| format!("dist/{name}"));
    let browser = match set.and_then(|set| set.get("browser")) {
        Some(dir) => dir.as_str().filter(|dir| is_plain(dir)).unwrap_or("").to_owned(),
        None if builder.ends_with(":application") => "browser".to_owned(),
        None => String::new(),
    };
    format!("{}/{browser}", base.trim_matches('/')).trim_end_matches('/').to_owned()
}

/// The first of a tool's files of settings that exists.
fn config(tree: &dyn SourceTree, name: &str) -> Option<String> {
    ["js", "mjs", "ts", "cjs", "mts"].into_iter().find_map(|ending| tree.glance(&format!("{name}.{ending}")))
}

/// `name: 'value'` in a program that is not run: a plain path, or nothing.
fn literal(text: &str, name: &str) -> Option<String> {
    let after = text.split(name).nth(1)?.trim_start().strip_prefix(':')?.trim_start();
    let quote = after.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'))?;
    let value = after[1..].split(quote).next()?.trim_start_matches("./").trim_end_matches('/');
    (is_plain(value) && !value.is_empty()).then(|| value.to_owned())
}

fn is_plain(path: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    path.chars().all(good) && !path.starts_with('/') && !path.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::MemoryTree;

    fn found(package: &str, files: &[(&str, &str)]) -> Option<(String, bool)> {
        let tree =
            files.iter().fold(MemoryTree::new().with("package.json", package), |tree, (path, text)| {
                tree.with(path, text)
            });
        let package = Package::read(&tree).expect("JSON");
        find(&tree, &package).expect("well-formed").map(|(site, _)| (site.dir, site.spa_fallback))
    }

    #[test]
    fn the_directory_is_the_builders() {
        let package = |name: &str, build: &str| {
            format!(r#"{{"scripts": {{"build": "{build}"}}, "devDependencies": {{"{name}": "*"}}}}"#)
        };
        let angular = r#"{"projects": {"lib": {"projectType": "library"}, "shop": {"projectType": "application",
            "architect": {"build": {"builder": "@angular/build:application", "options": {"outputPath": "dist/shop"}}}}}}"#;
        for (package, files, dir, spa) in [
            (package("vite", "vite build"), &[][..], "dist", true),
            (
                package("vite", "vite build"),
                &[("vite.config.ts", "export default { build: { outDir: './www/' } }")],
                "www",
                true,
            ),
            (package("vite", "vite build"), &[("vite.config.ts", "outDir: '../../etc'")], "dist", true),
            (package("astro", "astro build"), &[], "dist", false),
            (package("@docusaurus/core", "docusaurus build"), &[], "build", false),
            (package("vitepress", "vitepress build docs"), &[], "docs/.vitepress/dist", false),
            (package("vitepress", "vitepress build"), &[], ".vitepress/dist", false),
            (package("@angular/core", "ng build"), &[("angular.json", angular)], "dist/shop/browser", true),
            (package("hexo", "hexo generate"), &[], "public", false),
            (package("nuxt", "nuxt generate"), &[], ".output/public", false),
            (package("vite", "vite build"), &[("static.json", r#"{"root": "build/"}"#)], "build", false),
            (package("vite", "vite build"), &[("Staticfile", "pushstate: enabled\n")], "dist", true),
        ] {
            assert_eq!(found(&package, files), Some((dir.to_owned(), spa)), "{package} {files:?}");
        }
        let svelte = r#"{"scripts": {"build": "vite build"}, "devDependencies": {"@sveltejs/kit": "*", "@sveltejs/adapter-static": "*", "vite": "*"}}"#;
        assert_eq!(found(svelte, &[]), Some(("build".to_owned(), false)));
        for server in [
            r#"{"scripts": {"build": "nuxt build"}, "dependencies": {"nuxt": "*"}}"#,
            r#"{"scripts": {"build": "vite build", "start": "node server.js"}, "devDependencies": {"vite": "*"}}"#,
            r#"{"scripts": {"start": "vite"}, "devDependencies": {"vite": "*"}}"#,
        ] {
            assert_eq!(found(server, &[]), None, "{server}");
        }
        let dev = r#"{"scripts": {"build": "webpack", "start": "npx webpack serve --open"}, "devDependencies": {"webpack": "*"}}"#;
        assert_eq!(found(dev, &[]), Some(("dist".to_owned(), true)));
    }
}
