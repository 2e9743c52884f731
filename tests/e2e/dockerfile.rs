//! Apps with a Dockerfile, built on a base image that the test loads: no registry elsewhere is needed.

use crate::samples::sample;
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Repo};
use std::path::PathBuf;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("dockerfile_sample_python", python),
    ("dockerfile_stages_caches_and_secrets", stages),
    ("dockerfile_failing_step_leaves_the_old_version", failing),
];

/// Loads a Debian as the image that Dockerfiles call `debian:bookworm`. Twice is as good as once.
pub(crate) fn debian(berth: &Berth) -> Result<()> {
    let stacks = std::env::var_os("BERTH_STACK_DIR").context("BERTH_STACK_DIR is not set")?;
    let tar = PathBuf::from(stacks).join("debian-12-run.tar");
    let tar = tar.to_str().context("a path in UTF-8")?;
    berth.ok(&["image:import", "debian:bookworm", tar])?;
    Ok(())
}

fn python(berth: &Berth) -> Result<()> {
    debian(berth)?;
    sample(berth, "dockerfile-python")
}

const SERVE: &str = "#!/bin/sh\nset -e\nexec perl /srv/server.pl\n";
/// Answers with a file and what it knows of itself.
pub(crate) const SERVER: &str = r#"use strict; use warnings; use Socket;
socket(my $s, PF_INET, SOCK_STREAM, getprotobyname('tcp')) or die; setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
bind($s, sockaddr_in($ENV{PORT}, INADDR_ANY)) or die; listen($s, 16) or die;
while (accept(my $c, $s)) {
  sysread($c, my $r, 4096);
  open(my $f, '<', '/srv/answer') or die; local $/; my $b = <$f>;
  $b .= "user=$< port=$ENV{PORT} greeting=" . ($ENV{GREETING} // '') . "\n";
  syswrite($c, "HTTP/1.1 200 OK\r\nContent-Length: " . length($b) . "\r\nConnection: close\r\n\r\n" . $b); close($c);
}
"#;
const STAGES: &str = r#"# syntax=docker/dockerfile:1
ARG BASE=bookworm
FROM debian:$BASE AS build
ARG FLAVOUR=plain
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/cache --mount=type=secret,id=TOKEN,required <<EOF
set -e
echo "run $(cat /cache/runs 2>/dev/null | wc -l)" > /tmp/out
date >> /cache/runs
test "$(cat /run/secrets/TOKEN)" = s3cret
test ! -e secret.txt
cat part-*.txt >> /tmp/out
echo "flavour=$FLAVOUR" >> /tmp/out
EOF

FROM debian:bookworm AS unused
RUN exit 9

FROM debian:bookworm
RUN useradd -u 1234 -m web && ln -s /srv /link
COPY --chown=web:web serve.sh server.pl /link/
COPY --from=build --chown=web /tmp/out /srv/answer
COPY <<-"X" /etc/note
	a $note
	X
RUN test -e /srv/serve.sh && test "$(cat /etc/note)" = 'a $note' && test ! -e /run/secrets/TOKEN && test ! -e /cache
ENV GREETING=hello
USER web
EXPOSE 9090 9091/udp
HEALTHCHECK --interval=1s CMD test -e /srv/answer
ENTRYPOINT ["/srv/serve.sh"]
"#;

fn stages(berth: &Berth) -> Result<()> {
    debian(berth)?;
    berth.ok(&["apps:create", "stages"])?;
    berth.ok(&["config:set", "--no-restart", "stages", "FLAVOUR=mint", "TOKEN=s3cret"])?;
    let repo = Repo::new(
        berth,
        "stages",
        &[
            ("Dockerfile", STAGES),
            (".dockerignore", "secret.txt\npart-*\n!part-1.txt\n"),
            ("secret.txt", "x"),
            ("part-1.txt", "one\n"),
            ("part-2.txt", "two\n"),
            ("serve.sh!", SERVE),
            ("server.pl", SERVER),
        ],
    )?;
    let pushed = repo.push()?.all();
    ensure!(pushed.contains("-----> Building from Dockerfile"), "{pushed}");
    ensure!(pushed.contains("Step 2/16 : ARG FLAVOUR=plain"), "{pushed}");
    ensure!(!pushed.contains("exit 9"), "a stage that is not needed is not built: {pushed}");
    let reply = berth.get("stages", "/")?.text();
    ensure!(reply == "run 0\none\nflavour=mint\nuser=1234 port=9090 greeting=hello\n", "{reply}");
    // A file that .dockerignore names changes nothing: every step is known.
    let again = repo.change(&[("part-2.txt", "three\n")])?.all();
    let makes = |line: &&str| [" : RUN", " : COPY", " : WORKDIR"].iter().any(|word| line.contains(word));
    let (known, made): (Vec<_>, Vec<_>) =
        again.lines().filter(makes).partition(|line| line.contains("(cached)"));
    ensure!(made.is_empty() && known.len() == 8, "{again}");
    // What matters runs again, with the cache that it left.
    repo.change(&[("part-1.txt", "four\n")])?;
    let reply = berth.get("stages", "/")?.text();
    ensure!(reply.starts_with("run 1\nfour\n"), "{reply}");
    // Another file, and a stage of it.
    repo.write(&[("docker/Prod", "FROM debian:bookworm AS prod\nCMD perl /srv/server.pl\nCOPY server.pl /srv/\nRUN echo prod > /srv/answer\nFROM prod\nRUN exit 9\n")])?;
    repo.commit("Another Dockerfile")?;
    berth.ok(&["builder-dockerfile:set", "stages", "dockerfile-path", "docker/Prod"])?;
    berth.ok(&["builder-dockerfile:set", "stages", "target", "prod"])?;
    let pushed = repo.push()?.all();
    ensure!(pushed.contains("-----> Building from docker/Prod") && !pushed.contains("exit 9"), "{pushed}");
    ensure!(berth.get("stages", "/")?.text().starts_with("prod\n"), "the chosen stage runs");
    Ok(())
}

fn failing(berth: &Berth) -> Result<()> {
    debian(berth)?;
    let good =
        "FROM debian:bookworm\nCOPY . /srv/\nRUN echo good > /srv/answer\nCMD exec perl /srv/server.pl\n";
    let repo = Repo::new(berth, "failing", &[("Dockerfile", good), ("server.pl", SERVER)])?;
    repo.push()?;
    let reply = berth.get("failing", "/")?.text();
    ensure!(reply.starts_with("good\nuser=0 port=5000"), "as root on the platform's PORT: {reply}");
    for (dockerfile, parts) in [
        (
            good.replace("echo good", "echo worse; exit 7; echo"),
            &["Dockerfile:3", "exit code 7", "worse"][..],
        ),
        (
            good.replace(". /srv", "missing.txt /srv"),
            &["Dockerfile:2", "\"missing.txt\" is not in the pushed commit"],
        ),
        (good.replace("RUN", "RUNN"), &["Dockerfile:3", "\"RUNN\" is no instruction"]),
        (
            good.replace("debian:bookworm", "localhost:1/nowhere"),
            &["Dockerfile:1", "localhost:1/nowhere", "image:import"],
        ),
        (good.replace("COPY", "COPY --from=1"), &["Dockerfile:2", "no stage 1"]),
    ] {
        repo.write(&[("Dockerfile", &dockerfile)])?;
        repo.commit("Broken")?;
        let pushed = repo.git(&["push", "paas", "main"])?;
        ensure!(pushed.code != 0 && pushed.all().contains("[remote rejected]"), "{}", pushed.all());
        for part in parts {
            ensure!(pushed.all().contains(part), "no {part:?} in {}", pushed.all());
        }
        ensure!(berth.get("failing", "/")?.text().starts_with("good\n"), "the old version keeps serving");
    }
    Ok(())
}
