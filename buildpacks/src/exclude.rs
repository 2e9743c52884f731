//! `.slugignore`: what stays out of the image.
//!
//! In: patterns as in Heroku's `.slugignore` (globs as in `.gitignore`, without negation). Out: exact paths of the tree.

use crate::PlanError;
use crate::error::invalid;
use crate::tree::SourceTree;
use std::collections::BTreeSet;

/// Paths left out of the image: files, or directories with all that is below.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exclude {
    pub(crate) paths: Vec<String>,
}

impl Exclude {
    /// Reads `.slugignore`, if there is one.
    pub(crate) fn of(tree: &dyn SourceTree) -> Result<Self, PlanError> {
        const FILE: &str = ".slugignore";
        let Some(text) = tree.text(FILE)? else { return Ok(Self::default()) };
        let mut patterns = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with('!') {
                return invalid(
                    FILE,
                    format!("line {}: negation is not supported; name only what to leave out", index + 1),
                );
            }
            patterns.push(line.trim_end_matches('/'));
        }
        Ok(Self { paths: matching(tree, &patterns) })
    }
}

/// The shortest paths of the tree that a pattern matches.
fn matching(tree: &dyn SourceTree, patterns: &[&str]) -> Vec<String> {
    let mut found: BTreeSet<&str> = BTreeSet::new();
    for entry in tree.entries() {
        let ends = entry.path.match_indices('/').map(|(at, _)| at).chain([entry.path.len()]);
        let first = ends
            .map(|end| &entry.path[..end])
            .find(|path| patterns.iter().any(|pattern| matches(pattern, path)));
        found.extend(first);
    }
    found.into_iter().map(str::to_owned).collect()
}

/// A pattern with an inner or leading `/` is meant from the top; another one at any depth.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_prefix('/') {
        Some(rooted) => glob(rooted.as_bytes(), path.as_bytes()),
        None if pattern.contains('/') => glob(pattern.as_bytes(), path.as_bytes()),
        None => glob(pattern.as_bytes(), path.rsplit('/').next().unwrap_or(path).as_bytes()),
    }
}

/// `*` and `?` stop at `/`; `**` does not. Linear in both lengths for patterns with one star at a time: each star only
/// remembers where it last matched, as `wildmatch` does, and `**` is tried before `*` is given up.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // states[i]: pattern[..i] matches the text read so far.
    let mut states = vec![false; pattern.len() + 1];
    states[0] = true;
    let step_over_stars = |states: &mut Vec<bool>| {
        for at in 0..pattern.len() {
            if states[at] && pattern[at] == b'*' {
                states[at + 1] = true;
            }
            // `**/x` also matches `x`.
            if states[at] && pattern[at..].starts_with(b"**/") {
                states[at + 3] = true;
            }
        }
    };
    step_over_stars(&mut states);
    for byte in text {
        let mut next = vec![false; pattern.len() + 1];
        for at in 0..pattern.len() {
            if !states[at] {
                continue;
            }
            match pattern[at] {
                b'*' => {
                    let crosses = pattern.get(at + 1) == Some(&b'*') || (at > 0 && pattern[at - 1] == b'*');
                    next[at] |= *byte != b'/' || crosses;
                }
                b'?' => next[at + 1] |= *byte != b'/',
                literal => next[at + 1] |= literal == *byte,
            }
        }
        step_over_stars(&mut next);
        states = next;
    }
    states[pattern.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::MemoryTree;

    #[test]
    fn patterns_become_paths() {
        let tree = MemoryTree::new()
            .with(".slugignore", "# big\n*.psd\n/tests\ndocs/**/*.pdf\nnode_modules/\n")
            .with("a.psd", "")
            .with("x/y/b.psd", "")
            .with("tests/deep/a.py", "")
            .with("x/tests/b.py", "")
            .with("docs/a.pdf", "")
            .with("docs/x/y/b.pdf", "")
            .with("docs/x/y/b.md", "")
            .with("web/node_modules/z/index.js", "");
        assert_eq!(
            Exclude::of(&tree).expect("valid").paths,
            ["a.psd", "docs/a.pdf", "docs/x/y/b.pdf", "tests", "web/node_modules", "x/y/b.psd"]
        );
    }

    proptest::proptest! {
        #[test]
        fn a_pattern_without_wildcards_matches_itself(path in "[a-z]{1,4}(/[a-z]{1,4}){0,3}", other in "[a-z*?/]{0,12}") {
            proptest::prop_assert!(glob(path.as_bytes(), path.as_bytes()));
            let _ = glob(other.as_bytes(), path.as_bytes());
        }
    }
}
