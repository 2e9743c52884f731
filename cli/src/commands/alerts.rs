//! `alerts:*`: webhooks that are told when something goes wrong, and when it is over.
//!
//! In: an address, of what. Out: alerts with what is wrong now; secrets of addresses are never shown.

use super::not_here;
use crate::args::{command, option};
use crate::context::{Context, arguments, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, time};
use berth_model::AppName;
use berth_model::alerts::{AddAlert, AlertInfo, AlertKind};
use clap::{ArgMatches, Command};
use http::Method;
use std::collections::BTreeSet;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "alerts:add",
            "Tell a webhook when something goes wrong",
            "URL [--app APP] [--on KIND,...] [--secret SECRET]",
            &[
                "alerts:add https://hooks.slack.com/services/…",
                "alerts:add https://example.com/hook --app hello --on deploy-failed,app-down",
            ],
        )
        .arg(option(
            "on",
            "KINDS",
            "Only these: deploy-failed, app-down, disk-full, certificate-expiring, out-of-memory, node-lost, node-short",
        ))
        .arg(option(
            "secret",
            "SECRET",
            "Sign each body with it (HMAC-SHA256, header Berth-Signature)",
        )),
        command("alerts:list", "Show who is told, and what is wrong now", "", &["alerts:list"])
            .visible_alias("alerts"),
        command("alerts:remove", "Tell it nothing any more", "ID", &["alerts:remove 1a2b3c4d"]),
        command("alerts:test", "Tell a webhook, or all, that this is a test", "[ID]", &["alerts:test"]),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "alerts:add" => add(context, matches).await,
        "alerts:list" => list(context, matches).await,
        "alerts:remove" => {
            let id = id(&exactly_one(arguments(matches), "the alert's id")?, "alerts:list")?;
            context.act(Method::DELETE, &format!("/v1/alerts/{id}"), None::<&()>).await?;
            context.out.step(&format!("Removed alert {id}"))
        }
        "alerts:test" => test(context, matches).await,
        _ => Err(not_here(name)),
    }
}

/// The id of a drain or alert, safe in a path.
pub(super) fn id(text: &str, list: &str) -> Result<String> {
    let fits = !text.is_empty() && text.len() <= 40 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let shown: String = text.chars().take(80).collect();
    let refused = || CliError::Misuse(format!("{shown:?} is no id; see them with: berth {list}"));
    fits.then(|| text.to_owned()).ok_or_else(refused)
}

async fn add(context: &Context, matches: &ArgMatches) -> Result<()> {
    // The app is only taken from --app: without it the platform is meant, wherever the command is typed.
    let app = context.named_app().map(AppName::parse).transpose()?;
    let url = exactly_one(arguments(matches), "the webhook's address")?;
    let words = matches.get_one::<String>("on").map(String::as_str).unwrap_or_default();
    let kinds = words.split(',').map(str::trim).filter(|word| !word.is_empty());
    let on = kinds.map(AlertKind::parse).collect::<std::result::Result<BTreeSet<_>, _>>();
    let on = on.map_err(CliError::Misuse)?;
    let secret = matches.get_one::<String>("secret").cloned();
    let new = AddAlert { url, app, on, secret };
    let alert: AlertInfo = context.json(Method::POST, "/v1/alerts", &new).await?;
    if context.out.json {
        return context.out.json(&alert);
    }
    context.out.step(&format!("Telling {} of {} (alert {})", alert.url, kinds_of(&alert), alert.id))?;
    context.out.detail(&format!("try it: berth alerts:test {}", alert.id))
}

fn kinds_of(alert: &AlertInfo) -> String {
    let kinds: Vec<&str> = alert.on.iter().map(|kind| kind.as_str()).collect();
    kinds.join(",")
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    none_left(&arguments(matches))?;
    let app = context.named_app().map(AppName::parse).transpose()?;
    let mut alerts: Vec<AlertInfo> = context.get("/v1/alerts").await?;
    alerts.retain(|alert| app.is_none() || alert.app.is_none() || alert.app == app);
    if context.out.json {
        return context.out.json(&alerts);
    }
    context.out.header("Alerts")?;
    let row = |alert: &AlertInfo| {
        let whose = alert.app.as_ref().map_or("--global".to_owned(), ToString::to_string);
        let last = alert.last_sent_ms.map_or("-".to_owned(), time);
        let error = alert.error.clone().unwrap_or_default();
        vec![alert.id.clone(), whose, kinds_of(alert), alert.url.clone(), last, error]
    };
    let rows: Vec<_> = alerts.iter().map(row).collect();
    table(&rows).iter().try_for_each(|line| context.out.line(line))?;
    let firing: BTreeSet<&String> = alerts.iter().flat_map(|alert| &alert.firing).collect();
    firing.into_iter().try_for_each(|text| context.out.line(&format!(" !     {text}")))
}

async fn test(context: &Context, matches: &ArgMatches) -> Result<()> {
    let mut rest = arguments(matches);
    let one = if rest.is_empty() { None } else { Some(id(&rest.remove(0), "alerts:list")?) };
    none_left(&rest)?;
    let path = one.as_ref().map_or("/v1/alerts-test".to_owned(), |id| format!("/v1/alerts-test?id={id}"));
    context.act(Method::POST, &path, None::<&()>).await?;
    context.out.step("The webhook took it")
}
