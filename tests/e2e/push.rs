//! `git push` in all the ways people push.

use crate::apps::{REQUIREMENTS, WEB, push_server, server};
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Repo, until};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::process::Stdio;
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("push_makes_an_app_live_and_a_change_follows", live),
    ("push_of_other_branches_does_not_deploy", branches),
    ("push_of_tags_and_forced_pushes_deploy", tags_and_force),
    ("push_of_a_shallow_clone_deploys", shallow),
    ("push_of_a_broken_build_is_rejected_and_the_old_version_serves", broken_build),
    ("push_of_nothing_known_is_rejected_with_advice", nothing_known),
    ("push_of_a_malformed_procfile_is_refused_whole", malformed_procfile),
    ("pushes_at_the_same_time_take_turns", concurrent),
    ("push_interrupted_during_the_build_leaves_nothing", interrupted),
    ("push_of_100_megabytes_and_10000_files", large),
    ("push_over_http_with_a_token", over_http),
    ("push_with_a_bad_name_or_key_is_refused", refused),
];

fn live(berth: &Berth) -> Result<()> {
    let repo = push_server(berth, "live", "one", &[])?;
    ensure!(berth.get("live", "/")?.text() == "hello one", "the first version answers at once");
    let pushed = repo.change(&[("server.py", &server("two"))])?.all();
    ensure!(pushed.contains("=====> Application deployed:"), "{pushed}");
    ensure!(pushed.contains("http://live.test.localhost"), "{pushed}");
    ensure!(berth.get("live", "/")?.text() == "hello two", "the push ends when the new version answers");
    let again = repo.git(&["push", "paas", "main"])?.success()?;
    ensure!(again.all().contains("Everything up-to-date"), "{}", again.all());
    Ok(())
}

fn branches(berth: &Berth) -> Result<()> {
    let repo = push_server(berth, "branches", "one", &[])?;
    repo.git(&["checkout", "-q", "-b", "feature"])?.success()?;
    repo.write(&[("server.py", &server("feature"))])?;
    repo.commit("Feature")?;
    let pushed = repo.git(&["push", "paas", "feature"])?.success()?.all();
    ensure!(pushed.contains("WARNING: deploy did not complete, you must push to main."), "{pushed}");
    ensure!(berth.get("branches", "/")?.text() == "hello one", "main still serves");
    repo.git(&["push", "paas", "feature:main"])?.success()?;
    ensure!(berth.get("branches", "/")?.text() == "hello feature", "feature:main deploys");
    let deleted = repo.git(&["push", "paas", ":main"])?;
    ensure!(deleted.code != 0, "the deploy branch cannot be deleted: {}", deleted.all());
    Ok(())
}

fn tags_and_force(berth: &Berth) -> Result<()> {
    let repo = push_server(berth, "tags", "one", &[])?;
    let first = repo.git(&["rev-parse", "HEAD"])?.success()?.stdout.trim().to_owned();
    repo.write(&[("server.py", &server("tagged"))])?;
    repo.commit("Tagged")?;
    repo.git(&["tag", "-a", "v1.0", "-m", "v1.0"])?.success()?;
    repo.git(&["push", "paas", "v1.0^{}:refs/heads/main"])?.success()?;
    ensure!(berth.get("tags", "/")?.text() == "hello tagged", "a tag's commit deploys");
    repo.git(&["push", "-f", "paas", &format!("{first}:refs/heads/main")])?.success()?;
    ensure!(berth.get("tags", "/")?.text() == "hello one", "the folk rollback works");
    // Git itself keeps only commits in branches: an annotated tag is refused before any work, with what to type instead.
    let annotated = repo.git(&["push", "-f", "paas", "v1.0:refs/heads/main"])?;
    ensure!(annotated.code != 0 && annotated.all().contains("^{commit}"), "{}", annotated.all());
    ensure!(berth.get("tags", "/")?.text() == "hello one", "nothing was deployed");
    repo.git(&["tag", "light", "v1.0^{commit}"])?.success()?;
    repo.git(&["push", "-f", "paas", "light:refs/heads/main"])?.success()?;
    ensure!(berth.get("tags", "/")?.text() == "hello tagged", "a plain tag deploys");
    Ok(())
}

fn shallow(berth: &Berth) -> Result<()> {
    let repo = push_server(berth, "shallow", "one", &[])?;
    repo.change(&[("server.py", &server("two"))])?;
    let elsewhere = tempfile::TempDir::new()?;
    let clone = elsewhere.path().join("clone");
    let url = format!("file://{}", repo.path().display());
    repo.git(&["clone", "-q", "--depth", "1", &url, &clone.display().to_string()])?.success()?;
    let path = clone.display().to_string();
    for (remote, text) in [("shallow", "three"), ("shallow-two", "three")] {
        std::fs::write(clone.join("server.py"), server(text))?;
        repo.git(&["-C", &path, "add", "-A"])?.success()?;
        repo.git(&[
            "-C",
            &path,
            "-c",
            "user.name=d",
            "-c",
            "user.email=d@e",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "3",
        ])?
        .success()?;
        repo.git(&["-C", &path, "push", &berth.remote(remote), "HEAD:main"])?.success()?;
        ensure!(berth.get(remote, "/")?.text() == "hello three", "{remote} deploys from a shallow clone");
    }
    Ok(())
}

fn broken_build(berth: &Berth) -> Result<()> {
    let repo = push_server(berth, "broken", "one", &[])?;
    repo.write(&[
        ("requirements.txt", "no-such-package-of-that-name-xyz==9.9.9\n"),
        ("server.py", &server("two")),
    ])?;
    repo.commit("Broken")?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0, "{}", pushed.all());
    ensure!(
        pushed.all().contains("[remote rejected] main -> main (pre-receive hook declined)"),
        "{}",
        pushed.all()
    );
    ensure!(pushed.all().contains("no-such-package-of-that-name-xyz"), "{}", pushed.all());
    ensure!(berth.get("broken", "/")?.text() == "hello one", "the old version serves");
    repo.change(&[("requirements.txt", REQUIREMENTS.1)])?;
    ensure!(berth.get("broken", "/")?.text() == "hello two", "and the repaired one deploys");
    Ok(())
}

fn nothing_known(berth: &Berth) -> Result<()> {
    let repo = Repo::new(berth, "unknown-thing", &[("notes.txt", "nothing to run")])?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0, "{}", pushed.all());
    ensure!(
        pushed.all().contains("requirements.txt"),
        "the advice names what was looked for: {}",
        pushed.all()
    );
    Ok(())
}

fn malformed_procfile(berth: &Berth) -> Result<()> {
    let text = "<<<<<<< HEAD\nweb: python server.py\n=======\nweb: python other.py\n>>>>>>> x\n";
    let repo =
        Repo::new(berth, "merge-marks", &[REQUIREMENTS, ("Procfile", text), ("server.py", &server("one"))])?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0 && pushed.all().contains("Procfile"), "{}", pushed.all());
    Ok(())
}

fn concurrent(berth: &Berth) -> Result<()> {
    let repo = push_server(berth, "turns", "one", &[])?;
    let mut children = Vec::new();
    for version in ["two", "three", "four"] {
        repo.write(&[("server.py", &server(version))])?;
        let commit = repo.commit(version)?;
        let mut command = repo.command(&["push", "-f", "paas", &format!("{commit}:refs/heads/main")]);
        children.push(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    }
    let mut accepted = 0;
    for child in children {
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        accepted += u32::from(output.status.success());
        // One that was overtaken while it waited is told so; nothing else may go wrong.
        let lost_race = ["another push changed main meanwhile", "cannot lock ref", "incorrect old value"];
        let lost_race = lost_race.iter().any(|words| text.contains(words));
        ensure!(output.status.success() || lost_race, "{text}");
    }
    ensure!(accepted > 0, "none of three pushes was accepted");
    let text = berth.get("turns", "/")?.text();
    ensure!(text.starts_with("hello "), "{text}");
    let releases = berth.ok(&["releases", "turns", "--format", "json"])?.stdout;
    ensure!(!releases.contains("\"pending\""), "no release is left half made: {releases}");
    Ok(())
}

fn interrupted(berth: &Berth) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let repo = push_server(berth, "ctrl-c", "one", &[])?;
    // Something that builds for long: a package whose build starts a process that this machine has no other of.
    let sleep = "import subprocess\ndef build_wheel(*a, **k):\n    subprocess.run(['sleep', '600.125'])\n";
    let project = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
    repo.write(&[
        ("requirements.txt", "./slow\n"),
        ("slow/pyproject.toml", project),
        ("slow/backend.py", sleep),
        ("server.py", &server("two")),
    ])?;
    repo.commit("Slow build")?;
    let building = || {
        let processes = std::fs::read_dir("/proc")?.flatten();
        let mut lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        anyhow::Ok(lines.any(|line| line == b"sleep\x00600.125\0"))
    };
    // Who starts tests in the background has them ignore SIGINT, which is inherited: not by this git (env(1)).
    let git = repo.command(&["push", "paas", "main"]);
    let mut push = std::process::Command::new("env");
    push.arg("--default-signal=INT").arg(git.get_program()).args(git.get_args());
    push.envs(git.get_envs().filter_map(|(name, value)| Some((name, value?))));
    push.current_dir(git.get_current_dir().context("git runs in the repository")?);
    let mut child = push.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    until(Duration::from_secs(60), "the build to be under way", || {
        ensure!(building()?, "not yet");
        Ok(())
    })?;
    // What a terminal does at Ctrl-C: the signal goes to git and to its ssh.
    killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
    child.wait()?;
    until(Duration::from_secs(20), "the build to be ended", || {
        ensure!(!building()?, "it goes on");
        Ok(())
    })?;
    ensure!(berth.get("ctrl-c", "/")?.text() == "hello one", "the old version serves");
    until(Duration::from_secs(20), "the quarantine to be gone", || {
        let objects = std::fs::read_dir(berth.data_dir().join("controller/git/ctrl-c.git/objects"))?;
        let names = objects.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let left: Vec<_> = names.filter(|name| name.starts_with("tmp_objdir")).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    repo.change(&[("requirements.txt", REQUIREMENTS.1)])?;
    ensure!(berth.get("ctrl-c", "/")?.text() == "hello two", "the next push deploys");
    Ok(())
}

fn large(berth: &Berth) -> Result<()> {
    let one = server("large");
    let repo = Repo::new(berth, "large", &[REQUIREMENTS, ("Procfile", WEB), ("server.py", &one)])?;
    // Not compressible, and the same in every run: a linear congruential generator (Knuth's MMIX constants).
    let mut state = 1_u64;
    let mut block = vec![0_u8; 10_000];
    for directory in 0..100 {
        std::fs::create_dir_all(repo.path().join(format!("data/{directory}")))?;
        for file in 0..100 {
            for byte in &mut block {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = state.to_be_bytes()[0];
            }
            std::fs::write(repo.path().join(format!("data/{directory}/{file}.bin")), &block)?;
        }
    }
    repo.commit("100 MB in 10,000 files")?;
    let pushed = repo.push()?.all();
    let reply = berth.get("large", "/")?;
    ensure!(reply.text() == "hello large", "{} {}\n{pushed}", reply.status, reply.text());
    let counted = berth.ok(&["run", "large", "bash", "-c", "find /app/data -type f | wc -l"])?.stdout;
    ensure!(counted.trim() == "10000", "{counted}");
    berth.ok(&["apps:destroy", "large", "--force"])?;
    Ok(())
}

fn over_http(berth: &Berth) -> Result<()> {
    let created = berth.ok(&["tokens:create", "ci", "--format", "json"])?.stdout;
    let created: serde_json::Value = serde_json::from_str(&created)?;
    let token = created["token"].as_str().context("no token")?;
    let repo =
        Repo::new(berth, "by-http", &[REQUIREMENTS, ("Procfile", WEB), ("server.py", &server("one"))])?;
    let url = |user: &str| format!("http://{user}@{}/by-http.git", berth.api);
    let refused = repo.git(&["push", &url("x:berth_wrong"), "main"])?;
    ensure!(refused.code != 0, "a wrong token is refused");
    let pushed = repo.git(&["push", &url(&format!("x:{token}")), "main"])?.success()?;
    ensure!(pushed.all().contains("=====> Application deployed:"), "{}", pushed.all());
    ensure!(berth.get("by-http", "/")?.text() == "hello one", "it answers");
    let elsewhere = tempfile::TempDir::new()?;
    let path = elsewhere.path().join("clone").display().to_string();
    repo.git(&["clone", "-q", &url(&format!("x:{token}")), &path])?.success()?;
    Ok(())
}

fn refused(berth: &Berth) -> Result<()> {
    for bad in ["../x", "x;id", "UPPER", "-u", "a_b", ".git"] {
        let repo = Repo::new(berth, bad, &[("index.html", "x")])?;
        let pushed = repo.git(&["push", "paas", "main"])?;
        ensure!(pushed.code != 0, "{bad:?} was accepted: {}", pushed.all());
    }
    let stranger = tempfile::TempDir::new()?;
    let key = stranger.path().join("key").display().to_string();
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", &key])
        .status()?;
    ensure!(made.success(), "ssh-keygen");
    let repo = Repo::new(berth, "stranger", &[("index.html", "x")])?;
    let mut push = repo.command(&["push", "paas", "main"]);
    let ssh = format!(
        "ssh -i {key} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes"
    );
    let pushed = push.env("GIT_SSH_COMMAND", ssh).output()?;
    ensure!(!pushed.status.success(), "an unknown key was accepted");
    ensure!(berth.berth(&["apps:exists", "stranger"])?.code != 0, "and no app was made");
    Ok(())
}
