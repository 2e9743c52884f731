//! Words of a Dockerfile: variables, quotes and escapes, as BuildKit expands them.
//!
//! In: text, the escape character, what a variable is. Out: one word, or several split at unquoted blanks.
//!
//! Known: `$x`, `${x}`, `${x:-w}`, `${x-w}`, `${x:+w}`, `${x+w}`, `${x:?w}`, `${x?w}`, `${x#p}`, `${x##p}`, `${x%p}`,
//! `${x%%p}`, `${x/p/w}`, `${x//p/w}`. A variable that is not set is empty.

use super::pattern::Pattern;

/// Deepest nesting of `${a:-${b:-…}}`.
const MAX_DEPTH: usize = 32;
/// Longest result in bytes: `${x//a/bbbb}` can grow what it is given.
const MAX_RESULT: usize = 1 << 20;

/// Gives a variable's value.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// `text` as one word.
pub(super) fn expand(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String, String> {
    Ok(Expander::run(text, escape, lookup)?.concat)
}

/// `text` as words split at unquoted blanks, also those inside unquoted values.
pub(super) fn expand_words(text: &str, escape: char, lookup: Lookup<'_>) -> Result<Vec<String>, String> {
    let mut expander = Expander::run(text, escape, lookup)?;
    expander.end_word();
    Ok(expander.words)
}

struct Expander<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    escape: char,
    lookup: Lookup<'a>,
    depth: usize,
    concat: String,
    words: Vec<String>,
    word: String,
    /// Whether there is a word at all: `""` is one.
    in_word: bool,
}

impl<'a> Expander<'a> {
    fn run(text: &'a str, escape: char, lookup: Lookup<'a>) -> Result<Self, String> {
        let mut expander = Self {
            rest: text.chars().peekable(),
            escape,
            lookup,
            depth: 0,
            concat: String::new(),
            words: Vec::new(),
            word: String::new(),
            in_word: false,
        };
        expander.until(None)?;
        Ok(expander)
    }

    fn raw(&mut self, text: &str) {
        self.concat.push_str(text);
        self.word.push_str(text);
        self.in_word = true;
    }

    fn raw_char(&mut self, c: char) {
        self.raw(c.encode_utf8(&mut [0; 4]));
    }

    fn splitting(&mut self, text: &str) {
        for c in text.chars() {
            if c.is_whitespace() {
                self.concat.push(c);
                self.end_word();
            } else {
                self.raw_char(c);
            }
        }
    }

    fn end_word(&mut self) {
        if std::mem::take(&mut self.in_word) {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    /// Reads until `end`, which is not taken, or to the end of the text.
    fn until(&mut self, end: Option<char>) -> Result<(), String> {
        while let Some(c) = self.rest.peek().copied() {
            if Some(c) == end {
                return Ok(());
            }
            self.rest.next();
            if self.concat.len() > MAX_RESULT {
                return Err("a word grows to more than 1 MiB when its variables are filled in".to_owned());
            }
            match c {
                '\'' => self.single()?,
                '"' => self.double()?,
                '$' => {
                    let value = self.dollar()?;
                    self.splitting(&value);
                }
                c if c == self.escape => match self.rest.next() {
                    Some(next) => self.raw_char(next),
                    None => self.raw_char(c),
                },
                c if c.is_whitespace() => {
                    self.concat.push(c);
                    self.end_word();
                }
                c => self.raw_char(c),
            }
        }
        match end {
            Some(end) => Err(format!("{end:?} is missing at the end of ${{…")),
            None => Ok(()),
        }
    }

    fn single(&mut self) -> Result<(), String> {
        self.in_word = true;
        loop {
            match self.rest.next() {
                None => return Err("a single quote (') has no second one".to_owned()),
                Some('\'') => return Ok(()),
                Some(c) => self.raw_char(c),
            }
        }
    }

    fn double(&mut self) -> Result<(), String> {
        self.in_word = true;
        loop {
            match self.rest.next() {
                None => return Err("a double quote (\") has no second one".to_owned()),
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.dollar()?;
                    self.raw(&value);
                }
                Some(c) if c == self.escape => match self.rest.next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => self.raw_char(next),
                    Some(next) => {
                        self.raw_char(c);
                        self.raw_char(next);
                    }
                    None => return Err("a double quote (\") has no second one".to_owned()),
                },
                Some(c) => self.raw_char(c),
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.rest.peek().copied() {
            let first = name.is_empty();
            let good = c == '_' || c.is_ascii_alphabetic() || (!first && c.is_ascii_digit());
            // `$1`, `$@` and such are variables of one character, never set here.
            if !good && !(first && (c.is_ascii_digit() || "@*#?!-".contains(c))) {
                break;
            }
            name.push(c);
            self.rest.next();
            if first && !good {
                break;
            }
        }
        name
    }

    /// What follows `$`.
    fn dollar(&mut self) -> Result<String, String> {
        if self.rest.peek() != Some(&'{') {
            let special = |c: &char| *c == '_' || c.is_ascii_alphanumeric() || "@*#?!-".contains(*c);
            if !self.rest.peek().is_some_and(special) {
                return Ok("$".to_owned());
            }
            let name = self.name();
            return Ok((self.lookup)(&name).unwrap_or_default());
        }
        self.rest.next();
        let name = self.name();
        if name.is_empty() {
            return Err("${ must be followed by a variable's name".to_owned());
        }
        let value = (self.lookup)(&name);
        let wrong = |found: Option<char>| match found {
            Some(c) => format!("${{{name}{c} is no modifier; known are :- :+ :? - + ? # ## % %% / //"),
            None => format!("${{{name} has no closing brace"),
        };
        let modifier = self.rest.next();
        let (modifier, or_empty) = match modifier {
            Some(':') => (self.rest.next(), true),
            other => (other, false),
        };
        let is_set = value.as_ref().is_some_and(|value| !or_empty || !value.is_empty());
        let shown = value.clone().unwrap_or_default();
        let result = match modifier {
            Some('}') if !or_empty => return Ok(shown),
            Some('-') => {
                let word = self.word_to_brace()?;
                if is_set { shown } else { word }
            }
            Some('+') => {
                let word = self.word_to_brace()?;
                if is_set { word } else { String::new() }
            }
            Some('?') => {
                let word = self.word_to_brace()?;
                if !is_set {
                    let said = if word.is_empty() { "it is not set" } else { &word };
                    return Err(format!("{name}: {said}"));
                }
                shown
            }
            Some(c @ ('#' | '%')) if !or_empty => {
                let longest = self.rest.next_if_eq(&c).is_some();
                let pattern = Pattern::of_shell(&self.word_to_brace()?);
                trim(&shown, &pattern, c == '#', longest)
            }
            Some('/') if !or_empty => {
                let all = self.rest.next_if_eq(&'/').is_some();
                let pattern = self.word_to('/')?;
                self.rest.next();
                let with = self.word_to_brace()?;
                replace(&shown, &Pattern::of_shell(&pattern), &with, all)?
            }
            found => return Err(wrong(found)),
        };
        Ok(result)
    }

    fn word_to_brace(&mut self) -> Result<String, String> {
        let word = self.word_to('}')?;
        self.rest.next();
        Ok(word)
    }

    fn word_to(&mut self, end: char) -> Result<String, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("variables are nested more than {MAX_DEPTH} deep"));
        }
        let kept = (
            std::mem::take(&mut self.concat),
            std::mem::take(&mut self.words),
            std::mem::take(&mut self.word),
            std::mem::take(&mut self.in_word),
        );
        let result = self.until(Some(end));
        self.depth -= 1;
        let word = std::mem::replace(&mut self.concat, kept.0);
        (self.words, self.word, self.in_word) = (kept.1, kept.2, kept.3);
        result.map(|()| word)
    }
}

/// Character boundaries of `text`, both ends included.
fn boundaries(text: &str) -> Vec<usize> {
    text.char_indices().map(|(at, _)| at).chain([text.len()]).collect()
}

fn trim(text: &str, pattern: &Pattern, front: bool, longest: bool) -> String {
    let mut cuts = boundaries(text);
    // The first cut that matches is taken: for the front the shortest is the lowest, for the back the highest.
    if front == longest {
        cuts.reverse();
    }
    for cut in cuts {
        let (head, tail) = text.split_at(cut);
        match front {
            true if pattern.matches(head) => return tail.to_owned(),
            false if pattern.matches(tail) => return head.to_owned(),
            _ => {}
        }
    }
    text.to_owned()
}

fn replace(text: &str, pattern: &Pattern, with: &str, all: bool) -> Result<String, String> {
    if text.len() > 4096 {
        return Err("a value of more than 4096 bytes cannot be searched with ${x/…}".to_owned());
    }
    let mut out = String::new();
    let mut at = 0;
    let mut done = false;
    while at < text.len() {
        let rest = &text[at..];
        let found = if done && !all {
            None
        } else {
            boundaries(rest).into_iter().rev().find(|end| *end > 0 && pattern.matches(&rest[..*end]))
        };
        match found {
            Some(end) => {
                out.push_str(with);
                at += end;
                done = true;
            }
            None => {
                let next = rest.chars().next().map_or(1, char::len_utf8);
                out.push_str(&rest[..next]);
                at += next;
            }
        }
        if out.len() > MAX_RESULT {
            return Err("a word grows to more than 1 MiB when its variables are filled in".to_owned());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "x" => Some("value".to_owned()),
            "empty" => Some(String::new()),
            "path" => Some("/usr/local/lib/a.tar.gz".to_owned()),
            "two" => Some("80 443".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in_as_buildkit_does() {
        for (text, expected) in [
            ("$x", "value"),
            ("a${x}b", "avalueb"),
            ("$x.y$", "value.y$"),
            ("$unset", ""),
            ("${unset:-d}", "d"),
            ("${empty:-d}", "d"),
            ("${empty-d}", ""),
            ("${unset-d}", "d"),
            ("${x:-d}", "value"),
            ("${x:+is set}", "is set"),
            ("${empty:+is set}", ""),
            ("${empty+is set}", "is set"),
            ("${unset:-${x}/$x}", "value/value"),
            ("${unset:-'a}b'}", "a}b"),
            ("${x:?no}", "value"),
            ("${path#*/}", "usr/local/lib/a.tar.gz"),
            ("${path##*/}", "a.tar.gz"),
            ("${path%.*}", "/usr/local/lib/a.tar"),
            ("${path%%.*}", "/usr/local/lib/a"),
            ("${path/l*l/X}", "/usr/Xib/a.tar.gz"),
            ("${path//\\//_}", "_usr_local_lib_a.tar.gz"),
            (r"\$x", "$x"),
            (r"\\$x", r"\value"),
            ("'$x'", "$x"),
            ("\"$x\"", "value"),
            (r#""\$x\n""#, r"$x\n"),
            (r#"a"b c"'d e'"#, "ab cd e"),
            ("$1 $@", " "),
            ("héllo$x", "héllovalue"),
        ] {
            assert_eq!(expand(text, '\\', &lookup).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(expand("c:\\dir`$x", '`', &lookup).as_deref(), Ok("c:\\dir$x"));
    }

    #[test]
    fn words_split_where_no_quotes_are() {
        let words = |text: &str| expand_words(text, '\\', &lookup).expect("well-formed");
        assert_eq!(words("80 $two/udp"), ["80", "80", "443/udp"]);
        assert_eq!(words("\"$two\" ''"), ["80 443", ""]);
        assert_eq!(words("  "), Vec::<String>::new());
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for text in ["'a", "\"a", "${x", "${", "${x:", "${x:-a", "${x:@}", "${unset:?}", "${x^}"] {
            expand(text, '\\', &lookup).expect_err(text);
        }
        let deep = "${u:-".repeat(10_000);
        assert!(expand(&deep, '\\', &lookup).expect_err("too deep").contains("nested"));
        assert_eq!(expand("${unset?say what}", '\\', &lookup), Err("unset: say what".to_owned()));
    }
}
