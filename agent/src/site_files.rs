//! `_headers` and `_redirects` of a static site, read when it begins to be served.
//!
//! In: the site's directory, which holds what strangers made. Out: its rules, or what is wrong in which line.

use berth_model::site::{self, MAX_HEADERS_TEXT, MAX_REDIRECTS_TEXT, SiteRules};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The rules of the site in `root`: those of its files, then `own` (which the app's settings gave).
pub(crate) fn rules(root: &Path, own: SiteRules) -> Result<SiteRules, String> {
    let mut rules = SiteRules::default();
    if let Some(text) = text(root, "_headers", MAX_HEADERS_TEXT)? {
        rules.headers =
            site::parse_headers(&text).map_err(|error| format!("the site's _headers, {error}"))?;
    }
    if let Some(text) = text(root, "_redirects", MAX_REDIRECTS_TEXT)? {
        rules.redirects =
            site::parse_redirects(&text).map_err(|error| format!("the site's _redirects, {error}"))?;
    }
    rules.headers.extend(own.headers);
    rules.redirects.extend(own.redirects);
    rules.error_page = own.error_page;
    rules.check().map_err(|reason| format!("the site's headers and redirects: {reason}"))?;
    Ok(rules)
}

/// A regular file of the directory itself, at most `most` bytes and one more.
fn text(root: &Path, name: &str, most: usize) -> Result<Option<String>, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = |error: &dyn std::fmt::Display| format!("the site's {name} cannot be read: {error}");
    let root = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(|error| failed(&error))?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let Ok(file) = openat2(&root, name, flags, Mode::empty(), how) else { return Ok(None) };
    let stat = fstat(&file).map_err(|error| failed(&error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    File::from(file).take(most as u64 + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    String::from_utf8(bytes).map(Some).map_err(|_| format!("the site's {name} is not in UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_come_before_settings_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let site = dir.path().join("site");
        fs::create_dir(&site).expect("room");
        let own = |text: &str| SiteRules {
            redirects: site::parse_redirects(text).expect("well-formed"),
            ..SiteRules::default()
        };
        fs::write(site.join("_redirects"), "/a /file\n").expect("room");
        let found = rules(&site, own("/a /settings\n")).expect("well-formed");
        assert_eq!(
            found.redirects.iter().map(|one| one.to.as_str()).collect::<Vec<_>>(),
            ["/file", "/settings"]
        );
        fs::write(site.join("_redirects"), "/a\n").expect("room");
        assert!(
            rules(&site, SiteRules::default())
                .expect_err("wrong")
                .starts_with("the site's _redirects, line 1")
        );
        fs::remove_file(site.join("_redirects")).expect("there");
        fs::write(dir.path().join("outside"), "/a /b\n").expect("room");
        std::os::unix::fs::symlink("../outside", site.join("_redirects")).expect("room");
        assert!(rules(&site, SiteRules::default()).expect("none").is_empty());
    }
}
