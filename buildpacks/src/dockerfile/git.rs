//! Git repositories that ADD names.
//!
//! In: a source such as `https://host/user/repo.git#v1:docs`. Out: where it is, which commit, which directory of it.
//! Forms and parts are those of the Dockerfile reference ("Adding files from a Git repository").

use serde::Serialize;

/// A repository, or part of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GitSource {
    /// `https://…`, `http://…` or `git://…`.
    pub url: String,
    /// Branch, tag or commit; empty for what the repository says.
    pub reference: String,
    /// Directory in it; empty for all.
    pub directory: String,
    /// Whether `.git` stays (`--keep-git-dir`).
    pub keep_git_dir: bool,
    /// What the commit must be (`--checksum`), in full or its beginning.
    pub commit: Option<String>,
}

impl GitSource {
    /// `None` if `text` names no git repository.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, String> {
        let (whole, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (url, query) = whole.split_once('?').unwrap_or((whole, ""));
        let over_http = url.starts_with("https://") || url.starts_with("http://");
        let over_ssh = url.starts_with("ssh://") || (url.starts_with("git@") && url.contains(':'));
        let is_git =
            url.starts_with("git://") || over_ssh || over_http && url.trim_end_matches('/').ends_with(".git");
        if !is_git {
            return Ok(None);
        }
        if over_ssh {
            return Err(format!(
                "ADD {url}: git over SSH needs a key that a build does not have. Use its https:// address (for a private \
                 repository with a token in the config var GIT_AUTH_TOKEN)"
            ));
        }
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) || url.contains('@') {
            return Err(format!(
                "ADD {url:?}: write the address without a user or password; a private repository's token goes into the config \
                 var GIT_AUTH_TOKEN"
            ));
        }
        let (mut reference, mut directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("ref" | "branch" | "tag" | "commit", value)) => reference = value,
                Some(("subdir", value)) => directory = value,
                _ => return Err(format!("ADD {url}: ?{pair} is not known; known are ref= and subdir=")),
            }
        }
        let good = |c: char| c.is_ascii_alphanumeric() || "._-/+@".contains(c);
        if reference.starts_with('-') || reference.contains("..") || !reference.chars().all(good) {
            return Err(format!("ADD {url}: {reference:?} is no branch, tag or commit"));
        }
        if directory.split('/').any(|part| part == "..") {
            return Err(format!("ADD {url}: the directory {directory:?} leads out of the repository"));
        }
        Ok(Some(Self {
            url: url.to_owned(),
            reference: reference.to_owned(),
            directory: directory.trim_matches('/').to_owned(),
            keep_git_dir: false,
            commit: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_its_commit_and_its_directory() {
        let found = |text: &str| {
            let source = GitSource::parse(text).expect("well-formed").expect("a repository");
            [source.url, source.reference, source.directory]
        };
        assert_eq!(found("https://h/u/r.git"), ["https://h/u/r.git", "", ""]);
        assert_eq!(found("https://h/u/r.git#v1.0:docs/a/"), ["https://h/u/r.git", "v1.0", "docs/a"]);
        assert_eq!(found("https://h/r.git#:docs"), ["https://h/r.git", "", "docs"]);
        assert_eq!(found("git://h/r?ref=main&subdir=x"), ["git://h/r", "main", "x"]);
        for file in ["https://h/a.tar.gz", "https://h/r.git.zip#x", "app.git", "./git@x", "x.git/"] {
            assert_eq!(GitSource::parse(file), Ok(None), "{file}");
        }
        for (wrong, part) in [
            ("git@github.com:u/r.git", "SSH"),
            ("ssh://git@h/r.git", "SSH"),
            ("https://me:pw@h/r.git", "GIT_AUTH_TOKEN"),
            ("https://h/r.git#--upload-pack=x", "no branch"),
            ("https://h/r.git#a:../../etc", "leads out"),
            ("https://h/r.git?x=1", "not known"),
        ] {
            let error = GitSource::parse(wrong).expect_err("refused");
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }
}
