//! `berth git-hook`: the pre-receive hook, run by `git receive-pack` inside a push.
//!
//! In: `old new ref` lines on standard input, git's environment. Out: the build and deploy shown as the push's output,
//! and exit code 0 (git takes the refs) or 1 (it refuses them all). The push ends with us: when its reader goes away or a
//! signal comes, the connection to the controller closes, which cancels the build.

use crate::error::{CliError, Result};
use crate::output::{Output, broke_off};
use berth_model::api::Progress;
use berth_wire::{Client, Endpoint};
use clap::Command;
use http::Method;
use serde::Serialize;
use std::io::Read;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// What git's hook script calls.
pub(crate) const NAME: &str = "git-hook";

/// Longest input: refs are limited to 255 bytes by the file system, so this is thousands of updates.
const MAX_INPUT: u64 = 4 << 20;

pub(crate) fn command() -> Command {
    Command::new(NAME).about("The pre-receive hook of Berth's repositories").hide(true)
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Update {
    old: String,
    new: String,
    #[serde(rename = "ref")]
    reference: String,
}

#[derive(Debug, Serialize)]
struct Request {
    push: String,
    updates: Vec<Update>,
    object_dir: String,
    alternates: String,
}

/// Carries the hook out.
pub(crate) async fn run() -> Result<()> {
    end_with_the_push();
    tokio::select! {
        result = receive() => result,
        code = ended_by_signal() => Err(CliError::Exit(code)),
    }
}

async fn receive() -> Result<()> {
    let socket = PathBuf::from(variable("BERTH_INTERNAL_SOCK")?);
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_INPUT + 1).read_to_string(&mut text);
    read.map_err(|error| CliError::Failed(format!("cannot read what git says of the push: {error}")))?;
    if text.len() as u64 > MAX_INPUT {
        return Err(CliError::Failed("the push updates too many refs at once".into()));
    }
    let object_dir = std::env::var("GIT_QUARANTINE_PATH").or_else(|_| std::env::var("GIT_OBJECT_DIRECTORY"));
    let request = Request {
        push: variable("BERTH_PUSH_ID")?,
        updates: updates(&text)?,
        object_dir: absolute(&object_dir.unwrap_or_default())?,
        alternates: std::env::var("GIT_ALTERNATE_OBJECT_DIRECTORIES").unwrap_or_default(),
    };
    let client = Client::new(Endpoint::Unix(socket));
    let refused = |error| match CliError::wire(error, client.endpoint()) {
        CliError::NoApp(text) => CliError::Failed(text), // git knows only 0 and 1
        error => error,
    };
    let mut lines =
        client.lines(Method::POST, "/hook/v1/pre-receive", Some(&request)).await.map_err(refused)?;
    let out = Output::new(false, false);
    while let Some(event) = lines.next::<Progress>().await.map_err(refused)? {
        match out.progress(&event)? {
            None => {}
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => return Err(CliError::Failed(error.to_string())),
        }
    }
    Err(CliError::Failed(broke_off().message))
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| {
        CliError::Failed(format!("{name} is not set: this is git's hook, Berth runs it inside a push"))
    })
}

/// git gives paths relative to the repository, in which it starts hooks.
fn absolute(path: &str) -> Result<String> {
    if path.is_empty() {
        return Ok(String::new());
    }
    let path = std::path::absolute(path).map_err(|error| CliError::Failed(format!("{path}: {error}")))?;
    path.into_os_string()
        .into_string()
        .map_err(|_| CliError::Failed("the repository's path is no UTF-8".into()))
}

fn updates(text: &str) -> Result<Vec<Update>> {
    let parse = |line: &str| match line.splitn(3, ' ').collect::<Vec<_>>()[..] {
        [old, new, reference] if is_object_id(old) && is_object_id(new) && !reference.is_empty() => {
            Ok(Update { old: old.to_owned(), new: new.to_owned(), reference: reference.to_owned() })
        }
        _ => Err(CliError::Failed(format!("git said something else than `old new ref`: {line:?}"))),
    };
    text.lines().filter(|line| !line.is_empty()).map(parse).collect()
}

fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Ends this process when `git receive-pack` dies or nobody reads our output any more, even while the build is silent.
fn end_with_the_push() {
    if let Err(error) = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM) {
        tracing::debug!(%error, "not told when git ends");
    }
    std::thread::spawn(|| {
        use rustix::event::{PollFd, PollFlags, poll};
        let stdout = std::io::stdout();
        // With no events asked for, poll returns only when the other end is closed (POLLERR, POLLHUP).
        while let Ok(_) | Err(rustix::io::Errno::INTR) = {
            let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
            let result = poll(&mut watched, None);
            if watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                std::process::exit(1);
            }
            result
        } {}
    });
}

async fn ended_by_signal() -> u8 {
    let wait = async |kind: SignalKind| match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => 130,
        () = wait(SignalKind::terminate()) => 143,
        () = wait(SignalKind::hangup()) => 129,
        () = wait(SignalKind::pipe()) => 141,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_is_parsed_strictly() {
        let id = "1".repeat(40);
        let parsed = updates(&format!("{id} {id} refs/heads/main\n{id} {id} refs/heads/a b\n"))
            .expect("as git writes it");
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[1].reference, "refs/heads/a b");
        for bad in
            ["x", &format!("{id} {id}"), &format!("{id} {id} "), &format!("{id} short refs/heads/main")]
        {
            assert!(updates(bad).is_err(), "{bad:?}");
        }
    }
}
