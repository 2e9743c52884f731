//! Commands that run once, and commands run by the clock.

use crate::apps::{WEB, push_server, server};
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Role, until};
use serde_json::Value;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("runs_take_signals_terminals_and_pipes", attached),
    ("runs_detached_belong_to_nobody", detached),
    ("runs_enter_finds_a_shell_or_says_there_is_none", enter),
    ("runs_of_deploys_are_seen_and_can_be_ended", tasks),
    ("cron_runs_by_hand_and_by_the_clock", cron),
    ("cron_belongs_to_the_release", cron_of_releases),
];

pub(crate) const ROUGH: &[(&str, crate::RoughScenario)] = &[("runs_survive_kills_and_begin_once", survive)];

fn json(berth: &Berth, arguments: &[&str]) -> Result<Value> {
    let mut line = arguments.to_vec();
    line.extend(["--format", "json"]);
    Ok(serde_json::from_str(&berth.ok(&line)?.stdout)?)
}

/// Starts a command and waits until its output begins with `first`.
fn spawn(berth: &Berth, arguments: &[&str], first: &str) -> Result<Child> {
    let mut command = berth.command(arguments)?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut seen = vec![0; first.len()];
    child.stdout.as_mut().context("it has an output")?.read_exact(&mut seen)?;
    ensure!(seen == first.as_bytes(), "{}", String::from_utf8_lossy(&seen));
    Ok(child)
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    Ok(nix::sys::signal::kill(pid, signal)?)
}

fn end(mut child: Child) -> Result<(i32, String)> {
    drop(child.stdin.take());
    let output = child.wait_with_output()?;
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn no_runs(berth: &Berth, app: &str) -> Result<()> {
    until(Duration::from_secs(20), "no one-off to be left", || {
        let left = json(berth, &["run:list", app])?;
        ensure!(left.as_array().is_some_and(Vec::is_empty), "{left}");
        Ok(())
    })
}

fn attached(berth: &Berth) -> Result<()> {
    use nix::sys::signal::Signal;
    let app = "attached-app";
    push_server(berth, app, "one", &[("Procfile", "web: python server.py\nsay: echo said\n")])?;
    let run = berth.berth(&["run", "-e", "A=x y", "-e", "B=2", app, "sh", "-c", "echo $A-$B; exit 7"])?;
    ensure!((run.code, run.stdout.as_str()) == (7, "x y-2\n"), "{run:?}");
    ensure!(berth.ok(&["run", app, "say", "more words"])?.stdout == "said more words\n", "a process type");
    let killed = berth.berth(&["run", app, "sh", "-c", "kill -9 $$"])?;
    ensure!(killed.code == 137, "128 + 9: {killed:?}");
    let absent = berth.berth(&["run", app, "no-such-program"])?;
    ensure!(absent.code != 0 && absent.stderr.contains("no-such-program"), "{absent:?}");

    // Signals go to the program; what it does then is its own.
    for (number, name) in [(Signal::SIGINT, "INT"), (Signal::SIGTERM, "TERM"), (Signal::SIGUSR1, "USR1")] {
        let script = format!("trap 'echo got; exit 3' {name}; echo up; while :; do sleep 0.1; done");
        let child = spawn(berth, &["run", app, "sh", "-c", &script], "up\n")?;
        signal(&child, number)?;
        ensure!(end(child)? == (3, "got\n".to_owned()), "{name}");
    }
    // A program that does not want to end is left by the second Ctrl-C, and ended.
    let stubborn = "trap '' INT; echo up; while :; do sleep 0.1; done";
    let child = spawn(berth, &["run", app, "sh", "-c", stubborn], "up\n")?;
    let listed = json(berth, &["run:list", app])?;
    ensure!(listed[0]["kind"] == "run" && listed[0]["detached"] == false, "{listed}");
    ensure!(listed[0]["status"] == "running", "{listed}");
    signal(&child, Signal::SIGINT)?;
    std::thread::sleep(Duration::from_millis(300)); // two of one kind at once would count as one
    signal(&child, Signal::SIGINT)?;
    ensure!(end(child)?.0 == 130, "128 + 2");
    no_runs(berth, app)?;
    // Somebody else ends it: its caller is told why.
    let child = spawn(berth, &["run", app, "sh", "-c", "echo up; sleep 1000"], "up\n")?;
    let name = json(berth, &["run:list", app])?[0]["name"].as_str().context("a name")?.to_owned();
    berth.ok(&["run:stop", app, &name])?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("stopped by local"), "{said}");
    let late = berth.berth(&["run", "--ttl-seconds", "1", app, "sleep", "1000"])?;
    ensure!(late.code == 1 && late.stderr.contains("time to live of 1 s"), "{late:?}");

    // A pipe of some size goes through and comes to its end; a terminal can be had without one here.
    let much = vec![b'x'; 3 << 20];
    let counted = berth.berth_with_input(&["run", app, "wc", "-c"], &much)?;
    ensure!(counted.stdout.trim() == much.len().to_string(), "{counted:?}");
    let forced = berth.berth_with_input(&["run", "--force-tty", app, "sh", "-c", "tty; cat"], b"typed\n")?;
    ensure!(forced.code == 0 && forced.stdout.contains("/dev/pts/"), "{forced:?}");
    ensure!(forced.stdout.contains("typed"), "{forced:?}");
    resized(berth, app)?;

    for (arguments, code) in [
        (&["run", app][..], 2),
        (&["run", "-e", "novalue", app, "true"], 2),
        (&["run", "--ttl-seconds", "0", app, "true"], 2),
        (&["run", "--type", "nosuch", app, "true"], 1),
        (&["run", "nobody", "true"], 20),
        (&["run:stop", app, "run.99999"], 1),
        (&["run:stop", app], 2),
        (&["run:stop", app, "a/../b"], 2),
        (&["run:logs", app, "run.99999"], 1),
        (&["run:detached", app], 2),
        (&["run:list", "nobody"], 20),
    ] {
        let output = berth.berth(arguments)?;
        ensure!(output.code == code && !output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
    no_runs(berth, app)
}

/// A terminal's new size reaches the program.
fn resized(berth: &Berth, app: &str) -> Result<()> {
    let script = "import fcntl,os,pty,struct,sys,termios,time,select,signal\n\
        pid,fd=pty.fork()\n\
        if pid==0: os.execvp(sys.argv[1],sys.argv[1:])\n\
        fcntl.ioctl(fd,termios.TIOCSWINSZ,struct.pack('HHHH',30,90,0,0))\n\
        seen=b''\n\
        sent=False\n\
        while True:\n\
        \x20   try: data=os.read(fd,4096)\n\
        \x20   except OSError: break\n\
        \x20   if not data: break\n\
        \x20   seen+=data\n\
        \x20   if b'READY' in seen and not sent:\n\
        \x20       sent=True\n\
        \x20       fcntl.ioctl(fd,termios.TIOCSWINSZ,struct.pack('HHHH',41,123,0,0))\n\
        sys.stdout.write(seen.decode())\n\
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid,0)[1]))\n";
    let program = "trap 'stty size; exit 5' WINCH; echo READY; while :; do sleep 0.1; done";
    let command = berth.command(&["run", app, "bash", "-c", program])?;
    let output = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(berth.data_dir())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(5) && text.contains("41 123"), "{output:?}");
    Ok(())
}

fn detached(berth: &Berth) -> Result<()> {
    let app = "detached-app";
    push_server(berth, app, "one", &[])?;
    let begin = |arguments: &[&str]| -> Result<String> {
        let mut line = vec!["run:detached"];
        line.extend_from_slice(arguments);
        let output = berth.ok(&line)?;
        let name = output.stdout.trim_end().to_owned();
        ensure!(output.stdout == format!("{name}\n") && output.stderr.is_empty(), "only a name: {output:?}");
        ensure!(name.starts_with(&format!("{app}.run.")), "{name}");
        Ok(name)
    };
    let of = |name: &str| -> Result<Value> {
        let all = json(berth, &["run:list", app, "--all"])?;
        let found = all.as_array().and_then(|all| all.iter().find(|run| run["name"] == name).cloned());
        found.with_context(|| format!("{name} is not among {all}"))
    };
    let ended = |name: &str| {
        until(Duration::from_secs(30), "the end of a run", || {
            let run = of(name)?;
            ensure!(!run["ended_ms"].is_null(), "{run}");
            Ok(run)
        })
    };
    let name = begin(&["-e", "WORD=hi", app, "sh", "-c", "echo $WORD $DYNO; sleep 1; echo bye >&2; exit 4"])?;
    let short = name.strip_prefix(&format!("{app}.")).context("short")?.to_owned();
    let followed = berth.ok(&["--quiet", "run:logs", app, &short, "-t"])?.stdout;
    ensure!(followed.starts_with(&format!("hi {short}\nbye\n")), "{followed}");
    ensure!(followed.contains("exited with code 4"), "Berth says how it ended: {followed}");
    let run = ended(&name)?;
    ensure!(run["status"] == "failed" && run["exit_code"] == 4 && run["by"] == "local", "{run}");
    let kept = berth.ok(&["run:logs", app, &name])?.stdout;
    ensure!(kept.contains(&format!("app[{short}]: bye")), "its output is kept: {kept}");
    ensure!(berth.ok(&["logs", app, "-p", "run"])?.stdout.contains("bye"), "and in the app's log");

    let name = begin(&["--ttl-seconds", "2", app, "sleep", "1000"])?;
    let run = ended(&name)?;
    ensure!(run["status"] == "stopped", "{run}");
    ensure!(run["reason"].as_str().is_some_and(|reason| reason.contains("time to live of 2 s")), "{run}");
    let said = berth.ok(&["run:logs", app, &name])?.stdout;
    ensure!(said.contains("time to live is over"), "its log says so: {said}");

    let name =
        begin(&[app, "sh", "-c", "trap 'echo ending; exit 0' TERM; echo up; while :; do sleep 0.1; done"])?;
    until(Duration::from_secs(20), "it to be up", || {
        ensure!(berth.ok(&["run:logs", app, &name])?.stdout.contains("up"), "not yet");
        Ok(())
    })?;
    let short = name.strip_prefix(&format!("{app}.")).context("short")?.to_owned();
    let inside = berth.ok(&["enter", app, &short, "sh", "-c", "echo in $DYNO"])?.stdout;
    ensure!(inside == format!("in {short}\n"), "{inside}");
    berth.ok(&["run:stop", app, &short])?;
    let run = ended(&name)?;
    ensure!(run["status"] == "stopped" && run["reason"] == "stopped by local", "{run}");
    ensure!(berth.ok(&["run:logs", app, &name])?.stdout.contains("ending"), "it was asked to end");
    let again = berth.berth(&["run:stop", app, &name])?;
    ensure!(again.code == 1 && again.stderr.contains("is over"), "{again:?}");

    let pair = [begin(&[app, "sleep", "1000"])?, begin(&[app, "sleep", "1000"])?];
    ensure!(pair[0] != pair[1], "{pair:?}");
    berth.ok(&["run:stop", app, "--all"])?;
    for name in &pair {
        ended(name)?;
    }
    let absent = begin(&[app, "no-such-program"])?;
    let run = ended(&absent)?;
    ensure!(
        run["status"] == "failed" && run["reason"].as_str().is_some_and(|r| r.contains("no-such-program")),
        "{run}"
    );
    let over_ssh = berth.over_ssh(&["run:detached", app, "true"])?;
    ensure!(over_ssh.code == 0 && over_ssh.stdout.starts_with(app), "{over_ssh:?}");
    ended(over_ssh.stdout.trim_end())?;
    berth.ok(&["run:retire", app])?;
    let left = json(berth, &["run:list", app, "--all"])?;
    ensure!(left.as_array().is_some_and(Vec::is_empty), "{left}");
    // An app that is destroyed takes its one-offs along.
    let name = begin(&[app, "sleep", "1000"])?;
    berth.ok(&["--force", "apps:destroy", app])?;
    let container = format!("{name}.");
    until(Duration::from_secs(60), "the container to be gone", || {
        let dir = berth.data_dir().join("agent/containers");
        let left = std::fs::read_dir(dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let left: Vec<_> = left.filter(|id| id.starts_with(&container)).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

fn enter(berth: &Berth) -> Result<()> {
    let app = "enter-app";
    push_server(berth, app, "one", &[])?;
    let shell = berth.berth_with_input(&["enter", app], b"echo $0 $DYNO; exit 6\n")?;
    ensure!((shell.code, shell.stdout.as_str()) == (6, "bash web.1\n"), "{shell:?}");
    let id = berth.containers(app)?[0]["id"].as_str().context("an id")?.to_owned();
    let by_id = berth.ok(&["enter", app, "--container-id", &id, "sh", "-c", "echo $DYNO"])?;
    ensure!(by_id.stdout == "web.1\n", "{by_id:?}");
    let exec = berth.ok(&["ps:exec", app, "--", "sh", "-c", "echo $DYNO"])?;
    ensure!(exec.stdout == "web.1\n", "{exec:?}");
    for (arguments, said) in [
        (&["enter", app, "web.9"][..], "no running web.9"),
        (&["enter", app, "web.x"], "is no container"),
        (&["enter", app, "--container-id", "nope", "true"], "no running nope"),
    ] {
        let output = berth.berth(arguments)?;
        ensure!(output.code != 0 && output.stderr.contains(said), "{arguments:?}: {output:?}");
    }
    // Without any shell, it says so; what there is can be run.
    let bare = "bare-app";
    crate::dockerfile::debian(berth)?;
    berth.ok(&["apps:create", bare])?;
    berth.ok(&["config:set", bare, "DOKKU_CHECKS_DISABLED=1"])?;
    let dockerfile = "FROM debian:bookworm\n\
        RUN rm -f /usr/bin/busybox /bin/bash /bin/dash /bin/sh /usr/bin/bash /usr/bin/dash /usr/bin/sh\n\
        CMD [\"/usr/bin/sleep\", \"infinity\"]\n";
    berth_tests::Repo::new(berth, bare, &[("Dockerfile", dockerfile)])?.push()?;
    let none = berth.berth(&["enter", bare])?;
    ensure!(none.code == 1 && none.stderr.contains("has no shell"), "{none:?}");
    ensure!(berth.ok(&["enter", bare, "web.1", "/usr/bin/id", "-u"])?.stdout == "0\n", "a program it has");
    ensure!(berth.ok(&["run", bare, "/usr/bin/printenv", "DYNO"])?.stdout.starts_with("run."), "run, too");
    Ok(())
}

/// The release task and postdeploy.
fn tasks(berth: &Berth) -> Result<()> {
    let app = "task-app";
    let slow = "#!/bin/sh\necho migrating\n[ -z \"$SLOW\" ] || sleep 1000\n";
    let app_json =
        r#"{"scripts": {"postdeploy": "echo first-only", "dokku": {"postdeploy": "echo after; exit 3"}}}"#;
    let files = [
        ("Procfile", "web: python server.py\nrelease: sh migrate.sh\n"),
        ("migrate.sh", slow),
        ("app.json", app_json),
    ];
    let repo = push_server(berth, app, "one", &files)?;
    repo.write(&[("server.py", &server("two"))])?;
    repo.commit("two")?;
    let pushed = repo.push()?.all();
    ensure!(pushed.contains("migrating") && pushed.contains("after"), "both stream into the push: {pushed}");
    ensure!(!pushed.contains("first-only"), "the first deploy is over: {pushed}");
    ensure!(pushed.contains("exited with code 3"), "a failure is said: {pushed}");
    ensure!(berth.get(app, "/")?.text() == "hello two", "and no more");
    berth.ok(&["config:set", "--no-restart", app, "SLOW=1"])?;
    repo.write(&[("server.py", &server("three"))])?;
    repo.commit("three")?;
    let push = |repo: &berth_tests::Repo| -> Result<Child> {
        let mut command = repo.command(&["push", "paas", "HEAD:main"]);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    };
    let is_listed = |wanted: bool| {
        until(Duration::from_secs(60), "the release task", || {
            let runs = json(berth, &["run:list", app])?;
            let found = runs.as_array().is_some_and(|runs| runs.iter().any(|run| run["kind"] == "release"));
            ensure!(found == wanted, "{runs}");
            Ok(())
        })
    };
    let pushing = push(&repo)?;
    is_listed(true)?;
    berth.ok(&["run:stop", app, "release.1"])?;
    let output = pushing.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("stopped by local"), "{said}");
    ensure!(berth.get(app, "/")?.text() == "hello two", "the old version serves");
    // Whoever breaks the push off ends its task.
    let mut pushing = push(&repo)?;
    is_listed(true)?;
    // As a terminal does it: to git and its ssh.
    let group = nix::unistd::Pid::from_raw(i32::try_from(pushing.id())?);
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGTERM)?;
    pushing.wait()?;
    is_listed(false)?;
    ensure!(berth.get(app, "/")?.text() == "hello two", "the old version serves on");
    berth.ok(&["config:unset", "--no-restart", app, "SLOW"])?;
    repo.push()?;
    ensure!(berth.get(app, "/")?.text() == "hello three", "and the next push deploys");
    Ok(())
}

fn task_id(berth: &Berth, app: &str, command: &str) -> Result<String> {
    let tasks = json(berth, &["cron:list", app])?;
    let found =
        tasks.as_array().and_then(|tasks| tasks.iter().find(|task| task["command"] == command).cloned());
    let task = found.with_context(|| format!("no {command} in {tasks}"))?;
    Ok(task["id"].as_str().context("an id")?.to_owned())
}

fn history(berth: &Berth, app: &str, id: &str) -> Result<Vec<Value>> {
    json(berth, &["cron:history", app, id])?.as_array().cloned().context("a list")
}

fn cron(berth: &Berth) -> Result<()> {
    let app = "cron-app";
    let app_json = r#"{"cron": [
        {"command": "sh -c 'echo by $DYNO; echo err >&2; exit 5'", "schedule": "0 0 1 1 *"},
        {"command": "echo tick", "schedule": "* * * * *"},
        {"command": "sleep 1000", "schedule": "0 0 1 1 *", "concurrency_policy": "forbid"},
        {"command": "sleep 2000", "schedule": "0 0 1 1 *", "concurrency_policy": "replace", "maintenance": true},
        {"command": "say hello", "schedule": "@daily"}]}"#;
    let procfile = format!("{WEB}say: echo said\n");
    push_server(berth, app, "one", &[("app.json", app_json), ("Procfile", &procfile)])?;
    let begun = Instant::now();
    let list = berth.ok(&["cron:list", app])?.stdout;
    ensure!(list.contains("@daily") && list.contains("echo tick") && list.contains("suspended"), "{list}");

    let id = task_id(berth, app, "sh -c 'echo by $DYNO; echo err >&2; exit 5'")?;
    let run = berth.berth(&["cron:run", app, &id])?;
    ensure!(run.code == 5 && run.stdout.starts_with("by cron."), "{run:?}");
    ensure!(run.stderr.contains("err"), "{run:?}");
    let past = history(berth, app, &id)?;
    ensure!(past.len() == 1 && past[0]["exit_code"] == 5 && past[0]["by"] == "local", "{past:?}");
    ensure!(past[0]["cron"]["due_ms"].is_null() && past[0]["status"] == "failed", "{past:?}");
    ensure!(berth.ok(&["cron:logs", app, &id])?.stdout.contains("by cron."), "its output is kept");
    let name = past[0]["name"].as_str().context("a name")?;
    ensure!(berth.ok(&["cron:logs", app, name])?.stdout.contains("by cron."), "by the run's name, too");
    let said = task_id(berth, app, "say hello")?;
    ensure!(berth.ok(&["cron:run", app, &said])?.stdout == "said hello\n", "a name of the Procfile");

    let forbidden = task_id(berth, app, "sleep 1000")?;
    let first = berth.ok(&["cron:run", app, &forbidden, "--detach"])?.stdout;
    let second = berth.berth(&["cron:run", app, &forbidden])?;
    ensure!(second.code == 1 && second.stderr.contains("has not ended"), "{second:?}");
    berth.ok(&["run:stop", app, first.trim_end()])?;
    let replaced = task_id(berth, app, "sleep 2000")?;
    let first = berth.ok(&["cron:run", app, &replaced, "--detach"])?.stdout;
    let second = berth.ok(&["cron:run", app, &replaced, "--detach"])?.stdout;
    let live = json(berth, &["run:list", app])?.to_string();
    ensure!(!live.contains(first.trim_end()) && live.contains(second.trim_end()), "{first} {second} {live}");
    berth.ok(&["run:stop", app, "--all"])?;

    berth.ok(&["cron:resume", app, &replaced])?;
    ensure!(!berth.ok(&["cron:list", app])?.stdout.contains("suspended"), "resumed, whatever app.json says");
    berth.ok(&["cron:suspend", app, &replaced])?;
    berth.ok(&["cron:set", app, "timezone", "europe/berlin"])?;
    ensure!(berth.ok(&["cron:report", app, "--cron-timezone"])?.stdout == "Europe/Berlin (app)\n", "zone");
    let daily = json(berth, &["cron:list", app])?[4]["next_ms"].as_i64().context("a time")?;
    ensure!(matches!(daily / 3_600_000 % 24, 22 | 23), "midnight of Berlin is 22 or 23 h UTC: {daily}");
    berth.ok(&["cron:set", app, "timezone"])?;

    // The clock itself.
    let tick = task_id(berth, app, "echo tick")?;
    let ran = until(Duration::from_secs(100), "the minute", || {
        let ran = history(berth, app, &tick)?;
        ensure!(ran.iter().any(|run| run["status"] == "succeeded"), "{ran:?}");
        Ok(ran)
    })?;
    ensure!(ran.iter().all(|run| run["by"] == "cron" && run["cron"]["due_ms"].as_i64().is_some()), "{ran:?}");
    berth.ok(&["cron:set", app, "maintenance", "true"])?;
    let count = history(berth, app, &tick)?.len();
    ensure!(count <= 2 + usize::try_from(begun.elapsed().as_secs() / 60)?, "once a minute: {count}");
    let report = berth.ok(&["cron:report", app])?.stdout;
    ensure!(report.contains("true (app)"), "{report}");
    let resting = json(berth, &["cron:list", app])?;
    ensure!(
        resting.as_array().is_some_and(|all| all.iter().all(|one| one["suspended"] == true)),
        "{resting}"
    );

    for (arguments, code) in [
        (&["cron:run", app, "nope"][..], 1),
        (&["cron:run", app], 2),
        (&["cron:run", app, "../x"], 2),
        (&["cron:suspend", app, "00000000"], 1),
        (&["cron:set", app, "timezone", "Mars/Olympus"], 1),
        (&["cron:set", app, "maintenance", "perhaps"], 2),
        (&["cron:set", app, "ttl-seconds", "-1"], 2),
        (&["cron:set", app, "mailto", "me@example.com"], 2),
        (&["cron:set", app, "nosuch", "1"], 2),
        (&["cron:set", app], 2),
        (&["cron:set", "--global", "ttl-seconds", "5"], 1),
        (&["cron:list", "nobody"], 20),
        (&["cron:logs", app, "cron.99999"], 1),
        (&["cron:report", app, "--nope"], 2),
    ] {
        let output = berth.berth(arguments)?;
        ensure!(output.code == code && !output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
    Ok(())
}

fn cron_of_releases(berth: &Berth) -> Result<()> {
    let app = "cron-releases";
    let of = |command: &str, schedule: &str| {
        format!(r#"{{"cron": [{{"command": "{command}", "schedule": "{schedule}"}}]}}"#)
    };
    let repo = push_server(berth, app, "one", &[("app.json", &of("echo one", "@daily"))])?;
    let one = task_id(berth, app, "echo one")?;
    for (command, schedule, said) in [
        ("a && b", "@daily", "cron[0].command: '&' is a shell operator"),
        ("echo two", "0 24 * * *", "cron[0].schedule: \"24\" is no hour"),
        ("echo two", "0 0 30 2 *", "never comes"),
        ("echo 'two", "@daily", "is not closed"),
        ("echo two", "@reboot", "is unknown"),
    ] {
        repo.write(&[("app.json", &of(command, schedule))])?;
        repo.commit("bad")?;
        let refused = repo.git(&["push", "-f", "paas", "HEAD:main"])?;
        ensure!(refused.code != 0 && refused.all().contains(said), "{command} {schedule}: {}", refused.all());
    }
    ensure!(task_id(berth, app, "echo one")? == one, "the old release's cron holds");
    repo.change(&[("app.json", &of("echo two", "@hourly"))])?;
    task_id(berth, app, "echo two")?;
    berth.ok(&["rollback", app, "v1"])?;
    ensure!(task_id(berth, app, "echo one")? == one, "rollback brings its cron back");
    repo.change(&[("app.json", "{}")])?;
    ensure!(json(berth, &["cron:list", app])? == serde_json::json!([]), "no cron, no tasks");
    Ok(())
}

fn survive(berth: &mut Berth) -> Result<()> {
    let app = "surviving-runs";
    let app_json = r#"{"cron": [{"command": "echo tick", "schedule": "* * * * *"}]}"#;
    push_server(berth, app, "one", &[("app.json", app_json)])?;
    let script = "echo begun; i=0; while [ $i -lt 400 ]; do i=$((i+1)); sleep 0.1; [ -e /tmp/go ] && exit 9; done; exit 1";
    let begin = |berth: &Berth| -> Result<String> {
        Ok(berth.ok(&["run:detached", app, "sh", "-c", script])?.stdout.trim_end().to_owned())
    };
    let run = |berth: &Berth, name: &str| -> Result<Value> {
        let all = json(berth, &["run:list", app, "--all"])?;
        let found = all.as_array().and_then(|all| all.iter().find(|run| run["name"] == name).cloned());
        found.with_context(|| format!("{name} is not in {all}"))
    };
    // Killed right after the answer: the run was promised.
    let first = begin(berth)?;
    berth.kill(Role::Controller)?;
    berth.until_ready()?;
    until(Duration::from_secs(30), "the run to begin", || {
        ensure!(run(berth, &first)?["status"] == "running", "{}", run(berth, &first)?);
        Ok(())
    })?;
    for role in [Role::Agent, Role::Controller, Role::Shims] {
        berth.kill(role)?;
        berth.until_ready()?;
    }
    ensure!(run(berth, &first)?["status"] == "running", "it runs on");
    // It ends while nobody looks; the end is recorded all the same.
    let short = first.strip_prefix(&format!("{app}.")).context("short")?.to_owned();
    until(Duration::from_secs(20), "entering it", || {
        berth.ok(&["enter", app, &short, "touch", "/tmp/go"])?;
        Ok(())
    })?;
    berth.kill(Role::Controller)?;
    berth.until_ready()?;
    let ended = until(Duration::from_secs(30), "its end to be recorded", || {
        let run = run(berth, &first)?;
        ensure!(!run["ended_ms"].is_null(), "{run}");
        Ok(run)
    })?;
    ensure!(ended["exit_code"] == 9, "{ended}");
    let said = berth.ok(&["run:logs", app, &first])?.stdout;
    ensure!(said.matches("begun").count() == 1, "it ran once: {said}");

    // Cron: no minute twice, whoever is killed; what was missed is said.
    let tick = task_id(berth, app, "echo tick")?;
    let dues = |berth: &Berth| -> Result<Vec<(i64, String)>> {
        let runs = history(berth, app, &tick)?;
        let due = |run: &Value| Some((run["cron"]["due_ms"].as_i64()?, run["status"].as_str()?.to_owned()));
        Ok(runs.iter().filter_map(due).collect())
    };
    let now_ms = || -> Result<u128> {
        Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis())
    };
    let before = dues(berth)?.len();
    // Around the next minute the controller is killed again and again.
    let until_minute = |next: u128| -> Result<Duration> {
        let minute = (now_ms()? / 60_000 + next) * 60_000;
        Ok(Duration::from_millis(u64::try_from(minute.saturating_sub(now_ms()?))?))
    };
    std::thread::sleep(until_minute(1)?.saturating_sub(Duration::from_millis(300)));
    for _ in 0..3 {
        berth.kill(Role::Controller)?;
        std::thread::sleep(Duration::from_millis(150));
    }
    berth.until_ready()?;
    let after = until(Duration::from_secs(100), "that minute's run", || {
        let found = dues(berth)?;
        ensure!(found.len() > before, "{found:?}");
        Ok(found)
    })?;
    let mut unique = after.clone();
    unique.dedup_by_key(|(due, _)| *due);
    ensure!(unique.len() == after.len(), "a minute came twice: {after:?}");

    berth.down()?;
    // Of two minutes only the second can be made up for.
    std::thread::sleep(until_minute(2)? + Duration::from_secs(1));
    berth.up()?;
    berth.until_ready()?;
    until(Duration::from_secs(100), "the missed times to be said", || {
        let found = dues(berth)?;
        ensure!(found.iter().any(|(_, status)| status == "missed"), "{found:?}");
        Ok(())
    })?;
    berth.ok(&["--force", "apps:destroy", app])?;
    Ok(())
}
