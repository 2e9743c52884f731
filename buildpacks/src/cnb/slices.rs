//! Slices: files of the app that are layers of their own, so that a change of others leaves them as they are.
//!
//! In: patterns, the app's files. Out: which slice has which file (Buildpack specification, “launch.toml”: Go's
//! `filepath.Match`; the first slice that matches has a file, and a directory that matches has all below it).

use crate::dockerfile::Pattern;

/// Most patterns of all slices.
const MAX_PATTERNS: usize = 2000;

/// The patterns of all slices, in order.
#[derive(Clone, Debug, Default)]
pub struct Slices(Vec<Vec<Pattern>>);

impl Slices {
    /// Reads patterns, relative to the app's directory.
    pub fn parse(slices: &[Vec<String>]) -> Result<Self, String> {
        if slices.iter().map(Vec::len).sum::<usize>() > MAX_PATTERNS {
            return Err(format!("the slices have more than {MAX_PATTERNS} patterns"));
        }
        let pattern = |text: &String| {
            if text.starts_with('/') || text.split('/').any(|part| part == "..") {
                return Err(format!("the slice {text:?} leads out of the app's directory"));
            }
            Pattern::parse(text.trim_start_matches("./").trim_end_matches('/'))
        };
        let slice = |patterns: &Vec<String>| patterns.iter().map(pattern).collect::<Result<_, _>>();
        Ok(Self(slices.iter().map(slice).collect::<Result<_, _>>()?))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The slice that has `path`; `None` for the rest of the app.
    #[must_use]
    pub fn of(&self, path: &str) -> Option<usize> {
        let ends = || path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        self.0
            .iter()
            .position(|slice| slice.iter().any(|pattern| ends().any(|end| pattern.matches(&path[..end]))))
    }
}
