//! `proxy:*`, `nginx:*`, `http-auth:*`, `redirect:*`: how the proxy treats an app's requests.
//!
//! In: keys and values, paths, users. Out: patches of the app's or the platform's settings, and reports.

use super::not_here;
use crate::args::{command, option, report, switch};
use crate::context::{Context, arguments, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, warning};
use crate::report::Report;
use berth_model::HostPattern;
use berth_model::api::AppInfo;
use berth_model::policy::{PathPrefix, Redirect};
use berth_model::proxy_api::{PatchProxy, ProxyInfo};
use berth_model::proxy_settings::{AppPath, find, time, time_text};
use clap::{ArgMatches, Command};
use http::Method;
use std::collections::BTreeMap;
use tokio::io::AsyncReadExt;

/// How long requests are held by `proxy:pause`, unless told otherwise.
const PAUSE_MS: u64 = 30_000;

pub(super) fn commands() -> Vec<Command> {
    own_commands().into_iter().chain(super::traffic::commands()).collect()
}

fn own_commands() -> Vec<Command> {
    let global = || switch("global", "For the platform: what holds for apps that set nothing");
    vec![
        report(
            "proxy:report",
            "Show how an app's requests are treated",
            "[<app>|--global] [--KEY]",
            &["proxy:report hello", "proxy:report hello --proxy-max-body-size"],
        )
        .alias("nginx:report")
        .arg(global()),
        command(
            "proxy:set",
            "Set how an app's requests are treated; without a value, reset it",
            "[<app>|--global] KEY [VALUE]",
            &[
                "proxy:set hello max-body-size 50m",
                "proxy:set hello https-redirect on",
                "proxy:set hello rate-limit 10/s",
                "proxy:set hello scale-to-zero 15m",
                "proxy:set --global read-timeout 2m",
            ],
        )
        .alias("nginx:set")
        .arg(global()),
        command(
            "proxy:pause",
            "Hold an app's requests until proxy:resume",
            "[<app>]",
            &["proxy:pause hello", "proxy:pause hello --max-wait 1m"],
        )
        .arg(option(
            "max-wait",
            "TIME",
            "How long a request waits before it gets 503 [default: 30s]",
        )),
        command("proxy:resume", "Let the requests go on", "[<app>]", &["proxy:resume hello"]),
        command("proxy:routes", "List the paths that lead to an app", "[<app>]", &["proxy:routes hello"]),
        command(
            "proxy:route-add",
            "Lead a path of a host to an app",
            "[<app>] HOST/PATH",
            &[
                "proxy:route-add hello example.com/api",
                "proxy:route-add hello example.com/api --strip-prefix",
            ],
        )
        .arg(switch("strip-prefix", "The app gets the path without this prefix")),
        command(
            "proxy:route-remove",
            "Take such a path away",
            "[<app>] HOST/PATH",
            &["proxy:route-remove hello example.com/api"],
        ),
    ]
}

pub(super) fn auth_commands() -> Vec<Command> {
    vec![
        report(
            "http-auth:report",
            "Show who may enter an app",
            "[<app>] [--KEY]",
            &["http-auth:report hello"],
        ),
        command(
            "http-auth:add-user",
            "Ask for a name and a password, and take this one",
            "[<app>] USER [PASSWORD]",
            &["http-auth:add-user hello alice --password-stdin < password"],
        )
        .alias("http-auth:enable")
        .arg(switch("password-stdin", "Read the password, or its bcrypt hash, from standard input")),
        command(
            "http-auth:remove-user",
            "Take a user away; without any, everybody may enter",
            "[<app>] USER",
            &["http-auth:remove-user hello alice"],
        ),
        command("http-auth:disable", "Take all users away", "[<app>]", &["http-auth:disable hello"]),
    ]
}

pub(super) fn redirect_commands() -> Vec<Command> {
    vec![
        report(
            "redirect:report",
            "List the redirects of an app's hosts",
            "[<app>]",
            &["redirect:report hello"],
        )
        .visible_alias("redirect"),
        command(
            "redirect:set",
            "Send the requests for one of an app's hosts to another host",
            "[<app>] FROM TO [301|302|307|308]",
            &[
                "redirect:set hello www.example.com example.com",
                "redirect:set hello old.example.com example.com 302",
            ],
        )
        .alias("redirects:set"),
        command(
            "redirect:unset",
            "Take a redirect away",
            "[<app>] FROM",
            &["redirect:unset hello www.example.com"],
        )
        .alias("redirects:unset"),
    ]
}

/// The settings of an app.
pub(super) async fn info(context: &Context, app: &berth_model::AppName) -> Result<ProxyInfo> {
    context.get(&format!("/v1/apps/{app}/proxy")).await
}

/// Changes the settings of an app.
pub(super) async fn patch(
    context: &Context,
    app: &berth_model::AppName,
    patch: &PatchProxy,
) -> Result<ProxyInfo> {
    context.json(Method::PATCH, &format!("/v1/apps/{app}/proxy"), patch).await
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "proxy:report" => show(context, matches).await,
        "proxy:set" => set(context, matches, matches.get_flag("global")).await,
        "proxy:pause" => {
            let app = context.only_app(matches).await?;
            let wait = matches.get_one::<String>("max-wait");
            let pause_ms = match wait {
                None => PAUSE_MS,
                Some(text) => time(text).filter(|ms| *ms > 0).ok_or_else(|| {
                    CliError::Misuse(format!("{text:?} is no time: write, for instance, 30s"))
                })?,
            };
            patch(context, &app, &PatchProxy { pause_ms: Some(pause_ms), ..PatchProxy::default() }).await?;
            let held = time_text(pause_ms);
            context.out.step(&format!("Holding the requests of {app}, {held} each at most"))
        }
        "proxy:resume" => {
            let app = context.only_app(matches).await?;
            patch(context, &app, &PatchProxy { pause_ms: Some(0), ..PatchProxy::default() }).await?;
            context.out.step(&format!("Letting the requests of {app} go on"))
        }
        "proxy:routes" => {
            let app = context.only_app(matches).await?;
            let paths = info(context, &app).await?.paths;
            if context.out.json {
                return context.out.json(&paths);
            }
            context.out.header(&format!("Paths that lead to {app}"))?;
            let row = |path: &AppPath| {
                let strip = if path.strip { "without the prefix" } else { "" };
                vec![format!("{}{}", path.host, path.prefix), strip.to_owned()]
            };
            let rows: Vec<_> = paths.iter().map(row).collect();
            table(&rows).iter().try_for_each(|line| context.out.line(line))
        }
        "proxy:route-add" | "proxy:route-remove" => route(context, name, matches).await,
        _ => super::traffic::run(context, name, matches).await,
    }
}

/// `example.com/api`.
pub(super) fn path_of(text: &str, strip: bool) -> Result<AppPath> {
    let bare = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
    let wrong =
        || CliError::Misuse(format!("{text:?} is no host and path: write, for instance, example.com/api"));
    let slash = bare.find('/').ok_or_else(wrong)?;
    let (host, path) = bare.split_at(slash);
    let host = HostPattern::parse(&host.to_ascii_lowercase())?;
    let prefix = PathPrefix::parse(path).map_err(CliError::Misuse)?;
    Ok(AppPath { host, prefix, strip })
}

async fn route(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let adds = name == "proxy:route-add";
    if rest.is_empty() {
        return Err(CliError::Misuse("no path is named: write, for instance, example.com/api".into()));
    }
    let strip = adds && matches.get_flag("strip-prefix");
    let paths = rest.iter().map(|word| path_of(word, strip)).collect::<Result<Vec<_>>>()?;
    let change = match adds {
        true => PatchProxy { add_paths: paths, ..PatchProxy::default() },
        false => PatchProxy { remove_paths: paths, ..PatchProxy::default() },
    };
    patch(context, &app, &change).await?;
    let verb = if adds { "Added" } else { "Removed" };
    context.out.step(&format!("{verb} {} for {app}", rest.join(" ")))
}

/// Sets one key of an app or of the platform.
pub(super) async fn set(context: &Context, matches: &ArgMatches, global: bool) -> Result<()> {
    let (app, rest) = match global {
        true => (None, arguments(matches)),
        false => {
            let (app, rest) = context.app(matches, true).await?;
            (Some(app), rest)
        }
    };
    let (name, value) = match &rest[..] {
        [name] => (name, String::new()),
        [name, value @ ..] => (name, value.join(" ")),
        [] => return Err(CliError::Misuse("write: proxy:set <app> KEY VALUE".into())),
    };
    let key = find(name).map_err(CliError::Misuse)?;
    let change = PatchProxy { set: BTreeMap::from([(key.name.to_owned(), value)]), ..PatchProxy::default() };
    let now = match &app {
        Some(app) => patch(context, app, &change).await?,
        None => context.json(Method::PATCH, "/v1/proxy", &change).await?,
    };
    let said = match now.values.get(key.name) {
        Some(value) => format!("Setting {} to {value}", key.name),
        None => format!("Unsetting {}", key.name),
    };
    context.out.step(&said)
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    if matches.get_flag("global") {
        none_left(&arguments(matches))?;
        let info: ProxyInfo = context.get("/v1/proxy").await?;
        if context.out.json && field.is_none() {
            return context.out.json(&info);
        }
        return values(Report::new("Global", "proxy"), &info)
            .row("Proxy error pages", info.pages.join(" "))
            .show(context.out, field);
    }
    let apps: Vec<AppInfo> = context.infos(matches).await?;
    let out = context.out.of(apps.len());
    for app in apps {
        let info = info(context, &app.name).await?;
        if out.json && field.is_none() {
            out.json(&info)?;
            continue;
        }
        let routes: Vec<_> = info.paths.iter().map(|path| format!("{}{}", path.host, path.prefix)).collect();
        let redirects: Vec<_> = info.redirects.iter().map(|one| format!("{}>{}", one.from, one.to)).collect();
        values(Report::new(app.name.as_str(), "proxy"), &info)
            .row("Proxy asleep", info.asleep.to_string())
            .row("Proxy error pages", info.pages.join(" "))
            .row("Proxy maintenance", info.maintenance.to_string())
            .row("Proxy paused", info.paused_ms.map_or("false".to_owned(), time_text))
            .row("Proxy redirects", redirects.join(" "))
            .row("Proxy routes", routes.join(" "))
            .row("Proxy users", info.users.join(" "))
            .show(out, field)?;
    }
    Ok(())
}

fn values(report: Report, info: &ProxyInfo) -> Report {
    let label = |name: &str| format!("Proxy {}", name.replace('-', " "));
    info.effective.iter().fold(report, |report, (name, value)| report.row(&label(name), value.clone()))
}

pub(super) async fn run_auth(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    if name == "http-auth:report" {
        let field = matches.get_one::<String>("field").map(String::as_str);
        for app in context.infos(matches).await? {
            let users = info(context, &app.name).await?.users;
            Report::new(app.name.as_str(), "http-auth")
                .row("Http auth enabled", (!users.is_empty()).to_string())
                .row("Http auth users", users.join(" "))
                .show(context.out, field)?;
        }
        return Ok(());
    }
    let (app, rest) = context.app(matches, true).await?;
    let (users, said) = match (name, &rest[..]) {
        ("http-auth:add-user", [user, given @ ..]) if given.len() < 2 => {
            let password = match given.first() {
                Some(password) => {
                    warning(
                        "a password on the command line stays in the shell's history: use --password-stdin",
                    );
                    password.clone()
                }
                None if matches.get_flag("password-stdin") => from_stdin().await?,
                None => {
                    return Err(CliError::Misuse(
                        "send the password on standard input, with --password-stdin".into(),
                    ));
                }
            };
            (BTreeMap::from([(user.clone(), Some(password))]), format!("{user} may enter {app}"))
        }
        ("http-auth:remove-user", [user]) => {
            (BTreeMap::from([(user.clone(), None)]), format!("{user} may enter {app} no more"))
        }
        ("http-auth:disable", []) => {
            let users = info(context, &app).await?.users;
            (users.into_iter().map(|user| (user, None)).collect(), format!("Everybody may enter {app}"))
        }
        ("http-auth:add-user" | "http-auth:remove-user" | "http-auth:disable", _) => {
            return Err(CliError::Misuse(format!("see how it is written with: berth help {name}")));
        }
        _ => return Err(not_here(name)),
    };
    patch(context, &app, &PatchProxy { users, ..PatchProxy::default() }).await?;
    context.out.step(&said)
}

async fn from_stdin() -> Result<String> {
    let mut text = String::new();
    let read = tokio::io::stdin().take(4096).read_to_string(&mut text).await;
    read.map_err(|error| CliError::Failed(format!("cannot read the password: {error}")))?;
    let password = text.trim_end_matches(['\n', '\r']).to_owned();
    if password.is_empty() {
        return Err(CliError::Misuse("standard input has no password".into()));
    }
    Ok(password)
}

pub(super) async fn run_redirects(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, name != "redirect:report").await?;
    let mut redirects = info(context, &app).await?.redirects;
    let host = |text: &str| HostPattern::parse(&text.to_ascii_lowercase());
    let said = match (name, &rest[..]) {
        ("redirect:report", []) => {
            if context.out.json {
                return context.out.json(&redirects);
            }
            context.out.header(&format!("Redirects of {app}"))?;
            let row = |one: &Redirect| vec![one.from.to_string(), one.to.to_string(), one.status.to_string()];
            let rows: Vec<_> = redirects.iter().map(row).collect();
            return table(&rows).iter().try_for_each(|line| context.out.line(line));
        }
        ("redirect:set", [from, to, code @ ..]) if code.len() < 2 => {
            let status = match code.first() {
                None => 301,
                Some(code) => code.parse().map_err(|_| {
                    CliError::Misuse(format!("{code:?} is no status: write 301, 302, 307 or 308"))
                })?,
            };
            let from = host(from)?;
            redirects.retain(|one| one.from != from);
            let said = format!("Sending {from} to {to}");
            redirects.push(Redirect { from, to: host(to)?, status });
            said
        }
        ("redirect:unset", [from]) => {
            let from = host(from)?;
            let before = redirects.len();
            redirects.retain(|one| one.from != from);
            if redirects.len() == before {
                return Err(CliError::Failed(format!(
                    "{app} has no redirect of {from}; see: berth redirect:report"
                )));
            }
            format!("Sending {from} nowhere else")
        }
        ("redirect:report" | "redirect:set" | "redirect:unset", _) => {
            return Err(CliError::Misuse(format!("see how it is written with: berth help {name}")));
        }
        _ => return Err(not_here(name)),
    };
    patch(context, &app, &PatchProxy { redirects: Some(redirects), ..PatchProxy::default() }).await?;
    context.out.step(&said)
}
