//! `maintenance:*` and `errors:*`: what is shown while an app is worked on, or cannot answer.
//!
//! In: a switch, HTML from a file or standard input. Out: patches of the app's or the platform's settings.

use super::{not_here, proxy};
use crate::args::{command, report, switch};
use crate::context::{Context, arguments, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::report::Report;
use berth_model::proxy_api::{PatchProxy, ProxyInfo};
use berth_model::proxy_settings::{MAINTENANCE_PAGE, MAX_PAGE};
use clap::{ArgMatches, Command};
use http::Method;
use std::collections::BTreeMap;
use tokio::io::AsyncReadExt;

pub(super) fn commands() -> Vec<Command> {
    vec![
        report(
            "maintenance:report",
            "Show whether an app is being worked on",
            "[<app>] [--KEY]",
            &["maintenance:report hello"],
        )
        .visible_alias("maintenance"),
        command("maintenance:on", "Answer 503 in place of an app", "[<app>]", &["maintenance:on hello"])
            .alias("maintenance:enable"),
        command("maintenance:off", "Let the app answer again", "[<app>]", &["maintenance:off hello"])
            .alias("maintenance:disable"),
        command(
            "maintenance:custom-page",
            "Show this page meanwhile",
            "[<app>] [FILE]",
            &["maintenance:custom-page hello page.html", "maintenance:custom-page hello < page.html"],
        )
        .arg(switch("reset", "Show Berth's own page again")),
    ]
}

pub(super) fn error_commands() -> Vec<Command> {
    let global = || switch("global", "For all apps that have no page of their own");
    vec![
        command(
            "errors:set",
            "Show this page in place of the proxy's own",
            "[<app>|--global] STATUS [FILE]",
            &["errors:set hello 502 502.html", "errors:set --global 404 < 404.html"],
        )
        .arg(global()),
        command(
            "errors:unset",
            "Show the proxy's own page again",
            "[<app>|--global] STATUS",
            &["errors:unset hello 502"],
        )
        .arg(global()),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "maintenance:report" => {
            let field = matches.get_one::<String>("field").map(String::as_str);
            for app in context.infos(matches).await? {
                let info = proxy::info(context, &app.name).await?;
                let custom = info.pages.iter().any(|page| page == MAINTENANCE_PAGE);
                Report::new(app.name.as_str(), "maintenance")
                    .row("Maintenance custom page", custom.to_string())
                    .row("Maintenance enabled", info.maintenance.to_string())
                    .show(context.out, field)?;
            }
            Ok(())
        }
        "maintenance:on" | "maintenance:off" => {
            let app = context.only_app(matches).await?;
            let on = name == "maintenance:on";
            proxy::patch(context, &app, &PatchProxy { maintenance: Some(on), ..PatchProxy::default() })
                .await?;
            let verb = if on { "Enabling" } else { "Disabling" };
            context.out.step(&format!("{verb} maintenance mode for {app}"))
        }
        "maintenance:custom-page" => {
            let (app, rest) = context.app(matches, true).await?;
            let page = match matches.get_flag("reset") {
                true => {
                    none_left(&rest)?;
                    None
                }
                false => Some(html(context, rest).await?),
            };
            let said = if page.is_some() { "Setting" } else { "Resetting" };
            let pages = BTreeMap::from([(MAINTENANCE_PAGE.to_owned(), page)]);
            proxy::patch(context, &app, &PatchProxy { pages, ..PatchProxy::default() }).await?;
            context.out.step(&format!("{said} the maintenance page of {app}"))
        }
        _ => Err(not_here(name)),
    }
}

pub(super) async fn run_errors(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let (app, mut rest) = match matches.get_flag("global") {
        true => (None, arguments(matches)),
        false => {
            let (app, rest) = context.app(matches, true).await?;
            (Some(app), rest)
        }
    };
    if rest.is_empty() {
        return Err(CliError::Misuse("which status? Write, for instance, 502".into()));
    }
    let status = rest.remove(0);
    let page = match name {
        "errors:set" => Some(html(context, rest).await?),
        "errors:unset" => {
            none_left(&rest)?;
            None
        }
        _ => return Err(not_here(name)),
    };
    let verb = if page.is_some() { "Setting" } else { "Resetting" };
    let change = PatchProxy { pages: BTreeMap::from([(status.clone(), page)]), ..PatchProxy::default() };
    let whose = match &app {
        Some(app) => {
            proxy::patch(context, app, &change).await?;
            app.to_string()
        }
        None => {
            let _: ProxyInfo = context.json(Method::PATCH, "/v1/proxy", &change).await?;
            "all apps".to_owned()
        }
    };
    context.out.step(&format!("{verb} the page for {status} of {whose}"))
}

/// HTML of the file that is named, or of standard input. Over SSH files are not the user's.
async fn html(context: &Context, rest: Vec<String>) -> Result<String> {
    let most = MAX_PAGE as u64 + 1;
    let mut bytes = Vec::new();
    let read = match (rest.is_empty(), context.session) {
        (true, _) => tokio::io::stdin().take(most).read_to_end(&mut bytes).await,
        (false, true) => {
            return Err(CliError::Misuse("over SSH, send the page on standard input".into()));
        }
        (false, false) => {
            let path = exactly_one(rest, "the page")?;
            let file = tokio::fs::File::open(&path).await;
            let file = file.map_err(|error| CliError::Failed(format!("cannot open {path}: {error}")))?;
            file.take(most).read_to_end(&mut bytes).await
        }
    };
    read.map_err(|error| CliError::Failed(format!("cannot read the page: {error}")))?;
    if bytes.len() > MAX_PAGE {
        return Err(CliError::Failed(format!("the page has more than {} KiB", MAX_PAGE >> 10)));
    }
    if bytes.is_empty() {
        return Err(CliError::Misuse("there is no page on standard input".into()));
    }
    String::from_utf8(bytes).map_err(|_| CliError::Failed("the page is no text in UTF-8".into()))
}
