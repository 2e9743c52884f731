//! Rules of a static site as requests are held against them.
//!
//! In: [`SiteRules`], checked when they were read and again when they came here. Out: for a path, where it leads and which
//! fields its answer has. Plain paths are looked up; patterns are tried in turn, each in time proportional to the path.

use crate::site_path::SitePath;
use berth_model::site::{Redirect, SiteRules, check_field};
use std::collections::HashMap;

/// Rules that are ready to be used.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: SiteRules,
    /// Plain paths, without a slash at the end: the first rule of each.
    plain: HashMap<String, usize>,
    /// The others, in order.
    patterns: Vec<usize>,
    pub(crate) error_page: Option<Vec<u8>>,
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Led {
    /// Status, `Location`.
    Elsewhere(u16, Vec<u8>),
    /// Status, path of the site.
    File(u16, String),
}

/// The fields of an answer that the site sets, by lower-case name.
#[derive(Debug, Default)]
pub(crate) struct Fields<'r>(HashMap<String, (&'r str, Option<&'r str>)>);

impl Fields<'_> {
    /// Whether the site decides about this field.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What to send.
    pub(crate) fn set(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.values().filter_map(|(name, value)| Some((*name, (*value)?)))
    }
}

fn trimmed(path: &str) -> &str {
    path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path)
}

impl Rules {
    /// Rules that are more than they may be, or have fields that no answer may have, are left out: whoever sent them has
    /// checked them, so this does not happen.
    pub(crate) fn new(rules: &SiteRules) -> Self {
        let mut rules = rules.clone();
        if let Err(reason) = rules.check() {
            tracing::warn!(reason, "a site's rules are left out");
            return Self::default();
        }
        for rule in &mut rules.headers {
            rule.fields.retain(|(name, value)| check_field(name, value.as_deref().unwrap_or("")).is_ok());
        }
        rules
            .redirects
            .retain(|one| Redirect::new(&one.from.to_string(), &one.to, one.status, one.force).is_ok());
        let (mut plain, mut patterns) = (HashMap::new(), Vec::new());
        for (index, redirect) in rules.redirects.iter().enumerate() {
            match redirect.from.plain() {
                Some(path) => {
                    plain.entry(format!("{}{}", redirect.force, trimmed(path))).or_insert(index);
                }
                None => patterns.push(index),
            }
        }
        let page = rules.error_page.as_deref().map(|page| page.trim_start_matches('/').as_bytes().to_vec());
        let error_page = page.filter(|page| {
            let path = [b"/", page.as_slice()].concat();
            SitePath::parse(&path).is_some_and(|path| !path.is_hidden() && !path.is_folder())
        });
        Self { rules, plain, patterns, error_page }
    }

    /// Whether any path leads elsewhere.
    pub(crate) fn redirects(&self) -> bool {
        !self.rules.redirects.is_empty()
    }

    /// Where `path` (canonical) leads by the first rule that has it, of those that count before files or after them.
    pub(crate) fn lead(&self, path: &str, query: &[u8], force: bool) -> Option<Led> {
        let plain = self.plain.get(&format!("{force}{}", trimmed(path))).copied();
        let at = plain.unwrap_or(usize::MAX);
        let (before, after) = self.patterns.split_at(self.patterns.partition_point(|index| *index < at));
        for index in before.iter().copied().chain(plain).chain(after.iter().copied()) {
            let rule = &self.rules.redirects[index];
            // Rules are tried in the file's order; one that leads where the client already is would never end.
            let target = (rule.force == force).then(|| rule.target(path)).flatten();
            let Some(target) = target.filter(|target| target != path) else { continue };
            if matches!(rule.status, 200 | 404) {
                return Some(Led::File(rule.status, target));
            }
            let mut location = target.into_bytes();
            if !location.contains(&b'?') && !location.contains(&b'#') {
                location.extend_from_slice(query);
            }
            return Some(Led::Elsewhere(rule.status, location));
        }
        None
    }

    /// What the site sets for `path`.
    pub(crate) fn fields(&self, path: &SitePath) -> Fields<'_> {
        if self.rules.headers.is_empty() {
            return Fields::default();
        }
        Fields(self.rules.fields(&path.canonical()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::site::{parse_headers, parse_redirects};

    fn rules(redirects: &str) -> Rules {
        Rules::new(&SiteRules {
            redirects: parse_redirects(redirects).expect("well-formed"),
            ..SiteRules::default()
        })
    }

    #[test]
    fn the_first_rule_of_the_file_counts() {
        let rules = rules(
            "/a/* /first/:splat\n/a/b /second 302!\n/c /third\n/c /fourth\n/d /d/\n/e/* /e.html 200\n/* /404.html 404\n",
        );
        let lead = |path: &str, force| rules.lead(path, b"?q=1", force);
        let to = |status, place: &str| Some(Led::Elsewhere(status, place.as_bytes().to_vec()));
        assert_eq!(lead("/a/b", false), to(301, "/first/b?q=1"));
        assert_eq!(lead("/a/b", true), to(302, "/second?q=1"));
        assert_eq!(lead("/c/", false), to(301, "/third?q=1"));
        assert_eq!(lead("/d", false), to(301, "/d/?q=1"));
        assert_eq!(lead("/d/", false), Some(Led::File(404, "/404.html".to_owned())), "no circle");
        assert_eq!(lead("/e/x", false), Some(Led::File(200, "/e.html".to_owned())));
        assert_eq!(lead("/z", true), None);
    }

    #[test]
    fn fields_that_no_answer_may_have_are_left_out() {
        let mut headers = parse_headers("/*\n X-A: b\n").expect("well-formed");
        headers[0].fields.push(("X-B".to_owned(), Some("a\r\nSet-Cookie: x".to_owned())));
        headers[0].fields.push(("Content-Length".to_owned(), Some("5".to_owned())));
        let error_page = Some("../../etc/passwd".to_owned());
        let rules = Rules::new(&SiteRules { headers, error_page, ..SiteRules::default() });
        let path = SitePath::parse(b"/x").expect("valid");
        assert_eq!(rules.fields(&path).set().collect::<Vec<_>>(), [("X-A", "b")]);
        assert_eq!(rules.error_page, None);
    }
}
