//! Which Python an app wants.
//!
//! In: version files and manifests. Out: one wish and where it was found.

use crate::PlanError;
use crate::error::invalid;
use crate::tree::SourceTree;

/// A version of Python as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Nothing was said: the stack's.
    Any,
    /// `3.12`: the newest of that line.
    Minor(String),
    /// `3.12.4`.
    Exact(String),
    /// `>=3.10,<3.13`, as in PEP 440.
    Range(String),
}

impl Wanted {
    /// Name of the kind, for the script.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Minor(_) => "minor",
            Self::Exact(_) => "exact",
            Self::Range(_) => "range",
        }
    }

    /// What was asked for; empty for [`Wanted::Any`].
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Any => "",
            Self::Minor(text) | Self::Exact(text) | Self::Range(text) => text,
        }
    }
}

/// The wish of the tree and the file it stands in.
pub(crate) fn wanted(tree: &dyn SourceTree) -> Result<(Wanted, Option<&'static str>), PlanError> {
    if let Some(text) = tree.text(".python-version")? {
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        return match line {
            Some(line) => parse(".python-version", line).map(|wanted| (wanted, Some(".python-version"))),
            None => invalid(".python-version", "it names no version; write one such as 3.12"),
        };
    }
    if let Some(text) = tree.text("runtime.txt")? {
        let line = text.trim();
        return match line.strip_prefix("python-") {
            Some(version) => parse("runtime.txt", version).map(|wanted| (wanted, Some("runtime.txt"))),
            None => {
                invalid("runtime.txt", format!("found {line:?}, expected a version such as python-3.11.9"))
            }
        };
    }
    if let Some(text) = tree.text(".tool-versions")? {
        let line = text.lines().find_map(|line| line.trim().strip_prefix("python "));
        if let Some(version) = line.and_then(|rest| rest.split_whitespace().next()) {
            return parse(".tool-versions", version).map(|wanted| (wanted, Some(".tool-versions")));
        }
    }
    if let Some(json) = super::manifest::json(tree, "Pipfile.lock")? {
        let requires =
            |name: &str| json.pointer(&format!("/_meta/requires/{name}")).and_then(serde_json::Value::as_str);
        if let Some(version) = requires("python_full_version").or_else(|| requires("python_version")) {
            return parse("Pipfile.lock", version).map(|wanted| (wanted, Some("Pipfile.lock")));
        }
    }
    if let Some(toml) = super::manifest::toml(tree, "Pipfile")? {
        let requires =
            |name: &str| super::manifest::at(&toml, &["requires", name]).and_then(toml::Value::as_str);
        if let Some(version) = requires("python_full_version").or_else(|| requires("python_version")) {
            return parse("Pipfile", version).map(|wanted| (wanted, Some("Pipfile")));
        }
    }
    if let Some(toml) = super::manifest::toml(tree, "pyproject.toml")? {
        let at =
            |path: &[&str]| super::manifest::at(&toml, path).and_then(toml::Value::as_str).map(str::to_owned);
        let range = at(&["project", "requires-python"])
            .or_else(|| at(&["tool", "poetry", "dependencies", "python"]).map(|range| poetry_range(&range)));
        if let Some(range) = range.filter(|range| !matches!(range.trim(), "" | "*")) {
            let allowed = |c: char| c.is_ascii_alphanumeric() || ".,<>=!~* ".contains(c);
            if !range.chars().all(allowed) {
                return invalid(
                    "pyproject.toml",
                    format!("the required Python version {range:?} is not a list such as >=3.10,<3.13"),
                );
            }
            return Ok((Wanted::Range(range.trim().to_owned()), Some("pyproject.toml")));
        }
    }
    Ok((Wanted::Any, None))
}

/// `3.12`, `3.12.4`, `3` or a list such as `>=3.10,<3.13`.
fn parse(file: &str, text: &str) -> Result<Wanted, PlanError> {
    let text = text.split(" #").next().unwrap_or(text).trim();
    let version = text.strip_prefix("python-").or_else(|| text.strip_prefix("cpython-")).unwrap_or(text);
    let version = version.strip_suffix(".*").unwrap_or(version);
    let is_number =
        |part: &str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = version.split('.').collect();
    if parts.iter().all(|part| is_number(part)) && parts.len() <= 3 {
        if parts[0] != "3" {
            return invalid(
                file,
                format!("Python {version} is not supported; use a version of Python 3, such as 3.12"),
            );
        }
        return Ok(match parts.len() {
            1 => Wanted::Range(">=3,<4".to_owned()),
            2 => Wanted::Minor(version.to_owned()),
            _ => Wanted::Exact(version.to_owned()),
        });
    }
    let is_range = text.starts_with(['<', '>', '=', '~', '!'])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".,<>=!~* ".contains(c));
    if is_range {
        return Ok(Wanted::Range(text.to_owned()));
    }
    let shown: String = text.chars().take(40).collect();
    invalid(file, format!("found {shown:?}, expected a version of CPython such as 3.12 or 3.12.4"))
}

/// Poetry's `^3.10` and `~3.10` in PEP 440's words.
pub(super) fn poetry_range(text: &str) -> String {
    let part = |part: &str| {
        let part = part.trim();
        let Some((caret, version)) = part.strip_prefix('^').map(|rest| (true, rest)).or_else(|| {
            part.strip_prefix('~').filter(|rest| !rest.starts_with('=')).map(|rest| (false, rest))
        }) else {
            let is_bare = part.starts_with(|c: char| c.is_ascii_digit());
            return if is_bare { format!("=={part}") } else { part.to_owned() };
        };
        let numbers: Vec<u32> = version.trim().split('.').map_while(|number| number.parse().ok()).collect();
        // The first number that is not 0 may not change; with `~` the second, or the only one.
        let fixed = if caret {
            numbers.iter().position(|number| *number != 0).unwrap_or(numbers.len().saturating_sub(1))
        } else {
            usize::from(numbers.len() > 1)
        };
        let Some(next) = numbers.get(fixed) else { return part.to_owned() };
        let upper: Vec<String> = numbers[..fixed]
            .iter()
            .copied()
            .chain([next.saturating_add(1)])
            .map(|number| number.to_string())
            .collect();
        format!(">={},<{}", version.trim(), upper.join("."))
    };
    text.split(',').map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryTree;

    fn of(file: &str, text: &str) -> String {
        match wanted(&MemoryTree::new().with(file, text)) {
            Ok((wanted, _)) => format!("{wanted:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn versions_are_found_where_people_write_them() {
        let cases = [
            (".python-version", "# pyenv\n3.12\n3.11\n"),
            (".python-version", "3.12.4"),
            (".python-version", "3"),
            (".python-version", "pypy3.9"),
            (".python-version", "2.7"),
            (".python-version", "\n"),
            ("runtime.txt", "python-3.11.9\r\n"),
            ("runtime.txt", "3.11"),
            (".tool-versions", "nodejs 20\npython 3.11.2\n"),
            ("pyproject.toml", "[project]\nrequires-python = \">=3.10, <3.13\""),
            ("pyproject.toml", "[tool.poetry.dependencies]\npython = \"^3.10\""),
            ("pyproject.toml", "[project]\nrequires-python = \"$(id)\""),
            ("pyproject.toml", "[project"),
            ("Pipfile.lock", "{\"_meta\": {\"requires\": {\"python_version\": \"3.11\"}}}"),
            ("other", ""),
        ];
        let text: Vec<String> =
            cases.iter().map(|(file, text)| format!("{file} {text:?} → {}", of(file, text))).collect();
        insta::assert_snapshot!(text.join("\n"));
    }

    #[test]
    fn poetrys_ranges_are_translated() {
        let cases = ["^3.10", "^0.5.2", "~3.10", "~3", ">=3.8,<4", "3.11.*", "~=3.9"].map(poetry_range);
        assert_eq!(
            cases,
            [">=3.10,<4", ">=0.5.2,<0.6", ">=3.10,<3.11", ">=3,<4", ">=3.8,<4", "==3.11.*", "~=3.9"]
        );
    }
}
