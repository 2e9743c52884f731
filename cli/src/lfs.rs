//! `berth git-lfs-transfer DIRECTORY OPERATION`: large files of a push over SSH, run by the controller for a session.
//!
//! In: the client's packets on standard input. Out: the answers on standard output.

use crate::error::{CliError, Result};
use berth_controller::git::lfs::Objects;
use berth_controller::git::lfs_transfer::{Operation, serve};
use clap::{Arg, ArgMatches, Command, value_parser};
use std::io::{BufReader, BufWriter};
use std::path::PathBuf;

/// What the controller calls.
pub(crate) const NAME: &str = "git-lfs-transfer";

pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Large files of a repository of Berth's")
        .hide(true)
        .arg(Arg::new("repository").required(true).value_parser(value_parser!(PathBuf)))
        .arg(Arg::new("operation").required(true).value_parser(["upload", "download", "lock"]))
}

/// Carries it out.
pub(crate) fn run(matches: &ArgMatches) -> Result<()> {
    let repository = matches.get_one::<PathBuf>("repository");
    let operation = matches.get_one::<String>("operation").and_then(|name| Operation::parse(name));
    let (Some(repository), Some(operation)) = (repository, operation) else {
        return Err(CliError::Misuse(format!("write: berth {NAME} REPOSITORY upload|download|lock")));
    };
    let (mut input, mut output) =
        (BufReader::new(std::io::stdin().lock()), BufWriter::new(std::io::stdout().lock()));
    let served = serve(&Objects::of(repository), operation, &mut input, &mut output);
    served.map_err(|error| CliError::Failed(format!("large files cannot be transferred: {error}")))
}
