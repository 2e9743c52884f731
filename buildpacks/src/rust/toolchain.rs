//! Which Rust an app wants.
//!
//! In: the config var RUSTUP_TOOLCHAIN, rust-toolchain.toml or rust-toolchain, `.tool-versions`. Out: a rustup channel, further
//! targets, and where they were found.

use crate::PlanError;
use crate::draft::Draft;
use crate::error::invalid;

/// A toolchain as rustup names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Toolchain {
    /// `stable`, `1.85`, `nightly-2026-01-31`.
    pub(super) channel: String,
    /// Besides this machine's own, such as `wasm32-unknown-unknown`.
    pub(super) targets: Vec<String>,
    /// Where it stands; empty if nothing was said.
    pub(super) origin: &'static str,
}

impl Toolchain {
    /// Whether it may mean another version tomorrow.
    pub(super) fn moves(&self) -> bool {
        let is_dated = self.channel.matches('-').count() >= 3;
        !is_dated && self.channel.matches('.').count() < 2
    }
}

pub(super) fn wanted(draft: &Draft<'_>) -> Result<Toolchain, PlanError> {
    let tree = draft.tree;
    let plain = |file: &str, origin: &'static str, name: &str| {
        Ok(Toolchain { channel: checked(file, "toolchain", name)?, targets: Vec::new(), origin })
    };
    if let Some(name) = draft.var("RUSTUP_TOOLCHAIN").filter(|name| !name.trim().is_empty()) {
        return plain("RUSTUP_TOOLCHAIN", "the config var RUSTUP_TOOLCHAIN", name);
    }
    // rustup itself prefers the older name.
    for file in ["rust-toolchain", "rust-toolchain.toml"] {
        let Some(text) = tree.text(file)? else { continue };
        let line = text.trim();
        if file == "rust-toolchain" && line.lines().count() == 1 && !line.contains(['[', '=']) {
            return plain(file, file, line);
        }
        return from_toml(file, &text);
    }
    if let Some(text) = tree.text(".tool-versions")? {
        let line = text.lines().find_map(|line| line.trim().strip_prefix("rust "));
        if let Some(version) = line.and_then(|rest| rest.split_whitespace().next()) {
            return plain(".tool-versions", ".tool-versions", version);
        }
    }
    Ok(Toolchain { channel: "stable".to_owned(), targets: Vec::new(), origin: "" })
}

fn from_toml(file: &'static str, text: &str) -> Result<Toolchain, PlanError> {
    let toml = super::manifest::parse(file, text)?;
    let Some(table) = toml.get("toolchain").and_then(toml::Value::as_table) else {
        return invalid(file, "it has no [toolchain]; write [toolchain] and channel = \"stable\" below it");
    };
    if table.contains_key("path") {
        return invalid(
            file,
            "path names a toolchain of your own machine; name a channel instead, such as channel = \"stable\"",
        );
    }
    let channel = match table.get("channel") {
        None => "stable".to_owned(),
        Some(toml::Value::String(channel)) => checked(file, "channel", channel)?,
        Some(_) => return invalid(file, "channel must be text, such as \"1.85\""),
    };
    let targets = match table.get("targets") {
        None => Vec::new(),
        Some(toml::Value::Array(list)) => {
            let texts = list.iter().map(|target| target.as_str().unwrap_or_default());
            texts.map(|target| checked(file, "target", target)).collect::<Result<_, _>>()?
        }
        Some(_) => return invalid(file, "targets must be a list, such as [\"wasm32-unknown-unknown\"]"),
    };
    Ok(Toolchain { channel, targets, origin: file })
}

fn checked(file: &str, what: &str, name: &str) -> Result<String, PlanError> {
    let name = name.trim();
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(good) || name.starts_with(['-', '.']) {
        let shown: String = name.chars().take(40).collect();
        return invalid(file, format!("the {what} {shown:?} is not one of rustup's, such as stable or 1.85"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolchain_files_are_read_or_refused() {
        let read = |text| from_toml("rust-toolchain.toml", text);
        let found =
            read("[toolchain]\nchannel = \"1.85\"\ntargets = [\"wasm32-unknown-unknown\"]\n").expect("valid");
        assert_eq!((found.channel.as_str(), found.targets.len(), found.moves()), ("1.85", 1, true));
        assert!(!read("[toolchain]\nchannel = \"1.85.0\"").expect("valid").moves());
        assert!(!read("[toolchain]\nchannel = \"nightly-2026-01-31\"").expect("valid").moves());
        for bad in [
            "",
            "[",
            "[toolchain]\nchannel = 1",
            "[toolchain]\nchannel = \"$(x)\"",
            "[toolchain]\npath = \"/x\"",
            "[toolchain]\ntargets = [1]",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
