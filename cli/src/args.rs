//! The command line: flags that every command has, and the whole tree of commands.
//!
//! In: `argv`. Out: clap's matches. Colon commands are subcommands named `apps:create`; an app may stand before the
//! other arguments or behind `--app`, so every command takes its positional arguments as one list and sorts them itself.

use crate::commands;
use clap::{Arg, ArgAction, Command, ValueHint};

/// Who types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Somebody at a shell.
    Local,
    /// Somebody over SSH, through the controller: no roles, no endpoint, no files.
    Session,
}

/// The whole tree.
pub(crate) fn tree(mode: Mode) -> Command {
    let root = Command::new("berth")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A platform of your own: git push, and it runs")
        .disable_help_subcommand(true)
        .override_help(commands::overview(mode))
        .allow_external_subcommands(true)
        .args(globals(mode))
        .subcommands(commands::families().into_iter().flat_map(taught));
    match mode {
        Mode::Session => root.bin_name("berth"),
        Mode::Local => {
            let hidden = [crate::hook::command(), crate::lfs::command()];
            root.subcommands(crate::roles::commands()).subcommands(hidden)
        }
    }
}

/// A family's commands, each with what to read next.
fn taught(family: commands::Family) -> Vec<Command> {
    let siblings: Vec<String> = family.commands.iter().map(|command| command.get_name().to_owned()).collect();
    let teach = |command: Command| {
        let also = commands::see_also(command.get_name(), &siblings);
        if also.is_empty() {
            return command;
        }
        let examples = command.get_after_help().map(|help| format!("{help}\n\n")).unwrap_or_default();
        command.after_help(format!("{examples}{SEE_ALSO}{}", also.join(", ")))
    };
    family.commands.into_iter().map(teach).collect()
}

/// What the last line of a command's help begins with.
pub(crate) const SEE_ALSO: &str = "See also: ";
/// What its examples begin with.
pub(crate) const EXAMPLES: &str = "Examples:";

fn globals(mode: Mode) -> Vec<Arg> {
    let flag = |id: &'static str, help: &'static str| {
        Arg::new(id)
            .long(id)
            .global(true)
            .action(ArgAction::SetTrue)
            .help(help)
            .help_heading("Global options")
    };
    let option = |id: &'static str, value: &'static str, help: &'static str| {
        Arg::new(id).long(id).global(true).value_name(value).help(help).help_heading("Global options")
    };
    let mut all = vec![
        option("app", "APP", "The app; else the first argument, else the one the git remote `paas` names")
            .short('a'),
        flag("force", "Do not ask before destroying something"),
        option("confirm", "NAME", "The name of what is destroyed, in place of typing it when asked"),
        option("format", "FORMAT", "Print `json` for programs").value_parser(["text", "json"]),
        flag("quiet", "No headers, no progress: only data, warnings and errors").short('q'),
        flag("trace", "Show the calls to the API"),
    ];
    if mode == Mode::Local {
        all.push(
            option("data", "DIR", "Speak to the Berth whose data is there [default: /var/lib/berth]")
                .value_hint(ValueHint::DirPath)
                .value_parser(clap::value_parser!(std::path::PathBuf)),
        );
        all.push(option(
            "host",
            "URL",
            "Speak to Berth there: https:// with BERTH_TOKEN, or ssh:// with your key [env: BERTH_HOST]",
        ));
        all.push(option("context", "NAME", "Speak to a cluster of context:list [env: BERTH_CONTEXT]"));
    } else {
        all.push(Arg::new("inferred-app").long("inferred-app").global(true).hide(true));
    }
    all
}

/// A command that takes arguments as `usage` says (without the program and command names).
pub(crate) fn command(name: &'static str, about: &'static str, usage: &str, examples: &[&str]) -> Command {
    let usage = if usage.is_empty() { format!("berth {name}") } else { format!("berth {name} {usage}") };
    let command = Command::new(name)
        .about(about)
        .override_usage(usage)
        .arg(Arg::new("args").num_args(0..).hide(true).action(ArgAction::Append));
    if examples.is_empty() {
        return command;
    }
    let lines: Vec<String> = examples.iter().map(|example| format!("  berth {example}")).collect();
    command.after_help(format!("{EXAMPLES}\n{}", lines.join("\n")))
}

/// Says more than one line about a command, before its options and examples.
pub(crate) fn explained(command: Command, text: &str) -> Command {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    command.long_about(format!("{about}\n\n{text}"))
}

/// Like [`command`], for commands whose arguments end in another program's command line.
pub(crate) fn wrapping(name: &'static str, about: &'static str, usage: &str, examples: &[&str]) -> Command {
    command(name, about, usage, examples)
        .mut_arg("args", |arg| arg.trailing_var_arg(true).allow_hyphen_values(true))
}

/// The same for reports, where `--any-key` asks for one value.
pub(crate) fn report(name: &'static str, about: &'static str, usage: &str, examples: &[&str]) -> Command {
    command(name, about, usage, examples)
        .arg(Arg::new("field").long("field").value_name("KEY").help("Print one value; `--KEY` does the same"))
}

/// A switch of one command.
pub(crate) fn switch(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).long(id).action(ArgAction::SetTrue).help(help)
}

/// An option with a value of one command.
pub(crate) fn option(id: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(id).long(id).value_name(value).help(help)
}

/// Rewrites what clap cannot say: after the name of a report, an unknown `--key` becomes `--field key`.
pub(crate) fn report_fields(tree: &Command, argv: Vec<String>) -> Vec<String> {
    let takes_fields = |word: &String| {
        let found =
            tree.get_subcommands().find(|c| c.get_name() == word || c.get_all_aliases().any(|a| a == word));
        found.filter(|command| command.get_arguments().any(|arg| arg.get_id() == "field"))
    };
    let Some((at, report)) =
        argv.iter().enumerate().skip(1).find_map(|(at, word)| Some((at, takes_fields(word)?)))
    else {
        return argv;
    };
    let known = |name: &str| {
        let named = |arg: &Arg| arg.get_long() == Some(name);
        name == "help" || report.get_arguments().chain(tree.get_arguments()).any(named)
    };
    let rewrite = |word: String| match word.strip_prefix("--") {
        Some(name) if !name.is_empty() && !known(name.split('=').next().unwrap_or(name)) => {
            format!("--field={name}")
        }
        _ => word,
    };
    argv.into_iter().enumerate().map(|(index, word)| if index > at { rewrite(word) } else { word }).collect()
}
