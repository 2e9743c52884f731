//! Layers as one tree, without mounting them.
//!
//! In: layer directories, topmost first, which nobody writes to. Out: what is where when they lie on each other as
//! overlayfs lays them (whiteouts, opaque directories), with links followed below the root only, as in a container.
//!
//! A path on disk is only ever made of a layer's own directory and names that were looked at one by one, each with all
//! above it known to be a directory of that same layer: no link in a layer leads the node anywhere.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// Most links on one way, as the kernel has it.
const MAX_LINKS: usize = 40;
/// Most parts of a path.
const MAX_PARTS: usize = 4096;

/// Layers, topmost first.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    roots: Vec<PathBuf>,
}

/// What is at a place.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// A directory: the same one in each layer that has it, topmost first.
    Directory(Vec<PathBuf>, Metadata),
    /// Anything else.
    Other(PathBuf, Metadata),
}

impl Node {
    pub(crate) fn metadata(&self) -> &Metadata {
        match self {
            Self::Directory(_, found) | Self::Other(_, found) => found,
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(..))
    }

    /// What is in it, sorted by name; nothing if it is no directory.
    pub(crate) fn children(&self) -> io::Result<Vec<(OsString, Node)>> {
        let Self::Directory(dirs, _) = self else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for dir in dirs {
            for entry in fs::read_dir(dir)? {
                names.push(entry?.file_name());
            }
        }
        names.sort();
        names.dedup();
        let mut children = Vec::new();
        for name in names {
            if let Some(node) = self.child(&name)? {
                children.push((name, node));
            }
        }
        Ok(children)
    }

    /// What has this name in it.
    pub(crate) fn child(&self, name: &OsStr) -> io::Result<Option<Node>> {
        let Self::Directory(dirs, _) = self else { return Ok(None) };
        let (mut found, mut top) = (Vec::new(), None);
        for dir in dirs {
            let path = dir.join(name);
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if !metadata.is_dir() {
                let whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
                if found.is_empty() && !whiteout {
                    return Ok(Some(Self::Other(path, metadata)));
                }
                break;
            }
            let opaque = xattr::get(&path, "trusted.overlay.opaque").ok().flatten();
            found.push(path);
            top.get_or_insert(metadata);
            if opaque.as_deref() == Some(b"y") {
                break;
            }
        }
        Ok(top.map(|metadata| Self::Directory(found, metadata)))
    }
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// Relative, without links as far as it exists.
    pub(crate) path: PathBuf,
    /// What is there.
    pub(crate) node: Option<Node>,
}

impl View {
    /// Layers, topmost first.
    pub(crate) fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots }
    }

    /// Their directories, topmost first.
    pub(crate) fn layers(&self) -> &[PathBuf] {
        &self.roots
    }

    /// The top of the tree; `None` if there are no layers.
    pub(crate) fn root(&self) -> io::Result<Option<Node>> {
        let Some(top) = self.roots.first() else { return Ok(None) };
        Ok(Some(Node::Directory(self.roots.clone(), fs::symlink_metadata(top)?)))
    }

    /// Follows `path`, and a link at its end too if `follow`. `..` at the top stays there.
    pub(crate) fn resolve(&self, path: &Path, follow: bool) -> io::Result<Resolved> {
        let root = self.root()?;
        let mut at: Vec<(OsString, Option<Node>)> = Vec::new();
        let mut pending = Vec::new();
        push(&mut pending, path)?;
        let mut links = 0;
        while let Some(part) = pending.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let dir = match at.last() {
                Some((_, node)) => node.as_ref(),
                None => root.as_ref(),
            };
            let node = match dir {
                Some(dir @ Node::Directory(..)) => dir.child(&part)?,
                Some(Node::Other(..)) => {
                    return Err(io::Error::new(
                        io::ErrorKind::NotADirectory,
                        "its path leads through a file",
                    ));
                }
                None => None,
            };
            match &node {
                Some(Node::Other(link, found)) if found.is_symlink() && (follow || !pending.is_empty()) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(io::Error::other("its path leads through more than 40 symbolic links"));
                    }
                    let target = fs::read_link(link)?;
                    if target.is_absolute() {
                        at.clear();
                    }
                    push(&mut pending, &target)?;
                }
                _ => at.push((part, node)),
            }
        }
        let path = at.iter().map(|(name, _)| name).collect();
        let node = match at.pop() {
            Some((_, node)) => node,
            None => root,
        };
        Ok(Resolved { path, node })
    }

    /// A small text file, such as `/etc/passwd`; empty if there is none that can be read.
    pub(crate) fn text(&self, path: &str) -> String {
        const LONGEST: u64 = 4 << 20;
        match self.resolve(Path::new(path), true) {
            Ok(Resolved { node: Some(Node::Other(path, found)), .. })
                if found.is_file() && found.len() <= LONGEST =>
            {
                fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
            }
            _ => String::new(),
        }
    }
}

/// Puts the parts of `path` on the stack, first on top.
fn push(pending: &mut Vec<OsString>, path: &Path) -> io::Result<()> {
    let parts: Vec<OsString> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect();
    if pending.len() + parts.len() > MAX_PARTS {
        return Err(io::Error::other("its path has more than 4096 parts"));
    }
    pending.extend(parts.into_iter().rev());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn layers(dir: &Path) -> View {
        let (low, high) = (dir.join("low"), dir.join("high"));
        for path in ["low/usr/bin", "low/etc", "low/old/deep", "high/usr/bin", "high/etc"] {
            fs::create_dir_all(dir.join(path)).expect("room");
        }
        fs::write(low.join("usr/bin/sh"), "low").expect("room");
        fs::write(low.join("usr/bin/ls"), "low").expect("room");
        fs::write(high.join("usr/bin/sh"), "high").expect("room");
        fs::write(low.join("etc/passwd"), "root:x:0:0::/:\n").expect("room");
        fs::write(high.join("old"), "a file now").expect("room");
        symlink("usr/bin", low.join("bin")).expect("room");
        symlink("/usr/../../../bin/sh", high.join("etc/shell")).expect("room");
        symlink("loop", high.join("loop")).expect("room");
        symlink("/nowhere/to", high.join("dangling")).expect("room");
        View::new(vec![high, low])
    }

    #[test]
    fn links_stay_below_the_root() {
        let dir = tempfile::tempdir().expect("a directory");
        let view = layers(dir.path());
        let path = |text: &str| view.resolve(Path::new(text), true).map(|found| found.path);
        assert_eq!(path("/bin/sh").expect("found"), Path::new("usr/bin/sh"));
        assert_eq!(path("/etc/shell").expect("found"), Path::new("usr/bin/sh"), "`..` ends at the root");
        assert_eq!(path("/bin/../etc/x/y").expect("found"), Path::new("usr/etc/x/y"));
        assert_eq!(path("/dangling/file").expect("found"), Path::new("nowhere/to/file"));
        assert_eq!(path("../../..").expect("found"), Path::new(""));
        path("/loop/x").expect_err("a loop");
        path("/old/deep").expect_err("a file hides the directory");
        assert_eq!(view.text("/etc/shell"), "high");
        assert_eq!(view.text("/etc/passwd"), "root:x:0:0::/:\n");
        assert_eq!(view.text("/etc"), "");
    }

    #[test]
    fn directories_are_merged() {
        let dir = tempfile::tempdir().expect("a directory");
        let view = layers(dir.path());
        let bin = view.resolve(Path::new("/bin"), true).expect("found").node.expect("there");
        let names: Vec<_> = bin.children().expect("listed").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["ls", "sh"]);
        assert!(
            view.resolve(Path::new("/old"), true)
                .expect("found")
                .node
                .is_some_and(|node| !node.is_directory())
        );
        assert!(View::default().root().expect("none").is_none());
    }
}
