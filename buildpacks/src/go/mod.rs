//! Go: a toolchain, the programs, and the app's files without their source.
//!
//! In: a tree with a go.mod, a go.work or Go files at its top. Out: a layer for the toolchain, which no image gets, and the
//! app's layer with the programs in `/app/bin`. Modules and compiled packages are kept between builds, checked by Go itself
//! against go.sum and by content.

mod mains;
mod version;

use crate::PlanError;
use crate::draft::{Draft, Outcome, Step, image_config};
use crate::error::invalid;
use crate::programs;
use crate::tree::SourceTree;
use mains::Main;
use version::Directives;

const GO: &str = "/layers/go";

/// The file that makes the tree a Go app.
pub(crate) fn detect(tree: &dyn SourceTree) -> Option<&'static str> {
    ["go.mod", "go.work", "main.go"].into_iter().find(|file| tree.has(file))
}

/// A program of any name at the top, for trees that nothing else knows.
pub(crate) fn detect_files(tree: &dyn SourceTree) -> Option<String> {
    let mut files = tree.top().filter(|name| name.ends_with(".go") && !name.ends_with("_test.go"));
    files.find(|name| mains::declares_main(tree, name)).map(str::to_owned)
}

/// What to build.
struct Programs {
    /// Programs by package, each with the name it shall have.
    mains: Vec<Main>,
    /// Or packages as the user wrote them, under the names that Go gives.
    spec: Option<Vec<String>>,
    reason: String,
}

pub(crate) fn plan(draft: &mut Draft<'_>) -> Result<Outcome, PlanError> {
    let tree = draft.tree;
    let has_modules = tree.has("go.mod") || tree.has("go.work");
    if !has_modules {
        let old = ["Gopkg.lock", "glide.yaml", "Godeps/Godeps.json", "vendor/vendor.json"];
        if let Some(file) = old.into_iter().find(|file| tree.has(file)) {
            return invalid(
                file,
                "it is of a package manager from before Go modules; run `go mod init` and `go mod tidy`, and commit go.mod and go.sum",
            );
        }
    }
    let programs = programs(draft)?;
    let names: Vec<String> = programs.mains.iter().map(|main| main.name.clone()).collect();
    let top = programs.mains.iter().find(|main| main.package == ".").map(|main| main.name.as_str());
    let web = match draft.wants_default_web() {
        true => programs::web(&names, top),
        false => None,
    };
    if web.is_none() && draft.wants_default_web() {
        return Err(PlanError::NothingToStart {
            language: "Go",
            looked: "a Procfile, a package main at the top, and one in cmd that is the only one or called web or server",
            example: "bin/server",
        });
    }
    toolchain(draft)?;
    let processes = programs::processes(draft, &names, web, "bin");
    let mut notes = vec![programs.reason.clone()];
    if let Some(name) = web {
        notes.push(format!("web: bin/{name}; a Procfile would overrule this"));
    }
    if !has_modules {
        notes.push(
            "there is no go.mod: one is made for this build; `go mod init` makes one to commit".to_owned(),
        );
    }
    build(draft, &programs, has_modules, notes)?;
    Ok(Outcome { processes, config: image_config(&["/app/bin"], &[]) })
}

fn programs(draft: &Draft<'_>) -> Result<Programs, PlanError> {
    let text = draft.tree.text("go.mod")?.unwrap_or_default();
    let wishes = [
        (
            "the config var GO_INSTALL_PACKAGE_SPEC",
            "GO_INSTALL_PACKAGE_SPEC",
            draft.var("GO_INSTALL_PACKAGE_SPEC"),
        ),
        ("go.mod (+heroku install)", "go.mod", Directives::of(&text).install),
    ];
    let wish = wishes.into_iter().find_map(|(origin, file, spec)| Some((origin, file, spec?)));
    let Some((origin, file, spec)) = wish.filter(|(_, _, spec)| !spec.trim().is_empty()) else {
        let mains = mains::find(draft.tree);
        let shown: Vec<&str> = mains.iter().map(|main| main.package.as_str()).collect();
        let reason = format!("packages main: {}", shown.join(", "));
        if mains.is_empty() {
            return Err(PlanError::NothingToStart {
                language: "Go",
                looked: "a package main at the top, in cmd and in directories with a main.go",
                example: "bin/server",
            });
        }
        return Ok(Programs { mains, spec: None, reason });
    };
    let packages: Vec<String> = spec.split_whitespace().map(str::to_owned).collect();
    if let Some(bad) = packages.iter().find(|package| package.starts_with('-') || !mains::is_plain(package)) {
        return invalid(file, format!("{bad:?} is not a package such as ./cmd/server or ./cmd/..."));
    }
    // What a pattern stands for only Go can say; then the Procfile names the programs.
    let named = |package: &String| {
        let name = match package.as_str() {
            "." => mains::last_part(Directives::of(&text).module.unwrap_or("app")),
            other if other.contains("...") => None,
            other => mains::last_part(other),
        };
        name.map(|name| Main { package: package.clone(), name: name.to_owned() })
    };
    let mains = packages.iter().filter_map(named).collect();
    Ok(Programs { mains, reason: format!("packages: {spec} (from {origin})"), spec: Some(packages) })
}

fn toolchain(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let wanted = version::wanted(draft)?;
    let (title, note) = match wanted.version.as_str() {
        "" => ("Installing Go".to_owned(), "no version was asked for: the newest is used; to choose one, commit a go.mod with a line such as go 1.24".to_owned()),
        version => (format!("Installing Go {version}"), format!("the version comes from {}", wanted.origin)),
    };
    let mut env = draft.config(|name| name == "BERTH_GO_MIRROR");
    env.extend([
        ("GO_WANTED", wanted.version.clone()),
        ("GO_MINIMUM", if wanted.minimum { "yes" } else { "no" }.to_owned()),
        ("HOME", "/tmp".to_owned()),
    ]);
    // An exact version means the same tomorrow, a line or the newest may not.
    if wanted.version.matches('.').count() < 2 && draft.settings.refresh > 0 {
        env.push(("GO_REFRESH", draft.settings.refresh.to_string()));
    }
    draft.step(Step {
        name: "go/toolchain",
        title,
        notes: vec![note],
        script: format!(
            "python3 - <<'BERTH-FETCH'\n{}BERTH-FETCH\n{GO}/bin/go version\n",
            include_str!("fetch.py")
        ),
        env,
        sources: Vec::new(),
        keep_app: false,
        outputs: vec![GO],
        caches: Vec::new(),
        launch: false,
        uses: Vec::new(),
    })
}

fn build(
    draft: &mut Draft<'_>,
    programs: &Programs,
    has_modules: bool,
    notes: Vec<String>,
) -> Result<(), PlanError> {
    let mut script = format!("cd /app\n{}{}", draft.prune(), include_str!("build.sh"));
    match &programs.spec {
        Some(packages) => script.push_str(&format!("install {}\n", packages.join(" "))),
        None => {
            for main in &programs.mains {
                script.push_str(&format!("build {} {}\n", main.name, main.package));
            }
        }
    }
    script.push_str("finish\n");
    let is_for_go = |name: &str| {
        (name.starts_with("GO") || name.starts_with("CGO_") || name.starts_with("GIT_"))
            && !matches!(
                name,
                "GOVERSION" | "GOROOT" | "GOBIN" | "GOPATH" | "GOTOOLCHAIN" | "GOCACHE" | "GOMODCACHE"
            )
    };
    let flags = draft.var("GOFLAGS").unwrap_or_default();
    let vendored = has_modules && draft.tree.has("vendor/modules.txt") && !draft.tree.has("go.work");
    let vendor = if vendored { " -mod=vendor" } else { "" };
    let goflags = format!("-modcacherw -trimpath -buildvcs=false{vendor} {flags}").trim_end().to_owned();
    let mut env = draft.config(is_for_go);
    env.extend([
        ("HOME", "/tmp".to_owned()),
        ("PATH", format!("{GO}/bin:/usr/local/bin:/usr/bin:/bin")),
        ("GOTOOLCHAIN", "local".to_owned()),
        ("GOPATH", "/tmp/go".to_owned()),
        ("GOCACHE", "/cache/go/build".to_owned()),
        ("GOMODCACHE", "/cache/go/modules".to_owned()),
        ("GOFLAGS", goflags),
        ("GO_HAS_MODULES", if has_modules { "yes" } else { "no" }.to_owned()),
    ]);
    draft.step(Step {
        name: "app",
        title: "Building the app with Go".to_owned(),
        notes,
        script,
        env,
        sources: vec![".".to_owned()],
        keep_app: true,
        outputs: Vec::new(),
        caches: vec![("go", "/cache/go")],
        launch: true,
        uses: vec!["go/toolchain"],
    })
}
