//! Plans of whole trees: snapshots of the sample apps and of the shapes apps come in, and the laws of layer keys.

use crate::{DirectoryTree, EntryKind, MemoryTree, PlanError, Settings, SourceTree, plan};
use berth_model::build::{BuildPlan, Make};
use berth_model::image::{ImageRef, Process};
use berth_model::{Digest, EnvName};
use proptest::prelude::*;
use std::fmt::Write as _;
use std::path::Path;

/// Samples that have a builder here.
const SAMPLES: [&str; 11] = [
    "go-nomodules",
    "java-main",
    "multi-port-tcp",
    "node-express",
    "php-composer",
    "python-flask",
    "python-worker",
    "ruby-bundler",
    "ruby-rack",
    "rust-tiny-http",
    "static-site",
];

pub(crate) fn settings() -> Settings {
    let stack =
        |name: &str| ImageRef { repository: format!("stacks/{name}"), digest: Digest::of(name.as_bytes()) };
    Settings::new(stack("debian-12-run"), stack("debian-12-build"))
}

fn with_config(pairs: &[(&str, &str)]) -> Settings {
    let mut settings = settings();
    for (name, value) in pairs {
        settings.config.insert(EnvName::parse(name).expect("valid"), (*value).to_owned());
    }
    settings
}

pub(crate) fn tree(files: &[(&str, &str)]) -> MemoryTree {
    files.iter().fold(MemoryTree::new(), |tree, (path, contents)| tree.with(path, contents))
}

fn planned(files: &[(&str, &str)]) -> BuildPlan {
    plan(&tree(files), &settings()).expect("there is a plan")
}

fn refusal(files: &[(&str, &str)]) -> String {
    plan(&tree(files), &settings()).expect_err("must be refused").to_string()
}

/// The plan as people would tell it: scripts by what differs between apps (their last lines), no keys.
fn told(plan: &BuildPlan) -> String {
    let mut text = format!("builder {}\n", plan.builder);
    for layer in &plan.layers {
        let _ = writeln!(
            text,
            "\n{}{}: {}",
            layer.name,
            if layer.launch { "" } else { " (not in the image)" },
            layer.title
        );
        for note in &layer.notes {
            let _ = writeln!(text, "  | {note}");
        }
        match &layer.make {
            Make::Source { exclude } => {
                let _ = writeln!(text, "  source without {exclude:?}");
            }
            Make::Script { script, env, sources, keep_app, outputs, caches, .. } => {
                let _ = writeln!(
                    text,
                    "  from {sources:?} makes {outputs:?}{}",
                    if *keep_app { " and /app" } else { "" }
                );
                let _ = writeln!(text, "  caches {caches:?}");
                let shown = env
                    .iter()
                    .filter(|(name, _)| !matches!(name.as_str(), "UV_HASHES" | "HOME" | "PATH" | "CI"));
                let shown: Vec<String> = shown.map(|(name, value)| format!("{name}={value}")).collect();
                let _ = writeln!(text, "  with {}", shown.join(" "));
                let last: Vec<&str> = script.lines().rev().take(4).collect();
                last.iter().rev().for_each(|line| text.push_str(&format!("  $ {line}\n")));
            }
        }
    }
    text.push('\n');
    for (name, process) in &plan.processes {
        let _ = match process {
            Process::Command { argv } => writeln!(text, "{name}: {}", argv.join(" ")),
            Process::Static(site) => writeln!(text, "{name}: {site:?}"),
        };
    }
    let _ = writeln!(text, "{} in {} with", plan.config.user, plan.config.working_dir);
    plan.config.env.iter().for_each(|(name, value)| text.push_str(&format!("  {name}={value}\n")));
    text
}

fn key(plan: &BuildPlan, name: &str) -> String {
    let layer = plan.layers.iter().find(|layer| layer.name == name);
    layer.unwrap_or_else(|| panic!("the plan has a layer {name}")).key.clone()
}

fn sample(name: &str) -> DirectoryTree {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/samples");
    DirectoryTree::open(&samples.join(name)).expect("the sample is there")
}

macro_rules! snapshot_of {
    ($name:ident, $files:expr) => {
        #[test]
        fn $name() {
            insta::assert_snapshot!(told(&planned(&$files)));
        }
    };
}

#[test]
fn every_sample_is_planned_or_refused_as_expected() {
    let mut text = String::new();
    for name in SAMPLES {
        let plan = plan(&sample(name), &settings()).expect("there is a plan");
        let _ = writeln!(text, "=== {name}\n{}", told(&plan));
    }
    let dockerfile = plan(&sample("dockerfile-python"), &settings()).expect("there is a plan");
    assert!(dockerfile.layers.is_empty(), "the agent makes its steps");
    let file = dockerfile.dockerfile.expect("it carries the file");
    assert_eq!((file.path.as_str(), file.ignore.is_empty(), file.target), ("Dockerfile", false, None));
    insta::assert_snapshot!(text);
}

snapshot_of!(
    python_uv,
    [
        (
            "pyproject.toml",
            "[project]\nname = \"my-app\"\nrequires-python = \">=3.11\"\ndependencies = [\"fastapi[standard]\"]\n[project.scripts]\nmy-app = \"my_app:main\"\n[build-system]\nrequires = [\"hatchling\"]\n"
        ),
        (
            "uv.lock",
            "version = 1\n[[package]]\nname = \"fastapi\"\nversion = \"1\"\nsource = {registry = \"https://pypi.org/simple\"}\n[[package]]\nname = \"uvicorn\"\nversion = \"1\"\nsource = {registry = \"https://pypi.org/simple\"}\n[[package]]\nname = \"my-app\"\nsource = {editable = \".\"}\n"
        ),
        ("main.py", "from fastapi import FastAPI\napp = FastAPI()\n"),
    ]
);
snapshot_of!(
    python_poetry,
    [
        ("pyproject.toml", "[tool.poetry.dependencies]\npython = \"^3.12\"\nflask = \"^3\"\n"),
        (
            "poetry.lock",
            "[[package]]\nname = \"flask\"\nversion = \"3.1.3\"\ngroups = [\"main\"]\nfiles = [{file = \"f\", hash = \"sha256:aa\"}]\n"
        ),
        ("wsgi.py", "app: Flask = Flask(__name__)\n"),
    ]
);
snapshot_of!(
    python_django,
    [
        ("manage.py", ""),
        ("requirements.txt", "Django==5.2\ngunicorn\n-r requirements/extra.txt\n"),
        ("requirements/extra.txt", "whitenoise\n"),
        ("site/settings.py", "STATIC_ROOT = 'static'\n"),
        ("site/wsgi.py", ""),
        (".slugignore", "docs\n"),
        ("docs/it's.md", ""),
    ]
);
snapshot_of!(python_without_anything_but_a_program, [("app.py", "print(1)\n")]);
snapshot_of!(
    python_setup_py,
    [("setup.py", ""), ("runtime.txt", "python-3.11.9\n"), ("Procfile", "worker: x\n")]
);
snapshot_of!(
    node_with_a_build,
    [
        (
            "package.json",
            r#"{"scripts": {"build": "tsc", "start": "node dist/index.js", "postinstall": "prisma generate"}, "devDependencies": {"typescript": "5"}, "dependencies": {"express": "4"}}"#
        ),
        ("package-lock.json", "{}"),
        (".nvmrc", "lts/iron\n"),
        (".npmrc", "//registry.example.com/:_authToken=${NPM_TOKEN}\n"),
    ]
);
snapshot_of!(
    node_vite_site,
    [
        (
            "package.json",
            r#"{"scripts": {"dev": "vite", "build": "vite build"}, "devDependencies": {"vite": "7"}, "packageManager": "pnpm@10.2.1+sha512.abc"}"#
        ),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\n"),
    ]
);
snapshot_of!(
    node_workspaces,
    [
        (
            "package.json",
            r#"{"workspaces": ["a"], "scripts": {"prestart": "x", "start": "node a"}, "engines": {"node": ">=20 <23"}}"#
        ),
        ("yarn.lock", "# yarn lockfile v1\n"),
        ("a/package.json", "{}"),
    ]
);
snapshot_of!(
    node_yarn_berry,
    [
        ("package.json", r#"{"main": "./lib/index.js", "dependencies": {"koa": "2"}}"#),
        ("yarn.lock", "__metadata:\n  version: 8\n"),
        (".yarnrc.yml", "nodeLinker: node-modules\nyarnPath: .yarn/releases/yarn-4.1.0.cjs\n"),
        (".yarn/releases/yarn-4.1.0.cjs", ""),
        ("lib/index.js", ""),
    ]
);
snapshot_of!(
    node_without_packages,
    [("package.json", "{}"), ("server.js", ""), ("node_modules/x/index.js", "")]
);
snapshot_of!(
    static_with_a_staticfile,
    [
        ("Staticfile", "root: ./public/\npushstate: enabled\n"),
        ("public/index.html", ""),
        ("public/.secret", ""),
        ("public/.well-known/x", ""),
        (".github/workflows/x.yml", ""),
        ("Procfile", "release: ./migrate\n"),
    ]
);
snapshot_of!(
    go_with_commands,
    [
        ("go.mod", "module example.com/shop\n\ngo 1.22.0\n\ntoolchain go1.24.1\n"),
        ("go.sum", ""),
        ("vendor/modules.txt", ""),
        ("cmd/server/main.go", "package main\n"),
        ("cmd/migrate/main.go", "package main\n"),
        ("cmd/release/main.go", "package main\n"),
    ]
);
snapshot_of!(
    rust_workspace,
    [
        ("Cargo.toml", "[workspace]\nmembers = [\"crates/*\"]\n"),
        ("crates/core/Cargo.toml", "[package]\nname = \"core\"\n"),
        ("crates/core/src/lib.rs", ""),
        ("crates/shop/Cargo.toml", "[package]\nname = \"shop\"\ndefault-run = \"shop\"\n"),
        ("crates/shop/src/main.rs", ""),
        ("crates/shop/src/bin/worker.rs", ""),
        ("rust-toolchain.toml", "[toolchain]\nchannel = \"1.85\"\n"),
    ]
);
snapshot_of!(
    php_laravel,
    [
        (
            "composer.json",
            r#"{"require": {"php": "^8.2", "ext-redis": "*", "laravel/framework": "^12"}, "scripts": {"post-install-cmd": ["x"]}}"#
        ),
        ("composer.lock", r#"{"packages": [{"require": {"ext-gmp": "*"}}]}"#),
        ("public/index.php", ""),
        ("package.json", "{}"),
    ]
);
snapshot_of!(
    ruby_rails,
    [
        ("Gemfile", "source \"https://rubygems.org\"\ngem \"rails\"\n"),
        (
            "Gemfile.lock",
            "GEM\n  remote: https://rubygems.org/\n  specs:\n    propshaft (1)\n    puma (6)\n    railties (8)\n      rake\n\nRUBY VERSION\n   ruby 3.3.6p108\n"
        ),
        ("Rakefile", ""),
        ("config.ru", ""),
        ("package.json", "{}"),
    ]
);
snapshot_of!(ruby_sinatra, [("Gemfile", "gem 'sinatra'\n"), ("app.rb", "require 'sinatra'\n")]);
snapshot_of!(
    java_spring,
    [
        ("pom.xml", "<java.version>21</java.version> <artifactId>spring-boot-starter-web</artifactId>"),
        ("mvnw", ""),
        (".mvn/wrapper/maven-wrapper.properties", ""),
    ]
);
snapshot_of!(
    java_gradle,
    [
        ("build.gradle.kts", ""),
        ("gradlew", ""),
        ("gradle/wrapper/gradle-wrapper.jar", ""),
        ("settings.gradle.kts", "")
    ]
);
snapshot_of!(
    node_next_export,
    [
        (
            "package.json",
            r#"{"scripts": {"build": "next build", "start": "next start"}, "dependencies": {"next": "15"}}"#
        ),
        ("next.config.mjs", "export default { output: 'export' }\n"),
    ]
);
snapshot_of!(procfile_only, [("Procfile", "web: ./server\nrelease: ./migrate\n"), ("server", "")]);

#[test]
fn refusals_say_what_to_do() {
    let cases: [&[(&str, &str)]; 36] = [
        &[("README.md", ""), ("src/x.zig", "")],
        &[("Dockerfile", "FROM a\nRUNN x\n"), ("package.json", "{}")],
        &[("mix.exs", ""), ("package.json", "{}")],
        &[("App.csproj", "")],
        &[(".buildpacks", "https://github.com/heroku/heroku-buildpack-python\nftp://example.com/x\n")],
        &[("project.toml", "[[io.buildpacks.group]]\nid = \"x\"\n")],
        &[("requirements.txt", "requests\n")],
        &[("requirements.txt", "flask\n"), ("lib.py", "")],
        &[("Pipfile", "[packages\n"), ("app.py", "")],
        &[("pyproject.toml", "[tool.poetry.dependencies]\nflask = \"3\"\n"), ("app.py", "")],
        &[("pyproject.toml", "[project\n"), ("app.py", "")],
        &[("uv.lock", ""), ("app.py", "")],
        &[
            ("uv.lock", "version = 1\n"),
            ("pyproject.toml", "[project]\nname = \"x\"\ndependencies = [\"flask>=3\"]\n"),
            ("app.py", ""),
        ],
        &[("app.py", ""), ("runtime.txt", "3.11")],
        &[("package.json", "{")],
        &[("package.json", "{}")],
        &[("package.json", r#"{"engines": {"node": "latest-ish"}}"#), ("index.js", "")],
        &[("package.json", r#"{"packageManager": "deno@1"}"#), ("index.js", "")],
        &[("Staticfile", "root: ../x\n")],
        &[("Staticfile", "root: site\n")],
        &[("Procfile", "web: a\n=======\n"), ("app.py", "")],
        &[(".slugignore", "!keep\n"), ("index.html", "")],
        &[("go.mod", "module x\ngo two\n"), ("main.go", "package main\n")],
        &[("go.mod", "module x\n"), ("lib.go", "package lib\n")],
        &[("main.go", "package main\n"), ("Gopkg.lock", "")],
        &[("Cargo.toml", "[package\n")],
        &[("Cargo.toml", "[package]\nname = \"lib\"\n"), ("src/lib.rs", "")],
        &[("Cargo.toml", "[package]\nname = \"x\"\n"), ("src/main.rs", ""), ("rust-toolchain", "../mine\n")],
        &[("composer.json", "[]"), ("index.php", "")],
        &[("composer.json", r#"{"require": {"php": "^7.4"}}"#), ("index.php", "")],
        &[("Gemfile", ""), ("lib.rb", "")],
        &[("config.ru", ""), (".ruby-version", "jruby-9.4\n")],
        &[("build.gradle", "")],
        &[("pom.xml", ""), ("system.properties", "java.runtime.version=new\n")],
        &[("README.md", ""), ("lib.go", "package lib\n")],
        &[(".yarnrc.yml", "yarnPath: .yarn/releases/yarn.cjs\n"), ("package.json", "{}"), ("index.js", "")],
    ];
    let mut text: String = cases.iter().map(|files| format!("{files:?}\n→ {}\n\n", refusal(files))).collect();
    let _ = writeln!(text, "nothing\n→ {}\n", plan(&MemoryTree::new(), &settings()).expect_err("empty"));
    let forced = with_config(&[("BERTH_BUILDER", "cobol")]);
    let _ = writeln!(
        text,
        "BERTH_BUILDER=cobol\n→ {}",
        plan(&tree(&[("a", "")]), &forced).expect_err("no such builder")
    );
    insta::assert_snapshot!(text);
}

#[test]
fn a_chosen_builder_wins() {
    let files = tree(&[
        ("Dockerfile", "FROM scratch"),
        ("app.py", ""),
        ("package.json", "{}"),
        ("index.js", ""),
        ("index.html", ""),
        ("main.go", "package main\n"),
        ("Cargo.toml", "[package]\nname = \"x\"\n"),
        ("Main.java", ""),
        ("Procfile", "web: x"),
    ]);
    for builder in crate::BUILDERS {
        let chosen = Settings { builder: Some(builder.to_owned()), ..settings() };
        assert_eq!(plan(&files, &chosen).expect("there is a plan").builder, builder);
        assert_eq!(
            plan(&files, &with_config(&[("BERTH_BUILDER", builder)])).expect("there is a plan").builder,
            builder
        );
    }
    let marked = tree(&[
        (".buildpacks", "https://github.com/heroku/heroku-buildpack-python.git#v1\n"),
        ("app.py", ""),
        ("Gemfile", ""),
    ]);
    assert_eq!(plan(&marked, &settings()).expect("there is a plan").builder, "python");
}

#[test]
fn a_change_of_source_changes_the_key_of_the_app_alone() {
    for name in SAMPLES {
        let sample = sample(name);
        let mut before = MemoryTree::new();
        for entry in sample.entries() {
            let contents = sample.read(&entry.path).expect("reads").expect("exists");
            before = before.with_kind(&entry.path, entry.kind, &contents);
        }
        let after =
            before.clone().with("lib/new_code.py", "changed").with_kind("tool", EntryKind::Executable, b"x");
        let (before, after) =
            (plan(&before, &settings()).expect("planned"), plan(&after, &settings()).expect("planned"));
        for layer in &before.layers {
            assert_eq!(
                key(&before, &layer.name) == key(&after, &layer.name),
                layer.name != "app",
                "{name}: {}",
                layer.name
            );
        }
    }
}

#[test]
fn manifests_decide_about_the_dependencies() {
    let files =
        [("requirements.txt", "-r r/a.txt\n"), ("r/a.txt", "flask\n"), ("app.py", "app = Flask(__name__)")];
    let before = planned(&files);
    let changed =
        |path: &str, contents: &str| plan(&tree(&files).with(path, contents), &settings()).expect("planned");
    let dependencies = "python/dependencies";
    assert_eq!(key(&before, dependencies), key(&changed("README.md", "x"), dependencies));
    assert_ne!(key(&before, dependencies), key(&changed("r/a.txt", "flask==3\n"), dependencies));
    assert_ne!(key(&before, dependencies), key(&changed(".python-version", "3.12"), dependencies));
    assert_eq!(key(&before, "python/uv"), key(&changed(".python-version", "3.12"), "python/uv"));
}

#[test]
fn of_package_json_only_what_is_installed_decides() {
    let json = |rest: &str| format!(r#"{{"dependencies": {{"koa": "2"}}, {rest}}}"#);
    let of =
        |rest: &str| planned(&[("package.json", &json(rest)), ("package-lock.json", "{}"), ("index.js", "")]);
    let before = of(r#""version": "1.0.0", "scripts": {"start": "node index.js"}"#);
    let name = "node/dependencies";
    assert_eq!(
        key(&before, name),
        key(&of(r#""version": "1.0.1", "scripts": {"start": "node other.js"}"#), name)
    );
    assert_ne!(key(&before, name), key(&of(r#""optionalDependencies": {"x": "1"}"#), name));
    assert_ne!(key(&before, name), key(&of(r#""engines": {"node": "18.x"}"#), name));
}

#[test]
fn a_config_var_reaches_only_the_steps_that_read_it() {
    let files = tree(&[
        ("package.json", r#"{"scripts": {"build": "x"}, "dependencies": {"koa": "2"}, "main": "a.js"}"#),
        ("a.js", ""),
        (".npmrc", "//r/:_authToken=${NPM_AUTH}\n"),
    ]);
    let before = plan(&files, &settings()).expect("planned");
    let with = |name, value| plan(&files, &with_config(&[(name, value)])).expect("planned");
    assert_eq!(key(&before, "node/dependencies"), key(&with("GREETING", "x"), "node/dependencies"));
    assert_ne!(key(&before, "app"), key(&with("GREETING", "x"), "app"));
    assert_ne!(key(&before, "node/dependencies"), key(&with("NPM_AUTH", "x"), "node/dependencies"));
    assert_eq!(key(&before, "node/runtime"), key(&with("NPM_AUTH", "x"), "node/runtime"));
}

#[test]
fn a_new_stack_or_a_refresh_makes_runtimes_anew() {
    let files = tree(&[("package.json", "{}"), ("index.js", "")]);
    let before = plan(&files, &settings()).expect("planned");
    let patched = Settings {
        build_image: ImageRef { digest: Digest::of(b"patched"), ..settings().build_image },
        ..settings()
    };
    assert_ne!(key(&before, "node/runtime"), key(&plan(&files, &patched).expect("planned"), "node/runtime"));
    assert_eq!(key(&before, "app"), key(&plan(&files, &patched).expect("planned"), "app"));
    let refreshed = Settings { refresh: 1, ..settings() };
    assert_ne!(
        key(&before, "node/runtime"),
        key(&plan(&files, &refreshed).expect("planned"), "node/runtime")
    );
}

/// Trees made of files that builders look at, with contents between valid and broken.
fn any_tree() -> impl Strategy<Value = MemoryTree> {
    let path = prop::sample::select(vec![
        "composer.json",
        "index.php",
        "pom.xml",
        "Main.java",
        "system.properties",
        "Gemfile",
        "Gemfile.lock",
        "config.ru",
        ".ruby-version",
        "go.mod",
        "main.go",
        "cmd/web/main.go",
        "Cargo.toml",
        "rust-toolchain.toml",
        "src/main.rs",
        "requirements.txt",
        "pyproject.toml",
        "uv.lock",
        "poetry.lock",
        "Pipfile.lock",
        "setup.py",
        "manage.py",
        "app.py",
        "main.py",
        "package.json",
        "package-lock.json",
        "pnpm-lock.yaml",
        "yarn.lock",
        ".nvmrc",
        ".python-version",
        "runtime.txt",
        "Procfile",
        "index.html",
        "Staticfile",
        "static.json",
        ".slugignore",
        ".yarnrc.yml",
        "public/index.html",
        "src/x.py",
        "site/settings.py",
        ".buildpacks",
        "static/.hidden",
        "README.md",
    ]);
    let contents = prop_oneof![
        Just(String::new()),
        Just("{}".to_owned()),
        Just("flask==3\n-r app.py\n".to_owned()),
        Just("[project]\nname = \"x\"\ndependencies = [\"flask\", \"gunicorn\"]\n".to_owned()),
        Just("[[package]]\nname = \"a\"\nversion = \"1\"\ngroups = [\"main\"]\n".to_owned()),
        Just(r#"{"scripts": {"start": "node .", "build": "x"}, "dependencies": {"a": "1"}, "devDependencies": {"vite": "1"}}"#.to_owned()),
        Just(r#"{"default": {"a": {"version": "==1"}}, "_meta": {}, "main": 1, "workspaces": []}"#.to_owned()),
        Just("web: node server.js\n".to_owned()),
        Just("module x\n\ngo 1.22\n".to_owned()),
        Just("package main\n".to_owned()),
        Just("[package]\nname = \"x\"\n[workspace]\nmembers = [\"*\"]\n".to_owned()),
        Just("20.x\n".to_owned()),
        Just("3.11\n".to_owned()),
        Just("@:".to_owned()),
        Just("heroku/nodejs\n".to_owned()),
        any::<String>(),
    ];
    prop::collection::vec((path, contents), 0..7).prop_map(|files| {
        files.into_iter().fold(MemoryTree::new(), |tree, (path, contents)| tree.with(path, &contents))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_tree_is_planned_the_same_way_twice_or_refused(tree in any_tree()) {
        let (first, second) = (plan(&tree, &settings()), plan(&tree.clone(), &settings()));
        match (first, second) {
            (Ok(first), Ok(second)) => {
                let given = first.cnb.is_some(); // layers and processes come from the buildpacks the app names
                prop_assert!(given || !first.layers.is_empty() && !first.processes.is_empty());
                for layer in &first.layers {
                    prop_assert!(layer.key.len() == 64 && layer.title.lines().count() == 1);
                }
                prop_assert_eq!(first, second);
            }
            (Err(first), Err(second)) => prop_assert_eq!(first.to_string(), second.to_string()),
            (first, second) => prop_assert!(false, "{first:?} is not {second:?}"),
        }
    }
}

#[test]
fn unreadable_files_are_named() {
    let tree = MemoryTree::new().with_kind("requirements.txt", EntryKind::File, b"fl\xffask");
    let error = plan(&tree, &settings()).expect_err("no text");
    assert!(matches!(error, PlanError::Tree(_)), "{error}");
}
