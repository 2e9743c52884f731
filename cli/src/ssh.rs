//! Commands over SSH, for whoever has a key and no token: the words go to the platform as they are, and its CLI carries them
//! out there.
//!
//! In: where, the words, the app of the working tree. Out: this process becomes `ssh(1)`, with its exit code; 255 means that
//! there was no connection.

use crate::error::{CliError, Result};
use std::fs::File;
use std::io::IsTerminal;
use std::process::Command;

/// The port where Berth takes SSH unless an address says otherwise.
pub(crate) const DEFAULT_PORT: u16 = 2222;

/// A platform's SSH address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Any name will do; the key tells who it is.
    pub(crate) user: String,
    /// Name or address.
    pub(crate) host: String,
    /// Where it listens.
    pub(crate) port: u16,
}

impl Address {
    /// From `ssh://user@host:port[/app]`, `user@host:app` or `user@host`.
    pub(crate) fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (rest, is_url) = match text.strip_prefix("ssh://") {
            Some(rest) => (rest.split('/').next()?, true),
            None if text.contains("://") => return None,
            None => (text, false),
        };
        let (user, place) = rest.split_once('@').unwrap_or(("paas", rest));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if is_url => (host, port.parse().ok()?),
            // As git has it: what follows the colon is a path.
            Some((host, _)) => (host, 22),
            None => (place, default_port),
        };
        let word = |text: &str| {
            let good =
                |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':');
            !text.is_empty() && !text.starts_with('-') && text.bytes().all(good)
        };
        (word(user) && word(host)).then(|| Self { user: user.to_owned(), host: host.to_owned(), port })
    }

    /// From `ssh://…` alone: anything else is another kind of address.
    pub(crate) fn of_url(text: &str) -> Option<Self> {
        text.starts_with("ssh://").then(|| Self::parse(text, DEFAULT_PORT))?
    }

    /// The address of an app's repository.
    pub(crate) fn remote(&self, app: &str) -> String {
        format!("ssh://{}@{}:{}/{app}", self.user, self.host, self.port)
    }

    /// `ssh` with all it needs but the command.
    fn ssh(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-o", "LogLevel=ERROR", "-p", &self.port.to_string()]);
        if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
            ssh.arg("-t");
        }
        ssh.args(["--", &format!("{}@{}", self.user, self.host.trim_matches(['[', ']']))]);
        ssh
    }

    /// Carries `words` out there, and ends as they do.
    pub(crate) fn run(&self, words: &[String], app: Option<&str>, input: Option<File>) -> Result<()> {
        let inferred = app.map(|app| ["--inferred-app".to_owned(), app.to_owned()]);
        let words = inferred.iter().flatten().chain(words);
        let line: Vec<String> = words.map(|word| quoted(word)).collect();
        let failed = |error: std::io::Error| {
            CliError::Failed(match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "there is no `ssh` here: install an OpenSSH client".to_owned()
                }
                _ => format!("cannot run ssh: {error}"),
            })
        };
        let mut ssh = self.ssh();
        if let Some(file) = input {
            ssh.stdin(file);
        }
        let status = ssh.arg(line.join(" ")).status().map_err(failed)?;
        match status.code() {
            Some(0) => Ok(()),
            Some(255) => Err(CliError::Failed(format!(
                "no answer from {}@{} port {}: is the address right, and is your key there (berth ssh-keys:add)?",
                self.user, self.host, self.port
            ))),
            Some(code) => Err(CliError::Exit(u8::try_from(code).unwrap_or(1))),
            None => Err(CliError::Exit(130)),
        }
    }
}

/// As a POSIX shell, or whoever splits like one, reads it back.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_kind() {
        let address =
            |text| Address::parse(text, 2222).map(|at| format!("{} {} {}", at.user, at.host, at.port));
        assert_eq!(address("ssh://dokku@host:3022/app").as_deref(), Some("dokku host 3022"));
        assert_eq!(address("ssh://paas@host/app").as_deref(), Some("paas host 2222"));
        assert_eq!(address("dokku@host:app").as_deref(), Some("dokku host 22"));
        assert_eq!(address("host").as_deref(), Some("paas host 2222"));
        assert_eq!(address("ssh://host").as_deref(), Some("paas host 2222"));
        for bad in ["https://host", "", "-oProxyCommand=id", "a@-x", "a b", "ssh://host:99999", "x@host;id"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn words_stay_words() {
        assert_eq!(quoted("config:set"), "config:set");
        assert_eq!(quoted("A=it's $x"), r"'A=it'\''s $x'");
        assert_eq!(quoted(""), "''");
    }
}
