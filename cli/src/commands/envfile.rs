//! Variables as text: what shells, Docker and `.env` files write.
//!
//! In: variables, or an env file. Out: the other. `parse` reads back what `print` writes as `exports` and `envfile`.

use berth_model::EnvName;
use std::collections::BTreeMap;

/// How variables are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `export KEY='value'` a line.
    Exports,
    /// `KEY="value"` a line.
    Envfile,
    /// One object.
    Json,
    /// `KEY='value' KEY='value'` on one line.
    Shell,
    /// `--env=KEY='value'` on one line.
    DockerArgs,
    /// `--env=KEY` on one line: the values come from the caller's environment.
    DockerArgsKeys,
    /// `--env KEY` on one line, as `pack build` takes it.
    PackKeys,
    /// Names and values in columns, for people.
    Pretty,
    /// Objects with `name` and `value`.
    JsonList,
}

impl Format {
    /// All of them, by name.
    const ALL: [(&'static str, Self); 9] = [
        ("exports", Self::Exports),
        ("envfile", Self::Envfile),
        ("json", Self::Json),
        ("json-list", Self::JsonList),
        ("shell", Self::Shell),
        ("docker-args", Self::DockerArgs),
        ("docker-args-keys", Self::DockerArgsKeys),
        ("pack-keys", Self::PackKeys),
        ("pretty", Self::Pretty),
    ];

    /// What they are called.
    pub(super) const NAMES: [&'static str; 9] = {
        let mut names = [""; 9];
        let mut at = 0;
        while at < names.len() {
            names[at] = Self::ALL[at].0;
            at += 1;
        }
        names
    };

    /// The format called `name`.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }
}

/// All variables as text, ending in a newline if there are any.
pub(super) fn print(format: Format, variables: &BTreeMap<EnvName, String>) -> String {
    let width = variables.keys().map(|key| key.as_str().len()).max().unwrap_or(0);
    let each = |(key, value): (&EnvName, &String)| match format {
        Format::Exports => format!("export {key}={}", single_quoted(value)),
        Format::Envfile => format!("{key}={}", double_quoted(value)),
        Format::Shell | Format::Json | Format::JsonList => format!("{key}={}", single_quoted(value)),
        Format::DockerArgs => format!("--env={key}={}", single_quoted(value)),
        Format::DockerArgsKeys => format!("--env={key}"),
        Format::PackKeys => format!("--env {key}"),
        Format::Pretty => format!("{:width$}  {}", key.as_str(), value.replace('\n', "\\n")),
    };
    let words: Vec<String> = variables.iter().map(each).collect();
    let separator =
        if matches!(format, Format::Exports | Format::Envfile | Format::Pretty) { "\n" } else { " " };
    if words.is_empty() { String::new() } else { words.join(separator) + "\n" }
}

/// As a POSIX shell reads it back.
pub(super) fn single_quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn double_quoted(value: &str) -> String {
    let escaped: String = value
        .chars()
        .flat_map(|c| match c {
            '\\' | '"' | '$' | '`' => vec!['\\', c],
            '\n' => vec!['\\', 'n'],
            c => vec![c],
        })
        .collect();
    format!("\"{escaped}\"")
}

/// An env file could not be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EnvfileError {
    /// No `=`.
    #[error("line {0} is no KEY=VALUE")]
    NoPair(usize),
    /// Not a name.
    #[error("line {line}: {error}")]
    Name { line: usize, error: berth_model::NameError },
    /// A quote without its end.
    #[error("line {0}: the quote that begins there never ends")]
    OpenQuote(usize),
    /// Text behind the end of a quote.
    #[error("line {0}: there is more behind the closing quote")]
    Trailing(usize),
}

/// Reads an env file: `KEY=VALUE` lines, an optional `export`, comments, single and double quotes, also over several
/// lines. Nothing is expanded.
pub(super) fn parse(text: &str) -> Result<BTreeMap<EnvName, String>, EnvfileError> {
    let mut variables = BTreeMap::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let end = rest.find('\n').unwrap_or(rest.len());
        let start = rest[..end].trim_start();
        if start.is_empty() || start.starts_with('#') || start == "\r" {
            rest = rest.get(end + 1..).unwrap_or("");
            line += 1;
            continue;
        }
        let offset = end - start.len();
        let pair = start.strip_prefix("export ").map_or(start, str::trim_start);
        let key_at = offset + (start.len() - pair.len());
        let equals = pair.find('=').ok_or(EnvfileError::NoPair(line))?;
        let key =
            EnvName::parse(pair[..equals].trim()).map_err(|error| EnvfileError::Name { line, error })?;
        let (value, used) = value(&rest[key_at + equals + 1..], line)?;
        let consumed = &rest[..key_at + equals + 1 + used];
        line += consumed.matches('\n').count() + 1;
        rest = rest.get(consumed.len() + 1..).unwrap_or("");
        variables.insert(key, value);
    }
    Ok(variables)
}

/// The value that `text` begins with, and how many bytes up to the newline (or end) behind it.
fn value(text: &str, line: usize) -> Result<(String, usize), EnvfileError> {
    if !text.starts_with(['\'', '"']) {
        let end = text.find('\n').unwrap_or(text.len());
        let raw = text[..end].split(" #").next().unwrap_or("");
        return Ok((raw.trim().to_owned(), end));
    }
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
                None => return Err(EnvfileError::OpenQuote(line)),
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
                if !behind.is_empty() && !behind.starts_with('#') {
                    return Err(EnvfileError::Trailing(line));
                }
                return Ok((value, end));
            }
            (None, _) => return Err(EnvfileError::Trailing(line)),
        }
    }
    if quote.is_some() { Err(EnvfileError::OpenQuote(line)) } else { Ok((value, text.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Vec<(String, String)> {
        let parsed = parse(text).expect("a good file");
        parsed.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }

    #[test]
    fn files_as_people_write_them() {
        let text = "# comment\r\n\nA=1\r\nexport B='two words'\nC=\"a\\nb\" # why\n D = x # y\nE=\nF='multi\nline'\nG=1";
        let want = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a\nb"),
            ("D", "x"),
            ("E", ""),
            ("F", "multi\nline"),
            ("G", "1"),
        ];
        assert_eq!(one(text), want.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        assert_eq!(parse("A=1\nnope\n"), Err(EnvfileError::NoPair(2)));
        assert_eq!(parse("A='x\n\n"), Err(EnvfileError::OpenQuote(1)));
        assert_eq!(parse("A='x'y\n"), Err(EnvfileError::Trailing(1)));
        assert!(matches!(parse("A='1\n2'\n2B=1"), Err(EnvfileError::Name { line: 3, .. })));
    }

    proptest! {
        #[test]
        fn parsing_gives_back_what_was_printed(
            variables in prop::collection::btree_map("[A-Z_][A-Z0-9_]{0,5}", "(\\PC|\n|\r|\t|'|\"|\\\\|\\$|#| )*", 0..5)
        ) {
            let variables: BTreeMap<EnvName, String> = variables
                .into_iter()
                .map(|(key, value)| (EnvName::parse(&key).expect("valid by construction"), value))
                .collect();
            for format in [Format::Exports, Format::Envfile] {
                prop_assert_eq!(&parse(&print(format, &variables)).expect("our own text"), &variables);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_shell_reads_what_was_printed_for_it(value in "(\\PC|\n|\r|\t|'|\"|\\\\|\\$|#| |`|!)*") {
            let variables = BTreeMap::from([(EnvName::parse("V").expect("valid"), value.clone())]);
            for (format, script) in [
                (Format::Exports, "eval \"$1\"; printf %s. \"$V\""),
                (Format::Shell, "eval \"$1\"; printf %s. \"$V\""),
                (Format::DockerArgs, "eval \"set -- $1\"; printf %s. \"${1#--env=V=}\""),
            ] {
                let printed = print(format, &variables);
                let output = std::process::Command::new("sh").args(["-c", script, "sh", &printed]).output();
                let output = output.expect("there is a shell");
                prop_assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{value}."));
            }
        }
    }
}
