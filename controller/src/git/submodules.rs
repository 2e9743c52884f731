//! What `.gitmodules` says of the submodules of a tree (gitmodules(5)).
//!
//! In: a [`GitTree`], the text of its `.gitmodules`. Out: where each one's files can be had, or why they cannot. The text is
//! the pusher's: git parses it, and only addresses of the network come out.

use super::repository;
use super::tree::GitTree;
use berth_buildpacks::{EntryKind, SourceTree};
use berth_model::build::Submodule;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::Stdio;

/// Most submodules of a tree.
const MOST: usize = 100;

/// The submodules whose files can be fetched, and remarks on the others. Blocks.
pub(crate) fn find(tree: &GitTree) -> io::Result<(Vec<Submodule>, Vec<String>)> {
    let named: Vec<_> = tree.entries().iter().filter(|entry| entry.kind == EntryKind::Submodule).collect();
    if named.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let text = tree.top_file(".gitmodules").map_err(io::Error::other)?;
    let urls = match text {
        Some(text) => addresses(&settings(tree, &text)?),
        None => BTreeMap::new(),
    };
    let (mut found, mut remarks) = (Vec::new(), Vec::new());
    for entry in named {
        let path = match &tree.source().directory {
            Some(directory) => format!("{directory}/{}", entry.path),
            None => entry.path.clone(),
        };
        let problem = match urls.get(&path).map(|url| address(url)) {
            None => ".gitmodules does not say where it is; add it with `git submodule add`".to_owned(),
            Some(None) => "its address in .gitmodules is not one of the network: use https://…".to_owned(),
            Some(Some(_)) if found.len() == MOST => format!("only {MOST} submodules are fetched"),
            Some(Some(url)) => {
                found.push(Submodule { path: entry.path.clone(), url, commit: entry.id.clone() });
                continue;
            }
        };
        remarks.push(format!("{} is a submodule and stays empty: {problem}", entry.path));
    }
    Ok((found, remarks))
}

/// Names and values as git reads them.
fn settings(tree: &GitTree, text: &[u8]) -> io::Result<Vec<(String, String)>> {
    let mut child = repository::plumbing(&tree.source().repository, &[])
        .args(["config", "--file", "-", "--no-includes", "--null", "--list"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or_else(|| io::Error::other("git takes no input"))?;
    // Bounded by the size of a file that is read whole; git reads it all before it writes.
    let written = stdin.write_all(text);
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() || written.is_err() {
        return Err(io::Error::other(".gitmodules cannot be read: it is no file of git's config format"));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('\n'));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Addresses by path.
fn addresses(settings: &[(String, String)]) -> BTreeMap<String, String> {
    let mut by_name: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
    for (name, value) in settings {
        let Some((name, variable)) = name.strip_prefix("submodule.").and_then(|rest| rest.rsplit_once('.'))
        else {
            continue;
        };
        let entry = by_name.entry(name).or_default();
        match variable {
            "path" => entry.0 = Some(value.trim_end_matches('/')),
            "url" => entry.1 = Some(value),
            _ => {}
        }
    }
    let complete = by_name.into_values().filter_map(|(path, url)| Some((path?.to_owned(), url?.to_owned())));
    complete.collect()
}

/// The address as a build can use it: it has no key for SSH, so what is public is asked for over HTTPS.
fn address(url: &str) -> Option<String> {
    let odd = |c: char| c.is_control() || c.is_whitespace();
    if url.len() > 2000 || url.contains(odd) {
        return None;
    }
    if ["https://", "http://", "git://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Some(url.to_owned());
    }
    let rest = url.strip_prefix("ssh://git@").or_else(|| url.strip_prefix("git@"))?;
    let (host, path) = rest.split_once([':', '/'])?;
    let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b));
    // `ssh://git@host:22/path`
    let path =
        path.split_once('/').filter(|(port, _)| port.parse::<u16>().is_ok()).map_or(path, |(_, path)| path);
    is_host.then(|| format!("https://{host}/{}", path.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_the_network() {
        let same = ["https://example.com/a.git", "http://example.com:8080/a", "git://example.com/a"];
        for url in same {
            assert_eq!(address(url).as_deref(), Some(url));
        }
        let https = Some("https://github.com/o/r.git");
        for url in
            ["git@github.com:o/r.git", "ssh://git@github.com/o/r.git", "ssh://git@github.com:22/o/r.git"]
        {
            assert_eq!(address(url).as_deref(), https, "{url}");
        }
        for bad in [
            "../r.git",
            "./r",
            "/srv/r",
            "file:///srv/r",
            "ext::sh -c id",
            "-x",
            "",
            "git@",
            "git@h ost:x",
            "https://a\nb",
        ] {
            assert_eq!(address(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn paths_and_addresses_belong_together_by_name() {
        let settings = [
            ("submodule.a.b.path", "libs/a"),
            ("submodule.a.b.url", "https://example.com/a"),
            ("submodule.c.url", "https://example.com/c"),
            ("core.path", "x"),
        ];
        let settings: Vec<_> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let found = addresses(&settings);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("libs/a".to_owned(), "https://example.com/a".to_owned())]
        );
    }
}
