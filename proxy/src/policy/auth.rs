//! Basic authentication (RFC 7617): who may enter, remembered so that a hash is computed once and not for each request.
//!
//! In: the value of `Authorization`, names and bcrypt hashes. Out: known to be right or wrong, or [`Credentials`] to be
//! verified away from the threads that serve: a hash takes tens of milliseconds, which a stranger must not be able to
//! spend for others. What was verified is kept by a keyed digest, never as it came.

use berth_model::policy::PasswordHash;
use ring::digest;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Answers kept.
const KEPT: usize = 4096;
/// How long a right answer holds; a wrong one a tenth of it.
const HOLDS: Duration = Duration::from_secs(600);
/// Longest credentials looked at.
const MAX_VALUE: usize = 1024;
/// Hashes computed at once, for all threads.
const AT_ONCE: usize = 2;
/// Requests that wait for a hash.
const WAITING: usize = 64;
/// Of nobody's password: an unknown name takes as long as a known one.
const NOBODY: &str = "$2b$10$C6UzMDM.H6dfI/f/IKcEeO5FJjU2c6kZ6oMOZbL1qGGyRVmAq5SWe";

type Key = [u8; 32];

/// What is known of credentials.
#[derive(Debug)]
pub(crate) struct Verified {
    salt: [u8; 32],
    known: Mutex<HashMap<Key, (bool, Instant)>>,
    turns: Semaphore,
    waiting: Semaphore,
}

impl Default for Verified {
    fn default() -> Self {
        let mut salt = [0; 32];
        // Without random bytes the digests are plain ones: still no passwords, in this process's memory alone.
        if getrandom::fill(&mut salt).is_err() {
            tracing::warn!("the kernel gave no random bytes");
        }
        Self {
            salt,
            known: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
            waiting: Semaphore::new(WAITING),
        }
    }
}

/// A name and password whose hash is to be computed.
pub(crate) struct Credentials {
    key: Key,
    password: Vec<u8>,
    hash: Arc<str>,
    real: bool,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// What an `Authorization` says.
#[derive(Debug)]
pub(crate) enum Entry {
    Granted,
    Refused,
    /// Nobody knows yet.
    Unverified(Credentials),
}

/// Users by name, with their hashes.
#[derive(Debug, Default)]
pub(crate) struct Users(HashMap<Box<[u8]>, Arc<str>>);

impl Users {
    pub(crate) fn new(users: &BTreeMap<String, PasswordHash>) -> Self {
        let users = users.iter().map(|(name, hash)| (name.as_bytes().into(), hash.0.as_str().into()));
        Self(users.collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What `value` of `Authorization` comes to at `now`.
    pub(crate) fn judge(&self, verified: &Verified, value: Option<&[u8]>, now: Instant) -> Entry {
        let Some((name, password)) = value.and_then(basic) else { return Entry::Refused };
        let (hash, real) = match self.0.get(name.as_slice()) {
            Some(hash) => (hash.clone(), true),
            None => (NOBODY.into(), false),
        };
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(&verified.salt);
        for part in [&*name, hash.as_bytes()] {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.update(&password);
        let mut key: Key = [0; 32];
        key.copy_from_slice(digest.finish().as_ref());
        match verified.look(&key, now) {
            Some(true) => Entry::Granted,
            Some(false) => Entry::Refused,
            None => Entry::Unverified(Credentials { key, password, hash, real }),
        }
    }
}

impl Verified {
    fn look(&self, key: &Key, now: Instant) -> Option<bool> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(_, until)| *until > now).map(|(right, _)| *right)
    }

    fn learn(&self, key: Key, right: bool, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() >= KEPT {
            // Wrong ones go first: whoever guesses must not push out those who know.
            let wrong = known.iter().find(|(_, (right, _))| !right).map(|(key, _)| *key);
            let any = wrong.or_else(|| known.keys().next().copied());
            any.map(|key| known.remove(&key));
        }
        let holds = if right { HOLDS } else { HOLDS / 10 };
        known.insert(key, (right, now + holds));
    }

    /// Computes the hash in its turn. False when too many wait already.
    pub(crate) async fn verify(&self, credentials: Credentials) -> bool {
        let Ok(_place) = self.waiting.try_acquire() else { return false };
        let Ok(_turn) = self.turns.acquire().await else { return false };
        let Credentials { key, password, hash, real } = credentials;
        if self.look(&key, Instant::now()).is_some() {
            return true; // another request asked the same meanwhile
        }
        let computed = tokio::task::spawn_blocking(move || {
            let right = bcrypt::verify(&password, &hash);
            right
                .inspect_err(|error| tracing::warn!(%error, "a password's hash cannot be used"))
                .unwrap_or(false)
        });
        let right = computed.await.unwrap_or(false) && real;
        self.learn(key, right, Instant::now());
        true
    }
}

/// Name and password of `Basic …`.
fn basic(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    use base64::Engine;
    let value = value.trim_ascii();
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") || rest.len() > MAX_VALUE {
        return None;
    }
    let plain = base64::engine::general_purpose::STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = memchr::memchr(b':', &plain)?;
    // bcrypt ends at a zero byte: what follows would not count.
    if plain.contains(&0) {
        return None;
    }
    Some((plain[..colon].to_vec(), plain[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    fn value(name: &str, password: &str) -> Vec<u8> {
        let plain = format!("{name}:{password}");
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain)).into_bytes()
    }

    #[tokio::test]
    async fn a_hash_is_computed_once() {
        let hash = bcrypt::hash("open sesame", 4).expect("hashes");
        let users = Users::new(&BTreeMap::from([("ali".to_owned(), PasswordHash(hash))]));
        let verified = Verified::default();
        let now = Instant::now();
        for (name, password, right) in
            [("ali", "open sesame", true), ("ali", "wrong", false), ("eve", "open sesame", false)]
        {
            let value = value(name, password);
            let Entry::Unverified(credentials) = users.judge(&verified, Some(&value), now) else {
                panic!("nobody knows yet")
            };
            assert!(verified.verify(credentials).await);
            let later = users.judge(&verified, Some(&value), Instant::now());
            assert_eq!(matches!(later, Entry::Granted), right, "{name}");
            assert_eq!(matches!(later, Entry::Refused), !right, "{name}");
        }
        let other = Users::new(&BTreeMap::from([("ali".to_owned(), PasswordHash("$2b$04$x".into()))]));
        let known = other.judge(&verified, Some(&value("ali", "open sesame")), now);
        assert!(matches!(known, Entry::Unverified(_)), "a new password is another");
    }

    #[test]
    fn what_is_no_basic_authorization_is_refused() {
        for bad in ["", "Basic", "Basic ", "Basic !!!", "Bearer YTpi", "Basic YWI=", "Basic YTpiAA=="] {
            assert_eq!(basic(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(basic(b"bAsIc YTpiOmM="), Some((b"a".to_vec(), b"b:c".to_vec())));
    }

    #[test]
    fn memory_is_bounded_and_guesses_go_first() {
        let verified = Verified::default();
        let now = Instant::now();
        verified.learn([255; 32], true, now);
        for n in 0..(KEPT as u64 + 500) {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            verified.learn(key, false, now);
        }
        assert!(verified.known.lock().expect("whole").len() <= KEPT);
        assert_eq!(verified.look(&[255; 32], now), Some(true));
    }
}
