//! Who leads: one key in etcd, bound to a lease that its holder renews.
//!
//! In: what a controller says of itself. Out: who is there and who leads, and [`Leadership`], which ends when the lease may have
//! ended by our own clock. A leader that is stopped, paused or cut off is refused by etcd at its next write all the same
//! ([`super::writer`]); the clock only makes it stop sooner.

use super::client::CallError;
use super::wire::{Comparison, Lease, Number, Op, Put, Range, RangeAnswer, Streamed, Txn, TxnAnswer};
use super::{Etcd, PATIENCE};
use crate::store::StoreError;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a controller that follows asks who leads.
const ASK: Duration = Duration::from_millis(300);

/// What a controller says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Host name or address where the others and their users reach it.
    pub host: String,
    /// The port of its API.
    pub api: u16,
    /// The port of its SSH server.
    pub ssh: u16,
    /// The port where nodes reach it.
    #[serde(default)]
    pub cluster: Option<u16>,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Since when it is there, in milliseconds of the Unix epoch.
    #[serde(default)]
    pub since_ms: i64,
}

impl Controller {
    /// How it is called.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}:{}", self.host, self.api)
    }

    /// Where one of its ports is dialled.
    #[must_use]
    pub fn at(&self, port: u16) -> String {
        berth_wire::host_port(&self.host, port)
    }
}

/// A controller's place among the others: a lease that is renewed until this is dropped.
#[derive(Debug)]
pub struct Member {
    etcd: Etcd,
    controller: Controller,
    lease: i64,
    lost: CancellationToken,
    renewing: tokio::task::JoinHandle<()>,
}

/// The right to write. `lost` fires when it may be another's.
#[derive(Clone, Debug)]
pub struct Leadership {
    etcd: Etcd,
    lease: i64,
    created: i64,
    lost: CancellationToken,
}

impl Leadership {
    /// Fires when another may lead.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    pub(super) fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    pub(super) fn term(&self) -> (i64, i64) {
        (self.lease, self.created)
    }
}

impl Etcd {
    /// Who leads just now, and when that began (a revision that only grows).
    pub async fn leader(&self) -> Result<Option<Controller>, StoreError> {
        let answer = self.range(Range::one(self.space.beside("leader"))).await?;
        Ok(answer.kvs.first().and_then(|one| serde_json::from_slice(&one.value.0).ok()))
    }

    /// Every controller that is there, in the order of their names.
    pub async fn controllers(&self) -> Result<Vec<Controller>, StoreError> {
        let answer = self.range(Range::prefix(&self.space.beside("controllers/"))).await?;
        Ok(answer.kvs.iter().filter_map(|one| serde_json::from_slice(&one.value.0).ok()).collect())
    }

    async fn range(&self, range: Range) -> Result<RangeAnswer, StoreError> {
        self.client.call("kv/range", &range, PATIENCE).await.map_err(|error| self.error(error))
    }

    /// Takes a place among the controllers.
    pub async fn join(&self, controller: Controller) -> Result<Member, StoreError> {
        let ttl = i64::try_from(self.lease.as_secs()).unwrap_or(i64::MAX);
        let asked = Instant::now();
        let lease = Lease { id: Number(0), ttl: Number(ttl) };
        let granted: Lease =
            self.client.call("lease/grant", &lease, PATIENCE).await.map_err(|error| self.error(error))?;
        let put = Put {
            key: self.space.beside(&format!("controllers/{}", controller.name())).into(),
            value: json(&controller),
            lease: Some(granted.id),
        };
        let put = Txn { success: vec![Op::Put(put)], ..Txn::default() };
        let done = self.client.call::<TxnAnswer>("kv/txn", &put, PATIENCE).await;
        done.map_err(|error| self.error(error))?;
        let lost = CancellationToken::new();
        let renewing = tokio::spawn(renew(self.clone(), granted.id, asked, lost.clone()));
        Ok(Member { etcd: self.clone(), controller, lease: granted.id.0, lost, renewing })
    }
}

impl Member {
    /// Fires when the others may believe us gone.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Tries to lead. `Err`: who leads instead, if that is known.
    pub async fn try_lead(&self) -> Result<Result<Leadership, Option<Controller>>, StoreError> {
        let (etcd, space) = (&self.etcd, &self.etcd.space);
        let key = space.beside("leader");
        let lease = Some(Number(self.lease));
        let leader = Put { key: key.as_str().into(), value: json(&self.controller), lease };
        let value = format!("{:016x}:{:020}", self.lease, 0);
        let term = Put { key: space.beside("term").into(), value: value.into(), lease: None };
        let txn = Txn {
            compare: vec![Comparison::created(key.clone(), 0)],
            success: vec![Op::Put(leader), Op::Put(term)],
            failure: vec![Op::Range(Range::one(key))],
        };
        let answer: Result<TxnAnswer, _> = etcd.client.call("kv/txn", &txn, PATIENCE).await;
        let answer = match answer {
            Err(CallError::Refused { text, .. }) if text.contains("lease not found") => {
                self.lost.cancel();
                return Ok(Err(None));
            }
            other => other.map_err(|error| etcd.error(error))?,
        };
        let mine =
            |created| Leadership { etcd: etcd.clone(), lease: self.lease, created, lost: self.lost.clone() };
        if answer.succeeded {
            return Ok(Ok(mine(answer.header.revision.0)));
        }
        let found = answer.responses.iter().filter_map(|one| one.response_range.as_ref());
        let found = found.flat_map(|range| &range.kvs).next();
        // An earlier try of ours may have been carried out, unheard.
        let ours = found.filter(|found| found.lease.0 == self.lease);
        if let Some(ours) = ours {
            return Ok(Ok(mine(ours.create_revision.0)));
        }
        Ok(Err(found.and_then(|found| serde_json::from_slice(&found.value.0).ok())))
    }

    /// As if this process were stopped.
    #[cfg(test)]
    pub(super) fn stop_renewing(&self) {
        self.renewing.abort();
    }

    /// How long to wait before asking again.
    #[must_use]
    pub fn pause(&self) -> Duration {
        ASK
    }

    /// Gives the place up, so that another leads at once.
    pub async fn leave(self) {
        self.renewing.abort();
        let lease = Lease { id: Number(self.lease), ttl: Number(0) };
        let call = self.etcd.client.call::<serde_json::Value>("lease/revoke", &lease, Duration::from_secs(2));
        if let Err(error) = call.await {
            tracing::warn!(%error, "the lease could not be given back; another controller leads once it has run out");
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// Renews a lease until it is lost: etcd does not know it any more, or it has not been renewed for its whole time.
async fn renew(etcd: Etcd, id: Number, granted: Instant, lost: CancellationToken) {
    let (every, mut held_until) = (etcd.lease / 4, granted + etcd.lease);
    loop {
        tokio::time::sleep_until((Instant::now() + every).min(held_until)).await;
        let asked = Instant::now();
        if asked >= held_until {
            break;
        }
        let lease = serde_json::json!({ "ID": id });
        let call = etcd.client.call::<Streamed<Lease>>("lease/keepalive", &lease, held_until - asked);
        match call.await {
            Ok(answer) if answer.result.ttl.0 > 0 => held_until = asked + etcd.lease,
            Ok(_) => break,
            Err(error) => tracing::warn!(%error, "the lease could not be renewed"),
        }
    }
    lost.cancel();
}

fn json(controller: &Controller) -> super::wire::Bytes {
    super::wire::Bytes(serde_json::to_vec(controller).expect("it has text keys only"))
}
