//! Which programs a cargo workspace makes.
//!
//! In: Cargo.toml of the top and of the members it names. Out: names of the binaries that one `cargo build` makes, as cargo
//! itself finds them.

use crate::PlanError;
use crate::error::invalid;
use crate::tree::SourceTree;
use std::collections::BTreeSet;

/// What is built.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Binaries {
    /// Names, sorted.
    pub(super) names: Vec<String>,
    /// What `cargo run` would start, or the package's own name.
    pub(super) preferred: Option<String>,
    /// The package at the top has none, but members have.
    pub(super) whole_workspace: bool,
}

/// TOML, or an error that names the line.
pub(super) fn parse(file: &str, text: &str) -> Result<toml::Table, PlanError> {
    text.parse::<toml::Table>().or_else(|error| {
        let line = error.span().map_or(1, |span| {
            text.as_bytes()[..span.start.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
        });
        invalid(file, format!("line {line}: it is not valid TOML ({})", error.message().replace('\n', ", ")))
    })
}

pub(super) fn binaries(tree: &dyn SourceTree) -> Result<Binaries, PlanError> {
    let Some(text) = tree.text("Cargo.toml")? else {
        return invalid(
            "Cargo.toml",
            "the builder rust was chosen, but there is none at the top of the tree; choose the directory that has it: \
             berth builder:set APP build-dir DIR",
        );
    };
    let top = parse("Cargo.toml", &text)?;
    let workspace = top.get("workspace").and_then(toml::Value::as_table);
    if !top.contains_key("package") && workspace.is_none() {
        return invalid("Cargo.toml", "it has neither [package] nor [workspace]");
    }
    let list = |name: &str| {
        let list = workspace.and_then(|workspace| workspace.get(name)).and_then(toml::Value::as_array);
        list.map(|list| list.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect::<Vec<_>>())
    };
    let excluded = list("exclude").unwrap_or_default();
    let members = |patterns: Vec<String>| {
        let manifests = tree.entries().iter().filter_map(|entry| entry.path.strip_suffix("/Cargo.toml"));
        let is_member = |dir: &&str| {
            let meant =
                |pattern: &String| matches(pattern.trim_start_matches("./").trim_end_matches('/'), dir);
            patterns.iter().any(meant) && !excluded.iter().any(|path| path == dir)
        };
        manifests.filter(is_member).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut found = Binaries::default();
    let mut names = BTreeSet::new();
    match list("default-members") {
        Some(patterns) => {
            let has_top = patterns.iter().any(|pattern| pattern == ".");
            let dirs = members(patterns).into_iter();
            for dir in dirs.chain(has_top.then(String::new)) {
                package(tree, &dir, &mut names, &mut found)?;
            }
        }
        None => {
            if top.contains_key("package") {
                package(tree, "", &mut names, &mut found)?;
            }
            if names.is_empty() {
                for dir in members(list("members").unwrap_or_default()) {
                    package(tree, &dir, &mut names, &mut found)?;
                }
                found.whole_workspace = top.contains_key("package") && !names.is_empty();
            }
        }
    }
    found.names = names.into_iter().collect();
    Ok(found)
}

/// Adds the binaries of the package in `dir`.
fn package(
    tree: &dyn SourceTree,
    dir: &str,
    names: &mut BTreeSet<String>,
    found: &mut Binaries,
) -> Result<(), PlanError> {
    let at = |path: &str| if dir.is_empty() { path.to_owned() } else { format!("{dir}/{path}") };
    let file = at("Cargo.toml");
    let toml = parse(&file, &tree.text(&file)?.unwrap_or_default())?;
    let Some(package) = toml.get("package").and_then(toml::Value::as_table) else { return Ok(()) };
    let Some(name) = package.get("name").and_then(toml::Value::as_str) else {
        return invalid(&file, "[package] has no name");
    };
    let mut own = BTreeSet::new();
    let mut renamed_main = false;
    for bin in toml.get("bin").and_then(toml::Value::as_array).into_iter().flatten() {
        let text = |key: &str| bin.get(key).and_then(toml::Value::as_str);
        renamed_main |= text("path").is_some_and(|path| path.trim_start_matches("./") == "src/main.rs");
        // Binaries behind a feature are made only when it is on.
        if bin.get("required-features").is_none() {
            own.extend(text("name").map(str::to_owned));
        }
    }
    if package.get("autobins").and_then(toml::Value::as_bool) != Some(false) {
        if tree.has(&at("src/main.rs")) && !renamed_main {
            own.insert(name.to_owned());
        }
        let prefix = at("src/bin/");
        for entry in tree.entries() {
            let Some(rest) = entry.path.strip_prefix(&prefix) else { continue };
            let bin = match rest.split_once('/') {
                None => rest.strip_suffix(".rs"),
                Some((bin, "main.rs")) => Some(bin),
                Some(_) => None,
            };
            let has_own_entry = |bin: &str| {
                let bins = toml.get("bin").and_then(toml::Value::as_array);
                bins.into_iter()
                    .flatten()
                    .any(|other| other.get("name").and_then(toml::Value::as_str) == Some(bin))
            };
            own.extend(bin.filter(|bin| !has_own_entry(bin)).map(str::to_owned));
        }
    }
    if let Some(bad) = own.iter().find(|name| !is_plain(name)) {
        return invalid(
            &file,
            format!("the binary {bad:?} has a name that is not of letters, digits, - and _"),
        );
    }
    let default = package.get("default-run").and_then(toml::Value::as_str);
    let preferred = default.or_else(|| own.contains(name).then_some(name)).map(str::to_owned);
    // Among several packages only a default-run is a clear sign.
    if found.preferred.is_none() && (dir.is_empty() || default.is_some()) {
        found.preferred = preferred;
    }
    names.extend(own);
    Ok(())
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// cargo's globs of members: `*` within one part, `**` over any number of parts.
fn matches(pattern: &str, dir: &str) -> bool {
    fn parts(pattern: &[&str], dir: &[&str]) -> bool {
        match (pattern.split_first(), dir.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) => {
                parts(rest, dir) || dir.split_first().is_some_and(|(_, below)| parts(pattern, below))
            }
            (Some((first, rest)), Some((name, below))) => part(first, name) && parts(rest, below),
            _ => false,
        }
    }
    fn part(pattern: &str, name: &str) -> bool {
        match pattern.split_once('*') {
            None => pattern == name,
            Some((start, end)) => {
                let end = end.rsplit('*').next().unwrap_or(end);
                name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
            }
        }
    }
    let pattern: Vec<&str> = pattern.split('/').collect();
    // More than a few `**` would only make the search long.
    pattern.iter().filter(|part| **part == "**").count() <= 2
        && parts(&pattern, &dir.split('/').collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::MemoryTree;

    fn found(files: &[(&str, &str)]) -> Binaries {
        let tree = files.iter().fold(MemoryTree::new(), |tree, (path, text)| tree.with(path, text));
        binaries(&tree).expect("valid")
    }

    #[test]
    fn binaries_are_found_as_cargo_finds_them() {
        let one = found(&[
            (
                "Cargo.toml",
                "[package]\nname = \"a\"\ndefault-run = \"b\"\n[[bin]]\nname = \"c\"\npath = \"x.rs\"\n[[bin]]\nname = \"f\"\nrequired-features = [\"x\"]\n",
            ),
            ("src/main.rs", ""),
            ("src/bin/b.rs", ""),
            ("src/bin/f.rs", ""),
            ("src/bin/d/main.rs", ""),
            ("src/bin/d/other.rs", ""),
        ]);
        assert_eq!(one.names, ["a", "b", "c", "d"]);
        assert_eq!(one.preferred.as_deref(), Some("b"));
        let many = found(&[
            ("Cargo.toml", "[workspace]\nmembers = [\"crates/*\", \"web\"]\nexclude = [\"crates/old\"]\n"),
            ("crates/lib/Cargo.toml", "[package]\nname = \"lib\"\n"),
            ("crates/lib/src/lib.rs", ""),
            ("crates/old/Cargo.toml", "[package]\nname = \"old\"\n"),
            ("crates/old/src/main.rs", ""),
            ("web/Cargo.toml", "[package]\nname = \"site\"\n"),
            ("web/src/main.rs", ""),
        ]);
        assert_eq!((many.names.as_slice(), many.preferred), (["site".to_owned()].as_slice(), None));
        assert!(!many.whole_workspace);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for text in ["", "[package]\n", "[package\n", "[package]\nname = \"a\"\n[[bin]]\nname = \"$(x)\"\n"] {
            let tree = MemoryTree::new().with("Cargo.toml", text);
            assert!(binaries(&tree).is_err(), "{text}");
        }
        assert!(matches("crates/*", "crates/a") && !matches("crates/*", "crates/a/b"));
        assert!(matches("**", "a/b") && matches("a-*-b", "a-x-b") && !matches("a", "b"));
    }
}
