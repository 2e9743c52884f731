//! Which programs a Go tree holds.
//!
//! In: names of the tree and the beginnings of its Go files. Out: directories with a `package main`, and their names.

use super::version::Directives;
use crate::tree::SourceTree;
use std::collections::BTreeMap;

/// A directory that is a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Main {
    /// As `go build` takes it: `.` or `./cmd/x`.
    pub(super) package: String,
    /// Name of the program.
    pub(super) name: String,
}

/// Directories of a tree that Go itself leaves out, and those that are seldom the app.
const NOT_THE_APP: [&str; 7] =
    ["vendor", "testdata", "node_modules", "internal", "examples", "example", "tools"];

/// The program at the top and those in `cmd`; without any, those further down.
pub(super) fn find(tree: &dyn SourceTree) -> Vec<Main> {
    let mut dirs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in tree.entries() {
        let (dir, file) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        if file.ends_with(".go") && !file.ends_with("_test.go") && !file.starts_with(['_', '.']) {
            dirs.entry(dir).or_default().push(&entry.path);
        }
    }
    let is_main =
        |dir: &str| dirs.get(dir).is_some_and(|files| files.iter().any(|file| declares_main(tree, file)));
    let main = |dir: &str| Main { package: package(dir), name: name(tree, dir) };
    let is_command = |dir: &&str| *dir == "cmd" || (dir.starts_with("cmd/") && dir.matches('/').count() == 1);
    let near = dirs.keys().copied().filter(|dir| dir.is_empty() || is_command(dir));
    let mut found: Vec<Main> = near.filter(|dir| is_main(dir)).map(main).collect();
    if found.is_empty() {
        let allowed = |dir: &&str| {
            let depth = dir.matches('/').count();
            depth < 4
                && !dir.split('/').any(|part| NOT_THE_APP.contains(&part) || part.starts_with(['.', '_']))
        };
        // Only files of the usual name are opened: a large tree has many others.
        let has_main_file = |dir: &&str| tree.has(&format!("{dir}/main.go"));
        let far = dirs.keys().copied().filter(allowed).filter(has_main_file);
        found = far.filter(|dir| is_main(dir)).map(main).collect();
    }
    found.retain(|main| is_plain(&main.package));
    let mut names = std::collections::BTreeSet::new();
    found.retain(|main| names.insert(main.name.clone()));
    found
}

fn package(dir: &str) -> String {
    if dir.is_empty() { ".".to_owned() } else { format!("./{dir}") }
}

/// As `go install` names it: the last part of the import path that is no version.
fn name(tree: &dyn SourceTree, dir: &str) -> String {
    if !dir.is_empty() {
        return last_part(dir).unwrap_or("app").to_owned();
    }
    let text = tree.glance("go.mod").unwrap_or_default();
    Directives::of(&text).module.and_then(last_part).unwrap_or("app").to_owned()
}

/// The last part of a package's path that is no version, if it can be a program's name.
pub(super) fn last_part(path: &str) -> Option<&str> {
    let is_version =
        |part: &str| part.len() > 1 && part.starts_with('v') && part[1..].bytes().all(|b| b.is_ascii_digit());
    let found = path.rsplit('/').find(|part| !part.is_empty() && *part != "." && !is_version(part))?;
    (is_plain(found) && !found.starts_with(['-', '.'])).then_some(found)
}

/// Whether a path means itself to a shell and to Go.
pub(super) fn is_plain(path: &str) -> bool {
    !path.is_empty() && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./~+@".contains(&b))
}

/// Whether a file's package is `main` and no constraint keeps it out of every build.
pub(super) fn declares_main(tree: &dyn SourceTree, path: &str) -> bool {
    let Some(text) = tree.glance(path) else { return false };
    let mut in_comment = false;
    for line in text.lines().map(str::trim) {
        if in_comment {
            in_comment = !line.contains("*/");
            continue;
        }
        if line.starts_with("/*") {
            in_comment = !line.contains("*/");
            continue;
        }
        if line.starts_with("//go:build ignore") || line.starts_with("// +build ignore") {
            return false;
        }
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        let mut words = line.split(|c: char| c.is_whitespace() || c == ';' || c == '/');
        return words.next() == Some("package") && words.next() == Some("main");
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::MemoryTree;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let tree = files.iter().fold(MemoryTree::new(), |tree, (path, text)| tree.with(path, text));
        find(&tree).into_iter().map(|main| format!("{} {}", main.package, main.name)).collect()
    }

    #[test]
    fn programs_are_found_at_the_top_and_in_cmd() {
        let main = "// Copyright\n\n/* a\nb */\npackage main // x\n";
        let files = [
            ("go.mod", "module example.com/hello/v2\n"),
            ("gen.go", "//go:build ignore\n\npackage main\n"),
            ("a.go", main),
            ("cmd/worker/x.go", main),
            ("cmd/lib/x.go", "package lib\n"),
            ("cmd/deep/er/x.go", main),
            ("cmd/we ird/x.go", main),
            ("other/main.go", main),
            ("x_test.go", main),
        ];
        assert_eq!(found(&files), [". hello", "./cmd/worker worker"]);
        assert_eq!(found(&files[7..8]), ["./other other"]);
        assert_eq!(found(&[("vendor/x/main.go", main), ("a.go", "package a\n")]), [""; 0]);
        assert_eq!(found(&[("main.go", "package main")]), [". app"]);
    }
}
