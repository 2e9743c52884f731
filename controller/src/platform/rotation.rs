//! A new key for everything that is sealed.
//!
//! In: `secrets:rotate-key`, or a start of the controller that finds two keys. Out: every sealed value of the store under the
//! new key, and the old key gone. In order: the new key is on the disk beside the old; from then on nothing old is written
//! any more (the store's gate); whatever is in the store is sealed anew; when a whole look through the store finds nothing of
//! the old key, it is overwritten. It can be killed between any two steps: the next start goes on.

use super::{Platform, PlatformError, ProgressSender, say};
use crate::events::Event;
use crate::secrets::Keyring;
use crate::store::{Compare, Entry, Write};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_model::api::Progress;
use berth_model::config_api::SecretsInfo;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use std::sync::Arc;

/// Values sealed anew at once; they share commits.
const AT_ONCE: usize = 32;
/// Shortest text that can be a sealed value in base64: format, nonce and tag.
const SHORTEST: usize = (1 + 24 + 16) * 4 / 3;

impl Platform {
    /// Which key seals, and whether it is being replaced.
    #[must_use]
    pub fn secrets_info(&self) -> SecretsInfo {
        let keys = self.keyring();
        SecretsInfo {
            key: keys.fingerprint(),
            since_ms: keys.since_ms(),
            rotating: keys.is_rotating(),
            file: keys.path().display().to_string(),
        }
    }

    /// Replaces the key. One at a time; a second caller waits and makes yet another key.
    pub async fn rotate_key(&self, progress: &ProgressSender) -> Result<(), PlatformError> {
        let _one = self.0.rotation.lock().await;
        self.keyring().begin_rotation()?;
        let said = self.finish_rotation().await?;
        let text = format!("{said} values were sealed under the new key {}", self.keyring().fingerprint());
        say(progress, Progress::Step { text }).await;
        let text = "The old key is destroyed. Backups made before today open with the key file of their day only: keep it \
                    with them, or make a new backup now.";
        say(progress, Progress::Detail { text: text.to_owned() }).await;
        Ok(())
    }

    /// Goes on with what a controller that died had begun.
    pub async fn resume_rotation(&self) -> Result<(), PlatformError> {
        let _one = self.0.rotation.lock().await;
        if !self.keyring().is_rotating() {
            return Ok(());
        }
        let count = self.finish_rotation().await?;
        tracing::info!(count, "finished replacing the key that seals values");
        let text =
            format!("finished a rotation of the key that was cut short: {count} values were sealed anew");
        self.events().record(Event::by_itself(None, "secrets.rotated", text));
        Ok(())
    }

    /// Seals everything anew and forgets the old key; gives how many values.
    async fn finish_rotation(&self) -> Result<usize, PlatformError> {
        let keys = self.keyring().clone();
        let gate = Arc::new(move |key: &str, value: &mut Vec<u8>| match anew(&keys, key, value) {
            Ok(Some((new, _))) => *value = new,
            Ok(None) => {}
            // It stays as it was, the look through the store finds it, and the old key is kept.
            Err(error) => tracing::error!(key, %error, "cannot seal a value under the new key"),
        });
        self.store().set_gate(gate).await?;
        let mut total = 0;
        loop {
            let count = self.seal_all_anew().await?;
            total += count;
            if count == 0 {
                break;
            }
        }
        // The gate stays: somebody may have sealed a value before and not written it yet.
        self.keyring().end_rotation()?;
        Ok(total)
    }

    /// One look through the store; gives how many values were of the old key.
    async fn seal_all_anew(&self) -> Result<usize, PlatformError> {
        let entries = self.store().list("").await?;
        let counts = futures_util::stream::iter(entries).map(|entry| self.seal_entry_anew(entry));
        counts.buffer_unordered(AT_ONCE).try_fold(0, |sum, count| async move { Ok(sum + count) }).await
    }

    async fn seal_entry_anew(&self, entry: Entry) -> Result<usize, PlatformError> {
        let Some((new, count)) = anew(self.keyring(), &entry.key, &entry.value)? else { return Ok(0) };
        // Written meanwhile by somebody else: then it went through the gate.
        let compare = vec![Compare::Revision(entry.key.clone(), entry.revision)];
        self.txn(compare, vec![Write::Put(entry.key, new)]).await?;
        Ok(count)
    }
}

/// The value with everything that the old key sealed sealed anew, and how much that was: the value itself, or texts in its
/// JSON. `None` if there is nothing of the old key in it.
fn anew(
    keys: &Keyring,
    key: &str,
    value: &[u8],
) -> Result<Option<(Vec<u8>, usize)>, crate::secrets::SecretError> {
    if let Some(new) = keys.sealed_anew(key, value)? {
        return Ok(Some((new, 1)));
    }
    let Ok(text) = std::str::from_utf8(value) else { return Ok(None) };
    // The first six bits of a sealed value are 0: `A` in base64.
    if !text.contains("\"A") {
        return Ok(None);
    }
    let Ok(json) = serde_json::from_str::<Value>(text) else { return Ok(None) };
    let (mut changed, mut count) = (text.to_owned(), 0);
    let mut rest = vec![&json];
    while let Some(value) = rest.pop() {
        match value {
            Value::Array(items) => rest.extend(items),
            Value::Object(fields) => rest.extend(fields.values()),
            Value::String(old) if old.len() >= SHORTEST => {
                let Ok(sealed) = STANDARD.decode(old) else { continue };
                if let Some(new) = keys.sealed_anew(key, &sealed)? {
                    // Base64 has no character that JSON escapes: the text is there as it is.
                    changed = changed.replace(old.as_str(), &STANDARD.encode(new));
                    count += 1;
                }
            }
            _ => {}
        }
    }
    Ok((count > 0).then(|| (changed.into_bytes(), count)))
}
