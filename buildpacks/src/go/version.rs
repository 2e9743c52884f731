//! Which Go an app wants.
//!
//! In: the config var GOVERSION, go.mod, go.work and version files. Out: one wish and where it was found.

use crate::PlanError;
use crate::draft::Draft;
use crate::error::invalid;
use crate::tree::SourceTree;

/// A version of Go as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// `1.22` (the newest of that line), `1.22.3`, or empty for the newest of all.
    pub(crate) version: String,
    /// Where it stands.
    pub(crate) origin: String,
    /// A `go` line of go.mod is a minimum, as it is to Go itself: a newer line will do where that one cannot be had.
    pub(crate) minimum: bool,
}

/// The wish of the app.
pub(crate) fn wanted(draft: &Draft<'_>) -> Result<Wanted, PlanError> {
    let tree = draft.tree;
    let wish = |origin: &str, file: &str, text: &str, minimum: bool| {
        let version = parse(file, text)?;
        Ok(Wanted { version, origin: origin.to_owned(), minimum })
    };
    if let Some(text) = draft.var("GOVERSION").filter(|text| !text.trim().is_empty()) {
        return wish("the config var GOVERSION", "GOVERSION", text, false);
    }
    for file in ["go.work", "go.mod"] {
        let Some(text) = tree.text(file)? else { continue };
        let directives = Directives::of(&text);
        if let Some(version) = directives.heroku {
            return wish(&format!("{file} (+heroku goVersion)"), file, version, false);
        }
        if let Some(version) = directives.toolchain.filter(|name| *name != "default") {
            return wish(&format!("{file} (toolchain)"), file, version, true);
        }
        if let Some(version) = directives.go {
            return wish(&format!("{file} (go)"), file, version, true);
        }
    }
    if let Some(text) = first_line(tree, ".go-version")? {
        return wish(".go-version", ".go-version", &text, false);
    }
    if let Some(text) = tree.text(".tool-versions")? {
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let found = lines.find_map(|words| match words.as_slice() {
            ["golang" | "go", version, ..] => Some((*version).to_owned()),
            _ => None,
        });
        if let Some(version) = found {
            return wish(".tool-versions", ".tool-versions", &version, false);
        }
    }
    Ok(Wanted { version: String::new(), origin: String::new(), minimum: true })
}

fn first_line(tree: &dyn SourceTree, file: &str) -> Result<Option<String>, PlanError> {
    let text = tree.text(file)?.unwrap_or_default();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(line.map(str::to_owned))
}

/// What a go.mod or go.work says that matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Directives<'t> {
    /// Path of the module.
    pub(super) module: Option<&'t str>,
    go: Option<&'t str>,
    toolchain: Option<&'t str>,
    heroku: Option<&'t str>,
    /// `// +heroku install ./cmd/...`.
    pub(super) install: Option<&'t str>,
}

impl<'t> Directives<'t> {
    /// Reads lines; what it does not know is Go's to judge.
    pub(super) fn of(text: &'t str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let line = line.trim();
            if let Some(comment) = line.strip_prefix("//") {
                let Some(rest) = comment.trim().strip_prefix("+heroku ") else { continue };
                match rest.trim().split_once(char::is_whitespace) {
                    Some(("goVersion", version)) => found.heroku = Some(version.trim()),
                    Some(("install", spec)) => found.install = Some(spec.trim()),
                    _ => {}
                }
                continue;
            }
            let line = line.split("//").next().unwrap_or(line);
            let mut words = line.split_whitespace();
            let (name, value) = (words.next(), words.next().map(|word| word.trim_matches(['"', '`'])));
            match (name, value) {
                (Some("module"), Some(path)) => found.module = Some(path),
                (Some("go"), Some(version)) => found.go = Some(version),
                (Some("toolchain"), Some(name)) => found.toolchain = Some(name),
                _ => {}
            }
        }
        found
    }
}

/// `1.22`, `1.22.3`, `go1.22.3`; of `1.23rc1` and `1.22.3-custom` what is before the letters.
fn parse(file: &str, text: &str) -> Result<String, PlanError> {
    let text = text.trim();
    let version = text.strip_prefix("go").unwrap_or(text);
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    let parts: Vec<&str> = version[..end].split('.').collect();
    let good = |part: &&str| !part.is_empty() && part.len() <= 3;
    if parts.first() == Some(&"1") && (2..=3).contains(&parts.len()) && parts.iter().all(good) {
        return Ok(parts.join("."));
    }
    let shown: String = text.chars().take(40).collect();
    invalid(file, format!("found {shown:?}, expected a version of Go such as 1.22 or 1.22.3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_found_where_people_write_them() {
        let text = "// +heroku install ./cmd/... .\nmodule \"example.com/x/v2\" // path\n\ngo 1.22.0\ntoolchain go1.22.3\nrequire (\n\tgo.uber.org/zap v1.27.0\n)\n";
        let found = Directives::of(text);
        assert_eq!(found.module, Some("example.com/x/v2"));
        assert_eq!((found.go, found.toolchain), (Some("1.22.0"), Some("go1.22.3")));
        assert_eq!(found.install, Some("./cmd/... ."));
        assert_eq!(Directives::of("// +heroku goVersion go1.21\n").heroku, Some("go1.21"));
        assert_eq!(Directives::of("\u{0}go\nmodule"), Directives::default());
    }

    #[test]
    fn versions_are_parsed_or_refused() {
        let parsed = |text| parse("go.mod", text).ok();
        assert_eq!(parsed("go1.22.3").as_deref(), Some("1.22.3"));
        assert_eq!(parsed(" 1.22 ").as_deref(), Some("1.22"));
        assert_eq!(parsed("1.23rc1").as_deref(), Some("1.23"));
        assert_eq!(parsed("go1.22.3-x").as_deref(), Some("1.22.3"));
        for bad in ["", "2.0", "1", "1.", "1.2.3.4", "latest", "1.99999", "ü"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
