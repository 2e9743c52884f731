//! Git LFS: large files that a repository only names, kept beside it.
//!
//! In: objects by the SHA-256 of their bytes, over SSH (`git-lfs-transfer`, here) or HTTP ([`super::lfs_http`]). Out: files in
//! `REPOSITORY/lfs/objects`, synced before they are acknowledged, which take the place of their pointers in a build. They
//! stay until the app is destroyed. Source: git-lfs, `docs/spec.md` (pointers) and `docs/proposals/ssh_adapter.md`.

use berth_model::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Largest object, in bytes.
pub const MAX_OBJECT: u64 = 5 << 30;
/// Longest pointer, in bytes (`docs/spec.md`).
pub const MAX_POINTER: u64 = 1024;
/// Most objects that are asked for at once.
pub const MAX_BATCH: usize = 10_000;

/// What stands for a large file in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// SHA-256 of the contents, 64 lower-case hexadecimal digits.
    pub oid: String,
    /// Bytes.
    pub size: u64,
}

impl Pointer {
    /// Reads a pointer file.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() as u64 <= MAX_POINTER)?;
        let mut lines = text.lines();
        let version = lines.next()?;
        if version != "version https://git-lfs.github.com/spec/v1" {
            return None;
        }
        let (mut oid, mut size) = (None, None);
        for line in lines {
            match line.split_once(' ') {
                Some(("oid", value)) => oid = value.strip_prefix("sha256:").filter(|oid| is_oid(oid)),
                Some(("size", value)) => size = value.parse().ok(),
                _ => {}
            }
        }
        Some(Self { oid: oid?.to_owned(), size: size? })
    }
}

fn is_oid(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Why an object is not kept.
#[derive(Debug, thiserror::Error)]
pub enum LfsError {
    /// Its name is none.
    #[error("{0:?} is not the SHA-256 of an object: 64 of 0-9 and a-f")]
    Name(String),
    /// Too many bytes.
    #[error("object {0} is larger than {max} GiB", max = MAX_OBJECT >> 30)]
    TooBig(String),
    /// The bytes are others than its name says.
    #[error("the bytes that came are not those of object {0}: their length or hash differs; send it again")]
    Mismatch(String),
    /// The disk, or the one who sends.
    #[error("object {oid} cannot be kept: {source}")]
    Io {
        /// Which.
        oid: String,
        /// Why.
        source: io::Error,
    },
}

/// The large files of one repository.
#[derive(Clone, Debug)]
pub struct Objects(PathBuf);

impl Objects {
    /// Those of a bare repository.
    #[must_use]
    pub fn of(repository: &Path) -> Self {
        Self(repository.join("lfs"))
    }

    fn path(&self, oid: &str) -> Result<PathBuf, LfsError> {
        if !is_oid(oid) {
            return Err(LfsError::Name(oid.chars().take(80).collect()));
        }
        Ok(self.0.join("objects").join(&oid[..2]).join(&oid[2..4]).join(oid))
    }

    /// Bytes of an object that is here.
    pub fn size(&self, oid: &str) -> Result<Option<u64>, LfsError> {
        Ok(fs::metadata(self.path(oid)?).ok().map(|found| found.len()))
    }

    /// An object for reading, and its bytes.
    pub fn open(&self, oid: &str) -> Result<Option<(File, u64)>, LfsError> {
        let broken = |source| LfsError::Io { oid: oid.to_owned(), source };
        match File::open(self.path(oid)?) {
            Ok(file) => {
                let size = file.metadata().map_err(broken)?.len();
                Ok(Some((file, size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(broken(error)),
        }
    }

    /// Takes an object over: it is there, and on the disk, when this returns. Blocks.
    pub fn put(&self, oid: &str, size: u64, from: impl Read) -> Result<(), LfsError> {
        let path = self.path(oid)?;
        if size > MAX_OBJECT {
            return Err(LfsError::TooBig(oid.to_owned()));
        }
        let broken = |source| LfsError::Io { oid: oid.to_owned(), source };
        let dir = path.parent().expect("objects are below directories");
        fs::create_dir_all(dir).map_err(broken)?;
        // Removed by itself unless it is kept.
        let mut file = tempfile::NamedTempFile::new_in(&self.0).map_err(broken)?;
        let mut hash = Hashing { hash: Sha256::new(), to: &mut file };
        let copied = io::copy(&mut from.take(size + 1), &mut hash).map_err(broken)?;
        let found = Digest::from_hash(hash.hash.finalize().into());
        if copied != size || found.hex() != oid {
            return Err(LfsError::Mismatch(oid.to_owned()));
        }
        file.as_file().sync_all().map_err(broken)?;
        file.persist(&path).map_err(|error| broken(error.error))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(broken)
    }
}

struct Hashing<'a, W> {
    hash: Sha256,
    to: &'a mut W,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn pointers_are_read_and_nothing_else() {
        let text = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 5\n");
        assert_eq!(Pointer::parse(text.as_bytes()), Some(Pointer { oid: OID.to_owned(), size: 5 }));
        for bad in [
            "".to_owned(),
            "version https://git-lfs.github.com/spec/v1\n".to_owned(),
            text.replace("spec/v1", "spec/v2"),
            text.replace("sha256:2c", "sha256:../"),
            text.replace("size 5", "size -5"),
            format!("{text}{}", "x".repeat(1024)),
        ] {
            assert_eq!(Pointer::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn an_object_is_kept_if_it_is_what_its_name_says() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = Objects::of(dir.path());
        assert!(matches!(objects.put(OID, 5, &b"hellO"[..]), Err(LfsError::Mismatch(_))));
        assert!(matches!(objects.put(OID, 5, &b"hello!"[..]), Err(LfsError::Mismatch(_))));
        assert!(matches!(objects.put(OID, 5, &b"hell"[..]), Err(LfsError::Mismatch(_))));
        assert!(matches!(objects.put("../../x", 5, &b"hello"[..]), Err(LfsError::Name(_))));
        assert!(matches!(objects.put(OID, MAX_OBJECT + 1, &b""[..]), Err(LfsError::TooBig(_))));
        assert_eq!(objects.size(OID).expect("no error"), None);
        objects.put(OID, 5, &b"hello"[..]).expect("kept");
        assert_eq!(objects.size(OID).expect("no error"), Some(5));
        let (mut file, size) = objects.open(OID).expect("no error").expect("there");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!((text.as_str(), size), ("hello", 5));
        let left = fs::read_dir(dir.path().join("lfs")).expect("listed").count();
        assert_eq!(left, 1, "nothing is left of what was refused");
    }
}
