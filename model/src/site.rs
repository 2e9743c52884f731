//! Rules of static sites: headers and redirects, as `_headers` and `_redirects` files have them (the syntax of Netlify and
//! Cloudflare Pages) and as other files of settings are turned into.
//!
//! In: text that a stranger wrote. Out: [`SiteRules`], bounded in count and size, whose patterns match in time
//! proportional to the path, and whose header fields cannot end a line.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use utoipa::ToSchema;

/// Longest `_headers` in bytes: what a page may get in front of it.
pub const MAX_HEADERS_TEXT: usize = 32 << 10;
/// Longest `_redirects` in bytes.
pub const MAX_REDIRECTS_TEXT: usize = 128 << 10;
/// Most rules for headers.
const MAX_HEADER_RULES: usize = 100;
/// Most redirects.
const MAX_REDIRECTS: usize = 2000;
/// Most redirects with `*` or `:name`: each is tried in turn.
const MAX_PATTERNS: usize = 200;
/// Longest path, address or header value in bytes.
const MAX_VALUE: usize = 2000;
/// Most `:name`s of a pattern.
const MAX_NAMES: usize = 16;
/// Statuses that a redirect may have: rewrites, redirects, an error page.
const STATUSES: [u16; 7] = [200, 301, 302, 303, 307, 308, 404];
/// Fields that the server alone decides about (RFC 9110, 9112): they say what the bytes are and where they end.
const RESERVED: [&str; 22] = [
    "accept-ranges",
    "age",
    "allow",
    "alt-svc",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "date",
    "etag",
    "keep-alive",
    "last-modified",
    "location",
    "proxy-authenticate",
    "proxy-connection",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
];

/// What a site answers besides its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SiteRules {
    /// Of all that match, in order; a later one's field replaces an earlier one's of the same name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderRule>,
    /// The first that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<Redirect>,
    /// File below the root for what is not found, in place of `404.html`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_page: Option<String>,
}

/// Fields for the answers to some paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeaderRule {
    /// Which paths.
    #[schema(value_type = String)]
    pub path: PathPattern,
    /// Name and value; a field that is taken away has none.
    pub fields: Vec<(String, Option<String>)>,
}

/// Another answer for some paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Redirect {
    /// Which paths.
    #[schema(value_type = String)]
    pub from: PathPattern,
    /// A path of the site, or `https://…`; `:splat` and `:name` stand for what the pattern matched.
    pub to: String,
    /// 200 and 404 answer with the file at `to`, the others lead the client there.
    pub status: u16,
    /// Whether it counts even where there is a file.
    #[serde(default)]
    pub force: bool,
}

/// Something wrong in a file of rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text}")]
pub struct SiteError {
    /// Where, from 1.
    pub line: usize,
    /// What was found, and what to write instead.
    pub text: String,
}

/// Paths: `/blog/*`, `/user/:id/photos`, `/*.js`. A `*` is anything (one a pattern), a `:name` is one whole part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern {
    text: String,
    /// Before the `*`, or all.
    start: Vec<Part>,
    /// After the `*`.
    end: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(String),
}

/// What the wildcards of a pattern matched.
pub type Captures<'p> = HashMap<&'p str, &'p str>;

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.text
    }
}

impl TryFrom<String> for PathPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl PathPattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(80).collect();
        if !text.starts_with('/') {
            return Err(format!("{shown:?} is no path: it must begin with /"));
        }
        if text.len() > MAX_VALUE || text.chars().any(char::is_control) {
            return Err(format!("{shown:?} is longer than {MAX_VALUE} bytes or has control characters"));
        }
        let (before, after) = match text.split_once('*') {
            None => (text, None),
            Some((_, after)) if after.contains('*') => return Err(format!("{shown:?} has more than one *")),
            Some((_, after)) if after.contains("/:") => {
                return Err(format!("{shown:?} has a placeholder after its *; only plain text can follow"));
            }
            Some((before, after)) => (before, Some(encoded(after))),
        };
        let mut start = vec![];
        let mut plain = String::new();
        for (index, part) in before.split('/').enumerate() {
            if index > 0 {
                plain.push('/');
            }
            let name = part.strip_prefix(':').filter(|name| {
                name.starts_with(|c: char| c.is_ascii_alphabetic())
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            });
            match name {
                None => plain.push_str(&encoded(part)),
                Some(name) => {
                    start.push(Part::Text(std::mem::take(&mut plain)));
                    let known = |part: &Part| matches!(part, Part::Name(other) if other == name);
                    if start.iter().any(known) || name == "splat" {
                        return Err(format!("{shown:?} has two placeholders :{name}"));
                    }
                    start.push(Part::Name(name.to_owned()));
                }
            }
        }
        // Nor does one at the end of a pattern: `/old/` is `/old`.
        if after.is_none() && plain.len() > 1 && plain.ends_with('/')
            || plain == "/" && !start.is_empty() && after.is_none()
        {
            plain.pop();
        }
        start.push(Part::Text(plain));
        if start.len() > 2 * MAX_NAMES + 1 {
            return Err(format!("{shown:?} has more than {MAX_NAMES} placeholders"));
        }
        Ok(Self { text: text.to_owned(), start, end: after })
    }

    /// The path it is, if it has no wildcard.
    #[must_use]
    pub fn plain(&self) -> Option<&str> {
        match (self.start.as_slice(), &self.end) {
            ([Part::Text(path)], None) => Some(path),
            _ => None,
        }
    }

    /// What it finds in `path`, which is percent-encoded. A slash at the end makes no difference.
    #[must_use]
    pub fn matches<'p>(&'p self, path: &'p str) -> Option<Captures<'p>> {
        let without = path.strip_suffix('/').filter(|rest| !rest.is_empty());
        self.exactly(path).or_else(|| self.exactly(without?)).or_else(|| {
            // `/blog/*` is for `/blog` too.
            let open = self.end.as_deref() == Some("")
                && !path.ends_with('/')
                && matches!(self.start.last(), Some(Part::Text(text)) if text.ends_with('/'));
            let start = self.start.last().filter(|_| open);
            match (start, self.start.as_slice()) {
                (Some(_), [Part::Text(text)]) if text.strip_suffix('/') == Some(path) => {
                    Some(HashMap::from([("splat", "")]))
                }
                _ => None,
            }
        })
    }

    fn exactly<'p>(&'p self, path: &'p str) -> Option<Captures<'p>> {
        let mut found = HashMap::new();
        let mut rest = path;
        for part in &self.start {
            match part {
                Part::Text(text) => rest = rest.strip_prefix(text.as_str())?,
                Part::Name(name) => {
                    let end = rest.find('/').unwrap_or(rest.len());
                    if end == 0 {
                        return None;
                    }
                    found.insert(name.as_str(), &rest[..end]);
                    rest = &rest[end..];
                }
            }
        }
        match &self.end {
            None if rest.is_empty() => {}
            None => return None,
            Some(end) => {
                found.insert("splat", rest.strip_suffix(end.as_str())?);
            }
        }
        Some(found)
    }
}

/// A path as it stands in requests: bytes that it may not have are percent-encoded (RFC 3986 §3.3), others stay.
#[must_use]
pub fn encoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl Redirect {
    /// Checks its parts.
    pub fn new(from: &str, to: &str, status: u16, force: bool) -> Result<Self, String> {
        let from = PathPattern::parse(from)?;
        let shown: String = to.chars().take(80).collect();
        if !STATUSES.contains(&status) {
            return Err(format!("the status {status} is not one of 200, 301, 302, 303, 307, 308 and 404"));
        }
        if to.len() > MAX_VALUE || to.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(format!("{shown:?} is longer than {MAX_VALUE} bytes or has blanks"));
        }
        let elsewhere = to.starts_with("https://") || to.starts_with("http://");
        if elsewhere && matches!(status, 200 | 404) {
            return Err(format!(
                "{shown:?} with {status} would fetch from another server, which is not done here; redirect (301, 302) or run an app"
            ));
        }
        if !elsewhere && (!to.starts_with('/') || to.starts_with("//")) {
            return Err(format!("{shown:?} is neither a path that begins with / nor an https:// address"));
        }
        if elsewhere
            && to
                .split('/')
                .nth(2)
                .is_none_or(|host| host.is_empty() || host.contains(':') && host.contains(":splat"))
        {
            return Err(format!("{shown:?} names no host"));
        }
        Ok(Self { from, to: encoded_target(to), status, force })
    }

    /// Where it leads from `path` (percent-encoded); `None` if it is for others. It begins with `http`, or with exactly
    /// one slash: what was matched cannot name another host.
    #[must_use]
    pub fn target(&self, path: &str) -> Option<String> {
        let captures = self.from.matches(path)?;
        let mut out = String::with_capacity(self.to.len() + path.len());
        let mut rest = self.to.as_str();
        // The scheme's colon is no placeholder.
        if let Some((scheme, after)) = rest.split_once("://") {
            let host = after.find('/').unwrap_or(after.len());
            out.push_str(scheme);
            out.push_str("://");
            out.push_str(&after[..host]);
            rest = &after[host..];
        }
        while let Some((before, after)) = rest.split_once(':') {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            out.push_str(before);
            match captures.get(&after[..end]) {
                Some(value) => out.push_str(value),
                None => {
                    out.push(':');
                    out.push_str(&after[..end]);
                }
            }
            rest = &after[end..];
        }
        out.push_str(rest);
        if out.starts_with('/') {
            let path = out.trim_start_matches(['/', '\\']);
            return Some(format!("/{path}"));
        }
        Some(out)
    }
}

/// The same for a target, which may have a query and a fragment.
fn encoded_target(to: &str) -> String {
    let mut out = String::with_capacity(to.len());
    for c in to.chars() {
        if c.is_ascii() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}') {
            out.push(c);
        } else {
            out.push_str(&encoded(c.encode_utf8(&mut [0; 4])));
        }
    }
    out
}

/// Checks a header field.
pub fn check_field(name: &str, value: &str) -> Result<(), String> {
    let shown: String = name.chars().take(60).collect();
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 100 || !name.bytes().all(token) {
        return Err(format!("{shown:?} is no header's name"));
    }
    if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("the header {shown} is the server's own and cannot be set"));
    }
    if value.len() > MAX_VALUE {
        return Err(format!("the value of {shown} is longer than {MAX_VALUE} bytes"));
    }
    if value.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f) {
        return Err(format!("the value of {shown} has control characters"));
    }
    Ok(())
}

impl SiteRules {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Bounds on all of it together; rules that were put together from several files too.
    pub fn check(&self) -> Result<(), String> {
        let patterns = self.redirects.iter().filter(|redirect| redirect.from.plain().is_none()).count();
        let fields = self.headers.iter().flat_map(|rule| &rule.fields);
        let bytes: usize =
            fields.map(|(name, value)| name.len() + value.as_deref().unwrap_or("").len() + 4).sum();
        let too_many = |what: &str, most: usize| Err(format!("there are more than {most} {what}"));
        if self.redirects.len() > MAX_REDIRECTS {
            return too_many("redirects", MAX_REDIRECTS);
        }
        if patterns > MAX_PATTERNS {
            return too_many("redirects with * or a placeholder", MAX_PATTERNS);
        }
        if self.headers.len() > MAX_HEADER_RULES {
            return too_many("paths with headers", MAX_HEADER_RULES);
        }
        if bytes > MAX_HEADERS_TEXT {
            return too_many("bytes of headers", MAX_HEADERS_TEXT);
        }
        Ok(())
    }

    /// The fields for `path` (percent-encoded), by lower-case name; `None` takes one away.
    #[must_use]
    pub fn fields(&self, path: &str) -> HashMap<String, (&str, Option<&str>)> {
        let mut found = HashMap::new();
        for rule in self.headers.iter().filter(|rule| rule.path.matches(path).is_some()) {
            for (name, value) in &rule.fields {
                found.insert(name.to_ascii_lowercase(), (name.as_str(), value.as_deref()));
            }
        }
        found
    }
}

/// Lines with their numbers, without comments and empty ones.
fn lines(text: &str, most: usize) -> Result<Vec<(usize, &str)>, SiteError> {
    if text.len() > most {
        return Err(SiteError { line: 1, text: format!("the file is longer than {most} bytes") });
    }
    let all = text.trim_start_matches('\u{feff}').lines().enumerate().map(|(index, line)| (index + 1, line));
    Ok(all.filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#')).collect())
}

/// Reads `_headers`: a path, and below it indented `Name: value` lines (`! Name` takes one away).
pub fn parse_headers(text: &str) -> Result<Vec<HeaderRule>, SiteError> {
    let mut rules: Vec<HeaderRule> = Vec::new();
    for (line, text) in lines(text, MAX_HEADERS_TEXT)? {
        let wrong = |text: String| SiteError { line, text };
        if !text.starts_with([' ', '\t']) && text.starts_with('/') {
            if rules.len() == MAX_HEADER_RULES {
                return Err(wrong(format!("there are more than {MAX_HEADER_RULES} paths")));
            }
            rules.push(HeaderRule {
                path: PathPattern::parse(text.trim()).map_err(wrong)?,
                fields: Vec::new(),
            });
            continue;
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return Err(wrong("paths with a host are not known here; write the path alone".to_owned()));
        }
        let Some(rule) = rules.last_mut() else {
            return Err(wrong("begin with a path such as /*, and indent the headers below it".to_owned()));
        };
        let text = text.trim();
        if let Some(name) = text.strip_prefix('!') {
            check_field(name.trim(), "").map_err(wrong)?;
            rule.fields.push((name.trim().to_owned(), None));
            continue;
        }
        let Some((name, value)) = text.split_once(':') else {
            return Err(wrong(format!(
                "{:?} is no header; write Name: value",
                text.chars().take(60).collect::<String>()
            )));
        };
        let (name, value) = (name.trim(), value.trim());
        check_field(name, value).map_err(wrong)?;
        let same =
            rule.fields.iter_mut().find(|(other, value)| value.is_some() && other.eq_ignore_ascii_case(name));
        match same {
            // One field with several values (RFC 9110 §5.3).
            Some((_, Some(before))) => {
                before.push_str(", ");
                before.push_str(value);
            }
            _ => rule.fields.push((name.to_owned(), Some(value.to_owned()))),
        }
    }
    Ok(rules)
}

/// Reads `_redirects`: `FROM TO [STATUS[!]]` lines; the status is 301 unless it is given.
pub fn parse_redirects(text: &str) -> Result<Vec<Redirect>, SiteError> {
    let mut redirects = Vec::new();
    for (line, text) in lines(text, MAX_REDIRECTS_TEXT)? {
        let wrong = |text: String| SiteError { line, text };
        let text = text.split_once(" #").map_or(text, |(text, _)| text);
        let words: Vec<&str> = text.split_whitespace().collect();
        let (from, to, status) = match words.as_slice() {
            [from, ..] if from.starts_with("http") && from.contains("://") => {
                return Err(wrong(
                    "a redirect from another host is not known here; begin with the path".to_owned(),
                ));
            }
            [from, to] => (from, to, "301"),
            [from, to, status] => (from, to, *status),
            [_, word, ..] if word.contains('=') && !word.contains('/') => {
                return Err(wrong(format!("redirects by query ({word}) are not known here")));
            }
            [_, _, _, condition, ..] => {
                return Err(wrong(format!(
                    "conditions ({condition}) are not known here; remove the line, or the condition"
                )));
            }
            _ => return Err(wrong("write FROM TO STATUS, such as /old /new 301".to_owned())),
        };
        let (number, force) = status.strip_suffix('!').map_or((status, false), |number| (number, true));
        let number = number.parse().map_err(|_| {
            wrong(format!(
                "{status:?} is no status; write a number such as 301, and conditions are not known here"
            ))
        })?;
        if redirects.len() == MAX_REDIRECTS {
            return Err(wrong(format!("there are more than {MAX_REDIRECTS} redirects")));
        }
        redirects.push(Redirect::new(from, to, number, force).map_err(wrong)?);
    }
    let rules = SiteRules { redirects, ..SiteRules::default() };
    rules.check().map_err(|text| SiteError { line: 1, text })?;
    Ok(rules.redirects)
}

#[cfg(test)]
#[path = "site_tests.rs"]
mod tests;
