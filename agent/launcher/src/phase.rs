//! Running buildpacks in a build container.
//!
//! In: a [`Phase`] as a file. Out: buildpacks' programs with the environment that the specification gives them; for each
//! its exit code and its output in files, or a single one in this program's place.

use crate::Failure;
use berth_launcher::{Env, Phase, Run, env};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) fn run(path: &OsStr) -> Result<(), Failure> {
    let path = Path::new(path);
    let wrong = |error: &dyn std::fmt::Display| Failure::invalid(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let phase: Phase = toml::from_str(&text).map_err(|error| wrong(&error))?;
    let keep = |name: &OsStr| phase.keep.iter().any(|kept| OsStr::new(kept) == name);
    let mut base = Env(std::env::vars_os().filter(|(name, _)| keep(name)).collect());
    for layers in &phase.layers {
        let layers: Vec<PathBuf> = layers.iter().map(PathBuf::from).collect();
        base.build_layers(&layers).map_err(|error| wrong(&error))?;
    }
    let user = env::read(&Path::new(&phase.platform).join("env")).map_err(|error| wrong(&error))?;
    for program in &phase.run {
        execute(program, &base, &user)?;
    }
    Ok(())
}

fn execute(run: &Run, base: &Env, user: &[env::EnvFile]) -> Result<(), Failure> {
    let Some((program, args)) = run.argv.split_first() else {
        return Err(Failure::invalid("there is nothing to run"));
    };
    let mut env = base.clone();
    if !run.clear_env {
        env.user(user);
    }
    for (name, value) in &run.env {
        env.set(name, value);
    }
    let failed =
        |error: std::io::Error| Failure { code: 126, text: format!("cannot run {program}: {error}") };
    let mut command = Command::new(program);
    command.args(args).current_dir(&run.cwd).env_clear().envs(&env.0).stdin(Stdio::null());
    let Some(status) = &run.status else {
        // One stream keeps the lines in order.
        let output = rustix::io::dup(std::io::stdout()).map_err(|error| failed(error.into()))?;
        command.stderr(Stdio::from(output));
        return Err(failed(command.exec()));
    };
    if let Some(log) = &run.log {
        let log = File::create(log).map_err(failed)?;
        command.stderr(Stdio::from(log.try_clone().map_err(failed)?)).stdout(Stdio::from(log));
    }
    let code = match command.status() {
        Ok(ended) => ended.code().unwrap_or(137).to_string(),
        Err(error) => format!("126 {error}"),
    };
    std::fs::write(status, code).map_err(failed)
}
