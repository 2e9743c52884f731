//! Python: CPython, packages by uv, the app.
//!
//! In: a tree with a manifest of Python packages or a Python program at its top. Out: layers for the interpreter, the
//! packages (keyed by manifests, never by source) and the app.

mod lock;
mod manifest;
mod pipfile;
mod requirements;
mod version;
mod web;

use crate::PlanError;
use crate::draft::{Draft, Outcome, Step, image_config};
use crate::tree::SourceTree;
use manifest::{Install, Manifest, Packages};
use version::Wanted;

/// uv as it is fetched from PyPI: its version and the hashes of its wheels for x86-64 and arm64.
const UV_VERSION: &str = "0.13.9";
const UV_HASHES: &str = "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19 \
    5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe \
    ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375";

const PYTHON: &str = "/layers/python/cpython";
const VENV: &str = "/layers/python/venv";
const PROJECT: &str = "/layers/python/project";

/// Files that make a tree a Python app, in the order they are looked for.
const MARKERS: [&str; 12] = [
    "requirements.txt",
    "pyproject.toml",
    "uv.lock",
    "poetry.lock",
    "Pipfile",
    "Pipfile.lock",
    "setup.py",
    "manage.py",
    "app.py",
    "main.py",
    "server.py",
    "start.py",
];

/// The file that makes the tree a Python app.
pub(crate) fn detect(tree: &dyn SourceTree) -> Option<&'static str> {
    MARKERS.into_iter().find(|file| tree.has(file))
}

pub(crate) fn plan(draft: &mut Draft<'_>) -> Result<Outcome, PlanError> {
    let tree = draft.tree;
    let (wanted, origin) = version::wanted(tree)?;
    let (manifest, notes) = manifest::find(tree)?;
    draft.notes.extend(notes);
    let manifest = manifest.filter(|manifest| manifest.packages.any);
    let none = Packages::default();
    let packages = manifest.as_ref().map_or(&none, |manifest| &manifest.packages);
    let web = match draft.wants_default_web() {
        true => web::default(tree, packages),
        false => None,
    };
    if web.is_none() && draft.wants_default_web() {
        return Err(PlanError::NothingToStart {
            language: "Python",
            looked: "a Procfile, manage.py, a Flask or FastAPI application and its server, main.py and app.py",
            example: "gunicorn --bind 0.0.0.0:$PORT app:app",
        });
    }
    let may_download = matches!(wanted, Wanted::Minor(_) | Wanted::Exact(_) | Wanted::Range(_));
    if manifest.is_some() || may_download {
        uv(draft)?;
    }
    runtime(draft, &wanted, origin, true)?;
    if let Some(manifest) = &manifest {
        dependencies(draft, manifest, "", true)?;
    }
    let project =
        manifest.as_ref().map(|manifest| installs_itself(tree, manifest)).transpose()?.unwrap_or(false);
    if project {
        own_package(draft)?;
    }
    let mut app_notes = Vec::new();
    if let Some((line, reason)) = &web {
        app_notes.push(format!("web: {line} ({reason}); a Procfile would overrule this"));
    }
    match collects_static(draft, packages) {
        true => collect_static(draft, app_notes)?,
        false => draft.source(app_notes, &[]),
    }
    let mut path = vec![];
    let mut env = vec![("PYTHONUNBUFFERED", "1"), ("PYTHONHASHSEED", "random")];
    if project {
        path.push("/layers/python/project/bin");
        env.push(("PYTHONPATH", PROJECT));
    }
    if manifest.is_some() {
        path.push("/layers/python/venv/bin");
        env.push(("VIRTUAL_ENV", VENV));
    }
    path.push("/layers/python/cpython/bin");
    Ok(Outcome { processes: draft.processes(web.map(|(line, _)| line)), config: image_config(&path, &env) })
}

/// Files that name the packages of documentation, before those of the app.
const DOCUMENTATION: [&str; 6] = [
    "docs/requirements.txt",
    "doc/requirements.txt",
    "docs-requirements.txt",
    "requirements-docs.txt",
    "requirements/docs.txt",
    "requirements/doc.txt",
];

/// Whether the tree is a Python app that has something to start.
pub(crate) fn starts(tree: &dyn SourceTree) -> bool {
    let manifest = manifest::find(tree).ok().and_then(|(manifest, _)| manifest);
    let packages = manifest.map(|manifest| manifest.packages).unwrap_or_default();
    detect(tree).is_some() && web::default(tree, &packages).is_some()
}

/// Adds layers, which no image gets, with Python, the tree's packages and the program `tool`. Gives their names.
pub(crate) fn tool(draft: &mut Draft<'_>, tool: &'static str) -> Result<Vec<&'static str>, PlanError> {
    let first = draft.layers.len();
    let (wanted, origin) = version::wanted(draft.tree)?;
    let manifest = match DOCUMENTATION.into_iter().find(|file| draft.tree.has(file)) {
        Some(file) => Some(manifest::requirements_file(draft.tree, file)?),
        None => manifest::find(draft.tree)?.0,
    };
    uv(draft)?;
    runtime(draft, &wanted, origin, false)?;
    let mut manifest = manifest.unwrap_or_else(|| Manifest::of_nothing(""));
    let mut extra = String::new();
    if !manifest.packages.has(tool) {
        let named = if manifest.packages.any {
            format!("{} does not name it", manifest.file)
        } else {
            "no file names packages".to_owned()
        };
        draft.notes.push(format!("{tool}: the newest, since {named}"));
        extra = format!("\"$uv\" pip install {tool}\n");
    }
    // Code of the repository is documented, not installed, unless its packages cannot be had otherwise.
    if matches!(manifest.install, Install::Project) && !manifest.packages.has(tool) {
        manifest = Manifest::of_nothing("");
    }
    dependencies(draft, &manifest, &extra, false)?;
    Ok(draft.layers[first..]
        .iter()
        .filter_map(|layer| match layer.name.as_str() {
            "python/uv" => Some("python/uv"),
            "python/runtime" => Some("python/runtime"),
            "python/dependencies" => Some("python/dependencies"),
            _ => None,
        })
        .collect())
}

/// What programs of those layers need.
pub(crate) fn tool_env() -> Vec<(&'static str, String)> {
    vec![
        ("VIRTUAL_ENV", VENV.to_owned()),
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
        ("PATH", format!("{VENV}/bin:{PYTHON}/bin:/usr/local/bin:/usr/bin:/bin")),
    ]
}

fn uv(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    draft.step(Step {
        name: "python/uv",
        title: format!("Installing uv {UV_VERSION}"),
        notes: Vec::new(),
        script: format!(
            "python3 - <<'BERTH-FETCH'\n{}BERTH-FETCH\n/layers/uv/bin/uv --version\n",
            include_str!("uv.py")
        ),
        env: vec![
            ("UV_VERSION", UV_VERSION.to_owned()),
            ("UV_HASHES", UV_HASHES.to_owned()),
            ("HOME", "/tmp".to_owned()),
        ],
        sources: Vec::new(),
        keep_app: false,
        outputs: vec!["/layers/uv"],
        caches: Vec::new(),
        launch: false,
        uses: Vec::new(),
    })
}

fn runtime(
    draft: &mut Draft<'_>,
    wanted: &Wanted,
    origin: Option<&str>,
    launch: bool,
) -> Result<(), PlanError> {
    let (title, note) = match (wanted, origin) {
        (Wanted::Any, _) | (_, None) => (
            "Installing Python".to_owned(),
            "no version was asked for: the stack's own is used; to choose one, commit .python-version with a line such as 3.12".to_owned(),
        ),
        (wanted, Some(file)) => (format!("Installing Python {}", wanted.text()), format!("the version comes from {file}")),
    };
    let mirror = draft.config(|name| name == "UV_PYTHON_INSTALL_MIRROR");
    let mut env = vec![
        ("PYTHON_KIND", wanted.kind().to_owned()),
        ("PYTHON_WANTED", wanted.text().to_owned()),
        ("HOME", "/tmp".to_owned()),
        ("UV_CACHE_DIR", "/tmp/uv".to_owned()),
    ];
    env.extend(mirror);
    // A range may mean another version tomorrow, an exact one may not.
    if matches!(wanted, Wanted::Minor(_) | Wanted::Range(_)) && draft.settings.refresh > 0 {
        env.push(("PYTHON_REFRESH", draft.settings.refresh.to_string()));
    }
    draft.step(Step {
        name: "python/runtime",
        title,
        notes: vec![note],
        script: include_str!("runtime.sh").to_owned(),
        env,
        sources: Vec::new(),
        keep_app: false,
        outputs: vec![PYTHON],
        caches: Vec::new(),
        launch,
        // Not uv: the interpreter is the same whichever uv fetched it.
        uses: Vec::new(),
    })
}

/// What every call of uv needs.
fn uv_env() -> Vec<(&'static str, String)> {
    [
        ("HOME", "/tmp"),
        ("UV_CACHE_DIR", "/cache/uv"),
        // The cache is another mount, so links cannot reach it.
        ("UV_LINK_MODE", "copy"),
        ("UV_COMPILE_BYTECODE", "1"),
        // Times of files are not kept in images.
        ("PYC_INVALIDATION_MODE", "UNCHECKED_HASH"),
        ("UV_PYTHON_DOWNLOADS", "never"),
        ("UV_NO_PROGRESS", "1"),
        ("UV_PROJECT_ENVIRONMENT", VENV),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

/// The packages of `manifest`, and what `extra` installs.
fn dependencies(
    draft: &mut Draft<'_>,
    manifest: &Manifest,
    extra: &str,
    launch: bool,
) -> Result<(), PlanError> {
    let install = match &manifest.install {
        // As pip does: the best version of all indexes. (uv alone would take the first index that has the name.)
        Install::File(file) => format!("\"$uv\" pip install --index-strategy unsafe-best-match -r {file}\n"),
        Install::Text(text) => format!(
            "cat >/tmp/requirements.txt <<'BERTH-REQUIREMENTS'\n{text}BERTH-REQUIREMENTS\n\
             \"$uv\" pip install --index-strategy unsafe-best-match -r /tmp/requirements.txt\n"
        ),
        Install::UvLock => {
            "\"$uv\" sync --frozen --no-default-groups --no-install-project --no-editable --inexact\n"
                .to_owned()
        }
        Install::Project => "\"$uv\" pip install .\n".to_owned(),
        Install::Nothing => String::new(),
    };
    let wanted = |name: &str| {
        let is_for_tools = name.starts_with("PIP_") || name.starts_with("UV_") || name.starts_with("POETRY_");
        is_for_tools && name != "UV_PYTHON_INSTALL_MIRROR" || manifest.variables.contains(name)
    };
    let mut env = draft.config(wanted);
    env.extend(uv_env());
    let mut notes = Vec::new();
    if !matches!(manifest.install, Install::Nothing) {
        notes.push(format!("packages come from {}", manifest.file));
    }
    if manifest.file == "Pipfile" {
        notes.push(
            "there is no Pipfile.lock, so versions may change between builds; `pipenv lock` makes one"
                .to_owned(),
        );
    }
    if manifest.file == "pyproject.toml" {
        notes.push(
            "there is no lock file, so versions may change between builds; `uv lock` makes one".to_owned(),
        );
    }
    if manifest.sources.iter().any(|source| source == ".") {
        notes.push("code of the repository itself is installed, so every change installs anew".to_owned());
    }
    let step = Step {
        name: "python/dependencies",
        title: "Installing dependencies with uv".to_owned(),
        notes,
        script: format!("{}{install}{extra}", include_str!("dependencies.sh")),
        env,
        sources: manifest.sources.clone(),
        keep_app: false,
        outputs: vec![VENV],
        caches: vec![("uv", "/cache/uv")],
        launch,
        uses: vec!["python/uv", "python/runtime"],
    };
    draft.step(step)
}

/// Whether the app is a package that must be installed to be found or started: it has commands, or its code is in `src`.
fn installs_itself(tree: &dyn SourceTree, manifest: &Manifest) -> Result<bool, PlanError> {
    if matches!(manifest.install, Install::Project | Install::File(_)) {
        return Ok(false);
    }
    let Some(toml) = manifest::toml(tree, "pyproject.toml")? else { return Ok(false) };
    let at = |path: &[&str]| manifest::at(&toml, path);
    let is_off = |path: &[&str]| at(path).and_then(toml::Value::as_bool) == Some(false);
    if toml.get("build-system").is_none()
        || is_off(&["tool", "uv", "package"])
        || is_off(&["tool", "poetry", "package-mode"])
    {
        return Ok(false);
    }
    let name =
        at(&["project", "name"]).or_else(|| at(&["tool", "poetry", "name"])).and_then(toml::Value::as_str);
    let module = name.map(|name| manifest::normalized(name).replace('-', "_"));
    let has_scripts = at(&["project", "scripts"]).is_some() || at(&["tool", "poetry", "scripts"]).is_some();
    Ok(has_scripts || module.is_some_and(|module| tree.has_dir(&format!("src/{module}"))))
}

fn own_package(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let mut env = draft.config(|name| name.starts_with("PIP_") || name.starts_with("UV_"));
    env.extend(uv_env());
    draft.step(Step {
        name: "python/project",
        title: "Installing the app's own package".to_owned(),
        notes: vec!["pyproject.toml has a build system, and commands or code in src".to_owned()],
        script: format!("{}\"$uv\" pip install --no-deps --target {PROJECT} .\n", include_str!("dependencies.sh").replace(
            // The environment is there already.
            "\"$uv\" venv --quiet --allow-existing --no-project --python /layers/python/cpython/bin/python3 /layers/python/venv\n",
            "",
        )),
        env,
        sources: vec![".".to_owned()],
        keep_app: false,
        outputs: vec![PROJECT],
        caches: vec![("uv", "/cache/uv")],
        launch: true,
        uses: vec!["python/uv", "python/runtime", "python/dependencies"],
    })
}

/// Whether Django's static files are to be gathered: a settings file says where to.
fn collects_static(draft: &Draft<'_>, packages: &Packages) -> bool {
    if !draft.tree.has("manage.py")
        || !packages.has("django")
        || matches!(draft.var("DISABLE_COLLECTSTATIC"), Some(value) if value != "0")
    {
        return false;
    }
    let is_settings =
        |path: &str| path.ends_with("settings.py") || (path.contains("/settings/") && path.ends_with(".py"));
    let mut settings = draft.tree.entries().iter().filter(|entry| is_settings(&entry.path));
    settings.any(|entry| draft.tree.glance(&entry.path).is_some_and(|text| text.contains("STATIC_ROOT")))
}

fn collect_static(draft: &mut Draft<'_>, mut notes: Vec<String>) -> Result<(), PlanError> {
    notes.push(
        "STATIC_ROOT is set: collecting Django's static files (DISABLE_COLLECTSTATIC=1 turns this off)"
            .to_owned(),
    );
    let removed = draft
        .exclude
        .paths
        .iter()
        .map(|path| format!("rm -rf -- {}\n", crate::draft::quoted(&format!("/app/{path}"))));
    let script = format!("cd /app\n{}{}", removed.collect::<String>(), include_str!("collectstatic.sh"));
    let mut env = draft.config(|_| true);
    env.extend([
        ("HOME", "/tmp".to_owned()),
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
        ("PATH", format!("{VENV}/bin:{PYTHON}/bin:/usr/local/bin:/usr/bin:/bin")),
    ]);
    draft.step(Step {
        name: "app",
        title: "Adding the app's files".to_owned(),
        notes,
        script,
        env,
        sources: vec![".".to_owned()],
        keep_app: true,
        outputs: Vec::new(),
        caches: Vec::new(),
        launch: true,
        uses: vec!["python/runtime", "python/dependencies", "python/project"],
    })
}
