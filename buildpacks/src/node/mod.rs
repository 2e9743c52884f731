//! Node.js: the runtime, packages by npm, pnpm, Yarn or Bun, the app's own build, the app.
//!
//! In: a tree with a package.json. Out: layers for the runtime, the packages (keyed by lock file and the fields of
//! package.json that matter to them) and the app. Packages for development are a layer that only the app's build sees.

mod package;
mod range;
mod site;
mod start;

use crate::PlanError;
use crate::draft::{Draft, Outcome, Step, image_config, quoted};
use crate::error::invalid;
use crate::tree::SourceTree;
use berth_model::ProcessType;
use berth_model::image::{Process, StaticSite};
use package::{INSTALL_SCRIPTS, Kind, Manager, Package};
use start::Start;
use std::collections::BTreeSet;

const NODE: &str = "/layers/node";
const MANAGER: &str = "/layers/node-manager";
const MODULES: &str = "/app/node_modules";

/// The file that makes the tree a Node.js app.
pub(crate) fn detect(tree: &dyn SourceTree) -> Option<&'static str> {
    tree.has("package.json").then_some("package.json")
}

/// All that decides about the layers of one app.
struct App {
    package: Package,
    manager: Manager,
    /// Scripts to run over the whole tree, in order.
    scripts: Vec<&'static str>,
    /// Installing needs the whole tree, so there is one layer for packages and app.
    whole: bool,
    /// Only files are left of it: no process needs Node.js.
    site: bool,
}

pub(crate) fn plan(draft: &mut Draft<'_>) -> Result<Outcome, PlanError> {
    let tree = draft.tree;
    let package = Package::read(tree)?;
    let manager = package::manager(tree, &package)?;
    let web = match draft.wants_default_web() {
        true => start::default(tree, &package, manager.kind)?,
        false => None,
    };
    if web.is_none() && draft.wants_default_web() {
        return Err(PlanError::NothingToStart {
            language: "Node.js",
            looked: "a Procfile, a start script in package.json, server.js, its main file, index.js, and a build script of a builder of sites (Vite, Astro …)",
            example: "node server.js",
        });
    }
    let scripts = scripts(&package);
    let commits_modules = tree.has_dir("node_modules") && !scripts.is_empty();
    let is_workspace = tree
        .glance("pnpm-workspace.yaml")
        .is_some_and(|text| text.lines().any(|line| line.starts_with("packages:")));
    let has_pnp = manager.kind == Kind::Berry && !package::uses_node_modules(tree);
    let whole = package.needs_tree() || commits_modules || is_workspace || has_pnp;
    let site = matches!(web, Some((Start::Site(_), _)));
    let app = App { package, manager, scripts, whole, site };

    runtime(draft, &app)?;
    manager_layer(draft, &app)?;
    if !app.whole {
        dependencies(draft, &app)?;
    }
    let mut notes = Vec::new();
    if let Some((_, reason)) = &web {
        notes.push(format!("web: {reason}; a Procfile would overrule this"));
    }
    if app.whole || !app.scripts.is_empty() {
        build(draft, &app, notes)?;
    } else {
        let committed = tree.has_dir("node_modules");
        if committed {
            notes.push(
                "node_modules is committed, and left out: packages are installed from package.json"
                    .to_owned(),
            );
        }
        let also: Vec<String> = committed.then(|| "node_modules".to_owned()).into_iter().collect();
        draft.source(notes, &also);
    }
    let mut processes = draft.processes(match &web {
        Some((Start::Line(line), _)) => Some(line.clone()),
        _ => None,
    });
    if let Some((Start::Site(site), _)) = &web {
        let (root, rules) = (format!("/app/{}", site.dir), site.rules.clone());
        let web = Process::Static(StaticSite { root, spa_fallback: site.spa_fallback, rules });
        processes.entry(ProcessType::web()).or_insert(web);
    }
    let path = ["/app/node_modules/.bin", "/layers/node/bin", "/layers/node-manager/bin"];
    let env = [("NODE_ENV", "production"), ("NPM_CONFIG_UPDATE_NOTIFIER", "false")];
    Ok(Outcome { processes, config: image_config(&path, &env) })
}

/// Scripts of package.json that belong to a build, in the order Heroku runs them.
fn scripts(package: &Package) -> Vec<&'static str> {
    let build = match package.script("heroku-postbuild") {
        Some(_) => "heroku-postbuild",
        None => "build",
    };
    let order = ["heroku-prebuild"].into_iter().chain(INSTALL_SCRIPTS).chain([build, "heroku-cleanup"]);
    order.filter(|name| package.script(name).is_some()).collect()
}

/// The range of Node.js versions the tree asks for, in canonical words, and where it stands.
fn node_range(tree: &dyn SourceTree, package: &Package) -> Result<(String, String, &'static str), PlanError> {
    let first_line = |text: String| {
        text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
    };
    let field = |path: &[&str]| package.text(path).map(str::to_owned);
    let tool_versions = |text: String| {
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.find_map(|words| match words.as_slice() {
            ["nodejs" | "node", version, ..] => Some((*version).to_owned()),
            _ => None,
        })
    };
    let wishes = [
        ("package.json (engines.node)", "package.json", field(&["engines", "node"])),
        ("package.json (volta.node)", "package.json", field(&["volta", "node"])),
        (".nvmrc", ".nvmrc", tree.text(".nvmrc")?.and_then(first_line)),
        (".node-version", ".node-version", tree.text(".node-version")?.and_then(first_line)),
        (".tool-versions", ".tool-versions", tree.text(".tool-versions")?.and_then(tool_versions)),
    ];
    let found = wishes.into_iter().find_map(|(shown, file, wish)| wish.map(|wish| (shown, file, wish)));
    let Some((shown, file, wish)) = found else {
        let line = range::DEFAULT_LINE;
        return Ok((format!(">={line}.0.0 <{}.0.0", line + 1), format!("{line}.x"), ""));
    };
    match range::canonical(&wish) {
        Ok(range) => Ok((range, wish, shown)),
        Err(reason) => invalid(file, format!("the version of Node.js: {reason}; write one such as 22.x")),
    }
}

fn runtime(draft: &mut Draft<'_>, app: &App) -> Result<(), PlanError> {
    let (range, wish, origin) = node_range(draft.tree, &app.package)?;
    let npm = if app.manager.kind == Kind::Npm { app.manager.range.clone() } else { "bundled".to_owned() };
    let note = match origin {
        "" => "no version was asked for: the long-term support line is used; to choose one, add \"engines\": {\"node\": \"22.x\"} to package.json".to_owned(),
        origin => format!("the version comes from {origin}"),
    };
    let mut env = vec![("NODE_RANGE", range), ("NPM_RANGE", npm), ("HOME", "/tmp".to_owned())];
    if draft.settings.refresh > 0 {
        env.push(("NODE_REFRESH", draft.settings.refresh.to_string()));
    }
    draft.step(Step {
        name: "node/runtime",
        title: format!("Installing Node.js {wish}"),
        notes: vec![note],
        script: format!("{}{}", fetch(), include_str!("runtime.sh")),
        env,
        sources: Vec::new(),
        keep_app: false,
        outputs: vec![NODE],
        caches: Vec::new(),
        launch: !app.site,
        uses: Vec::new(),
    })
}

/// Bash that leaves the fetching program at /tmp/fetch.py.
fn fetch() -> String {
    format!("cat >/tmp/fetch.py <<'BERTH-FETCH'\n{}BERTH-FETCH\n", include_str!("fetch.py"))
}

/// pnpm, Bun or Yarn, unless Yarn is committed in the tree.
fn manager_layer(draft: &mut Draft<'_>, app: &App) -> Result<(), PlanError> {
    let (named, package, program) = match (app.manager.kind, &app.manager.committed) {
        (Kind::Npm, _) => return Ok(()),
        (Kind::Pnpm, _) => ("pnpm", "pnpm", "bin/pnpm.cjs"),
        (Kind::Yarn, _) => ("yarn", "yarn", "bin/yarn.js"),
        (Kind::Berry, None) => ("yarn", "@yarnpkg/cli-dist", "bin/yarn.js"),
        (Kind::Berry, Some(path)) => ("yarn", "", path.as_str()),
        (Kind::Bun, _) => ("bun", "@oven/bun-linux", "bin/bun"),
    };
    let link = match package {
        // The one for all processors: an image may run on another machine than the one it was built on.
        "@oven/bun-linux" => format!(
            "case $(uname -m) in x86_64) kind=x64-baseline ;; *) kind=aarch64 ;; esac\n\
             python3 /tmp/fetch.py \"{package}-$kind\" \"$RANGE\" {MANAGER}/{named}\n\
             chmod 755 {named}/{program}\nln -s ../{named}/{program} bin/bunx\nln -s ../{named}/{program} bin/{named}\n"
        ),
        "" => format!(
            "printf '#!/bin/sh\\nexec node %s \"$@\"\\n' {} >bin/{named}\n",
            quoted(&quoted(&format!("/app/{program}")))
        ),
        _ => format!(
            "python3 /tmp/fetch.py {package} \"$RANGE\" {MANAGER}/{named}\n\
             printf '#!/bin/sh\\nexec node {MANAGER}/{named}/{program} \"$@\"\\n' >bin/{named}\n"
        ),
    };
    draft.step(Step {
        name: "node/manager",
        title: format!("Installing {named}"),
        notes: vec![app.manager.reason.clone()],
        script: format!("{}mkdir -p {MANAGER}/bin\ncd {MANAGER}\n{link}chmod 755 bin/{named}\n", fetch()),
        env: vec![("RANGE", app.manager.range.clone()), ("HOME", "/tmp".to_owned())],
        sources: Vec::new(),
        keep_app: false,
        outputs: vec![MANAGER],
        caches: Vec::new(),
        launch: !app.site,
        uses: Vec::new(),
    })
}

/// What every call of a package manager needs.
fn env(app: &App, node_env: &str) -> Vec<(&'static str, String)> {
    let manager = match app.manager.kind {
        Kind::Npm => "npm",
        Kind::Pnpm => "pnpm",
        Kind::Yarn => "yarn",
        Kind::Berry => "berry",
        Kind::Bun => "bun",
    };
    vec![
        ("HOME", "/tmp".to_owned()),
        ("PATH", format!("{MODULES}/.bin:{NODE}/bin:{MANAGER}/bin:/usr/local/bin:/usr/bin:/bin")),
        ("NODE_ENV", node_env.to_owned()),
        ("MANAGER", manager.to_owned()),
        ("LOCKED", if app.manager.lock.is_some() { "yes" } else { "no" }.to_owned()),
        ("CI", "true".to_owned()),
        ("npm_config_cache", "/cache/npm/npm".to_owned()),
        ("npm_config_update_notifier", "false".to_owned()),
        ("npm_config_fund", "false".to_owned()),
        ("npm_config_audit", "false".to_owned()),
        ("COREPACK_ENABLE_STRICT", "0".to_owned()),
    ]
}

/// Config vars that decide what is installed: settings of the managers, and what their files name as `${NAME}`.
fn install_config(draft: &Draft<'_>) -> Result<Vec<(String, String)>, PlanError> {
    let mut named = BTreeSet::new();
    for file in [".npmrc", ".yarnrc", ".yarnrc.yml"] {
        let text = draft.tree.text(file)?.unwrap_or_default();
        let names = text.split("${").skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name);
        named.extend(
            names.map(|name| {
                name.trim_end_matches('?').split(['-', ':']).next().unwrap_or_default().to_owned()
            }),
        );
    }
    let is_setting = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with("npm_") || name.starts_with("yarn_") || name.starts_with("pnpm_")
    };
    let found = draft.config(|name| is_setting(name) || named.contains(name));
    Ok(found.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Whether the user wants development packages in the image.
fn keeps_development(draft: &Draft<'_>) -> bool {
    let is_false = |name: &str| draft.var(name) == Some("false");
    is_false("NPM_CONFIG_PRODUCTION")
        || is_false("YARN_PRODUCTION")
        || draft.var("NODE_ENV").is_some_and(|value| value != "production")
}

fn dependencies(draft: &mut Draft<'_>, app: &App) -> Result<(), PlanError> {
    let has_development = app.package.any("devDependencies");
    let has_any = app.package.any("dependencies") || app.package.any("optionalDependencies");
    let all_in_image = keeps_development(draft);
    let builds = !app.scripts.is_empty();
    if has_any || (has_development && all_in_image) {
        // A site needs its packages only for its build, and gets them there.
        if !(app.site && has_development) {
            modules(
                draft,
                app,
                "node/dependencies",
                if all_in_image { "development" } else { "production" },
            )?;
        }
    }
    if has_development && builds && !all_in_image {
        modules(draft, app, "node/development", "development")?;
    }
    Ok(())
}

fn modules(draft: &mut Draft<'_>, app: &App, name: &'static str, node_env: &str) -> Result<(), PlanError> {
    let files = [
        "package-lock.json",
        "npm-shrinkwrap.json",
        "pnpm-lock.yaml",
        "yarn.lock",
        "bun.lock",
        "bun.lockb",
        "bunfig.toml",
        ".npmrc",
        ".yarnrc",
        ".yarnrc.yml",
        ".pnpmfile.cjs",
        "pnpm-workspace.yaml",
    ];
    let mut sources: Vec<String> =
        files.into_iter().filter(|file| draft.tree.has(file)).map(str::to_owned).collect();
    if draft.tree.has_dir(".yarn") {
        sources.push(".yarn".to_owned());
    }
    let mut notes = Vec::new();
    match app.manager.lock {
        Some(lock) => notes.push(format!("packages come from {lock}")),
        None => notes.push(
            "there is no lock file, so versions may change between builds; commit package-lock.json"
                .to_owned(),
        ),
    }
    let for_build = name == "node/development";
    if for_build {
        notes = vec!["for the app's build only; they do not become part of the image".to_owned()];
    }
    let script = format!(
        "cd /app\ncat >package.json <<'BERTH-PACKAGE'\n{}\nBERTH-PACKAGE\n{}install\nrm -rf {MODULES}/.cache\n",
        app.package.for_install(),
        include_str!("install.sh"),
    );
    let config = install_config(draft)?;
    let fixed = env(app, node_env);
    let mut env: Vec<(&str, String)> =
        config.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    env.extend(fixed);
    draft.step(Step {
        name,
        title: if for_build { "Installing development packages" } else { "Installing dependencies" }
            .to_owned(),
        notes,
        script,
        env,
        sources,
        keep_app: false,
        outputs: vec![MODULES],
        caches: vec![("npm", "/cache/npm")],
        launch: !for_build && !app.site,
        uses: vec!["node/runtime", "node/manager"],
    })
}

/// The app's own scripts over the whole tree; what they leave in /app is the app.
fn build(draft: &mut Draft<'_>, app: &App, mut notes: Vec<String>) -> Result<(), PlanError> {
    let mut script = String::from("cd /app\n");
    for path in &draft.exclude.paths {
        script.push_str(&format!("rm -rf -- {}\n", quoted(&format!("/app/{path}"))));
    }
    script.push_str(include_str!("install.sh"));
    let keeps = keeps_development(draft);
    let runs: Vec<&str> = if app.whole {
        notes.push(
            "workspaces, local packages or Plug'n'Play: packages are installed together with the app"
                .to_owned(),
        );
        script.push_str("NODE_ENV=development install\n");
        // The manager has run these itself.
        app.scripts.iter().copied().filter(|name| !INSTALL_SCRIPTS.contains(name)).collect()
    } else {
        app.scripts.clone()
    };
    if !runs.is_empty() {
        notes.push(format!("scripts of package.json that run: {}", runs.join(", ")));
    }
    let named = match app.manager.kind {
        Kind::Npm => "npm",
        Kind::Pnpm => "pnpm",
        Kind::Yarn | Kind::Berry => "yarn",
        Kind::Bun => "bun",
    };
    for name in runs {
        script.push_str(&format!("run {named} {name}\n"));
    }
    if app.whole && !keeps && !app.site {
        script.push_str("prune\n");
    }
    script.push_str("rm -rf node_modules/.cache node_modules/.vite\n");
    let mut env = env(app, "production");
    env.extend(draft.config(|name| !matches!(name, "PORT" | "PATH" | "HOME" | "MANAGER" | "LOCKED")));
    let caches = if app.whole { vec![("npm", "/cache/npm")] } else { Vec::new() };
    draft.step(Step {
        name: "app",
        title: "Building the app".to_owned(),
        notes,
        script,
        env,
        sources: vec![".".to_owned()],
        keep_app: true,
        outputs: Vec::new(),
        caches,
        launch: true,
        uses: vec!["node/runtime", "node/manager", "node/dependencies", "node/development"],
    })
}
