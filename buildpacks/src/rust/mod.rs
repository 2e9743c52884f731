//! Rust: a toolchain by rustup, the programs, and the app's files without their source.
//!
//! In: a tree with a Cargo.toml. Out: a layer for the toolchain, which no image gets, and the app's layer with the programs in
//! `/app/target/release`. What cargo downloads and compiles is kept between builds, so dependencies are compiled once and a
//! change of source compiles only what it touches.

mod manifest;
mod toolchain;

use crate::PlanError;
use crate::draft::{Draft, Outcome, Step, image_config};
use crate::programs;
use crate::tree::SourceTree;

const RUST: &str = "/layers/rust";

/// The file that makes the tree a Rust app. A Python package with an extension in Rust is Python's.
pub(crate) fn detect(tree: &dyn SourceTree) -> Option<&'static str> {
    let is_extension = || {
        let text = tree.glance("pyproject.toml").unwrap_or_default();
        text.contains("\"maturin\"") || text.contains("setuptools-rust") || text.contains("setuptools_rust")
    };
    (tree.has("Cargo.toml") && !is_extension()).then_some("Cargo.toml")
}

pub(crate) fn plan(draft: &mut Draft<'_>) -> Result<Outcome, PlanError> {
    let found = manifest::binaries(draft.tree)?;
    let web = match draft.wants_default_web() {
        true => programs::web(&found.names, found.preferred.as_deref()),
        false => None,
    };
    if web.is_none() && draft.wants_default_web() {
        return Err(PlanError::NothingToStart {
            language: "Rust",
            looked: "a Procfile, src/main.rs, src/bin and [[bin]] (of several binaries: default-run, or one called web or server)",
            example: "./target/release/server",
        });
    }
    install(draft)?;
    let mut notes = Vec::new();
    if let Some(name) = web {
        notes.push(format!("web: ./target/release/{name}; a Procfile would overrule this"));
    }
    if !draft.tree.has("Cargo.lock") {
        notes.push(
            "there is no Cargo.lock, so versions may change between builds; commit Cargo.lock".to_owned(),
        );
    }
    let processes = programs::processes(draft, &found.names, web, "./target/release");
    build(draft, found.whole_workspace, notes)?;
    Ok(Outcome { processes, config: image_config(&["/app/target/release"], &[]) })
}

fn install(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let toolchain = toolchain::wanted(draft)?;
    let note = match toolchain.origin {
        "" => "no version was asked for: the newest stable one is used; to choose one, commit rust-toolchain.toml".to_owned(),
        origin => format!("the version comes from {origin}"),
    };
    let mut env = draft.config(|name| matches!(name, "RUSTUP_DIST_SERVER" | "RUSTUP_UPDATE_ROOT"));
    env.extend([
        ("RUST_CHANNEL", toolchain.channel.clone()),
        ("RUST_TARGETS", toolchain.targets.join(",")),
        ("HOME", "/tmp".to_owned()),
    ]);
    if toolchain.moves() && draft.settings.refresh > 0 {
        env.push(("RUST_REFRESH", draft.settings.refresh.to_string()));
    }
    draft.step(Step {
        name: "rust/toolchain",
        title: format!("Installing Rust {}", toolchain.channel),
        notes: vec![note],
        script: include_str!("toolchain.sh").to_owned(),
        env,
        sources: Vec::new(),
        keep_app: false,
        outputs: vec![RUST],
        caches: Vec::new(),
        launch: false,
        uses: Vec::new(),
    })
}

fn build(draft: &mut Draft<'_>, whole_workspace: bool, notes: Vec<String>) -> Result<(), PlanError> {
    let flags = match draft.var("RUST_CARGO_BUILD_FLAGS").map(str::trim).filter(|flags| !flags.is_empty()) {
        Some(flags) => flags.to_owned(),
        None if whole_workspace => "--release --bins --workspace".to_owned(),
        None => "--release --bins".to_owned(),
    };
    let locked = if draft.tree.has("Cargo.lock") { " --locked" } else { "" };
    let mut env = draft.build_config();
    env.extend([
        ("HOME", "/tmp".to_owned()),
        ("PATH", format!("{RUST}/bin:/usr/local/bin:/usr/bin:/bin")),
        ("CARGO_HOME", "/cache/rust/home".to_owned()),
        ("CARGO_TARGET_DIR", "/cache/rust/target".to_owned()),
        ("CARGO_TERM_COLOR", "never".to_owned()),
        ("BUILD_FLAGS", format!("{flags}{locked}")),
    ]);
    draft.step(Step {
        name: "app",
        title: "Building the app with cargo".to_owned(),
        notes,
        script: format!("cd /app\n{}{}", draft.prune(), include_str!("build.sh")),
        env,
        sources: vec![".".to_owned()],
        keep_app: true,
        outputs: Vec::new(),
        caches: vec![("rust", "/cache/rust")],
        launch: true,
        uses: vec!["rust/toolchain"],
    })
}
