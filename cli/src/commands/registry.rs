//! `registry:*`: logins of other registries, for images that apps are or stand on.
//!
//! In: a server, a user, a password. Out: it is kept encrypted, for one app or all; the list, without passwords.

use super::not_here;
use crate::args::{command, switch};
use crate::context::{Context, arguments, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, warning};
use berth_model::api::{PutRegistry, RegistryInfo};
use berth_model::{AppName, RegistryServer};
use clap::{ArgMatches, Command};
use http::Method;
use tokio::io::AsyncReadExt;

/// Longest password that is read.
const MAX_PASSWORD: u64 = 64 << 10;

pub(super) fn commands() -> Vec<Command> {
    let global = || switch("global", "For all apps; also when no app is named");
    vec![
        command(
            "registry:login",
            "Log in to a registry, to pull from it",
            "[--global|<app>] SERVER [USER [PASSWORD]]",
            &[
                "registry:login docker.io me --password-stdin < token",
                "registry:login hello ghcr.io me --password-stdin < token",
                "registry:login --plain-http 192.0.2.7:5000",
            ],
        )
        .arg(global())
        .arg(switch("password-stdin", "Read the password from standard input"))
        .arg(switch("plain-http", "It has no TLS, or is on this machine: allow that")),
        command(
            "registry:logout",
            "Forget a login",
            "[--global|<app>] SERVER",
            &["registry:logout docker.io"],
        )
        .arg(global()),
        command(
            "registry:report",
            "List the logins",
            "[<app>]",
            &["registry:report", "registry:report hello"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "registry:login" => login(context, matches).await,
        "registry:logout" => logout(context, matches).await,
        "registry:report" => report(context, matches).await,
        _ => Err(not_here(name)),
    }
}

/// Whose login, and the words after that: an app that exists may stand before the server.
async fn scope(context: &Context, matches: &ArgMatches) -> Result<(Option<AppName>, Vec<String>)> {
    let mut words = arguments(matches);
    if matches.get_flag("global") {
        return Ok((None, words));
    }
    if let Some(app) = context.named_app() {
        return Ok((Some(AppName::parse(app)?), words));
    }
    if let [first, second, ..] = &words[..]
        && let (Ok(app), Ok(_)) = (AppName::parse(first), RegistryServer::parse(second))
        && (RegistryServer::parse(first).is_err() || context.exists(&app).await?)
    {
        words.remove(0);
        return Ok((Some(app), words));
    }
    Ok((None, words))
}

fn server(text: &str) -> Result<RegistryServer> {
    RegistryServer::parse(text).map_err(CliError::Misuse)
}

async fn login(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, words) = scope(context, matches).await?;
    let (text, user, given) = match &words[..] {
        [server] => (server, String::new(), None),
        [server, user] => (server, user.clone(), None),
        [server, user, password] => (server, user.clone(), Some(password.clone())),
        _ => {
            return Err(CliError::Misuse(
                "write: registry:login [--global|<app>] SERVER USER --password-stdin".into(),
            ));
        }
    };
    let (server, plain_http) = (server(text)?, matches.get_flag("plain-http"));
    if user.is_empty() && !plain_http {
        return Err(CliError::Misuse(
            "who logs in? Write: registry:login SERVER USER --password-stdin".into(),
        ));
    }
    let password = match (given, user.is_empty()) {
        (_, true) => String::new(),
        (Some(password), _) => {
            warning("a password on the command line stays in the shell's history: use --password-stdin");
            password
        }
        (None, _) if matches.get_flag("password-stdin") => from_stdin().await?,
        (None, _) => {
            return Err(CliError::Misuse(
                "send the password on standard input, with --password-stdin".into(),
            ));
        }
    };
    let said = match (&app, user.as_str()) {
        (_, "") => format!("Allowing plain HTTP for {server}"),
        (Some(app), user) => format!("Logging in to {server} as {user}, for {app}"),
        (None, user) => format!("Logging in to {server} as {user}, for all apps"),
    };
    context.out.step(&said)?;
    let body = PutRegistry { app, server, user, password, plain_http };
    context.act(Method::POST, "/v1/registries", Some(&body)).await
}

async fn from_stdin() -> Result<String> {
    let mut text = String::new();
    let read = tokio::io::stdin().take(MAX_PASSWORD).read_to_string(&mut text).await;
    read.map_err(|error| CliError::Failed(format!("cannot read the password: {error}")))?;
    let password = text.trim_end_matches(['\n', '\r']).to_owned();
    if password.is_empty() {
        return Err(CliError::Misuse("standard input has no password".into()));
    }
    Ok(password)
}

async fn logout(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, words) = scope(context, matches).await?;
    let [text] = &words[..] else {
        return Err(CliError::Misuse("write: registry:logout [--global|<app>] SERVER".into()));
    };
    let server = server(text)?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("server", server.as_str());
    if let Some(app) = &app {
        query.append_pair("app", app.as_str());
    }
    context.act(Method::DELETE, &format!("/v1/registries?{}", query.finish()), None::<&()>).await?;
    context.out.step(&format!("Forgot the login of {server}"))
}

async fn report(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.some_app(matches, false).await?;
    none_left(&rest)?;
    let query = app.as_ref().map_or(String::new(), |app| format!("?app={app}"));
    let logins: Vec<RegistryInfo> = context.get(&format!("/v1/registries{query}")).await?;
    if context.out.json {
        return context.out.json(&logins);
    }
    context.out.header("Registries")?;
    let row = |login: &RegistryInfo| {
        let scope = login.app.as_ref().map_or("all apps".to_owned(), ToString::to_string);
        let user = if login.user.is_empty() { "nobody" } else { &login.user };
        let how = if login.plain_http { "plain HTTP" } else { "" };
        vec![scope, login.server.to_string(), user.to_owned(), how.to_owned()]
    };
    table(&logins.iter().map(row).collect::<Vec<_>>()).iter().try_for_each(|line| context.out.line(line))
}
