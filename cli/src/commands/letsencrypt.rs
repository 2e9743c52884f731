//! `letsencrypt:*` and `certs:auto:*`: certificates that are got by ACME and renewed by themselves.
//!
//! In: apps, settings. Out: progress; what there is, until when, and what went wrong.

use super::certs::scope;
use super::not_here;
use crate::args::{command, explained, report, switch};
use crate::context::{Context, none_left};
use crate::error::{CliError, Result};
use crate::output::{table, time, warning};
use crate::report::Report;
use berth_model::AppName;
use berth_model::api::AppInfo;
use berth_model::certs::{
    AcmeApp, AcmeInfo, AcmeOrder, AcmeSettingsInfo, CertificateReport, PatchAcme, RenewCertificates,
};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "letsencrypt:enable",
            "Get a certificate for the app's domains, and keep it",
            "[<app>]",
            &["letsencrypt:set --global email you@example.com", "letsencrypt:enable hello"],
        )
        .visible_alias("certs:auto:enable"),
        command(
            "letsencrypt:disable",
            "No longer, and take it away",
            "[<app>]",
            &["letsencrypt:disable hello"],
        )
        .visible_alias("certs:auto:disable"),
        command(
            "letsencrypt:list",
            "List certificates, until when they are good and what went wrong",
            "[<app>]",
            &["letsencrypt:list"],
        ),
        report(
            "letsencrypt:report",
            "Show settings, and how it goes",
            "[<app>|--global] [--KEY]",
            &["letsencrypt:report hello", "certs:auto hello"],
        )
        .visible_alias("certs:auto")
        .arg(switch("global", "What holds for apps without settings of their own")),
        explained(
            command(
                "letsencrypt:set",
                "Change a setting; without a value, forget it",
                "[<app>|--global] KEY [VALUE]",
                &[
                    "letsencrypt:set --global email you@example.com",
                    "letsencrypt:set hello server staging",
                    "letsencrypt:set --global dns-provider /usr/local/sbin/dns-records",
                    "letsencrypt:set --global ca-bundle ca.pem",
                ],
            )
            .arg(switch("global", "For every app that does not say otherwise")),
            "Keys: email, server (production, staging or a directory URL), challenge (auto, http-01, tls-alpn-01,\n\
             dns-01), dns-provider (a program or a URL), dns-token, dns-wait (seconds), ask-url, ca-bundle (a file),\n\
             eab-key-id, eab-key. The value `-` is read from standard input.",
        ),
        command(
            "letsencrypt:auto-renew",
            "Renew now what is due or failed; with --force all",
            "[<app>] [--force]",
            &["letsencrypt:auto-renew", "letsencrypt:auto-renew hello --force"],
        )
        .visible_alias("certs:auto:refresh"),
        command(
            "letsencrypt:revoke",
            "Have the CA declare the certificate void",
            "[<app>]",
            &["letsencrypt:revoke hello"],
        ),
        command(
            "letsencrypt:active",
            "Whether it is on: true or false",
            "[<app>]",
            &["letsencrypt:active hello"],
        ),
        command(
            "letsencrypt:cron-job",
            "Nothing to do: renewal is automatic",
            "--add|--remove",
            &["letsencrypt:cron-job --add"],
        )
        .arg(switch("add", "Accepted, for scripts made for Dokku"))
        .arg(switch("remove", "Refused: renewal cannot be switched off but with letsencrypt:disable")),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "letsencrypt:enable" => {
            let app = context.only_app(matches).await?;
            context.act(Method::POST, &format!("/v1/apps/{app}/acme/enable"), None::<&()>).await
        }
        "letsencrypt:disable" => {
            let app = context.only_app(matches).await?;
            context.act(Method::POST, &format!("/v1/apps/{app}/acme/disable"), None::<&()>).await?;
            context.out.step(&format!("No certificates are got for {app} any more"))
        }
        "letsencrypt:list" => list(context, matches).await,
        "letsencrypt:report" => show(context, matches).await,
        "letsencrypt:set" => set(context, matches).await,
        "letsencrypt:auto-renew" => renew(context, matches).await,
        "letsencrypt:revoke" => revoke(context, matches).await,
        "letsencrypt:active" => {
            let app = context.only_app(matches).await?;
            let report: CertificateReport = context.get(&format!("/v1/apps/{app}/certificate")).await?;
            context.out.line(&report.acme.enabled.to_string())
        }
        "letsencrypt:cron-job" => cron_job(context, matches),
        _ => Err(not_here(name)),
    }
}

fn cron_job(context: &Context, matches: &ArgMatches) -> Result<()> {
    if matches.get_flag("remove") {
        return Err(CliError::Failed(
            "there is no cron job: Berth renews certificates by itself; letsencrypt:disable <app> ends that"
                .into(),
        ));
    }
    context.out.step("Nothing to add: Berth renews every certificate when a third of its life is left")
}

async fn revoke(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    context
        .confirm(app.as_str(), &format!("The certificate of {app} will be void, for good, and taken away"))?;
    context.act(Method::POST, &format!("/v1/apps/{app}/acme/revoke"), None::<&()>).await
}

async fn renew(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.some_app(matches, false).await?;
    none_left(&rest)?;
    let apps = match app {
        Some(app) => vec![app],
        None => {
            let all: Vec<AcmeApp> = context.get("/v1/acme/apps").await?;
            all.into_iter().filter(|one| one.acme.enabled).map(|one| one.app).collect()
        }
    };
    let body = RenewCertificates { force: context.force };
    let mut result = Ok(());
    for app in apps {
        let renewed = context.act(Method::POST, &format!("/v1/apps/{app}/acme/renew"), Some(&body)).await;
        // One app's failure is no reason to leave the others alone; the last one is the exit code.
        if let Err(error) = renewed
            && let Err(earlier) = std::mem::replace(&mut result, Err(error))
        {
            warning(&earlier.to_string());
        }
    }
    result
}

/// Changes settings of an app, or of the platform.
pub(super) async fn patch(context: &Context, app: Option<&AppName>, patch: &PatchAcme) -> Result<()> {
    let path = app.map_or("/v1/acme".to_owned(), |app| format!("/v1/apps/{app}/acme"));
    let _now: AcmeSettingsInfo = context.json(Method::PATCH, &path, patch).await?;
    Ok(())
}

async fn set(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, words) = scope(context, matches, true).await?;
    let (key, given) = match &words[..] {
        [key] => (key.as_str(), None),
        [key, value] => (key.as_str(), Some(value.as_str())),
        [] => {
            return Err(CliError::Misuse(
                "which setting? Write: letsencrypt:set [<app>|--global] KEY VALUE".into(),
            ));
        }
        [_, _, more, ..] => return Err(CliError::Misuse(format!("{more:?} is one argument too many"))),
    };
    let value = match (key, given) {
        (_, None | Some("")) => String::new(),
        (_, Some("-")) | ("ca-bundle", Some(_)) => {
            super::config::read_input(context, given.unwrap_or("-"))?.trim().to_owned()
        }
        ("dns-token" | "eab-key", Some(value)) => {
            warning("a secret on the command line stays in the shell's history: use - and standard input");
            value.to_owned()
        }
        (_, Some(value)) => value.to_owned(),
    };
    let is_reset = value.is_empty();
    let mut change = PatchAcme::default();
    let field = match key {
        "email" => &mut change.email,
        "server" => &mut change.server,
        "challenge" => &mut change.challenge,
        "dns-provider" => &mut change.dns_provider,
        "dns-token" => &mut change.dns_token,
        "dns-wait" => &mut change.dns_wait,
        "ask-url" => &mut change.ask_url,
        "ca-bundle" => &mut change.ca_bundle,
        "eab-key-id" => &mut change.eab_key_id,
        "eab-key" => &mut change.eab_key,
        "graceperiod" | "lego-docker-args" | "lego-args" => {
            warning(&format!(
                "{key} has no meaning here: Berth renews when a third of a certificate's life is left"
            ));
            return Ok(());
        }
        other => {
            return Err(CliError::Misuse(format!(
                "{other:?} is no setting: use email, server, challenge, dns-provider, dns-token, dns-wait, ask-url, \
                 ca-bundle, eab-key-id or eab-key"
            )));
        }
    };
    *field = Some(value);
    patch(context, app.as_ref(), &change).await?;
    let whose = app.map_or("all apps".to_owned(), |app| app.to_string());
    context.out.step(&if is_reset {
        format!("Unset {key} for {whose}")
    } else {
        format!("Set {key} for {whose}")
    })
}

async fn list(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.some_app(matches, false).await?;
    none_left(&rest)?;
    if let Some(app) = &app {
        let _exists: AppInfo = context.get(&format!("/v1/apps/{app}")).await?;
    }
    let all: Vec<AcmeApp> = context.get("/v1/acme/apps").await?;
    let all: Vec<AcmeApp> =
        all.into_iter().filter(|one| app.as_ref().is_none_or(|app| one.app == *app)).collect();
    if context.out.json {
        return context.out.json(&all);
    }
    context.out.header("App, certificate, expiry, next renewal or try, state")?;
    let row = |app: &AppName, order: &AcmeOrder| {
        let names = match &order.names[..] {
            [] => "-".to_owned(),
            [name] => name.clone(),
            [name, others @ ..] => format!("{name} and {} more", others.len()),
        };
        let at = |ms: Option<i64>| ms.map_or("-".to_owned(), time);
        vec![app.to_string(), names, at(order.expires_ms), at(order.next_ms), state(order)]
    };
    let rows: Vec<_> =
        all.iter().flat_map(|one| one.acme.orders.iter().map(|order| row(&one.app, order))).collect();
    table(&rows).iter().try_for_each(|line| context.out.line(line))
}

fn state(order: &AcmeOrder) -> String {
    let kind = if order.on_demand { " on demand" } else { "" };
    match &order.error {
        _ if order.under_way => format!("under way{kind}"),
        Some(error) => {
            format!("failed {} times{kind}: {}", order.failures, error.lines().next().unwrap_or_default())
        }
        None if order.expires_ms.is_some() => format!("good{kind}"),
        None => format!("waiting{kind}"),
    }
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let (app, rest) = scope(context, matches, false).await?;
    none_left(&rest)?;
    let path = app.as_ref().map_or("/v1/acme".to_owned(), |app| format!("/v1/apps/{app}/acme"));
    let settings: AcmeSettingsInfo = context.get(&path).await?;
    let acme: Option<AcmeInfo> = match &app {
        Some(app) => {
            Some(context.get::<CertificateReport>(&format!("/v1/apps/{app}/certificate")).await?.acme)
        }
        None => None,
    };
    if context.out.json && field.is_none() {
        return context.out.json(&serde_json::json!({ "settings": settings, "acme": acme }));
    }
    let title = app.as_ref().map_or("Global", |app| app.as_str());
    let mut rows = Report::new(title, "letsencrypt");
    if let Some(acme) = &acme {
        rows = rows.row("Letsencrypt enabled", acme.enabled.to_string());
    }
    let now = settings.effective;
    let text = |value: Option<String>| value.unwrap_or_default();
    rows = rows
        .row("Letsencrypt email", text(now.email))
        .row("Letsencrypt server", text(now.server))
        .row("Letsencrypt challenge", text(now.challenge))
        .row("Letsencrypt dns provider", text(now.dns_provider))
        .row("Letsencrypt dns token", if now.dns_token { "set" } else { "" })
        .row("Letsencrypt dns wait", text(now.dns_wait.map(|seconds| seconds.to_string())))
        .row("Letsencrypt ask url", text(now.ask_url))
        .row("Letsencrypt ca bundle", now.ca_bundle.join("; "))
        .row("Letsencrypt eab key id", text(now.eab_key_id));
    if let Some(acme) = acme {
        let skipped: Vec<String> =
            acme.skipped.iter().map(|one| format!("{} ({})", one.domain, one.reason)).collect();
        rows = rows.row("Letsencrypt left out", skipped.join("; "));
        for order in &acme.orders {
            let until = order.expires_ms.map_or("none yet".to_owned(), |at| format!("until {}", time(at)));
            let next = order.next_ms.map_or(String::new(), |at| format!(", next {}", time(at)));
            let text = format!("{}: {until}{next}, {}", order.names.join(" "), state(order));
            rows = rows.row("Letsencrypt certificate", text);
        }
    }
    rows.show(context.out, field)
}
