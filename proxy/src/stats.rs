//! Counts of an app's requests, kept by each thread for itself and summed when somebody looks.
//!
//! In: what a finished request was. Out: [`Totals`] since the proxy started. A thread only writes its own [`Slot`], with
//! plain loads and stores: no locked instruction and no cache line that another thread writes. An app without traffic
//! has no slots.

use berth_model::traffic::{LATENCY_BUCKETS, Latencies, latency_bucket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Status codes that are counted one by one (RFC 9110 §15 and the IANA registry); others are counted by their first digit.
const CODES: [u16; 61] = [
    100, 101, 103, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308,
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422,
    423, 424, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 507, 508, 510, 511,
];
/// [`CODES`], then one for each first digit from 1 on (5 for all that is above 599), then one for no answer.
const PLACES: usize = CODES.len() + 6;
const NO_ANSWER: usize = PLACES - 1;

/// Where each status is counted.
static PLACE: [u8; 600] = places();

#[expect(clippy::cast_possible_truncation, clippy::as_conversions, reason = "67 places fit in a byte")]
const fn places() -> [u8; 600] {
    let mut places = [NO_ANSWER as u8; 600];
    let mut status = 100;
    while status < 600 {
        places[status] = (CODES.len() + status / 100 - 1) as u8;
        status += 1;
    }
    let mut at = 0;
    while at < CODES.len() {
        places[CODES[at] as usize] = at as u8;
        at += 1;
    }
    places
}

fn place(status: u16) -> usize {
    PLACE.get(usize::from(status)).map_or(CODES.len() + 4, |place| usize::from(*place))
}

/// A count that one thread writes and any may read.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one thread counted of one app. Aligned, so that no two threads write one cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Slot {
    started: Count,
    ended: Count,
    received: Count,
    sent: Count,
    aborted: Count,
    retries: Count,
    connect_failures: Count,
    total_us: Count,
    first_us: Count,
    /// Answers to safe methods (RFC 9110 §9.2.1) and to others.
    answers: [[Count; PLACES]; 2],
    total: [Count; LATENCY_BUCKETS],
    first: [Count; LATENCY_BUCKETS],
}

fn counts<const N: usize>() -> [Count; N] {
    std::array::from_fn(|_| Count::default())
}

impl Slot {
    fn new() -> Self {
        let zero = Count::default;
        Self {
            started: zero(),
            ended: zero(),
            received: zero(),
            sent: zero(),
            aborted: zero(),
            retries: zero(),
            connect_failures: zero(),
            total_us: zero(),
            first_us: zero(),
            answers: [counts(), counts()],
            total: counts(),
            first: counts(),
        }
    }
}

/// One app's counts since it came into the route table.
#[derive(Debug)]
pub(crate) struct Stats {
    slots: Box<[OnceLock<Arc<Slot>>]>,
}

/// One request or tunnel under way, until dropped.
#[derive(Debug)]
pub(crate) struct Account {
    slot: Arc<Slot>,
}

/// What is counted of a finished request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Finished {
    /// Its method changes nothing (RFC 9110 §9.2.1).
    pub(crate) safe: bool,
    /// What the client got; 0 for nothing.
    pub(crate) status: u16,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) total_us: u64,
    /// From the request's head to the app's first byte, if there was one.
    pub(crate) first_us: Option<u64>,
    /// Backends or connections tried.
    pub(crate) attempts: u32,
    pub(crate) connect_failures: u32,
    /// The answer was cut short.
    pub(crate) aborted: bool,
}

impl Stats {
    pub(crate) fn new(threads: usize) -> Self {
        Self { slots: (0..threads).map(|_| OnceLock::new()).collect() }
    }

    /// A request or tunnel begins on `thread`, which must be the one that calls.
    pub(crate) fn enter(&self, thread: usize) -> Account {
        let slot = match self.slots.get(thread) {
            Some(slot) => slot.get_or_init(|| Arc::new(Slot::new())).clone(),
            None => Arc::new(Slot::new()), // a thread that does not exist counts for nobody
        };
        slot.started.add(1);
        Account { slot }
    }

    /// Everything up to now; `None` if nothing ever came.
    pub(crate) fn totals(&self) -> Option<Totals> {
        let mut totals = None;
        for slot in self.slots.iter().filter_map(OnceLock::get) {
            totals.get_or_insert_with(Totals::default).add(slot);
        }
        totals
    }
}

impl Account {
    /// Counts the request.
    pub(crate) fn finished(&self, request: &Finished) {
        let slot = &*self.slot;
        slot.answers[usize::from(!request.safe)][place(request.status)].add(1);
        slot.received.add(request.received);
        slot.sent.add(request.sent);
        slot.total[latency_bucket(request.total_us)].add(1);
        slot.total_us.add(request.total_us);
        if let Some(first_us) = request.first_us {
            slot.first[latency_bucket(first_us)].add(1);
            slot.first_us.add(first_us);
        }
        if request.aborted {
            slot.aborted.add(1);
        }
        if request.attempts > 1 {
            slot.retries.add(u64::from(request.attempts - 1));
        }
        if request.connect_failures > 0 {
            slot.connect_failures.add(u64::from(request.connect_failures));
        }
    }

    /// Counts bytes that a tunnel moved.
    pub(crate) fn moved(&self, received: u64, sent: u64) {
        self.slot.received.add(received);
        self.slot.sent.add(sent);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.slot.ended.add(1);
    }
}

/// The sum over all threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    started: u64,
    ended: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) aborted: u64,
    pub(crate) retries: u64,
    pub(crate) connect_failures: u64,
    pub(crate) total_us: u64,
    pub(crate) first_us: u64,
    answers: [[u64; PLACES]; 2],
    pub(crate) total: Latencies,
    pub(crate) first: Latencies,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            started: 0,
            ended: 0,
            received: 0,
            sent: 0,
            aborted: 0,
            retries: 0,
            connect_failures: 0,
            total_us: 0,
            first_us: 0,
            answers: [[0; PLACES]; 2],
            total: Latencies::default(),
            first: Latencies::default(),
        }
    }
}

impl Totals {
    fn add(&mut self, slot: &Slot) {
        let each: [(&mut u64, &Count); 9] = [
            (&mut self.ended, &slot.ended), // first: what begins meanwhile must not seem to have ended
            (&mut self.started, &slot.started),
            (&mut self.received, &slot.received),
            (&mut self.sent, &slot.sent),
            (&mut self.aborted, &slot.aborted),
            (&mut self.retries, &slot.retries),
            (&mut self.connect_failures, &slot.connect_failures),
            (&mut self.total_us, &slot.total_us),
            (&mut self.first_us, &slot.first_us),
        ];
        each.into_iter().for_each(|(sum, count)| *sum = sum.wrapping_add(count.get()));
        let many = |sums: &mut [u64], counts: &[Count]| {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count.get());
        };
        many(&mut self.answers[0], &slot.answers[0]);
        many(&mut self.answers[1], &slot.answers[1]);
        many(&mut self.total.0, &slot.total);
        many(&mut self.first.0, &slot.first);
    }

    /// Requests and tunnels that began and have not ended.
    pub(crate) fn in_flight(&self) -> u64 {
        self.started.saturating_sub(self.ended)
    }

    /// Anything moved, ended or began since `before`.
    pub(crate) fn differs(&self, before: &Self) -> bool {
        (self.started, self.ended, self.received, self.sent)
            != (before.started, before.ended, before.received, before.sent)
    }

    /// Answers that there are: whether the method was safe, the code (`2xx` for one that has no name, `none` for no
    /// answer) and how many.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (bool, String, u64)> {
        self.answers.iter().zip([true, false]).flat_map(|(answers, safe)| {
            let some = answers.iter().enumerate().filter(|(_, count)| **count > 0);
            some.map(move |(place, count)| (safe, name(place), *count))
        })
    }

    /// Answers by the first digit of their status; first those that got none.
    pub(crate) fn classes(&self) -> [u64; 6] {
        let mut classes = [0; 6];
        for answers in &self.answers {
            for (place, count) in answers.iter().enumerate() {
                classes[class(place)] += count;
            }
        }
        classes
    }
}

fn class(place: usize) -> usize {
    match CODES.get(place) {
        Some(code) => usize::from(code / 100),
        None if place == NO_ANSWER => 0,
        None => place - CODES.len() + 1,
    }
}

fn name(place: usize) -> String {
    match CODES.get(place) {
        Some(code) => code.to_string(),
        None if place == NO_ANSWER => "none".to_owned(),
        None => format!("{}xx", class(place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_place() {
        let named = |status| name(place(status));
        assert_eq!([200, 404, 101, 511].map(named), ["200", "404", "101", "511"]);
        assert_eq!([199, 299, 477, 599, 600, 999].map(named), ["1xx", "2xx", "4xx", "5xx", "5xx", "5xx"]);
        assert_eq!([0, 99].map(named), ["none", "none"]);
        assert!((0..1000).all(|status| place(status) < PLACES));
        assert_eq!(
            [0, 101, 199, 204, 299, 304, 404, 503, 777].map(|status| class(place(status))),
            [0, 1, 1, 2, 2, 3, 4, 5, 5]
        );
    }

    #[test]
    fn threads_add_up() {
        let stats = Stats::new(2);
        assert_eq!(stats.totals(), None);
        let open = stats.enter(0);
        for thread in 0..2 {
            let account = stats.enter(thread);
            account.finished(&Finished {
                safe: thread == 0,
                status: 200,
                received: 1,
                sent: 10,
                total_us: 300,
                first_us: Some(200),
                attempts: 2,
                ..Finished::default()
            });
        }
        let totals = stats.totals().expect("something came");
        assert_eq!((totals.in_flight(), totals.received, totals.sent, totals.retries), (1, 2, 20, 2));
        assert_eq!(totals.classes(), [0, 0, 2, 0, 0, 0]);
        assert_eq!((totals.total.count(), totals.total_us, totals.first_us), (2, 600, 400));
        let answers: Vec<_> = totals.answers().collect();
        assert_eq!(answers, [(true, "200".to_owned(), 1), (false, "200".to_owned(), 1)]);
        drop(open);
        assert_eq!(stats.totals().expect("something came").in_flight(), 0);
        drop(stats.enter(9)); // nobody's
    }
}
