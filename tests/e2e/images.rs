//! Apps that are images: of another registry (Berth's own over plain HTTP stands in for one), of another app, from an
//! archive; and images out of Berth.

use crate::dockerfile::debian;
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Repo, until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("image_of_another_registry", elsewhere),
    ("image_of_another_app", promotion),
    ("images_in_archives", archives),
    ("images_and_podman", podman),
    ("images_and_docker", docker),
];

/// Answers with `/srv/answer`, on the port of `EXPOSE`, as its user.
/// Its health check asks the port: a check that passes earlier would let requests in too early.
const DOCKERFILE: &str = r#"FROM debian:bookworm
RUN useradd -u 1234 web
COPY server.pl answer /srv/
ENV GREETING=hi
WORKDIR /srv
USER web
EXPOSE 9090
HEALTHCHECK --interval=1s CMD perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new("127.0.0.1:9090")'
ENTRYPOINT ["perl"]
CMD ["server.pl"]
"#;

fn source(berth: &Berth, app: &str) -> Result<Repo> {
    debian(berth)?;
    let files = [("Dockerfile", DOCKERFILE), ("server.pl", crate::dockerfile::SERVER), ("answer", "one\n")];
    let repo = Repo::new(berth, app, &files)?;
    repo.push()?;
    Ok(repo)
}

/// An app that is one program, and small: engines with a plain storage copy every layer's whole tree.
fn tiny(berth: &Berth, app: &str) -> Result<()> {
    let file = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY index.html /www/\nUSER 1234\nENTRYPOINT [\"/bin/busybox\"]\n\
                CMD [\"sh\", \"-c\", \"exec /bin/busybox httpd -f -p $PORT -h /www\"]\n";
    let repo = Repo::new(berth, app, &[("Dockerfile", file), ("index.html", "from berth\n")])?;
    std::fs::copy("/bin/busybox", repo.path().join("busybox"))?;
    repo.commit("Add the program")?;
    repo.push().map(drop)
}

/// The digest of the image that an app's newest release runs.
fn digest(berth: &Berth, app: &str) -> Result<String> {
    let releases: serde_json::Value =
        serde_json::from_str(&berth.ok(&["releases", app, "--format", "json"])?.stdout)?;
    let newest = releases.as_array().and_then(|all| all.iter().max_by_key(|one| one["version"].as_u64()));
    let image = newest.and_then(|one| one["image"].as_str()).and_then(|image| image.split('@').nth(1));
    Ok(image.with_context(|| format!("no digest in {releases}"))?.to_owned())
}

fn versions(berth: &Berth, app: &str) -> Result<usize> {
    let releases: serde_json::Value =
        serde_json::from_str(&berth.ok(&["releases", app, "--format", "json"])?.stdout)?;
    Ok(releases.as_array().map_or(0, Vec::len))
}

fn token(berth: &Berth, name: &str) -> Result<String> {
    let created: serde_json::Value =
        serde_json::from_str(&berth.ok(&["tokens:create", name, "--format", "json"])?.stdout)?;
    Ok(created["token"].as_str().context("a token")?.to_owned())
}

fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Copies an image with skopeo; both sides are on this machine, with the token as the password.
fn copy(token: &str, from: &str, to: &str) -> Result<()> {
    let creds = format!("me:{token}");
    let mut arguments = vec!["copy", "-q"];
    if from.starts_with("docker://") {
        arguments.extend(["--src-tls-verify=false", "--src-creds", &creds]);
    }
    if to.starts_with("docker://") {
        arguments.extend(["--dest-tls-verify=false", "--dest-creds", &creds]);
    }
    tool("skopeo", &[&arguments[..], &[from, to]].concat()).map(drop)
}

fn elsewhere(berth: &Berth) -> Result<()> {
    let repo = source(berth, "imgsrc")?;
    let (token, registry) = (token(berth, "images")?, berth.api.to_string());
    let dir = tempfile::tempdir()?;
    let layout = format!("oci:{}/layout", dir.path().display());
    // As others make images: without what Berth writes into its own.
    let publish = |name: &str| -> Result<()> {
        let built = format!("docker://{registry}/apps/imgsrc@{}", digest(berth, "imgsrc")?);
        copy(&token, &built, &format!("{layout}:x"))?;
        let image = format!("{}/layout:x", dir.path().display());
        tool("umoci", &["config", "--image", &image, "--clear=config.labels"])?;
        copy(&token, &format!("{layout}:x"), &format!("docker://{registry}/{name}"))
    };
    publish("ext/site:1")?;
    let image = format!("{registry}/ext/site:1");
    berth.ok(&["apps:create", "imgdst"])?;

    let refused = berth.berth(&["git:from-image", "imgdst", &image])?;
    ensure!(refused.code == 1 && refused.all().contains("registry:login --plain-http"), "{}", refused.all());
    berth.ok(&["registry:login", "--plain-http", &registry])?;
    let refused = berth.berth(&["git:from-image", "imgdst", &image])?;
    let advice = format!("registry:login {registry} USER");
    ensure!(refused.code == 1 && refused.all().contains(&advice), "{}", refused.all());
    let login = ["registry:login", "imgdst", &registry, "me", "--plain-http", "--password-stdin"];
    let refused = berth.berth_with_input(&login, b"wrong\n")?;
    ensure!(refused.code == 1 && refused.all().contains("does not know this user"), "{}", refused.all());
    berth.berth_with_input(&login, format!("{token}\n").as_bytes())?.success()?;
    let report = berth.ok(&["registry:report", "imgdst"])?.stdout;
    ensure!(report.contains("plain HTTP") && !report.contains(&token), "{report}");
    // A login of an app is that app's only.
    let refused = berth.berth(&["git:from-image", "imgsrc", &image])?;
    ensure!(refused.code == 1 && !refused.all().contains(&token), "{}", refused.all());

    let deployed = berth.ok(&["git:from-image", "imgdst", &image])?.all();
    ensure!(deployed.contains("Application deployed") && !deployed.contains(&token), "{deployed}");
    let reply = berth.get("imgdst", "/")?.text();
    ensure!(reply == "one\nuser=1234 port=9090 greeting=hi\n", "{reply}");
    let before = versions(berth, "imgdst")?;
    let again = berth.ok(&["git:from-image", "imgdst", &image])?.all();
    ensure!(again.contains("nothing to deploy") && versions(berth, "imgdst")? == before, "{again}");

    // The tag moves: a rebuild follows it.
    repo.change(&[("answer", "two\n")])?;
    publish("ext/site:1")?;
    berth.ok(&["ps:rebuild", "imgdst"])?;
    ensure!(berth.get("imgdst", "/")?.text().starts_with("two\n"), "the tag's new image");
    // What the branch holds says what runs, and is a Dockerfile on that image for whoever goes on from there.
    let clone = dir.path().join("clone");
    let mut git = Command::new("git");
    git.env("GIT_SSH_COMMAND", berth.ssh_command());
    let cloned = git.args(["clone", "-q", &berth.remote("imgdst")]).arg(&clone).output()?;
    ensure!(cloned.status.success(), "{}", String::from_utf8_lossy(&cloned.stderr));
    let text = std::fs::read_to_string(clone.join("Dockerfile"))?;
    ensure!(text.starts_with(&format!("# git:from-image {image}\nFROM {image}@sha256:")), "{text}");
    // Nothing of the login is left in what runs or was written down.
    let config = berth.ok(&["run", "imgdst", "env"])?.all();
    ensure!(!config.contains(&token), "{config}");
    // A Dockerfile stands on a private image with the app's login.
    let dockerfile =
        format!("FROM {image}\nUSER root\nRUN echo three > /srv/answer && ! env | grep -q berth_\n");
    let derived = Repo::new(berth, "derived", &[("Dockerfile", &dockerfile)])?;
    let refused = derived.git(&["push", "paas", "main"])?;
    ensure!(refused.code != 0 && refused.all().contains(&advice), "{}", refused.all());
    let login = ["registry:login", "derived", &registry, "me", "--plain-http", "--password-stdin"];
    berth.berth_with_input(&login, token.as_bytes())?.success()?;
    let pushed = derived.push()?.all();
    ensure!(!pushed.contains(&token), "{pushed}");
    ensure!(berth.get("derived", "/")?.text().starts_with("three\n"), "it stands on the private image");
    let refused = berth.berth(&["git:from-image", "imgdst", &format!("{registry}/ext/missing:1")])?;
    ensure!(refused.code == 1 && refused.all().contains("Check its name and tag"), "{}", refused.all());
    ensure!(berth.get("imgdst", "/")?.text().starts_with("two\n"), "the old version keeps serving");
    berth.ok(&["registry:logout", "imgdst", &registry])?;
    berth.ok(&["registry:logout", &registry])?;
    Ok(())
}

fn promotion(berth: &Berth) -> Result<()> {
    let repo = Repo::new(
        berth,
        "staging",
        &[
            ("Procfile", "web: python3 -m http.server $PORT\nworker: sleep 1000\n"),
            ("requirements.txt", ""),
            ("x", "1"),
        ],
    )?;
    repo.push()?;
    berth.ok(&["apps:create", "production"])?;
    let deployed = berth.ok(&["git:from-image", "production", "apps/staging"])?.all();
    ensure!(deployed.contains("It runs web, worker"), "{deployed}");
    ensure!(berth.get("production", "/x")?.text() == "1", "the same files");
    repo.change(&[("x", "2")])?;
    berth.ok(&["git:from-image", "production", "apps/staging:v1"])?;
    ensure!(berth.get("production", "/x")?.text() == "1", "the first release");
    berth.ok(&["git:from-image", "production", "apps/staging"])?;
    ensure!(berth.get("production", "/x")?.text() == "2", "the newest release");
    let refused = berth.berth(&["git:from-image", "production", "apps/nowhere"])?;
    ensure!(refused.code != 0 && refused.all().contains("docker.io/apps/nowhere"), "{}", refused.all());
    // The image outlives the app it came from.
    berth.ok(&["apps:destroy", "staging", "--force"])?;
    berth.ok(&["cleanup"])?;
    berth.ok(&["ps:rebuild", "production"])?;
    ensure!(berth.get("production", "/x")?.text() == "2", "still");
    Ok(())
}

/// What the newest release of an app is, as an archive.
fn exported(berth: &Berth, app: &str, to: &Path) -> Result<()> {
    let mut command = berth.command(&["images:export", app])?;
    let written = command.stdout(std::fs::File::create(to)?).status()?;
    ensure!(written.success(), "images:export ended with {written}");
    Ok(())
}

fn archives(berth: &Berth) -> Result<()> {
    let repo = source(berth, "archived")?;
    let dir = tempfile::tempdir()?;
    let archive = dir.path().join("archived.tar");
    exported(berth, "archived", &archive)?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    for kind in ["docker-archive", "oci-archive"] {
        let config = tool("skopeo", &["inspect", "--config", &format!("{kind}:{}", text(&archive)?)])?;
        ensure!(config.contains("server.pl") && config.contains("GREETING=hi"), "{kind}: {config}");
    }
    let listed = berth.ok(&["images", "archived"])?.stdout;
    ensure!(listed.contains("apps/archived") && listed.contains("archived v1"), "{listed}");

    berth.ok(&["apps:create", "from-archive"])?;
    let bytes = std::fs::read(&archive)?;
    let loaded = berth.berth_with_input(&["git:load-image", "from-archive"], &bytes)?.success()?.all();
    ensure!(loaded.contains("Using the image localhost/archived:v1"), "{loaded}");
    let reply = berth.get("from-archive", "/")?;
    let expected = "one\nuser=1234 port=9090 greeting=hi\n";
    ensure!(reply.text() == expected, "{} {}: {loaded}", reply.status, reply.text());
    let again =
        berth.berth_with_input(&["git:load-image", "from-archive", "archived:v1"], &bytes)?.success()?.all();
    ensure!(versions(berth, "from-archive")? == 1 || again.contains("Application deployed"), "{again}");
    let refused = berth.berth_with_input(&["git:load-image", "from-archive", "other"], &bytes)?;
    ensure!(refused.code == 1 && refused.all().contains("it has localhost/archived:v1"), "{}", refused.all());
    let refused = berth.berth_with_input(&["git:load-image", "from-archive"], b"no archive at all")?;
    ensure!(refused.code == 1 && refused.all().contains("cannot be read"), "{}", refused.all());
    let half = &bytes[..bytes.len() / 2];
    let refused = berth.berth_with_input(&["git:load-image", "from-archive"], half)?;
    ensure!(refused.code == 1, "{}", refused.all());
    ensure!(berth.get("from-archive", "/")?.text().starts_with("one\n"), "the old version keeps serving");

    // Over SSH, through zstd.
    repo.change(&[("answer", "two\n")])?;
    exported(berth, "archived", &archive)?;
    tool("zstd", &["-q", "-1", &text(&archive)?])?;
    let packed = std::fs::File::open(dir.path().join("archived.tar.zst"))?;
    let mut ssh = Command::new("sh");
    let line = format!(
        "{} -p {} paas@{} git:load-image from-archive",
        berth.ssh_command(),
        berth.ssh.port(),
        berth.ssh.ip()
    );
    let output = ssh.args(["-c", &line]).stdin(packed).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    ensure!(berth.get("from-archive", "/")?.text().starts_with("two\n"), "the archive over SSH");
    berth.ok(&["config:set", "from-archive", "GREETING=new"])?;
    // The archive is kept for this, under a new name too.
    berth.ok(&["apps:rename", "from-archive", "laden"])?;
    berth.ok(&["cleanup"])?;
    berth.ok(&["ps:rebuild", "laden"])?;
    ensure!(berth.get("laden", "/")?.text() == "two\nuser=1234 port=9090 greeting=new\n", "its config wins");
    Ok(())
}

/// Asks `port` until an answer begins with `text`.
fn answers(port: u16, text: &str) -> Result<()> {
    until(Duration::from_secs(30), "the container of another engine to answer", || {
        let got = tool("curl", &["-sS", "-m", "5", &format!("http://127.0.0.1:{port}/")])?;
        ensure!(got.starts_with(text), "{got}");
        Ok(())
    })
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A podman with images of its own.
struct Podman(tempfile::TempDir);

impl Podman {
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let place = |name: &str| self.0.path().join(name).display().to_string();
        let (root, runroot) = (place("root"), place("run"));
        let own = [
            "--root",
            &root,
            "--runroot",
            &runroot,
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
            "--runtime",
            "runc",
        ];
        tool("podman", &[&own[..], arguments].concat())
    }
}

impl Podman {
    /// Runs an image of ours, which must answer on the port it is told.
    fn answers(&self, image: &str) -> Result<()> {
        let port = free_port()?;
        let env = format!("PORT={port}");
        // Its own defaults are more than a machine in a sandbox may give.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"];
        self.run(&[&["run", "-d", "--network", "host", "-e", &env][..], &limits, &[image]].concat())?;
        answers(port, "from berth\n")
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "-f", "-a", "-t", "0"]);
        let _ = self.run(&["rmi", "-f", "-a"]);
    }
}

/// A root file system with nothing but busybox, as an image build of any engine can stand on.
fn busybox(at: &Path) -> Result<()> {
    std::fs::create_dir_all(at.join("rootfs/bin"))?;
    std::fs::create_dir_all(at.join("rootfs/www"))?;
    std::fs::copy("/bin/busybox", at.join("rootfs/bin/busybox"))?;
    std::fs::write(at.join("rootfs/www/index.html"), "from podman\n")?;
    let file = "FROM scratch\nCOPY rootfs /\nENV WORD=hello\nEXPOSE 8081\nUSER 1234\nWORKDIR /www\n\
                CMD [\"/bin/busybox\", \"httpd\", \"-f\", \"-p\", \"8081\", \"-h\", \"/www\"]\n";
    Ok(std::fs::write(at.join("Containerfile"), file)?)
}

fn podman(berth: &Berth) -> Result<()> {
    tiny(berth, "engines")?;
    let token = token(berth, "podman")?;
    let podman = Podman(tempfile::tempdir()?);
    let at = podman.0.path().to_owned();
    let registry = berth.api.to_string();
    let auth = at.join("auth.json").display().to_string();
    let login = ["--tls-verify=false", "--authfile", &auth];

    // Ours there.
    let refused = podman.run(&[&["login"][..], &login, &["-u", "me", "-p", "wrong", &registry]].concat());
    ensure!(refused.is_err(), "a wrong token is refused");
    podman.run(&[&["login"][..], &login, &["-u", "me", "-p", &token, &registry]].concat())?;
    let image = format!("{registry}/apps/engines@{}", digest(berth, "engines")?);
    podman.run(&[&["pull", "-q"][..], &login, &[&image]].concat())?;
    podman.answers(&image)?;
    let archive = at.join("engines.tar");
    exported(berth, "engines", &archive)?;
    podman.run(&["load", "-q", "-i", &archive.display().to_string()])?;
    podman.answers("localhost/engines:v1")?;

    // Theirs here: pushed, and in archives of both kinds.
    busybox(&at)?;
    podman.run(&["build", "-q", "-t", "theirs:1", "--isolation", "chroot", &at.display().to_string()])?;
    let pushed = format!("{registry}/team/theirs:1");
    podman.run(&[&["push", "-q"][..], &login, &["localhost/theirs:1", &pushed]].concat())?;
    berth.ok(&["apps:create", "theirs"])?;
    let deployed = berth.ok(&["git:from-image", "theirs", "berth.internal/team/theirs:1"])?.all();
    ensure!(deployed.contains("Application deployed"), "{deployed}");
    ensure!(berth.get("theirs", "/")?.text() == "from podman\n", "it runs");
    ensure!(
        berth.ok(&["run", "theirs", "/bin/busybox", "env"])?.stdout.contains("WORD=hello"),
        "its variables"
    );
    for format in ["docker-archive", "oci-archive"] {
        let saved = at.join(format!("{format}.tar"));
        podman.run(&[
            "save",
            "-q",
            "--format",
            format,
            "-o",
            &saved.display().to_string(),
            "localhost/theirs:1",
        ])?;
        let app = format!("theirs-{format}");
        berth.ok(&["apps:create", &app])?;
        let bytes = std::fs::read(&saved)?;
        berth.berth_with_input(&["git:load-image", &app, "theirs:1"], &bytes)?.success()?;
        ensure!(berth.get(&app, "/")?.text() == "from podman\n", "{format} runs");
    }

    // skopeo's own verbs.
    let creds = format!("me:{token}");
    let target = format!("docker://{registry}/team/theirs");
    let tags = tool("skopeo", &["list-tags", "--tls-verify=false", "--creds", &creds, &target])?;
    ensure!(tags.contains("\"1\""), "{tags}");
    let tagged = format!("{target}:1");
    tool("skopeo", &["inspect", "--tls-verify=false", "--creds", &creds, &tagged])?;
    tool("skopeo", &["delete", "--tls-verify=false", "--creds", &creds, &tagged])?;
    ensure!(
        tool("skopeo", &["inspect", "--tls-verify=false", "--creds", &creds, &tagged]).is_err(),
        "it is gone"
    );
    // What a release is made of stays, whoever asks.
    let needed = format!("docker://{image}");
    let refused = tool("skopeo", &["delete", "--tls-verify=false", "--creds", &creds, &needed]);
    ensure!(refused.is_err_and(|error| error.to_string().contains("a release needs")), "it must be refused");
    // What was deployed of it has an image of its own.
    berth.ok(&["ps:restart", "theirs"])?;
    ensure!(berth.get("theirs", "/")?.text() == "from podman\n", "it runs on");
    Ok(())
}

/// A Docker daemon of the test's own: no bridge, no firewall rules, nothing of the machine's.
struct Docker {
    daemon: Child,
    dir: tempfile::TempDir,
    bin: PathBuf,
}

impl Docker {
    /// `None` if this machine has none: `tests/run` gets one.
    fn start() -> Result<Option<Self>> {
        let Some(root) = std::env::var_os("BERTH_DOCKER_DIR").map(PathBuf::from) else { return Ok(None) };
        let (bin, dir) = (root.join("usr/bin"), tempfile::tempdir()?);
        let path =
            format!("{}:{}:{}", bin.display(), root.join("usr/sbin").display(), std::env::var("PATH")?);
        let place = |name: &str| dir.path().join(name).display().to_string();
        let log = std::fs::File::create(dir.path().join("log"))?;
        let mut command = Command::new(root.join("usr/sbin/dockerd"));
        command.env("PATH", path).env("HOME", dir.path());
        command.args([
            "--data-root",
            &place("data"),
            "--exec-root",
            &place("exec"),
            "--pidfile",
            &place("pid"),
        ]);
        command.args(["-H", &format!("unix://{}", place("sock")), "--storage-driver", "vfs"]);
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
        let daemon = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let docker = Self { daemon, dir, bin };
        until(Duration::from_secs(60), "dockerd to answer", || docker.run(&["version"]))
            .with_context(|| std::fs::read_to_string(docker.dir.path().join("log")).unwrap_or_default())?;
        Ok(Some(docker))
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let at = self.dir.path();
        let mut command = Command::new(self.bin.join("docker"));
        command.env("HOME", at).arg("-H").arg(format!("unix://{}/sock", at.display())).args(arguments);
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "docker {arguments:?}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Ok(all) = self.run(&["ps", "-aq"]) {
            for id in all.split_whitespace() {
                let _ = self.run(&["rm", "-f", id]);
            }
        }
        if let Ok(pid) = i32::try_from(self.daemon.id()) {
            // It ends the containerd that it started.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.daemon.wait();
        // It leaves the machine's own network namespace mounted where `--network host` needed it.
        let _ = Command::new("umount").arg(self.dir.path().join("exec/netns/default")).status();
    }
}

fn docker(berth: &Berth) -> Result<()> {
    let Some(docker) = Docker::start()? else { return Ok(()) };
    tiny(berth, "docked")?;
    let (token, registry) = (token(berth, "docker")?, berth.api.to_string());
    let archive = docker.dir.path().join("docked.tar");
    exported(berth, "docked", &archive)?;
    docker.run(&["load", "-i", &archive.display().to_string()])?;
    let port = free_port()?;
    let env = format!("PORT={port}");
    docker.run(&["run", "-d", "--network", "host", "-e", &env, "localhost/docked:v1"])?;
    answers(port, "from berth\n")?;

    ensure!(
        docker.run(&["login", "-u", "me", "-p", "wrong", &registry]).is_err(),
        "a wrong token is refused"
    );
    docker.run(&["login", "-u", "me", "-p", &token, &registry])?;
    let pushed = format!("{registry}/team/docked:1");
    docker.run(&["tag", "localhost/docked:v1", &pushed])?;
    docker.run(&["push", "-q", &pushed])?;
    docker.run(&["rmi", "-f", &pushed])?;
    docker.run(&["pull", "-q", &pushed])?;
    berth.ok(&["apps:create", "undocked"])?;
    berth.ok(&["git:from-image", "undocked", "berth.internal/team/docked:1"])?;
    ensure!(berth.get("undocked", "/")?.text() == "from berth\n", "what docker pushed runs");

    let saved = docker.dir.path().join("saved.tar");
    docker.run(&["save", "-o", &saved.display().to_string(), "localhost/docked:v1", &pushed])?;
    berth.ok(&["apps:create", "saved"])?;
    let bytes = std::fs::read(&saved)?;
    berth.berth_with_input(&["git:load-image", "saved", "localhost/docked:v1"], &bytes)?.success()?;
    ensure!(berth.get("saved", "/")?.text() == "from berth\n", "what docker saved runs");
    Ok(())
}
