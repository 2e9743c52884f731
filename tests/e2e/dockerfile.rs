//! Apps with a Dockerfile, built on a base image that the test loads: no registry elsewhere is needed.

use crate::samples::sample;
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Repo};
use std::path::PathBuf;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("dockerfile_sample_python", python),
    ("dockerfile_stages_caches_and_secrets", stages),
    ("dockerfile_failing_step_leaves_the_old_version", failing),
    ("dockerfile_copies_modes_archives_and_stop_signal", copies),
    ("dockerfile_adds_git_repositories", git),
    ("dockerfile_copies_agree_with_buildah", crate::buildah::agrees),
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
EXPOSE 9090 9091/udp 9092
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
    ensure!(
        pushed.contains("berth ports:add stages tcp:9092:9092"),
        "nothing leads to its second port: {pushed}"
    );
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
        (good.replace("COPY . ", "COPY sever.pl "), &["Dockerfile:2", "Did you mean \"server.pl\"?"]),
        (
            good.replace("echo good >", "no-such-program >"),
            &["Dockerfile:3", "exit code 127: a program was not found"],
        ),
        (
            "FROM debian:bookworm\nRUN true\n".to_owned(),
            &["Dockerfile:1", "waits for somebody to type", "add CMD"],
        ),
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

const COPIES: &str = r#"FROM debian:bookworm AS seed
RUN mkdir /seed && echo seeded > /seed/s
FROM debian:bookworm
ADD a.tar.xz b.tar.bz2 c.tar.gz note.xz /archives/
COPY --parents pkg/./*/package.json /deps/
COPY server.pl yarn.lock* /srv/
COPY --chmod=u=rwX,go= --exclude=**/*.js pkg /private/
RUN --mount=type=cache,target=/c,from=seed,source=/seed cat /c/s > /seeded
RUN --mount=type=cache,target=/c true
RUN --mount=type=tmpfs,target=/t true
RUN cat /seeded /archives/xz /archives/bz2 /archives/gz > /srv/answer \
 && find /deps /private -type f -printf '%P %m\n' | sort >> /srv/answer && stat -c '%a' /private/a >> /srv/answer \
 && test -e /archives/note.xz
VOLUME /data
STOPSIGNAL SIGUSR1
CMD ["perl", "/srv/server.pl"]
"#;

/// What a stranger's archives, patterns and modes become, and which signal the image wants.
fn copies(berth: &Berth) -> Result<()> {
    debian(berth)?;
    let server = SERVER
        .replace("socket(my", "$SIG{USR1} = sub { print \"stopped by USR1\\n\"; exit 0 }; $| = 1; socket(my");
    let repo = Repo::new(
        berth,
        "copies",
        &[
            ("Dockerfile", COPIES),
            ("server.pl", &server),
            ("pkg/a/package.json", "{}"),
            ("pkg/a/index.js", "x"),
            ("pkg/b/package.json", "{}"),
        ],
    )?;
    let script = "set -e; for kind in xz:J bz2:j gz:z; do name=${kind%:*}; echo \"in $name\" > $name; \
                  tar -c${kind#*:}f ${name/#xz/a}.tmp $name; rm $name; done; \
                  mv a.tmp a.tar.xz; mv bz2.tmp b.tar.bz2; mv gz.tmp c.tar.gz; echo note | xz > note.xz";
    let made = std::process::Command::new("bash").args(["-c", script]).current_dir(repo.path()).status()?;
    ensure!(made.success(), "archives for the test could not be made");
    repo.commit("Archives")?;
    let pushed = repo.push()?.all();
    ensure!(pushed.contains("VOLUME /data: nothing is mounted there by itself"), "{pushed}");
    let reply = berth.get("copies", "/")?.text();
    let expected = "seeded\nin xz\nin bz2\nin gz\na/package.json 600\na/package.json 644\nb/package.json 600\nb/package.json 644\n700\n";
    ensure!(reply.starts_with(expected), "{reply}");
    berth.ok(&["ps:restart", "copies"])?;
    berth_tests::until(
        std::time::Duration::from_secs(30),
        "the old container to say how it was stopped",
        || {
            let logs = berth.ok(&["logs", "copies", "--num", "100"])?.stdout;
            ensure!(logs.contains("stopped by USR1"), "{logs}");
            Ok(())
        },
    )
}

/// A machine of its own for a server: builds reach neither this one nor its loopback.
struct Elsewhere {
    namespace: String,
    link: String,
    server: Option<std::process::Child>,
}

impl Elsewhere {
    const ADDRESS: &str = "198.51.100.6";

    fn ip(line: &str) -> Result<()> {
        let done = std::process::Command::new("ip").args(line.split(' ')).status()?;
        ensure!(done.success(), "ip {line}");
        Ok(())
    }

    /// `git daemon` for the repositories in `directory`.
    fn serving(directory: &std::path::Path) -> Result<Self> {
        let (namespace, link) =
            (format!("berth-t{}", std::process::id()), format!("bt{}", std::process::id()));
        let mut here = Self { namespace: namespace.clone(), link: link.clone(), server: None };
        Self::ip(&format!("netns add {namespace}"))?;
        Self::ip(&format!("link add {link} type veth peer name eth0 netns {namespace}"))?;
        Self::ip(&format!("addr add 198.51.100.5/30 dev {link}"))?;
        Self::ip(&format!("link set {link} up"))?;
        Self::ip(&format!("-n {namespace} addr add {}/30 dev eth0", Self::ADDRESS))?;
        Self::ip(&format!("-n {namespace} link set eth0 up"))?;
        Self::ip(&format!("-n {namespace} route add default via 198.51.100.5"))?;
        let mut daemon = std::process::Command::new("ip");
        daemon.args(["netns", "exec", &namespace, "git", "daemon", "--reuseaddr", "--export-all"]);
        daemon.arg(format!("--base-path={}", directory.display())).arg(directory);
        here.server = Some(daemon.spawn().context("git daemon")?);
        let url = format!("git://{}/repo.git", Self::ADDRESS);
        berth_tests::until(std::time::Duration::from_secs(20), "git daemon to answer", || {
            let asked = std::process::Command::new("git").args(["ls-remote", &url]).output()?;
            ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
            Ok(())
        })?;
        Ok(here)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        // git daemon serves from a child of its own, which is the last in the namespace.
        let pids = std::process::Command::new("ip").args(["netns", "pids", &self.namespace]).output();
        let pids = pids.map(|found| String::from_utf8_lossy(&found.stdout).into_owned()).unwrap_or_default();
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        let _ = Self::ip(&format!("netns del {}", self.namespace));
        let _ = Self::ip(&format!("link del {}", self.link));
    }
}

/// A branch, a tag with a directory, and a commit of another repository; a new commit there is a new layer here.
fn git(berth: &Berth) -> Result<()> {
    debian(berth)?;
    let other = Repo::new(berth, "never-pushed", &[("docs/a.txt", "one\n"), ("top.txt", "top\n")])?;
    other.git(&["tag", "v1"])?.success()?;
    other.write(&[("docs/a.txt", "two\n")])?;
    let second = other.commit("Second")?;
    let served = tempfile::tempdir()?;
    let bare = served.path().join("repo.git");
    let bare = bare.to_str().context("a path in UTF-8")?;
    other.git(&["clone", "-q", "--bare", ".", bare])?.success()?;
    let _elsewhere = Elsewhere::serving(served.path())?;
    let url = format!("git://{}/repo.git", Elsewhere::ADDRESS);
    let dockerfile = format!(
        "FROM debian:bookworm\nADD {url}#v1:docs /v1\nADD {url} /head/\nADD --checksum={second} --keep-git-dir=true {url}#{second} /exact\n\
         RUN cat /v1/a.txt /head/docs/a.txt /exact/top.txt > /answer && ls -A /head >> /answer && test -d /exact/.git\n\
         COPY server.pl /srv/\nRUN mv /answer /srv/\nCMD [\"perl\", \"/srv/server.pl\"]\n"
    );
    let repo = Repo::new(berth, "addgit", &[("Dockerfile", &dockerfile), ("server.pl", SERVER)])?;
    repo.push()?;
    let reply = berth.get("addgit", "/")?.text();
    ensure!(reply.starts_with("one\ntwo\ntop\ndocs\ntop.txt\n"), "{reply}");
    other.write(&[("docs/a.txt", "three\n")])?;
    other.commit("Third")?;
    other.git(&["push", "-q", bare, "main"])?.success()?;
    let pushed = repo.change(&[("unrelated", "x")])?.all();
    let cached = |part: &str| pushed.lines().any(|line| line.contains(part) && line.contains("(cached)"));
    ensure!(cached("#v1:docs /v1") && !cached(".git /head/"), "{pushed}");
    ensure!(berth.get("addgit", "/")?.text().starts_with("one\nthree\n"), "the branch's new commit");
    repo.write(&[("Dockerfile", &dockerfile.replace("#v1:docs", "#v2:docs"))])?;
    repo.commit("A tag that is not there")?;
    let refused = repo.git(&["push", "paas", "main"])?;
    ensure!(
        refused.code != 0 && refused.all().contains("has no branch, tag or commit \"v2\""),
        "{}",
        refused.all()
    );
    Ok(())
}
