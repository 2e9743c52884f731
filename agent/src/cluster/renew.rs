//! The next certificate, in time.
//!
//! In: how old the present one is. Out: a new key and a certificate for it, in one file; the old ones are used until that is in place, and
//! the controller takes both until the new one is first shown.

use super::join::request_for;
use super::{Link, node_file, write_private};
use crate::node::now_ms;
use anyhow::Context;
use berth_model::cluster::{MembershipAnswer, RenewAnswer, RenewRequest, Validity};
use http::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it is asked where controllers are now.
const LOOK: Duration = Duration::from_secs(10 * 60);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(60);
/// Whatever a controller says of how long its certificates are good, it is not asked without end.
const LEAST: Duration = Duration::from_secs(1);

/// Renews whenever a third of a certificate's time has passed, until `stop`.
pub(super) async fn keep(link: Arc<Link>, stop: CancellationToken) {
    loop {
        let pause = match look(&link).await {
            Ok(()) => pause(link.membership().validity, now_ms()),
            Err(error) => {
                tracing::info!("cannot ask the controller for what is new: {error:#}");
                AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Until the next look: at the latest when it is time for the next certificate.
fn pause(validity: Validity, now_ms: i64) -> Duration {
    let due = u64::try_from(validity.renewal_ms().saturating_sub(now_ms)).unwrap_or(0);
    Duration::from_millis(due).clamp(LEAST, LOOK)
}

async fn look(link: &Arc<Link>) -> anyhow::Result<()> {
    if link.membership().validity.is_renewal_due(now_ms()) {
        renew_now(link).await?;
    }
    let answer: MembershipAnswer = link.client().get(&format!("/node/v1/{}/membership", link.node())).await?;
    link.change(|membership| membership.with_controllers(&answer.controllers))?;
    Ok(())
}

/// Gets the next certificate now.
pub(crate) async fn renew_now(link: &Arc<Link>) -> anyhow::Result<()> {
    let (key, request) = request_for(&link.node())?;
    let path = format!("/node/v1/{}/certificate", link.node());
    let answer: RenewAnswer =
        link.client().json(Method::POST, &path, Some(&RenewRequest { request })).await?;
    let file = node_file(link.data());
    write_private(&file, format!("{}{}", key.serialize_pem(), answer.certificate).as_bytes())
        .with_context(|| format!("cannot write {}", file.display()))?;
    link.renewed(answer.validity)?;
    tracing::info!("this node has a new certificate");
    Ok(())
}

/// The controller's clock minus this machine's, in milliseconds.
pub(super) async fn skew_ms(link: &Arc<Link>) -> anyhow::Result<i64> {
    let before = now_ms();
    let answer: MembershipAnswer = link.client().get(&format!("/node/v1/{}/membership", link.node())).await?;
    let now = now_ms();
    Ok(answer.now_ms - (before + (now - before) / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_the_second_in_which_a_third_has_passed() {
        let validity = Validity { issued_ms: 0, expires_ms: 3 * 86_400_000 };
        let at = |now_ms| pause(validity, now_ms);
        assert_eq!(at(0), LOOK);
        assert_eq!(at(86_400_000 - 5_000), Duration::from_secs(5));
        assert_eq!(at(86_400_000), LEAST, "due, and asked at once after a start");
        assert_eq!(at(i64::MAX), LEAST);
        assert_eq!(pause(Validity::default(), 0), LEAST);
    }
}
