//! Failures of ACME in words: what the server said, and what to do.
//!
//! In: an error of the library or of the order. Out: one text. Pure. Types are those of RFC 8555 §6.7.

use instant_acme::{Error, Problem};

const PREFIX: &str = "urn:ietf:params:acme:error:";

/// An order that did not give a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// For people.
    pub(super) text: String,
    /// The server does not want to be asked for so long, in seconds.
    pub(super) retry_after_secs: Option<u64>,
    /// The account is not known there any more.
    pub(super) no_account: bool,
    /// Names that could not be proved, if it is because of those.
    pub(super) bad: Vec<String>,
}

impl Failure {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), retry_after_secs: None, no_account: false, bad: Vec::new() }
    }
}

/// Of an error; `retry_after_secs` is what the server last said.
pub(super) fn failure(error: &Error, retry_after_secs: Option<u64>) -> Failure {
    let Error::Api(problem) = error else {
        return Failure::new(match error {
            Error::Json(_) => {
                format!(
                    "the ACME server answered something that is no ACME ({error}); is its URL that of a directory?"
                )
            }
            Error::Timeout(_) => {
                "the ACME server did not decide in time; it is tried again by itself".to_owned()
            }
            other => other.to_string(),
        });
    };
    let kind = kind(problem);
    Failure {
        text: words(problem, None),
        retry_after_secs: (kind == "rateLimited").then_some(retry_after_secs.unwrap_or(3600)),
        no_account: kind == "accountDoesNotExist",
        bad: match kind {
            "rejectedIdentifier" | "unsupportedIdentifier" | "caa" => named(problem),
            _ => Vec::new(),
        },
    }
}

/// The names that a problem is about, if it says so (RFC 8555 §6.7.1).
fn named(problem: &Problem) -> Vec<String> {
    let subs = problem.subproblems.iter().filter_map(|sub| sub.identifier.as_ref());
    subs.map(|identifier| identifier.authorized(false).to_string()).collect()
}

fn kind(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.strip_prefix(PREFIX).unwrap_or(kind)
}

/// What a server said, of a name if it was about one, and what to do.
pub(super) fn words(problem: &Problem, name: Option<&str>) -> String {
    let kind = kind(problem);
    let mut text = name.map_or_else(String::new, |name| format!("{name}: "));
    let detail = problem.detail.as_deref().map(safe).filter(|detail| !detail.is_empty());
    text.push_str(&detail.unwrap_or_else(|| "the ACME server refused".to_owned()));
    if !kind.is_empty() {
        text.push_str(&format!(" ({})", safe(kind)));
    }
    for sub in problem.subproblems.iter().take(10) {
        let name = sub.identifier.as_ref().map(|id| id.authorized(false).to_string()).unwrap_or_default();
        let detail = sub.detail.as_deref().map(safe).unwrap_or_default();
        text.push_str(&format!("; {}: {detail}", safe(&name)));
    }
    if let Some(advice) = advice(kind) {
        text.push_str(". ");
        text.push_str(advice);
    }
    text
}

fn advice(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "rateLimited" => {
            "Wait until the server's limit is over, Berth tries again by itself; to try things out use: \
             letsencrypt:set server staging"
        }
        "caa" => {
            "A CAA record of the domain does not allow this CA: add one that does, such as 0 issue \"letsencrypt.org\", \
             or take the others away"
        }
        "connection" | "unauthorized" | "tls" | "incorrectResponse" => {
            "The domain must lead to this machine from the Internet: look at its A and AAAA records, and that port 80 \
             (HTTP-01) or 443 (TLS-ALPN-01) reaches Berth"
        }
        "dns" | "dnssec" => {
            "The domain cannot be resolved: make an A or AAAA record that leads to this machine, or for DNS-01 look at \
             what the provider did"
        }
        "rejectedIdentifier" | "unsupportedIdentifier" => {
            "This CA signs no such name: take the domain away from the app, or use another CA with letsencrypt:set server"
        }
        "externalAccountRequired" => {
            "This CA wants an account of its own: set letsencrypt:set --global eab-key-id and eab-key as it shows them"
        }
        "invalidContact" | "unsupportedContact" => "Set another address: letsencrypt:set --global email",
        "userActionRequired" => {
            "Read what its operator wants at the address above, then: letsencrypt:auto-renew"
        }
        "serverInternal" | "badNonce" => "That is the server's own fault: Berth tries again by itself",
        _ => return None,
    })
}

/// Other people's text: one line, not too long, no control characters.
pub(super) fn safe(text: &str) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect();
    flat.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, detail: &str) -> Problem {
        serde_json::from_value(serde_json::json!({ "type": format!("{PREFIX}{kind}"), "detail": detail }))
            .expect("a problem document")
    }

    #[test]
    fn the_servers_words_come_with_what_to_do() {
        let caa = words(&problem("caa", "CAA record for a.test prevents issuance"), Some("a.test"));
        assert!(caa.starts_with("a.test: CAA record for a.test prevents issuance (caa). "), "{caa}");
        assert!(caa.contains("0 issue"), "{caa}");
        let odd = words(&problem("strange", "a\nb\u{1b}[31m"), None);
        assert_eq!(odd, "a b [31m (strange)");
    }

    #[test]
    fn a_rate_limit_says_when_to_come_again() {
        let limited = Error::Api(problem("rateLimited", "too many certificates already issued"));
        assert_eq!(failure(&limited, Some(7200)).retry_after_secs, Some(7200));
        assert_eq!(failure(&limited, None).retry_after_secs, Some(3600));
        assert!(failure(&limited, None).text.contains("staging"));
        assert!(failure(&Error::Api(problem("accountDoesNotExist", "")), None).no_account);
        assert_eq!(failure(&Error::Api(problem("dns", "x")), Some(1)).retry_after_secs, None);
    }
}
