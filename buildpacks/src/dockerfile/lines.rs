//! A Dockerfile's lines: comments and continuations gone, here-documents collected, keyword and flags apart.
//!
//! In: text. Out: [`Line`]s with their numbers. The rules are BuildKit's: directives come first, a comment or an empty
//! line between continued lines is skipped, the escape character may be chosen.

use super::Problem;
use serde::{Deserialize, Serialize};

/// Longest Dockerfile in bytes.
const MAX_TEXT: usize = 1 << 20;
/// Directives before the first instruction that mean something here; others are comments.
const DIRECTIVES: [&str; 3] = ["syntax", "escape", "check"];
/// Instructions that may have here-documents.
const WITH_HEREDOCS: [&str; 3] = ["RUN", "COPY", "ADD"];

/// One instruction as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Where it begins, from 1.
    pub(super) number: usize,
    /// Upper case.
    pub(super) keyword: String,
    /// The keyword as it is written.
    pub(super) written: String,
    /// `--name[=value]` after the keyword.
    pub(super) flags: Vec<(String, Option<String>)>,
    /// All after the flags, continued lines joined.
    pub(super) rest: String,
    /// All after the keyword, flags and all.
    pub(super) all: String,
    /// In order.
    pub(super) heredocs: Vec<Heredoc>,
}

/// `<<NAME` and the lines up to `NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heredoc {
    /// The word that ends it, which is also the file's name in `COPY`.
    pub name: String,
    /// Its lines, each with its newline.
    pub content: String,
    /// Whether variables in it are filled in: the name was not quoted.
    pub expand: bool,
}

/// Cuts a text into lines. Gives the escape character too.
pub(super) fn lines(text: &str) -> Result<(Vec<Line>, char), Problem> {
    if text.len() > MAX_TEXT {
        return Err(Problem::new(1, "it is longer than 1 MiB"));
    }
    if text.contains('\0') {
        return Err(Problem::new(1, "it has a NUL byte in it; is it a text file?"));
    }
    let text = text.trim_start_matches('\u{feff}');
    let mut source =
        text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate().peekable();
    let escape = directives(&mut source)?;
    let mut found = Vec::new();
    while let Some((index, first)) = source.next() {
        let start = first.trim_start();
        if start.is_empty() || start.starts_with('#') {
            continue;
        }
        let mut joined = String::new();
        let mut more = append(&mut joined, start, escape);
        while more {
            let Some((_, next)) = source.next() else { break };
            let trimmed = next.trim_start();
            if trimmed.starts_with('#') || trimmed.is_empty() {
                continue;
            }
            more = append(&mut joined, next, escape);
        }
        let mut line = instruction(&joined, index + 1, escape)?;
        for (name, strip, expand) in heredoc_names(&line, escape) {
            let mut content = String::new();
            loop {
                let Some((_, next)) = source.next() else {
                    return Err(Problem::new(
                        index + 1,
                        format!(
                            "the here-document <<{name} does not end; a line with only {name} is missing"
                        ),
                    ));
                };
                let next = if strip { next.trim_start_matches('\t') } else { next };
                if next == name {
                    break;
                }
                content.push_str(next);
                content.push('\n');
            }
            line.heredocs.push(Heredoc { name, content, expand });
        }
        found.push(line);
    }
    Ok((found, escape))
}

/// One instruction without here-documents, such as ONBUILD keeps.
pub(super) fn single(text: &str, number: usize, escape: char) -> Result<Line, Problem> {
    instruction(text.trim(), number, escape)
}

fn directives<'a>(
    source: &mut std::iter::Peekable<impl Iterator<Item = (usize, &'a str)>>,
) -> Result<char, Problem> {
    let mut escape = '\\';
    let mut seen = Vec::new();
    while let Some((index, line)) = source.peek().copied() {
        let directive = line.trim_start().strip_prefix('#').and_then(|rest| rest.split_once('='));
        let Some((name, value)) = directive else { break };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if !DIRECTIVES.contains(&name.as_str()) {
            break;
        }
        if seen.contains(&name) {
            return Err(Problem::new(index + 1, format!("the directive {name} is given twice")));
        }
        if name == "escape" {
            escape = match value {
                "\\" => '\\',
                "`" => '`',
                _ => return Err(Problem::new(index + 1, "the escape character can be \\ or `")),
            };
        }
        seen.push(name);
        source.next();
    }
    Ok(escape)
}

/// Adds a line; says whether it goes on.
fn append(joined: &mut String, line: &str, escape: char) -> bool {
    let end = line.trim_end_matches([' ', '\t']);
    match end.strip_suffix(escape) {
        // Two escape characters are one that does not continue.
        Some(head) if !head.ends_with(escape) => {
            joined.push_str(head);
            true
        }
        _ => {
            joined.push_str(line);
            false
        }
    }
}

fn instruction(joined: &str, number: usize, escape: char) -> Result<Line, Problem> {
    let end = joined.find(char::is_whitespace).unwrap_or(joined.len());
    let (written, all) = (joined[..end].to_owned(), joined[end..].trim().to_owned());
    let keyword = written.to_ascii_uppercase();
    let takes_flags = matches!(keyword.as_str(), "FROM" | "RUN" | "COPY" | "ADD" | "HEALTHCHECK");
    let (flags, rest) = if takes_flags { flags(&all, number, escape)? } else { (Vec::new(), all.as_str()) };
    let rest = rest.to_owned();
    Ok(Line { number, keyword, written, flags, rest, all, heredocs: Vec::new() })
}

type Flags<'a> = (Vec<(String, Option<String>)>, &'a str);

fn flags(text: &str, number: usize, escape: char) -> Result<Flags<'_>, Problem> {
    let mut found = Vec::new();
    let mut rest = text;
    while rest.starts_with("--") {
        let (word, end) = raw_word(rest, escape);
        rest = rest[end..].trim_start();
        if word == "--" {
            break;
        }
        let (name, value) = match word[2..].split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (&word[2..], None),
        };
        if name.is_empty() {
            return Err(Problem::new(number, format!("{word:?} is no flag")));
        }
        found.push((name.to_ascii_lowercase(), value));
    }
    Ok((found, rest))
}

/// The first word with its quotes, and where it ends.
fn raw_word(text: &str, escape: char) -> (&str, usize) {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (&text[..at], at),
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape && quote != Some('\'') => drop(chars.next()),
            _ => {}
        }
    }
    (text, text.len())
}

/// Words separated by blanks, quotes and escapes kept as they are.
pub(super) fn raw_words(text: &str, escape: char) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, end) = raw_word(rest, escape);
        words.push(word);
        rest = rest[end..].trim_start();
    }
    words
}

/// What `<<NAME`, `<<-NAME` and `3<<"NAME"` announce: name, whether tabs are taken off, whether variables are filled in.
fn heredoc_names(line: &Line, escape: char) -> Vec<(String, bool, bool)> {
    if !WITH_HEREDOCS.contains(&line.keyword.as_str()) || line.rest.starts_with('[') {
        return Vec::new();
    }
    raw_words(&line.rest, escape).into_iter().filter_map(heredoc_name).collect()
}

/// Reads one word as the start of a here-document.
pub(super) fn heredoc_name(word: &str) -> Option<(String, bool, bool)> {
    let after = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (name, strip) = match after.strip_prefix('-') {
        Some(name) => (name, true),
        None => (after, false),
    };
    if name.is_empty() || name.contains('<') {
        return None;
    }
    let plain: String = name.chars().filter(|c| !matches!(c, '"' | '\'' | '\\')).collect();
    let good = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if plain.is_empty() || !plain.chars().all(good) {
        return None;
    }
    let expand = plain == name;
    Some((plain, strip, expand))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<Line> {
        lines(text).expect("well-formed").0
    }

    #[test]
    fn lines_are_joined_and_comments_skipped() {
        let found = of(
            "# syntax=docker/dockerfile:1\n# a note\nfrom a\nRUN one \\\n  # not this\n\n  two \\ \n && three\r\n#end\nCMD x\\\\\n",
        );
        let shown: Vec<_> =
            found.iter().map(|line| (line.number, line.keyword.as_str(), line.rest.as_str())).collect();
        assert_eq!(shown, [(3, "FROM", "a"), (4, "RUN", "one   two  && three"), (10, "CMD", "x\\\\")]);
        let windows = of("# escape=`\nFROM a\nRUN one `\n two\\\n");
        assert_eq!(windows[1].rest, "one  two\\");
    }

    #[test]
    fn flags_stand_before_the_rest() {
        let found = of("FROM a\nCOPY --from=b --chown=\"x y\" --link -- --odd /d\n");
        let flag = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        assert_eq!(
            found[1].flags,
            [flag("from", Some("b")), flag("chown", Some("\"x y\"")), flag("link", None)]
        );
        assert_eq!(found[1].rest, "--odd /d");
    }

    #[test]
    fn here_documents_are_collected() {
        let found = of(
            "FROM a\nRUN <<EOF\necho # no comment\n\\\nEOF\nCOPY <<-\"A\" <<b.txt /d/\n\tone $x\n\tA\n\ttwo\nb.txt\nRUN echo 1<<<x $((1<<2))\n",
        );
        assert_eq!(
            found[1].heredocs,
            [Heredoc { name: "EOF".to_owned(), content: "echo # no comment\n\\\n".to_owned(), expand: true }]
        );
        let names: Vec<_> = found[2]
            .heredocs
            .iter()
            .map(|doc| (doc.name.as_str(), doc.content.as_str(), doc.expand))
            .collect();
        assert_eq!(names, [("A", "one $x\n", false), ("b.txt", "\ttwo\n", true)]);
        assert!(found[3].heredocs.is_empty());
        let error = lines("FROM a\nRUN <<EOF\nx\n").expect_err("open");
        assert!(error.line == 2 && error.text.contains("EOF"), "{error:?}");
    }
}
