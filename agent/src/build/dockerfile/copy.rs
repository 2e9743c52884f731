//! COPY, ADD and WORKDIR: a layer of copied files.
//!
//! In: a view of where the files are, a view of what the layer will lie on, the work. Out: a layer directory with plain
//! ids. Nothing of the build runs meanwhile; both sides may still have been made by a stranger, so links in them are
//! followed below their own root only ([`View`]) and no file is ever written through one.

use super::super::error::BuildError;
use super::super::view::{Node, View};
use super::find::Found;
use berth_buildpacks::dockerfile::{Chmod, Copy, Pattern, Source};
use sha2::{Digest, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

/// Deepest directory, as in every layer.
const MAX_DEPTH: usize = 500;

/// Who owns what is copied.
pub(super) type Owner = Option<(u32, u32)>;

/// A tree in order, parents first: paths relative to `top`, which is the empty one.
pub(super) fn walk(top: &Node) -> io::Result<Vec<(PathBuf, Node)>> {
    let mut all = Vec::new();
    let mut pending = vec![(PathBuf::new(), top.clone(), 0)];
    while let Some((path, node, depth)) = pending.pop() {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("its directories are nested more than 500 deep"));
        }
        for (name, child) in node.children()?.into_iter().rev() {
            pending.push((path.join(name), child, depth + 1));
        }
        all.push((path, node));
    }
    Ok(all)
}

/// A hash of all that copying would copy: names, kinds, permissions, owners, contents; no times.
pub(super) fn digest(found: &[Found], exclude: &[String], parents: bool) -> Result<String, BuildError> {
    let exclude = patterns(exclude)?;
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for source in found {
        field(source.path.as_os_str().as_bytes());
        for (path, node) in walk(&source.node).map_err(BuildError::disk("read", &source.path))? {
            if is_left_out(&exclude, source, &path, parents) {
                continue;
            }
            field(path.as_os_str().as_bytes());
            let metadata = node.metadata();
            field(format!("{:o} {} {}", metadata.mode(), metadata.uid(), metadata.gid()).as_bytes());
            if let Node::Other(at, metadata) = &node {
                if metadata.is_symlink() {
                    let target = fs::read_link(at).map_err(BuildError::disk("read", at))?;
                    field(target.as_os_str().as_bytes());
                } else if metadata.is_file() {
                    field(&file_digest(at).map_err(BuildError::disk("read", at))?);
                }
            }
        }
    }
    Ok(hex::encode(hash.finalize()))
}

pub(super) fn file_digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn patterns(exclude: &[String]) -> Result<Vec<Pattern>, BuildError> {
    exclude
        .iter()
        .map(|text| Pattern::parse(text.trim_start_matches('/')).map_err(BuildError::Plan))
        .collect()
}

/// Whether `--exclude` names `path` below `source`: as seen from a source that is a directory, from the top with
/// `--parents`, and a source that is a file by its name.
fn is_left_out(exclude: &[Pattern], source: &Found, path: &Path, parents: bool) -> bool {
    if exclude.is_empty() {
        return false;
    }
    let matches = |path: &Path| {
        let above = path.ancestors().filter(|path| !path.as_os_str().is_empty());
        above.filter_map(Path::to_str).any(|path| exclude.iter().any(|pattern| pattern.matches(path)))
    };
    if parents {
        return matches(&source.kept.join(path));
    }
    let name = source.path.file_name().map(Path::new);
    matches(path) || !source.node.is_directory() && name.is_some_and(matches)
}

/// A layer that is being written.
pub(super) struct Writer<'a> {
    dir: &'a Path,
    /// What the layer will lie on.
    below: &'a View,
    owner: Owner,
    chmod: Option<&'a Chmod>,
}

impl<'a> Writer<'a> {
    /// Begins the new layer `dir`.
    pub(super) fn new(
        dir: &'a Path,
        below: &'a View,
        owner: Owner,
        chmod: Option<&'a Chmod>,
    ) -> io::Result<Self> {
        fs::create_dir(dir)?;
        let root = below.root()?;
        let found = root.as_ref().map(Node::metadata);
        let permissions = found.map_or(0o755, |found| found.mode() & 0o7777);
        lchown(dir, Some(found.map_or(0, Metadata::uid)), Some(found.map_or(0, Metadata::gid)))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(permissions))?;
        Ok(Self { dir, below, owner, chmod })
    }

    /// The same layer, for files of another owner.
    pub(super) fn owned_by(&self, owner: (u32, u32)) -> Self {
        Self { owner: Some(owner), ..*self }
    }

    /// Where `dest` leads: relative, without links; and whether a directory is there.
    pub(super) fn place(&self, dest: &str) -> io::Result<(PathBuf, bool)> {
        let found = self.below.resolve(Path::new(dest), true)?;
        Ok((found.path, found.node.is_some_and(|node| node.is_directory())))
    }

    /// Copies all of `sources` to `dest`.
    pub(super) fn copy(&self, copy: &Copy, sources: &[Found]) -> Result<(), BuildError> {
        let failed = |error| BuildError::disk("copy to", &copy.dest)(error);
        let (dest, is_directory) = self.place(&copy.dest).map_err(failed)?;
        let inline = copy.sources.iter().any(|source| !matches!(source, Source::Path(_)));
        let into = is_directory || copy.dest.ends_with('/') || sources.len() > 1 || copy.parents;
        if !into && inline && copy.sources.len() > 1 {
            return Err(BuildError::Plan("with several sources the destination must end with /".to_owned()));
        }
        let exclude = patterns(&copy.exclude)?;
        for source in sources {
            let name = source.path.file_name();
            let to = match (&source.node, name) {
                _ if copy.parents => dest.join(&source.kept),
                (Node::Other(..), Some(name)) if into => dest.join(name),
                _ => dest.clone(),
            };
            let top = source.node.is_directory();
            for (path, node) in walk(&source.node).map_err(failed)? {
                if is_left_out(&exclude, source, &path, copy.parents) {
                    continue;
                }
                // `join("")` would end the path with a slash.
                let is_top = path.as_os_str().is_empty();
                let to = if is_top { to.clone() } else { to.join(&path) };
                let copied = if is_top && top {
                    self.directory(&to, Some(&node), false)
                } else {
                    self.node(&to, &node)
                };
                copied.map_err(BuildError::disk("copy", Path::new("/").join(&to)))?;
            }
        }
        Ok(())
    }

    /// Writes a file of which only the content is known.
    pub(super) fn file(&self, path: &Path, content: &mut dyn Read, mode: u32) -> io::Result<()> {
        self.above(path)?;
        let at = self.free(path)?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at)?;
        io::copy(content, &mut file)?;
        self.dress(&at, (0, 0), self.mode(mode, false))
    }

    /// Makes `path` a directory, with those above it, unless it is one.
    pub(super) fn make(&self, path: &Path) -> io::Result<()> {
        self.directory(path, None, false)
    }

    fn node(&self, to: &Path, node: &Node) -> io::Result<()> {
        let (at, found) = match node {
            Node::Directory(..) => return self.directory(to, Some(node), true),
            Node::Other(at, found) => (at, found),
        };
        self.above(to)?;
        let owner = (found.uid(), found.gid());
        if found.is_symlink() {
            let path = self.free(to)?;
            symlink(fs::read_link(at)?, &path)?;
            let (uid, gid) = self.owner.unwrap_or(owner);
            return lchown(&path, Some(uid), Some(gid));
        }
        if !found.is_file() {
            return Ok(()); // sockets, devices and pipes are made by who uses them
        }
        let path = self.free(to)?;
        let mut from = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(at)?;
        let mut file = File::create_new(&path)?;
        io::copy(&mut from, &mut file)?;
        drop(file);
        self.dress(&path, owner, self.mode(found.mode() & 0o7777, false))?;
        if let Some(value) = xattr::get(at, "security.capability").ok().flatten() {
            xattr::set(&path, "security.capability", &value)?;
        }
        Ok(())
    }

    fn mode(&self, found: u32, is_directory: bool) -> u32 {
        self.chmod.map_or(found, |chmod| chmod.apply(found, is_directory))
    }

    /// Owner, then mode: a change of owner clears set-id bits.
    fn dress(&self, path: &Path, owner: (u32, u32), mode: u32) -> io::Result<()> {
        let (uid, gid) = self.owner.unwrap_or(owner);
        lchown(path, Some(uid), Some(gid))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    /// Makes the directories above `path`.
    fn above(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(above) => self.directory(above, None, false),
            None => Err(io::Error::other("the root cannot be replaced")),
        }
    }

    /// The path on disk for something new at `path`: what this layer had there is removed.
    fn free(&self, path: &Path) -> io::Result<PathBuf> {
        let at = self.dir.join(path);
        let below = self.below.resolve(path, false)?.node;
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => {
                return Err(io::Error::other("a directory is there, and a file cannot take its place"));
            }
            Ok(_) => fs::remove_file(&at)?,
            Err(_) if below.is_some_and(|node| node.is_directory()) => {
                return Err(io::Error::other("a directory is there, and a file cannot take its place"));
            }
            Err(_) => {}
        }
        Ok(at)
    }

    /// Makes the directory `path` (relative, resolved) with those above it. A new one is as `like`, one that is there
    /// stays as it is unless `dress`.
    fn directory(&self, path: &Path, like: Option<&Node>, dress: bool) -> io::Result<()> {
        let mut at = self.dir.to_owned();
        let mut below = self.below.root()?;
        let count = path.iter().count();
        for (index, part) in path.iter().enumerate() {
            at.push(part);
            below = match &below {
                Some(dir) => dir.child(part)?,
                None => None,
            };
            let is_last = index + 1 == count;
            let existed = match fs::symlink_metadata(&at) {
                Ok(found) if found.is_dir() => true,
                Ok(_) => return Err(not_a_directory(path)),
                Err(_) => {
                    let existed = match &below {
                        Some(node) if !node.is_directory() => return Err(not_a_directory(path)),
                        below => below.as_ref().map(Node::metadata),
                    };
                    fs::create_dir(&at)?;
                    if let Some(found) = existed {
                        lchown(&at, Some(found.uid()), Some(found.gid()))?;
                        fs::set_permissions(&at, fs::Permissions::from_mode(found.mode() & 0o7777))?;
                    }
                    existed.is_some()
                }
            };
            if existed && !(is_last && dress) {
                continue;
            }
            let like = like.filter(|_| is_last).map(Node::metadata);
            let owner = like.map_or((0, 0), |found| (found.uid(), found.gid()));
            let mode = like.map_or(0o755, |found| found.mode() & 0o7777);
            let mode = if is_last && like.is_some() { self.mode(mode, true) } else { mode };
            self.dress(&at, owner, mode)?;
        }
        Ok(())
    }
}

fn not_a_directory(path: &Path) -> io::Error {
    let text = format!("/{} is there and no directory", path.display());
    io::Error::new(io::ErrorKind::NotADirectory, text)
}

/// A user and group of an image, `app:app` or `1000`, as numbers. A user alone has the group of the same number.
pub(in super::super) fn owner(text: &str, view: &View) -> Result<(u32, u32), BuildError> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let lookup = |name: &str, file: &str| -> Result<u32, BuildError> {
        if let Ok(id) = name.parse::<u32>() {
            return match id {
                0..=65_535 => Ok(id),
                _ => Err(BuildError::Plan(format!("the id {id} is larger than 65535"))),
            };
        }
        let text = view.text(file);
        let line = text.lines().find(|line| line.split(':').next() == Some(name));
        let id = line.and_then(|line| line.split(':').nth(2)).and_then(|id| id.parse().ok());
        id.filter(|id| *id <= 65_535).ok_or_else(|| {
            BuildError::Plan(format!(
                "there is no {name:?} in {file} of this stage; make it with a RUN before, or use its number"
            ))
        })
    };
    let user = if user.is_empty() { 0 } else { lookup(user, "/etc/passwd")? };
    let group = match group {
        Some(group) if !group.is_empty() => lookup(group, "/etc/group")?,
        _ => user,
    };
    Ok((user, group))
}

/// A name for a download: the last part of its path.
pub(super) fn file_name(url: &str) -> Option<OsString> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let name = path.split("://").nth(1)?.split('/').skip(1).last()?;
    (!name.is_empty() && name != ".." && name != ".").then(|| OsStr::new(name).to_owned())
}
