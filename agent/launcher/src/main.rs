//! The launcher of buildpack images: `/cnb/lifecycle/launcher`, and `/cnb/process/<type>` as links to it.
//!
//! In: `argv`, `<layers>/config/metadata.toml`, the layers. Out: the app's process, in this one's place, with the environment
//! that its buildpacks want (Platform specification 0.15, “Launcher”). In build containers the same program, called
//! `phase`, runs buildpacks with exactly the environment that they are to see.
//!
//! It is static, so that it runs in any image, under any engine.

mod launch;
mod phase;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::path::Path;

/// Why nothing was started.
#[derive(Debug)]
struct Failure {
    /// What the launcher ends with; 11, 12 and 80 to 89 have meanings in the specification.
    code: i32,
    text: String,
}

impl Failure {
    /// Launching failed (`ERROR_LAUNCH`).
    fn launch(text: impl fmt::Display) -> Self {
        Self { code: 82, text: text.to_string() }
    }

    /// The input is wrong (`ERROR_INVALID_ARGS` of the lifecycle).
    fn invalid(text: impl fmt::Display) -> Self {
        Self { code: 3, text: text.to_string() }
    }
}

fn main() {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let name = argv.first().and_then(|path| Path::new(path).file_name()).unwrap_or_default().to_owned();
    let rest = argv.get(1..).unwrap_or_default();
    let ended = match name.to_str() {
        Some("phase") => phase::run(rest.first().map_or(OsStr::new(""), OsString::as_os_str)),
        _ => Err(launch::run(&name, rest)),
    };
    if let Err(failure) = ended {
        let _ = writeln!(std::io::stderr(), "launcher: {}", failure.text);
        std::process::exit(failure.code);
    }
}
