//! `docs/from-dokku.md`, typed: a day of a Dokku user, from the first push to the canary.
//!
//! In: the console blocks of the guide. Out: each line's exit code is 0, and what the guide shows is what came. Only the
//! doors are others: `berth`, `ssh` and `curl` are small scripts that know this platform's data directory and ports.

use anyhow::{Context, Result, ensure};
use berth_tests::Berth;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[("the_guide_from_dokku_is_true", from_dokku)];

/// One line to type, with the lines that belong to it, and what the guide shows of its output.
struct Typed {
    line: String,
    shows: Vec<String>,
}

/// The `$ ` lines of all console blocks.
fn typed(guide: &str) -> Vec<Typed> {
    let mut all: Vec<Typed> = Vec::new();
    let mut inside = false;
    for line in guide.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let Some(line) = line.strip_prefix("$ ").filter(|_| inside) {
            all.push(Typed { line: line.to_owned(), shows: Vec::new() });
        } else if let Some(last) = all.last_mut().filter(|_| inside) {
            match line.strip_prefix("> ").or_else(|| (line == ">").then_some("")) {
                Some(more) => last.line = format!("{}\n{more}", last.line),
                None => last.shows.push(line.to_owned()),
            }
        }
    }
    all
}

/// Whether `output` has a line like this one, where `…` stands for anything.
fn has_line(output: &str, shown: &str) -> bool {
    let like = |line: &str| {
        let mut parts = shown.split('…');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = line.strip_prefix(first) else { return false };
        let mut last = first;
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
            last = part;
        }
        (last.is_empty() && shown.ends_with('…')) || rest.trim_end().is_empty() || line.ends_with(last)
    };
    output.lines().any(like)
}

fn script(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn from_dokku(berth: &Berth) -> Result<()> {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/from-dokku.md"))?;
    let lines = typed(&guide);
    ensure!(lines.len() > 40, "the guide has only {} lines to type", lines.len());
    let home = tempfile::TempDir::with_prefix("berth-guide-")?;
    let doors = home.path().join("bin");
    std::fs::create_dir(&doors)?;
    let program = berth.command(&[])?.get_program().to_owned();
    script(
        &doors.join("berth"),
        &format!(
            "#!/bin/sh\nexec {} --data {} \"$@\"\n",
            program.to_str().context("a path that is no text")?,
            berth.data_dir().display()
        ),
    )?;
    let mut ssh =
        format!("#!/bin/bash\nexec {} \"${{@/#2222/{}}}\"\n", berth.ssh_command(), berth.ssh.port());
    ssh = ssh.replace("exec ssh ", "exec /usr/bin/ssh ");
    script(&doors.join("ssh"), &ssh)?;
    script(
        &doors.join("curl"),
        &format!("#!/bin/sh\nexec /usr/bin/curl --connect-to ::{} \"$@\"\n", berth.http),
    )?;

    let mut session = String::new();
    for (number, one) in lines.iter().enumerate() {
        // A line's exit code is its own, and its output stands between two lines that nothing else prints.
        writeln!(session, "echo '@@begin {number}'")?;
        writeln!(session, "{}", one.line)?;
        writeln!(session, "echo \"@@end {number} $?\"")?;
    }
    let path = format!("{}:{}", doors.display(), std::env::var("PATH").unwrap_or_default());
    let typing = home.path().join("typed");
    std::fs::write(&typing, &session)?;
    let output = Command::new("bash")
        .arg("-c")
        .arg("exec 2>&1; . \"$0\"")
        .arg(&typing)
        .current_dir(home.path())
        .env("PATH", path)
        .env("HOME", home.path())
        .env("GIT_SSH_COMMAND", doors.join("ssh"))
        .env("GIT_AUTHOR_NAME", "Guest")
        .env("GIT_AUTHOR_EMAIL", "guest@example.com")
        .env("GIT_COMMITTER_NAME", "Guest")
        .env("GIT_COMMITTER_EMAIL", "guest@example.com")
        .stdin(Stdio::null())
        .output()?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut wrong = Vec::new();
    for (number, one) in lines.iter().enumerate() {
        let begin = format!("@@begin {number}\n");
        let end = format!("@@end {number} ");
        let said = output.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
        let Some((said, rest)) = said else {
            wrong.push(format!("$ {}\nnever ran or never ended", one.line));
            break;
        };
        let code = rest.lines().next().unwrap_or_default();
        let missing: Vec<_> = one.shows.iter().filter(|shown| !has_line(said, shown)).collect();
        if code != "0" || !missing.is_empty() {
            wrong.push(format!("$ {}\n{said}code {code}, missing: {missing:#?}", one.line));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}
