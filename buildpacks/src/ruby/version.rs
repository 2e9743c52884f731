//! Which Ruby an app wants.
//!
//! In: Gemfile, Gemfile.lock, `.ruby-version`, `.tool-versions`. Out: Debian's, or a version to compile, and where it was found.

use crate::PlanError;
use crate::error::invalid;
use crate::tree::SourceTree;

/// The Ruby of the stack's distribution.
pub(super) const LINE: &str = "3.1";

/// A version of Ruby as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The distribution's will do.
    Stack,
    /// `3.3` (the newest of that line) or `3.3.6`, compiled from source.
    Source(String),
}

/// The wish of the tree and the file it stands in; the file is empty if nothing was said.
pub(super) fn wanted(tree: &dyn SourceTree) -> Result<(Wanted, String, &'static str), PlanError> {
    let lock = tree.text("Gemfile.lock")?.unwrap_or_default();
    let mut lines = lock.lines().skip_while(|line| line.trim() != "RUBY VERSION");
    if let Some(text) = lines.nth(1).map(str::trim).and_then(|line| line.strip_prefix("ruby ")) {
        return parse("Gemfile.lock", text).map(|wanted| (wanted, text.to_owned(), "Gemfile.lock"));
    }
    let gemfile = tree.text("Gemfile")?.unwrap_or_default();
    if let Some(text) = in_gemfile(&gemfile) {
        return parse("Gemfile", &text).map(|wanted| (wanted, text, "Gemfile"));
    }
    let line = |text: String| text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
    if let Some(text) = tree.text(".ruby-version")?.and_then(line) {
        return parse(".ruby-version", &text).map(|wanted| (wanted, text, ".ruby-version"));
    }
    let tool = |text: String| {
        text.lines().find_map(|line| Some(line.trim().strip_prefix("ruby ")?.trim().to_owned()))
    };
    if let Some(text) = tree.text(".tool-versions")?.and_then(tool) {
        return parse(".tool-versions", &text).map(|wanted| (wanted, text, ".tool-versions"));
    }
    Ok((Wanted::Stack, String::new(), ""))
}

/// `ruby "3.3.6"` or `ruby '~> 3.2'`; `ruby file: …` is left to that file.
fn in_gemfile(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("ruby")?;
        let rest = rest.trim_start_matches([' ', '(', '\t']);
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        rest[1..].split_once(quote).map(|(version, _)| version.to_owned())
    })
}

/// `3.1`, `ruby-3.1.2`, `3.1.2p20`, `~> 3.1`, `>= 3.0`.
fn parse(file: &str, text: &str) -> Result<Wanted, PlanError> {
    let text = text.trim();
    let (operator, version) = match text.split_once(|c: char| c.is_ascii_digit()) {
        Some((before, _)) => (before.trim(), &text[before.len()..]),
        None => ("", ""),
    };
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    let numbers: Option<Vec<u32>> = version[..end].split('.').map(|part| part.parse().ok()).collect();
    let known = matches!(operator, "" | "ruby-" | "ruby" | "=" | "~>" | ">=" | "^");
    let Some(numbers) =
        numbers.filter(|numbers| known && numbers.len() <= 3 && numbers.iter().all(|n| *n < 100))
    else {
        let shown: String = text.chars().take(40).collect();
        return invalid(file, format!("found {shown:?}, expected a version of Ruby such as 3.1 or 3.3.6"));
    };
    let at = |index: usize| numbers.get(index).copied();
    let accepts_stack = match operator {
        ">=" => (at(0), at(1).unwrap_or(0)) <= (Some(3), 1),
        "~>" if numbers.len() <= 2 => at(0) == Some(3) && at(1).unwrap_or(0) <= 1,
        _ => at(0) == Some(3) && at(1).is_none_or(|minor| minor == 1),
    };
    if accepts_stack {
        return Ok(Wanted::Stack);
    }
    let words: Vec<String> = numbers.iter().map(u32::to_string).collect();
    // A lower bound on a patch still means the newest of its line.
    let kept = if operator.is_empty() || operator.starts_with("ruby") || operator == "=" { 3 } else { 2 };
    Ok(Wanted::Source(words[..words.len().min(kept)].join(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_where_people_write_them() {
        let of = |text| parse("f", text).ok();
        for stack in ["3.1", "ruby-3.1.2", "3.1.2p20", "~> 3.1", ">= 2.7", "~> 3.0", "3", "3.1.4"] {
            assert_eq!(of(stack), Some(Wanted::Stack), "{stack}");
        }
        for (text, version) in [
            ("3.3.6", "3.3.6"),
            ("3.3.6p108", "3.3.6"),
            ("~> 3.2.1", "3.2"),
            (">= 3.2", "3.2"),
            ("2.7.8", "2.7.8"),
            ("4.0", "4.0"),
        ] {
            assert_eq!(of(text), Some(Wanted::Source(version.to_owned())), "{text}");
        }
        for bad in ["", "jruby-9.4", "latest", "3.1.2.4", "3..1", "999"] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(in_gemfile("# x\nruby '3.3.6'\n").as_deref(), Some("3.3.6"));
        assert_eq!(in_gemfile("ruby(\"~> 3.1\")\n").as_deref(), Some("~> 3.1"));
        assert_eq!(in_gemfile("ruby file: \".ruby-version\"\ngem \"ruby-x\"\n"), None);
    }
}
