//! Buildpacks of others: Cloud Native Buildpacks (Buildpack API 0.7 to 0.12) and classic Heroku buildpacks.
//!
//! In: names of buildpacks as users write them, the files of buildpacks and the files they leave behind. Out: which to run
//! in which order, what each is told, and what the image is made of. Everything here is pure: an agent's `build::cnb` runs
//! the programs and reads the files, and asks this module what they mean.
//!
//! The way of a build:
//!
//! ```text
//! tree ─► chosen ─► fetched descriptors ─► groups ─► detect results ─► (group, plan) ─► build, one after another ─► layers, processes ─► image
//!        [`choose`] [`descriptor`]        [`order`] [`resolve`]                       [`layer`]               [`process`], [`labels`]
//! ```
//!
//! Texts of buildpacks are a stranger's: names are checked before they become paths, lists have bounds, and no text is
//! read before the agent has bounded its size.

pub(crate) mod choose;
pub mod classic;
pub mod descriptor;
pub mod labels;
pub mod layer;
pub mod order;
pub mod process;
pub(crate) mod project;
pub mod resolve;
pub mod slices;
pub mod source;
#[cfg(test)]
mod tests;

pub use choose::parse_stack;
pub use descriptor::{Api, Descriptor, Target};

/// Largest file of a buildpack that is read, in bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// A TOML file; the error names it.
pub(crate) fn toml<T: serde::de::DeserializeOwned>(text: &str, name: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
        let at = line.map_or(String::new(), |line| format!(" line {line}:"));
        format!("{name}:{at} {}", error.message())
    })
}

/// The directory that a buildpack's id stands for.
#[must_use]
pub fn escaped(id: &str) -> String {
    id.replace('/', "_")
}
