//! pip's requirements files: which packages they name and which other files they read.
//!
//! In: the tree and the name of a file. Out: names, files and whether code of the app itself is installed.

use super::manifest::{Packages, normalized};
use crate::PlanError;
use crate::error::invalid;
use crate::tree::SourceTree;
use std::collections::BTreeSet;

/// Files one requirements file may lead to.
const FILES: usize = 50;

/// What a requirements file and the files it includes say.
#[derive(Debug, Default)]
pub(super) struct Requirements {
    pub(super) packages: Packages,
    /// The file and all files it includes, as paths of the tree.
    pub(super) files: BTreeSet<String>,
    /// A line installs the app or a directory of it (`-e .`).
    pub(super) local: bool,
    /// `${NAME}`s in them.
    pub(super) variables: BTreeSet<String>,
}

/// Reads a file and what it includes.
pub(super) fn read(tree: &dyn SourceTree, file: &str) -> Result<Requirements, PlanError> {
    let mut found = Requirements::default();
    follow(tree, file, false, &mut found)?;
    Ok(found)
}

fn follow(
    tree: &dyn SourceTree,
    file: &str,
    constraints: bool,
    found: &mut Requirements,
) -> Result<(), PlanError> {
    if !found.files.insert(file.to_owned()) {
        return Ok(()); // pip reads a file twice; what it says stays the same
    }
    if found.files.len() > FILES {
        return invalid(file, format!("more than {FILES} requirements files include each other"));
    }
    let Some(text) = tree.text(file)? else { return Ok(()) };
    found.variables.extend(variables(&text));
    let text = text.replace("\\\r\n", " ").replace("\\\n", " ");
    for (index, line) in text.lines().enumerate() {
        let line = line.split(" #").next().unwrap_or(line).trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with("<<<<<<<") || line.starts_with(">>>>>>>") || line.starts_with("=======") {
            return invalid(
                file,
                format!(
                    "line {}: a merge conflict is left in it; resolve it and commit the file again",
                    index + 1
                ),
            );
        }
        if let Some(included) =
            option(line, "-r", "--requirement").or_else(|| option(line, "-c", "--constraint"))
        {
            if included.contains("://") {
                continue;
            }
            let Some(path) = join(file, included) else {
                return invalid(file, format!("line {}: {included} leads out of the repository", index + 1));
            };
            if !tree.has(&path) {
                return invalid(
                    file,
                    format!("line {}: there is no file {path}; is it committed?", index + 1),
                );
            }
            let is_constraint = constraints || option(line, "-c", "--constraint").is_some();
            follow(tree, &path, is_constraint, found)?;
        } else if let Some(target) = option(line, "-e", "--editable") {
            found.packages.any = true;
            found.local |= !target.contains("://");
        } else if line.starts_with('-') || constraints {
            // An option such as --index-url, or a version of a package that may not be wanted.
        } else {
            let is_path = line.starts_with(['.', '/']) || line.starts_with("file:");
            found.local |= is_path || line.contains("@ file:") || line.contains("@ .");
            found.packages.any = true;
            let end =
                line.find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c)).unwrap_or(line.len());
            found.packages.add(&normalized(&line[..end]));
            if let Some((extras, _)) =
                line[end..].trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']'))
            {
                found.packages.add_extras(&line[..end], extras.split(','));
            }
        }
    }
    Ok(())
}

/// The argument of `-r x`, `-rx`, `--requirement x` or `--requirement=x`.
fn option<'l>(line: &'l str, short: &str, long: &str) -> Option<&'l str> {
    if let Some(rest) = line.strip_prefix(long) {
        return rest.starts_with(['=', ' ', '\t']).then(|| rest.trim_start_matches(['=', ' ', '\t']).trim());
    }
    let rest = line.strip_prefix(short)?;
    Some(rest.trim_start_matches(['=', ' ', '\t']).trim()).filter(|rest| !rest.is_empty())
}

/// `path` as seen from the directory of `file`; `None` if it leaves the tree.
fn join(file: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Names in `${NAME}`.
fn variables(text: &str) -> BTreeSet<String> {
    let names = text.split("${").skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name);
    names.filter(|name| berth_model::EnvName::parse(name).is_ok()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryTree;

    #[test]
    fn includes_are_followed_and_loops_end() {
        let tree = MemoryTree::new()
            .with("requirements.txt", "-r requirements/prod.txt\n-c constraints.txt\nFlask[async]==3 # web\n--index-url https://u:${TOKEN}@x/\n")
            .with("requirements/prod.txt", "-r ../requirements.txt\nuvicorn[standard]>=0.3 \\\n  --hash=sha256:00\n-e .\n")
            .with("constraints.txt", "django==5\n");
        let found = read(&tree, "requirements.txt").expect("valid");
        insta::assert_debug_snapshot!(found);
    }

    #[test]
    fn a_missing_include_is_named() {
        let tree = MemoryTree::new().with("requirements.txt", "flask\n-r prod.txt\n");
        let error = read(&tree, "requirements.txt").expect_err("no such file");
        assert_eq!(
            error.to_string(),
            "requirements.txt: line 2: there is no file prod.txt; is it committed?"
        );
        let tree = MemoryTree::new().with("requirements.txt", "-r ../../etc/passwd\n");
        assert!(read(&tree, "requirements.txt").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([-rce\\[\\]@. $\\{\\}a-z#\\\\]{0,12}\r?\n){0,5}", other in proptest::prelude::any::<String>()) {
            let _ = read(&MemoryTree::new().with("requirements.txt", &text), "requirements.txt");
            let _ = read(&MemoryTree::new().with("requirements.txt", &other), "requirements.txt");
        }
    }
}
