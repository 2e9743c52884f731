//! The admin's commands, typed as Dokku's users type them.

use crate::apps::push_server;
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, until};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("commands_for_apps", apps),
    ("commands_for_config", config),
    ("commands_for_processes", processes),
    ("commands_for_releases", releases),
    ("deploys_of_archives_and_other_repositories", other_sources),
    ("images_can_be_pulled_and_pushed_with_a_token", registry),
    ("commands_for_domains", domains),
    ("commands_for_logs_and_run", logs_and_run),
    ("commands_over_ssh", over_ssh),
    ("commands_refuse_bad_input", bad_input),
    ("the_api_asks_for_a_token", api),
];

/// It gives every app a new release.
pub(crate) const ROUGH: &[(&str, crate::RoughScenario)] =
    &[("commands_for_config_of_all_apps", config_of_all)];

fn apps(berth: &Berth) -> Result<()> {
    berth.ok(&["apps:create", "first-app"])?;
    ensure!(berth.berth(&["apps:exists", "first-app"])?.code == 0, "it exists");
    ensure!(berth.berth(&["apps:exists", "nobody"])?.code == 20, "20 is for apps that do not exist");
    ensure!(
        berth.ok(&["apps:list"])?.stdout.lines().any(|line| line == "first-app"),
        "it is listed, plain when piped"
    );
    ensure!(berth.berth(&["apps:create", "first-app"])?.code == 1, "twice is an error");
    berth.ok(&["apps:rename", "first-app", "second-app"])?;
    ensure!(berth.berth(&["apps:exists", "first-app"])?.code == 20, "the old name is gone");
    let info = berth.ok(&["apps:info", "second-app", "--format", "json"])?.stdout;
    ensure!(info.contains("\"second-app\""), "{info}");
    let wrong = berth.berth_with_input(&["apps:destroy", "second-app"], b"no\n")?;
    ensure!(wrong.code == 1, "the name must be typed: {}", wrong.all());
    berth.ok(&["apps:destroy", "second-app", "--force"])?;
    ensure!(berth.berth(&["apps:exists", "second-app"])?.code == 20, "it is destroyed");
    Ok(())
}

fn config(berth: &Berth) -> Result<()> {
    let app = "config-app";
    push_server(berth, app, "one", &[])?;
    let set = berth.ok(&["config:set", app, "GREETING=bonjour", "OTHER=a b"])?;
    ensure!(set.all().contains("bonjour"), "{}", set.all());
    ensure!(berth.get(app, "/")?.text() == "bonjour one", "config:set restarts");
    ensure!(berth.ok(&["config:get", app, "OTHER"])?.stdout == "a b\n", "the value alone");
    ensure!(berth.berth(&["config:get", app, "ABSENT"])?.code == 1, "an absent value is code 1");
    berth.ok(&["config:set", "--no-restart", app, "GREETING=later"])?;
    ensure!(berth.get(app, "/")?.text() == "bonjour one", "--no-restart only stores");
    let multi = "line one\nline two\n\"quoted\" $dollar";
    berth.ok(&["config:set", app, &format!("MULTI={multi}")])?;
    ensure!(berth.get(app, "/env/MULTI")?.text() == multi, "values are kept byte for byte");
    let json = berth.ok(&["config:export", app, "--format", "json"])?.stdout;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(json["MULTI"] == multi, "{json}");
    berth.ok(&["config:unset", app, "GREETING", "MULTI"])?;
    ensure!(berth.get(app, "/")?.text() == "hello one", "config:unset restarts");
    let imported =
        berth.berth_with_input(&["config:import", app, "-"], b"A=1\nB='two words'\n# comment\n")?;
    ensure!(imported.code == 0, "{}", imported.all());
    ensure!(berth.get(app, "/env/B")?.text() == "two words", "imported");
    ensure!(berth.berth(&["config:set", app, "PORT=1"])?.code != 0, "PORT is Berth's");
    ensure!(berth.berth(&["config:set", app, "1BAD=x"])?.code != 0, "bad names are refused");
    Ok(())
}

fn config_of_all(berth: &mut Berth) -> Result<()> {
    let apps = ["shares", "shares-too"];
    for app in apps {
        push_server(berth, app, "one", &[])?;
    }
    berth.ok(&["config:set", "--global", "SHARED_WORD=everywhere"])?;
    for app in apps {
        ensure!(berth.get(app, "/env/SHARED_WORD")?.text() == "everywhere", "{app} did not get it");
    }
    berth.ok(&["config:unset", "--global", "SHARED_WORD"])?;
    for app in apps {
        ensure!(berth.get(app, "/env/SHARED_WORD")?.text() != "everywhere", "{app} still has it");
        berth.ok(&["--force", "apps:destroy", app])?;
    }
    Ok(())
}

fn processes(berth: &Berth) -> Result<()> {
    let app = "ps-app";
    push_server(berth, app, "one", &[])?;
    berth.ok(&["ps:scale", app, "web=3"])?;
    let mut seen = std::collections::BTreeSet::new();
    until(Duration::from_secs(20), "all three to answer", || {
        seen.insert(berth.get(app, "/who")?.text());
        ensure!(seen.len() == 3, "{seen:?}");
        Ok(())
    })?;
    let shown = berth.ok(&["ps:scale", app])?.stdout;
    ensure!(shown.contains("web: 3"), "{shown}");
    let report = berth.ok(&["ps:report", app])?.stdout;
    ensure!(report.contains("running"), "{report}");
    ensure!(berth.pids(app)?.len() == 3, "three processes");
    let before = berth.pids(app)?;
    berth.ok(&["ps:restart", app])?;
    let after = berth.pids(app)?;
    ensure!(before.iter().all(|pid| !after.contains(pid)), "all are new: {before:?} {after:?}");
    berth.ok(&["ps:stop", app])?;
    ensure!(berth.get(app, "/")?.status == 502, "stopped");
    berth.ok(&["ps:start", app])?;
    ensure!(berth.get(app, "/")?.status == 200, "started");
    berth.ok(&["ps:scale", app, "web=0"])?;
    ensure!(berth.get(app, "/")?.status == 502, "no web process");
    berth.ok(&["ps:scale", app, "web=1"])?;
    ensure!(berth.get(app, "/")?.status == 200, "one again");
    ensure!(berth.berth(&["ps:scale", app, "nosuch=1"])?.code != 0, "an unknown process type is refused");
    ensure!(berth.berth(&["ps:scale", app, "web=-1"])?.code != 0, "a bad number is refused");
    Ok(())
}

fn releases(berth: &Berth) -> Result<()> {
    let app = "release-app";
    let repo = push_server(berth, app, "one", &[])?;
    berth.ok(&["config:set", app, "GREETING=hi"])?;
    repo.change(&[("server.py", &crate::apps::server("two"))])?;
    ensure!(berth.get(app, "/")?.text() == "hi two", "v3");
    let list = berth.ok(&["releases", app])?.stdout;
    for version in ["v1", "v2", "v3"] {
        ensure!(list.contains(version), "{list}");
    }
    let newest = berth.ok(&["releases", app, "-n", "2", "--format", "json"])?.stdout;
    let newest: serde_json::Value = serde_json::from_str(&newest)?;
    ensure!(newest[0]["version"] == 3 && newest[1]["version"] == 2 && newest[2].is_null(), "{newest}");
    ensure!(berth.berth(&["releases", app, "-n", "0"])?.code != 0, "none at all is no list");
    berth.ok(&["rollback", app])?;
    ensure!(berth.get(app, "/")?.text() == "hi one", "back to v2");
    berth.ok(&["rollback", app, "v1"])?;
    ensure!(berth.get(app, "/")?.text() == "hello one", "back to v1, config included");
    ensure!(berth.berth(&["rollback", app, "v99"])?.code == 1, "no such release");
    ensure!(berth.berth(&["rollback", "nobody"])?.code == 20, "no such app");
    Ok(())
}

fn other_sources(berth: &Berth) -> Result<()> {
    let repo = push_server(berth, "origin-app", "one", &[])?;
    let archive = |format: &str| -> Result<Vec<u8>> {
        let output =
            repo.command(&["archive", "--format", format, "--prefix", "some-dir/", "HEAD"]).output()?;
        ensure!(output.status.success(), "git archive failed");
        Ok(output.stdout)
    };
    let app = "archive-app";
    let from = |app: &str, bytes: &[u8]| berth.berth_with_input(&["git:from-archive", app, "-"], bytes);
    let absent = from(app, &archive("zip")?)?;
    ensure!(absent.code == 20, "the app must exist: {} {}", absent.code, absent.all());
    berth.ok(&["apps:create", app])?;
    let made = from(app, &archive("zip")?)?.success()?;
    ensure!(made.all().contains("Application deployed"), "{}", made.all());
    ensure!(berth.get(app, "/")?.text() == "hello one", "a zip");
    let again = from(app, &archive("tar.gz")?)?.success()?;
    ensure!(again.all().contains("nothing to deploy"), "{}", again.all());
    repo.write(&[("server.py", &crate::apps::server("two"))])?;
    repo.commit("two")?;
    from(app, &archive("tar")?)?.success()?;
    ensure!(berth.get(app, "/")?.text() == "hello two", "a tar");
    let refused = from(app, b"no archive at all")?;
    ensure!(refused.code == 1 && refused.all().contains("neither tar"), "{}", refused.all());
    ensure!(berth.get(app, "/")?.text() == "hello two", "the old version stays");
    // What was deployed from archives can be cloned and pushed on.
    let clone = tempfile::TempDir::new()?;
    let path = clone.path().join("clone").display().to_string();
    repo.git(&["clone", "-q", &berth.remote(app), &path])?.success()?;

    let token = berth.ok(&["tokens:create", "sync", "--format", "json"])?.stdout;
    let token: serde_json::Value = serde_json::from_str(&token)?;
    let token = token["token"].as_str().context("no token")?;
    let url = format!("http://x:{token}@{}/origin-app.git", berth.api);
    let synced = "synced-app";
    berth.ok(&["apps:create", synced])?;
    let made = berth.ok(&["git:sync", "--build", synced, &url, "main"])?;
    ensure!(!made.all().contains(token), "the password is not shown: {}", made.all());
    ensure!(berth.get(synced, "/")?.text() == "hello one", "the branch that was pushed");
    let same = berth.ok(&["git:sync", "--build-if-changes", synced, &url])?.all();
    ensure!(same.contains("is deployed already"), "{same}");
    repo.push()?;
    berth.ok(&["git:sync", synced, &url, "main"])?;
    ensure!(berth.get(synced, "/")?.text() == "hello one", "only fetched");
    berth.ok(&["ps:rebuild", synced])?;
    ensure!(berth.get(synced, "/")?.text() == "hello two", "ps:rebuild deploys what is there");
    let missing = berth.berth(&["git:sync", "--build", synced, &url, "no-such-branch"])?;
    ensure!(missing.code == 1 && missing.all().contains("no-such-branch"), "{}", missing.all());
    for bad in ["file:///etc", "ext::sh", "/etc"] {
        ensure!(berth.berth(&["git:sync", synced, bad])?.code != 0, "{bad} was taken");
    }
    Ok(())
}

fn registry(berth: &Berth) -> Result<()> {
    push_server(berth, "image-app", "one", &[])?;
    let token = berth.ok(&["tokens:create", "pull", "--format", "json"])?.stdout;
    let token: serde_json::Value = serde_json::from_str(&token)?;
    let token = token["token"].as_str().context("no token")?;
    let releases = berth.ok(&["releases", "image-app", "--format", "json"])?.stdout;
    let releases: serde_json::Value = serde_json::from_str(&releases)?;
    let image = releases[0]["image"].as_str().context("a release has an image")?;
    let scratch = tempfile::TempDir::new()?;
    let layout = format!("oci:{}:v1", scratch.path().join("image").display());
    let skopeo = |arguments: &[&str]| -> Result<std::process::Output> {
        Ok(std::process::Command::new("skopeo").args(arguments).current_dir(scratch.path()).output()?)
    };
    let remote = |name: &str| format!("docker://{}/{name}", berth.api);
    let (from, to) = (remote(image), remote("apps/image-app:copied"));
    let open = skopeo(&["inspect", "--tls-verify=false", "--no-creds", &from])?;
    ensure!(!open.status.success(), "the registry asks who it is");
    let credentials = format!("me:{token}");
    let pulled = skopeo(&["copy", "--src-tls-verify=false", "--src-creds", &credentials, &from, &layout])?;
    ensure!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    let pushed = skopeo(&["copy", "--dest-tls-verify=false", "--dest-creds", &credentials, &layout, &to])?;
    ensure!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    Ok(())
}

fn domains(berth: &Berth) -> Result<()> {
    let app = "domain-app";
    push_server(berth, app, "one", &[])?;
    berth.ok(&["domains:add", app, "www.example.test", "*.wild.example.test"])?;
    let ask = |host: &str| berth.send(&berth_tests::Request::get(host, "/"));
    until(Duration::from_secs(5), "the domain to be routed", || {
        ensure!(ask("www.example.test")?.text() == "hello one", "no");
        Ok(())
    })?;
    ensure!(ask("any.wild.example.test")?.text() == "hello one", "wildcard");
    ensure!(ask("WWW.Example.Test")?.text() == "hello one", "host names have no case");
    ensure!(ask("deep.any.wild.example.test").is_err(), "one label only");
    ensure!(ask("unknown.example.test").is_err(), "unknown hosts are closed without an answer");
    berth.ok(&["apps:create", "domain-thief"])?;
    ensure!(berth.berth(&["domains:add", "domain-thief", "www.example.test"])?.code == 1, "taken");
    berth.ok(&["domains:remove", app, "www.example.test"])?;
    until(Duration::from_secs(5), "the domain to be gone", || {
        ensure!(ask("www.example.test").is_err(), "still there");
        Ok(())
    })?;
    ensure!(berth.berth(&["domains:add", app, "http://x/"])?.code != 0, "not a host name");
    Ok(())
}

fn logs_and_run(berth: &Berth) -> Result<()> {
    let app = "log-app";
    push_server(berth, app, "one", &[])?;
    berth.get(app, "/find-me-in-the-log")?;
    until(Duration::from_secs(5), "the line in the log", || {
        let logs = berth.ok(&["logs", app, "-n", "20"])?.stdout;
        ensure!(logs.contains("find-me-in-the-log") && logs.contains("app[web.1]: "), "{logs}");
        Ok(())
    })?;
    let run = berth.berth(&["run", app, "sh", "-c", "echo out; echo err >&2; exit 7"])?;
    ensure!((run.code, run.stdout.as_str(), run.stderr.contains("err")) == (7, "out\n", true), "{run:?}");
    let run = berth.berth_with_input(&["run", app, "cat"], b"through and back")?;
    ensure!(run.stdout == "through and back", "{run:?}");
    let env = berth.ok(&["run", app, "sh", "-c", "echo $DYNO $PORT"])?.stdout;
    ensure!(env.starts_with("run."), "{env}");
    let tty = std::process::Command::new("script")
        .args(["-qec", &format!("{} run {app} tty", shell_line(berth)?), "/dev/null"])
        .stdin(std::process::Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&tty.stdout).into_owned();
    ensure!(text.contains("/dev/pts/"), "{text}");
    let enter = berth.berth(&["enter", app, "web.1", "sh", "-c", "echo inside $DYNO"])?;
    ensure!(enter.stdout == "inside web.1\n", "{enter:?}");
    Ok(())
}

fn shell_line(berth: &Berth) -> Result<String> {
    let command = berth.command(&[])?;
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    Ok(std::iter::once(command.get_program().to_string_lossy().into_owned())
        .chain(words)
        .collect::<Vec<_>>()
        .join(" "))
}

fn over_ssh(berth: &Berth) -> Result<()> {
    push_server(berth, "ssh-app", "one", &[])?;
    let list = berth.over_ssh(&["apps:list"])?;
    ensure!(list.code == 0 && list.stdout.contains("ssh-app"), "{list:?}");
    ensure!(berth.over_ssh(&["apps:exists", "nobody"])?.code == 20, "exit codes pass");
    ensure!(berth.over_ssh(&["no-such-command"])?.code == 1, "unknown command");
    let run = berth.over_ssh(&["run", "ssh-app", "echo", "over-ssh"])?;
    ensure!(run.stdout == "over-ssh\n", "{run:?}");
    berth.over_ssh(&["config:set", "ssh-app", "GREETING=ssh"])?.success()?;
    ensure!(berth.get("ssh-app", "/")?.text() == "ssh one", "config:set over ssh");
    let releases = berth.ok(&["releases", "ssh-app"])?.stdout;
    ensure!(releases.contains("tester"), "the release names the key's owner: {releases}");
    for hostile in [&["config:import", "ssh-app", "/etc/passwd"][..], &["up"], &["agent"], &["apps:list;id"]]
    {
        let refused = berth.over_ssh(hostile)?;
        ensure!(refused.code != 0 && !refused.all().contains("root:"), "{hostile:?}: {refused:?}");
    }
    Ok(())
}

fn bad_input(berth: &Berth) -> Result<()> {
    let unknown = berth.berth(&["apps:lst"])?;
    ensure!(unknown.code == 1 && unknown.all().contains("apps:list"), "did you mean: {unknown:?}");
    for (arguments, code) in [
        (&["apps:create", "UPPER"][..], 1),
        (&["apps:create", "../x"], 1),
        (&["apps:create"], 2),
        (&["config:set", "nobody", "A=b"], 20),
        (&["logs", "nobody"], 20),
        (&["apps:list", "--no-such-flag"], 2),
    ] {
        let output = berth.berth(arguments)?;
        ensure!(output.code == code, "{arguments:?}: expected {code}: {output:?}");
        ensure!(!output.stderr.is_empty() && !output.all().contains("panicked"), "{arguments:?}: {output:?}");
    }
    Ok(())
}

fn api(berth: &Berth) -> Result<()> {
    use berth_tests::Request;
    let ask = |path: &str, token: Option<&str>| {
        let headers = token.map(|token| ("authorization".to_owned(), format!("Bearer {token}")));
        let request = Request { headers: headers.into_iter().collect(), ..Request::get("localhost", path) };
        berth.send_api(&request)
    };
    ensure!(ask("/v1/apps", None)?.status == 401, "no token");
    ensure!(ask("/v1/apps", Some("berth_nope"))?.status == 401, "wrong token");
    let created = berth.ok(&["tokens:create", "api-test", "--format", "json"])?.stdout;
    let created: serde_json::Value = serde_json::from_str(&created)?;
    let token = created["token"].as_str().unwrap_or_default().to_owned();
    ensure!(ask("/v1/apps", Some(&token))?.status == 200, "right token");
    ensure!(ask("/openapi.json", None)?.status == 200, "the description is public");
    ensure!(ask("/v1/nope", Some(&token))?.status == 404, "unknown path");
    berth.ok(&["tokens:revoke", "api-test"])?;
    ensure!(ask("/v1/apps", Some(&token))?.status == 401, "revoked");
    Ok(())
}
