//! Env files: `KEY=VALUE` lines.
//!
//! In: text with an optional `export`, comments, single and double quotes, also over several lines; nothing is expanded.
//! Out: variables by name, or a sentence for each line that is none. A sentence names the line and quotes nothing behind the
//! name: values are not for showing.

use crate::{EnvName, NameError};
use std::collections::BTreeMap;
use std::fmt;

/// Most mistakes that are told: whoever gave something else need not read more.
const MOST: usize = 20;

/// What is wrong in one line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// No `=`.
    #[error("line {0} is no KEY=VALUE")]
    NoPair(usize),
    /// No name of a variable before the `=`.
    #[error("line {line}: {error}")]
    Name {
        /// Where it stands.
        line: usize,
        /// Why it is none.
        error: NameError,
    },
    /// A quote without its end.
    #[error("line {0}: the quote that begins there never ends")]
    OpenQuote(usize),
    /// Text behind the end of a quote.
    #[error("line {0}: there is more behind the closing quote")]
    Trailing(usize),
}

/// All that is wrong, in the order of lines; shown as a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    /// At most 20.
    pub first: Vec<Mistake>,
    /// How many there are besides.
    pub more: usize,
}

impl Mistakes {
    fn push(&mut self, mistake: Mistake) {
        if self.first.len() < MOST { self.first.push(mistake) } else { self.more += 1 }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.first.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}")?;
        }
        if self.more > 0 { write!(f, "\nand {} more lines", self.more) } else { Ok(()) }
    }
}

impl std::error::Error for Mistakes {}

/// Reads the whole text, also behind mistakes. Of two lines with the same name the later holds.
pub fn parse(text: &str) -> Result<BTreeMap<EnvName, String>, Mistakes> {
    let mut variables = BTreeMap::new();
    let mut mistakes = Mistakes::default();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let end = rest.find('\n').unwrap_or(rest.len());
        let start = rest[..end].trim_start();
        let mut used = end;
        if !start.is_empty() && !start.starts_with('#') {
            match pair(rest, end - start.len(), line) {
                Ok((name, value, length)) => {
                    used = length;
                    variables.insert(name, value);
                }
                Err((mistake, then_lost)) => {
                    mistakes.push(mistake);
                    // Lines behind may be inside of a quote: nothing of them can be told apart.
                    if then_lost {
                        break;
                    }
                }
            }
        }
        line += rest[..used].matches('\n').count() + 1;
        rest = rest.get(used + 1..).unwrap_or("");
    }
    if mistakes.first.is_empty() { Ok(variables) } else { Err(mistakes) }
}

/// What is wrong, and whether it reaches over more than its line.
type Wrong = (Mistake, bool);

/// The pair whose line begins, behind blanks, at `offset` of `rest`; and how many bytes up to the line break behind it.
fn pair(rest: &str, offset: usize, line: usize) -> Result<(EnvName, String, usize), Wrong> {
    let end = rest.find('\n').unwrap_or(rest.len());
    let start = &rest[offset..end];
    let key = start.strip_prefix("export ").map_or(start, str::trim_start);
    let key_at = offset + (start.len() - key.len());
    let equals = key.find('=').ok_or((Mistake::NoPair(line), false))?;
    let name =
        EnvName::parse(key[..equals].trim()).map_err(|error| (Mistake::Name { line, error }, false))?;
    let value_at = key_at + equals + 1;
    let (value, used) = value(&rest[value_at..], line)?;
    Ok((name, value, value_at + used))
}

/// The value that `text` begins with, and how many bytes up to the line break (or end) behind it.
fn value(text: &str, line: usize) -> Result<(String, usize), Wrong> {
    if !text.starts_with(['\'', '"']) {
        let end = text.find('\n').unwrap_or(text.len());
        let raw = text[..end].split(" #").next().unwrap_or("");
        return Ok((raw.trim().to_owned(), end));
    }
    let trailing = |at: usize| (Mistake::Trailing(line), text[..at].contains('\n'));
    let open = || (Mistake::OpenQuote(line), true);
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    let mut quote = None;
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (Some(begun), c) if c == begun => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (Some('"'), '\\') => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('\\' | '"' | '$' | '`'))) => value.push(c),
                Some((_, c)) => value.extend(['\\', c]),
                None => return Err(open()),
            },
            (Some(_), c) => value.push(c),
            // A shell's way of writing a single quote between two quoted parts.
            (None, '\\') if characters.peek().is_some_and(|(_, c)| *c == '\'') => {
                characters.next();
                value.push('\'');
            }
            (None, '\n') => return Ok((value, at)),
            (None, c) if c.is_whitespace() => {
                let end = text[at..].find('\n').map_or(text.len(), |length| at + length);
                let behind = text[at..end].trim();
                return if behind.is_empty() || behind.starts_with('#') {
                    Ok((value, end))
                } else {
                    Err(trailing(at))
                };
            }
            (None, _) => return Err(trailing(at)),
        }
    }
    if quote.is_some() { Err(open()) } else { Ok((value, text.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_as_people_write_them() {
        let text = "# comment\r\n\nA=1\r\nexport B='two words'\nC=\"a\\nb\" # why\n D = x # y\nE=\nF='multi\nline'\nG='it'\\''s'";
        let read = parse(text).expect("a good file");
        let read: Vec<_> = read.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let want = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a\nb"),
            ("D", "x"),
            ("E", ""),
            ("F", "multi\nline"),
            ("G", "it's"),
        ];
        assert_eq!(read, want);
        assert_eq!(parse("").expect("nothing"), BTreeMap::new());
    }

    #[test]
    fn every_bad_line_is_told_and_no_value() {
        let told = |text: &str| parse(text).expect_err("mistakes").to_string();
        assert_eq!(
            told("A=1\nnope hunter2\nB='x'hunter2\nC=3\n2D=hunter2"),
            "line 2 is no KEY=VALUE\n\
             line 3: there is more behind the closing quote\n\
             line 5: variable name \"2D\" is not valid: use letters, digits and _, and do not begin with a digit"
        );
        assert_eq!(told("A='1\n2'\nB=\"x\n\nC=1"), "line 3: the quote that begins there never ends");
        assert_eq!(told("A='1\nB=2' x\nC"), "line 1: there is more behind the closing quote");
        let many = parse(&"x\n".repeat(30)).expect_err("mistakes");
        assert_eq!((many.first.len(), many.more), (MOST, 10));
        assert!(many.to_string().ends_with("line 20 is no KEY=VALUE\nand 10 more lines"));
    }

    proptest! {
        #[test]
        fn quoted_values_are_read_as_they_are(value in "([^']|\n)*") {
            let name = EnvName::parse("A").expect("valid");
            let read = parse(&format!("A='{value}'")).expect("a pair");
            prop_assert_eq!(read, BTreeMap::from([(name, value)]));
        }

        #[test]
        fn mistakes_name_lines_that_there_are(text in "([A-Z=#'\" ]|\\PC|\n)*") {
            let lines = text.split('\n').count();
            for mistake in parse(&text).err().map(|mistakes| mistakes.first).unwrap_or_default() {
                let (Mistake::NoPair(line) | Mistake::Name { line, .. } | Mistake::OpenQuote(line) | Mistake::Trailing(line)) = mistake;
                prop_assert!((1..=lines).contains(&line));
            }
        }
    }
}
