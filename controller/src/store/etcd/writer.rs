//! The one who writes: transactions to etcd, in order, each once.
//!
//! In: a queue. Out: the answers, and what changed to those who watch. A call to etcd may be lost, or carried out late; so each
//! has a number, which it compares and raises, and whoever does not know what became of a call asks by the same number again.

use super::client::CallError;
use super::lead::Leadership;
use super::shape::{CONDITIONS, Shape, comparison, nested, together};
use super::wire::{Comparison, Op, OpAnswer, Put, Range, Txn, TxnAnswer};
use super::{Etcd, PATIENCE};
use crate::store::watch::Changes;
use crate::store::{Compare, Revision, StoreError, Write};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// Bytes of a question that is not too long for etcd, whatever it answers.
const ASKED: usize = 1 << 20;

/// What was asked for.
pub(super) struct Transaction {
    compare: Vec<Compare>,
    shape: Shape,
    reply: oneshot::Sender<Result<Option<Revision>, StoreError>>,
}

impl Transaction {
    pub(super) fn new(
        compare: Vec<Compare>,
        then: &[Write],
        reply: oneshot::Sender<Result<Option<Revision>, StoreError>>,
    ) -> Self {
        Self { compare, shape: Shape::of(then), reply }
    }

    fn parts(&self) -> (&[Compare], &Shape) {
        (&self.compare, &self.shape)
    }
}

/// What became of a call.
enum Outcome {
    /// Carried out; whether each one's conditions held, and the keys it changed. `None`: it was an earlier try that was, and
    /// the keys are not known.
    Done { revision: i64, held: Vec<bool>, changed: Option<Vec<String>> },
    /// Refused as a whole; nothing happened.
    Refused(CallError),
    /// Not known.
    Unknown(CallError),
    /// Another leads.
    Lost,
}

pub(super) struct Writer {
    etcd: Etcd,
    queue: mpsc::UnboundedReceiver<Transaction>,
    changes: Arc<Changes>,
    newest: Arc<AtomicI64>,
    lost: tokio_util::sync::CancellationToken,
    /// The lease that names our term, and the revision that made the leader's key.
    lease: i64,
    created: i64,
    /// The number of the last call.
    number: u64,
    /// Whether it is not known what became of that call.
    unsure: bool,
}

impl Writer {
    pub(super) fn new(
        leadership: &Leadership,
        queue: mpsc::UnboundedReceiver<Transaction>,
        changes: Arc<Changes>,
        newest: Arc<AtomicI64>,
    ) -> Self {
        let (etcd, lost) = (leadership.etcd().clone(), leadership.lost());
        let (lease, created) = leadership.term();
        Self { etcd, queue, changes, newest, lost, lease, created, number: 0, unsure: false }
    }

    pub(super) async fn run(mut self) {
        let lost = self.lost.clone();
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let first = lost.run_until_cancelled(self.queue.recv()).await;
                match first {
                    Some(Some(first)) => waiting.push_back(first),
                    Some(None) => return,
                    None => break,
                }
            }
            while let Ok(next) = self.queue.try_recv() {
                waiting.push_back(next);
            }
            match lost.run_until_cancelled(self.step(&mut waiting)).await {
                Some(true) => {}
                Some(false) | None => break,
            }
        }
        lost.cancel();
        self.queue.close();
        while let Ok(next) = self.queue.try_recv() {
            waiting.push_back(next);
        }
        // Their callers would be told so anyhow, when the queue is gone.
        waiting.into_iter().for_each(|one| answer(one, Err(StoreError::NotLeader)));
    }

    /// Carries out the first that wait. False: another leads.
    async fn step(&mut self, waiting: &mut VecDeque<Transaction>) -> bool {
        if self.unsure {
            match self.settle().await {
                Outcome::Done { .. } => {
                    self.unsure = false;
                    // It may have happened after its caller was told that this is not known.
                    self.changes.missed();
                }
                Outcome::Lost => return false,
                Outcome::Refused(error) | Outcome::Unknown(error) => {
                    for one in waiting.drain(..) {
                        answer(one, Err(self.etcd.error(error.clone())));
                    }
                    return true;
                }
            }
        }
        let count = together(waiting.iter().map(Transaction::parts)).max(1);
        let group: Vec<_> = waiting.drain(..count).collect();
        let outcome = self.carry_out(&group).await;
        if let Outcome::Refused(_) = &outcome
            && group.len() > 1
        {
            // One of them may be why: each by itself, then.
            let mut group = VecDeque::from(group);
            while let Some(one) = group.pop_front() {
                let outcome = self.carry_out(std::slice::from_ref(&one)).await;
                let (unknown, lost) =
                    (matches!(outcome, Outcome::Unknown(_)), matches!(outcome, Outcome::Lost));
                self.tell(vec![one], outcome);
                if lost {
                    return false;
                }
                if unknown {
                    group.into_iter().rev().for_each(|one| waiting.push_front(one));
                    return true;
                }
            }
            return true;
        }
        let lost = matches!(outcome, Outcome::Lost);
        self.tell(group, outcome);
        !lost
    }

    fn tell(&mut self, group: Vec<Transaction>, outcome: Outcome) {
        match outcome {
            Outcome::Done { revision, held, changed } => {
                self.newest.fetch_max(revision, Ordering::Relaxed);
                let revision = revision.unsigned_abs();
                match changed {
                    Some(keys) if keys.is_empty() => {}
                    Some(keys) => self.changes.publish(revision, keys),
                    None => self.changes.missed(),
                }
                for (one, held) in group.into_iter().zip(held) {
                    answer(one, Ok(held.then_some(revision)));
                }
            }
            Outcome::Refused(error) => {
                group.into_iter().for_each(|one| answer(one, Err(self.etcd.error(error.clone()))));
            }
            Outcome::Unknown(error) => {
                self.unsure = true;
                let store = self.etcd.shown.to_string();
                for one in group {
                    let (store, text) = (store.clone(), error.to_string());
                    answer(one, Err(StoreError::Unknown { store, text }));
                }
            }
            Outcome::Lost => {
                group.into_iter().for_each(|one| answer(one, Err(StoreError::NotLeader)));
            }
        }
    }

    fn numbered(&self, number: u64) -> String {
        format!("{:016x}:{number:020}", self.lease)
    }

    fn we_lead(&self) -> Comparison {
        Comparison::created(self.etcd.space.beside("leader"), self.created)
    }

    fn number_is(&self, number: u64) -> Comparison {
        Comparison::holds(self.etcd.space.beside("term"), self.numbered(number))
    }

    fn mark(&self, key: &str, number: u64) -> Op {
        let (key, value) = (self.etcd.space.beside(key).into(), self.numbered(number).into());
        Op::Put(Put { key, value, lease: None })
    }

    fn questions(&self) -> Vec<Op> {
        let one = |key: &str| Op::Range(Range::one(self.etcd.space.beside(key)));
        let outcomes = Op::Range(Range::prefix(&self.etcd.space.beside("outcome/")));
        vec![one("leader"), one("term"), outcomes]
    }

    async fn carry_out(&mut self, group: &[Transaction]) -> Outcome {
        let number = self.number + 1;
        let mut success = Vec::new();
        for (index, one) in group.iter().enumerate() {
            let mut compare = one.compare.as_slice();
            if compare.len() > CONDITIONS {
                // Nobody else writes, and that it is still so is compared with the number.
                match self.all_hold(compare).await {
                    Ok(true) => compare = &[],
                    Ok(false) => {
                        return Outcome::Done { revision: 0, held: vec![false], changed: Some(Vec::new()) };
                    }
                    Err(error) => return Outcome::Refused(error),
                }
            }
            let Some(ops) = nested(one.shape.operations(&self.etcd.space)) else {
                let text = "it changes more keys at once than etcd takes; change less at a time".to_owned();
                return Outcome::Refused(CallError::Refused { code: 0, text });
            };
            let mut success_of_one = ops;
            if !compare.is_empty() {
                success_of_one.push(self.mark(&format!("outcome/{index:02}"), number));
            }
            let compare = compare.iter().map(|compare| comparison(&self.etcd.space, compare)).collect();
            success.push(Op::Txn(Txn { compare, success: success_of_one, failure: Vec::new() }));
        }
        success.push(self.mark("term", number));
        let compare = vec![self.we_lead(), self.number_is(number - 1)];
        let txn = Txn { compare, success, failure: self.questions() };
        let answered = match self.etcd.client.call::<TxnAnswer>("kv/txn", &txn, PATIENCE).await {
            Err(error)
                if error.too_long() && group.iter().map(|one| one.shape.bytes()).sum::<usize>() < ASKED =>
            {
                // It was carried out, and what it answered was too long. The second answer says the rest.
                let again = self.etcd.client.call::<TxnAnswer>("kv/txn", &txn, PATIENCE).await;
                again.map_err(|error| CallError::Silent(error.to_string()))
            }
            other => other,
        };
        match answered {
            Err(error @ CallError::Silent(_)) => {
                self.number = number;
                Outcome::Unknown(error)
            }
            Err(error) => Outcome::Refused(error),
            Ok(answer) if answer.succeeded => {
                self.number = number;
                let mut changed = Vec::new();
                let mut held = Vec::new();
                for (asked, answered) in txn.success.iter().zip(&answer.responses).take(group.len()) {
                    let (Op::Txn(asked), Some(answered)) = (asked, &answered.response_txn) else {
                        continue;
                    };
                    held.push(answered.succeeded);
                    if answered.succeeded {
                        self.collect(&asked.success, &answered.responses, &mut changed);
                    }
                }
                Outcome::Done { revision: answer.header.revision.0, held, changed: Some(changed) }
            }
            Ok(answer) => self.earlier(number, group, &answer),
        }
    }

    /// The answer says that the call does not follow the last one: an earlier try of it was carried out, or another leads.
    fn earlier(&mut self, number: u64, group: &[Transaction], answer: &TxnAnswer) -> Outcome {
        let Some((revision, outcomes)) = self.found(number, answer) else { return Outcome::Lost };
        self.number = number;
        let held = group.iter().enumerate().map(|(index, one)| {
            let key = self.etcd.space.beside(&format!("outcome/{index:02}")).into_bytes();
            one.compare.is_empty()
                || one.compare.len() > CONDITIONS
                || outcomes
                    .iter()
                    .any(|(at, value)| *at == key && *value == self.numbered(number).into_bytes())
        });
        Outcome::Done { revision, held: held.collect(), changed: None }
    }

    /// If we lead and this number was the last: the revision that wrote it, and the outcomes.
    #[allow(clippy::type_complexity)]
    fn found(&self, number: u64, answer: &TxnAnswer) -> Option<(i64, Vec<(Vec<u8>, Vec<u8>)>)> {
        let mut ranges = answer.responses.iter().filter_map(|one| one.response_range.as_ref());
        let leader = ranges.next()?.kvs.first()?;
        let term = ranges.next()?.kvs.first()?;
        let ours = leader.create_revision.0 == self.created;
        let outcomes = ranges.next()?.kvs.iter().map(|one| (one.key.0.clone(), one.value.0.clone()));
        (ours && term.value.0 == self.numbered(number).into_bytes())
            .then(|| (term.mod_revision.0, outcomes.collect()))
    }

    /// Raises the number past the call that is in doubt, so that it is carried out now or never.
    async fn settle(&mut self) -> Outcome {
        let number = self.number + 1;
        let below = Comparison::below(self.etcd.space.beside("term"), self.numbered(number));
        let txn = Txn {
            compare: vec![self.we_lead(), below],
            success: vec![self.mark("term", number)],
            failure: self.questions(),
        };
        let revision = match self.etcd.client.call::<TxnAnswer>("kv/txn", &txn, PATIENCE).await {
            Err(error @ CallError::Silent(_)) => return Outcome::Unknown(error),
            Err(error) => return Outcome::Refused(error),
            Ok(answer) if answer.succeeded => answer.header.revision.0,
            Ok(answer) => match self.found(number, &answer) {
                Some((revision, _)) => revision,
                None => return Outcome::Lost,
            },
        };
        self.number = number;
        Outcome::Done { revision, held: Vec::new(), changed: None }
    }

    async fn all_hold(&self, compare: &[Compare]) -> Result<bool, CallError> {
        for some in compare.chunks(CONDITIONS) {
            let compare = some.iter().map(|compare| comparison(&self.etcd.space, compare)).collect();
            let txn = Txn { compare, ..Txn::default() };
            if !self.etcd.client.call::<TxnAnswer>("kv/txn", &txn, PATIENCE).await?.succeeded {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The store's keys that these operations changed.
    fn collect(&self, asked: &[Op], answered: &[OpAnswer], changed: &mut Vec<String>) {
        for (op, answer) in asked.iter().zip(answered) {
            match op {
                Op::Put(put) => changed.extend(self.etcd.space.stored(&put.key.0)),
                Op::Range(_) => {
                    let found = answer.response_range.iter().flat_map(|range| &range.kvs);
                    changed.extend(found.filter_map(|found| self.etcd.space.stored(&found.key.0)));
                }
                Op::Delete(delete) => {
                    let removed = answer.response_delete_range.as_ref().is_some_and(|one| one.deleted.0 > 0);
                    if delete.range_end.is_none() && removed {
                        changed.extend(self.etcd.space.stored(&delete.key.0));
                    }
                }
                Op::Txn(txn) => {
                    let answers = answer.response_txn.as_ref().map_or(&[][..], |one| &one.responses);
                    self.collect(&txn.success, answers, changed);
                }
            }
        }
    }
}

fn answer(one: Transaction, answer: Result<Option<Revision>, StoreError>) {
    // A caller that went away no longer wants the answer; what it wrote stays written.
    let _ = one.reply.send(answer);
}
