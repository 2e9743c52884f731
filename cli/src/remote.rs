//! The app that a working tree belongs to: what its git remote points at.
//!
//! In: `git remote get-url` in the current directory. Out: an app name, if a remote called `paas`, `dokku` or `heroku`
//! names one, and the platform's SSH address; a remote of that name when an app is created, none when it is destroyed.

use crate::error::Result;
use crate::output::Output;
use crate::ssh::Address;
use berth_model::AppName;
use std::process::{Command, Stdio};

/// Remotes that are looked at, in order.
pub(crate) const REMOTES: [&str; 3] = ["paas", "dokku", "heroku"];

/// The app of the working tree around the current directory.
pub(crate) fn app_of_working_tree() -> Option<AppName> {
    let own = own_name();
    let names = std::iter::once(own.as_str()).chain(REMOTES);
    names.into_iter().find_map(|name| app_of_url(&git(&["remote", "get-url", name])?))
}

fn git(arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    git.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The platform that the working tree is pushed to, and the remote that says so. One called `heroku` leads to Heroku.
pub(crate) fn platform_of_working_tree() -> Option<Address> {
    let own = own_name();
    let names = [own.as_str(), REMOTES[0], REMOTES[1]];
    names.iter().find_map(|name| {
        let url = git(&["remote", "get-url", name])?;
        app_of_url(&url)?;
        Address::parse(&url, 22)
    })
}

/// What the remote is called here: `git config dokku.remote` and `DOKKU_GIT_REMOTE`, as for Dokku's own client, else `paas`.
fn own_name() -> String {
    let said = std::env::var("DOKKU_GIT_REMOTE").ok().filter(|name| !name.is_empty());
    said.or_else(|| git(&["config", "dokku.remote"])).unwrap_or_else(|| REMOTES[0].to_owned())
}

/// Adds the remote of a new app to the working tree here, unless there is one already; whether it did.
pub(crate) fn remember(address: &Address, app: &AppName, out: Output) -> Result<bool> {
    let name = own_name();
    if git(&["rev-parse", "--is-inside-work-tree"]).as_deref() != Some("true") {
        return Ok(false);
    }
    let url = address.remote(app.as_str());
    if let Some(other) = git(&["remote", "get-url", &name]) {
        out.detail(&format!("The git remote {name} stays {other}; {app} is at {url}"))?;
        return Ok(true);
    }
    if git(&["remote", "add", &name, &url]).is_none() {
        return Ok(false);
    }
    out.detail(&format!("Push to it: git push {name} main (remote {name} is {url})"))?;
    Ok(true)
}

/// Takes the remotes of an app that is gone out of the working tree here.
pub(crate) fn forget(app: &AppName) {
    let own = own_name();
    for name in [own.as_str(), REMOTES[0], REMOTES[1]] {
        if git(&["remote", "get-url", name]).and_then(|url| app_of_url(&url)).as_ref() == Some(app) {
            let _ = git(&["remote", "remove", name]);
        }
    }
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
