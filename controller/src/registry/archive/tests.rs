//! What other programs write is read, and what a stranger writes is refused.

use super::*;
use crate::registry::Registry;
use berth_model::Digest;
use berth_model::image::ImageRef;
use std::io::Write;

struct Bench {
    registry: Registry,
    dir: tempfile::TempDir,
}

enum Entry<'a> {
    File(&'a str, Vec<u8>),
    Symlink(&'a str, &'a str),
    Hardlink(&'a str, &'a str),
}
use Entry::{File as Bytes, Hardlink, Symlink};

fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        // By hand: no honest library writes hostile names.
        let (kind, name, link, content) = match entry {
            Bytes(name, content) => (b'0', name, "", content.as_slice()),
            Symlink(name, to) => (b'2', name, *to, [].as_slice()),
            Hardlink(name, to) => (b'1', name, *to, [].as_slice()),
        };
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn layer(text: &str) -> Vec<u8> {
    tar_of(&[Bytes("answer", text.as_bytes().to_vec())])
}

fn config_of(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    serde_json::json!({ "architecture": berth_model::image::architecture(), "os": "linux",
        "config": { "Cmd": ["x"] }, "rootfs": { "type": "layers", "diff_ids": ids } })
    .to_string()
    .into_bytes()
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

/// As `docker save` wrote it before version 25, with a layer that two images share.
fn docker_save() -> Vec<u8> {
    let (base, one, two) = (layer("base"), layer("one"), layer("two"));
    let (a, b) = (config_of(&[&base, &one]), config_of(&[&base, &two]));
    let name = |config: &[u8]| format!("{}.json", Digest::of(config).hex());
    let manifest = serde_json::json!([
        { "Config": name(&a), "RepoTags": ["owner/a:1", "owner/a:latest"], "Layers": ["l0/layer.tar", "l1/layer.tar"] },
        { "Config": name(&b), "RepoTags": ["b:latest"], "Layers": ["l2/layer.tar", "l3/layer.tar"] },
    ]);
    tar_of(&[
        Bytes(&name(&a), a.clone()),
        Bytes(&name(&b), b.clone()),
        Bytes("l0/layer.tar", base),
        Bytes("l1/layer.tar", one),
        Symlink("l2/layer.tar", "../l0/layer.tar"),
        Bytes("l3/layer.tar", two),
        Bytes("manifest.json", manifest.to_string().into_bytes()),
    ])
}

/// An OCI layout whose layer is compressed, named `name`.
fn layout(name: Option<&str>, twist: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let plain = layer("oci");
    let packed = zstd::encode_all(plain.as_slice(), 3).expect("room");
    let config = config_of(&[&plain]);
    let manifest = serde_json::json!({ "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": Digest::of(&packed), "size": packed.len() }] })
    .to_string().into_bytes();
    let mut listed = serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::of(&manifest), "size": manifest.len() });
    if let Some(name) = name {
        listed["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
    }
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [listed] }).to_string().into_bytes();
    tar_of(&[
        Bytes("oci-layout", b"{}".to_vec()),
        Bytes(&blob(&packed), twist("layer", packed.clone())),
        Bytes(&blob(&config), twist("config", config.clone())),
        Bytes(&blob(&manifest), twist("manifest", manifest.clone())),
        Bytes("index.json", twist("index", index)),
    ])
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { registry: Registry::open(dir.path().join("registry")), dir }
    }

    fn load(&self, bytes: &[u8], wanted: Option<&str>) -> Result<(ImageRef, Option<String>), ArchiveError> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("room");
        let (digest, called) = load(&self.registry, file, self.dir.path(), wanted, "apps/a", "from-image")?;
        Ok((ImageRef { repository: "apps/a".to_owned(), digest }, called))
    }

    fn refused(&self, bytes: &[u8], wanted: Option<&str>) -> String {
        self.load(bytes, wanted).expect_err("it must be refused").to_string()
    }

    fn uploads(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("registry/uploads")).map_or(0, Iterator::count)
    }
}

#[test]
fn what_docker_saved_is_taken_by_its_name() {
    let bench = Bench::new();
    let saved = docker_save();
    let (one, called) = bench.load(&saved, Some("owner/a:1")).expect("it is there");
    assert_eq!(called.as_deref(), Some("owner/a:1"));
    let (two, _) = bench.load(&saved, Some("b")).expect("its tag is latest");
    assert_ne!(one, two);
    let several = bench.refused(&saved, None);
    assert!(several.contains("several images") && several.contains("owner/a:1"), "{several}");
    let absent = bench.refused(&saved, Some("c:2"));
    assert!(absent.contains("no c:2") && absent.contains("b:latest"), "{absent}");
    // Compressed on the way, through gzip and zstd: the same image.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&saved).expect("room");
    let zstd = zstd::encode_all(saved.as_slice(), 1).expect("room");
    for packed in [gzip.finish().expect("room"), zstd] {
        assert_eq!(bench.load(&packed, Some("owner/a:1")).expect("the same").0, one);
    }
    assert_eq!(bench.uploads(), 0);
}

#[test]
fn a_layout_is_taken_with_its_layers_as_they_are() {
    let bench = Bench::new();
    let (image, _) = bench.load(&layout(None, |_, bytes| bytes), None).expect("one image");
    assert_eq!(
        bench.load(&layout(Some("localhost/x:latest"), |_, b| b), Some("x")).expect("podman's name").0,
        image
    );
    let other = bench.refused(&layout(Some("localhost/x:1"), |_, b| b), Some("x"));
    assert!(other.contains("localhost/x:1"), "{other}");
}

#[test]
fn what_comes_out_goes_in_again() {
    let bench = Bench::new();
    let (image, _) = bench.load(&docker_save(), Some("b")).expect("good");
    let mut out = Vec::new();
    export(&bench.registry, &image, "localhost/a:v1", &mut out).expect("it can be written");
    let mut again = Vec::new();
    export(&bench.registry, &image, "localhost/a:v1", &mut again).expect("it can be written");
    assert_eq!(out, again, "the same image, the same archive");
    let other = Bench::new();
    let (back, called) = other.load(&out, None).expect("one image, though it is listed twice");
    assert_eq!((back, called.as_deref()), (image, Some("localhost/a:v1")));
}

#[test]
fn forged_bytes_are_refused_and_leave_nothing_half() {
    let bench = Bench::new();
    for part in ["layer", "config", "manifest"] {
        let forged = layout(None, |name, mut bytes| {
            if name == part {
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
            }
            bytes
        });
        let text = bench.refused(&forged, None);
        assert!(text.contains("digest"), "{part}: {text}");
        assert_eq!(bench.uploads(), 0, "{part}");
    }
    let mut saved = docker_save();
    let at = saved.windows(3).position(|bytes| bytes == b"two").expect("the layer's file");
    saved[at] = b'T';
    assert!(bench.refused(&saved, Some("b")).contains("has the digest"));
    assert!(bench.load(&saved, Some("owner/a")).is_ok(), "the other image is whole");
}

#[test]
fn hostile_archives_are_refused() {
    let bench = Bench::new();
    let with = |entry: Entry<'_>| {
        let manifest = br#"[{"Config":"c.json","Layers":[]}]"#.to_vec();
        tar_of(&[entry, Bytes("manifest.json", manifest)])
    };
    for (entry, words) in [
        (Bytes("../../etc/cron.d/x", b"x".to_vec()), "leads out"),
        (Bytes("/etc/passwd", b"x".to_vec()), "absolute"),
        (Symlink("c.json", "../../../etc/shadow"), "leads out"),
        (Symlink("c.json", "/etc/shadow"), "absolute"),
        (Hardlink("c.json", "../x"), "leads out"),
        (Symlink("c.json", "c.json"), "leads on and on"),
        (Bytes("other", Vec::new()), "has no c.json"),
        (Bytes("c.json", b"{".to_vec()), "config is malformed"),
        (Bytes("c.json", br#"{"rootfs":{"diff_ids":["x"]}}"#.to_vec()), "different numbers"),
    ] {
        let text = bench.refused(&with(entry), None);
        assert!(text.contains(words), "{words}: {text}");
    }
    let large = vec![b' '; usize::try_from(MAX_DOCUMENT).expect("small") + 1];
    assert!(bench.refused(&with(Bytes("c.json", large)), None).contains("larger than 4 MiB"));
    assert!(bench.refused(b"hello", None).contains("cannot be read"));
    assert!(bench.refused(&tar_of(&[Bytes("x", Vec::new())]), None).contains("docker save"));
    let mut cut = docker_save();
    cut.truncate(cut.len() / 2);
    bench.refused(&cut, None);
    let deep = layout(None, |name, bytes| match name {
        "index" => br#"{"manifests":[{"digest":"sha256:../../../etc/passwd"}]}"#.to_vec(),
        _ => bytes,
    });
    assert!(bench.refused(&deep, None).contains("is not a digest"));
    let links: Vec<(String, String)> = (0..20).map(|n| (format!("l{n}"), format!("l{}", n + 1))).collect();
    let mut chain: Vec<Entry<'_>> = links.iter().map(|(from, to)| Symlink(from, to)).collect();
    chain.push(Bytes("manifest.json", br#"[{"Config":"l0","Layers":[]}]"#.to_vec()));
    assert!(bench.refused(&tar_of(&chain), None).contains("leads on and on"));
}

#[test]
fn a_bomb_is_cut_short() {
    let bench = Bench::new();
    // 1 GiB of zeros in a few KiB.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    let zeros = vec![0_u8; 64 << 20];
    for _ in 0..16 {
        encoder.write_all(&zeros).expect("room");
    }
    let bomb = encoder.finish().expect("room");
    assert!(bomb.len() < 1 << 20);
    let text = bench.refused(&bomb, None);
    assert!(text.contains("more than 100 times its size"), "{text}");
}
