//! Prints the plan of a directory as JSON: `cargo run -p berth-buildpacks --example plan DIR [NAME=VALUE…]`.
#![allow(clippy::print_stdout)]

use berth_buildpacks::{DirectoryTree, Settings, plan};
use berth_model::image::ImageRef;
use berth_model::{Digest, EnvName};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("usage: plan DIR [NAME=VALUE…]")?;
    let stack =
        |name: &str| ImageRef { repository: format!("stacks/{name}"), digest: Digest::of(name.as_bytes()) };
    let mut settings = Settings::new(stack("debian-12-run"), stack("debian-12-build"));
    for pair in arguments {
        let (name, value) = pair.split_once('=').ok_or("config vars are NAME=VALUE")?;
        settings.config.insert(EnvName::parse(name)?, value.to_owned());
    }
    let tree = DirectoryTree::open(dir.as_ref())?;
    println!("{}", serde_json::to_string_pretty(&plan(&tree, &settings)?)?);
    Ok(())
}
