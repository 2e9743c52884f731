//! Every command there is, with what nobody should type: through the machine's own door and over SSH.
//!
//! In: the list that `berth help` prints, so that a new command is in it by itself. A refusal is a sentence after ` ! `,
//! with a code that says what it is, and never a word of what goes on inside.

use crate::apps::push_server;
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Output};

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("every_command_refuses_an_app_that_is_not_there", nobody),
    ("every_command_refuses_what_it_does_not_know", nonsense),
    ("every_command_bears_junk", junk),
];

/// Makes apps, or says that there is none: to be refused is not its business.
const MAKES: [&str; 3] = ["apps:create", "create", "apps:exists"];

/// A command and how it is used: `[<app>] KEY=VALUE …`.
struct Known {
    name: String,
    usage: String,
}

impl Known {
    fn takes_app(&self) -> bool {
        self.usage.contains("<app>")
    }
}

/// What `berth help` lists, but for the roles.
fn commands(berth: &Berth) -> Result<Vec<Known>> {
    let overview = berth.ok(&["help"])?.stdout;
    let (people, _roles) =
        overview.split_once("Running Berth on this machine").context("no roles in help")?;
    let names = people.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    let mut known = Vec::new();
    for name in names {
        let page = berth.ok(&["help", name])?.stdout;
        let usage = page.lines().find_map(|line| line.strip_prefix("Usage: berth "));
        let usage = usage.with_context(|| format!("help {name} says no usage: {page}"))?;
        ensure!(usage.split(' ').next() == Some(name), "help {name} is about {usage}");
        ensure!(page.contains("Examples:"), "help {name} has no example");
        known.push(Known { name: name.to_owned(), usage: usage.to_owned() });
    }
    ensure!(known.len() > 120, "only {} commands", known.len());
    Ok(known)
}

/// That it was refused by a sentence.
fn refused(line: &[&str], output: &Output) -> Result<()> {
    let words = || format!("berth {line:?}: code {}\n{}", output.code, output.all());
    ensure!([1, 2, 20].contains(&output.code), "not refused: {}", words());
    let said = output.stderr.lines().find_map(|line| line.strip_prefix(" !     "));
    let said = said.with_context(|| format!("no sentence: {}", words()))?;
    ensure!(said.split_whitespace().count() >= 3, "not much of a sentence: {}", words());
    decent(line, output)
}

/// All that went wrong, so that one run names every command.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn note(&mut self, result: Result<()>) {
        self.0.extend(result.err().map(|error| format!("{error:#}")));
    }

    fn end(self) -> Result<()> {
        ensure!(self.0.is_empty(), "{}", self.0.join("\n"));
        Ok(())
    }
}

/// Nothing of the inside shows, and nothing reaches the terminal's controls.
fn decent(line: &[&str], output: &Output) -> Result<()> {
    let all = output.all();
    for inside in
        ["panicked", "RUST_BACKTRACE", "Berth's own fault", "mistake in berth", "Error {", "Some(", "Err("]
    {
        ensure!(!all.contains(inside), "berth {line:?} shows its inside: {all}");
    }
    ensure!(!all.contains('\u{1b}'), "berth {line:?} passes an escape on: {all:?}");
    Ok(())
}

fn nobody(berth: &Berth) -> Result<()> {
    let mut wrong = Wrong::default();
    for command in commands(berth)?.iter().filter(|command| command.takes_app()) {
        let name = command.name.as_str();
        if MAKES.contains(&name) {
            continue;
        }
        // As many further words as it may want.
        for rest in [&[][..], &["web=1"], &["one", "two"]] {
            let line: Vec<_> = [name, "nobodys-app"].iter().chain(rest).copied().collect();
            wrong.note(refused(&line, &berth.berth(&line)?));
        }
        let line = [name, "nobodys-app"];
        wrong.note(refused(&line, &berth.over_ssh(&line)?).context("over SSH"));
    }
    wrong.end()
}

fn nonsense(berth: &Berth) -> Result<()> {
    berth.ok(&["apps:create", "sweep-known"])?; // reports are about something
    let mut wrong = Wrong::default();
    for command in commands(berth)? {
        let name = command.name.as_str();
        let option = [name, "--no-such-option"];
        let output = berth.berth(&option)?;
        wrong.note(refused(&option, &output));
        // Reports say which flags there are, once they know what they are about.
        let names = ["no-such-option", "valid flags: ", "which app? "];
        if !names.iter().any(|part| output.stderr.contains(part)) {
            wrong.0.push(format!("berth {name}: which option? {}", output.all()));
        }
        if command.takes_app() {
            let bad = [name, "no such/App\u{1b}[31m"];
            wrong.note(refused(&bad, &berth.berth(&bad)?));
            let missing = [name, "--app"];
            wrong.note(refused(&missing, &berth.berth(&missing)?));
            let empty = [name, "--app", ""];
            wrong.note(refused(&empty, &berth.berth(&empty)?));
        }
    }
    let unknown = ["ps:scael", "hello"];
    let output = berth.over_ssh(&unknown)?;
    refused(&unknown, &output)?;
    ensure!(output.code == 1 && output.stderr.contains("Did you mean ps:scale?"), "{}", output.all());
    wrong.end()
}

fn junk(berth: &Berth) -> Result<()> {
    let app = "sweep-app";
    push_server(berth, app, "still here", &[])?;
    let long = "x".repeat(70_000);
    let words = ["", "=", "\u{1b}]0;x\u{7}", "../../etc/passwd", "-1", "99999999999999999999", "ä=ö", &long];
    // What ends the app, or goes on until somebody ends it.
    let out_of_place = ["apps:destroy", "apps:rename", "run", "enter", "apps:clone"];
    for command in commands(berth)?.iter().filter(|command| command.takes_app()) {
        let name = command.name.as_str();
        if MAKES.contains(&name) || out_of_place.contains(&name) {
            continue;
        }
        for word in words {
            let line = [name, "--app", app, "--", word];
            let output = berth.berth(&line)?;
            let known = [0, 1, 2, 20].contains(&output.code);
            ensure!(known, "berth {name} {word:?}: code {}: {}", output.code, output.all());
            decent(&[name, &word[..word.len().min(80)]], &output)?;
            if output.code != 0 {
                ensure!(output.stderr.contains(" !     "), "berth {name} {word:?}: {}", output.all());
            }
        }
    }
    // Commands without arguments have done their work meanwhile: stopped it, closed it, emptied it.
    berth.ok(&["ps:start", app])?;
    Ok(())
}
