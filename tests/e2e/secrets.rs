//! Secrets: used, never shown, never on a disk in the clear; and a new key for all of them.

use crate::apps::{push_server, server};
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Role};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("secret_files_reach_every_kind_of_container", files),
    ("secret_variables_are_used_and_never_shown", variables),
];

pub(crate) const ROUGH: &[(&str, crate::RoughScenario)] = &[
    ("no_secret_is_on_the_disk_in_the_clear", on_disk),
    ("a_new_key_survives_kills_at_any_moment", rotation),
];

const VALUE: &str = "correct-horse-battery-staple-4711";

/// Where, in which state, and what: as the app's own user sees it.
const LOOK: &str = "stat -c '%a %U' /run/secrets/TLS_KEY; id -un; stat -f -c %T /run/secrets; cat /run/secrets/TLS_KEY; \
                    touch /run/secrets/x 2>/dev/null || echo sealed";

fn files(berth: &Berth) -> Result<()> {
    let app = "secret-files";
    let release = "web: python server.py\nrelease: cat /run/secrets/TLS_KEY\n";
    push_server(berth, app, "one", &[("Procfile", "web: python server.py\n")])?;
    let key = berth.data_dir().join("key.pem");
    std::fs::write(&key, format!("{VALUE}\n"))?;
    let set = berth.ok(&["config:set", app, "--file", &format!("TLS_KEY={}", key.display())])?;
    ensure!(!set.all().contains(VALUE), "{}", set.all());
    std::fs::remove_file(&key)?;
    let check = |what: &str, said: &str| {
        let lines: Vec<_> = said.lines().map(str::trim_end).collect();
        ensure!(lines.len() == 5, "{what}: {said}");
        let user = lines[1];
        ensure!(lines[0] == format!("400 {user}") && lines[2] == "tmpfs", "{what}: {said}");
        ensure!(lines[3] == VALUE && lines[4] == "sealed", "{what}: {said}");
        Ok(())
    };
    check("run", &berth.ok(&["run", app, "sh", "-c", LOOK])?.stdout)?;
    check("enter", &berth.ok(&["enter", app, "web.1", "sh", "-c", LOOK])?.stdout)?;
    let repo = berth_tests::Repo::new(
        berth,
        "secret-release",
        &[crate::apps::REQUIREMENTS, ("Procfile", release), ("server.py", &server("one"))],
    )?;
    berth.ok(&["apps:create", "secret-release"])?;
    let mut over_stdin = berth.berth_with_input(
        &["config:set", "secret-release", "--file", "TLS_KEY=-"],
        format!("{VALUE}\n").as_bytes(),
    )?;
    over_stdin = over_stdin.success()?;
    ensure!(!over_stdin.all().contains(VALUE), "{}", over_stdin.all());
    let pushed = repo.push()?;
    ensure!(pushed.all().contains(VALUE), "the release phase read it: {}", pushed.all());
    // A new life of the same container has it, too.
    berth.ok(&["ps:restart", app])?;
    check("enter after a restart", &berth.ok(&["enter", app, "web.1", "sh", "-c", LOOK])?.stdout)?;
    berth.ok(&["config:unset", app, "TLS_KEY"])?;
    let gone = berth.ok(&["run", app, "sh", "-c", "ls /run/secrets 2>&1 || true"])?.stdout;
    ensure!(!gone.contains("TLS_KEY"), "{gone}");
    Ok(())
}

fn variables(berth: &Berth) -> Result<()> {
    let app = "secret-variables";
    push_server(berth, app, "one", &[])?;
    berth.berth_with_input(&["config:set", app, "--secret", "API_TOKEN"], VALUE.as_bytes())?.success()?;
    ensure!(berth.get(app, "/env/API_TOKEN")?.text() == VALUE, "it is used");
    berth.ok(&["config:set", app, "GREETING=hi", "API_TOKEN=another-one"])?;
    ensure!(berth.get(app, "/env/API_TOKEN")?.text() == "another-one", "it is changed");
    for line in [
        &["config:show", app][..],
        &["config:show", app, "--format", "json"],
        &["config:show", app, "--merged"],
        &["config:export", app, "--format", "envfile"],
        &["config:export", app, "--format", "json"],
        &["config:bundle", app],
        &["config:history", app],
        &["config:diff", app, "v1", "--reveal"],
        &["config:diff", app, "v2", "v3", "--reveal"],
        &["releases:info", app, "--format", "json"],
        &["apps:info", app, "--format", "json"],
        &["ps:report", app, "--format", "json"],
    ] {
        let shown = berth.ok(line)?.all();
        ensure!(!shown.contains(VALUE) && !shown.contains("another-one"), "{line:?}: {shown}");
    }
    let get = berth.berth(&["config:get", app, "API_TOKEN"])?;
    ensure!(get.code == 1 && get.stderr.contains("never shown") && get.stdout.is_empty(), "{}", get.all());
    let masked = berth.ok(&["config:show", app, "--masked"])?.stdout;
    ensure!(masked.contains("GREETING:") && !masked.contains("hi"), "{masked}");
    let history = berth.over_ssh(&["config:history", app])?.success()?.stdout;
    ensure!(history.contains("changed API_TOKEN (secret)"), "{history}");
    // What a rollback brings back stays secret.
    berth.ok(&["rollback", app, "v2"])?;
    ensure!(berth.get(app, "/env/API_TOKEN")?.text() == VALUE, "rolled back, config included");
    let diff = berth.ok(&["config:diff", app, "--reveal"])?.stdout;
    ensure!(diff.contains("nothing differs"), "what is stored is what came back: {diff}");
    berth.ok(&["config:set", app, "--no-restart", "GREETING=hi", "API_TOKEN=a-third"])?;
    let diff = berth.ok(&["config:diff", app, "--reveal"])?.stdout;
    ensure!(diff.contains("+ API_TOKEN=******** (secret)") && !diff.contains("a-third"), "{diff}");
    ensure!(diff.contains("+ GREETING=hi"), "{diff}");
    Ok(())
}

/// Files of the whole data directory that have `needle` in them. There are gigabytes to read: grep(1) does it well.
fn files_with(berth: &Berth, needle: &str) -> Result<Vec<String>> {
    let mut grep = std::process::Command::new("grep");
    let output = grep.args(["-rlaF", "--devices=skip", needle]).arg(berth.data_dir()).output()?;
    // Files come and go while it reads: what it says of those is of no interest.
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

fn on_disk(berth: &mut Berth) -> Result<()> {
    let app = "leaky";
    let repo = push_server(berth, app, "one", &[])?;
    berth.ok(&["config:set", app, &format!("PLAIN={VALUE}"), &format!("MULTI=a\n{VALUE}\nb")])?;
    berth.berth_with_input(&["config:set", app, "--secret", "TOKEN"], VALUE.as_bytes())?.success()?;
    berth.berth_with_input(&["config:set", app, "--file", "KEY=-"], VALUE.as_bytes())?.success()?;
    berth.ok(&["config:set", "--global", &format!("LEAKY_GLOBAL={VALUE}")])?;
    // A build with the value in its environment, containers that begin, crash, are entered and run beside.
    repo.change(&[("server.py", &server("two"))])?;
    berth.ok(&["run", "-e", &format!("ONCE={VALUE}"), app, "true"])?;
    berth.ok(&["enter", app, "web.1", "true"])?;
    for pid in berth.pids(app)? {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    }
    let looked = |berth: &Berth, when: &str| {
        let found = files_with(berth, VALUE)?;
        ensure!(found.is_empty(), "{when}: {found:?}");
        Ok(())
    };
    looked(berth, "while it runs")?;
    for role in [Role::Agent, Role::Controller] {
        berth.kill(role)?;
        berth.until_ready()?;
        berth.until_says(app, "hello two")?;
        looked(berth, &format!("after kill -9 of {role:?}"))?;
    }
    // The agent that came back knows what it needs to.
    let said = berth.ok(&["enter", app, "web.1", "sh", "-c", "echo $PLAIN; cat /run/secrets/KEY"])?.stdout;
    ensure!(said == format!("{VALUE}\n{VALUE}"), "{said}");
    berth.down()?;
    looked(berth, "while Berth is down")?;
    berth.up()?;
    berth.ok(&["config:unset", "--global", "LEAKY_GLOBAL"])?;
    berth.ok(&["apps:destroy", app, "--force"])?;
    looked(berth, "after the app is gone")
}

fn rotation(berth: &mut Berth) -> Result<()> {
    let app = "rotated";
    let repo = push_server(berth, app, "one", &[])?;
    for number in 0..12 {
        let values = [format!("NUMBER={number}"), format!("V{number}={VALUE}")];
        berth.ok(&["config:set", app, "--no-restart", &values[0], &values[1]])?;
    }
    berth.ok(&["ps:restart", app])?;
    let key = berth.data_dir().join("controller/config.key");
    let first = std::fs::read(&key)?;
    // From nothing done to nearly all done, by the clock of a machine that is never the same.
    for wait in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
        let mut rotating = berth.command(&["secrets:rotate-key"])?;
        rotating.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let mut child = rotating.stderr(std::process::Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(wait)); // the moment of the kill is what varies here
        berth.kill(Role::Controller)?;
        child.wait()?;
        berth.until_ready()?;
        let number = berth.ok(&["config:get", app, "NUMBER"])?.stdout;
        ensure!(number == "11\n", "after {wait} ms: {number}");
        let report = berth.ok(&["releases:info", app])?.stdout;
        ensure!(report.contains("V11"), "{report}");
    }
    berth.ok(&["secrets:rotate-key"])?;
    let last = std::fs::read(&key)?;
    ensure!(last.len() == 32 && last != first, "there is one key, and another");
    ensure!(berth.ok(&["secrets:report", "--rotating"])?.stdout == "false\n", "and it says so");
    for file in ["config.key", "config.new"] {
        let bytes = std::fs::read(berth.data_dir().join("controller").join(file)).unwrap_or_default();
        ensure!(!bytes.windows(first.len()).any(|window| window == first), "the first key is in {file}");
    }
    berth.kill(Role::Controller)?;
    berth.until_ready()?;
    ensure!(berth.get(app, "/env/V7")?.text() == VALUE, "the app has its config");
    repo.change(&[("server.py", &server("two"))]).context("deploys go on")?;
    berth.ok(&["rollback", app, "v1"]).context("and so do rollbacks")?;
    Ok(())
}
