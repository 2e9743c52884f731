//! Dockerfiles: what is written becomes stages of steps, and each step the work it asks for.
//!
//! In: a Dockerfile's text, build arguments, the config of base images. Out: a [`Program`], and from it, step by step,
//! [`Work`] with every word filled in: nothing is left to decide for whoever does it, and its serialised form is what
//! its result may be kept under. Pure, and the same text always gives the same work.
//!
//! Words are expanded as BuildKit does, from its documentation and by trial; the syntax is read here rather than by a
//! crate, because ONBUILD, quotes and several here-documents on a line need the text as it was written.

mod git;
mod ignore;
mod instruction;
mod lines;
mod mode;
mod pattern;
mod program;
mod state;
#[cfg(test)]
mod tests;
mod word;
mod work;

pub use git::GitSource;
pub use ignore::Ignore;
pub use instruction::Step;
pub use mode::Chmod;
pub use pattern::Pattern;
pub use program::{Base, Options, Program, Stage};
pub use state::{Scope, State};
pub use work::{Copy, Mount, MountKind, Origin, Run, Source, Work};

/// Something in a Dockerfile that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text}")]
pub struct Problem {
    /// Where, from 1.
    pub line: usize,
    /// What was found, and what to write instead.
    pub text: String,
}

impl Problem {
    pub(crate) fn new(line: usize, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }
}

/// Edits from one short word to another (Levenshtein): tells what was probably meant.
#[must_use]
pub fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(256).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.chars().take(256).enumerate() {
        let mut before = row[0];
        row[0] = line + 1;
        for (column, b) in other.iter().enumerate() {
            let replaced = before + usize::from(a != *b);
            before = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(before + 1);
        }
    }
    row[other.len()]
}
