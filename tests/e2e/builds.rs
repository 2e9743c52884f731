//! What is built, from which part of a repository, with what else, and what is kept of it.

use crate::apps::{REQUIREMENTS, WEB, push_server, server};
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Outside, Repo, until};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("builds_are_kept_with_what_they_said", history),
    ("builds_can_be_followed_and_canceled", cancel),
    ("builder_set_builds_a_part_of_a_repository", monorepo),
    ("app_json_scripts_run_before_and_after_a_deploy", scripts),
    ("submodules_are_fetched", submodules),
    ("large_files_of_git_lfs_come_with_the_push", large_files),
    ("builds_have_limits_that_can_be_set", limits),
];

fn status(berth: &Berth, app: &str) -> Result<String> {
    Ok(berth.ok(&["builds:info", app, "current", "--status"])?.stdout.trim().to_owned())
}

fn history(berth: &Berth) -> Result<()> {
    let repo = push_server(berth, "history", "one", &[])?;
    repo.write(&[("Procfile", "web: python server.py\n<<<<<<< HEAD\n")])?;
    repo.commit("Broken")?;
    ensure!(repo.git(&["push", "paas", "main"])?.code != 0, "a broken Procfile is refused");
    let list = berth.ok(&["builds:list", "history", "--format", "json"])?.stdout;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let [failed, good] = list.as_array().context("a list")?.as_slice() else { anyhow::bail!("{list}") };
    ensure!(good["status"] == "succeeded" && good["release"] == 1 && good["builder"] == "python", "{good}");
    ensure!(good["by"] == "tester" && good["finished_ms"].as_i64() > good["started_ms"].as_i64(), "{good}");
    ensure!(failed["status"] == "failed" && failed["release"].is_null(), "{failed}");
    ensure!(failed["reason"].as_str().is_some_and(|reason| reason.contains("Procfile")), "{failed}");
    let id = good["id"].as_str().context("an id")?;
    let said = berth.ok(&["builds:output", "history", id])?.all();
    ensure!(
        said.contains("-----> Adding the app's files") && said.contains("Application deployed"),
        "{said}"
    );
    let end = &id[id.len() - 8..];
    ensure!(berth.ok(&["builds:output", "history", end])?.all() == said, "the end of an id is enough");
    let said = berth.ok(&["builds:output", "history"])?.all();
    ensure!(said.contains(" !     ") && said.contains("Procfile"), "the newest is shown: {said}");
    let over = berth.berth(&["builds:cancel", "history"])?;
    ensure!(over.code == 1 && over.all().contains("is over: it failed"), "{}", over.all());
    let unknown = berth.berth(&["builds:info", "history", "nonsense"])?;
    ensure!(unknown.code == 1 && unknown.all().contains("has no build"), "{}", unknown.all());
    ensure!(berth.berth(&["builds:output", "history", "../x"])?.code != 0, "a path is no build");
    let table = berth.over_ssh(&["builds", "history"])?.success()?.stdout;
    ensure!(table.lines().count() == 2 && table.contains("succeeded"), "{table}");
    berth.ok(&["apps:destroy", "history", "--force"])?;
    berth.ok(&["cleanup"])?;
    let log = berth.data_dir().join(format!("controller/builds/{id}.log"));
    ensure!(!log.exists(), "the logs of a destroyed app are swept");
    Ok(())
}

fn cancel(berth: &Berth) -> Result<()> {
    let repo = push_server(berth, "cancel", "one", &[])?;
    let waits = "import time\ndef build_wheel(*a, **k):\n    time.sleep(600)\n";
    let project = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
    repo.write(&[
        ("requirements.txt", "./slow\n"),
        ("slow/pyproject.toml", project),
        ("slow/backend.py", waits),
    ])?;
    repo.commit("Slow build")?;
    let mut push = repo.command(&["push", "paas", "main"]);
    let push = push.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    until(Duration::from_secs(60), "the build to be under way", || {
        let said = berth.ok(&["builds:output", "cancel"])?.all();
        ensure!(status(berth, "cancel")? == "building" && said.contains("Installing dependencies"), "{said}");
        Ok(())
    })?;
    let mut follow = berth.command(&["builds:output", "cancel", "current", "-t"])?;
    let follow = follow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let canceled = berth.ok(&["builds:cancel", "cancel"])?.all();
    ensure!(canceled.contains("Canceling build"), "{canceled}");
    let push = push.wait_with_output()?;
    let said = String::from_utf8_lossy(&push.stderr).into_owned();
    ensure!(!push.status.success() && said.contains("local canceled it"), "{said}");
    let followed = follow.wait_with_output()?;
    let said = String::from_utf8_lossy(&followed.stdout).into_owned();
    ensure!(followed.status.success() && said.contains("Installing dependencies"), "{said}");
    ensure!(status(berth, "cancel")? == "canceled", "{}", status(berth, "cancel")?);
    ensure!(berth.get("cancel", "/")?.text() == "hello one", "the old version serves");
    repo.change(&[("requirements.txt", REQUIREMENTS.1), ("server.py", &server("two"))])?;
    ensure!(berth.get("cancel", "/")?.text() == "hello two", "the next push deploys");
    Ok(())
}

fn monorepo(berth: &Berth) -> Result<()> {
    let one = server("of the monorepo");
    let repo = Repo::new(
        berth,
        "monorepo",
        &[
            ("package.json", "{}"),
            ("docs/index.html", "<h1>docs</h1>"),
            ("apps/web/requirements.txt", REQUIREMENTS.1),
            ("apps/web/deploy/Procfile", WEB),
            ("apps/web/server.py", &one),
        ],
    )?;
    berth.ok(&["apps:create", "monorepo"])?;
    berth.ok(&["builder:set", "monorepo", "build-dir", "apps/web"])?;
    berth.ok(&["ps:set", "monorepo", "procfile-path", "deploy/Procfile"])?;
    repo.push()?;
    ensure!(berth.get("monorepo", "/")?.text() == "hello of the monorepo", "the directory is the app");
    let files = berth.ok(&["run", "monorepo", "ls", "/app"])?.stdout;
    ensure!(files.contains("server.py") && !files.contains("docs"), "{files}");
    let report = berth.ok(&["builder:report", "monorepo", "--builder-build-dir"])?.stdout;
    ensure!(report.trim() == "apps/web", "{report}");
    berth.ok(&["ps:set", "monorepo", "procfile-path"])?;
    berth.ok(&["builder:set", "monorepo", "build-dir", "docs"])?;
    berth.ok(&["builder:set", "monorepo", "selected", "static"])?;
    berth.ok(&["ps:rebuild", "monorepo"])?;
    ensure!(berth.get("monorepo", "/")?.text().contains("docs"), "another directory is another app");
    berth.ok(&["builder:set", "monorepo", "build-dir", "gone"])?;
    let missing = berth.berth(&["ps:rebuild", "monorepo"])?;
    ensure!(missing.code == 1 && missing.all().contains("no directory \"gone\""), "{}", missing.all());
    for bad in
        [&["build-dir", "../x"][..], &["build-dir", "/etc"], &["selected", "nonsense"], &["colour", "x"]]
    {
        let refused = berth.berth(&[&["builder:set", "monorepo"], bad].concat())?;
        ensure!(refused.code != 0 && refused.stderr.contains(" !     "), "{bad:?}: {}", refused.all());
    }
    Ok(())
}

fn scripts(berth: &Berth) -> Result<()> {
    let json = |fails: &str| {
        format!(
            r#"{{"scripts": {{"dokku": {{"predeploy": "echo made for $NAME > made.txt; rm doomed.txt",
                "postdeploy": "echo after $NAME; {fails}"}}, "postdeploy": "echo the first time"}}}}"#
        )
    };
    berth.ok(&["apps:create", "scripts"])?;
    berth.ok(&["config:set", "--no-restart", "scripts", "NAME=berth"])?;
    let one = server("one");
    let repo = Repo::new(
        berth,
        "scripts",
        &[
            REQUIREMENTS,
            ("Procfile", WEB),
            ("server.py", &one),
            ("doomed.txt", "x"),
            ("app.json", &json("true")),
        ],
    )?;
    let pushed = repo.push()?.all();
    for said in ["Running the predeploy script", "after berth", "the first time"] {
        ensure!(pushed.contains(said), "{said} is missing: {pushed}");
    }
    let made = berth.ok(&["run", "scripts", "sh", "-c", "cat made.txt; ls doomed.txt || echo gone"])?.stdout;
    ensure!(made.contains("made for berth") && made.contains("gone"), "{made}");
    let pushed = repo.change(&[("app.json", &json("exit 3"))])?.all();
    ensure!(!pushed.contains("the first time"), "{pushed}");
    ensure!(pushed.contains("the postdeploy script exited with code 3; v2 serves nevertheless"), "{pushed}");
    repo.write(&[("app.json", r#"{"scripts": {"dokku": {"predeploy": "echo no such luck; exit 7"}}}"#)])?;
    repo.commit("A failing predeploy")?;
    let refused = repo.git(&["push", "paas", "main"])?;
    ensure!(refused.code != 0 && refused.all().contains("no such luck"), "{}", refused.all());
    ensure!(refused.all().contains("exit code 7"), "{}", refused.all());
    ensure!(berth.get("scripts", "/")?.text() == "hello one", "the old version serves");
    Ok(())
}

fn large_files(berth: &Berth) -> Result<()> {
    let one = server("one");
    let files = [REQUIREMENTS, ("Procfile", WEB), ("server.py", one.as_str())];
    let repo = Repo::new(berth, "large-files", &files)?;
    repo.git(&["lfs", "install", "--local"])?.success()?;
    repo.git(&["lfs", "track", "*.bin"])?.success()?;
    let content = "x".repeat(300_000);
    repo.write(&[("data/a.bin", &content), ("data/b.bin", "short")])?;
    // `git lfs push` comes first, by git's own pre-push hook: over the same SSH, without any HTTP.
    let pushed = repo.change(&[("note.txt", "1")])?.all();
    ensure!(!pushed.contains("Git LFS"), "{pushed}");
    let count = ["run", "large-files", "sh", "-c", "wc -c < data/a.bin; cat data/b.bin"];
    let found = berth.ok(&count)?.stdout;
    ensure!(found == "300000\nshort", "{found:?}");
    let inside = berth.data_dir().join("controller/git/large-files.git/lfs/objects");
    ensure!(inside.is_dir(), "they are kept with the repository");
    // A clone gets them back.
    let elsewhere = tempfile::TempDir::new()?;
    let clone = elsewhere.path().join("clone");
    let at = clone.display().to_string();
    repo.git(&[
        "clone",
        "-q",
        "-c",
        "filter.lfs.smudge=git-lfs smudge -- %f",
        "-c",
        "filter.lfs.required=true",
        &berth.remote("large-files"),
        &at,
    ])?
    .success()?;
    ensure!(std::fs::read_to_string(clone.join("data/a.bin"))? == content, "the clone has the contents");
    // The same over HTTP with a token.
    let created = berth.ok(&["tokens:create", "lfs", "--format", "json"])?.stdout;
    let created: serde_json::Value = serde_json::from_str(&created)?;
    let url =
        format!("http://x:{}@{}/large-http.git", created["token"].as_str().context("no token")?, berth.api);
    repo.git(&["push", &url, "main"])?.success()?;
    let found = berth.ok(&["run", "large-http", "sh", "-c", "cat data/b.bin"])?.stdout;
    ensure!(found == "short", "{found:?}");
    repo.git(&["clone", "-q", "-c", "filter.lfs.smudge=git-lfs smudge -- %f", &url, &format!("{at}-http")])?
        .success()?;
    ensure!(
        std::fs::read_to_string(elsewhere.path().join("clone-http/data/b.bin"))? == "short",
        "over HTTP too"
    );
    // Without them the push says so, and a later one has them.
    repo.write(&[("data/b.bin", "other")])?;
    repo.commit("Another large file")?;
    let pushed = repo.git(&["push", "--no-verify", "paas", "main"])?.success()?.all();
    ensure!(pushed.contains("data/b.bin stored by Git LFS: only pointers came"), "{pushed}");
    repo.git(&["lfs", "push", "--all", "paas"])?.success()?;
    berth.ok(&["ps:rebuild", "large-files"])?;
    let found = berth.ok(&count)?.stdout;
    ensure!(found == "300000\nother", "{found:?}");
    Ok(())
}

fn limits(berth: &Berth) -> Result<()> {
    let repo = push_server(berth, "limits", "one", &[])?;
    berth.ok(&["resource:limit", "--memory", "64", "--process-type", "build", "limits"])?;
    // Other scenarios set global config vars meanwhile, which is a release of every app.
    let releases = || {
        let all = berth.ok(&["releases", "limits", "--format", "json"])?.stdout;
        let all: Vec<serde_json::Value> = serde_json::from_str(&all)?;
        let name =
            |release: serde_json::Value| release["description"].as_str().unwrap_or_default().to_owned();
        anyhow::Ok(all.into_iter().map(name).filter(|name| !name.ends_with("(global)")).collect::<Vec<_>>())
    };
    let before = releases()?;
    let json = |line: &str| format!(r#"{{"scripts": {{"dokku": {{"predeploy": "{line}"}}}}}}"#);
    repo.write(&[("app.json", &json("perl -e 'my @a = (1) x 50_000_000'"))])?;
    repo.commit("Too much memory")?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0 && pushed.all().contains("more memory than 64 MiB"), "{}", pushed.all());
    ensure!(pushed.all().contains("--process-type build --memory"), "it says what to do: {}", pushed.all());
    berth.ok(&["builder:set", "limits", "timeout", "10"])?;
    repo.write(&[("app.json", &json("exec sleep 600"))])?;
    repo.commit("Too long")?;
    let pushed = repo.git(&["push", "paas", "main"])?;
    ensure!(pushed.code != 0 && pushed.all().contains("did not end within 10 seconds"), "{}", pushed.all());
    ensure!(berth.berth(&["builder:set", "limits", "timeout", "soon"])?.code != 0, "no number is refused");
    let after = releases()?;
    ensure!(before == after, "limits of builds start no container anew: {before:?} {after:?}");
    ensure!(berth.get("limits", "/")?.text() == "hello one", "the old version serves");
    Ok(())
}

fn git(directory: &std::path::Path, arguments: &[&str]) -> Result<()> {
    let mut git = Command::new("git");
    git.args(["-c", "protocol.git.allow=always", "-c", "user.name=d", "-c", "user.email=d@e", "-C"]);
    let done = git.arg(directory).args(arguments).output()?;
    ensure!(done.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn submodules(berth: &Berth) -> Result<()> {
    let elsewhere = tempfile::TempDir::new()?;
    for (name, file) in [("inner", "deep.txt"), ("library", "text.txt")] {
        let at = elsewhere.path().join(name);
        std::fs::create_dir(&at)?;
        git(&at, &["init", "-q", "-b", "main"])?;
        std::fs::write(at.join(file), format!("from {name}"))?;
        git(&at, &["add", "-A"])?;
        git(&at, &["commit", "-q", "-m", "First"])?;
    }
    let outside = Outside::serving(elsewhere.path())?;
    let library = elsewhere.path().join("library");
    git(&library, &["submodule", "--quiet", "add", &outside.url("inner"), "inner"])?;
    git(&library, &["commit", "-q", "-m", "Second"])?;
    // A later commit than the one that the app names.
    let app = push_server(berth, "submodules", "one", &[])?;
    git(&app.path(), &["submodule", "--quiet", "add", &outside.url("library"), "vendor/library"])?;
    std::fs::write(library.join("text.txt"), "changed")?;
    git(&library, &["commit", "-q", "-am", "Third"])?;
    let pushed = app.change(&[("server.py", &server("two"))])?.all();
    ensure!(pushed.contains("Fetching a submodule"), "{pushed}");
    let found = "cat vendor/library/text.txt vendor/library/inner/deep.txt; find . -name .git";
    let found = berth.ok(&["run", "submodules", "sh", "-c", found])?.stdout;
    ensure!(found == "from libraryfrom inner", "{found:?}");
    let again = app.change(&[("server.py", &server("three"))])?.all();
    ensure!(again.contains("Using cached submodules"), "{again}");
    crate::dockerfile::debian(berth)?;
    berth.ok(&["apps:create", "submodules-two"])?;
    app.write(&[
        ("Dockerfile", "FROM debian:bookworm\nCOPY vendor /vendor\nCMD [\"sleep\", \"1000\"]\n"),
        ("Procfile", ""),
    ])?;
    app.commit("A Dockerfile")?;
    app.git(&["push", &berth.remote("submodules-two"), "main"])?.success()?;
    let found = berth.ok(&["run", "submodules-two", "cat", "/vendor/library/text.txt"])?.stdout;
    ensure!(found == "from library", "{found:?}");
    app.git(&["revert", "--no-edit", "HEAD"])?.success()?;
    // An address that leads nowhere, and two that must not be used.
    for (address, reason) in [
        (outside.url("nothing"), "cannot be fetched"),
        ("file:///etc".to_owned(), "not one of the network"),
        ("../library".to_owned(), "not one of the network"),
    ] {
        let text = format!("[submodule \"l\"]\n\tpath = vendor/library\n\turl = {address}\n");
        app.write(&[(".gitmodules", &text), ("note.txt", &address)])?;
        app.commit("Another address")?;
        let pushed = app.git(&["push", "paas", "main"])?.all();
        ensure!(pushed.contains(reason), "{address}: {pushed}");
    }
    Ok(())
}
