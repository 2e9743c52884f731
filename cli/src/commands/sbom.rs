//! `sbom`: what is in an app's image.
//!
//! In: an app, a format. Out: JSON documents.

use crate::args::{command, option};
use crate::context::Context;
use crate::error::{CliError, Result};
use berth_model::api::Sbom;
use clap::{ArgMatches, Command};

pub(super) fn commands() -> Vec<Command> {
    vec![
        command(
            "sbom",
            "Print what is in an app's image, as JSON",
            "[<app>] [--format cyclonedx|spdx|syft|json]",
            &["sbom hello > hello.cdx.json", "sbom hello --format spdx"],
        )
        .arg(
            option("format", "FORMAT", "cyclonedx (default), spdx, syft, or json for all there is")
                .value_parser(["cyclonedx", "spdx", "syft", "json"]),
        ),
    ]
}

pub(super) async fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let app = context.only_app(matches).await?;
    let sbom: Sbom = context.get(&format!("/v1/apps/{app}/sbom")).await?;
    let format = matches.get_one::<String>("format").map_or("cyclonedx", String::as_str);
    match format {
        "json" => context.out.json(&sbom),
        // The image's own has what buildpacks say in this format, too.
        "cyclonedx" => match sbom.documents.first() {
            Some(own) => context.out.json(&own.document),
            None => Err(CliError::Failed(format!("there is no bill of materials of {app}"))),
        },
        format => {
            let wanted = sbom.documents.iter().filter(|document| document.format == format);
            let documents: Vec<_> = wanted.map(|document| &document.document).collect();
            match documents.as_slice() {
                [] => Err(CliError::Failed(format!(
                    "no buildpack of {app} wrote one in the format {format}; there is: berth sbom {app} --format cyclonedx"
                ))),
                [only] => context.out.json(only),
                several => context.out.json(&several),
            }
        }
    }
}
