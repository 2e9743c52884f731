//! `help`, `version`, `man` and `completion`; what to say to a word that is no command.
//!
//! In: a word. Out: a family's commands, one command's help, or the nearest command.

use super::{Family, completion, elsewhere, families, man, not_here};
use crate::args::{EXAMPLES, Mode, SEE_ALSO, command, option, tree};
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
            "man",
            "Print a manual page, or write all of them into a directory",
            "[COMMAND]",
            &["man | man -l -", "man config:set | man -l -", "man --dir /usr/local/share/man/man1"],
        )
        .arg(option("dir", "DIR", "Write every page there, as berth.1 and berth-config-set.1")),
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
        ("man", words) => match (matches.get_one::<String>("dir"), words) {
            (Some(dir), []) => {
                context.may_read(dir)?;
                man::write_all(dir)
            }
            (None, []) => context.out.raw(man::overview().as_bytes()),
            (None, [word]) => match man::page(word) {
                Some(page) => context.out.raw(page.as_bytes()),
                None => Err(unknown(word, mode)),
            },
            _ => Err(CliError::Misuse("there are too many arguments".into())),
        },
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

/// Commands of other families that whoever reads about one may want.
const RELATED: &[(&str, &[&str])] = &[
    ("apps:create", &["git:set", "domains:add"]),
    ("apps:destroy", &["ps:stop", "maintenance:on"]),
    ("config:set", &["config:unset", "config:history", "ps:restart", "storage:mount"]),
    ("ps:scale", &["resource:limit", "ps:report"]),
    ("ps:report", &["logs", "releases"]),
    ("ps:restart", &["ps:rebuild", "rollback"]),
    ("ps:rebuild", &["builds", "rollback"]),
    ("ps:stop", &["maintenance:on"]),
    ("logs", &["ps:report", "builds:output"]),
    ("run", &["enter", "logs"]),
    ("enter", &["run", "ps:report"]),
    ("releases", &["rollback", "config:diff"]),
    ("rollback", &["releases", "config:diff"]),
    ("domains:add", &["letsencrypt:enable", "certs:add", "urls"]),
    ("certs:add", &["letsencrypt:enable"]),
    ("letsencrypt:enable", &["domains:add", "certs:add"]),
    ("ports:add", &["domains:add", "proxy:report"]),
    ("storage:mount", &["config:set"]),
    ("git:from-image", &["registry:login", "images:list"]),
    ("builder:set", &["buildpacks:set", "builder-dockerfile:set"]),
    ("secrets:rotate-key", &["config:set"]),
    ("tokens:create", &["context:add", "ssh-keys:add", "dashboard"]),
    ("dashboard", &["tokens:create"]),
    ("ssh-keys:add", &["tokens:create"]),
    ("context:add", &["tokens:create"]),
];
/// Commands that are named at most.
const NAMED: usize = 6;

/// What to read next: what is related, then others of the family, whose names are `siblings`.
pub(crate) fn see_also(name: &str, siblings: &[String]) -> Vec<String> {
    let related = RELATED.iter().filter(|(of, _)| *of == name).flat_map(|(_, names)| names.iter());
    let mut also: Vec<String> = related.map(|name| (*name).to_owned()).collect();
    for sibling in siblings {
        if sibling != name && !also.contains(sibling) {
            also.push(sibling.clone());
        }
    }
    also.truncate(NAMED);
    also
}

/// The lines of a built command's help behind its options: examples, and what to read next.
fn after(command: &Command) -> String {
    command.get_after_help().map(ToString::to_string).unwrap_or_default()
}

/// Its examples, each as it is typed.
pub(super) fn examples(command: &Command) -> Vec<String> {
    let after = after(command);
    let lines = after.lines().skip_while(|line| *line != EXAMPLES).skip(1);
    lines.take_while(|line| line.starts_with("  ")).map(|line| line.trim().to_owned()).collect()
}

/// What to read next, of a command of the whole tree.
pub(super) fn next(command: &Command) -> Vec<String> {
    let after = after(command);
    let line = after.lines().find_map(|line| line.strip_prefix(SEE_ALSO)).unwrap_or_default();
    line.split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

pub(super) fn about(command: &Command) -> String {
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
    if let Some(advice) = elsewhere::advice(word) {
        warning(advice);
        return CliError::Exit(1);
    }
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
pub(crate) fn nearest(word: &str, names: impl Iterator<Item = String>) -> Option<String> {
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

    #[test]
    fn what_is_to_be_read_next_exists() {
        let root = tree(Mode::Local);
        let exists = |name: &str| root.get_subcommands().any(|command| command.get_name() == name);
        for (name, related) in RELATED {
            assert!(exists(name), "{name}");
            assert!(related.iter().all(|one| exists(one)), "{name}: {related:?}");
        }
        let set =
            root.get_subcommands().find(|command| command.get_name() == "config:set").expect("it is there");
        assert!(next(set).contains(&"config:history".to_owned()));
        assert!(examples(set).iter().any(|line| line.starts_with("berth config:set")));
    }
}
