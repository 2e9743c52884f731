//! Apps built by buildpacks of others: Cloud Native Buildpacks in bash and Rust, and classic ones. None of them knows Berth.

use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Outside, Repo, until};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("buildpacks_cloud_native", cloud_native),
    ("buildpacks_classic", classic),
    ("buildpacks_from_elsewhere", elsewhere),
    ("buildpacks_of_a_builder_image", builder),
    ("buildpacks_in_rust", libcnb),
    ("buildpacks_can_be_canceled", cancel),
    ("buildpacks_that_misbehave_harm_nobody", hostile),
];

fn fixture(name: &str) -> Result<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("buildpacks").join(name);
    ensure!(path.is_dir(), "{} is missing", path.display());
    Ok(path)
}

/// Copies a buildpack to a directory of the working copy.
fn bring(repo: &Repo, name: &str, to: &str) -> Result<()> {
    let to = repo.path().join(to);
    std::fs::create_dir_all(to.parent().context("a directory above")?)?;
    let copy = Command::new("cp").arg("-a").arg(fixture(name)?).arg(&to).status()?;
    ensure!(copy.success(), "copying {name}");
    Ok(())
}

fn has(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "no {part:?} in {text}");
    }
    Ok(())
}

const PROJECT: &str = r#"
[_]
schema-version = "0.2"
[io.buildpacks]
exclude = ["notes", "*.md"]
[[io.buildpacks.group]]
uri = "buildpacks/engine"
[[io.buildpacks.group]]
uri = "./buildpacks/app"
[[io.buildpacks.build.env]]
name = "BUILD_ONLY"
value = "from project.toml"
"#;

fn cloud_native(berth: &Berth) -> Result<()> {
    berth.ok(&["apps:create", "cloud"])?;
    berth.ok(&["config:set", "--no-restart", "cloud", "SECRET=cloud-secret"])?;
    let files = [
        ("project.toml", PROJECT),
        ("engine.txt", "1.0"),
        ("message.in", "a draft\n"),
        ("notes/x", "x"),
        ("README.md", "x"),
        ("docs/deep.md", "x"),
        ("docs/text", "x"),
        (".slugignore", "*.psd\n"),
        ("art.psd", "x"),
    ];
    let repo = Repo::new(berth, "cloud", &files)?;
    bring(&repo, "engine", "buildpacks/engine")?;
    bring(&repo, "app", "buildpacks/app")?;
    repo.commit("Buildpacks")?;
    let pushed = repo.push()?.all();
    has(
        &pushed,
        &[
            "-----> Building with buildpacks",
            "project.toml names buildpacks",
            "test/engine 1.2.3 (Engine)",
            "engine: user 1001, plan 1, wanted by \"app\"",
            "engine: installing 1.0",
            "engine: build number 1",
            "engine: store says nothing",
            "app: with engine 1.0",
        ],
    )?;
    let reply = berth.get("cloud", "/")?.text();
    let wanted = "args=from hello\nENGINE_VERSION=1.0\nENGINE_BUILDS=\nGREETING=hello\nWHICH=web\nLIST=engine\n\
                  FROM_EXEC_D=asked in /workspace\nFROM_PROFILE=profile of hello\nCNB_APP_DIR=\nTOOL=\npath=0\ncwd=/workspace\n\
                  uid=1000\nmessage=a final\ndata=made once\n";
    ensure!(reply == wanted, "{reply}");
    let ran = berth.ok(&["run", "cloud", "ls", "-A"])?.stdout;
    let left_out = ["README.md", "notes", "art.psd"];
    ensure!(left_out.iter().all(|name| !ran.contains(name)) && ran.contains("assets"), "{ran}");
    ensure!(berth.ok(&["run", "cloud", "ls", "docs"])?.stdout == "text\n", "*.md is meant at any depth");
    let ran = berth.ok(&["run", "cloud", "echo $FROM_EXEC_D, $(command -v serve)"])?.stdout;
    has(&ran, &["asked in /workspace, /layers/test_engine/engine/bin/serve"])?;

    let sbom: serde_json::Value = serde_json::from_str(&berth.ok(&["sbom", "cloud"])?.stdout)?;
    let named = |name: &str| {
        let components = sbom["components"].as_array().into_iter().flatten();
        components.filter(|one| one["name"] == name).count()
    };
    ensure!(sbom["specVersion"] == "1.6" && named("engine") == 1 && named("bash") == 1, "{sbom}");
    let none = berth.berth(&["sbom", "cloud", "--format", "syft"])?;
    ensure!(none.code == 1 && none.all().contains("cyclonedx"), "{}", none.all());

    // Layers come back, and stay the same.
    let again = repo.change(&[("message.in", "another draft\n")])?.all();
    has(
        &again,
        &[
            "restored test/engine:engine",
            "engine: reusing 1.0",
            "engine: build number 2",
            "engine: data stays as it is",
            "engine: store says 1",
            "unchanged test/engine:engine",
            "reusing test/engine:data",
        ],
    )?;
    let reply = berth.get("cloud", "/")?.text();
    has(&reply, &["message=another final\n", "data=made once\n"])?;
    let newer = repo.change(&[("engine.txt", "2.0"), ("Procfile", "web: serve procfile $GREETING\n")])?.all();
    has(&newer, &["engine: installing 2.0", "engine: build number 3"])?;
    berth.until_says("cloud", "args=procfile hello\nENGINE_VERSION=2.0\n")?;

    // What goes wrong says what to do, and leaves the old version.
    for (files, parts) in [
        (
            &[("fail.txt", "x")][..],
            &["app: fail.txt says so", "Building with test/app 0.1", "exit code 7"][..],
        ),
        (&[("project.toml", "[[io.buildpacks.group]]\nuri = \"buildpacks/none\"\n")], &["buildpacks/none"]),
        (
            &[("project.toml", "[[io.buildpacks.group]]\nuri = \"buildpacks/app\"\n")],
            &["no buildpack is for this app", "nothing provides \"engine\"", "test/app 0.1: is for this app"],
        ),
        (&[("project.toml", "[[io.buildpacks.group]]\nid = \"some/thing\"\n")], &["some/thing", "uri"]),
    ] {
        repo.write(files)?;
        repo.commit("Broken")?;
        let pushed = repo.git(&["push", "paas", "main"])?;
        ensure!(pushed.code != 0, "{}", pushed.all());
        has(&pushed.all(), parts)?;
        ensure!(berth.get("cloud", "/")?.text().contains("args=procfile hello"), "the old version serves");
        repo.git(&["reset", "-q", "--hard", "HEAD~1"])?.success()?;
    }
    Ok(())
}

fn classic(berth: &Berth) -> Result<()> {
    berth.ok(&["apps:create", "classic"])?;
    berth.ok(&["config:set", "--no-restart", "classic", "SECRET=classic-secret"])?;
    let serve = std::fs::read_to_string(fixture("engine")?.join("serve"))?;
    let scripts = r#"{"scripts": {"dokku": {"predeploy": "tool >predeployed"}}}"#;
    let files = [
        (".buildpacks", "./buildpacks/tool\nbuildpacks/app\n"),
        ("tool.txt", "x"),
        ("serve!", &serve),
        ("app.json", scripts),
    ];
    let repo = Repo::new(berth, "classic", &files)?;
    bring(&repo, "classic-tool", "buildpacks/tool")?;
    bring(&repo, "classic-app", "buildpacks/app")?;
    repo.commit("Buildpacks")?;
    let pushed = repo.push()?.all();
    has(
        &pushed,
        &[
            "buildpacks: chosen by .buildpacks",
            "Tool app detected",
            "Installing tool, run 1 on debian-12",
            "Serve app app detected",
            "asks for the add-on heroku-postgresql",
        ],
    )?;
    let reply = berth.get("classic", "/")?.text();
    has(
        &reply,
        &[
            "args=classic: hello\n",
            "GREETING=classic: hello\n",
            "TOOL=from profile, tool-1\n",
            "cwd=/app\nuid=1000\nmessage=built with tool-1\n",
        ],
    )?;
    let ran = berth.ok(&["run", "classic", "tool; cat predeployed"])?.stdout;
    ensure!(ran == "tool-1\ntool-1\n", "profiles are read for commands and scripts, too: {ran}");
    let again = repo.change(&[("Procfile", "web: perl serve procfile $TOOL\n"), ("fail.txt", "x")]);
    let error = format!("{:#}", again.err().context("fail.txt makes it fail")?);
    has(&error, &["fail.txt says so", "buildpacks/app", "exit code 3"])?;
    std::fs::remove_file(repo.path().join("fail.txt"))?;
    let again = repo.change(&[])?.all();
    has(&again, &["run 3"])?;
    berth.until_says("classic", "args=procfile from profile, tool-1\n")?;

    // Another stack, by its name: images that somebody loaded count.
    let stacks = PathBuf::from(std::env::var_os("BERTH_STACK_DIR").context("BERTH_STACK_DIR is not set")?);
    let tar = stacks.join("debian-12-run.tar");
    for name in ["heroku/heroku:24", "heroku/heroku:24-build"] {
        berth.ok(&["image:import", name, tar.to_str().context("UTF-8")?])?;
    }
    berth.ok(&["stack:set", "classic", "heroku-24"])?;
    let pushed = repo.change(&[])?.all();
    has(&pushed, &["chosen by setting", "run 4 on heroku-24"])?;
    berth.until_says("classic", "args=procfile from profile, tool-1\n")?;
    Ok(())
}

fn tool(program: &str, arguments: &[&str], at: &Path) -> Result<()> {
    let done = Command::new(program).args(arguments).current_dir(at).output()?;
    ensure!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// By git with a tag, as an archive, as a package file and as an image.
fn elsewhere(berth: &Berth) -> Result<()> {
    let world = tempfile::TempDir::new()?;
    let at = world.path();
    for name in ["engine", "app", "classic-tool"] {
        let to = at.join(name);
        tool("cp", &["-a", fixture(name)?.to_str().context("UTF-8")?, to.to_str().context("UTF-8")?], at)?;
    }
    let engine = at.join("engine");
    for arguments in [
        &["init", "-q", "-b", "main"][..],
        &["add", "-A"],
        &["-c", "user.name=d", "-c", "user.email=d@e", "commit", "-q", "-m", "First"],
        &["tag", "v1"],
    ] {
        tool("git", arguments, &engine)?;
    }
    tool(
        "sh",
        &[
            "-c",
            "sed -i s/installing/broken/ bin/build && git -c user.name=d -c user.email=d@e commit -qam Worse",
        ],
        &engine,
    )?;
    tool("tar", &["-czf", "app.tgz", "app"], at)?;
    package(at)?;
    let outside = Outside::serving(at)?;
    let files = outside.files(at)?;

    berth.ok(&["apps:create", "elsewhere"])?;
    berth.ok(&["config:set", "--no-restart", "elsewhere", "SECRET=x", "BUILD_ONLY=from project.toml"])?;
    let git = format!("{}#v1", outside.url("engine"));
    berth.ok(&["buildpacks:add", "elsewhere", &format!("{files}/app.tgz")])?;
    berth.ok(&["buildpacks:add", "--index", "1", "elsewhere", &git])?;
    let list = berth.ok(&["buildpacks:list", "elsewhere"])?.stdout;
    ensure!(
        list == format!("-----> elsewhere buildpack urls\n       {git}\n       {files}/app.tgz\n"),
        "{list}"
    );
    let twice = berth.berth(&["buildpacks:add", "elsewhere", &git])?;
    ensure!(twice.code == 1 && twice.all().contains("already"), "{}", twice.all());
    let wrong = berth.berth(&["buildpacks:add", "elsewhere", "ftp://x/y"])?;
    ensure!(wrong.code == 1 && wrong.all().contains("ftp://"), "{}", wrong.all());

    let files_of_app = [("engine.txt", "1.0"), ("message.in", "a draft\n")];
    let repo = Repo::new(berth, "elsewhere", &files_of_app)?;
    let pushed = repo.push()?.all();
    has(
        &pushed,
        &[
            "chosen by berth buildpacks:list",
            "Fetching buildpack",
            "engine: installing 1.0",
            "app: with engine",
        ],
    )?;
    has(&berth.get("elsewhere", "/")?.text(), &["args=from hello\n", "message=a final\n"])?;

    // A package of both, as a file and as an image; then what is no longer there comes from the last copy.
    berth.ok(&["buildpacks:clear", "elsewhere"])?;
    berth.ok(&["buildpacks:set", "elsewhere", &format!("{files}/both.cnb")])?;
    let pushed = repo.change(&[("message.in", "packed draft\n")])?.all();
    has(&pushed, &["test/engine 1.2.3", "engine: reusing 1.0", "test/app 0.1"])?;
    std::fs::remove_file(at.join("both.cnb"))?;
    let pushed = repo.change(&[("message.in", "draft once more\n")])?.all();
    has(&pushed, &["its last copy is used", "engine: reusing 1.0"])?;
    let tar = at.join("image.tar");
    berth.ok(&["image:import", "example.test/both:1", tar.to_str().context("UTF-8")?])?;
    berth.ok(&["buildpacks:set", "elsewhere", "docker://example.test/both:1"])?;
    let pushed = repo.change(&[("message.in", "imaged draft\n")])?.all();
    has(&pushed, &["Fetching buildpack docker://example.test/both:1", "engine: reusing 1.0"])?;
    has(&berth.get("elsewhere", "/")?.text(), &["message=imaged final\n"])?;

    // What cannot be fetched, and kinds that do not go together.
    berth.ok(&["buildpacks:set", "elsewhere", &outside.url("nothing")])?;
    let said = refused(&repo)?;
    has(&said, &["cannot be fetched", "Check the address"])?;
    berth.ok(&["buildpacks:set", "elsewhere", &git])?;
    berth.ok(&["buildpacks:add", "elsewhere", &format!("{files}/missing.tgz")])?;
    has(&refused(&repo)?, &["missing.tgz", "404"])?;
    bring(&repo, "classic-tool", "mine")?;
    repo.commit("A classic one")?;
    berth.ok(&["buildpacks:set", "--index", "2", "elsewhere", "./mine"])?;
    has(&refused(&repo)?, &["classic Heroku buildpack", "one kind"])?;
    let report = berth.ok(&["buildpacks:report", "elsewhere", "--buildpacks-list"])?.stdout;
    ensure!(report == format!("{git},./mine\n"), "{report}");
    berth.ok(&["buildpacks:remove", "elsewhere", "./mine"])?;
    berth.ok(&["stack:set", "elsewhere", "heroku-24"])?;
    let report = berth.ok(&["buildpacks:report", "elsewhere", "--buildpacks-stack"])?.stdout;
    ensure!(report == "heroku-24\n", "{report}");
    Ok(())
}

fn refused(repo: &Repo) -> Result<String> {
    repo.commit("Again")?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0, "{}", pushed.all());
    Ok(pushed.all())
}

/// `both.cnb`, an OCI layout with a composite buildpack and those it stands for, and `image.tar` with the same files.
fn package(at: &Path) -> Result<()> {
    let script = r#"
set -eu
mkdir -p root/cnb/buildpacks/test_engine root/cnb/buildpacks/test_app root/cnb/buildpacks/test_both/1
cp -a engine root/cnb/buildpacks/test_engine/1.2.3
sed -i s/broken/installing/ root/cnb/buildpacks/test_engine/1.2.3/bin/build
rm -rf root/cnb/buildpacks/test_engine/1.2.3/.git
cp -a app root/cnb/buildpacks/test_app/0.1
cat >root/cnb/buildpacks/test_both/1/buildpack.toml <<'TOML'
api = "0.10"
[buildpack]
id = "test/both"
version = "1"
[[order]]
[[order.group]]
id = "test/none"
version = "9"
optional = true
[[order.group]]
id = "test/engine"
version = "1.2.3"
[[order.group]]
id = "test/app"
version = "0.1"
TOML
tar -C root -cf image.tar .
mkdir -p oci/blobs/sha256
put() { s=$(sha256sum "$1" | cut -c1-64); cp "$1" oci/blobs/sha256/$s; echo "{\"mediaType\":\"$2\",\"digest\":\"sha256:$s\",\"size\":$(stat -c %s "$1")}"; }
gzip -k image.tar
layer=$(put image.tar.gz application/vnd.oci.image.layer.v1.tar+gzip)
echo '{"config":{"Labels":{"io.buildpacks.buildpackage.metadata":"{\"id\":\"test/both\",\"version\":\"1\"}"}},"rootfs":{"type":"layers","diff_ids":[]}}' >config.json
config=$(put config.json application/vnd.oci.image.config.v1+json)
echo "{\"schemaVersion\":2,\"config\":$config,\"layers\":[$layer]}" >manifest.json
manifest=$(put manifest.json application/vnd.oci.image.manifest.v1+json)
echo "{\"schemaVersion\":2,\"manifests\":[$manifest]}" >oci/index.json
echo '{"imageLayoutVersion":"1.0.0"}' >oci/oci-layout
tar -C oci -cf both.cnb .
"#;
    tool("sh", &["-c", script], at)
}

/// A builder image with an order of its own; the run image is chosen by `stack:set`.
fn builder(berth: &Berth) -> Result<()> {
    let stacks = PathBuf::from(std::env::var_os("BERTH_STACK_DIR").context("BERTH_STACK_DIR is not set")?);
    let world = tempfile::TempDir::new()?;
    let at = world.path();
    for name in ["engine", "app"] {
        tool(
            "cp",
            &["-a", fixture(name)?.to_str().context("UTF-8")?, at.join(name).to_str().context("UTF-8")?],
            at,
        )?;
    }
    let order = r#"
[[order]]
[[order.group]]
id = "test/unfit"
[[order.group]]
id = "test/app"
[[order]]
[[order.group]]
id = "test/unfit"
optional = true
[[order.group]]
id = "test/engine"
[[order.group]]
id = "test/app"
"#;
    let unfit = "api = \"0.11\"\n[buildpack]\nid = \"test/unfit\"\nversion = \"1\"\n[[targets]]\nos = \"linux\"\n\
                 [[targets.distros]]\nname = \"ubuntu\"\nversion = \"24.04\"\n";
    std::fs::write(at.join("order.toml"), order)?;
    std::fs::write(at.join("unfit.toml"), unfit)?;
    let script = r#"
set -eu
mkdir -p cnb/buildpacks/test_engine cnb/buildpacks/test_app cnb/buildpacks/test_unfit/1/bin
mv engine cnb/buildpacks/test_engine/1.2.3
mv app cnb/buildpacks/test_app/0.1
cp unfit.toml cnb/buildpacks/test_unfit/1/buildpack.toml
cp order.toml cnb/
cp "$0" builder.tar
tar -rf builder.tar ./cnb
"#;
    let run = stacks.join("debian-12-run.tar");
    tool("sh", &["-c", script, run.to_str().context("UTF-8")?], at)?;
    let tar = at.join("builder.tar");
    berth.ok(&["image:import", "example.test/builder:1", tar.to_str().context("UTF-8")?])?;
    berth.ok(&["apps:create", "builder"])?;
    berth.ok(&["config:set", "--no-restart", "builder", "SECRET=x"])?;
    let project = "[_]\nschema-version = \"0.2\"\n[io.buildpacks]\nbuilder = \"example.test/builder:1\"\n\
                   [[io.buildpacks.pre.group]]\nid = \"mine/first\"\n[io.buildpacks.pre.group.script]\napi = \"0.10\"\n\
                   inline = \"echo inline on $CNB_TARGET_DISTRO_NAME; printf first > first.txt\"\n\
                   [[io.buildpacks.build.env]]\nname = \"BUILD_ONLY\"\nvalue = \"from project.toml\"\n";
    let files = [("project.toml", project), ("engine.txt", "3.0"), ("message.in", "a draft\n")];
    let repo = Repo::new(berth, "builder", &files)?;
    let pushed = repo.push()?.all();
    has(
        &pushed,
        &[
            "project.toml names the builder example.test/builder:1",
            "inline on debian",
            "engine: installing 3.0",
        ],
    )?;
    has(&berth.get("builder", "/")?.text(), &["ENGINE_VERSION=3.0\n", "message=a final\n"])?;
    let ran = berth.ok(&["run", "builder", "cat", "first.txt"])?.stdout;
    ensure!(ran == "first", "{ran}");
    // A buildpack for another distribution says so, and how to choose one.
    repo.write(&[
        ("project.toml", "[[io.buildpacks.group]]\nuri = \"unfit\"\n"),
        ("unfit/buildpack.toml", unfit),
        ("unfit/bin/build!", "#!/bin/sh\n"),
    ])?;
    has(
        &refused(&repo)?,
        &["test/unfit 1 is for linux/any ubuntu 24.04", "debian 12", "berth stack:set builder"],
    )?;
    Ok(())
}

/// One in Rust, as its authors make it: built here, copied to the app as a program.
fn libcnb(berth: &Berth) -> Result<()> {
    let source = fixture("libcnb")?;
    let target = std::env::current_exe()?.ancestors().nth(3).context("a target directory")?.join("libcnb");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--target-dir"]).arg(&target).current_dir(&source);
    let arch = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    cargo.args(["--target", &arch]).env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "RUSTC_WORKSPACE_WRAPPER", "CARGO_TARGET_DIR"] {
        cargo.env_remove(name);
    }
    let done = cargo.output()?;
    ensure!(done.status.success(), "building it: {}", String::from_utf8_lossy(&done.stderr));
    berth.ok(&["apps:create", "rusty"])?;
    berth.ok(&["config:set", "--no-restart", "rusty", "SECRET=for rust"])?;
    let project = "[[io.buildpacks.group]]\nuri = \"bp\"\n[_]\nschema-version = \"0.2\"\n";
    let descriptor = std::fs::read_to_string(source.join("buildpack.toml"))?;
    let files = [("project.toml", project), ("site.txt", "hello\n"), ("bp/buildpack.toml", &descriptor)];
    let repo = Repo::new(berth, "rusty", &files)?;
    std::fs::create_dir(repo.path().join("bp/bin"))?;
    let program = target.join(arch).join("debug/test-libcnb");
    std::fs::copy(program, repo.path().join("bp/bin/build"))?;
    std::os::unix::fs::symlink("build", repo.path().join("bp/bin/detect"))?;
    repo.commit("The buildpack")?;
    let pushed = repo.push()?.all();
    has(
        &pushed,
        &[
            "test/libcnb 0.3.0 (Written with libcnb)",
            "libcnb: linux",
            "secret Some(\"for rust\")",
            "writing the server",
        ],
    )?;
    ensure!(berth.get("rusty", "/")?.text() == "hello\nby libcnb\n", "it answers");
    let again = repo.change(&[("site.txt", "changed\n")])?.all();
    has(
        &again,
        &["restored test/libcnb:server", "libcnb: the server is there", "unchanged test/libcnb:server"],
    )?;
    berth.until_says("rusty", "changed\nby libcnb\n")?;
    Ok(())
}

fn cancel(berth: &Berth) -> Result<()> {
    berth.ok(&["apps:create", "hanging"])?;
    berth.ok(&["config:set", "--no-restart", "hanging", "SECRET=x", "BUILD_ONLY=from project.toml"])?;
    let files = [("project.toml", PROJECT), ("engine.txt", "1.0"), ("message.in", "x"), ("hang.txt", "x")];
    let repo = Repo::new(berth, "hanging", &files)?;
    bring(&repo, "engine", "buildpacks/engine")?;
    bring(&repo, "app", "buildpacks/app")?;
    repo.commit("Buildpacks")?;
    let mut push = repo.command(&["push", "paas", "main"]);
    let push = push.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    until(Duration::from_secs(60), "the buildpack to hang", || {
        let said = berth.ok(&["builds:output", "hanging"])?.all();
        ensure!(said.contains("app: hanging"), "{said}");
        Ok(())
    })?;
    berth.ok(&["builds:cancel", "hanging"])?;
    let push = push.wait_with_output()?;
    ensure!(!push.status.success(), "{}", String::from_utf8_lossy(&push.stderr));
    // Nothing of it is kept, and the next build goes on.
    std::fs::remove_file(repo.path().join("hang.txt"))?;
    let pushed = repo.change(&[])?.all();
    has(&pushed, &["engine: build number 1", "Application deployed"])?;
    Ok(())
}

/// What programs of buildpacks leave is never followed out of the build, and has bounds.
fn hostile(berth: &Berth) -> Result<()> {
    let node = tempfile::TempDir::new()?;
    let mine = node.path().join("mine");
    std::fs::create_dir_all(mine.join("layer"))?;
    std::fs::write(mine.join("launch.toml"), "[[processes]]\ntype = \"web\"\ncommand = [\"of-the-node\"]\n")?;
    let mine = mine.to_str().context("UTF-8")?;
    let descriptor = "api = \"0.10\"\n[buildpack]\nid = \"test/hostile\"\nversion = \"1\"\n";
    let files = [
        ("project.toml", "[[io.buildpacks.group]]\nuri = \"bp\"\n"),
        ("bp/buildpack.toml", descriptor),
        ("bp/bin/detect!", "#!/bin/sh\nexit 0\n"),
    ];
    let repo = Repo::new(berth, "hostile", &files)?;
    let linked = format!("rm -rf $1; ln -s {mine} $1");
    let file = format!("ln -s {mine}/launch.toml $1/launch.toml");
    let layer = format!("ln -s {mine} $1/x; printf '[types]\\nlaunch = true\\n' >$1/x.toml");
    for (script, parts) in [
        (linked.as_str(), &["nothing says what to start"][..]),
        (&file, &["launch.toml"]),
        (&layer, &["test/hostile", "\"x\"", "no directory"]),
        ("mkfifo $1/launch.toml", &["launch.toml is no plain file"]),
        ("head -c 5000000 /dev/zero >$1/store.toml", &["store.toml is larger than 4 MiB"]),
        ("printf '[types' >$1/x.toml", &["x.toml", "line 1"]),
        (
            "printf '[types]\\nlaunch = true\\n' >'$1/ x.toml'; printf x >\"$1/a b.toml\"",
            &["cannot be the name of a layer"],
        ),
        ("rm -rf /workspace/* /layers/*; mkdir $1; echo gone", &["nothing says what to start"]),
        ("exit 0", &["nothing says what to start"]),
    ] {
        repo.write(&[("bp/bin/build!", &format!("#!/bin/sh\n{script}\n"))])?;
        has(&refused(&repo)?, parts).with_context(|| script.to_owned())?;
    }
    ensure!(Path::new(mine).join("layer").is_dir(), "the node's own files are as they were");
    Ok(())
}
