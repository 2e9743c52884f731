//! An env file that was pasted: what it sets, or all that is wrong with it.
//!
//! In: `KEY=VALUE` lines as `berth config:import` reads them: an optional `export`, comments, single and double quotes, also
//! over several lines; nothing is expanded. Out: variables by name, or a sentence for each line that is none. A sentence names
//! the line and quotes nothing behind the name: values are not for showing.

use berth_model::EnvName;
use std::collections::BTreeMap;

/// Most mistakes that are told at once: whoever pasted something else need not read more.
const MOST: usize = 20;

/// Reads the whole text, also behind mistakes.
pub(super) fn parse(text: &str) -> Result<BTreeMap<EnvName, String>, Vec<String>> {
    let mut variables = BTreeMap::new();
    let mut mistakes = Vec::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let end = rest.find('\n').unwrap_or(rest.len());
        let start = rest[..end].trim_start();
        let mut used = end;
        if !start.is_empty() && !start.starts_with('#') {
            match pair(rest, end - start.len()) {
                Ok((name, value, length)) => {
                    used = length;
                    variables.insert(name, value);
                }
                Err(Wrong { what, then_lost }) => {
                    mistakes.push(format!("line {line}: {what}"));
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
    match mistakes.len() {
        0 => Ok(variables),
        1..=MOST => Err(mistakes),
        count => {
            mistakes.truncate(MOST);
            mistakes.push(format!("and {} more lines", count - MOST));
            Err(mistakes)
        }
    }
}

/// Why something is no pair.
struct Wrong {
    what: String,
    /// Whether it reaches over more than its line.
    then_lost: bool,
}

impl Wrong {
    fn line(what: impl Into<String>) -> Self {
        Self { what: what.into(), then_lost: false }
    }

    fn open_quote() -> Self {
        Self { what: "the quote that begins there never ends".to_owned(), then_lost: true }
    }
}

/// The pair whose line begins, behind blanks, at `offset` of `rest`; and how many bytes up to the line break behind it.
fn pair(rest: &str, offset: usize) -> Result<(EnvName, String, usize), Wrong> {
    let end = rest.find('\n').unwrap_or(rest.len());
    let start = &rest[offset..end];
    let key = start.strip_prefix("export ").map_or(start, str::trim_start);
    let key_at = offset + (start.len() - key.len());
    let equals = key.find('=').ok_or_else(|| Wrong::line("it is no KEY=VALUE"))?;
    let name = EnvName::parse(key[..equals].trim()).map_err(|error| Wrong::line(error.to_string()))?;
    let value_at = key_at + equals + 1;
    let (value, used) = value(&rest[value_at..])?;
    Ok((name, value, value_at + used))
}

/// The value that `text` begins with, and how many bytes up to the line break (or end) behind it.
fn value(text: &str) -> Result<(String, usize), Wrong> {
    if !text.starts_with(['\'', '"']) {
        let end = text.find('\n').unwrap_or(text.len());
        let raw = text[..end].split(" #").next().unwrap_or("");
        return Ok((raw.trim().to_owned(), end));
    }
    let trailing = |at: usize| Wrong {
        what: "there is more behind the closing quote".to_owned(),
        then_lost: text[..at].contains('\n'),
    };
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    let mut quote = None;
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (Some('"'), '\\') => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('\\' | '"' | '$' | '`'))) => value.push(c),
                Some((_, c)) => value.extend(['\\', c]),
                None => return Err(Wrong::open_quote()),
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
    if quote.is_some() { Err(Wrong::open_quote()) } else { Ok((value, text.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let told = |text: &str| parse(text).expect_err("mistakes");
        assert_eq!(
            told("A=1\nnope hunter2\nB='x'hunter2\nC=3\n2D=hunter2"),
            [
                "line 2: it is no KEY=VALUE".to_owned(),
                "line 3: there is more behind the closing quote".to_owned(),
                "line 5: variable name \"2D\" is not valid: use letters, digits and _, and do not begin with a digit"
                    .to_owned(),
            ]
        );
        assert_eq!(told("A='1\n2'\nB=\"x\n\nC=1"), ["line 3: the quote that begins there never ends"]);
        assert_eq!(told("A='1\nB=2' x\nC"), ["line 1: there is more behind the closing quote"]);
        let many = told(&"x\n".repeat(30));
        assert_eq!((many.len(), many[MOST].as_str()), (MOST + 1, "and 10 more lines"));
    }
}
