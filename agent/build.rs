//! Builds the shim and leaves its program in `OUT_DIR`, where `runtime::launch` embeds it.
//!
//! A nested cargo, because the shim wants another profile (small, panic = abort) and must be a program of its own:
//! what a running container costs besides the app is this file's private memory.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manifest_dir = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let shim = manifest_dir.join("shim");
    println!("cargo::rerun-if-changed=build.rs");
    for watched in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", shim.join(watched).display());
    }
    // A release embeds the small one; a development build the one that is quick to make. The code is the same.
    let wanted = std::env::var("BERTH_SHIM_PROFILE").ok();
    println!("cargo::rerun-if-env-changed=BERTH_SHIM_PROFILE");
    let usual = if std::env::var("PROFILE")? == "release" { "shim" } else { "dev" };
    let profile = wanted.as_deref().unwrap_or(usual);
    let target = std::env::var("TARGET")?;
    let target_dir = out.join("shim");
    let mut cargo = Command::new(std::env::var("CARGO")?);
    cargo
        .args(["build", "--package", "berth-shim", "--bin", "berth-shim", "--profile", profile])
        .args(["--target", &target, "--manifest-path"])
        .arg(shim.join("Cargo.toml"))
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
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building berth-shim failed: {status}").into());
    }
    let built = target_dir.join(&target).join(directory(profile)).join("berth-shim");
    install(&built, &out.join("berth-shim"))
}

/// Where cargo puts what a profile makes.
fn directory(profile: &str) -> &str {
    if profile == "dev" { "debug" } else { profile }
}

fn install(from: &Path, to: &Path) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::copy(from, to).map_err(|error| format!("{}: {error}", from.display()))?;
    Ok(())
}
