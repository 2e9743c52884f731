//! Where buildpacks are, as users write it.
//!
//! In: a line of `.buildpacks`, a `uri` of `project.toml`, an argument of `buildpacks:add`. Out: a [`BuildpackSource`], or the
//! name of a builder of Berth's own that does the same.

use berth_model::build::{Buildpack, BuildpackSource};

/// Longest line.
const MAX_LINE: usize = 1024;
/// Ends of URLs that are archives.
const ARCHIVES: [&str; 7] = [".tgz", ".tar.gz", ".tar", ".tar.xz", ".tar.bz2", ".zip", ".cnb"];
/// Whose buildpacks Berth's own builders stand in for.
const OFFICIAL: [&str; 3] = ["heroku", "heroku-buildpacks", "heroku-community"];

/// Reads one. `is_directory` says whether the tree has such a directory with a buildpack in it.
pub fn parse(text: &str, is_directory: &dyn Fn(&str) -> bool) -> Result<Buildpack, String> {
    let text = text.trim();
    let shown: String = text.chars().take(200).collect();
    let wrong = |why: &str| Err(format!("{shown:?} is no buildpack: {why}"));
    if text.is_empty() || text.len() > MAX_LINE || text.starts_with('-') {
        return wrong("write a URL, owner/name, or a directory of the repository such as ./buildpacks/mine");
    }
    if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return wrong("there is a blank or a control character in it");
    }
    let found = |source| Ok(Buildpack { source, text: text.to_owned(), optional: false });
    if let Some(name) = text.strip_prefix("docker://").or_else(|| text.strip_prefix("docker:/")) {
        berth_model::ImageName::parse(name)?;
        return found(BuildpackSource::Image { name: name.to_owned() });
    }
    if text.starts_with("urn:cnb:registry:") {
        return wrong(
            "the registry of buildpacks is a list of images on GitHub, which is not asked here; write the image itself, such \
             as docker://docker.io/paketobuildpacks/nodejs",
        );
    }
    let of_builder = text.strip_prefix("urn:cnb:builder:").or_else(|| text.strip_prefix("from=builder:"));
    if let Some(id) = of_builder {
        let (id, version) = split_version(id);
        check_id(&id)?;
        return found(BuildpackSource::Id { id, version });
    }
    let (address, reference) = match text.split_once('#') {
        Some((address, reference)) => (address, Some(reference).filter(|text| !text.is_empty())),
        None => (text, None),
    };
    if let Some(reference) = reference
        && (reference.starts_with('-') || reference.contains("..") || reference.len() > 255)
    {
        return wrong("what follows # is no branch, tag or commit");
    }
    let scheme = address.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("http" | "https") => {
            let path = address.split('?').next().unwrap_or(address);
            if ARCHIVES.iter().any(|end| path.ends_with(end)) {
                return found(BuildpackSource::Archive { url: address.to_owned() });
            }
            return found(git(address, reference));
        }
        Some("ssh" | "git") => return found(git(address, reference)),
        Some(other) => {
            return wrong(&format!(
                "{other}:// is not fetched; use https://, ssh://, git://, docker:// or a directory"
            ));
        }
        None => {}
    }
    if let Some((user, path)) = address.split_once('@')
        && !user.contains('/')
        && path.contains(':')
    {
        return found(git(address, reference));
    }
    let path = address.trim_end_matches('/');
    let path = path.strip_prefix("./").unwrap_or(path);
    if address == "." || is_directory(path) {
        check_path(path)?;
        let path = if path == "." { "" } else { path };
        return found(BuildpackSource::Directory { path: path.to_owned() });
    }
    if address.starts_with('.') || address.starts_with('/') {
        return wrong(
            "the pushed commit has no such directory with a buildpack (buildpack.toml or bin/compile)",
        );
    }
    let word = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !part.starts_with('.')
    };
    if let Some((owner, name)) = address.split_once('/')
        && word(owner)
        && word(name)
    {
        let url = format!("https://github.com/{owner}/heroku-buildpack-{name}.git");
        return found(git(&url, reference));
    }
    wrong(
        "write a URL (https://…#v1, ssh://…, docker://…), owner/name, or a directory of the repository such as ./buildpacks/mine",
    )
}

fn git(url: &str, reference: Option<&str>) -> BuildpackSource {
    BuildpackSource::Git { url: url.to_owned(), reference: reference.map(str::to_owned) }
}

/// `id@version`.
#[must_use]
pub fn split_version(text: &str) -> (String, Option<String>) {
    match text.split_once('@') {
        Some((id, version)) => (id.to_owned(), Some(version.to_owned())),
        None => (text.to_owned(), None),
    }
}

/// A path of the tree: relative, without `.` and `..`.
pub fn check_path(path: &str) -> Result<(), String> {
    let good = path == "." || path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    match good {
        true => Ok(()),
        false => Err(format!("{path:?} is no path inside the repository")),
    }
}

/// An id as the specification has it: `[a-zA-Z0-9./-]+`, and never a path to elsewhere or a reserved name.
pub fn check_id(id: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"./-_".contains(&b);
    let parts = || id.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if id.is_empty() || id.len() > 200 || !id.bytes().all(good) || !parts() {
        let shown: String = id.chars().take(80).collect();
        return Err(format!(
            "{shown:?} is no id of a buildpack: letters, digits, '.', '-' and '/' are allowed"
        ));
    }
    match id {
        "app" | "config" | "generated" | "sbom" => Err(format!("the id {id:?} is reserved")),
        _ => Ok(()),
    }
}

/// A version as a part of a path.
pub fn check_version(version: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b".-_+".contains(&b);
    if version.is_empty() || version.len() > 100 || !version.bytes().all(good) || version.starts_with('.') {
        let shown: String = version.chars().take(80).collect();
        return Err(format!("{shown:?} is no version of a buildpack"));
    }
    Ok(())
}

/// Berth's own builder for an official buildpack, if that is what `buildpack` is.
#[must_use]
pub fn built_in(buildpack: &Buildpack) -> Option<&'static str> {
    let path = match &buildpack.source {
        BuildpackSource::Git { url, .. } => {
            let rest = url
                .split_once("://")
                .map(|(_, rest)| rest)
                .or_else(|| url.split_once('@').map(|(_, rest)| rest))?;
            rest.strip_prefix("github.com/").or_else(|| rest.strip_prefix("github.com:"))?.to_owned()
        }
        BuildpackSource::Archive { url } => {
            // https://buildpack-registry.s3.amazonaws.com/buildpacks/heroku/python.tgz
            let (_, rest) = url.split_once("://buildpack-registry.s3.amazonaws.com/buildpacks/")?;
            rest.trim_end_matches(".tgz").to_owned()
        }
        BuildpackSource::Id { id, .. } => id.clone(),
        _ => return None,
    };
    let (owner, name) = path.trim_end_matches('/').trim_end_matches(".git").split_once('/')?;
    if !OFFICIAL.contains(&owner) {
        return None;
    }
    match name.trim_start_matches("heroku-buildpack-") {
        "go" => Some("go"),
        "rust" => Some("rust"),
        "ruby" => Some("ruby"),
        "php" => Some("php"),
        "java" | "gradle" => Some("java"),
        "python" => Some("python"),
        "nodejs" | "node" => Some("node"),
        "static" => Some("static"),
        _ => None,
    }
}
