//! How many requests an address may make: a token bucket for each client and app.
//!
//! In: who asks whose app, and the time. Out: yes, or how long to wait. Memory is bounded whatever number of addresses
//! ask: a bucket that is full again is the same as none, and where there is no room one that is nearly so goes.

use berth_model::policy::Rate;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Parts that are locked apart.
const SHARDS: usize = 64;
/// Buckets of one part: 64 × 4096 of them take about 16 MiB.
const PER_SHARD: usize = 4096;
/// Buckets that are looked at for one to forget.
const SAMPLE: usize = 16;

/// Who asks: an IPv4 address, or the 64 bits of an IPv6 one that a network has (RFC 4291 §2.5.4: the rest the client
/// chooses), and whose app.
type Asker = (u64, u32, bool);

/// All buckets, each as the time at which it is full again, in microseconds.
#[derive(Debug)]
pub(crate) struct Limiter {
    shards: Box<[Mutex<HashMap<Asker, u64>>]>,
    hasher: RandomState,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

fn asker(app: u32, client: IpAddr) -> Asker {
    match client.to_canonical() {
        IpAddr::V4(four) => (u64::from(u32::from(four)), app, false),
        IpAddr::V6(six) => (u64::try_from(u128::from(six) >> 64).unwrap_or(0), app, true),
    }
}

impl Limiter {
    /// Takes a token at `now` (microseconds of some clock). `Err` is how many seconds until there is one.
    pub(crate) fn take(&self, rate: &Rate, app: u32, client: IpAddr, now: u64) -> Result<(), u32> {
        let asker = asker(app, client);
        let hash = usize::try_from(self.hasher.hash_one(asker) % SHARDS as u64).unwrap_or(0);
        let Some(shard) = self.shards.get(hash) else { return Ok(()) };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        // The generic cell rate algorithm: a request moves the time at which the bucket is full again on by `step`.
        let step = (rate.per_ms * 1000 / u64::from(rate.requests.max(1))).max(1);
        let room = step.saturating_mul(u64::from(rate.burst.max(1)));
        let full_at = shard.get(&asker).copied().unwrap_or(0).max(now);
        let next = full_at.saturating_add(step);
        if next > now.saturating_add(room) {
            let wait = next - now - room;
            return Err(u32::try_from(wait.div_ceil(1_000_000)).unwrap_or(u32::MAX));
        }
        if shard.len() >= PER_SHARD && !shard.contains_key(&asker) {
            make_room(&mut shard, now);
        }
        shard.insert(asker, next);
        Ok(())
    }
}

/// Forgets what is full again, else the one of some that will be first.
fn make_room(shard: &mut HashMap<Asker, u64>, now: u64) {
    let soonest = shard.iter().take(SAMPLE).min_by_key(|(_, full_at)| **full_at).map(|(asker, _)| *asker);
    let Some(soonest) = soonest else { return };
    if shard.get(&soonest).is_some_and(|full_at| *full_at <= now) {
        shard.retain(|_, full_at| *full_at > now);
    } else {
        shard.remove(&soonest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: Rate = Rate { requests: 10, per_ms: 1000, burst: 5 };

    fn client(n: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from(n))
    }

    #[test]
    fn a_burst_then_the_rate() {
        let limiter = Limiter::default();
        for _ in 0..5 {
            assert_eq!(limiter.take(&RATE, 1, client(1), 0), Ok(()));
        }
        assert_eq!(limiter.take(&RATE, 1, client(1), 0), Err(1));
        assert_eq!(limiter.take(&RATE, 1, client(2), 0), Ok(()), "another client");
        assert_eq!(limiter.take(&RATE, 2, client(1), 0), Ok(()), "another app");
        assert_eq!(limiter.take(&RATE, 1, client(1), 100_000), Ok(()));
        assert_eq!(limiter.take(&RATE, 1, client(1), 100_000), Err(1));
        let slow = Rate { requests: 1, per_ms: 3_600_000, burst: 1 };
        assert_eq!(limiter.take(&slow, 3, client(1), 0), Ok(()));
        assert_eq!(limiter.take(&slow, 3, client(1), 0), Err(3600));
    }

    #[test]
    fn one_network_is_one_client_and_memory_is_bounded() {
        let limiter = Limiter::default();
        let six = |text: &str| text.parse::<IpAddr>().expect("an address");
        for n in 0..5 {
            assert_eq!(limiter.take(&RATE, 1, six(&format!("2001:db8::{n}")), 0), Ok(()));
        }
        assert!(limiter.take(&RATE, 1, six("2001:db8::ffff"), 0).is_err());
        assert!(limiter.take(&RATE, 1, six("2001:db8:0:1::1"), 0).is_ok());
        for n in 0..400_000 {
            let _ = limiter.take(&RATE, 1, client(n), u64::from(n));
        }
        let kept: usize = limiter.shards.iter().map(|shard| shard.lock().expect("whole").len()).sum();
        assert!(kept <= SHARDS * PER_SHARD, "{kept}");
    }

    proptest! {
        /// However requests come, no more than the rate and one burst get through.
        #[test]
        fn never_more_than_rate_and_burst(gaps in prop::collection::vec(0_u64..400_000, 1..200)) {
            let limiter = Limiter::default();
            let (mut now, mut passed) = (0, 0_u64);
            for gap in gaps {
                now += gap;
                passed += u64::from(limiter.take(&RATE, 1, client(1), now).is_ok());
            }
            prop_assert!(passed <= 5 + now / 100_000, "{passed} in {now} us");
        }
    }
}
