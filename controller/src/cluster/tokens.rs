//! Join tokens: `cluster/tokens/<SHA-256 of the secret>`.
//!
//! In: what somebody shows. Out: whether it still lets a machine in. A token works once and for a short time; only its hash is kept,
//! until it has expired.

use super::authority::Authority;
use crate::Platform;
use crate::platform::{PlatformError, now_ms};
use crate::secrets;
use crate::store::{Compare, Revision, Write};
use berth_model::NodeName;
use berth_model::cluster::JoinToken;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const TOKENS: &str = "cluster/tokens/";
/// How many may wait to be used.
const MOST: usize = 1000;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Token {
    pub(super) expires_ms: i64,
    /// The only name it lets a machine have. Then that name may be one of a node that is there: the machine takes its place.
    #[serde(default)]
    pub(super) node: Option<NodeName>,
    /// Once it was used: by whom, and with which key. The same machine may ask again, should the answer have been lost.
    #[serde(default)]
    pub(super) used: Option<Used>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Used {
    pub(super) node: NodeName,
    pub(super) key: String,
}

/// Why a token lets nobody in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenRefused {
    #[error(
        "this token is not known here: it was never made, or it expired long ago; make another with: berth node:token"
    )]
    Unknown,
    #[error("this token has expired; make another with: berth node:token")]
    Expired,
    #[error(
        "this token has been used already, by {0}: each lets one machine in; make another with: berth node:token"
    )]
    Used(NodeName),
    #[error("this token is for the node {0} alone; say --node {0}, or make another with: berth node:token")]
    OtherName(NodeName),
}

fn key(secret: &str) -> String {
    format!("{TOKENS}{}", hex::encode(Sha256::digest(secret.as_bytes())))
}

impl Token {
    /// Whether it lets the machine with this name and key in now.
    pub(super) fn check(&self, node: &NodeName, key: &str, now_ms: i64) -> Result<(), TokenRefused> {
        if now_ms >= self.expires_ms {
            return Err(TokenRefused::Expired);
        }
        if let Some(only) = self.node.as_ref().filter(|only| *only != node) {
            return Err(TokenRefused::OtherName(only.clone()));
        }
        match &self.used {
            Some(used) if used.node != *node || used.key != key => Err(TokenRefused::Used(used.node.clone())),
            _ => Ok(()),
        }
    }
}

/// Makes one; the only time its secret is seen.
pub(crate) async fn create(
    platform: &Platform,
    node: Option<NodeName>,
    life_ms: i64,
) -> Result<(JoinToken, i64), PlatformError> {
    let authority = Authority::obtain(platform).await?;
    let now = now_ms();
    let mut waiting = 0;
    for (key, token) in platform.load_all::<Token>(TOKENS).await? {
        match token.expires_ms <= now {
            true => platform.remove(&key).await?,
            false => waiting += usize::from(token.used.is_none()),
        }
    }
    if waiting >= MOST {
        let text = format!("{waiting} tokens wait to be used; use them, or wait until some have expired");
        return Err(PlatformError::Conflict(text));
    }
    let secret = hex::encode(secrets::random::<32>()?);
    let expires_ms = now.saturating_add(life_ms);
    platform.save(&key(&secret), &Token { expires_ms, node, used: None }).await?;
    Ok((JoinToken { secret, ca_sha256: authority.sha256() }, expires_ms))
}

/// The token with this secret.
pub(super) async fn find(
    platform: &Platform,
    secret: &str,
) -> Result<Option<(Token, Revision)>, PlatformError> {
    platform.load(&key(secret)).await
}

/// What makes it used, in the transaction that makes the node.
pub(super) fn using(secret: &str, revision: Revision, token: Token, by: Used) -> (Compare, Write) {
    let used = Token { used: Some(by), ..token };
    (Compare::Revision(key(secret), revision), Write::Put(key(secret), crate::platform::json(&used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lets_one_machine_in_once_and_in_time() {
        let node = |name: &str| NodeName::parse(name).expect("valid");
        let fresh = Token { expires_ms: 1000, node: None, used: None };
        assert_eq!(fresh.check(&node("a"), "k", 999), Ok(()));
        assert_eq!(fresh.check(&node("a"), "k", 1000), Err(TokenRefused::Expired));
        let used = Token { used: Some(Used { node: node("a"), key: "k".to_owned() }), ..fresh.clone() };
        assert_eq!(used.check(&node("a"), "k", 0), Ok(()), "its answer may have been lost");
        assert_eq!(used.check(&node("a"), "other", 0), Err(TokenRefused::Used(node("a"))));
        assert_eq!(used.check(&node("b"), "k", 0), Err(TokenRefused::Used(node("a"))));
        let bound = Token { node: Some(node("a")), ..fresh };
        assert_eq!(bound.check(&node("b"), "k", 0), Err(TokenRefused::OtherName(node("a"))));
        assert_eq!(bound.check(&node("a"), "k", 0), Ok(()));
    }
}
