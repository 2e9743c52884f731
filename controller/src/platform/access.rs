//! Who may come in: SSH keys and API tokens.
//!
//! A token is `berth_` and 256 random bits; only its SHA-256 is stored (there is nothing to guess, so nothing to slow down)
//! and it is shown once. Comparing takes the same time whatever is wrong.

use super::{Platform, PlatformError, now_ms};
use crate::secrets;
use crate::store::{Compare, Write};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_model::api::{CreatedToken, SshKeyInfo, TokenInfo};
use russh::keys::{Algorithm, HashAlg, PublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How often the time of a token's last use is written, in milliseconds.
const USE_RESOLUTION_MS: i64 = 60_000;

/// A public key that may log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshKey {
    /// Who.
    pub name: String,
    /// `ssh-ed25519 AAAA…`, without a comment.
    pub public_key: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// `ssh-ed25519` …
    pub algorithm: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Token {
    name: String,
    sha256: String,
    created_ms: i64,
}

/// Whose token was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOwner(pub String);

pub(super) fn ssh_key(name: &str) -> String {
    format!("ssh-keys/{name}")
}

pub(super) fn token_key(name: &str) -> String {
    format!("tokens/{name}")
}

fn use_key(name: &str) -> String {
    format!("token-uses/{name}")
}

/// A name of a key or token: `[A-Za-z0-9._@-]+`, up to 64 bytes.
pub(crate) fn check_person(name: &str) -> Result<(), PlatformError> {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._@-".contains(b);
    if name.is_empty() || name.len() > 64 || !name.as_bytes().iter().all(allowed) || name.starts_with('-') {
        let shown: String = name.chars().take(80).collect();
        return Err(PlatformError::Invalid(format!(
            "name {shown:?} is not valid: use 1 to 64 letters, digits and . _ @ -, and do not begin with -"
        )));
    }
    Ok(())
}

fn parse_public_key(text: &str) -> Result<PublicKey, PlatformError> {
    let invalid = |why: String| PlatformError::Invalid(why);
    let line = text.trim();
    if line.contains(['\n', '\r']) {
        return Err(invalid("a public key is one line; add several keys one by one".to_owned()));
    }
    if line.contains("PRIVATE KEY") {
        return Err(invalid(
            "this is a private key; give the public one, the file that ends with .pub".to_owned(),
        ));
    }
    let key = PublicKey::from_openssh(line).map_err(|error| {
        invalid(format!(
            "this is not a public key of OpenSSH ({error}); expected one line such as `ssh-ed25519 AAAA… you@machine`, \
             as in ~/.ssh/id_ed25519.pub"
        ))
    })?;
    match key.algorithm() {
        Algorithm::Dsa => {
            Err(invalid("DSA keys are too weak; make one with: ssh-keygen -t ed25519".to_owned()))
        }
        _ => Ok(key),
    }
}

impl Platform {
    /// Every SSH key, by name.
    pub async fn ssh_keys(&self) -> Result<Vec<SshKey>, PlatformError> {
        Ok(self.load_all("ssh-keys/").await?.into_iter().map(|(_, key)| key).collect())
    }

    /// Whose key this is (`SHA256:…`), if it may log in.
    pub async fn ssh_key_by_fingerprint(&self, fingerprint: &str) -> Result<Option<SshKey>, PlatformError> {
        Ok(self.ssh_keys().await?.into_iter().find(|key| key.fingerprint == fingerprint))
    }

    /// Lets a public key log in. Neither its name nor the key itself may be there already.
    pub async fn add_ssh_key(&self, name: &str, public_key: &str) -> Result<SshKeyInfo, PlatformError> {
        check_person(name)?;
        let mut parsed = parse_public_key(public_key)?;
        parsed.set_comment("");
        let fingerprint = parsed.fingerprint(HashAlg::Sha256).to_string();
        if let Some(other) = self.ssh_key_by_fingerprint(&fingerprint).await? {
            let text = format!("this key is there already, as {}", other.name);
            return Err(PlatformError::Conflict(text));
        }
        let line = parsed.to_openssh();
        let line =
            line.map_err(|error| PlatformError::Invalid(format!("this key cannot be used: {error}")))?;
        let key = SshKey {
            name: name.to_owned(),
            public_key: line.trim().to_owned(),
            fingerprint,
            algorithm: parsed.algorithm().as_str().to_owned(),
            created_ms: now_ms(),
        };
        let put = Write::Put(ssh_key(name), super::json(&key));
        if self.txn(vec![Compare::Absent(ssh_key(name))], vec![put]).await?.is_none() {
            let text =
                format!("there is a key named {name} already; remove it first: berth ssh-keys:remove {name}");
            return Err(PlatformError::Conflict(text));
        }
        tracing::info!(name, fingerprint = %key.fingerprint, "SSH key added");
        Ok(key.info())
    }

    /// Takes a key's right to log in away; open connections of it end with their session.
    pub async fn remove_ssh_key(&self, name: &str) -> Result<(), PlatformError> {
        check_person(name)?;
        let compare = vec![Compare::Present(ssh_key(name))];
        if self.txn(compare, vec![Write::Delete(ssh_key(name))]).await?.is_none() {
            let text = format!("there is no SSH key named {name}; see them with: berth ssh-keys:list");
            return Err(PlatformError::NotFound(text));
        }
        tracing::info!(name, "SSH key removed");
        Ok(())
    }

    /// Every token, by name; never the tokens themselves.
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, PlatformError> {
        let tokens = self.load_all::<Token>("tokens/").await?;
        let mut found = Vec::with_capacity(tokens.len());
        for (_, token) in tokens {
            let used = self.load::<i64>(&use_key(&token.name)).await?;
            let last_used_ms = used.map(|(at, _)| at);
            found.push(TokenInfo { name: token.name, created_ms: token.created_ms, last_used_ms });
        }
        Ok(found)
    }

    /// Makes a token; the only time it is seen.
    pub async fn create_token(&self, name: &str) -> Result<CreatedToken, PlatformError> {
        check_person(name)?;
        let token = format!("berth_{}", URL_SAFE_NO_PAD.encode(secrets::random::<32>()?));
        let stored = Token {
            name: name.to_owned(),
            sha256: hex::encode(Sha256::digest(token.as_bytes())),
            created_ms: now_ms(),
        };
        let put = Write::Put(token_key(name), super::json(&stored));
        if self.txn(vec![Compare::Absent(token_key(name))], vec![put]).await?.is_none() {
            let text = format!(
                "there is a token named {name} already; choose another name, or remove that one first"
            );
            return Err(PlatformError::Conflict(text));
        }
        tracing::info!(name, "token made");
        Ok(CreatedToken { name: name.to_owned(), token })
    }

    /// Ends a token at once.
    pub async fn remove_token(&self, name: &str) -> Result<(), PlatformError> {
        check_person(name)?;
        let compare = vec![Compare::Present(token_key(name))];
        let then = vec![Write::Delete(token_key(name)), Write::Delete(use_key(name))];
        if self.txn(compare, then).await?.is_none() {
            return Err(PlatformError::NotFound(format!("there is no token named {name}")));
        }
        tracing::info!(name, "token removed");
        Ok(())
    }

    /// Whose token this is, if it is one. Takes as long for a wrong one as for a right one.
    pub async fn token_owner(&self, shown: &str) -> Result<Option<TokenOwner>, PlatformError> {
        let hash = hex::encode(Sha256::digest(shown.as_bytes()));
        let mut owner = None;
        for (_, token) in self.load_all::<Token>("tokens/").await? {
            if same(token.sha256.as_bytes(), hash.as_bytes()) {
                owner = Some(token.name);
            }
        }
        let Some(name) = owner else { return Ok(None) };
        let now = now_ms();
        let last = self.load::<i64>(&use_key(&name)).await?.map(|(at, _)| at);
        if last.is_none_or(|last| now - last >= USE_RESOLUTION_MS) {
            // Only a note: a full disk must not lock its admin out. Not for a token that was removed meanwhile.
            let compare = vec![Compare::Present(token_key(&name))];
            let note = self.txn(compare, vec![Write::Put(use_key(&name), super::json(&now))]).await;
            if let Err(error) = note {
                tracing::warn!(%error, "cannot note a token's use");
            }
        }
        Ok(Some(TokenOwner(name)))
    }
}

impl SshKey {
    /// What the API shows of it.
    #[must_use]
    pub fn info(&self) -> SshKeyInfo {
        SshKeyInfo {
            name: self.name.clone(),
            fingerprint: self.fingerprint.clone(),
            algorithm: self.algorithm.clone(),
            created_ms: self.created_ms,
        }
    }
}

/// Equality in constant time for equal lengths.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}
