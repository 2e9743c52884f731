//! `builder-dockerfile:*`: which Dockerfile is built, and which stage of it.
//!
//! In: a property and its value. Out: a patch, and a report.

use super::builder::set;
use super::not_here;
use crate::args::{command, report};
use crate::context::Context;
use crate::error::Result;
use crate::report::Report;
use berth_model::api::AppInfo;
use clap::{ArgMatches, Command};

pub(super) fn commands() -> Vec<Command> {
    vec![
        report(
            "builder-dockerfile:report",
            "Show which Dockerfile is built",
            "[<app>] [--KEY]",
            &["builder-dockerfile:report hello"],
        ),
        command(
            "builder-dockerfile:set",
            "Set a property for the next build; without a value, reset it",
            "[<app>] dockerfile-path|target [VALUE]",
            &[
                "builder-dockerfile:set hello dockerfile-path docker/Dockerfile",
                "builder-dockerfile:set hello target production",
            ],
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "builder-dockerfile:report" => show(context, matches).await,
        "builder-dockerfile:set" => {
            set(context, matches, "builder-dockerfile", &["dockerfile-path", "target"]).await
        }
        _ => Err(not_here(name)),
    }
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let apps = context.infos(matches).await?;
    let describe = |app: &AppInfo| {
        Report::new(app.name.as_str(), "builder-dockerfile")
            .row("Builder dockerfile dockerfile path", app.dockerfile_path.as_deref().unwrap_or_default())
            .row("Builder dockerfile target", app.dockerfile_target.as_deref().unwrap_or_default())
    };
    let out = context.out.of(apps.len());
    apps.iter().try_for_each(|app| describe(app).show(out, field))
}
