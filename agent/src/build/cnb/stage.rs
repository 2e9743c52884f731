//! Layers in the making: directories of a build as they will be in the image.
//!
//! In: what buildpacks left, with the ids of their container. Out: the same below the root of a layer.

use super::super::error::BuildError;
use super::super::source;
use super::super::view::Node;
use berth_buildpacks::cnb::slices::Slices;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

/// Makes a directory and those above it, readable by all.
pub(super) fn make_all(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Directories that only lead to a layer are root's, as in the images below.
pub(super) fn parents_are_roots(root: &Path, place: &Path) -> Result<(), BuildError> {
    let mut at = place;
    loop {
        chown(at, Some(0), Some(0)).map_err(BuildError::disk("set the owner of", at))?;
        source::set_time(at).map_err(BuildError::disk("set the time of", at))?;
        match at.parent() {
            Some(above) if at != root => at = above,
            _ => return Ok(()),
        }
    }
}

/// Copies a directory that several layers have a part in, as one tree.
pub(super) fn copy(node: &Node, to: &Path, base: u32) -> io::Result<()> {
    // Ids as a container writes them, whichever layer they are from.
    let mapped = |id: u32| if id < base { base + id } else { id };
    let found = node.metadata();
    match node {
        Node::Directory(..) => {
            fs::create_dir(to)?;
            for (name, child) in node.children()? {
                copy(&child, &to.join(name), base)?;
            }
            lchown(to, Some(mapped(found.uid())), Some(mapped(found.gid())))?;
            fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))
        }
        Node::Other(from, _) if found.is_symlink() => {
            symlink(fs::read_link(from)?, to)?;
            lchown(to, Some(mapped(found.uid())), Some(mapped(found.gid())))
        }
        Node::Other(from, _) if found.is_file() => {
            fs::copy(from, to)?;
            lchown(to, Some(mapped(found.uid())), Some(mapped(found.gid())))?;
            fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))
        }
        Node::Other(..) => Ok(()), // sockets and pipes are made by who uses them
    }
}

/// Moves files that a slice has from the app's directory `top` to that slice's layer.
pub(super) fn slice(top: &Path, name: &str, layers: &[PathBuf], slices: &Slices) -> io::Result<()> {
    if slices.count() == 0 {
        return Ok(());
    }
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(top.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            let text = path.to_string_lossy();
            let Some(index) = slices.of(&text) else {
                if entry.file_type()?.is_dir() {
                    pending.push(path);
                }
                continue;
            };
            let to = layers[index].join(name).join(&path);
            // The directories above look as they do in the rest.
            let mut above = layers[index].clone();
            let mut like = top.to_owned();
            for part in std::iter::once(Path::new(name).as_os_str()).chain(dir.iter()) {
                if above != layers[index] {
                    like.push(part);
                }
                above.push(part);
                if fs::symlink_metadata(&above).is_err() {
                    let found = fs::symlink_metadata(&like)?;
                    fs::create_dir(&above)?;
                    chown(&above, Some(found.uid()), Some(found.gid()))?;
                    fs::set_permissions(&above, fs::Permissions::from_mode(found.mode() & 0o7777))?;
                }
            }
            fs::rename(entry.path(), to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::view::View;
    use super::*;

    const BASE: u32 = 0xF000_0000;

    #[test]
    fn slices_get_their_files_and_the_directories_above() {
        let dir = tempfile::tempdir().expect("a directory");
        let layers: Vec<PathBuf> = ["one", "rest"].iter().map(|name| dir.path().join(name)).collect();
        let top = layers[1].join("workspace");
        for path in [&layers[0], &top.join("static/css"), &top.join("lib")] {
            make_all(path).expect("room");
        }
        fs::set_permissions(top.join("static"), fs::Permissions::from_mode(0o750)).expect("ours");
        for file in ["static/css/a.css", "static/b.txt", "lib/c.rb"] {
            fs::write(top.join(file), file).expect("room");
        }
        let slices = Slices::parse(&[vec!["static/css".to_owned()]]).expect("a pattern");
        slice(&top, "workspace", &layers, &slices).expect("sliced");
        let sliced = layers[0].join("workspace/static");
        assert_eq!(fs::read_to_string(sliced.join("css/a.css")).expect("moved"), "static/css/a.css");
        assert_eq!(fs::metadata(&sliced).expect("made").permissions().mode() & 0o777, 0o750);
        assert!(!top.join("static/css").exists() && top.join("static/b.txt").exists());
        assert!(top.join("lib/c.rb").exists());
    }

    #[test]
    fn a_changed_layer_is_one_tree_of_what_was_and_what_is_new() {
        let dir = tempfile::tempdir().expect("a directory");
        let (upper, lower) = (dir.path().join("upper"), dir.path().join("lower"));
        for path in [upper.join("layer/sub"), lower.join("layer/sub")] {
            make_all(&path).expect("room");
        }
        fs::write(lower.join("layer/old"), "old").expect("room");
        fs::write(lower.join("layer/sub/changed"), "old").expect("room");
        fs::write(upper.join("layer/sub/changed"), "new").expect("room");
        symlink("/etc/passwd", upper.join("layer/link")).expect("room");
        chown(lower.join("layer/old"), Some(source::BUILD), Some(1000)).expect("root");
        chown(upper.join("layer/sub/changed"), Some(BASE + source::BUILD), Some(BASE + source::BUILD))
            .expect("root");
        let view = View::new(vec![upper, lower]);
        let node = view.resolve(Path::new("layer"), false).expect("resolved").node.expect("there");
        let to = dir.path().join("copy");
        copy(&node, &to, BASE).expect("copied");
        assert_eq!(fs::read_to_string(to.join("old")).expect("there"), "old");
        assert_eq!(fs::read_to_string(to.join("sub/changed")).expect("there"), "new");
        assert_eq!(fs::read_link(to.join("link")).expect("a link"), Path::new("/etc/passwd"));
        for (path, ids) in [("old", (source::BUILD, 1000)), ("sub/changed", (source::BUILD, source::BUILD))] {
            let found = fs::metadata(to.join(path)).expect("there");
            assert_eq!((found.uid(), found.gid()), (BASE + ids.0, BASE + ids.1), "{path}");
        }
    }
}
