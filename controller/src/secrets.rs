//! Secrets at rest: config values are sealed with a key that is not in the database.
//!
//! In: plain values and the key path they belong to. Out: sealed bytes, and back. XChaCha20-Poly1305 with a random
//! 192-bit nonce; the path is associated data, so a value moved to another name does not open.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// First byte of every sealed value: the format.
const FORMAT: u8 = 1;
const NONCE: usize = 24;

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
    #[error("the config key {} does not hold 32 bytes; restore it from a backup", path.display())]
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

/// Seals and opens values.
pub struct Keyring {
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring")
    }
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
                let key = random::<32>()?;
                write_private(path, &key).map_err(file_error)?;
                key.to_vec()
            }
            Err(error) => return Err(file_error(error)),
        };
        let mode = std::fs::metadata(path).map_err(file_error)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::KeyMode { path: path.to_owned(), mode });
        }
        let key: [u8; 32] = bytes.try_into().map_err(|_| SecretError::KeyLength { path: path.to_owned() })?;
        Ok(Self { cipher: XChaCha20Poly1305::new(Key::from_slice(&key)) })
    }

    /// Seals a value that is kept under `path`.
    pub fn seal(&self, path: &str, plain: &[u8]) -> Result<Vec<u8>, SecretError> {
        let nonce = random::<NONCE>()?;
        let payload = Payload { msg: plain, aad: path.as_bytes() };
        let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), payload);
        let sealed = sealed.expect("values are far below the cipher's limit of 256 GiB");
        Ok([&[FORMAT], nonce.as_slice(), &sealed].concat())
    }

    /// Opens a value that is kept under `path`.
    pub fn open_sealed(&self, path: &str, sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
        let refused = || SecretError::Sealed { path: path.to_owned() };
        let (&format, rest) = sealed.split_first().ok_or_else(refused)?;
        let (nonce, body) = rest.split_at_checked(NONCE).ok_or_else(refused)?;
        if format != FORMAT {
            return Err(refused());
        }
        let payload = Payload { msg: body, aad: path.as_bytes() };
        self.cipher.decrypt(XNonce::from_slice(nonce), payload).map_err(|_| refused())
    }
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| SecretError::Random)?;
    Ok(bytes)
}

/// Writes a file that only its owner may read, whole or not at all, and durably.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    if let Some(parent) = path.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
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
}
