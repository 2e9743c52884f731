//! Telling a webhook.
//!
//! In: its address and a notice. Out: told (any 2xx), or why not. 10 s at most; no redirect is followed.

use super::Alert;
use crate::certs::fetch::Fetch;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_model::alerts::Notice;
use berth_model::logs::DrainUrl;
use bytes::Bytes;
use http::{Request, header};
use ring::hmac;
use std::time::Duration;

/// For the whole exchange.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn send(alert: &Alert, notice: &Notice) -> Result<(), String> {
    let body = serde_json::to_vec(notice).map_err(|error| error.to_string())?;
    let mut request = Request::post(address(&alert.url))
        .header(header::CONTENT_TYPE, "application/json")
        .header("berth-alert", &notice.alert);
    if let Some((user, password)) = alert.url.user() {
        request = request.header(
            header::AUTHORIZATION,
            format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
        );
    }
    if let Some(secret) = &alert.secret {
        request =
            request.header("berth-signature", format!("sha256={}", signature(secret.as_bytes(), &body)));
    }
    let request = request.body(Bytes::from(body)).map_err(|error| error.to_string())?;
    let fetch = Fetch::new(None).map_err(|error| error.to_string())?;
    let answer = fetch.send(request, PATIENCE).await.map_err(|error| error.to_string())?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("it answered {}", answer.status())) }
}

/// Without user and password.
fn address(url: &DrainUrl) -> String {
    let scheme = if url.is_tls() { "https" } else { "http" };
    format!("{scheme}://{}{}", url.authority(), url.path())
}

/// HMAC with SHA-256 (RFC 2104).
fn signature(key: &[u8], message: &[u8]) -> String {
    hex::encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 §4.3 and §4.7.
    #[test]
    fn signatures_are_hmac_sha256() {
        assert_eq!(
            signature(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            signature(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
