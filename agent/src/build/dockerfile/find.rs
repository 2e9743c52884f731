//! Sources of COPY and ADD: what their words lead to, and what was probably meant where they lead nowhere.
//!
//! In: words and patterns, a view of the files they are about. Out: what is there; or why it is not, for people.

use super::super::error::BuildError;
use super::super::view::{Node, View};
use super::copy::walk;
use berth_buildpacks::dockerfile::{Copy, Ignore, Pattern, Source, distance};
use std::io;
use std::path::{Path, PathBuf};

/// Most entries that are looked at for what was meant.
const MAX_LOOK: usize = 20_000;

/// A source that was found: what to call it where it goes, and what it is.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Relative to the root of its view.
    pub(super) path: PathBuf,
    /// The part of it that `--parents` keeps: all, or what is after `/./`.
    pub(super) kept: PathBuf,
    pub(super) node: Node,
}

/// Where sources are looked for, in words.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// The pushed tree without what these patterns name.
    Context(Ignore),
    /// Such as "the stage build".
    Named(String),
}

/// What the sources of `copy` are. A pattern may match nothing, as in `COPY package.json yarn.lock* ./`; a path must be
/// there.
pub(super) fn find(copy: &Copy, from: &View, place: &Place) -> Result<Vec<Found>, BuildError> {
    let mut found = Vec::new();
    for source in &copy.sources {
        let Source::Path(path) = source else { continue };
        let (above, _) =
            if copy.parents { path.split_once("/./").unwrap_or(("", path)) } else { ("", path.as_str()) };
        let above = parts(above).count();
        let here = if path.contains(['*', '?', '[']) {
            matching(from, path, copy.parents)?
        } else {
            vec![one(from, path)?.ok_or_else(|| BuildError::Plan(missing(path, from, place)))?]
        };
        found.extend(here.into_iter().map(|(path, node)| Found {
            kept: path.iter().skip(above).collect(),
            path,
            node,
        }));
    }
    Ok(found)
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

fn one(from: &View, path: &str) -> Result<Option<(PathBuf, Node)>, BuildError> {
    let failed = BuildError::disk("find", path);
    match from.resolve(Path::new(path), true) {
        Ok(found) => {
            // Named as written, even if a link leads elsewhere.
            let name: PathBuf = Path::new(path)
                .components()
                .filter(|part| matches!(part, std::path::Component::Normal(_)))
                .collect();
            Ok(found.node.map(|node| (name, node)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Go's `filepath.Glob` below the root: every part is a pattern, links on the way are followed. With `deep` (as
/// `--parents` has it) a part `**` is any number of directories.
fn matching(from: &View, pattern: &str, deep: bool) -> Result<Vec<(PathBuf, Node)>, BuildError> {
    let mut at = vec![PathBuf::new()];
    for part in parts(pattern) {
        let mut next = Vec::new();
        let compiled = Pattern::parse(part).map_err(BuildError::Plan)?;
        for dir in at {
            let failed = |error| BuildError::disk("list", &dir)(error);
            let Some(node) = from.resolve(&dir, true).map_err(failed)?.node else { continue };
            if deep && part == "**" {
                let all = walk(&node).map_err(failed)?.into_iter().filter(|(_, node)| node.is_directory());
                next.extend(all.map(|(path, _)| dir.join(path)));
                continue;
            }
            for (name, _) in node.children().map_err(failed)? {
                if name.to_str().is_some_and(|name| compiled.matches(name)) {
                    next.push(dir.join(name));
                }
            }
        }
        next.sort();
        next.dedup();
        at = next;
    }
    let mut found = Vec::new();
    for path in at {
        let resolved = from.resolve(&path, true).map_err(BuildError::disk("find", &path))?;
        found.extend(resolved.node.map(|node| (path, node)));
    }
    Ok(found)
}

fn missing(path: &str, from: &View, place: &Place) -> String {
    let shown: String = path.chars().take(200).collect();
    let meant = similar(path, from).map_or_else(String::new, |meant| format!(" Did you mean {meant:?}?"));
    match place {
        Place::Context(ignore) if ignore.covers(&parts(path).collect::<Vec<_>>().join("/")) => format!(
            "{shown:?} is left out by .dockerignore. Remove its line there, or add below it: !{}",
            parts(&shown).collect::<Vec<_>>().join("/")
        ),
        Place::Context(_) if path.starts_with("../") || path == ".." => format!(
            "{shown:?} is above the repository: sources are paths from its top. Copy the file into the repository and commit it"
        ),
        Place::Context(_) => format!(
            "{shown:?} is not in the pushed commit.{meant} Sources are paths from the top of the repository, and only what is \
             committed is there; check with: git ls-files"
        ),
        Place::Named(place) => {
            format!("{shown:?} is not in {place}.{meant} Is it made there, and at this path?")
        }
    }
}

/// What is there and reads nearly the same: beside it, or elsewhere under the same name.
fn similar(path: &str, from: &View) -> Option<String> {
    let wanted: PathBuf = parts(path).collect();
    let name = wanted.file_name()?.to_str()?;
    let above = wanted.parent().unwrap_or(Path::new(""));
    let beside =
        from.resolve(above, true).ok()?.node.and_then(|node| node.children().ok()).unwrap_or_default();
    let near = beside
        .iter()
        .filter_map(|(other, _)| other.to_str())
        .map(|other| (distance(&name.to_lowercase(), &other.to_lowercase()), other))
        .filter(|(distance, _)| *distance <= name.chars().count() / 3)
        .min();
    if let Some((_, other)) = near {
        return above.join(other).to_str().map(str::to_owned);
    }
    let mut pending = std::collections::VecDeque::from([(PathBuf::new(), from.root().ok()??)]);
    let mut looked = 0;
    while let Some((dir, node)) = pending.pop_front() {
        for (other, node) in node.children().ok()? {
            looked += 1;
            if looked > MAX_LOOK {
                return None;
            }
            let path = dir.join(&other);
            if other.to_str() == Some(name) {
                return path.to_str().map(str::to_owned);
            }
            if node.is_directory() && other != "node_modules" && other != ".git" {
                pending.push_back((path, node));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn copy(parents: bool, sources: &[&str]) -> Copy {
        Copy {
            sources: sources.iter().map(|path| Source::Path((*path).to_owned())).collect(),
            dest: "/".to_owned(),
            from: berth_buildpacks::dockerfile::Origin::Context,
            chown: None,
            chmod: None,
            parents,
            exclude: Vec::new(),
            unpack: false,
            checksum: None,
        }
    }

    fn tree(dir: &Path) -> View {
        for path in ["pkg/a/src", "pkg/b"] {
            fs::create_dir_all(dir.join(path)).expect("room");
        }
        for path in ["package.json", "pkg/a/package.json", "pkg/a/src/x.json", "pkg/b/package.json"] {
            fs::write(dir.join(path), "{}").expect("room");
        }
        View::new(vec![dir.to_owned()])
    }

    #[test]
    fn patterns_and_paths_lead_to_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let view = tree(dir.path());
        let place = Place::Context(Ignore::parse("secret*\n").expect("valid"));
        let kept = |parents, sources: &[&str]| -> Vec<String> {
            let found = find(&copy(parents, sources), &view, &place).expect("found");
            found.into_iter().map(|found| found.kept.display().to_string()).collect()
        };
        assert_eq!(
            kept(false, &["package.json", "yarn.lock*"]),
            ["package.json"],
            "a pattern may match nothing"
        );
        assert_eq!(kept(true, &["pkg/*/package.json"]), ["pkg/a/package.json", "pkg/b/package.json"]);
        assert_eq!(kept(true, &["./pkg/./*/package.json"]), ["a/package.json", "b/package.json"]);
        assert_eq!(
            kept(true, &["**/*.json"]),
            ["package.json", "pkg/a/package.json", "pkg/a/src/x.json", "pkg/b/package.json"]
        );
        assert!(kept(false, &["**/*.json"]).is_empty(), "without --parents it is one part of the path");
    }

    #[test]
    fn what_is_missing_is_named_with_what_was_meant() {
        let dir = tempfile::tempdir().expect("a directory");
        let view = tree(dir.path());
        let place = Place::Context(Ignore::parse("secret*\n").expect("valid"));
        for (path, part) in [
            ("pakage.json", "Did you mean \"package.json\"?"),
            ("src/x.json", "Did you mean \"pkg/a/src/x.json\"?"),
            ("nothing-like-it", "git ls-files"),
            ("secret.txt", "left out by .dockerignore"),
            ("../x", "above the repository"),
        ] {
            let error = find(&copy(false, &[path]), &view, &place).expect_err("missing").to_string();
            assert!(error.contains(part), "{path}: {error}");
        }
        let stage = Place::Named("the stage build".to_owned());
        let error = find(&copy(false, &["/pkg/c"]), &view, &stage).expect_err("missing").to_string();
        assert!(error.starts_with("\"/pkg/c\" is not in the stage build."), "{error}");
    }
}
