//! `secrets:*`: the key that seals what the platform stores.
//!
//! In: nothing. Out: which key it is, or a new one.

use super::not_here;
use crate::args::{command, report};
use crate::context::{Context, arguments, none_left};
use crate::error::Result;
use crate::output::time;
use crate::report::Report;
use berth_model::config_api::SecretsInfo;
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        report(
            "secrets:report",
            "Show which key seals config vars, certificates and logins",
            "[--KEY]",
            &["secrets:report", "secrets:report --key"],
        ),
        command(
            "secrets:rotate-key",
            "Seal everything under a new key and destroy the old one",
            "",
            &["secrets:rotate-key"],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    none_left(&arguments(matches))?;
    match name {
        "secrets:report" => {
            let info: SecretsInfo = context.get("/v1/secrets").await?;
            let field = matches.get_one::<String>("field").map(String::as_str);
            if context.out.json && field.is_none() {
                return context.out.json(&info);
            }
            Report::new("global", "secrets")
                .row("Key", info.key)
                .row("Since", time(info.since_ms))
                .row("Rotating", info.rotating.to_string())
                .row("File", info.file)
                .show(context.out, field)
        }
        "secrets:rotate-key" => context.act(Method::POST, "/v1/secrets/rotate", None::<&()>).await,
        _ => Err(not_here(name)),
    }
}
