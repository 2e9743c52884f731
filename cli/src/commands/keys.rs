//! `ssh-keys:*`: who may push and command over SSH.
//!
//! In: a name and a public key, from a file or standard input. Out: the list of keys.

use super::not_here;
use crate::args::command;
use crate::context::{Context, arguments, exactly_one, holder_name, none_left};
use crate::error::{CliError, Result};
use berth_model::api::{AddSshKey, SshKeyInfo};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("ssh-keys:list", "List the keys", "", &["ssh-keys:list"]).visible_alias("ssh-keys"),
        command(
            "ssh-keys:add",
            "Let a key push and command",
            "NAME [FILE]",
            &["ssh-keys:add alice ~/.ssh/id_ed25519.pub", "ssh-keys:add alice < id_ed25519.pub"],
        ),
        command("ssh-keys:remove", "Let it no longer", "NAME", &["ssh-keys:remove alice"]),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let words = arguments(matches);
    match name {
        "ssh-keys:list" => {
            none_left(&words)?;
            list(context).await
        }
        "ssh-keys:add" => add(context, &words).await,
        "ssh-keys:remove" => {
            let holder = exactly_one(words, "the key's name")?;
            let path = format!("/v1/ssh-keys/{}", holder_name(&holder)?);
            context.act(Method::DELETE, &path, None::<&()>).await
        }
        _ => Err(not_here(name)),
    }
}

async fn list(context: &Context) -> Result<()> {
    let keys: Vec<SshKeyInfo> = context.get("/v1/ssh-keys").await?;
    if context.out.json {
        return context.out.json(&keys);
    }
    if keys.is_empty() {
        return Err(CliError::Failed("No public keys found: add one with ssh-keys:add NAME FILE".into()));
    }
    keys.iter().try_for_each(|key| {
        context.out.line(&format!("{} NAME=\"{}\" TYPE=\"{}\"", key.fingerprint, key.name, key.algorithm))
    })
}

async fn add(context: &Context, words: &[String]) -> Result<()> {
    let (holder, file) = match words {
        [holder] => (holder, "-"),
        [holder, file] => (holder, file.as_str()),
        [] => return Err(CliError::Misuse("the key's name is missing".into())),
        [_, _, more, ..] => return Err(CliError::Misuse(format!("{more:?} is one argument too many"))),
    };
    let text = super::config::read_input(context, file)?;
    if text.contains("PRIVATE KEY") {
        return Err(CliError::Failed(format!(
            "{file} is a private key, which must stay where it is: give the .pub file"
        )));
    }
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let [line] = lines[..] else {
        return Err(CliError::Failed(format!(
            "{file} has {} keys; give exactly one line such as `ssh-ed25519 AAAA…`",
            lines.len()
        )));
    };
    let key = AddSshKey { name: holder_name(holder)?.to_owned(), public_key: line.to_owned() };
    let info: SshKeyInfo = context.json(Method::POST, "/v1/ssh-keys", &key).await?;
    if context.out.json { context.out.json(&info) } else { context.out.line(&info.fingerprint) }
}
