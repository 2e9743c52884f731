//! Procfiles: which process types an app has and what each runs.
//!
//! In: the text of a `Procfile`. Out: its lines by process type, or what is wrong and in which line. A malformed file is
//! refused whole: half of one would start half an app.

use crate::ProcessType;
use std::collections::BTreeMap;
use std::fmt;

/// A Procfile as it was written: process types and their command lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Procfile(pub BTreeMap<ProcessType, String>);

/// What is wrong with a file, and in which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: {reason}")]
pub struct ParseError {
    /// Name of the file, such as `Procfile`.
    pub file: &'static str,
    /// From 1.
    pub line: usize,
    /// What was found, and what to write instead.
    pub reason: String,
}

/// Longest Procfile, in bytes.
const LIMIT: usize = 256 * 1024;

/// Parses `name: command` lines. Empty lines and lines beginning with `#` or `//` are comments; CRLF is tolerated; a
/// name may not come twice. An empty file is an empty [`Procfile`].
pub fn parse(text: &str) -> Result<Procfile, ParseError> {
    let refuse = |line: usize, reason: String| Err(ParseError { file: "Procfile", line, reason });
    if text.len() > LIMIT {
        return refuse(1, format!("the file has {} bytes; at most {LIMIT} are allowed", text.len()));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines: BTreeMap<ProcessType, (usize, String)> = BTreeMap::new();
    for (index, line) in text.split('\n').enumerate() {
        let number = index + 1;
        let line = line.trim_end_matches('\r').trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with("//") {
            continue;
        }
        if is_merge_marker(line) {
            return refuse(
                number,
                format!(
                    "{} is left of a merge conflict; resolve it and commit the file again",
                    excerpt(line)
                ),
            );
        }
        if let Some(bad) = line.chars().find(|c| c.is_control() && *c != '\t') {
            return refuse(number, format!("it has the control character {bad:?}; remove it"));
        }
        let Some((name, command)) = line.split_once(':') else {
            return refuse(number, format!("{} is not of the form `name: command`", excerpt(line)));
        };
        let (name, command) = (name.trim(), command.trim());
        let process = match ProcessType::parse(name) {
            Ok(process) => process,
            Err(error) => return refuse(number, error.to_string()),
        };
        if command.is_empty() {
            return refuse(number, format!("process type {name} has no command after the colon"));
        }
        if let Some((first, _)) = lines.get(&process) {
            return refuse(
                number,
                format!("process type {name} was given in line {first} already; keep one of the two"),
            );
        }
        lines.insert(process, (number, command.to_owned()));
    }
    Ok(Procfile(lines.into_iter().map(|(process, (_, command))| (process, command)).collect()))
}

/// What git writes into a file where a merge failed.
fn is_merge_marker(line: &str) -> bool {
    ["<<<<<<<", "=======", ">>>>>>>", "|||||||"].iter().any(|marker| line.starts_with(marker))
}

pub(crate) fn excerpt(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

impl fmt::Display for Procfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(process, command)| writeln!(f, "{process}: {command}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(text: &str) -> String {
        parse(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn the_usual_file_is_read() {
        let text = "# comment\r\nweb: gunicorn --bind 0.0.0.0:$PORT app:app\r\n\r\n// other comment\n\tworker:python w.py # kept\n";
        let procfile = parse(text).expect("valid");
        assert_eq!(
            procfile.to_string(),
            "web: gunicorn --bind 0.0.0.0:$PORT app:app\nworker: python w.py # kept\n"
        );
        assert_eq!(parse("\u{feff}web: x").expect("valid").0.len(), 1);
        assert_eq!(parse("").expect("valid"), Procfile::default());
    }

    #[test]
    fn a_malformed_file_is_refused_with_its_line() {
        insta::assert_snapshot!(refusal("web: a\n<<<<<<< HEAD\nweb: b\n"), @r#"Procfile, line 2: "<<<<<<< HEAD" is left of a merge conflict; resolve it and commit the file again"#);
        insta::assert_snapshot!(refusal("web: a\n\nweb: b\n"), @"Procfile, line 3: process type web was given in line 1 already; keep one of the two");
        insta::assert_snapshot!(refusal("web\n"), @r#"Procfile, line 1: "web" is not of the form `name: command`"#);
        insta::assert_snapshot!(refusal("we b: x\n"), @r#"Procfile, line 1: process type "we b" is not valid: use letters, digits, - and _, and do not begin with -"#);
        insta::assert_snapshot!(refusal("web:  \n"), @"Procfile, line 1: process type web has no command after the colon");
        insta::assert_snapshot!(refusal("web: a\0b\n"), @r"Procfile, line 1: it has the control character '\0'; remove it");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn no_line_makes_it_panic(text in "([a-z]{0,3}:? ?[ -~]{0,8}\r?\n){0,6}") {
            let _ = parse(&text);
        }

        #[test]
        fn print_and_parse_give_the_same(
            lines in proptest::collection::btree_map("[A-Za-z0-9_][A-Za-z0-9_-]{0,20}", "[!-~]([ -~]{0,40}[!-~])?", 0..6)
        ) {
            let procfile = Procfile(
                lines.into_iter().map(|(name, command)| (ProcessType::parse(&name).expect("made to be valid"), command)).collect(),
            );
            prop_assert_eq!(parse(&procfile.to_string()).expect("printed files are valid"), procfile);
        }
    }
}
