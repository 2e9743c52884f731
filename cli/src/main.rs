//! The `berth` binary: the user's commands, git's hook, and the roles a machine runs.
//!
//! In: the command line. Out: an exit code. `main` decides who speaks (a shell, or the controller for somebody over SSH),
//! parses, and hands over: to a command here, or to the platform's own CLI over SSH.

mod args;
mod backup;
mod commands;
mod context;
mod contexts;
mod endpoint;
mod error;
mod hook;
mod lfs;
mod output;
mod prompt;
mod remote;
mod report;
mod roles;
mod route;
mod spinner;
mod ssh;
mod text;
mod up;

use args::Mode;
use clap::error::ErrorKind;
use context::Context;
use endpoint::Target;
use error::{CliError, Result};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    match parse_and_run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, CliError::Exit(_) | CliError::OutputClosed) {
                output::warning(&error.to_string());
            }
            ExitCode::from(error.code())
        }
    }
}

fn parse_and_run() -> Result<()> {
    let argv = std::env::args_os().map(|word| {
        word.into_string().map_err(|word| CliError::Misuse(format!("argument {word:?} is no UTF-8")))
    });
    let argv = argv.collect::<Result<Vec<String>>>()?;
    let (mode, target, argv) = who_speaks(argv)?;
    let tree = args::tree(mode);
    let words = argv.clone();
    let argv = args::report_fields(&tree, argv);
    let matches = match tree.try_get_matches_from(argv) {
        Ok(matches) => matches,
        Err(error) => return misused(&error),
    };
    let Some((name, sub)) = matches.subcommand() else {
        let all = commands::topic("", mode).map(|topic| topic.0).unwrap_or_default();
        return output::Output::new(false, false).raw(all.as_bytes());
    };
    if mode == Mode::Local {
        if let Some(done) = roles::run(name, sub) {
            return done;
        }
        if let Some(done) = backup::run(name, sub) {
            return done;
        }
        if name == lfs::NAME {
            return lfs::run(sub);
        }
        if name == hook::NAME {
            return on_one_thread(hook::run());
        }
    }
    if args::tree(mode).find_subcommand(name).is_none() {
        let topic = name.strip_suffix(":help").and_then(|family| commands::topic(family, mode));
        return match topic {
            Some(topic) => output::Output::new(false, false).raw(topic.0.as_bytes()),
            None => Err(commands::unknown(name, mode)),
        };
    }
    let target = match target {
        Some(target) => target,
        None if route::stays_here(name) => Target::default(),
        None => match route::choose(sub)? {
            route::Way::Api(target) => target,
            route::Way::Ssh(address) => return route::over_ssh(&address, name, sub, &words),
        },
    };
    on_one_thread(async {
        let context = Context::new(sub, target, mode == Mode::Session);
        let done = commands::run(&context, name, sub).await;
        match done {
            Err(CliError::NoApp(text)) => {
                output::warning(&text);
                context.suggest_app(sub).await;
                Err(CliError::Exit(20))
            }
            done => done,
        }
    })
}

/// Takes the controller's own words off the front of an SSH session's command line: exactly
/// `berth --data DIR --ssh-session`, before anything the user typed. At a shell there is no target yet: flags decide.
fn who_speaks(argv: Vec<String>) -> Result<(Mode, Option<Target>, Vec<String>)> {
    let is_session = argv.len() >= 4 && argv[1] == "--data" && argv[3] == "--ssh-session";
    if !is_session {
        return Ok((Mode::Local, None, argv));
    }
    let acts_as = std::env::var("BERTH_AS").ok().filter(|name| !name.is_empty());
    let acts_as = acts_as.ok_or_else(|| {
        CliError::Failed("an SSH session must say who it is for: BERTH_AS is not set".into())
    })?;
    let comes_from = std::env::var("BERTH_FROM").ok().filter(|address| !address.is_empty());
    let data = Some(PathBuf::from(&argv[2]));
    let words = std::iter::once("berth".to_owned()).chain(argv.into_iter().skip(4)).collect();
    let target = Target { data, acts_as: Some(acts_as), comes_from, ..Target::default() };
    Ok((Mode::Session, Some(target), words))
}

/// Help goes to stdout; a mistake to stderr, with exit code 2.
fn misused(error: &clap::Error) -> Result<()> {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output::Output::new(false, false).raw(text.as_bytes())
        }
        _ => {
            let mut lines = text.lines().map(|line| line.strip_prefix("error: ").unwrap_or(line));
            output::warning(lines.next().unwrap_or_default());
            lines.for_each(output::say);
            Err(CliError::Exit(2))
        }
    }
}

/// Commands need no more than one thread, and must not wait for a read of standard input that never ends.
pub(crate) fn on_one_thread(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Failed(format!("cannot start: {error}")))?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}
