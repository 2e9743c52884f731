//! Pushes by the real `git` and `ssh`, against the real servers; the machines behind are fakes.

mod deploy_support;

use berth_model::route::Target;
use deploy_support::{World, backends, commit, git, git_command, route};
use http::Method;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const HOST: &str = "hello.berth.test";
const STATIC: &[(&str, &str)] = &[("index.html", "<h1>hi</h1>"), ("css/site.css", "h1 {}")];
const WORKER: &[(&str, &str)] = &[("Procfile", "web: ./serve\nworker: ./work\n"), ("serve", "#!/bin/sh\n")];

struct Person {
    world: World,
    key: PathBuf,
}

async fn person() -> Person {
    let world = World::start().await;
    let key = world.dir.path().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen runs").success());
    let public = std::fs::read_to_string(key.with_extension("pub")).expect("made");
    let body = json!({"name": "alice", "public_key": public.trim()});
    world.api().call(Method::POST, "/v1/ssh-keys", Some(&body)).await.expect("the key is taken");
    Person { world, key }
}

impl Person {
    fn ssh_options(&self) -> Vec<String> {
        let key = self.key.display();
        let port = self.world.options.ssh.port();
        let text = format!(
            "-F none -i {key} -p {port} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes"
        );
        text.split(' ').map(str::to_owned).collect()
    }

    fn ssh(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(self.ssh_options()).args(args);
        command
    }

    fn command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = git_command(dir);
        command.env("GIT_SSH_COMMAND", format!("ssh {}", self.ssh_options().join(" "))).args(args);
        command
    }

    async fn push(&self, dir: &Path, args: &[&str]) -> Result<String, String> {
        let mut command = self.command(dir, &[&["push", "ssh://anyone@127.0.0.1/hello"], args].concat());
        run(&mut command).await
    }
}

async fn run(command: &mut Command) -> Result<String, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::process::Command::from(std::mem::replace(command, Command::new("true"))).output();
    let output =
        tokio::time::timeout(Duration::from_secs(60), output).await.expect("it ends").expect("it runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_push_makes_the_app_and_it_answers() {
    let alice = person().await;
    let dir = alice.world.repository("src", "main", WORKER);
    let text = alice.push(&dir, &["main"]).await.expect("accepted");
    for line in [
        "remote: -----> Set main as deploy-branch",
        "remote: -----> Faking the build",
        "remote: =====> Application deployed:",
        "remote:        http://hello.berth.test:8099",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    alice.world.until("a route", |seen| backends(seen, HOST).len() == 1).await;
    let seen = alice.world.seen();
    let files: Vec<_> = seen.files.keys().map(String::as_str).collect();
    assert_eq!(files, ["Procfile 644", "serve 644"]);
    let info: serde_json::Value = alice.world.api().get("/v1/apps/hello").await.expect("exists");
    assert_eq!(info["deploy_branch"], "main");
    let rev = git(&dir, &["rev-parse", "main"]).expect("a commit");
    assert_eq!(info["git_rev"], rev.trim());
    // The repository can be cloned, and begins at the branch that deploys.
    let mut clone =
        alice.command(alice.world.dir.path(), &["clone", "-q", "ssh://x@127.0.0.1/hello", "copy"]);
    run(&mut clone).await.expect("cloned");
    assert!(alice.world.dir.path().join("copy/Procfile").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_site_is_routed_to_its_directory() {
    let alice = person().await;
    let dir = alice.world.repository("src", "main", STATIC);
    alice.push(&dir, &["main"]).await.expect("accepted");
    alice
        .world
        .until("a route", |seen| {
            route(seen, HOST).is_some_and(|route| matches!(route.target, Target::Static { .. }))
        })
        .await;
    assert_eq!(alice.world.seen().files["css/site.css 644"], b"h1 {}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_rejects_the_push_and_the_old_version_serves_on() {
    let alice = person().await;
    let dir = alice.world.repository("src", "main", WORKER);
    alice.push(&dir, &["main"]).await.expect("accepted");
    alice.world.until("a route", |seen| backends(seen, HOST).len() == 1).await;
    let before = backends(&alice.world.seen(), HOST);
    alice.world.change(|script| script.build_fails = true);
    commit(&dir, &[("x", "y")], "broken");
    let text = alice.push(&dir, &["main"]).await.expect_err("rejected");
    assert!(text.contains("it does not compile") && text.contains("pre-receive hook declined"), "{text}");
    assert_eq!(backends(&alice.world.seen(), HOST), before);
    let mut list = alice.command(&dir, &["ls-remote", "ssh://x@127.0.0.1/hello", "refs/heads/main"]);
    let refs = run(&mut list).await.expect("listed");
    let first = git(&dir, &["rev-parse", "main~1"]).expect("a commit");
    assert!(refs.starts_with(first.trim()), "{refs}");
    // A crash after the build too, with its last words.
    alice.world.change(|script| {
        script.build_fails = false;
        script.exits.insert("web".into(), 3);
    });
    let text = alice.push(&dir, &["main"]).await.expect_err("rejected");
    for line in [
        "=====> Start of hello container output (web.1)",
        "Traceback: no such module",
        "=====> End of hello container output (web.1)",
        "web.1 exited with code 3 before it was ready",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert_eq!(backends(&alice.world.seen(), HOST), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_tags_force_and_deletes_do_as_the_conventions_say() {
    let alice = person().await;
    let dir = alice.world.repository("src", "main", WORKER);
    alice.push(&dir, &["main"]).await.expect("accepted");
    git(&dir, &["checkout", "-q", "-b", "dev"]).expect("a branch");
    commit(&dir, &[("dev", "1")], "dev");
    let text = alice.push(&dir, &["dev"]).await.expect("exit 0");
    assert!(text.contains("-----> WARNING: deploy did not complete, you must push to main."), "{text}");
    assert_eq!(alice.world.seen().builds, 1);
    let text = alice.push(&dir, &["dev:main"]).await.expect("another branch into main");
    assert!(text.contains("Application deployed"), "{text}");
    git(&dir, &["tag", "-a", "v1", "-m", "one", "dev~1"]).expect("a tag");
    let text = alice.push(&dir, &["-f", "v1^{}:refs/heads/main"]).await.expect("a forced tag");
    assert!(text.contains("Application deployed"), "{text}");
    let text = alice.push(&dir, &["v1"]).await.expect("a tag by itself");
    assert!(text.contains("you must push to main"), "{text}");
    let text = alice.push(&dir, &[":main"]).await.expect_err("the live branch stays");
    assert!(text.contains("cannot be deleted"), "{text}");
    alice.push(&dir, &[":dev"]).await.expect("another one may go");
    for bad in ["main:refs/notes/x", "main:refs/changes/1/1"] {
        alice.push(&dir, &[bad]).await.expect_err(bad);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_built_is_not_built_again() {
    let alice = person().await;
    let dir = alice.world.repository("src", "main", WORKER);
    alice.push(&dir, &["main"]).await.expect("accepted");
    git(&dir, &["commit", "-q", "--allow-empty", "-m", "nothing"]).expect("committed");
    // The fake agent pushes no image, so the shortcut must not be taken either.
    alice.push(&dir, &["main"]).await.expect("accepted");
    assert_eq!(alice.world.seen().builds, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_clone_can_be_pushed() {
    let alice = person().await;
    let dir = alice.world.repository("src", "main", WORKER);
    commit(&dir, &[("a", "b")], "second");
    let url = format!("file://{}", dir.display());
    git(alice.world.dir.path(), &["clone", "-q", "--depth", "1", &url, "shallow"]).expect("cloned");
    let shallow = alice.world.dir.path().join("shallow");
    let text = alice.push(&shallow, &["main"]).await.expect("accepted");
    assert!(text.contains("Application deployed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pushes_at_once_take_turns() {
    let alice = person().await;
    let dir = alice.world.repository("src", "main", WORKER);
    alice.push(&dir, &["main"]).await.expect("accepted");
    alice.world.change(|script| script.build_stuck = true);
    commit(&dir, &[("a", "1")], "one");
    let other = alice.world.dir.path().join("other");
    std::process::Command::new("cp").arg("-r").arg(&dir).arg(&other).status().expect("copied");
    commit(&other, &[("a", "2")], "two");
    let first = alice.push(&dir, &["main"]);
    let second = async {
        alice.world.until("the first builds", |seen| seen.builds == 2).await;
        let second = alice.push(&other, &["main"]);
        let release = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            alice.world.change(|script| script.build_stuck = false);
        };
        tokio::join!(second, release).0
    };
    let (first, second) = tokio::join!(first, second);
    first.expect("the first is deployed");
    let text = second.expect_err("its ref has moved");
    assert!(text.contains("Waiting for the deploy of hello to finish"), "{text}");
    assert!(text.contains("another push changed main meanwhile"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn breaking_off_a_push_cancels_its_build() {
    let alice = person().await;
    let dir = alice.world.repository("src", "main", WORKER);
    alice.world.change(|script| script.build_stuck = true);
    let mut push = alice.command(&dir, &["push", "ssh://x@127.0.0.1/hello", "main"]);
    // In a group of its own, as a terminal's Ctrl-C finds it: git and its ssh.
    std::os::unix::process::CommandExt::process_group(&mut push, 0);
    let mut child = push.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    alice.world.until("the build", |seen| seen.builds == 1).await;
    nix::sys::signal::killpg(
        nix::unistd::Pid::from_raw(child.id().cast_signed()),
        nix::sys::signal::Signal::SIGINT,
    )
    .expect("alive");
    child.wait().expect("ends");
    alice.world.until("the build is broken off", |seen| seen.builds_broken_off == 1).await;
    let releases: serde_json::Value = alice.world.api().get("/v1/apps/hello/releases").await.expect("exists");
    assert_eq!(releases, json!([]));
    alice.world.change(|script| script.build_stuck = false);
    alice.push(&dir, &["main"]).await.expect("the next one works");
    let objects = alice.world.options.data.join("controller/git/hello.git/objects");
    let left: Vec<_> =
        std::fs::read_dir(objects).expect("exists").flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("incoming")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn git_over_http_takes_a_token() {
    let alice = person().await;
    let dir = alice.world.repository("src", "main", WORKER);
    let port = alice.world.options.api.port();
    let body = json!({"name": "ci"});
    let token: serde_json::Value =
        alice.world.api().json(Method::POST, "/v1/tokens", Some(&body)).await.expect("a token");
    let token = token["token"].as_str().expect("text").to_owned();
    let url = format!("http://x:{token}@127.0.0.1:{port}/hello.git");
    let text = run(&mut alice.command(&dir, &["push", &url, "main"])).await.expect("accepted");
    assert!(text.contains("remote: =====> Application deployed:"), "{text}");
    // Larger than git's buffer, so that it is sent in pieces.
    let noise: String = (0..400_000_u32).map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761))).collect();
    commit(&dir, &[("noise", &noise)], "large");
    run(&mut alice.command(&dir, &["push", &url, "main"])).await.expect("accepted");
    run(&mut alice.command(alice.world.dir.path(), &["clone", "-q", &url, "over-http"]))
        .await
        .expect("cloned");
    let wrong = format!("http://x:berth_wrong@127.0.0.1:{port}/hello.git");
    run(&mut alice.command(&dir, &["push", &wrong, "main"])).await.expect_err("a wrong token");
    let missing = format!("http://x:{token}@127.0.0.1:{port}/missing.git");
    let text = run(&mut alice.command(&dir, &["clone", &missing, "y"])).await.expect_err("no such app");
    assert!(text.contains("not found") || text.contains("does not exist"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_runs_the_cli_and_nothing_else() {
    let alice = person().await;
    let text = run(&mut alice.ssh(&["x@127.0.0.1", "config:set", "app", r"KEY=A\ B", ";", "id"]))
        .await
        .expect("runs");
    assert!(text.contains(r#""words": ["config:set", "app", "KEY=A B", ";", "id"]"#), "{text}");
    assert!(text.contains(r#""as": "alice""#) && text.contains("to stderr"), "{text}");
    let mut with_env = alice.ssh(&["-o", "SetEnv=LD_PRELOAD=x GIT_DIR=y", "x@127.0.0.1", "env"]);
    let text = run(&mut with_env).await.expect("runs");
    assert!(!text.contains("LD_PRELOAD") && !text.contains("GIT_DIR"), "{text}");
    let status = alice.ssh(&["x@127.0.0.1", "fail"]).output().expect("runs").status;
    assert_eq!(status.code(), Some(7), "the command's exit code");
    let text = run(&mut alice.ssh(&["-tt", "x@127.0.0.1", "tty"])).await.expect("a terminal");
    assert!(text.starts_with("True 80") || text.starts_with("True"), "{text}");
    let text = run(&mut alice.ssh(&["x@127.0.0.1"])).await.expect("a greeting");
    assert!(text.contains("Hello alice"), "{text}");
    let mut sftp = alice.ssh(&["-s", "x@127.0.0.1", "sftp"]);
    run(&mut sftp).await.expect_err("no sftp");
    let bad = ["../x", "'x;id'", "'$(id)'", "-u", ".git"];
    for path in bad {
        let text = run(&mut alice.ssh(&["x@127.0.0.1", "git-receive-pack", path])).await.expect_err(path);
        assert!(text.contains(" !     "), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_moves_more_bytes_than_fit_anywhere_at_once() {
    let alice = person().await;
    let mut cat = alice
        .ssh(&["x@127.0.0.1", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stdin = cat.stdin.take().expect("piped");
    let mut stdout = cat.stdout.take().expect("piped");
    const BYTES: usize = 24 << 20;
    let writing = std::thread::spawn(move || {
        let chunk: Vec<u8> = (0..=255).cycle().take(1 << 16).collect();
        for _ in 0..BYTES / chunk.len() {
            std::io::Write::write_all(&mut stdin, &chunk).expect("taken");
        }
    });
    let reading = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut stdout, &mut all).map(|_| all.len())
    });
    let read =
        tokio::time::timeout(Duration::from_secs(60), reading).await.expect("no deadlock").expect("runs");
    assert_eq!(read.expect("read"), BYTES);
    writing.join().expect("written");
    assert!(cat.wait().expect("ends").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_breaks_off_ends_its_command() {
    let alice = person().await;
    let note = alice.world.dir.path().join("pid");
    for flag in ["-T", "-tt"] {
        let path = note.with_extension(flag);
        let mut ssh = alice.ssh(&[flag, "x@127.0.0.1", "wait", &path.display().to_string()]);
        let mut child = ssh.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
        let pid: i32 = loop {
            match std::fs::read_to_string(&path).ok().and_then(|text| text.parse().ok()) {
                Some(pid) => break pid,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        child.kill().expect("killed");
        child.wait().expect("reaped");
        let gone = async {
            while Path::new(&format!("/proc/{pid}")).exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the command ends with its session");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_not_let_in() {
    let mut alice = person().await;
    let other = alice.world.dir.path().join("stranger");
    Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&other)
        .status()
        .expect("made");
    alice.key = other;
    let text = run(&mut alice.ssh(&["x@127.0.0.1", "apps:list"])).await.expect_err("refused");
    assert!(text.contains("Permission denied (publickey)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_trees_change_nothing() {
    let alice = person().await;
    let dir = alice.world.repository("src", "main", WORKER);
    // `..` as a name, made without git's help.
    let blob = git(&dir, &["hash-object", "-w", "Procfile"]).expect("a blob");
    let tree = format!("100644 blob {}\tx\n", blob.trim());
    let make = |text: &str| {
        let mut child = git_command(&dir)
            .args(["mktree"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        std::io::Write::write_all(&mut child.stdin.take().expect("piped"), text.as_bytes()).expect("taken");
        String::from_utf8(child.wait_with_output().expect("ends").stdout).expect("text").trim().to_owned()
    };
    let inner = make(&tree);
    for name in [".git", "..", ".GiT"] {
        let evil = make(&format!("040000 tree {inner}\t{name}\n"));
        let commit = git(&dir, &["commit-tree", &evil, "-m", "x"]).expect("a commit");
        let refspec = format!("{}:refs/heads/main", commit.trim());
        let text = alice.push(&dir, &[&refspec]).await.expect_err(name);
        assert!(
            text.contains("fsck error")
                || text.contains("remote unpack failed")
                || text.contains("unpacker error"),
            "{text}"
        );
    }
    assert_eq!(alice.world.seen().builds, 0);
}
