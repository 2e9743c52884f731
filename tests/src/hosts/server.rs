//! The app that the hosts run: one static program in an image of nothing else, so that an image is on its way at once.

use crate::platform::run;
use crate::repo::Repo;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("server.c");

/// Stacks that every controller wants to have, made of nothing but busybox: to import the real ones takes a minute a host.
pub(super) fn stacks(directory: &Path) -> Result<PathBuf> {
    let stacks = directory.join("stacks");
    let root = directory.join("root");
    let script = "mkdir -p \"$1\" \"$2\"/bin \"$2\"/etc \"$2\"/tmp && cp /bin/busybox \"$2\"/bin/ && cd \"$2\" && \
        for name in sh bash cat cp env ls mkdir mv rm sleep test wget; do ln -sf busybox bin/$name; done && \
        for name in run build; do tar -cf \"$1/debian-12-$name.tar\" .; done && rm -r \"$2\"";
    let mut make = Command::new("bash");
    make.args(["-c", script, "bash"]).arg(&stacks).arg(root);
    run(make, None)?.success().context("making stacks of busybox")?;
    Ok(stacks)
}

/// The compiled program.
pub struct Server(PathBuf);

impl Server {
    /// Compiles it into `directory`, if it is not there.
    pub fn compile(directory: &Path) -> Result<Self> {
        let program = directory.join("server");
        if !program.exists() {
            let mut cc = Command::new("cc");
            cc.args(["-O2", "-static", "-pthread", "-D_GNU_SOURCE", "-x", "c", "-", "-o"]).arg(&program);
            run(cc, Some(SOURCE.as_bytes()))?.success().context("compiling the app")?;
        }
        Ok(Self(program))
    }

    /// Puts its files into a working copy; `version` is the first word of what it answers.
    pub fn write(&self, repo: &Repo, version: &str) -> Result<()> {
        std::fs::copy(&self.0, repo.path().join("server"))?;
        let dockerfile =
            format!("FROM scratch\nENV VERSION={version}\nCOPY server /server\nCMD [\"/server\"]\n");
        repo.write(&[("Dockerfile", dockerfile.as_str())])
    }
}
