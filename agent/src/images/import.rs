//! Stacks: a root file system becomes a one-layer image that builds and apps stand on.
//!
//! In: a tar of a root file system, as `mmdebstrap` makes it (plain, gzip or zstd). Out: the image in the registry under
//! a tag, and its layer unpacked here. The same tar gives the same image.

use super::decode::decode;
use super::error::ImageError;
use super::oci::{self, Descriptor, LAYER_TYPE, Layer};
use super::pack::{TemporaryFile, pack};
use super::unpack::{Rules, unpack};
use super::{Images, layers};
use berth_model::Digest;
use berth_model::image::{ImageConfig, ImageRef};
use berth_model::{EnvName, NameError};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

/// Users that every stack has: (name, uid, home).
const USERS: [(&str, u32, &str); 2] = [("app", 1000, "/app"), ("build", 1001, "/home/build")];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Packs the root file system in `body` as the image `repository:tag`. What is below `/dev` is left out; in stacks the
/// users `app` (1000) and `build` (1001) are added if they are missing.
pub async fn import_stack(
    images: &Images,
    repository: &str,
    tag: &str,
    body: impl AsyncRead + Send + 'static,
) -> Result<ImageRef, ImageError> {
    let input = SyncIoBridge::new(Box::pin(body));
    let (this, name) = (images.clone(), format!("{repository}:{tag}"));
    let is_stack = repository.starts_with("stacks/");
    let (layer, blob) = tokio::task::spawn_blocking(move || {
        let made = this.layers().temporary()?;
        let failed = |source| ImageError::Unpack { layer: name.clone(), source };
        decode(input, u64::MAX, |tar| unpack(tar, made.path(), &Rules::RootFs).map(drop)).map_err(failed)?;
        if is_stack {
            prepare(made.path())
                .map_err(ImageError::disk("prepare the users and directories of", made.path()))?;
        }
        let blob = TemporaryFile(made.path().with_file_name(layers::random()));
        let packed = pack(made.path(), &blob.0, &|| false).map_err(ImageError::disk("pack", made.path()))?;
        this.layers().adopt(made.path(), &packed.diff_id)?;
        let descriptor =
            Descriptor { media_type: LAYER_TYPE.to_owned(), digest: packed.digest, size: packed.size };
        Ok::<_, ImageError>((Layer { diff_id: packed.diff_id, blob: descriptor }, blob))
    })
    .await??;
    let remote = images.remote();
    if !remote.has(repository, "blobs", &layer.blob.digest).await? {
        remote.push_file(repository, &layer.blob.digest, layer.blob.size, &blob.0).await?;
    }
    let config = ImageConfig {
        env: [(env_name("PATH"), PATH.to_owned())].into(),
        working_dir: "/".to_owned(),
        cmd: vec!["/bin/bash".to_owned()],
        ..ImageConfig::default()
    };
    let layers = [layer];
    let invalid =
        |error: serde_json::Error| ImageError::Invalid { image: Digest::of(b""), rule: error.to_string() };
    let (document, manifest) = oci::render(&layers, &config, None).map_err(invalid)?;
    remote.push_bytes(repository, &Digest::of(&document), document).await?;
    let reference = ImageRef { repository: repository.to_owned(), digest: Digest::of(&manifest) };
    remote.put_manifest(repository, tag, manifest).await?;
    let described =
        oci::Described { repository: repository.to_owned(), layers: layers.into(), config, image: None };
    images.remember(&reference, &described)?;
    images.settle_later();
    Ok(reference)
}

fn env_name(name: &str) -> EnvName {
    let parsed: Result<EnvName, NameError> = EnvName::parse(name);
    parsed.expect("names written here are valid")
}

/// Adds users, groups and the directories that containers expect.
fn prepare(root: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let has_users = open(&root, "etc/passwd", OFlags::RDONLY).is_ok();
    if has_users {
        for (file, with_shell) in [("etc/passwd", true), ("etc/group", false)] {
            add_users(&root, file, with_shell)?;
        }
    }
    for directory in ["dev", "proc", "sys", "run", "tmp", "layers", "home"] {
        make_dir(&root, directory, (0, 0), if directory == "tmp" { 0o1777 } else { 0o755 })?;
    }
    for (_, id, home) in USERS {
        make_dir(&root, &home[1..], (id, id), 0o755)?;
    }
    Ok(())
}

/// Opens below `root`, through no symbolic link: the archive may have any.
fn open(root: &OwnedFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

fn add_users(root: &OwnedFd, path: &str, with_shell: bool) -> io::Result<()> {
    let mut file = File::from(open(root, path, OFlags::RDWR | OFlags::APPEND)?);
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let mut added = String::new();
    for (name, id, home) in USERS {
        let taken = text.lines().any(|line| {
            let mut fields = line.split(':');
            fields.next() == Some(name) || fields.nth(1) == Some(&id.to_string())
        });
        if taken {
            continue;
        }
        added += &match with_shell {
            true => format!("{name}:x:{id}:{id}:{name}:{home}:/bin/bash\n"),
            false => format!("{name}:x:{id}:\n"),
        };
    }
    if !text.is_empty() && !text.ends_with('\n') && !added.is_empty() {
        added.insert(0, '\n');
    }
    file.write_all(added.as_bytes())
}

/// Makes a directory below `root` unless the archive has something there.
fn make_dir(root: &OwnedFd, path: &str, owner: (u32, u32), mode: u32) -> io::Result<()> {
    let (above, name) = path.rsplit_once('/').unwrap_or((".", path));
    let above = open(root, above, OFlags::RDONLY | OFlags::DIRECTORY)?;
    match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(mode)) {
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        result => result?,
    }
    let made = open(&above, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
    rustix::fs::fchown(
        &made,
        Some(rustix::fs::Uid::from_raw(owner.0)),
        Some(rustix::fs::Gid::from_raw(owner.1)),
    )?;
    Ok(())
}
