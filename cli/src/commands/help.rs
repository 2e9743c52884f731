//! `help`, `version` and `completion`; what to say to a word that is no command.
//!
//! In: a word. Out: a family's commands, one command's help, or the nearest command.

use super::{Family, completion, families, not_here};
use crate::args::{Mode, command, tree};
use crate::context::{Context, arguments};
use crate::error::{CliError, Result};
use crate::output::{table, warning};
use clap::{ArgMatches, Command};

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "help",
            "Show what there is, or how one command is used",
            "[COMMAND]",
            &["help", "help apps", "help config:set"],
        ),
        command("version", "Print the version", "", &["version"]),
        command(
            "completion",
            "Print a script that completes commands in a shell",
            "bash|zsh|fish",
            &[
                "completion bash > /etc/bash_completion.d/berth",
                "completion zsh > \"${fpath[1]}/_berth\"",
                "completion fish > ~/.config/fish/completions/berth.fish",
            ],
        ),
    ]
}

pub(super) fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let words = arguments(matches);
    let mode = if context.session { Mode::Session } else { Mode::Local };
    match (name, &words[..]) {
        ("help", []) => context.out.raw(overview(mode).as_bytes()),
        ("help", [word]) => match topic(word, mode) {
            Some(topic) => context.out.raw(topic.0.as_bytes()),
            None => Err(unknown(word, mode)),
        },
        ("version", []) if context.out.json => {
            context.out.json(&serde_json::json!({"version": env!("CARGO_PKG_VERSION")}))
        }
        ("version", []) => context.out.line(&format!("berth version {}", env!("CARGO_PKG_VERSION"))),
        ("completion", [shell]) => {
            let script = completion::script(shell, &tree(mode)).ok_or_else(|| {
                CliError::Misuse(format!(
                    "there is no completion for {shell:?}; there is for bash, zsh and fish"
                ))
            })?;
            context.out.raw(script.as_bytes())
        }
        ("completion", []) => {
            Err(CliError::Misuse("for which shell? Write completion bash, zsh or fish".into()))
        }
        ("help" | "version" | "completion", _) => {
            Err(CliError::Misuse("there are too many arguments".into()))
        }
        _ => Err(not_here(name)),
    }
}

/// A page of help.
pub(crate) struct Topic(pub(crate) String);

/// Help on `word`: nothing (all there is), a command (`apps:create`), a family (`apps`), or another name of a command.
/// A word that is a family and another name of one of its commands, such as `config`, is the family.
pub(crate) fn topic(word: &str, mode: Mode) -> Option<Topic> {
    if word.is_empty() {
        return Some(Topic(overview(mode)));
    }
    let mut root = tree(mode);
    root.build();
    let mut help = |is: &dyn Fn(&Command) -> bool| {
        let found = root.get_subcommands_mut().find(|command| is(command))?;
        Some(Topic(found.render_long_help().to_string()))
    };
    let family =
        || families().into_iter().find(|family| family.name == word).map(|family| Topic(page(&family)));
    help(&|command| command.get_name() == word)
        .or_else(family)
        .or_else(|| help(&|command| command.get_all_aliases().any(|alias| alias == word)))
}

fn page(family: &Family) -> String {
    let row = |command: &Command| vec![format!("  {}", command.get_name()), about(command)];
    let rows: Vec<_> = family.commands.iter().map(row).collect();
    format!(
        "{}\n\nCommands:\n{}\n\n`berth help COMMAND` shows how one is used.\n",
        family.about,
        table(&rows).join("\n")
    )
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// All commands, by family.
pub(crate) fn overview(mode: Mode) -> String {
    let mut text = String::from(
        "Usage: berth COMMAND [<app>] [arguments] [options]\n\nA platform of your own: git push, and it runs.\n",
    );
    let all = families();
    let width = all.iter().flat_map(|family| &family.commands).map(|c| c.get_name().len()).max().unwrap_or(0);
    for family in &all {
        text.push_str(&format!("\n{}:\n", family.about));
        for command in &family.commands {
            text.push_str(&format!("  {:width$}  {}\n", command.get_name(), about(command)));
        }
    }
    if mode == Mode::Local {
        text.push_str("\nRunning Berth on this machine:\n");
        for command in crate::roles::commands().iter().filter(|command| !command.is_hide_set()) {
            text.push_str(&format!("  {:width$}  {}\n", command.get_name(), about(command)));
        }
    }
    text.push_str("\nGlobal options: -a/--app APP  --force  --format json  -q/--quiet  --trace");
    text.push_str(if mode == Mode::Local { "  --data DIR  --host URL\n" } else { "\n" });
    text.push_str(
        "\nThe app may come first, behind --app, or from the git remote `paas` of the working tree.\n\
         `berth help COMMAND` shows how one is used.\n",
    );
    text
}

/// What to say to a word that is no command: it, the nearest one, and exit code 1.
pub(crate) fn unknown(word: &str, mode: Mode) -> CliError {
    warning(&format!("{word} is not a berth command"));
    let root = tree(mode);
    let names = root.get_subcommands().filter(|command| !command.is_hide_set()).flat_map(|command| {
        std::iter::once(command.get_name().to_owned()).chain(command.get_all_aliases().map(str::to_owned))
    });
    match nearest(word, names) {
        Some(name) => warning(&format!("Did you mean {name}?")),
        None => warning("`berth help` lists all commands"),
    }
    CliError::Exit(1)
}

/// The name that needs the fewest changes, if those are few.
fn nearest(word: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    let scored = names.map(|name| (distance(word, &name), name));
    scored.filter(|(distance, _)| *distance <= allowed).min().map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    // Row i, column j: between the first i of `a` and the first j of `b`.
    let row = |i: usize| (0..=b.len()).map(|j| if i == 0 { j } else { i }).collect::<Vec<_>>();
    let mut rows: Vec<Vec<usize>> = (0..=a.len()).map(row).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_understood() {
        let names =
            || ["apps:create", "apps:list", "config:set", "logs", "run"].map(str::to_owned).into_iter();
        for (typed, meant) in [
            ("app:create", "apps:create"),
            ("apps:craete", "apps:create"),
            ("lgos", "logs"),
            ("config:st", "config:set"),
        ] {
            assert_eq!(nearest(typed, names()).as_deref(), Some(meant), "{typed}");
        }
        assert_eq!(nearest("frobnicate", names()), None);
    }
}
