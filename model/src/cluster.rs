//! What passes between a machine that joins and the controllers, and what it remembers of them.
//!
//! In: a token's text, JSON. Out: checked values. What is secret in them is never in their `Debug`.

use crate::NodeName;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The name in every controller's certificate on the cluster port. It is never looked up: addresses come from the join line and
/// from the controllers themselves.
pub const CONTROLLER_NAME: &str = "controller.berth.internal";

/// The port that nodes dial, unless it is said otherwise.
pub const CLUSTER_PORT: u16 = 7443;

/// Where a machine without a certificate may knock on the cluster port, and nothing else.
pub const JOIN_PATH: &str = "/join/v1";

/// What a joined machine remembers, under its data directory.
#[must_use]
pub fn membership_file(data: &Path) -> PathBuf {
    data.join("cluster.json")
}

/// What the join line carries: a secret that works once, and whom to tell it.
///
/// Written `berthjoin-SECRET-HASH`: the secret 32 bytes and the SHA-256 of the cluster's CA certificate (DER), both in lower case
/// hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Only whoever has it may join.
    pub secret: String,
    /// The SHA-256 of the CA's certificate: nobody else gets to see the secret.
    pub ca_sha256: String,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("ca_sha256", &self.ca_sha256).finish_non_exhaustive()
    }
}

impl JoinToken {
    /// Reads one. Errors say what a token looks like, never what was given.
    pub fn parse(text: &str) -> Result<Self, String> {
        let hex64 = |text: &str| {
            text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let parts = text.trim().strip_prefix("berthjoin-").and_then(|rest| rest.split_once('-'));
        match parts {
            Some((secret, hash)) if hex64(secret) && hex64(hash) => {
                Ok(Self { secret: secret.to_owned(), ca_sha256: hash.to_owned() })
            }
            _ => Err("this is no join token: it begins with `berthjoin-` and has 139 characters; \
                 copy the whole line that `berth node:token` prints"
                .to_owned()),
        }
    }
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "berthjoin-{}-{}", self.secret, self.ca_sha256)
    }
}

/// `POST /join/v1`: a machine asks to be a node.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// [`JoinToken::secret`].
    pub secret: String,
    /// What it wants to be called.
    pub node: NodeName,
    /// A certificate signing request (PKCS #10, DER, base64) with an ECDSA key of P-256.
    pub request: String,
    /// The subnet its containers have already, if it ran Berth before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Networks that the machine knows already, such as `192.168.0.0/24`: it gets a subnet beside them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<String>,
    /// Where other nodes reach it; else the address it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The answer: it is one now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// Its name.
    pub node: NodeName,
    /// Its certificate (PEM).
    pub certificate: String,
    /// From when to when that is good.
    pub validity: Validity,
    /// The addresses of its containers.
    pub subnet: String,
    /// Where other nodes reach it.
    pub address: IpAddr,
    /// Where controllers are dialled (`host:port`), besides the one that answered.
    #[serde(default)]
    pub controllers: Vec<String>,
}

/// `POST /node/v1/{node}/certificate`: the next certificate, for a new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// As in [`JoinRequest::request`].
    pub request: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewAnswer {
    /// The certificate (PEM).
    pub certificate: String,
    /// From when to when it is good.
    pub validity: Validity,
}

/// From when to when a certificate is good; milliseconds since the Unix epoch, by the controller's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    /// When it was made.
    pub issued_ms: i64,
    /// When it ends.
    pub expires_ms: i64,
}

impl Validity {
    /// Whether it is time for the next one: a third of it has passed.
    #[must_use]
    pub fn is_renewal_due(&self, now_ms: i64) -> bool {
        now_ms >= self.renewal_ms()
    }

    /// When that is.
    #[must_use]
    pub fn renewal_ms(&self) -> i64 {
        self.issued_ms.saturating_add(self.expires_ms.saturating_sub(self.issued_ms) / 3)
    }
}

/// `GET /node/v1/{node}/membership`: what a node is to remember now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipAnswer {
    /// Where controllers are dialled.
    pub controllers: Vec<String>,
    /// The controller's clock, milliseconds since the Unix epoch.
    pub now_ms: i64,
}

/// `DIR/cluster.json` of a joined machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// What it is called.
    pub node: NodeName,
    /// The addresses of its containers.
    pub subnet: String,
    /// Where controllers are dialled (`host:port`), the one that answered last first.
    pub controllers: Vec<String>,
    /// Its certificate's.
    pub validity: Validity,
}

/// How many addresses of controllers a node remembers.
pub const MOST_CONTROLLERS: usize = 16;

impl Membership {
    /// The addresses with `more` behind those that are known, none twice.
    #[must_use]
    pub fn with_controllers(mut self, more: &[String]) -> Self {
        for address in more {
            if !self.controllers.contains(address) && self.controllers.len() < MOST_CONTROLLERS {
                self.controllers.push(address.clone());
            }
        }
        self
    }
}

/// What `node:doctor` found, one thing a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Finding {
    /// What was looked at: `kernel`, `cgroup`, `overlayfs`, …
    pub check: String,
    /// How it is.
    pub state: FindingState,
    /// What was found, and what to do if it is wrong.
    pub text: String,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FindingState {
    /// As it should be.
    Fine,
    /// It works, but something is lost by it.
    Warning,
    /// Berth does not work here until it is changed.
    Failing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_went_and_nothing_else_is_one() {
        let token = JoinToken { secret: "ab".repeat(32), ca_sha256: "01".repeat(32) };
        assert_eq!(JoinToken::parse(&format!(" {token}\n")), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("abab"));
        let short = format!("berthjoin-{}-{}", "ab".repeat(31), "01".repeat(32));
        for wrong in ["", "berthjoin-", "berthjoin--", &short, &token.to_string().to_uppercase()] {
            let refusal = JoinToken::parse(wrong).expect_err("refused");
            assert!(refusal.contains("node:token"), "{refusal}");
        }
    }

    #[test]
    fn a_third_of_the_time_is_enough() {
        let validity = Validity { issued_ms: 100, expires_ms: 400 };
        assert!(!validity.is_renewal_due(199));
        assert!(validity.is_renewal_due(200));
        assert!(Validity { issued_ms: i64::MIN, expires_ms: i64::MAX }.is_renewal_due(i64::MAX));
    }

    #[test]
    fn addresses_are_kept_once_and_not_without_end() {
        let known = Membership {
            node: NodeName::parse("a").expect("valid"),
            subnet: "10.208.0.0/20".to_owned(),
            controllers: vec!["a:1".to_owned()],
            validity: Validity::default(),
        };
        let many: Vec<String> = (0..40).map(|n| format!("b:{n}")).collect();
        let now = known.with_controllers(&["a:1".to_owned()]).with_controllers(&many);
        assert_eq!(now.controllers.len(), MOST_CONTROLLERS);
        assert_eq!(now.controllers[0], "a:1");
    }
}
