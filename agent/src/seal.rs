//! What the agent remembers of containers holds their config, so it is sealed on the disk.
//!
//! In: bytes and the name of their file. Out: sealed bytes, and back. XChaCha20-Poly1305 with a random nonce; the name is
//! associated data, so that no file stands for another. The key is a file of the node alone, mode 0600, and says nothing of
//! any other node. Text that an older agent wrote in the clear still opens, and is sealed when it is next written.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// First byte of sealed bytes: the format. JSON never begins with it.
const FORMAT: u8 = 1;
const NONCE: usize = 24;

/// Seals and opens. Cheap to clone.
#[derive(Clone)]
pub struct Seal(Arc<XChaCha20Poly1305>);

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// Reads the key, or makes it. One that cannot be used is replaced: what it sealed is then as good as never written,
    /// which only costs that the controller is asked again and containers start afresh.
    pub fn open(path: &Path) -> io::Result<Self> {
        let key = crate::files::key(path)?;
        Ok(Self(Arc::new(XChaCha20Poly1305::new(Key::from_slice(&key)))))
    }

    /// `plain` sealed for the file called `name`.
    pub fn seal(&self, name: &str, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        let payload = Payload { msg: plain, aad: name.as_bytes() };
        let sealed = self.0.encrypt(XNonce::from_slice(&nonce), payload);
        let sealed = sealed.map_err(|_| io::Error::other("too much to seal"))?;
        Ok([&[FORMAT], nonce.as_slice(), &sealed].concat())
    }

    /// What was sealed for the file called `name`, and whether it was sealed at all.
    pub fn open_sealed(&self, name: &str, bytes: Vec<u8>) -> io::Result<(Vec<u8>, bool)> {
        if bytes.first() != Some(&FORMAT) {
            return Ok((bytes, false));
        }
        let refused = || {
            io::Error::new(io::ErrorKind::InvalidData, format!("{name} does not open with this node's key"))
        };
        let (nonce, body) = bytes[1..].split_at_checked(NONCE).ok_or_else(refused)?;
        let payload = Payload { msg: body, aad: name.as_bytes() };
        let plain = self.0.decrypt(XNonce::from_slice(nonce), payload).map_err(|_| refused())?;
        Ok((plain, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_under_their_name_with_their_key_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let seal = Seal::open(&dir.path().join("key")).expect("made");
        let sealed = seal.seal("a.json", b"{\"x\":1}").expect("sealed");
        assert!(!sealed.windows(3).any(|window| window == b"\"x\""));
        let again = Seal::open(&dir.path().join("key")).expect("read");
        assert_eq!(
            again.open_sealed("a.json", sealed.clone()).expect("opens"),
            (b"{\"x\":1}".to_vec(), true)
        );
        assert!(again.open_sealed("b.json", sealed.clone()).is_err());
        assert!(again.open_sealed("a.json", sealed[..20].to_vec()).is_err());
        let other = Seal::open(&dir.path().join("other")).expect("made");
        assert!(other.open_sealed("a.json", sealed).is_err());
        assert_eq!(other.open_sealed("a.json", b"{}".to_vec()).expect("old text"), (b"{}".to_vec(), false));
    }
}
