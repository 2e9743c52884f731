//! Patterns: Go's `filepath.Match` with `**`, as `.dockerignore`, `COPY` and `${x%pattern}` use them.
//!
//! In: a pattern, a text. Out: whether all of the text matches, in time proportional to pattern times text.

/// One part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Char(char),
    /// `?`: one character, no `/`.
    One,
    /// `*`: any without `/`.
    Star,
    /// `**`: any.
    Deep,
    /// `**/`: nothing, or anything that ends with `/`.
    Directories,
    /// `[a-z]`; `true`: all others.
    Class(Vec<(char, char)>, bool),
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

impl Pattern {
    /// A pattern for paths. An error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' if chars.next_if_eq(&'*').is_some() => {
                    while chars.next_if_eq(&'*').is_some() {}
                    match chars.next_if_eq(&'/') {
                        Some(_) => Part::Directories,
                        None => Part::Deep,
                    }
                }
                '*' => Part::Star,
                '?' => Part::One,
                '\\' => {
                    Part::Char(chars.next().ok_or_else(|| format!("pattern {text:?} ends with a backslash"))?)
                }
                '[' => {
                    class(&mut chars).ok_or_else(|| format!("pattern {text:?} has a [ that is not closed"))?
                }
                c => Part::Char(c),
            });
        }
        Ok(Self(parts))
    }

    /// A pattern of the shell: `*` and `?` match `/` too, and nothing is special besides them and the backslash.
    pub(super) fn of_shell(text: &str) -> Self {
        let mut chars = text.chars();
        let mut parts = Vec::new();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Deep,
                '?' => Part::Class(Vec::new(), true),
                '\\' => Part::Char(chars.next().unwrap_or('\\')),
                c => Part::Char(c),
            });
        }
        Self(parts)
    }

    /// Whether it is a plain text that only matches itself.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Char(_)))
    }

    /// Whether all of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let mut at = vec![false; text.len() + 1];
        at[0] = true;
        for part in &self.0 {
            let mut next = vec![false; text.len() + 1];
            match part {
                Part::Char(_) | Part::One | Part::Class(..) => {
                    for (index, c) in text.iter().enumerate() {
                        next[index + 1] = at[index] && is_one(part, *c);
                    }
                }
                Part::Star | Part::Deep => {
                    let mut open = false;
                    for index in 0..=text.len() {
                        let broken = index > 0 && *part == Part::Star && text[index - 1] == '/';
                        open = (open && !broken) || at[index];
                        next[index] = open;
                    }
                }
                Part::Directories => {
                    let mut open = false;
                    for index in 0..=text.len() {
                        next[index] = at[index] || (open && text[index - 1] == '/');
                        open |= at[index];
                    }
                }
            }
            at = next;
        }
        at[text.len()]
    }
}

fn is_one(part: &Part, c: char) -> bool {
    match part {
        Part::Char(own) => *own == c,
        Part::One => c != '/',
        // The shell's `?` is a class that leaves nothing out.
        Part::Class(ranges, others) => {
            let found = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
            found != *others && (c != '/' || ranges.is_empty())
        }
        Part::Star | Part::Deep | Part::Directories => false,
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Part> {
    let others = chars.next_if(|c| *c == '^' || *c == '!').is_some();
    let mut ranges = Vec::new();
    loop {
        let mut one = |first: bool| match chars.next()? {
            ']' if !first => Some(None),
            '\\' => chars.next().map(Some),
            c => Some(Some(c)),
        };
        let Some(low) = one(ranges.is_empty())? else { break };
        let mut high = low;
        if chars.next_if_eq(&'-').is_some() {
            high = match chars.next()? {
                ']' => return None,
                '\\' => chars.next()?,
                c => c,
            };
        }
        ranges.push((low, high));
    }
    Some(Part::Class(ranges, others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_go_says() {
        for (pattern, text, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "d/a.txt", false),
            ("**/*.txt", "a.txt", true),
            ("**/*.txt", "d/e/a.txt", true),
            ("d/**", "d/e/f", true),
            ("d/**", "d", false),
            ("**", "any/thing", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/z", "ab/z", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[]a]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*", "", true),
            ("", "", true),
        ] {
            assert_eq!(Pattern::parse(pattern).expect("valid").matches(text), expected, "{pattern} {text}");
        }
        for bad in ["[", "[a", "a\\", "[a-]"] {
            Pattern::parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let pattern = Pattern::parse(&"*a".repeat(500)).expect("valid");
        assert!(!pattern.matches(&"a".repeat(499)));
    }
}
