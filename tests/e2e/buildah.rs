//! The same Dockerfile built by Berth and by `buildah`: what COPY, ADD and WORKDIR leave must be the same, to the mode.

use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Repo};
use std::path::Path;
use std::process::Command;

/// What both build. (Not here, for they differ on purpose: patterns that match nothing are BuildKit's, not buildah's.)
const COPIES: &str = r#"FROM scratch AS seed
COPY file.txt /seed/file
COPY src /seed/src
FROM scratch AS copies
COPY file.txt /a
COPY file.txt /b/
COPY file.txt other.txt /c/
COPY src /d
COPY src/ /e/
COPY src src/deep /f/
COPY link /g
COPY link /h/
COPY dirlink /i
COPY *.txt /j/
COPY s*c /k/
COPY . /l
COPY --from=seed /seed/file /m
COPY --from=seed /seed /n
COPY --from=seed /seed/src/. /o/
COPY --chown=12:34 --chmod=640 file.txt /p
COPY --chown=7 src /q/
WORKDIR /w/x
COPY file.txt .
COPY file.txt sub/
COPY file.txt ../y
ADD plain.tar /r/
ADD x.tgz /s
ADD y.txz /t/
ADD file.txt /u
COPY ["file.txt", "/v/with blank"]
COPY src/deep/../a.c /x1
"#;

const LISTING: &str = "find . -mindepth 1 -printf '%y %m %U:%G %P -> %l\\n' | sort -k4";

pub(crate) fn agrees(berth: &Berth) -> Result<()> {
    let repo = Repo::new(
        berth,
        "agrees",
        &[
            ("Dockerfile", COPIES),
            (".dockerignore", "src/*.o\n.git\n"),
            ("file.txt", "f\n"),
            ("other.txt", "g\n"),
            ("run.sh!", "#!/bin/sh\n"),
            ("src/a.c", "1\n"),
            ("src/b.o", "2\n"),
            ("src/deep/c.c", "3\n"),
        ],
    )?;
    let script = "set -e; ln -s file.txt link; ln -s src dirlink; mkdir t; echo in > t/in; tar cf plain.tar -C t .; \
                  tar czf x.tgz -C t .; tar cJf y.txz -C t .";
    sh(&repo.path(), script)?;
    let scratch = tempfile::tempdir()?;
    let theirs = buildah(&repo.path(), scratch.path())?;
    super::dockerfile::debian(berth)?;
    let serve = "use Socket; socket(my $s, PF_INET, SOCK_STREAM, 6); setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1); \
                 bind($s, sockaddr_in($ENV{PORT}, INADDR_ANY)); listen($s, 9); while (accept(my $c, $s)) { sysread($c, my $r, 999); \
                 open(my $f, '<', '/listing'); local $/; my $b = <$f>; \
                 syswrite($c, \"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n$b\"); close($c) }\n";
    let dockerfile = format!(
        "{COPIES}FROM debian:bookworm\nCOPY --from=copies / /out/\nRUN cd /out && {LISTING} > /listing\nCOPY <<'P' /serve.pl\n{serve}P\n\
         CMD [\"perl\", \"/serve.pl\"]\n"
    );
    repo.change(&[("Dockerfile", &dockerfile)])?;
    let ours = berth.get("agrees", "/")?.text();
    for (number, (ours, theirs)) in ours.lines().zip(theirs.lines()).enumerate() {
        ensure!(ours == theirs, "line {number}: {ours:?} here, {theirs:?} by buildah");
    }
    ensure!(
        ours.lines().count() == theirs.lines().count() && ours.lines().count() > 60,
        "{ours}\n\n{theirs}"
    );
    Ok(())
}

fn sh(dir: &Path, script: &str) -> Result<String> {
    let done =
        Command::new("bash").args(["-c", script]).current_dir(dir).env("STORAGE_DRIVER", "vfs").output()?;
    ensure!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

/// A listing of the image as buildah builds it.
fn buildah(context: &Path, scratch: &Path) -> Result<String> {
    let scratch = scratch.to_str().context("a path in UTF-8")?;
    let script = format!(
        "set -e; b=\"buildah --storage-driver vfs --root {scratch}/root --runroot {scratch}/run\"; \
         $b bud --isolation chroot -q -t agrees . >&2; c=$($b from agrees); m=$($b mount $c); (cd $m && {LISTING}); \
         $b rm $c >&2; $b rmi -a >&2"
    );
    sh(context, &script)
}
