//! Variables as text: what shells, Docker and `.env` files write.
//!
//! In: variables. Out: text, which `berth_model::envfile` reads back if it is written as `exports` or `envfile`.

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

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::envfile::parse;
    use proptest::prelude::*;

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
