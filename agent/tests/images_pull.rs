//! What pulling promises: an image is exactly what its digests say, unpacked once, and no layer reaches out of its
//! directory. Needs root (owners, whiteouts).

mod images_support;

use berth_agent::images::{ImageError, Images, UnpackError};
use berth_model::Digest;
use images_support::*;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

struct Node {
    registry: Registry,
    images: Images,
    data: tempfile::TempDir,
}

fn node() -> Node {
    let data = tempfile::tempdir().expect("a temporary directory");
    let registry = Registry::default();
    let client = registry.serve(data.path());
    let images = Images::open(data.path(), client).expect("an empty directory will do");
    Node { registry, images, data }
}

/// Everything below `dir` but `besides`, as a list to compare.
fn listing(dir: &Path, besides: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in std::fs::read_dir(&at).expect("it can be listed") {
            let path = entry.expect("it can be listed").path();
            let name = path.strip_prefix(dir).expect("below").display().to_string();
            if name.starts_with(besides) {
                continue;
            }
            if path.symlink_metadata().expect("it is there").is_dir() {
                pending.push(path);
            }
            found.push(name);
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn an_image_is_pulled_verified_and_unpacked_bottom_up() {
    let node = node();
    let base = zstd(&[
        dir("./"),
        dir("etc"),
        file("etc/a", "lower"),
        file("etc/gone", "x"),
        dir("opt"),
        file("opt/old", "x"),
    ]);
    let top = gzip(&[
        Item { mode: 0o4755, uid: 1000, ..file("etc/a", "upper") },
        hard_link("etc/b", "etc/a"),
        symlink("etc/link", "/etc/passwd"),
        file("etc/.wh.gone", ""),
        file("opt/.wh..wh..opq", ""),
        with_pax(file("marked", "m"), "SCHILY.xattr.user.note", b"hello"),
        with_pax(file("tricked", "t"), "SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        file(&format!("{}/deep", "d".repeat(120)), "long name"),
    ]);
    let image = node.registry.image("apps/a", &[base, top]);
    let ready = node.images.ensure(&image).await.expect("a good image");
    assert_eq!((ready.config.user.as_str(), ready.config.working_dir.as_str()), ("1000", "/app"));
    let [top, base] = ready.lowers.as_slice() else { panic!("two layers, topmost first") };
    assert_eq!(std::fs::read_to_string(base.join("etc/a")).expect("there"), "lower");
    let found = std::fs::metadata(top.join("etc/a")).expect("there");
    assert_eq!((found.uid(), found.permissions().mode() & 0o7777, found.nlink()), (1000, 0o4755, 2));
    let gone = std::fs::symlink_metadata(top.join("etc/gone")).expect("there");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0, "a whiteout as overlayfs wants it");
    assert_eq!(
        xattr::get(top.join("opt"), "trusted.overlay.opaque").expect("readable").as_deref(),
        Some(b"y".as_slice())
    );
    assert_eq!(
        xattr::get(top.join("marked"), "user.note").expect("readable").as_deref(),
        Some(b"hello".as_slice())
    );
    assert_eq!(xattr::get(top.join("tricked"), "trusted.overlay.redirect").expect("readable"), None);
    assert_eq!(std::fs::read_to_string(top.join("d".repeat(120)).join("deep")).expect("there"), "long name");
    assert_eq!(std::fs::read_link(top.join("etc/link")).expect("there"), Path::new("/etc/passwd"));
}

#[tokio::test]
async fn a_layer_is_pulled_once_however_many_ask() {
    let node = node();
    let shared = zstd(&[file("a", "shared")]);
    let one = node.registry.image("apps/one", std::slice::from_ref(&shared));
    let two = node.registry.image("apps/two", &[shared.clone(), zstd(&[file("b", "own")])]);
    let asks = (0..8).map(|turn| {
        let (images, image) = (node.images.clone(), if turn % 2 == 0 { one.clone() } else { two.clone() });
        tokio::spawn(async move { images.ensure(&image).await.map(|ready| ready.lowers.len()) })
    });
    for ask in asks.collect::<Vec<_>>() {
        ask.await.expect("no panic").expect("a good image");
    }
    let blob = Digest::of(&shared.0);
    let pulls = node
        .registry
        .take_log()
        .iter()
        .filter(|line| line.starts_with("GET") && line.contains(blob.as_str()))
        .count();
    assert_eq!(pulls, 1);
    node.images.ensure(&two).await.expect("it is here");
    assert_eq!(node.registry.take_log(), Vec::<String>::new(), "what is here is not asked for");
}

#[tokio::test]
async fn bytes_that_are_not_what_was_promised_leave_nothing() {
    let node = node();
    let (blob, diff_id) = zstd(&[file("a", &"content ".repeat(1000))]);
    let (digest, size) = (Digest::of(&blob), blob.len());
    let mut flipped = blob.clone();
    flipped[size / 2] ^= 1;
    let other = Digest::of(b"other");
    let cases: [(&str, Vec<u8>, usize, Digest); 5] = [
        ("flipped", flipped, size, diff_id.clone()),
        ("longer", [blob.as_slice(), b"x"].concat(), size, diff_id.clone()),
        ("shorter", blob[..size - 1].to_vec(), size, diff_id.clone()),
        ("wrong size in the manifest", blob.clone(), size + 1, diff_id.clone()),
        ("wrong diffID", blob.clone(), size, other),
    ];
    for (what, bytes, stated, diff_id) in cases {
        node.registry.put("apps/a", "blobs", &digest, bytes);
        let image = node.registry.image_of("apps/a", &[(digest.clone(), stated)], &[diff_id]);
        let error = node.images.ensure(&image).await.expect_err(what);
        assert!(
            matches!(error, ImageError::Mismatch { .. } | ImageError::Unpack { .. }),
            "{what}: {error:?}"
        );
        let layers = node.data.path().join("agent/layers");
        for empty in ["sha256", "tmp"] {
            assert_eq!(std::fs::read_dir(layers.join(empty)).expect("there").count(), 0, "{what}: {empty}");
        }
    }
    node.registry.put("apps/a", "blobs", &digest, blob);
    let image = node.registry.image_of("apps/a", &[(digest, size)], &[diff_id]);
    node.images.ensure(&image).await.expect("the true bytes are taken afterwards");
}

#[tokio::test]
async fn a_manifest_that_lies_is_refused() {
    let node = node();
    let mut image = node.registry.image("apps/a", &[zstd(&[file("a", "x")])]);
    image.digest = Digest::of(b"a manifest of another image");
    node.registry.put("apps/a", "manifests", &image.digest, "{}");
    assert!(matches!(node.images.ensure(&image).await, Err(ImageError::Mismatch { property: "digest", .. })));
    let image = node.registry.image_of("apps/a", &[], &[Digest::of(b"")]);
    assert!(matches!(node.images.ensure(&image).await, Err(ImageError::Invalid { .. })));
}

#[tokio::test]
async fn no_archive_reaches_out_of_its_directory() {
    let long = "x".repeat(300);
    let deep = vec!["d"; 1500].join("/");
    let refused: Vec<(&str, Vec<Item>)> = vec![
        ("parent", vec![file("../evil", "x")]),
        ("parent inside", vec![dir("a"), file("a/../../evil", "x")]),
        ("absolute", vec![file("/evil", "x")]),
        ("write through a symlink", vec![symlink("a", "/"), file("a/evil", "x")]),
        ("write through a relative symlink", vec![symlink("a", "../../../.."), file("a/evil", "x")]),
        ("directory through a symlink", vec![symlink("a", "/"), dir("a/evil")]),
        ("symlink through a symlink", vec![symlink("a", "/"), symlink("a/evil", "x")]),
        ("deep below a symlink", vec![dir("a"), symlink("a/b", "/"), file("a/b/c/evil", "x")]),
        ("whiteout through a symlink", vec![symlink("a", "/"), file("a/.wh.evil", "")]),
        ("opaque through a symlink", vec![symlink("a", "/"), file("a/.wh..wh..opq", "")]),
        ("hard link to a parent", vec![hard_link("evil", "../evil")]),
        ("absolute hard link", vec![hard_link("evil", "/etc/passwd")]),
        ("hard link via a symlink", vec![symlink("a", "/etc"), hard_link("evil", "a/passwd")]),
        ("hard link to nothing", vec![hard_link("evil", "nothing")]),
        ("hard link to itself", vec![file("evil", "x"), hard_link("evil", "evil")]),
        ("hard link to a directory", vec![dir("a"), hard_link("evil", "a")]),
        ("whiteout of the parent", vec![file(".wh...", "")]),
        ("whiteout of itself", vec![file(".wh..", "")]),
        ("whiteout of nothing", vec![file(".wh.", "")]),
        ("block device", vec![item(b'4', "evil")]),
        ("character device", vec![item(b'3', "bin/evil")]),
        ("unknown kind", vec![item(b'Z', "evil")]),
        ("sparse file", vec![item(b'S', "evil")]),
        ("PAX sparse file", vec![with_pax(file("evil", "x"), "GNU.sparse.size", b"1099511627776")]),
        ("NUL in a name", vec![with_pax(file("evil", "x"), "path", b"evil\0/../x")]),
        ("PAX path out", vec![with_pax(file("fine", "x"), "path", b"../evil")]),
        ("PAX link out", vec![with_pax(hard_link("evil", "fine"), "linkpath", b"../../etc/passwd")]),
        ("PAX size beyond the archive", vec![with_pax(file("evil", "x"), "size", b"1099511627776")]),
        ("negative PAX size", vec![with_pax(file("evil", "x"), "size", b"-1")]),
        ("long name", vec![file(&long, "x")]),
        ("too deep", vec![file(&deep, "x")]),
        ("root replaced", vec![symlink(".", "/")]),
        ("file below a file", vec![file("a", "x"), file("a/evil", "x")]),
        ("full directory replaced", vec![dir("a"), file("a/b", "x"), symlink("a", "/")]),
        ("foreign owner", vec![Item { uid: 100_000, ..file("evil", "x") }]),
        (
            "malformed capability",
            vec![with_pax(file("evil", "x"), "SCHILY.xattr.security.capability", b"zz")],
        ),
        ("huge attribute", vec![with_pax(file("evil", "x"), "SCHILY.xattr.user.x", &vec![b'x'; 200_000])]),
    ];
    let node = node();
    let outside = || (listing(node.data.path(), "agent"), Path::new("/evil").exists());
    let before = outside();
    for (what, items) in refused {
        let image = node.registry.image("apps/a", &[plain(&items)]);
        let error = node.images.ensure(&image).await.expect_err(what);
        let ImageError::Unpack { source, .. } = &error else { panic!("{what}: {error:?}") };
        assert!(
            !matches!(source, UnpackError::Disk { .. }),
            "refused by a rule, not by accident: {what}: {error:?}"
        );
        let layers = node.data.path().join("agent/layers");
        for empty in ["sha256", "tmp"] {
            assert_eq!(
                std::fs::read_dir(layers.join(empty)).expect("there").count(),
                0,
                "{what} leaves nothing"
            );
        }
        assert_eq!(outside(), before, "{what}");
    }
}

#[tokio::test]
async fn odd_but_harmless_archives_are_taken() {
    let node = node();
    let taken: Vec<(&str, Vec<Item>)> = vec![
        ("twice the same name", vec![file("a", "1"), file("a", "2"), symlink("a", "b"), dir("a"), dir("a")]),
        ("file over a symlink", vec![symlink("a", "/etc/passwd"), file("a", "own")]),
        ("directory over a symlink", vec![symlink("a", "/"), dir("a"), file("a/b", "own")]),
        ("link to a symlink", vec![symlink("a", "/etc/shadow"), hard_link("b", "a")]),
        ("devices below /dev", vec![dir("dev"), item(b'3', "dev/null"), item(b'4', "dev/sda")]),
        ("parents that are missing", vec![file("x/y/z", "1")]),
        ("newline in a name", vec![file("a\nb", "1")]),
        ("AUFS bookkeeping", vec![file(".wh..wh.plnk", ""), dir(".wh..wh.aufs")]),
        ("whiteout before a directory", vec![file(".wh.a", ""), dir("a"), file("a/b", "1")]),
        ("FIFO", vec![item(b'6', "fifo")]),
        ("many files", (0..1000).map(|n| file(&format!("d/{n}"), "x")).collect()),
    ];
    for (what, items) in taken {
        let image = node.registry.image("apps/a", &[zstd(&items)]);
        let ready = node.images.ensure(&image).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let layer = &ready.lowers[0];
        assert!(!layer.join("dev/null").exists(), "{what}");
        if what.starts_with("file over") {
            assert_eq!(std::fs::read_to_string(layer.join("a")).expect("a file now"), "own");
        }
        if what == "whiteout before a directory" {
            let opaque = xattr::get(layer.join("a"), "trusted.overlay.opaque").expect("readable");
            assert_eq!(opaque.as_deref(), Some(b"y".as_slice()));
        }
    }
}

#[tokio::test]
async fn bombs_are_stopped_before_they_fill_the_disk() {
    let node = node();
    // 200 MiB of zeros in some kilobytes.
    let mut tar = Vec::new();
    block(&mut tar, b"zeros", b'0', b"", 200 << 20, 0o644, 0);
    tar.resize(tar.len() + (200 << 20) + 1024, 0);
    let bomb = zstd::encode_all(tar.as_slice(), 1).expect("memory");
    let image = node.registry.image("apps/a", &[(bomb, Digest::of(&tar))]);
    let error = node.images.ensure(&image).await.expect_err("a bomb");
    let chain = format!("{error:?}");
    assert!(chain.contains("100 times"), "{chain}");
    // A long name that would fill the memory.
    let mut tar = Vec::new();
    block(&mut tar, b"././@LongLink", b'L', b"", 1 << 30, 0o644, 0);
    let image = node.registry.image("apps/a", &[(tar.clone(), Digest::of(&tar))]);
    assert!(format!("{:?}", node.images.ensure(&image).await.expect_err("too long")).contains("1 MiB"));
}

#[tokio::test]
async fn collecting_keeps_what_is_named_and_what_is_young() {
    let node = node();
    let image = node.registry.image("apps/a", &[zstd(&[file("a", "x")])]);
    let ready = node.images.ensure(&image).await.expect("a good image");
    let collected = node.images.collect(std::slice::from_ref(&image)).await.expect("it can");
    assert_eq!((collected.images, collected.layers), (0, 0));
    let collected = node.images.collect(&[]).await.expect("it can");
    assert_eq!((collected.images, collected.layers), (1, 0), "its layer is young");
    assert!(ready.lowers[0].exists());
}

#[tokio::test]
async fn layers_that_were_not_synced_before_a_crash_are_pulled_again() {
    let node = node();
    let (blob, diff_id) = zstd(&[file("a", "x")]);
    let image = node.registry.image("apps/a", &[(blob, diff_id.clone())]);
    let ready = node.images.ensure(&image).await.expect("a good image");
    let pending = node.data.path().join("agent/layers/pending").join(diff_id.hex());
    while pending.exists() {
        tokio::task::yield_now().await; // the layer is being synced
    }
    std::fs::write(&pending, "another boot").expect("room");
    std::fs::write(ready.lowers[0].join("a"), "").expect("what a crash may leave");
    let client = node.registry.serve(&node.data.path().join("agent"));
    let images = Images::open(node.data.path(), client).expect("it opens again");
    assert!(!ready.lowers[0].exists());
    images.ensure(&image).await.expect("a good image");
    assert_eq!(std::fs::read_to_string(ready.lowers[0].join("a")).expect("there"), "x");
}

#[tokio::test]
async fn a_root_file_system_becomes_a_stack() {
    let node = node();
    let rootfs = tar(&[
        dir("./"),
        dir("etc"),
        file("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
        file("etc/group", "root:x:0:"),
        dir("dev"),
        item(b'3', "dev/null"),
        file("dev/leftover", "x"),
        dir("bin"),
        symlink("home", "/etc"),
    ]);
    let import = |images: Images, rootfs: Vec<u8>| async move {
        berth_agent::images::import_stack(&images, "stacks/test", "latest", std::io::Cursor::new(rootfs))
            .await
    };
    // A link where a home should be made: refused, and nothing of the host is touched.
    assert!(import(node.images.clone(), rootfs.clone()).await.is_err());
    assert!(!Path::new("/etc/build").exists());
    let rootfs = tar(&[
        dir("./"),
        dir("etc"),
        file("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
        file("etc/group", "root:x:0:"),
        dir("dev"),
        item(b'3', "dev/null"),
        file("dev/leftover", "x"),
    ]);
    let image = import(node.images.clone(), rootfs.clone()).await.expect("a good file system");
    let again = import(node.images.clone(), rootfs).await.expect("a good file system");
    assert_eq!(image, again, "same tar, same image");
    let ready = node.images.ensure(&image).await.expect("it is here");
    let root = &ready.lowers[0];
    let users = std::fs::read_to_string(root.join("etc/passwd")).expect("there");
    assert_eq!(users.lines().count(), 3);
    assert!(users.contains("app:x:1000:1000:app:/app:/bin/bash\nbuild:x:1001:1001:"), "{users}");
    let groups = std::fs::read_to_string(root.join("etc/group")).expect("there");
    assert_eq!(groups, "root:x:0:\napp:x:1000:\nbuild:x:1001:\n");
    assert_eq!(listing(&root.join("dev"), "nothing").len(), 0);
    assert_eq!(std::fs::metadata(root.join("app")).expect("there").uid(), 1000);
    // Another node gets the same from the registry alone.
    let other = tempfile::tempdir().expect("a directory");
    let images = Images::open(other.path(), node.registry.serve(other.path())).expect("it opens");
    let ready = images.ensure(&image).await.expect("what was pushed is good");
    assert_eq!(std::fs::read_to_string(ready.lowers[0].join("etc/passwd")).expect("there"), users);
}
