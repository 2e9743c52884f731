//! Builds the shim and the launcher and leaves their programs in `OUT_DIR`, where `runtime::launch` and `build::cnb`
//! embed them.
//!
//! A nested cargo, because the shim wants another profile (small, panic = abort) and must be a program of its own:
//! what a running container costs besides the app is this file's private memory. The launcher goes into images of every
//! kind, so it is linked statically.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=BERTH_SHIM_PROFILE");
    make("shim", "")?;
    make("launcher", "-Ctarget-feature=+crt-static")
}

/// Builds `berth-<name>` from the directory `name`.
fn make(name: &str, flags: &str) -> Result<(), Box<dyn std::error::Error>> {
    let source = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join(name);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    for watched in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", source.join(watched).display());
    }
    // A release embeds the small one; a development build the one that is quick to make. The code is the same.
    let wanted = std::env::var("BERTH_SHIM_PROFILE").ok();
    let usual = if std::env::var("PROFILE")? == "release" { "shim" } else { "dev" };
    let profile = wanted.as_deref().unwrap_or(usual);
    let target = std::env::var("TARGET")?;
    let (target_dir, program) = (out.join(name), format!("berth-{name}"));
    let mut cargo = Command::new(std::env::var("CARGO")?);
    cargo
        .args(["build", "--package", &program, "--bin", &program, "--profile", profile])
        .args(["--target", &target, "--manifest-path"])
        .arg(source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir);
    // What the outer cargo was told is about the outer build.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let outer = text.starts_with("CARGO_")
            && !text.starts_with("CARGO_HOME")
            && !text.starts_with("CARGO_NET_")
            && !text.starts_with("CARGO_HTTP_")
            && !text.starts_with("CARGO_REGISTR")
            || matches!(
                &*text,
                "RUSTFLAGS"
                    | "RUSTC_WRAPPER"
                    | "RUSTC_WORKSPACE_WRAPPER"
                    | "RUSTC"
                    | "RUSTDOC"
                    | "TARGET"
                    | "HOST"
                    | "PROFILE"
                    | "OPT_LEVEL"
                    | "DEBUG"
                    | "NUM_JOBS"
                    | "MAKEFLAGS"
                    | "CLIPPY_ARGS"
            );
        if outer {
            cargo.env_remove(&name);
        }
    }
    if !flags.is_empty() {
        cargo.env("RUSTFLAGS", flags);
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building {program} failed: {status}").into());
    }
    let built = target_dir.join(&target).join(directory(profile)).join(&program);
    install(&built, &out.join(&program))
}

/// Where cargo puts what a profile makes.
fn directory(profile: &str) -> &str {
    if profile == "dev" { "debug" } else { profile }
}

fn install(from: &Path, to: &Path) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::copy(from, to).map_err(|error| format!("{}: {error}", from.display()))?;
    Ok(())
}
