//! Which builder makes an app, and why.
//!
//! In: a tree and settings. Out: the plan of the one builder that was chosen or found.

use crate::cnb::choose::{self, Chosen};
use crate::draft::Draft;
use crate::error::CHOICE;
use crate::exclude::Exclude;
use crate::static_site::Generator;
use crate::tree::SourceTree;
use crate::{
    PlanError, Settings, dockerfile_app, go, java, node, php, procfile_only, python, ruby, rust, static_site,
};
use berth_model::ProcessType;
use berth_model::build::{BuildPlan, Cnb};
use berth_model::image::Process;
use berth_model::procfile::{self, Procfile};

/// Names of the builders, in the order they are tried.
pub const BUILDERS: [&str; 10] =
    ["dockerfile", "php", "go", "java", "rust", "ruby", "python", "node", "static", "procfile"];

/// Names that stand for buildpacks of others: Cloud Native ones (as Dokku calls them, `pack`), and classic ones.
pub const BUILDPACKS: [&str; 5] = ["cnb", "pack", "classic", "herokuish", "buildpacks"];

/// Says how to make an image of the tree. Pure: the same inputs give the same plan.
pub fn plan(tree: &dyn SourceTree, settings: &Settings) -> Result<BuildPlan, PlanError> {
    if tree.entries().is_empty() {
        return Err(PlanError::Empty);
    }
    let procfile = match tree.text(&settings.procfile)? {
        Some(text) => procfile::parse(&text)?,
        None => Procfile::default(),
    };
    let (builder, reason) = match choose(tree, settings, &procfile)? {
        Builder::Own(builder, reason) => (builder, reason),
        Builder::Buildpacks(cnb) => return choose::plan(tree, settings, procfile, *cnb),
    };
    if builder == "dockerfile" {
        return dockerfile_app::plan(tree, settings, procfile, reason);
    }
    let mut draft = Draft {
        tree,
        settings,
        procfile,
        exclude: Exclude::of(tree)?,
        layers: Vec::new(),
        notes: vec![reason],
    };
    let outcome = match builder {
        "php" => php::plan(&mut draft)?,
        "go" => go::plan(&mut draft)?,
        "java" => java::plan(&mut draft)?,
        "rust" => rust::plan(&mut draft)?,
        "ruby" => ruby::plan(&mut draft)?,
        "python" => python::plan(&mut draft)?,
        "node" => node::plan(&mut draft)?,
        "static" => static_site::plan(&mut draft)?,
        _ => procfile_only::plan(&mut draft)?,
    };
    let Draft { mut layers, notes, .. } = draft;
    if let Some(first) = layers.first_mut() {
        first.notes.splice(0..0, notes);
    }
    let mut config = outcome.config;
    // For other engines, which know one command of an image.
    if let Some(Process::Command { argv }) = outcome.processes.get(&ProcessType::web())
        && config.entrypoint.is_empty()
        && config.cmd.is_empty()
    {
        config.cmd.clone_from(argv);
    }
    Ok(BuildPlan {
        builder: builder.to_owned(),
        run_image: settings.run_image.clone(),
        build_image: settings.build_image.clone(),
        layers,
        processes: outcome.processes,
        config,
        dockerfile: None,
        submodules: Vec::new(),
        predeploy: None,
        image: None,
        cnb: None,
    })
}

/// What makes the app.
enum Builder {
    /// One of Berth's own, and why.
    Own(&'static str, String),
    /// Buildpacks of others.
    Buildpacks(Box<Cnb>),
}

/// The builder and a line about why and how to choose another. Order: the user's setting, files that name a builder, a
/// Dockerfile, languages.
fn choose(tree: &dyn SourceTree, settings: &Settings, procfile: &Procfile) -> Result<Builder, PlanError> {
    let own = |(builder, reason)| Ok(Builder::Own(builder, reason));
    let var = settings
        .config
        .iter()
        .find(|(name, _)| name.as_str() == "BERTH_BUILDER")
        .map(|(_, value)| value.as_str());
    if let Some(name) = settings.builder.as_deref().or(var).map(str::trim).filter(|name| !name.is_empty()) {
        if BUILDPACKS.contains(&name) {
            return match choose::choose(tree, settings)? {
                Some(Chosen::Buildpacks(cnb)) => Ok(Builder::Buildpacks(cnb)),
                Some(Chosen::BuiltIn(builder, reason)) => own((builder, reason)),
                // Without a list these detect a language by themselves; so does Berth.
                None if matches!(name, "herokuish" | "buildpacks") => {
                    detected(tree, settings, procfile, false)
                }
                None => Err(PlanError::NoBuildpacks { name: name.to_owned() }),
            };
        }
        let known =
            BUILDERS.into_iter().find(|builder| *builder == name || (name == "nodejs" && *builder == "node"));
        let builder = known.ok_or_else(|| PlanError::NoSuchBuilder { name: name.to_owned() })?;
        return own((builder, format!("builder {builder}: chosen by setting")));
    }
    match choose::choose(tree, settings)? {
        Some(Chosen::Buildpacks(cnb)) => return Ok(Builder::Buildpacks(cnb)),
        Some(Chosen::BuiltIn(builder, reason)) => return own((builder, reason)),
        None => {}
    }
    detected(tree, settings, procfile, true)
}

/// What the files of the tree tell; a Dockerfile too if `dockerfile`.
fn detected(
    tree: &dyn SourceTree,
    settings: &Settings,
    procfile: &Procfile,
    dockerfile: bool,
) -> Result<Builder, PlanError> {
    let own = |(builder, reason)| Ok(Builder::Own(builder, reason));
    if dockerfile && let Some(file) = dockerfile_app::find(tree, settings)? {
        let also = before_assets(tree).map(|(builder, _)| builder);
        let also = also.or_else(|| python::detect(tree).map(|_| "python"));
        let other = match also.or_else(|| node::detect(tree).map(|_| "node")) {
            Some(builder) => {
                format!(
                    "for the {builder} builder: berth builder:set APP selected {builder}, then push again"
                )
            }
            None => "to choose another: berth builder:set APP selected NAME".to_owned(),
        };
        return own(("dockerfile", format!("builder dockerfile: {file} exists; {other}")));
    }
    let other = format!("to choose another: berth builder:set APP selected NAME ({CHOICE})");
    if let Some(generator) = generator(tree, procfile) {
        let (shown, file) = generator.shown();
        return own(("static", format!("builder static: {file} exists, a site that {shown} makes; {other}")));
    }
    if let Some((builder, file)) = before_assets(tree) {
        return own((builder, format!("builder {builder}: {file} exists; {other}")));
    }
    if let Some((found, language)) = foreign(tree) {
        let first = "If the language is not the app's (only its tools'), choose the builder yourself, see 2."
            .to_owned();
        return Err(PlanError::NotYet { found, language, first });
    }
    // A program's name alone is a weaker sign than a package.json.
    let python = python::detect(tree).filter(|file| {
        !file.ends_with(".py") || matches!(*file, "setup.py" | "manage.py") || !tree.has("package.json")
    });
    if let Some(file) = python {
        let also =
            if tree.has("package.json") { "; package.json is there too, but Python comes first" } else { "" };
        return own(("python", format!("builder python: {file} exists{also}; {other}")));
    }
    if let Some(file) = node::detect(tree) {
        return own(("node", format!("builder node: {file} exists; {other}")));
    }
    if let Some(file) = go::detect_files(tree) {
        return own(("go", format!("builder go: {file} exists; {other}")));
    }
    if let Some(file) = java::detect_files(tree) {
        return own(("java", format!("builder java: {file} exists; {other}")));
    }
    let has_web = procfile.0.keys().any(berth_model::ProcessType::is_web);
    if !has_web && static_site::find(tree)?.is_some() {
        return own(("static", format!("builder static: a site of plain files; {other}")));
    }
    if !procfile.0.is_empty() {
        return own((
            "procfile",
            format!("builder procfile: no language was found, but a Procfile; {other}"),
        ));
    }
    let mut names: Vec<&str> =
        tree.entries().iter().filter_map(|entry| entry.path.split('/').next()).collect();
    names.dedup();
    let more = names.len().saturating_sub(12);
    let shown = names.iter().take(12).copied().collect::<Vec<_>>().join(", ");
    let found = if more > 0 { format!("only {shown} and {more} more") } else { format!("only {shown}") };
    Err(PlanError::Unknown { found })
}

/// A generator of sites whose sources the tree is, unless it is an app that has something to start.
fn generator(tree: &dyn SourceTree, procfile: &Procfile) -> Option<Generator> {
    let found = static_site::detect(tree)?;
    let stays = procfile.0.keys().any(|process| !process.is_release());
    let node_starts = tree.glance("package.json").is_some_and(|text| {
        let json: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let scripts = json.as_ref().and_then(|json| json.get("scripts"));
        let script =
            |name: &str| scripts.and_then(|scripts| scripts.get(name)).and_then(serde_json::Value::as_str);
        script("start").is_some_and(|line| !line.contains("hugo") && !line.contains("jekyll"))
    });
    if stays || node_starts || tree.has("config.ru") || tree.has("main.go") || python::starts(tree) {
        return None;
    }
    match found {
        Generator::Hugo(_) | Generator::Jekyll(_) => Some(found),
        // Documentation is often beside what it documents. One that must be looked for in a directory is the app only if
        // nothing says that there is another.
        Generator::MkDocs(_) | Generator::Sphinx(_) => {
            let app = ["requirements.txt", "Pipfile", "uv.lock", "poetry.lock"]
                .into_iter()
                .any(|file| tree.has(file));
            let other = before_assets(tree).is_some() || tree.has("package.json") || foreign(tree).is_some();
            (!(other || app && matches!(found, Generator::Sphinx(_)))).then_some(found)
        }
    }
}

/// Languages that come before Python and Node.js: those are often there for tools and assets beside them.
fn before_assets(tree: &dyn SourceTree) -> Option<(&'static str, &'static str)> {
    let php = php::detect(tree).map(|file| ("php", file));
    let go = || go::detect(tree).map(|file| ("go", file));
    let java = || java::detect(tree).map(|file| ("java", file));
    let rust = || rust::detect(tree).map(|file| ("rust", file));
    php.or_else(go).or_else(java).or_else(rust).or_else(|| ruby::detect(tree).map(|file| ("ruby", file)))
}

/// Languages that this version knows but does not build, by files at the top.
fn foreign(tree: &dyn SourceTree) -> Option<(String, &'static str)> {
    const EXACT: [(&str, &str); 14] = [
        ("build.sbt", "Scala"),
        ("mix.exs", "Elixir"),
        ("project.clj", "Clojure"),
        ("deno.json", "Deno"),
        ("deno.jsonc", "Deno"),
        ("gleam.toml", "Gleam"),
        ("Package.swift", "Swift"),
        ("stack.yaml", "Haskell"),
        ("shard.yml", "Crystal"),
        ("CMakeLists.txt", "C++"),
        ("meson.build", "C++"),
        ("dune-project", "OCaml"),
        ("pubspec.yaml", "Dart"),
        ("build.zig", "Zig"),
    ];
    let exact =
        EXACT.iter().find(|(file, _)| tree.has(file)).map(|(file, language)| ((*file).to_owned(), *language));
    exact.or_else(|| {
        let suffixes = [(".csproj", ".NET"), (".fsproj", ".NET"), (".sln", ".NET"), (".cabal", "Haskell")];
        let find = |(suffix, language)| {
            tree.top().find(|name| name.ends_with(suffix)).map(|name| (name.to_owned(), language))
        };
        suffixes.into_iter().find_map(find)
    })
}
