//! Secrets at rest: config values are sealed with a key that is not in the database.
//!
//! In: plain values and the key path they belong to. Out: sealed bytes, and back. XChaCha20-Poly1305 with a random
//! 192-bit nonce; the path is associated data, so a value moved to another name does not open.

use berth_wire::write_private;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// First byte of every sealed value: the format.
const FORMAT: u8 = 1;
const NONCE: usize = 24;
const TAG: usize = 16;
const KEY: usize = 32;

/// The key could not be used, or a value not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The key file.
    #[error("cannot use the config key {}", path.display())]
    KeyFile {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key file holds something else.
    #[error("the config key {} does not hold a key of 32 bytes (or two, while it is replaced); restore it from a backup", path.display())]
    KeyLength {
        /// Where.
        path: PathBuf,
    },
    /// Others may read the key.
    #[error("the config key {} may be read by others (mode {mode:o}); run: chmod 600 {}", path.display(), path.display())]
    KeyMode {
        /// Where.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The database has sealed values, but their key is gone.
    #[error(
        "the config key {} is missing, but the database has values sealed with it; restore the file from a backup \
         (without it no config value can be read)", path.display()
    )]
    KeyMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A value does not open.
    #[error(
        "the config value {path} does not open: it was changed outside Berth, or sealed with another key"
    )]
    Sealed {
        /// Its key path in the store.
        path: String,
    },
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes")]
    Random,
}

/// Seals and opens values. While a key is being replaced it has two: the new one seals, both open.
pub struct Keyring {
    path: PathBuf,
    keys: RwLock<Keys>,
}

struct Keys {
    current: Secret,
    /// The one before. Until this process ends: a change that was under way when the rotation was may still hold a value that
    /// it sealed.
    retiring: Option<Secret>,
    /// Whether the store may hold values of the retiring key, which is in the key file as long.
    rotating: bool,
}

/// One key, and what it is called.
struct Secret {
    bytes: [u8; KEY],
    cipher: XChaCha20Poly1305,
}

impl Secret {
    fn new(bytes: [u8; KEY]) -> Self {
        Self { cipher: XChaCha20Poly1305::new(Key::from_slice(&bytes)), bytes }
    }

    fn open(&self, path: &str, nonce: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let payload = Payload { msg: body, aad: path.as_bytes() };
        self.cipher.decrypt(XNonce::from_slice(nonce), payload).ok()
    }

    fn seal(&self, path: &str, plain: &[u8]) -> Result<Vec<u8>, SecretError> {
        let nonce = random::<NONCE>()?;
        let payload = Payload { msg: plain, aad: path.as_bytes() };
        let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), payload);
        let sealed = sealed.expect("values are far below the cipher's limit of 256 GiB");
        Ok([&[FORMAT], nonce.as_slice(), &sealed].concat())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes.fill(0);
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring")
    }
}

/// Nonce and body of a sealed value; `None` if it is none.
fn parts(sealed: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&format, rest) = sealed.split_first()?;
    let (nonce, body) = rest.split_at_checked(NONCE)?;
    (format == FORMAT && body.len() >= TAG).then_some((nonce, body))
}

impl Keyring {
    /// Reads the key file, or makes it (mode 0600) if there is none and `in_use` is false.
    pub fn open(path: &Path, in_use: bool) -> Result<Self, SecretError> {
        let file_error = |source| SecretError::KeyFile { path: path.to_owned(), source };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && in_use => {
                return Err(SecretError::KeyMissing { path: path.to_owned() });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = random::<KEY>()?;
                write_private(path, &key).map_err(file_error)?;
                key.to_vec()
            }
            Err(error) => return Err(file_error(error)),
        };
        let mode = std::fs::metadata(path).map_err(file_error)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::KeyMode { path: path.to_owned(), mode });
        }
        let wrong = || SecretError::KeyLength { path: path.to_owned() };
        let (keys, rest) = bytes.as_chunks::<KEY>();
        let (current, retiring) = match (keys, rest) {
            ([current], []) => (current, None),
            ([current, retiring], []) => (current, Some(Secret::new(*retiring))),
            _ => return Err(wrong()),
        };
        let rotating = retiring.is_some();
        let keys = RwLock::new(Keys { current: Secret::new(*current), retiring, rotating });
        Ok(Self { path: path.to_owned(), keys })
    }

    fn keys(&self) -> RwLockReadGuard<'_, Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals a value that is kept under `path`.
    pub fn seal(&self, path: &str, plain: &[u8]) -> Result<Vec<u8>, SecretError> {
        self.keys().current.seal(path, plain)
    }

    /// Opens a value that is kept under `path`.
    pub fn open_sealed(&self, path: &str, sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
        let opened = parts(sealed).and_then(|(nonce, body)| {
            let keys = self.keys();
            let old = || keys.retiring.as_ref().and_then(|key| key.open(path, nonce, body));
            keys.current.open(path, nonce, body).or_else(old)
        });
        opened.ok_or_else(|| SecretError::Sealed { path: path.to_owned() })
    }

    /// The value sealed under the current key, if the retiring one had sealed it.
    pub fn sealed_anew(&self, path: &str, sealed: &[u8]) -> Result<Option<Vec<u8>>, SecretError> {
        let keys = self.keys();
        let Some((nonce, body)) = parts(sealed) else { return Ok(None) };
        let Some(plain) = keys.retiring.as_ref().and_then(|key| key.open(path, nonce, body)) else {
            return Ok(None);
        };
        keys.current.seal(path, &plain).map(Some)
    }

    /// Whether values of another key may still be about.
    pub fn is_rotating(&self) -> bool {
        self.keys().rotating
    }

    /// Makes a new key the current one and keeps the old beside it, on the disk first. Does nothing if there are two already.
    pub fn begin_rotation(&self) -> Result<(), SecretError> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.rotating {
            return Ok(());
        }
        let new = random::<KEY>()?;
        self.write(&[new, keys.current.bytes].concat())?;
        let old = std::mem::replace(&mut keys.current, Secret::new(new));
        keys.retiring = Some(old);
        keys.rotating = true;
        Ok(())
    }

    /// Takes the old key off the disk. Only when nothing is sealed with it any more.
    pub fn end_rotation(&self) -> Result<(), SecretError> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        self.write(&keys.current.bytes)?;
        keys.rotating = false;
        Ok(())
    }

    /// Puts `bytes` in place of the key file, and overwrites what was in the old one: its blocks are free from then on.
    fn write(&self, bytes: &[u8]) -> Result<(), SecretError> {
        let failed = |source| SecretError::KeyFile { path: self.path.clone(), source };
        let mut old = std::fs::OpenOptions::new().write(true).open(&self.path).map_err(failed)?;
        let length = old.metadata().map_err(failed)?.len();
        write_private(&self.path, bytes).map_err(failed)?;
        let zeros = vec![0; usize::try_from(length).unwrap_or(KEY)];
        // The new file is there already: what remains of the old one is worth a try, no more.
        let _ = old.write_all(&zeros).and_then(|()| old.sync_all());
        Ok(())
    }

    /// Which key it is, without telling the key.
    pub fn fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        hex::encode(&Sha256::digest(self.keys().current.bytes)[..8])
    }

    /// When the key file was written; milliseconds since the Unix epoch.
    pub fn since_ms(&self) -> i64 {
        let written = std::fs::metadata(&self.path).and_then(|file| file.modified());
        let since = written.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// Where the key is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| SecretError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_only_under_its_own_path_and_with_its_own_key() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let ring = Keyring::open(&dir.path().join("a.key"), false).expect("made");
        let sealed = ring.seal("config/app/a/X", b"secret").expect("sealed");
        assert_eq!(ring.open_sealed("config/app/a/X", &sealed).expect("opens"), b"secret");
        assert!(ring.open_sealed("config/app/b/X", &sealed).is_err());
        let again = Keyring::open(&dir.path().join("a.key"), true).expect("read back");
        assert!(again.open_sealed("config/app/a/X", &sealed).is_ok());
        let other = Keyring::open(&dir.path().join("b.key"), false).expect("made");
        assert!(other.open_sealed("config/app/a/X", &sealed).is_err());
        for broken in [&sealed[..0], &sealed[..1], &sealed[..20], &sealed[..sealed.len() - 1]] {
            assert!(ring.open_sealed("config/app/a/X", broken).is_err());
        }
    }

    #[test]
    fn a_lost_or_open_key_is_refused_with_advice() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("config.key");
        assert!(matches!(Keyring::open(&path, true), Err(SecretError::KeyMissing { .. })));
        Keyring::open(&path, false).expect("made");
        assert_eq!(std::fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("own file");
        assert!(matches!(Keyring::open(&path, true), Err(SecretError::KeyMode { mode: 0o644, .. })));
    }

    #[test]
    fn a_new_key_opens_what_the_old_one_sealed_until_the_old_one_is_forgotten() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("config.key");
        let ring = Keyring::open(&path, false).expect("made");
        let (old, first) = (std::fs::read(&path).expect("there"), ring.fingerprint());
        let sealed = ring.seal("a", b"secret").expect("sealed");
        assert_eq!(ring.sealed_anew("a", &sealed).expect("nothing to do"), None);
        ring.begin_rotation().expect("begins");
        ring.begin_rotation().expect("goes on");
        assert_ne!(ring.fingerprint(), first);
        // As after a kill -9: both keys are in the file.
        let ring = Keyring::open(&path, true).expect("two keys");
        assert!(ring.is_rotating());
        assert_eq!(ring.open_sealed("a", &sealed).expect("opens"), b"secret");
        let anew = ring.sealed_anew("a", &sealed).expect("seals").expect("it was the old key's");
        assert_eq!(ring.sealed_anew("a", &anew).expect("nothing to do"), None);
        ring.end_rotation().expect("ends");
        assert!(!ring.is_rotating());
        // What was under way meanwhile can still be sealed anew; a new process knows nothing of the old key.
        assert!(ring.sealed_anew("a", &sealed).expect("seals").is_some());
        let ring = Keyring::open(&path, true).expect("one key");
        assert!(ring.open_sealed("a", &sealed).is_err());
        assert_eq!(ring.open_sealed("a", &anew).expect("opens"), b"secret");
        let now = std::fs::read(&path).expect("there");
        assert!(now.len() == KEY && now != old);
        assert_eq!(std::fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
    }
}
