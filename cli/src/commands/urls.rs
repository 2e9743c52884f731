//! `url` and `urls`: where an app answers.
//!
//! In: an app. Out: addresses, one a line.

use super::not_here;
use crate::args::command;
use crate::context::Context;
use crate::error::{CliError, Result};
use berth_model::api::AppInfo;
use clap::{ArgMatches, Command};

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("url", "Print the first address of an app", "[<app>]", &["url hello"]),
        command("urls", "Print every address of an app", "[<app>]", &["urls hello"]),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let info: AppInfo = context.get(&format!("/v1/apps/{app}")).await?;
    let nothing =
        || CliError::Failed(format!("{app} has no address: add one with domains:add, or domains:enable"));
    match name {
        "url" if context.out.json => context.out.json(&info.urls.first()),
        "urls" if context.out.json => context.out.json(&info.urls),
        "url" => context.out.line(info.urls.first().ok_or_else(nothing)?),
        "urls" if info.urls.is_empty() => Err(nothing()),
        "urls" => info.urls.iter().try_for_each(|url| context.out.line(url)),
        _ => Err(not_here(name)),
    }
}
