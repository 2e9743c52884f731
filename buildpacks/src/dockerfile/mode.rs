//! `--chmod`: permissions as numbers, or as changes of those that a file has.
//!
//! In: `755`, `u=rwX,go=rX`, `+x`. Out: what a file's or directory's permissions become. The notation is chmod(1)'s, as
//! the Dockerfile reference has it since 1.14 (COPY --chmod); where no `ugoa` is written all three are meant.

use serde::{Serialize, Serializer};

/// Most changes in one text.
const MAX_CHANGES: usize = 32;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// New permissions, or a change of those there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chmod {
    text: String,
    changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Octal: all of it.
    Is(u32),
    Symbolic {
        /// 0o700, 0o070 and 0o007 for whom it is meant.
        whom: u32,
        how: char,
        what: What,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// `rwxst`, and whether `X` is among them.
    Bits { bits: u32, search: bool },
    /// `u`, `g` or `o`: what those have.
    Of(char),
}

impl Serialize for Chmod {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl Chmod {
    /// Reads the value of `--chmod`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("--chmod={text} is neither octal, such as 755, nor symbolic, such as u=rwX,go=rX or +x")
        };
        let mut changes = Vec::new();
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            changes.push(Change::Is(mode.ok_or_else(wrong)?));
        } else {
            for clause in text.split(',') {
                clause_of(clause, &mut changes).ok_or_else(wrong)?;
                if changes.len() > MAX_CHANGES {
                    return Err(format!("--chmod={text} has more than {MAX_CHANGES} changes"));
                }
            }
        }
        Ok(Self { text: text.to_owned(), changes })
    }

    /// What `mode` becomes.
    #[must_use]
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let mut mode = mode & 0o7777;
        for change in &self.changes {
            mode = match *change {
                // `--chmod=644` is meant for files: who may read a directory may enter it.
                Change::Is(octal) if is_directory => octal | ((octal & 0o444) >> 2),
                Change::Is(octal) => octal,
                Change::Symbolic { whom, how, what } => symbolic(mode, whom, how, what, is_directory),
            };
        }
        mode
    }
}

fn clause_of(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let end = clause.find(['+', '-', '='])?;
    let mut whom = 0;
    for c in clause[..end].chars() {
        whom |= match c {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            'a' => 0o777,
            _ => return None,
        };
    }
    let whom = if whom == 0 { 0o777 } else { whom };
    let mut rest = &clause[end..];
    // `u+r-x`: several changes for the same users.
    while let Some(how) = rest.chars().next() {
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let what = match &rest[..end] {
            "u" => What::Of('u'),
            "g" => What::Of('g'),
            "o" => What::Of('o'),
            letters => {
                let (mut bits, mut search) = (0, false);
                for c in letters.chars() {
                    match c {
                        'r' => bits |= 0o444,
                        'w' => bits |= 0o222,
                        'x' => bits |= 0o111,
                        'X' => search = true,
                        's' => bits |= SET_UID | SET_GID,
                        't' => bits |= STICKY,
                        _ => return None,
                    }
                }
                What::Bits { bits, search }
            }
        };
        changes.push(Change::Symbolic { whom, how, what });
        rest = &rest[end..];
    }
    Some(())
}

fn symbolic(mode: u32, whom: u32, how: char, what: What, is_directory: bool) -> u32 {
    let bits = match what {
        What::Bits { bits, search } => {
            let enter = search && (is_directory || mode & 0o111 != 0);
            bits | if enter { 0o111 } else { 0 }
        }
        What::Of(from) => {
            let shift = match from {
                'u' => 6,
                'g' => 3,
                _ => 0,
            };
            ((mode >> shift) & 0o7) * 0o111
        }
    };
    // Set-id bits belong to the user and the group they are named for, the sticky bit to `a` and `o`.
    let mut reach = whom;
    for (of, special) in [(0o700, SET_UID), (0o070, SET_GID), (0o007, STICKY)] {
        if whom & of != 0 {
            reach |= special;
        }
    }
    match how {
        '+' => mode | (bits & reach),
        '-' => mode & !(bits & reach),
        // A directory keeps set-id bits that are not named, as with chmod(1).
        _ => {
            let cleared = if is_directory { reach & !(SET_UID | SET_GID) } else { reach };
            (mode & !cleared) | (bits & reach)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_become_what_chmod_makes_of_them() {
        for (text, mode, is_directory, expected) in [
            ("755", 0o600, false, 0o755),
            ("0644", 0o777, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("go=", 0o755, false, 0o700),
            ("g=u,o-rx", 0o755, false, 0o770),
            ("u+s", 0o755, false, 0o4755),
            ("+t", 0o777, true, 0o1777),
            ("u+w-x", 0o555, false, 0o655),
            ("o+r,a+X", 0o600, false, 0o604),
        ] {
            let chmod = Chmod::parse(text).expect("well-formed");
            assert_eq!(format!("{:o}", chmod.apply(mode, is_directory)), format!("{expected:o}"), "{text}");
        }
        for wrong in ["", "888", "77777", "x", "z+x", "u+q", "u=rw go=r", "+x,", "é+x"] {
            assert!(Chmod::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
