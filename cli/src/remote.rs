//! The app that a working tree belongs to: what its git remote points at.
//!
//! In: `git remote get-url` in the current directory. Out: an app name, if a remote called `paas`, `dokku` or `heroku`
//! names one.

use berth_model::AppName;
use std::process::{Command, Stdio};

/// Remotes that are looked at, in order.
pub(crate) const REMOTES: [&str; 3] = ["paas", "dokku", "heroku"];

/// The app of the working tree around the current directory.
pub(crate) fn app_of_working_tree() -> Option<AppName> {
    REMOTES.iter().find_map(|remote| {
        let mut git = Command::new("git");
        git.args(["remote", "get-url", remote]).stdin(Stdio::null()).stderr(Stdio::null());
        let output = git.output().ok().filter(|output| output.status.success())?;
        app_of_url(String::from_utf8(output.stdout).ok()?.trim())
    })
}

/// The app that a remote's address leads to: `ssh://paas@host:2222/app`, `paas@host:app`, `https://host/app.git`.
fn app_of_url(url: &str) -> Option<AppName> {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?.1,
        None => url.split_once(':')?.1,
    };
    let path = path.trim_matches('/');
    AppName::parse(path.strip_suffix(".git").unwrap_or(path)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_address_names_its_app() {
        for url in [
            "ssh://paas@host:2222/hello",
            "paas@host:hello",
            "https://host/hello.git",
            "paas@host:/hello.git",
        ] {
            assert_eq!(app_of_url(url).as_ref().map(AppName::as_str), Some("hello"), "{url}");
        }
        for url in ["https://github.com/someone/hello.git", "/srv/git/hello", "paas@host:", "https://host"] {
            assert_eq!(app_of_url(url), None, "{url}");
        }
        assert_eq!(
            app_of_url("paas@host:www.example.com").as_ref().map(AppName::as_str),
            Some("www.example.com")
        );
    }
}
