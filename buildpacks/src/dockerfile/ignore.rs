//! `.dockerignore`: which files of the tree a build does not see.
//!
//! In: the file's text. Out: whether a path is left out: the last pattern that matches it or a directory above it wins.

use super::pattern::Pattern;

/// Most patterns.
const MAX_PATTERNS: usize = 10_000;

/// The patterns of a `.dockerignore`.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<(Pattern, bool)>,
    has_exceptions: bool,
}

impl Ignore {
    /// Reads the text. The error is one line with its number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut ignore = Self::default();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (line, keeps) = match line.strip_prefix('!') {
                Some(rest) => (rest.trim(), true),
                None => (line, false),
            };
            let wrong = |reason: String| format!("line {}: {reason}", index + 1);
            if line.is_empty() {
                if keeps {
                    return Err(wrong("`!` is followed by no pattern".to_owned()));
                }
                continue;
            }
            let path = clean(line);
            if path.is_empty() {
                continue;
            }
            if ignore.rules.len() == MAX_PATTERNS {
                return Err(wrong(format!("there are more than {MAX_PATTERNS} patterns")));
            }
            ignore.rules.push((Pattern::parse(&path).map_err(wrong)?, keeps));
            ignore.has_exceptions |= keeps;
        }
        Ok(ignore)
    }

    /// Whether any path could be left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether something below a directory that is left out may be kept.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Whether `path` (relative, `/`-separated) is left out.
    #[must_use]
    pub fn covers(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let prefixes: Vec<&str> = ends.map(|end| &path[..end]).collect();
        let mut covered = false;
        for (pattern, keeps) in &self.rules {
            // Only a rule that would change the answer is looked at.
            if *keeps == covered && prefixes.iter().any(|prefix| pattern.matches(prefix)) {
                covered = !keeps;
            }
        }
        covered
    }
}

/// The path without `.`, `..` inside, double and outer slashes.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_wins_and_directories_cover_what_is_below() {
        let ignore = Ignore::parse(
            "# note\n\n/node_modules/\n*.md\n!README.md\n**/*.log\nbuild/./x/../out\n!build/out/keep\n",
        )
        .expect("valid");
        for (path, expected) in [
            ("node_modules", true),
            ("node_modules/a/b.js", true),
            ("src/node_modules/a", false),
            ("notes.md", true),
            ("README.md", false),
            ("docs/notes.md", false),
            ("a/b/c.log", true),
            ("c.log", true),
            ("build/out/o", true),
            ("build/out/keep/x", false),
            ("main.py", false),
        ] {
            assert_eq!(ignore.covers(path), expected, "{path}");
        }
        assert!(ignore.has_exceptions() && !ignore.is_empty());
        assert!(Ignore::parse("*\n!src\n").expect("valid").covers("Dockerfile"));
        assert!(!Ignore::parse("*\n!src\n").expect("valid").covers("src/main.rs"));
    }

    #[test]
    fn a_bad_pattern_is_named_by_its_line() {
        assert_eq!(
            Ignore::parse("ok\n[a\n").expect_err("bad"),
            "line 2: pattern \"[a\" has a [ that is not closed"
        );
    }
}
